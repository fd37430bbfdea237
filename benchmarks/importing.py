"""How long does the import take?

Against an import of the modules of the standard library that it brings with it: less than that no
import can take. Each is done by an interpreter of its own, whose own start is taken off; figures
are processor time, with all modules compiled before. Names are imported when they are first used,
so the package alone is next to nothing, and an executor the most that there is.
"""

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence

from harness import Row, find, run

NEEDED = "the standard library's part"
STATEMENTS = {
    "import retryexec": "import retryexec",
    "retryexec.retry": "from retryexec import RetryPolicy, retry",
    "retryexec.RetryingExecutor": "from retryexec import RetryingExecutor",
}


def measure(quick: bool) -> Iterator[Row]:
    """Yield rows of milliseconds."""
    for name, statement in STATEMENTS.items():
        listing = f"import sys; b = {{*sys.modules}}; {statement}; print(*{{*sys.modules}} - b)"
        modules = _python(listing).split()
        others = [module for module in modules if not module.startswith("retryexec")]
        needed = f"import {', '.join(sorted(others))}"
        taken = [
            [_seconds(code) * 1e3 for code in ("pass", needed, statement)]
            for _ in range(2 if quick else 21)
        ]
        pairs = [(base - start, ours - start) for start, base, ours in taken]
        base, ours = (statistics.median(figures) for figures in zip(*pairs, strict=True))
        ratio = statistics.median(ours / base for base, ours in pairs)
        note = f"{len(modules) - len(others)} modules of ours, {len(others)} others"
        yield Row(name, NEEDED, 1, base, "ms", 1.0)
        yield Row(name, "retryexec", 1, ours, "ms", ratio, note=note)


def answer(found: Sequence[Row]) -> str:
    """Say what the rows have found."""
    package, executor = (find(found, name) for name in (*STATEMENTS,)[::2])
    return (
        f"`import retryexec` takes {package.ratio:.2f} of the time of the standard library's "
        f"modules in it; with RetryingExecutor {executor.ratio:.2f}, and {executor.value:.0f} ms."
    )


def _python(code: str) -> str:
    # A coverage run that starts this would load modules into the interpreter before it is asked.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    environment = kept | {"PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)


def _seconds(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _python(code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    run(measure, answer, __doc__)
