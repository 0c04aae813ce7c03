"""What the opcodes do that change a file, for trees with ``changes``. Handlers are as in ``dispatch.py``.

Such a tree's files are all opened with ``FOPEN_DIRECT_IO``: a disk and a volume on it are two files over the same bytes, and
what the kernel kept of one would be wrong as soon as the other is written. Telling it to drop pages (``NOTIFY_INVAL_INODE``)
instead would have the serving thread wait for pages that wait for the serving thread. A loop device has a page cache of its
own above, so it loses nothing. Programs may still map a file shared (``DIRECT_IO_ALLOW_MMAP``, Linux 6.6 and later): the
kernel keeps such pages in step with reads and writes of the same file, and takes them anew with each mapping; what is written
to the other file is not seen in a mapping that was there before.

A write is in the overlay when it is answered, and on the medium when an FSYNC, or the FLUSH of a ``close``, has been answered.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from mntapi.blocks.writable import zero_out
from mntapi.errors import Invalid, MntapiError
from mntapi.health import Health
from mntapi_fuse import protocol
from mntapi_fuse.operations import Operations, ReadOnly
from mntapi_fuse.protocol import Opcode

_HEADER_SIZE = protocol.HEADER.size
_PUNCH = protocol.FALLOCATE_PUNCH_HOLE | protocol.FALLOCATE_KEEP_SIZE
_ZERO = (protocol.FALLOCATE_ZERO_RANGE, protocol.FALLOCATE_ZERO_RANGE | protocol.FALLOCATE_KEEP_SIZE)

UNKNOWN: Mapping[int, int] = {Opcode.COPY_FILE_RANGE: errno.ENOSYS}
"""Answers to opcodes without a handler that are others than those of a read-only tree: the kernel then copies by itself."""
_CALM = 64
"""Writes in a row that must have succeeded before a full overlay counts as one with room again."""


class Writer:
    """The handlers. Thread-safe."""

    def __init__(self, operations: Operations) -> None:
        """``operations`` must have ``changes``, and keep having them."""
        changes = operations.changes
        if changes is None:
            raise ReadOnly("nothing in this tree can be written")
        self._operations = operations
        self._changes = changes
        self._health = Health("writing", calm=_CALM)
        self.handlers: Mapping[int, Callable[[int, memoryview, memoryview], int]] = {
            Opcode.WRITE: self._write,
            Opcode.FSYNC: self._flush,
            Opcode.FLUSH: self._flush,
            Opcode.FALLOCATE: self._fallocate,
            Opcode.SETATTR: self._setattr,
        }

    def open_flags(self, node: int, *, for_writing: bool) -> int:
        """What to tell the kernel of a file that is being opened. Raises ReadOnly where it cannot be written."""
        if for_writing and not self._changes.is_writable(node):
            raise ReadOnly("cannot be written")
        return protocol.OPEN_DIRECT_IO | (0 if for_writing else protocol.OPEN_NOFLUSH)

    def _write(self, node: int, request: memoryview, reply: memoryview) -> int:
        """Like a disk, a file does not grow: past its end there is no space."""
        _handle, offset, length = protocol.WRITE_IN.unpack_from(request, _HEADER_SIZE)
        content = request[_HEADER_SIZE + protocol.WRITE_IN.size :]
        if len(content) != length:
            raise Invalid("a WRITE without all its bytes", expected=length, found=len(content))
        blocks = self._changes.change(node)
        count: int = min(length, max(0, blocks.size - offset))
        if count:
            with self._noted():
                blocks.write(offset, content[:count])
        elif length:
            return -errno.ENOSPC
        protocol.WRITE_OUT.pack_into(reply, 0, count)
        return protocol.WRITE_OUT.size

    def _flush(self, node: int, request: memoryview, reply: memoryview) -> int:
        with self._noted():
            self._changes.flush(node)
        return 0

    def _fallocate(self, node: int, request: memoryview, reply: memoryview) -> int:
        """Holes and zeros, as a loop device asks for them to discard and to write zeros. Reserving space cannot be promised."""
        _handle, offset, length, mode = protocol.FALLOCATE_IN.unpack_from(request, _HEADER_SIZE)
        blocks = self._changes.change(node)
        if mode != _PUNCH and mode not in _ZERO:
            return -errno.EOPNOTSUPP
        end = min(offset + length, blocks.size)
        if mode == protocol.FALLOCATE_ZERO_RANGE and end < offset + length:
            return -errno.ENOSPC
        if offset < end:
            with self._noted():
                zero_out(blocks, offset, end - offset)
        return 0

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Tell who looks after the mount how changing something went: programs see an error, and may not say."""
        try:
            yield
        except MntapiError as error:
            where = f"{error.path}: " if error.path else ""
            self._health.failed(f"writes fail: {where}{error.what}")
            raise
        self._health.worked()

    def _setattr(self, node: int, request: memoryview, reply: memoryview) -> int:
        """Truncating a file to the size it has; nothing else of a disk can be set."""
        valid, _handle, size = protocol.SETATTR_IN.unpack_from(request, _HEADER_SIZE)
        if not self._changes.is_writable(node):
            return -errno.EROFS
        attributes = self._operations.getattr(node)
        is_same_size = valid & protocol.SETATTR_SIZE and size == attributes.node.size
        if valid & protocol.SETATTR_OWNER or not is_same_size:
            return -errno.EPERM
        return protocol.pack_attributes(attributes, reply)
