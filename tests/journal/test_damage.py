"""Files of dead owners that are damaged at random, and rows that somebody else has written.

Each damaged thing costs itself alone: the journal opens, what can be read comes back as it was and
once, what has ended does not come back, and whoever looks is told what is wrong.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.journal_kit import FakeHost, Save, crash, memory, opened, settled

from retryexec.journal import Inspector, Journal
from retryexec.journal._check import check
from retryexec.journal._errors import Newer
from retryexec.journal._file import JOBS
from retryexec.journal._rows import read_job
from retryexec.journal._salvage import salvage, set_aside

SECONDS = float(os.environ.get("RETRYEXEC_CHAOS", "24")) / 3
SEED = int(os.environ.get("RETRYEXEC_SEED", "1"))
SECTOR, PAGE = 512, 4096


# ---- what a dead owner leaves


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


@pytest.fixture(scope="module")
def templates() -> Iterator[list[Left]]:
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        place = Path(name)
        yield [
            leave(place / "few", 40, letters=5, log=False),
            leave(place / "many", 1500, letters=40, log=False),
            leave(place / "log", 300, letters=5, log=True),
        ]


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
    *(garbage, remove, directory_instead, pipe_instead, dangling_link),
]
SMALL = {flip, zero_sector, random_page}


class Outcome(NamedTuple):
    """What came of the jobs of a damaged directory."""

    ran: dict[str, Save]
    parked: int
    letters: set[str]
    newer: bool  # whether a version was damaged, so that it looks like a later one


def take_over(directory: Path) -> Outcome:
    """Open the journal as the next process would, end all jobs, and look at it again."""
    ran: dict[str, Save] = {}
    parked, letters, newer = 0, set[str](), False
    for look in range(3):
        host = FakeHost()
        journal = Journal(directory, jobs={"save": Save}, poll=3600)
        journal.open(host)
        try:
            journal.poll()
            done = 0
            while True:
                assert journal.flush(20)
                new = host.recovered[done:]
                for entry in new:
                    assert look == 0, f"{entry} came back after its end"
                    assert entry.id not in ran, f"{entry} came twice"
                    ran[entry.id] = entry.job
                    journal.succeeded(entry)
                done += len(new)
                if settled(journal) and len(host.recovered) == done:
                    break
            with suppress(Newer):
                for letter in journal.dead:
                    assert isinstance(letter.reason, str)
                    assert isinstance(letter.errors, tuple)
                assert journal.stats().healthy
        finally:
            journal.close()
        inspector = Inspector(directory)
        parked = sum(job.state == "parked" for job in inspector.jobs())
        findings = [*check(inspector)]
        assert all(str(finding.text) for finding in findings)
        letters = {
            letter.id for letter in inspector.letters() if not letter.reason.startswith("damaged")
        }
        inspector.stats()
        newer = any(finding.about == "version" for finding in findings)
    return Outcome(ran, parked, letters, newer)


def damaged(template: Left, seed: int) -> tuple[str, Outcome]:
    """Damage a copy of *template*, take it over, and return what was done and what came of it."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        directory = Path(name) / "journal"
        shutil.copytree(template.path, directory)
        told = []
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            files = [path for path in sorted(directory.iterdir()) if path.is_file()]
            path, kind = chance.choice(files), chance.choice(KINDS)
            with suppress(FileNotFoundError):
                kind(path, chance)
            told.append(f"{kind.__name__} {path.name[-8:]}")
        for path in directory.iterdir():  # so that nobody waits for a lock to be made anew
            if not path.is_symlink() and not path.is_fifo():
                os.utime(path, (1, 1))
        words = f"{template.path.name}, seed {seed}: {', '.join(told)}"
        started = time.monotonic()
        try:
            outcome = take_over(directory)
            hold(template, told, outcome)
        except BaseException as error:
            error.add_note(words)
            raise
        assert time.monotonic() - started < 30, words
        return words, outcome


def hold(template: Left, told: list[str], outcome: Outcome) -> None:
    """Check what must hold, whatever was damaged."""
    # A bit that is flipped in a text, and leaves it a text, nobody can see.
    changed = {name for name, job in outcome.ran.items() if template.jobs.get(name) != job}
    assert len(changed) <= sum(what.startswith("flip") for what in told)
    there = len(outcome.ran) + outcome.parked
    assert there <= len(template.jobs)
    if len(told) > 1 or outcome.newer:
        return
    kind, _, name = told[0].partition(" ")
    if name.endswith((".lock", "-shm", "dead.db")) or "journal" in name:
        assert there == len(template.jobs), "a job is missing"
    elif not template.in_log and kind in {kind.__name__ for kind in SMALL}:
        # A page holds some twenty rows; an inner one leads to all of them, and is gone round.
        assert there >= len(template.jobs) - 60, f"{len(template.jobs) - there} jobs are missing"
    if not name.endswith("dead.db"):
        assert outcome.letters == template.letters


@pytest.mark.timeout(60 + 3 * SECONDS)
def test_damage_costs_itself_alone(templates: list[Left]) -> None:
    due = time.monotonic() + SECONDS
    tried = 0
    for seed in count(SEED * 1_000_000):
        damaged(templates[seed % len(templates)], seed)
        tried += 1
        if time.monotonic() > due:
            break
    print(f"{tried} damaged directories")  # noqa: T201


DAMAGE: dict[str, tuple[Callable[[bytearray], object], int]] = {
    "nothing": (lambda content: None, 1500),
    "the first sector": (lambda content: write_at(content, 0, bytes(SECTOR)), 1500),
    "the first page": (lambda content: write_at(content, 0, bytes(PAGE)), 1500),
    "the page that leads to all": (lambda content: write_at(content, PAGE, bytes(PAGE)), 1500),
    "a page of rows": (lambda content: write_at(content, 20 * PAGE, bytes(PAGE)), 1450),
    "the last quarter": (
        lambda content: content.__delitem__(slice(len(content) * 3 // 4, None)),
        1050,
    ),
}


def write_at(content: bytearray, place: int, data: bytes) -> None:
    content[place : place + len(data)] = data


@pytest.mark.parametrize(("change", "least"), DAMAGE.values(), ids=DAMAGE)
def test_rows_that_can_be_read_are_saved(
    templates: list[Left], tmp_path: Path, change: Callable[[bytearray], object], least: int
) -> None:
    many = templates[1]
    (source,) = (path for path in many.path.glob("*.db") if path.name != "dead.db")
    content = bytearray(source.read_bytes())
    change(content)
    damaged_file = tmp_path / "x.db"
    damaged_file.write_bytes(content)
    saved = salvage(damaged_file, JOBS)
    assert least <= len(saved.rows) <= 1500
    assert {row[1] for row in saved.rows} <= many.jobs.keys()
    assert len({row[0] for row in saved.rows}) == len(saved.rows)
    assert damaged_file.read_bytes() == content
    assert (saved.lost > 0) == (least < 1500)


# ---- rows that nobody has written


@pytest.fixture(scope="module")
def many_rows(templates: list[Left]) -> tuple[bytes, set[str]]:
    """The content of a file of 1500 jobs, and their ids."""
    (source,) = (path for path in templates[1].path.glob("*.db") if path.name != "dead.db")
    return source.read_bytes(), {*templates[1].jobs}


def ids_saved(path: Path, content: bytes) -> tuple[list[str], int]:
    """Return the ids of the rows that are saved of a file with *content*, and how many are lost."""
    path.write_bytes(content)
    saved = salvage(path, JOBS)
    return [row[1] for row in saved.rows], saved.lost


@pytest.mark.parametrize("place", range(31, PAGE, 401))
def test_file_that_ends_within_a_page_gives_only_rows_that_were_written(
    many_rows: tuple[bytes, set[str]], tmp_path: Path, place: int
) -> None:
    """SQLite reads the rest of that page as zeros, and so rows of nothing, or half of a row."""
    content, written = many_rows
    end = len(content) * 3 // 4 // PAGE * PAGE + place
    saved, lost = ids_saved(tmp_path / "x.db", content[:end])
    assert {*saved} <= written
    assert 1050 <= len({*saved}) == len(saved)
    assert lost > 0


@pytest.mark.parametrize("sectors", [1, 2, 3])
def test_blank_sectors_cost_the_rows_in_them_and_are_counted(
    many_rows: tuple[bytes, set[str]], tmp_path: Path, sectors: int
) -> None:
    """None of them is the first of its page, which says where the rows are."""
    content, written = many_rows
    chance = random.Random(SEED)
    for _ in range(4):
        damaged_content = bytearray(content)
        for page in chance.sample(range(10, len(content) // PAGE - 10), sectors):
            write_at(damaged_content, page * PAGE + chance.randrange(1, 8) * SECTOR, bytes(SECTOR))
        saved, lost = ids_saved(tmp_path / "x.db", bytes(damaged_content))
        assert {*saved} <= written
        assert len({*saved}) == len(saved) >= 1500 - 15 * sectors
        assert lost == 1500 - len(saved)


def test_rows_between_a_bad_page_and_a_blank_sector_are_saved(
    many_rows: tuple[bytes, set[str]], tmp_path: Path
) -> None:
    """From the end, a scan meets the blank sector first; from the beginning, the bad page."""
    content = bytearray(many_rows[0])
    write_at(content, 20 * PAGE, bytes(PAGE))
    write_at(content, 50 * PAGE + 5 * SECTOR, bytes(SECTOR))
    saved, lost = ids_saved(tmp_path / "x.db", bytes(content))
    assert {*saved} <= many_rows[1]
    assert 1450 <= len({*saved}) == len(saved)
    assert 1500 - len(saved) <= lost <= 1500 - len(saved) + 10


def test_damaged_row_number_costs_no_row(many_rows: tuple[bytes, set[str]], tmp_path: Path) -> None:
    content, written = many_rows
    for low_bits in (0b0100_0000, 0b0000_0100):  # far above all others; and that of another row
        damaged_content = bytearray(content)
        id_of_one = sorted(written)[700].encode()
        cell = content.index(id_of_one)
        # The row number, of two bytes, is right before the header of the record, which says how
        # long it is: of 14 columns, the sizes of the texts taking two bytes or one.
        header = next(at for at in range(cell - 1, 0, -1) if content[at] in {15, 16, 17, 18})
        damaged_content[header - 2] ^= low_bits
        saved, _ = ids_saved(tmp_path / "x.db", bytes(damaged_content))
        assert sorted(saved) == sorted(written)


def test_id_of_another_type_is_kept_to_be_parked(
    many_rows: tuple[bytes, set[str]], tmp_path: Path
) -> None:
    content = bytearray(many_rows[0])
    id_of_one = sorted(many_rows[1])[700].encode()
    cell = content.index(id_of_one)
    text, blob = 77, 76  # as the header of a record says, both of 32 bytes
    content[content.rindex(text, 0, cell)] = blob
    write_at(content, 20 * PAGE, bytes(PAGE))
    damaged_file = tmp_path / "x.db"
    damaged_file.write_bytes(content)
    (row,) = (row for row in salvage(damaged_file, JOBS).rows if row[1] == id_of_one)
    parked, wrong = read_job(row)
    assert parked.id == id_of_one.decode()
    assert wrong is not None
    assert "'id'" in wrong


def test_pages_that_lead_to_the_same_rows_again_and_again_give_them_once(
    many_rows: tuple[bytes, set[str]], tmp_path: Path
) -> None:
    root, between, leaf = 2, 20, 30  # numbers of pages

    def leading_to(page: int) -> bytes:
        """Return the root, with all of its children replaced by *page*."""
        made, number = bytearray(many_rows[0][(root - 1) * PAGE : root * PAGE]), page.to_bytes(4)
        assert made[0] == 5  # a page that leads to others
        made[8:12] = number
        for at in range(12, 12 + 2 * int.from_bytes(made[3:5]), 2):
            write_at(made, int.from_bytes(made[at : at + 2]), number)
        return bytes(made)

    content = bytearray(many_rows[0])
    write_at(content, (root - 1) * PAGE, leading_to(between))
    write_at(content, (between - 1) * PAGE, leading_to(leaf))
    saved, _ = ids_saved(tmp_path / "x.db", bytes(content))
    assert {*saved} <= many_rows[1]
    assert 10 <= len({*saved}) == len(saved)


def test_files_set_aside_in_the_same_second_have_names_of_their_own(tmp_path: Path) -> None:
    names = set()
    for n in range(3):
        (tmp_path / "x.db").write_text(str(n))
        names.add(set_aside(tmp_path / "x.db"))
    assert {path.read_text() for path in names} == {"0", "1", "2"}
    assert {*tmp_path.iterdir()} == names
