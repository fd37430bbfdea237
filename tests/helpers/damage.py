"""What a dead owner leaves, and the ways in which its files are damaged."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from helpers.journal_kit import Save, crash, opened

SECTOR, PAGE = 512, 4096


class Left(NamedTuple):
    """A directory as a dead owner left it: which jobs are in it, by id, and which letters."""

    path: Path
    jobs: dict[str, Save]
    letters: set[str]
    in_log: bool  # whether the jobs are still in the log alone


def leave(path: Path, jobs: int, *, letters: int = 0, log: bool) -> Left:
    """Let an owner die in *path*, with *jobs* unfinished, and *letters*."""
    journal, host = opened(path, accept="async")
    dead, live = set(), {}
    for n in range(letters):
        entry = journal.accept(Save("dead", n))
        dead.add(entry.id)
        journal.died(entry, "permanent", 1, OSError(f"no {n}"))
    for n in range(jobs):
        entry = journal.accept(Save("x" * (n % 150), n))
        live[entry.id] = entry.job
        if n % 7 == 0:
            journal.retrying(entry, 1, 0.0, OSError(f"busy {n}"))
        if n == 5:
            host.at_work = [entry]
    assert journal.flush(30)
    assert journal._engine is not None
    if not log:
        with journal._engine.writer.io:
            journal._engine.lanes.truncate_logs()
    (file,) = journal._engine.lanes.all()
    assert journal._engine.lanes.own is file
    # Closing a connection would tidy up; the death of a process does not.
    copy = path.with_name(f"{path.name}-copy")
    shutil.copytree(path, copy)
    crash(journal)
    shutil.rmtree(path)
    copy.rename(path)
    return Left(path, live, dead, log)


# ---- damage


def write(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


def flip(path: Path, chance: random.Random) -> None:
    place = chance.randrange(max(1, path.stat().st_size))
    content = path.read_bytes()[place : place + 1] or b"\0"
    write(path, place, bytes([content[0] ^ 1 << chance.randrange(8)]))


def zero_sector(path: Path, chance: random.Random) -> None:
    sectors = max(1, path.stat().st_size // SECTOR)
    write(path, chance.randrange(sectors) * SECTOR, bytes(SECTOR))


def zero_first_sector(path: Path, chance: random.Random) -> None:
    write(path, 0, bytes(SECTOR))


def random_page(path: Path, chance: random.Random) -> None:
    pages = max(1, path.stat().st_size // PAGE)
    write(path, chance.randrange(pages) * PAGE, chance.randbytes(PAGE))


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size + 1))


def insert(path: Path, chance: random.Random) -> None:
    content, size = path.read_bytes(), chance.choice((1, 100, SECTOR, PAGE, 5000))
    place = chance.randrange(len(content) + 1)
    path.write_bytes(content[:place] + chance.randbytes(size) + content[place:])


def cut_out(path: Path, chance: random.Random) -> None:
    content, size = path.read_bytes(), chance.choice((1, 100, SECTOR, PAGE, 5000))
    place = chance.randrange(len(content) + 1)
    path.write_bytes(content[:place] + content[place + size :])


def page_over_another(path: Path, chance: random.Random) -> None:
    pages = max(1, path.stat().st_size // PAGE)
    content = path.read_bytes()[chance.randrange(pages) * PAGE :][:PAGE]
    write(path, chance.randrange(pages) * PAGE, content)


def empty(path: Path, chance: random.Random) -> None:
    os.truncate(path, 0)


def garbage(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(chance.choice((1, 100, 5000))))


def remove(path: Path, chance: random.Random) -> None:
    path.unlink()


def directory_instead(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def pipe_instead(path: Path, chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def dangling_link(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


KINDS: list[Callable[[Path, random.Random], None]] = [
    *(flip, flip, zero_sector, zero_sector, zero_first_sector, random_page, truncate, empty),
    *(insert, cut_out, page_over_another),
    *(garbage, remove, directory_instead, pipe_instead, dangling_link),
]
SMALL = {flip, zero_sector, random_page}
