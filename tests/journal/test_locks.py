"""Whatever a lock is, or says, it stops nobody; and nobody takes another one's for a dead one's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.journal_kit import Save, killed
from journal.conftest import Open

from retryexec.journal import _directory
from retryexec.journal._directory import Directory, Lock, is_of_this_boot


@pytest.mark.parametrize("what", ["a directory", "a pipe", "a dangling link"])
def test_a_lock_that_is_not_a_file_stops_nobody(
    open_journal: Open, directory: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    killed(directory, "journal.accept(Save('left'))")
    (lock,) = directory.glob("*.lock")
    lock.unlink()
    if what == "a directory":
        lock.mkdir()
    elif what == "a pipe":
        os.mkfifo(lock)
    else:
        lock.symlink_to("nowhere")
    for path in directory.glob("*.db*"):
        os.utime(path, (0, 0))
    _, host = open_journal(directory)
    assert host.jobs == [Save("left")]
    assert caplog.text.count("is not a plain file") == 1


def test_a_lock_that_cannot_be_opened_is_told_once(
    open_journal: Open,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed(directory, "journal.accept(Save('left'))")

    def denied(self: Directory, owner: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Directory, "claim", denied)
    journal, _ = open_journal(directory)
    for _ in range(3):
        assert journal.poll() == 0
    assert caplog.text.count("cannot be used") == 1
    journal.accept(Save("mine"))


def replace_before_the_lock(monkeypatch: pytest.MonkeyPatch, lock: Lock) -> None:
    """Let another file take the lock's place just before it is locked."""
    try_lock = _directory._try_lock

    def replaced(fd: int) -> bool:
        lock.path.unlink()
        lock.path.touch()
        return try_lock(fd)

    monkeypatch.setattr(_directory, "_try_lock", replaced)


def test_a_lock_that_was_replaced_while_it_was_claimed_is_not_ours(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner has tidied up, and another one has the same name: the lock in hand is nobody's."""
    place = Directory(directory)
    lock = place.new()
    lock.database.touch()
    lock.release()
    replace_before_the_lock(monkeypatch, lock)
    assert place.claim(lock.owner) is None


def test_a_lock_that_was_replaced_while_it_was_regained_is_not_ours(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Directory(directory).new()
    lock.path.unlink()
    replace_before_the_lock(monkeypatch, lock)
    assert not lock.regain()
    lock.release()


# ---- what a lock says


def flipped(text: bytes, place: int) -> bytes:
    return text[:place] + bytes([text[place] ^ 4]) + text[place + 1 :]


@pytest.mark.parametrize(
    "said", [b"\xff\0 garbage", b"1 2 3 4 5", b"x" * 300, b"- -", "a flipped bit"]
)
def test_a_lock_that_says_nothing_does_not_hide_that_the_log_is_damaged(
    open_journal: Open, directory: Path, said: bytes | str
) -> None:
    """Whether the machine has been started since, the times of the files tell."""
    killed(directory, "for n in range(20): journal.accept(Save('', n))")
    (lock,), (log,) = directory.glob("*.lock"), directory.glob("*.db-wal")
    lock.write_bytes(flipped(lock.read_bytes(), 15) if isinstance(said, str) else said)
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    _, host = open_journal(directory)
    assert [job.n for job in host.jobs] == list(range(20))


def test_whether_the_machine_has_run_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, database = tmp_path / "x.db-wal", tmp_path / "x.db"
    log.touch()
    boot = "0" * 8 + "-4444-4444-4444-" + "0" * 12
    monkeypatch.setattr(_directory, "_boot", lambda: boot)
    assert is_of_this_boot(f"1 {boot} 2".encode(), database) is True
    assert is_of_this_boot(flipped(f"1 {boot} 2".encode(), 20), database) is True
    assert is_of_this_boot(f"1 {boot.replace('0', '7')} 2".encode(), database) is False
    for unknown in (b"1 - -", b"", bytes(50)):  # as after a power cut
        assert is_of_this_boot(unknown, database) is None
    assert is_of_this_boot(b"?", database) is True
    os.utime(log, (1, 1))
    assert is_of_this_boot(b"?", database) is False
    monkeypatch.setattr(_directory, "_boot", lambda: "-")
    assert is_of_this_boot(b"?", database) is None
