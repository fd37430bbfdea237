"""What all benchmarks share: alternating rounds, percentiles, rows, and the command line.

Figures of one run compare with each other and with nothing else: a shared machine is never as
fast twice. So peers take turns, round by round, and a ratio is the median of the rounds' ratios.
"""

import argparse
import gc
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import groupby
from pathlib import Path

OURS = "retryexec"
PEERS = ("more-executors", "tenacity", "stamina", "huey", "persist-queue")


@dataclass(frozen=True)
class Row:
    """One figure of one peer.

    Attributes:
        what: the question, in a few words; rows with the same words form a table.
        value: the figure, in *unit*.
        ratio: the figure over the baseline's, measured side by side; None if it has none.
        p99: the 99th percentile, where *value* is a median of many.
        note: what a reader must know to judge the figure.
        over: what *jobs* counts, where a plot has it below.
    """

    what: str
    peer: str
    jobs: int
    value: float
    unit: str
    ratio: float | None = None
    p99: float | None = None
    note: str = ""
    over: str = "jobs"

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, as HEADINGS name it."""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        p99 = "" if self.p99 is None else f"{figure(self.p99)} {self.unit}"
        value = f"{figure(self.value)} {self.unit}"
        return self.peer, f"{self.jobs:,}", value, p99, ratio, self.note


HEADINGS = ("peer", "jobs", "figure", "p99", "ratio", "note")


def figure(value: float) -> str:
    """Return *value* with three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def find(rows: Iterable[Row], what: str, peer: str = OURS) -> Row:
    """Return the row of *peer* with the most jobs, of the table that begins with *what*."""
    found = [row for row in rows if row.what.startswith(what) and row.peer == peer]
    return max(found, key=lambda row: row.jobs)


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest of *values* that *percent* of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


MOST_ROUNDS = int(os.environ.get("ROUNDS") or 1_000)
"""Rounds of each table at most: fewer say less, and take less time."""


def alternate(
    measures: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, tuple[float, float]]:
    """Take each of *measures* once per round; the first one named is the baseline.

    Returns:
        for each name, the median figure and the median ratio to the baseline of the same round.
    """
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(min(rounds, MOST_ROUNDS)):
        for name, measure in measures.items():
            gc.collect()  # nobody pays for the garbage of the one before
            figures[name].append(measure())
    baseline = next(iter(figures.values()))
    return {
        name: (
            statistics.median(taken),
            statistics.median(own / base for own, base in zip(taken, baseline, strict=True)),
        )
        for name, taken in figures.items()
    }


def rows(
    what: str,
    unit: str,
    jobs: int,
    measures: Mapping[str, Callable[[], float]],
    *,
    rounds: int,
    notes: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """Measure in alternating rounds, and make a row of each median."""
    for peer, (value, ratio) in alternate(measures, rounds).items():
        yield Row(what, peer, jobs, value, unit, ratio, note=(notes or {}).get(peer, ""))


def markdown(found: Iterable[Row]) -> Iterator[str]:
    """Yield *found* as lines of Markdown, a table for each question, without empty columns."""
    for what, table in groupby(found, key=lambda row: row.what):
        lines = [HEADINGS, *(row.cells() for row in table)]
        used = [column for column in zip(*lines, strict=True) if any(column[1:])]
        head, *body = zip(*used, strict=True)
        yield from ("", f"### {what}", "", _line(head), _line(["---"] * len(head)))
        yield from map(_line, body)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    """Return what this ran on and with: processor, cores, versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    versions = ", ".join(f"{name} {version(name)}" for name in (OURS, *PEERS))
    few = f"; at most {MOST_ROUNDS} rounds" if "ROUNDS" in os.environ else ""
    return (
        f"{cpu}, {os.cpu_count()} cores; {platform.system()}; "
        f"{platform.python_implementation()} {platform.python_version()}; {versions}{few}."
    )


def version(distribution: str) -> str:
    """Return the installed version of *distribution*."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def run(
    measure: Callable[[bool], Iterable[Row]],
    answer: Callable[[Sequence[Row]], str],
    question: str | None,
) -> None:
    """Be the command line of one benchmark: print its question, rows and answer, and the machine.

    Args:
        measure: takes whether to be quick, and yields the rows.
        answer: says in a sentence what the rows have found.
        question: what all of that is about.
    """
    parser = argparse.ArgumentParser(
        description=question, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few seconds; figures mean little")
    parser.add_argument("--json", type=Path, help="also write the rows into this file")
    options = parser.parse_args()
    print((question or "").strip())
    found: list[Row] = []
    for _, table in groupby(measure(options.quick), key=lambda row: row.what):
        rows = list(table)
        found += rows
        print("\n".join(markdown(rows)), flush=True)
    print(f"\n{answer(found)}\n\n{machine()}")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in found]))
