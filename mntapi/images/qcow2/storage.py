"""The one file of this package that is open for writing: an overlay, never an original."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from array import array
from typing import Literal

from mntapi.errors import Busy, Corrupt, Failed, Invalid, MntapiError


class Storage:
    """A regular file, open for reading and writing, that nobody else writes. Owns the descriptor once it exists."""

    def __init__(self, fd: int, path: str) -> None:
        """Take over ``fd``; on an error it stays the caller's.

        Raises:
            Invalid: it is no regular file that is open for reading and writing.
            Busy: somebody has it locked.
        """
        is_writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        if not is_writable or not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Invalid("an overlay is a regular file open for reading and writing", path=path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Busy("the overlay is in use", path=path, hint="mntapi ps shows by whom", reason="overlay-in-use") from error
        self._fd = fd
        self._is_lost = False
        self.path = path

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self.fileno()).st_size

    def fileno(self) -> int:
        """The descriptor. Raises Invalid when closed."""
        if self._fd < 0:
            raise Invalid("is closed", path=self.path)
        return self._fd

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer``. Raises Corrupt where the file ends before, Failed when the system fails."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self.fileno(), [buffer[done:]], offset + done)
            except OSError as error:
                raise self.failed("read", error, offset) from error
            if count == 0:
                raise Corrupt("ends where there should be a cluster", path=self.path, offset=offset + done, reason="truncated")
            done += count

    def write(self, offset: int, content: memoryview | bytes) -> None:
        """Write all of ``content``. Raises Failed, with the errno of the system (ENOSPC stays ENOSPC)."""
        view, done = memoryview(content), 0
        while done < len(view):
            try:
                done += os.pwrite(self.fileno(), view[done:], offset + done)
            except OSError as error:
                raise self.failed("written", error, offset + done) from error

    def sync(self) -> None:
        """Return when all that was written is on the medium. After one failure every call fails: the kernel drops what it could
        not write and forgets about it, so a later success would say nothing."""
        if self._is_lost:
            raise Failed("an earlier sync failed, so what was written since the one before may be lost", path=self.path)
        try:
            os.fdatasync(self.fileno())
        except OSError as error:
            self._is_lost = True
            raise self.failed("synced", error, None) from error

    def read_numbers(self, kind: Literal["H", "Q"], offset: int, count: int) -> array[int]:
        """``count`` big-endian numbers of 2 (``H``) or 8 bytes (``Q``)."""
        numbers = array(kind, [0]) * count
        self.readinto(offset, memoryview(numbers).cast("B"))
        return _swapped(numbers)

    def write_numbers(self, offset: int, numbers: array[int]) -> None:
        """Write numbers as ``read_numbers`` reads them."""
        self.write(offset, _swapped(numbers[:]).tobytes())

    def failed(self, what: str, error: OSError, offset: int | None) -> MntapiError:
        """The system's error as ours, with its own errno."""
        number = error.errno or errno.EIO
        is_full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = "make room on the overlay's file system, or put the overlay on another" if is_full else None
        failed = Failed(f"cannot be {what}: {os.strerror(number)}", path=self.path, offset=offset, hint=hint)
        failed.errno = number
        return failed

    def close(self) -> None:
        """Close the descriptor, which gives up the lock."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def _swapped(numbers: array[int]) -> array[int]:
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
