"""Forty saves by eight workers while one of two databases is locked, and a picture of it.

    python side_by_side.py [FILE.svg]

The same saves run twice: with tenacity in a ThreadPoolExecutor, and with retryexec. Both wait as
long between attempts, in real time, and the errors are SQLite's own.
"""

import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_never, wait_exponential

from retryexec import ExponentialBackoff, RetryingExecutor, RetryPolicy
from retryexec.cli.svg import Drawing

WORKERS, SAVES = 8, 40
LOCKED = 4.0  # seconds for which the one database is locked
WORK = 0.15  # seconds that a save takes beside the database
FIRST, LONGEST = 0.25, 2.0  # seconds of the first wait, and of the longest; each is twice the last


@dataclass
class Run:
    """What happened when, in seconds: kind of span, worker, start and end."""

    spans: list[tuple[str, int, float, float]] = field(default_factory=list)
    workers: dict[int, int] = field(default_factory=dict)
    ends: dict[str, list[float]] = field(default_factory=lambda: {"free": [], "locked": []})
    began: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        return time.monotonic() - self.began

    def worker(self) -> int:
        return self.workers.setdefault(threading.get_ident(), len(self.workers))

    def save(self, folder: Path, number: int) -> None:
        """Make one attempt to save; two in five go into the database that is locked."""
        database = "locked" if number % 5 < 2 else "free"
        start, kind = self.now(), "failed"
        try:
            time.sleep(WORK)
            with closing(sqlite3.connect(folder / database, timeout=0.05)) as sql, sql:
                sql.execute("PRAGMA synchronous=OFF")  # it is not the disk that is on trial
                sql.execute("INSERT INTO saves VALUES(?)", [number])
            kind = "ok"
            self.ends[database].append(self.now())
        finally:
            self.spans.append((kind, self.worker(), start, self.now()))

    def sleep(self, seconds: float) -> None:
        """Sleep as tenacity wants it: on the worker."""
        start = self.now()
        time.sleep(seconds)
        self.spans.append(("asleep", self.worker(), start, self.now()))


def with_tenacity(save: Callable[[int], None], run: Run) -> None:
    retrying = Retrying(
        retry=retry_if_exception_type(sqlite3.OperationalError),
        wait=wait_exponential(multiplier=FIRST, max=LONGEST),
        stop=stop_never,
        sleep=run.sleep,
    )
    with ThreadPoolExecutor(WORKERS) as pool:
        futures: list[Future[None]] = [pool.submit(retrying, save, n) for n in range(SAVES)]
    for future in futures:
        future.result()


def with_retryexec(save: Callable[[int], None], run: Run) -> None:  # noqa: ARG001
    policy = RetryPolicy(
        max_attempts=None,
        retry_on=sqlite3.OperationalError,
        backoff=ExponentialBackoff(FIRST, 2.0, 0.0, LONGEST),
    )
    with RetryingExecutor(WORKERS, policy=policy) as executor:
        futures = [executor.submit(save, n) for n in range(SAVES)]
    for future in futures:
        future.result()


@contextmanager
def databases() -> Generator[Path]:
    """Make two databases, and lock the one of them for a while."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for database in ("free", "locked"):
            with closing(sqlite3.connect(folder / database)) as sql, sql:
                sql.execute("CREATE TABLE saves(number)")
        locker = sqlite3.connect(folder / "locked", isolation_level=None, check_same_thread=False)
        locker.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(LOCKED, locker.execute, ["COMMIT"])
        timer.start()
        yield folder
        timer.join()
        locker.close()


def play(way: Callable[[Callable[[int], None], Run], None]) -> Run:
    with databases() as folder:
        run = Run()
        way(lambda number: run.save(folder, number), run)
    return run


# ---- the picture

WIDTH, LEFT, PANEL, GAP, ROW = 960.0, 66.0, 406.0, 66.0, 17.0


def picture(runs: dict[str, Run]) -> str:
    drawing = Drawing(WIDTH, "Eight workers, forty saves, one locked database")
    words = "8 workers, 40 saves: 24 into a free database, 16 into one that is locked for"
    drawing.text(16, 26, f"{words} {LOCKED:g} s", "title")
    legend = [
        ("ok", "saved"),
        ("failed", "“database is locked”"),
        ("asleep", "a worker asleep until the next attempt"),
        ("lock", "the database is locked"),
    ]
    top = drawing.legend(16, 50, legend) + 34
    seconds = max(end for run in runs.values() for _, _, _, end in run.spans) * 1.02
    for place, (title, run) in enumerate(runs.items()):
        left = LEFT + place * (PANEL + GAP)
        drawing.text(left, top - 10, title, "title")
        panel(drawing, left, top, seconds, run)
    return drawing.done()


def panel(drawing: Drawing, left: float, top: float, seconds: float, run: Run) -> None:
    scale = PANEL / seconds
    bottom = top + WORKERS * ROW
    drawing.rect("lock", (left, top, LOCKED * scale, bottom - top))
    for worker in range(WORKERS):
        y = top + worker * ROW
        drawing.rect("row", (left, y + 2, PANEL, ROW - 4))
        drawing.text(left - 8, y + 13, f"worker {worker + 1}", "dim", anchor="end")
    drawing.axis(left, left + PANEL, top, bottom, seconds)
    for kind, worker, start, end in run.spans:
        thin = 2.0 if kind == "asleep" else 0.0  # beside the attempts
        y, height = top + worker * ROW + 3.5 + thin, ROW - 7 - 2 * thin
        drawing.rect(kind, (left + start * scale, y, (end - start) * scale, height))
    free, everything = max(run.ends["free"]), max(map(max, run.ends.values()))
    sleeps = any(kind == "asleep" for kind, *_ in run.spans)
    held = "a save that waits keeps a worker" if sleeps else "a save that waits keeps no worker"
    drawing.text(left, bottom + 38, f"free database: all saved after {free:.1f} s", "title")
    drawing.text(left, bottom + 56, f"{held}; all forty after {everything:.1f} s", "dim")


def main() -> None:
    runs = {
        "tenacity in a ThreadPoolExecutor": play(with_tenacity),
        "retryexec": play(with_retryexec),
    }
    for title, run in runs.items():
        free, locked = max(run.ends["free"]), max(run.ends["locked"])
        print(f"{title}: the free database after {free:.1f} s, the locked one after {locked:.1f} s")
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(picture(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
