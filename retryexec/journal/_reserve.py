"""Disk space kept back, so that ends can still be written when there is no room for new jobs."""

import errno
import os
from contextlib import suppress
from pathlib import Path

SMALLEST, LARGEST = 64 * 1024, 1024 * 1024
_SHARE = 8  # of the free space, a reserve takes one part of so many


class Reserve:
    """A file of zeros beside an owner's database.

    The database may grow by half of `size` before what is in its log has to be carried over. So
    when the disk is full, giving up the reserve makes room for that, and the log's own space is
    free again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0  # bytes held
        self._wanted = 0

    def make(self) -> None:
        """Take the space, unless it is held already.

        Raises:
            OSError: there is not enough.
        """
        if self.size:
            return
        if not self._wanted:
            disk = os.statvfs(self.path.parent)
            self._wanted = max(SMALLEST, min(LARGEST, disk.f_bavail * disk.f_frsize // _SHARE))
        size = self._wanted
        fd = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, bytes(size)) != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self.release()
            raise
        finally:
            os.close(fd)
        self.size = size

    def release(self) -> None:
        """Give the space back."""
        self.size = 0
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
