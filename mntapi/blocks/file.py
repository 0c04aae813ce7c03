"""A file or block device of the host, read in place and never written."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator, Sequence

from mntapi.blocks.base import check_range
from mntapi.errors import Busy, Corrupt, Denied, Invalid, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.types import Extent, ExtentKind

_BLKSSZGET = 0x1268
"""``_IO(0x12, 104)``, linux/fs.h: logical sector size of a block device."""
_IOV_MAX = 1024
"""Buffers that ``preadv`` takes (``UIO_MAXIOV``, linux/uio.h)."""


class HostFile:
    """A descriptor that is open for reading. Owns it: ``close`` closes it.

    Reads go straight to ``preadv``; holes are found with ``SEEK_DATA`` (lseek(2)). A file that got shorter since it was
    opened raises Corrupt instead of reading as zeros.
    """

    def __init__(self, fd: int, path: str, size: int, sector_size: int = 512) -> None:
        self._fd = fd
        self.path = path
        self.size = size
        self.sector_size = sector_size
        self._is_regular = stat.S_ISREG(os.fstat(fd).st_mode)

    @classmethod
    def open(cls, path: str) -> HostFile:
        """Open a regular file or block device read-only, without changing its access time where the system allows that.

        Raises:
            NotFound, Denied: as the system says.
            Unsupported: it is a folder, pipe, socket or character device (a pipe is not waited for).
        """
        try:
            fd = _open_quietly(path)
        except OSError as error:
            raise translate(error, path) from error
        try:
            return cls.adopt(fd, path)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def adopt(cls, fd: int, path: str) -> HostFile:
        """Take over an open descriptor; ``path`` is for messages. On an error the descriptor stays the caller's."""
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise Unsupported("is a folder, not a disk", path=path)
        if stat.S_ISBLK(mode):
            return cls(fd, path, os.lseek(fd, 0, os.SEEK_END), _device_sector_size(fd))
        if not stat.S_ISREG(mode):
            raise Unsupported("is neither a regular file nor a block device", path=path)
        return cls(fd, path, os.fstat(fd).st_size)

    def fileno(self) -> int:
        """The descriptor; it stays owned by this object."""
        return self._fd

    def readinto(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        if offset < 0 or offset + length > self.size:
            check_range(self.size, offset, length)
        try:
            done = os.preadv(self._fd, [buffer], offset)
            while done < length:
                step = os.preadv(self._fd, [buffer[done:]], offset + done)
                if step == 0:
                    raise Corrupt("the file became shorter while it was open", path=self.path, offset=offset + done)
                done += step
        except OSError as error:
            raise translate(error, self.path, offset) from error

    def readv(self, offset: int, length: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers, of ``length`` bytes together, one after the other with the bytes at ``offset``: one system call.

        Raises as ``readinto``.
        """
        if offset < 0 or offset + length > self.size:
            check_range(self.size, offset, length)
        if len(buffers) <= _IOV_MAX:
            try:
                done = os.preadv(self._fd, buffers, offset)
            except OSError as error:
                raise translate(error, self.path, offset) from error
            if done == length:
                return
        for buffer in buffers:  # too many, or too few bytes came: one by one, until one raises and says where
            self.readinto(offset, buffer)
            offset += len(buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        end = offset + length
        while offset < end:
            data, hole = self._next_data(offset, end)
            if data > offset:
                yield Extent(offset, data - offset, ExtentKind.ZERO)
            if hole > data:
                yield Extent(data, hole - data, ExtentKind.DATA)
            offset = hole

    def _next_data(self, offset: int, end: int) -> tuple[int, int]:
        """First byte of data at or after ``offset``, and the first hole after it, both at most ``end``."""
        if not self._is_regular:
            return offset, end
        try:
            data = os.lseek(self._fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return end, end
            return offset, end
        if data >= end:
            return end, end
        return data, min(end, os.lseek(self._fd, data, os.SEEK_HOLE))

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def _open_quietly(path: str) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)  # O_NOATIME is for the owner and root only


def _device_sector_size(fd: int) -> int:
    size: int = struct.unpack("i", fcntl.ioctl(fd, _BLKSSZGET, b"\0" * 4))[0]
    return size


def translate(error: OSError, path: str, offset: int | None = None) -> MntapiError:
    """The system's error as one of ours, with its place."""
    text = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV) and offset is None:
        return NotFound("no such file", path=path)
    if error.errno in (errno.EACCES, errno.EPERM):
        return Denied("permission denied", path=path, offset=offset)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return Busy("no more files can be opened", path=path, hint="ulimit -n")
    if error.errno == errno.EBADF:
        return Invalid("is closed", path=path, offset=offset)
    return ReadFailed(f"cannot be read: {text}", path=path, offset=offset)
