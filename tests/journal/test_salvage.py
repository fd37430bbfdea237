"""Of a damaged file every row that can be read is saved, once, and what is lost is counted."""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.damage import (
    PAGE,
    SECTOR,
    Left,
    cut_out,
    flip,
    insert,
    leave,
    random_page,
    truncate,
    zero_sector,
)
from helpers.journal_kit import Save, memory, opened

from retryexec.journal._job_table import JOBS
from retryexec.journal._rows import read_job
from retryexec.journal._salvage import salvage, set_aside

SEED = 1


@pytest.fixture(scope="module")
def many() -> Iterator[Left]:
    """A directory of a dead owner with 1500 jobs, none of them in the log."""
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        yield leave(Path(name) / "many", 1500, letters=40, log=False)


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
    many: Left, tmp_path: Path, change: Callable[[bytearray], object], least: int
) -> None:
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
    assert saved.lost is not None
    assert 1500 - len(saved.rows) <= saved.lost
    assert least < 1500 or saved.lost < 100  # without a header, a page that is free looks lost


# ---- rows that nobody has written


@pytest.fixture(scope="module")
def many_rows(many: Left) -> tuple[bytes, set[str]]:
    """The content of a file of 1500 jobs, and their ids."""
    (source,) = (path for path in many.path.glob("*.db") if path.name != "dead.db")
    return source.read_bytes(), {*many.jobs}


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
    assert 1500 - len(saved) <= lost < 100


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
    ids = (one.encode() for one in sorted(many_rows[1])[700:])
    id_of_one = next(one for one in ids if content.index(one) // PAGE != 20)  # which is zeroed
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


def test_the_newest_root_is_lost_in_the_log(tmp_path: Path) -> None:
    """The one before leads to a part of the pages; the others are there, too."""
    left = leave(tmp_path / "log", 2500, log=True)
    (source,) = (path for path in left.path.glob("*.db") if path.name != "dead.db")
    log = Path(f"{source}-wal")
    content = bytearray(log.read_bytes())
    frames = range(32, len(content) - 24, 24 + PAGE)
    of_root = [at for at in frames if content[at : at + 4] == (2).to_bytes(4)]
    write_at(content, of_root[-1], bytes(24))
    log.write_bytes(content)
    saved = salvage(source, JOBS)
    assert {row[1] for row in saved.rows} == left.jobs.keys()
    assert len(saved.rows) == 2500


ROOT = slice(PAGE, 2 * PAGE)


def with_root(content: bytes, root: bytes) -> bytes:
    return content[:PAGE] + root + content[2 * PAGE :]


# How the file is damaged, and how many rows may be lost by that.
STRUCTURE: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "a leaf over the root": (lambda c: with_root(c, c[9 * PAGE : 10 * PAGE]), 0),
    "an end in the middle, and no root": (lambda c: with_root(c, bytes(PAGE))[: len(c) // 2], 800),
    "an end within a page, and no header": (lambda c: bytes(PAGE) + c[PAGE : len(c) // 2 + 9], 800),
    "a byte more": (lambda c: c[: 20 * PAGE + 99] + b"x" + c[20 * PAGE + 99 :], 2),
    "a byte less": (lambda c: c[: 20 * PAGE + 99] + c[20 * PAGE + 100 :], 26),
    "a sector more": (lambda c: c[: 20 * PAGE] + bytes(SECTOR) + c[20 * PAGE :], 0),
    "a sector less": (lambda c: c[: 20 * PAGE] + c[20 * PAGE + SECTOR :], 26),
    "a page more": (lambda c: c[: 20 * PAGE] + bytes(PAGE) + c[20 * PAGE :], 0),
    "a page less": (lambda c: c[: 20 * PAGE] + c[21 * PAGE :], 26),
    "a page less at the front": (lambda c: c[PAGE:], 0),
    "a sector in the header of a page": (
        lambda c: c[: 20 * PAGE] + bytes(SECTOR) + c[20 * PAGE + SECTOR :],
        3,
    ),
}


@pytest.mark.parametrize(("change", "most"), STRUCTURE.values(), ids=STRUCTURE)
def test_rows_are_found_wherever_they_are(
    many_rows: tuple[bytes, set[str]], tmp_path: Path, change: Callable[[bytes], bytes], most: int
) -> None:
    content, written = many_rows
    saved, lost = ids_saved(tmp_path / "x.db", change(content))
    assert len({*saved} - written) <= 1  # a byte within an id makes another one of it
    assert len({*saved}) == len(saved) >= 1500 - most
    assert lost is not None
    assert lost >= 1500 - len(saved)


def test_page_is_found_although_the_one_before_ends_like_the_beginning_of_a_page(
    many_rows: tuple[bytes, set[str]], tmp_path: Path
) -> None:
    """As single records, its rows may hide behind what rows that moved away have left there."""
    content, cell = bytearray(many_rows[0]), 100  # bytes of a cell, up to and with its id
    for page in range(30, 60):
        begin = page * PAGE
        kind, _, count, first, _ = struct.unpack_from(">BHHHB", content, begin)
        if kind == 13 and first > 8 + 2 * count + cell:
            second = begin + max(struct.unpack_from(f">{count}H", content, begin + 8)[:-1])
            write_at(content, begin + first - cell, content[second : second + cell])
            content[begin - 1] = 13  # in the time when a job was accepted
    moved = bytes(content[: 20 * PAGE] + bytes(SECTOR) + content[20 * PAGE :])
    saved, _ = ids_saved(tmp_path / "x.db", moved)
    assert sorted(saved) == sorted(many_rows[1])


@pytest.mark.parametrize("bit", range(0, 32, 3))
def test_a_number_of_pages_that_cannot_be_is_damage(
    many_rows: tuple[bytes, set[str]], tmp_path: Path, bit: int
) -> None:
    content = bytearray(many_rows[0])
    said = int.from_bytes(content[28:32]) ^ (1 << bit)
    write_at(content, 28, said.to_bytes(4))
    saved, lost = ids_saved(tmp_path / "x.db", bytes(content))
    assert {*saved} == many_rows[1]
    assert lost == 0


@pytest.fixture(scope="module")
def busy() -> Iterator[Left]:
    """Of a dead owner that had many jobs, most of which have ended; five are long."""
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        path, live = Path(name) / "busy", {}
        journal, _ = opened(path, accept="async")
        for n in range(3000):
            entry = journal.accept(Save("x" * (n % 150), n))
            live[entry.id] = entry
        assert journal.flush(30)
        for number, entry in enumerate([*live.values()]):
            if number % 100 > 5:
                journal.succeeded(live.pop(entry.id))
        for n in range(5):
            entry = journal.accept(Save("x" * 20_000, n))
            live[entry.id] = entry
        journal.close()
        yield Left(path, {key: entry.job for key, entry in live.items()}, set(), False)


@pytest.mark.parametrize("size", [1, 100, SECTOR, PAGE, PAGE + 100, 2 * PAGE])
def test_pages_that_have_moved_are_not_taken_for_free_ones(
    busy: Left, tmp_path: Path, size: int
) -> None:
    """Only what stands at the number of a free page is free, not what has moved there."""
    (source,) = (path for path in busy.path.glob("*.db") if path.name != "dead.db")
    content = source.read_bytes()
    assert int.from_bytes(content[36:40]) > 20  # free pages
    saved, lost = ids_saved(
        tmp_path / "x.db", content[: 3 * PAGE] + bytes(size) + content[3 * PAGE :]
    )
    assert busy.jobs.keys() <= {*saved}
    assert lost is not None
    first = content.index(min(busy.jobs).encode()) // PAGE + 1  # its page is the only one that goes
    saved, lost = ids_saved(
        tmp_path / "y.db", content[: first * PAGE] + content[first * PAGE + size :]
    )
    assert lost is not None
    assert lost >= len(busy.jobs.keys() - {*saved})


@pytest.mark.parametrize("place", ["the header", "the list of free pages", "the root", "a row"])
def test_jobs_that_have_ended_do_not_come_back_from_free_pages(
    busy: Left, tmp_path: Path, place: str
) -> None:
    (source,) = (path for path in busy.path.glob("*.db") if path.name != "dead.db")
    content = bytearray(source.read_bytes())
    assert int.from_bytes(content[36:40]) > 20  # free pages
    trunk = int.from_bytes(content[32:36])
    last = content.rindex(min(busy.jobs).encode())
    at = {"the header": 0, "the list of free pages": 35, "the root": PAGE, "a row": last}[place]
    size = {"the header": SECTOR, "the root": PAGE}.get(place, 1)
    assert trunk
    write_at(content, at, bytes(size))
    saved, lost = ids_saved(tmp_path / "x.db", bytes(content))
    assert {*saved} <= busy.jobs.keys() or place == "a row"
    assert len(saved) >= len(busy.jobs) - (place == "a row")
    assert lost is not None


@pytest.mark.parametrize("kind", [flip, zero_sector, random_page, truncate, insert, cut_out])
def test_the_count_of_what_is_lost_is_not_too_small(
    many_rows: tuple[bytes, set[str]],
    tmp_path: Path,
    kind: Callable[[Path, random.Random], None],
) -> None:
    content, written = many_rows
    path = tmp_path / "x.db"
    for seed in range(SEED * 1000, SEED * 1000 + 20):
        path.write_bytes(content)
        kind(path, random.Random(seed))
        saved = salvage(path, JOBS)
        missing = len(written) - len({row[1] for row in saved.rows} & written)
        # A flipped bit in an id makes another one of it.
        assert saved.lost is None or saved.lost + (kind is flip) >= missing, seed


@pytest.mark.parametrize("what", ["nothing", "garbage", "a directory", "zeros"])
def test_of_a_file_that_tells_nothing_nobody_knows_what_is_lost(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.db"
    if what == "a directory":
        path.mkdir()
    elif what != "nothing":
        path.write_bytes(
            bytes(20_000) if what == "zeros" else random.Random(SEED).randbytes(20_000)
        )
    saved = salvage(path, JOBS)
    assert saved == ([], None)
    assert saved.words == "nobody can say how many are lost"


def test_files_set_aside_in_the_same_second_have_names_of_their_own(tmp_path: Path) -> None:
    names = set()
    for n in range(3):
        (tmp_path / "x.db").write_text(str(n))
        names.add(set_aside(tmp_path / "x.db"))
    assert {path.read_text() for path in names} == {"0", "1", "2"}
    assert {*tmp_path.iterdir()} == names
