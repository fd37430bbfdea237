"""The latest failure of a job on one line, for lists of many."""

from collections.abc import Sequence

from retryexec.journal._rows import ErrorText


def last_error(errors: Sequence[ErrorText]) -> str:
    """Return the latest failure on one line; a traceback ends with what matters."""
    if not errors or not errors[-1].type:
        return ""
    name, text = errors[-1].type, errors[-1].text.strip()
    # Formatted with its traceback, if it has one, of which the beginning may have been cut off.
    if (
        text.startswith("Traceback ")
        or '\n  File "' in text
        or _names(text.partition("\n")[0], name)
    ):
        text = _end_of(text, name)
    else:
        text = f"{name}: {text}" if text else name
    return " ".join(text.split())


def _end_of(traceback: str, name: str) -> str:
    """Return the line of *traceback* that tells the exception."""
    lines = traceback.splitlines()
    return next((line for line in reversed(lines) if _names(line, name)), lines[-1])


def _names(line: str, name: str) -> bool:
    return line.partition(":")[0].rpartition(".")[2] == name.rpartition(".")[2]
