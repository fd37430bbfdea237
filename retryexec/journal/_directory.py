"""The directory of a journal: which files are whose, and whether they still live.

Each process has a file of its own, ``<owner>.db``, and holds the lock of ``<owner>.lock`` while
it lives. The kernel lets go of the lock when the process ends, however it ends, and at no other
time: neither a clock nor a pause makes a living owner look dead.
"""

import errno
import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from uuid import uuid4

from retryexec.journal._errors import JournalError
from retryexec.journal._salvage import set_aside

logger = logging.getLogger("retryexec.journal")

DEAD = "dead.db"
OWNER = re.compile(r"[0-9a-f]{32}")
_SUFFIXES = frozenset({"lock", "db", "db-wal", "spare"})  # each may be there without the others
_LONGEST_PATH = 504  # bytes of a database's whole path: SQLite's own limit
_FEW = 3  # characters of a boot's id that may be damaged: those of two have nearly all others
_PATIENCE = 10.0  # seconds
_MOUNTS = Path("/proc/self/mountinfo")
# Where a lock may not reach the other machine, or the memory that SQLite shares is not shared.
_NETWORK = frozenset(
    {
        "9p",  # Windows' disks under WSL
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "drvfs",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.grpcfuse",  # a desktop's disks in a container
        "fuse.osxfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "smb3",
        "smbfs",
    }
)


class Lock:
    """The lock of one owner, held until `release` or the end of the process."""

    def __init__(self, directory: Path, owner: str, fd: int) -> None:
        self.owner = owner
        self.path = directory / f"{owner}.lock"
        self.database = directory / f"{owner}.db"
        self._fd = fd
        # Whether the machine has been started since the owner before wrote its name here.
        self.rebooted = False
        # Whether it certainly has not.
        self.same_boot = False

    def holds(self) -> bool:
        """Return whether the file with the lock is still the one that others would find."""
        return _same(self._fd, self.path)

    def regain(self) -> bool:
        """Put a lock file in the place of one that was removed; False if somebody else has."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return False
        if not (_try_lock(fd) and _same(fd, self.path)):
            os.close(fd)
            return False
        _write_owner(fd)
        self.release()
        self._fd = fd
        return True

    def release(self) -> None:
        """Let others have it."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def remove(self) -> None:
        """Remove the database, which is closed and holds nothing more, and then the lock."""
        # The reserve first: without its database, it says that one has gone.
        for suffix in (".spare", ".db", ".db-wal", ".db-shm"):
            with suppress(FileNotFoundError, IsADirectoryError):
                self.path.with_suffix(suffix).unlink()
        # Last, and still held: whoever waits for this very file finds that it has gone.
        with suppress(FileNotFoundError):
            self.path.unlink()
        self.release()


class Directory:
    """A journal's directory, made when there is none.

    Raises:
        JournalError: it cannot be used; the message says why, and what would do.
    """

    def __init__(self, path: "str | os.PathLike[str]", *, allow_network: bool = False) -> None:
        if not os.fspath(path):
            msg = "directory is empty: name the directory that the journal is to be in"
            raise JournalError(msg)
        self.path = Path(path).absolute()
        self.is_new = False  # whether it was made here
        try:
            self._check_length()
            if not self.path.is_dir():
                self.is_new = True
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path = self.path.resolve(strict=True)
            self._check_length()
            kind = filesystem_of(self.path)
            if is_network(kind) and not allow_network:
                msg = (
                    f"{self.path} is on a network file system ({kind}), where locks and shared "
                    "memory cannot be relied on: put the journal on a local disk"
                )
                raise JournalError(msg)
            self._probe()
        except (OSError, ValueError) as error:
            msg = f"{str(self.path)!r} cannot be a journal's directory: {error}"
            raise JournalError(msg) from error

    def _check_length(self) -> None:
        spare = _LONGEST_PATH - len(os.fsencode(self.path / f"{'0' * 32}.db"))
        if spare < 0:
            msg = (
                f"the path {self.path} is too long, by {-spare} bytes, for the files that SQLite "
                "makes there: name a directory with a shorter one"
            )
            raise JournalError(msg)

    def _probe(self) -> None:
        """Make sure that a lock held here keeps others out."""
        path = self.path / f"{uuid4().hex}.probe"
        first = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            second = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if not _try_lock(first) or _try_lock(second):
                    msg = f"locks do not work in {self.path}: put the journal on a local disk"
                    raise JournalError(msg)
            finally:
                os.close(second)
        finally:
            os.close(first)
            path.unlink()

    def new(self) -> Lock:
        """Become an owner under a new name."""
        while True:
            # Names in the order they were made, so that the older file is taken over first.
            owner = f"{int(time.time() * 1000):012x}{uuid4().hex[12:]}"
            path = self.path / f"{owner}.lock"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            # Somebody who tidies up may have been quicker with the lock.
            if _try_lock(fd) and _same(fd, path):
                _write_owner(fd)
                return Lock(self.path, owner, fd)
            os.close(fd)

    def claim(self, owner: str) -> Lock | None:
        """Return the lock of *owner* if that one is dead, and None if it lives.

        Raises:
            OSError: that cannot be found out.
        """
        path = self.path / f"{owner}.lock"
        try:
            kind = path.lstat().st_mode
            if not stat.S_ISREG(kind):  # nobody can hold it, and to open it might take for ever
                aside = set_aside(path)
                logger.error("%s is not a plain file, and is %s now", path, aside)
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            # Somebody has removed the lock alone. Its owner finds out, and moves; what is left
            # here then, or has nobody, is for whoever makes the lock anew.
            parts = [self.path / f"{owner}.{suffix}" for suffix in ("db", "db-wal")]
            there = [part for part in parts if os.path.lexists(part)]
            if (spare := self.path / f"{owner}.spare").is_file():
                there.append(spare)
            if not there or is_young(there[0]):
                return None
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if _try_lock(fd) and _same(fd, path):
            lock = Lock(self.path, owner, fd)
            same = is_of_this_boot(os.pread(fd, 200, 0), lock.database)
            lock.same_boot, lock.rebooted = same is True, same is False
            _write_owner(fd)
            return lock
        os.close(fd)
        return None

    def owners(self) -> Iterator[str]:
        """Yield the names of all owners, the dead and the living."""
        names = set()
        for name in os.listdir(self.path):  # noqa: PTH208  a thousand names, as text
            owner, dot, suffix = name.partition(".")
            if dot and suffix in _SUFFIXES and OWNER.fullmatch(owner):
                names.add(owner)
        yield from sorted(names)

    def pid_of(self, owner: str) -> int | None:
        """Return the process that says it holds *owner*'s lock, if it is known to have ended."""
        try:
            said = (self.path / f"{owner}.lock").read_bytes()[:200].decode().split()
            if len(said) == 3 and said[1] == _boot() and _started(int(said[0])) != said[2]:
                return int(said[0])
        except (OSError, ValueError):
            pass
        return None

    @contextmanager
    def alone(self) -> Generator[None]:
        """Keep other processes that do the same out of the block.

        Raises:
            OSError: somebody else takes long.
        """
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            due = time.monotonic() + _PATIENCE
            while not _try_lock(fd):
                if time.monotonic() > due:
                    raise OSError(errno.EBUSY, "another process has been at it for long")
                time.sleep(0.01)
            yield
        finally:
            os.close(fd)

    def sync(self) -> None:
        """Make names that have just been made or removed survive a power cut."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def filesystem_of(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the type of the file system that *path* is on; None if unknown."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    best, kind = -1, None
    for line in lines:
        fields = line.split(" ")
        point = fields[4].encode("latin-1", "surrogateescape").decode("unicode_escape")
        # Of several on the same point, the last one is on top.
        if path.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), fields[fields.index("-") + 1]
    return kind


def is_network(kind: str | None) -> bool:
    """Return whether file systems of type *kind* are shared with other machines."""
    return kind in _NETWORK


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def _same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def is_young(path: Path) -> bool:
    """Return whether *path* was written to within the last minute, by either of two clocks."""
    try:
        return abs(time.time() - path.stat().st_mtime) < 60
    except OSError:
        return True


def is_of_this_boot(said: bytes, database: Path) -> bool | None:
    """Return whether the machine has run on since an owner wrote what its lock says.

    A bit of that may be flipped, and it may be garbage: then the times of the owner's files tell.
    If there is nothing, the power may have been cut before it was on disk.

    Returns:
        None if nobody knows.
    """
    words, boot = said.decode(errors="replace").split(), _boot()
    if boot == "-":
        return None
    if len(words) == 3 and words[0].isdigit() and words[1] != "-":
        wrong = [one for one, other in zip_longest(words[1], boot) if one != other]
        return len(wrong) <= _FEW
    if not said.strip(b"\0") or (len(words) == 3 and "-" in words[:2]):
        return None
    try:
        started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        log = database.with_suffix(".db-wal")
        return (log if log.exists() else database).stat().st_mtime > started
    except (OSError, AttributeError):
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"


def _started(pid: int) -> str | None:
    """Return when process *pid* started, as the kernel writes it; None if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _write_owner(fd: int) -> None:
    """Write the owner's name into a lock: for the eyes of people, and no matter on a full disk."""
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, _whoami().encode(), 0)


def _whoami() -> str:
    return f"{os.getpid()} {_boot()} {_started(os.getpid()) or '-'}"
