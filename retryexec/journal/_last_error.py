"""The latest failure of a job on one line, as lists of many jobs tell it."""

from collections.abc import Sequence

from retryexec.journal._rows import ErrorText

_TAIL = 1200  # characters of a traceback in which its last lines are looked for
_OUR_NOTE = "retryexec: gave up after "  # follows what the exception said, in its traceback


def last_error(errors: Sequence[ErrorText]) -> str:
    """Return the latest failure on one line, ``ConnectionError: no route``, for lists of many."""
    if not errors or not errors[-1].type:
        return ""
    name, said = _told(errors[-1])
    return f"{name}: {said}" if name and said else name or said


def message_of(error: ErrorText) -> str:
    """Return what the exception said, on one line; of a traceback, what its end says."""
    return _told(error)[1]


def _told(error: ErrorText) -> tuple[str, str]:
    """Return the exception's name, if it is told, and what it said."""
    text = error.text.strip()
    # Formatted with its traceback, if it has one, of which the beginning may have been cut off.
    if not (
        text.startswith("Traceback ")
        or '\n  File "' in text
        or _names(text.partition("\n")[0], error.type)
    ):
        return error.type, " ".join(text.split())
    lines = text[-_TAIL:].splitlines() or [""]
    for number in range(len(lines) - 1, -1, -1):
        if _names(lines[number], error.type):
            name, _, said = lines[number].partition(":")
            rest = [line for line in lines[number + 1 :] if not line.startswith(_OUR_NOTE)]
            return name, " ".join(" ".join([said, *rest]).split())
    return "", " ".join(lines[-1].split())


def _names(line: str, name: str) -> bool:
    return line.partition(":")[0].rpartition(".")[2] == name.rpartition(".")[2]
