"""Paths and commands as people are told to type them: short, and foldable."""

import shutil
import sys
from contextlib import suppress
from pathlib import Path


def short(path: str | Path) -> str:
    """Return *path* from the current directory, if it is below that."""
    with suppress(OSError, ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return str(path)


def with_short_paths(text: str) -> str:
    """Return *text* with the paths below the current directory made relative to it."""
    with suppress(OSError):
        here = str(Path.cwd())
        if here != "/":
            return text.replace(f"{here}/", "")
    return text


def width_of_stderr() -> int | None:
    """Return how many columns the terminal at standard error has; None if it is none."""
    return shutil.get_terminal_size().columns if sys.stderr.isatty() else None


def folded(units: list[str], width: int | None) -> str:
    """Return *units* as one command, on lines that a terminal does not break within an option.

    Args:
        units: what is to stay together.
        width: columns of the terminal; None for one line of any length.
    """
    if width is None or len(" ".join(units)) < width // 2:
        return " ".join(units)
    lines = ["", f"  {units[0]}"]
    for unit in units[1:]:
        if len(lines[-1]) + len(unit) + len("  \\") > width:
            lines[-1] += " \\"
            lines.append(f"    {unit}")
        else:
            lines[-1] += f" {unit}"
    return "\n".join(lines)
