"""Run all benchmarks, and write the table and the plots that the documentation shows.

Each runs in a process of its own, and one after the other. `--quick` shows that all of them run;
the figures it takes mean little, so they are printed and not written.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from harness import OURS, Row, machine, markdown

HERE = Path(__file__).parent
TARGET = HERE.parent / "docs" / "benchmarks"
BENCHMARKS = (
    "throughput",
    "round_trip",
    "flaky",
    "waiting",
    "lateness",
    "memory",
    "cancelling",
    "mixed",
    "journal",
    "postgres",
)


def main() -> None:
    """Run the benchmarks named on the command line, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a minute; writes nothing")
    parser.add_argument("--into", type=Path, default=TARGET, help="the folder to write to")
    options = parser.parse_args()
    found = {name: list(_rows_of(name, options.quick)) for name in BENCHMARKS}
    if not options.quick:
        write(found, options.into)


def write(found: dict[str, list[Row]], folder: Path) -> None:
    """Write the table of what was *found*, and its plots, into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"Taken on: {machine()}", ""]
    for name, rows in found.items():
        title = name.replace("_", " ").capitalize()
        lines += [f"## {title}", "", *_question(name), ""]
        for file in _plots(name, rows, folder):
            lines += [f"![{title}]({file})", ""]
        lines += [*markdown(rows), ""]
    # Tables of three hash marks, under the two of each benchmark.
    (folder / "results.md").write_text("\n".join(lines).replace("\n\n\n", "\n\n"))
    print(f"wrote {folder / 'results.md'}")


def _rows_of(name: str, quick: bool) -> Iterator[Row]:
    print(f"== {name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        command = [sys.executable, HERE / f"{name}.py", "--json", file]
        subprocess.run(command + ["--quick"] * quick, check=True)
        for row in json.loads(file.read_text()):
            yield Row(**row)


def _question(name: str) -> list[str]:
    """Return the docstring of a benchmark: its question and the caveat."""
    text = (HERE / f"{name}.py").read_text(encoding="utf-8")
    return text.split('"""')[1].strip().splitlines()


def _plots(name: str, rows: Iterable[Row], folder: Path) -> Iterator[str]:
    """Draw the growth of each table that has more than one size; yield the files' names."""
    import matplotlib as mpl

    mpl.use("svg")
    # The same figures make the same file.
    mpl.rcParams["svg.hashsalt"] = OURS
    from matplotlib import pyplot as plt

    by_words = attrgetter("what")
    for what, table in groupby(sorted(rows, key=by_words), by_words):
        lines: dict[str, list[Row]] = {}
        for row in table:
            lines.setdefault(row.peer, []).append(row)
        if max(len(points) for points in lines.values()) < 2:
            continue
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        for peer, points in sorted(lines.items(), key=lambda line: line[0] != OURS):
            sizes = [row.jobs for row in points]
            width = 2.5 if peer == OURS else 1.2
            axes.plot(sizes, [row.value for row in points], "o-", label=peer, linewidth=width)
        axes.set(xscale="log", yscale="log", xlabel="jobs", ylabel=points[0].unit, title=what)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small")
        words = "".join(c if c.isalnum() else " " for c in what).split()
        file = f"{name}-{'-'.join(words)}.svg"
        figure.savefig(folder / file, metadata={"Date": None})
        plt.close(figure)
        yield file


if __name__ == "__main__":
    main()
