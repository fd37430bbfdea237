"""Run all benchmarks, and write the page of results and the plots that the documentation shows.

Each runs in a process of its own, and one after the other. `--quick` shows that all of them run;
the figures it takes mean little, so they are printed, and written only where `--into` says.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

from harness import Row, machine, markdown
from plots import draw

HERE = Path(__file__).parent
TARGET = HERE.parent / "docs" / "benchmarks"
FIGURES = "figures.json"
BENCHMARKS = (
    "throughput",
    "round_trip",
    "flaky",
    "waiting",
    "lateness",
    "memory",
    "after_failures",
    "cancelling",
    "mixed",
    "journal",
    "postgres",
    "many_hosts",
    "outages",
    "recovery",
    "importing",
    "engines",
    "computing",
    "keys",
    "rates",
    "telemetry",
)


def main() -> None:
    """Run the benchmarks named on the command line, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="two minutes; writes nothing")
    parser.add_argument("--redraw", action="store_true", help="the same figures: run nothing")
    parser.add_argument("--into", type=Path, help=f"the folder to write to (default: {TARGET})")
    options = parser.parse_args()
    unknown = {*options.names} - {*BENCHMARKS}
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    folder = options.into or (None if options.quick else TARGET)
    kept = _read(folder)
    for name in () if options.redraw else options.names or BENCHMARKS:
        kept[name] = {"machine": machine(), "rows": _run(name, options.quick)}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FIGURES).write_text(json.dumps(kept, indent=0) + "\n")
    if folder is not None:
        write(kept, folder)
        print(f"wrote {folder / 'results.md'}")


def write(kept: dict[str, Any], folder: Path) -> None:
    """Write the answers, the tables and the plots of what was *kept* into *folder*."""
    for plot in folder.glob("*.svg"):
        plot.unlink()
    answers, sections = [], []
    for name in filter(kept.__contains__, BENCHMARKS):
        rows = [Row(**row) for row in kept[name]["rows"]]
        question = import_module(name)
        title = name.replace("_", " ").capitalize()
        answer = question.answer(rows)
        answers.append(f"- [{title}](#{name.replace('_', '-')}): {answer}")
        plots = dict(draw(name, rows, folder))
        asked, _, caveat = (question.__doc__ or "").strip().partition("\n")
        text = [f"## {title}", asked, f"**{answer}**", caveat.strip()]
        for what, table in groupby(rows, key=lambda row: row.what):
            head, *lines = (line for line in markdown(table) if line)
            plot = (
                f"![{what}: the figures are in the table]({plots[what]})" if what in plots else ""
            )
            text += [head, plot, "\n".join(lines)]
        sections.append("\n\n".join(filter(None, text)))
    machines: dict[str, list[str]] = {}
    for name in filter(kept.__contains__, BENCHMARKS):
        machines.setdefault(kept[name]["machine"], []).append(name.replace("_", " "))
    taken = "\n\n".join(
        f"Taken on: {one}" if len(machines) == 1 else f"Taken ({', '.join(names)}) on: {one}"
        for one, names in machines.items()
    )
    (folder / "answers.md").write_text("\n".join(answers) + "\n")
    (folder / "results.md").write_text("\n\n".join([taken, *sections]) + "\n")


def _read(folder: Path | None) -> dict[str, Any]:
    """Return the figures that are in *folder* already: of benchmarks that are not run now."""
    file = None if folder is None else folder / FIGURES
    if file is None or not file.exists():
        return {}
    kept: dict[str, Any] = json.loads(file.read_text())
    return kept


def _run(name: str, quick: bool) -> list[dict[str, Any]]:
    print(f"== {name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        command = [sys.executable, HERE / f"{name}.py", "--json", file]
        subprocess.run(command + ["--quick"] * quick, check=True)
        rows: list[dict[str, Any]] = json.loads(file.read_text())
        return rows


if __name__ == "__main__":
    main()
