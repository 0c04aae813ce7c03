"""What each opcode does: a request in, the body of its reply written into a buffer. No threads, no descriptor.

A handler takes (node, request, reply) and returns the length of the body in bytes, or a negative errno where that is an
ordinary answer ("no holes from here on"); faults are raised. The whole request is given, its header included.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping

from mntapi.errors import NotFound
from mntapi.types import Blocks, ExtentKind, FileKind, Node
from mntapi_fuse import protocol
from mntapi_fuse.handles import Files, Listings
from mntapi_fuse.operations import Attributes, DirEntry, Operations, errno_of
from mntapi_fuse.protocol import Feature, Opcode
from mntapi_fuse.writing import UNKNOWN, Writer

Handler = Callable[[int, memoryview, memoryview], int]
_Packer = Callable[[DirEntry, int, memoryview, int, int], int]

NO_REPLY = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY})
"""The kernel waits for no answer to these. FORGET: node numbers are not counted. INTERRUPT: a read that has begun is finished,
and answered, as if nobody had lost patience; a late one finds nothing to interrupt (fs/fuse/dev.c takes both)."""

_HEADER_SIZE = protocol.HEADER.size

_REFUSED: Mapping[int, int] = {
    **dict.fromkeys(
        (
            Opcode.SETATTR, Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME,
            Opcode.RENAME2, Opcode.LINK, Opcode.WRITE, Opcode.SETXATTR, Opcode.REMOVEXATTR, Opcode.CREATE, Opcode.TMPFILE,
            Opcode.FALLOCATE, Opcode.COPY_FILE_RANGE,
        ),
        errno.EROFS,
    ),
    Opcode.IOCTL: errno.ENOTTY,
}  # fmt: skip
"""All other opcodes that have no handler are answered with ENOSYS. For FLUSH, FSYNC, ACCESS, POLL and BMAP the kernel takes
that as "fine, and do not ask again"."""


class Dispatcher:
    """Answers requests from ``operations``. Thread-safe."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._files = Files(operations.open)
        self._listings = Listings(operations.readdir)
        self._features = Feature(0)
        self._writer = None if operations.changes is None else Writer(operations)
        self._refused: Mapping[int, int] = _REFUSED
        self.max_request = protocol.REQUEST_SIZE
        """Bytes of the longest request."""
        self._handlers: dict[int, Handler] = {
            Opcode.INIT: self._init,
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.STATX: self._statx,
            Opcode.READLINK: self._readlink,
            Opcode.OPEN: self._open,
            Opcode.READ: self._read,
            Opcode.LSEEK: self._lseek,
            Opcode.RELEASE: self._release,
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.RELEASEDIR: self._done,
            Opcode.STATFS: self._statfs,
            Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.DESTROY: self._done,
        }
        if self._writer:
            self._handlers.update(self._writer.handlers)
            self._refused = {**_REFUSED, **UNKNOWN}
            self.max_request += protocol.MAX_WRITE

    def answer(self, opcode: int, node: int, request: memoryview, reply: memoryview) -> int:
        """Bytes put into ``reply``, or a negative errno. Never raises an Exception: this is the boundary of a FUSE operation.

        ``request`` is one whole message, ``reply`` has room for ``protocol.MAX_READ`` bytes.
        """
        handler = self._handlers.get(opcode)
        if handler is None:
            return -self._refused.get(opcode, errno.ENOSYS)
        try:
            return handler(node, request, reply)
        except Exception as error:  # noqa: BLE001 (the boundary)
            return -errno_of(error, handler.__name__)

    def close(self) -> None:
        """Close the files that are still open."""
        self._files.close()

    def _init(self, node: int, request: memoryview, reply: memoryview) -> int:
        init = protocol.parse_init(request[_HEADER_SIZE:])
        length = protocol.pack_init(init, reply, max_write=protocol.MAX_WRITE if self._writer else protocol.PAGE)
        self._features = init.features
        return length

    def _lookup(self, node: int, request: memoryview, reply: memoryview) -> int:
        name = bytes(request[_HEADER_SIZE:-1])
        if name == b".":  # how the kernel asks for a node that an NFS client still knows
            return protocol.pack_entry(self._operations.getattr(node), reply)
        try:
            return protocol.pack_entry(self._operations.lookup(node, name), reply)
        except NotFound:
            return protocol.pack_no_entry(reply)

    def _getattr(self, node: int, request: memoryview, reply: memoryview) -> int:
        return protocol.pack_attributes(self._operations.getattr(node), reply)

    def _statx(self, node: int, request: memoryview, reply: memoryview) -> int:
        return protocol.pack_statx(self._operations.getattr(node), reply)

    def _readlink(self, node: int, request: memoryview, reply: memoryview) -> int:
        return _put(self._operations.readlink(node), reply, protocol.TARGET_MAX, errno.ENAMETOOLONG)

    def _open(self, node: int, request: memoryview, reply: memoryview) -> int:
        (flags,) = protocol.OPEN_IN.unpack_from(request, _HEADER_SIZE)
        for_writing = flags & os.O_ACCMODE != os.O_RDONLY
        if self._writer:
            how = self._writer.open_flags(node, for_writing=for_writing)
        elif for_writing:
            return -errno.EROFS
        else:
            how = protocol.OPEN_KEEP_CACHE
        protocol.OPEN_OUT.pack_into(reply, 0, self._files.open(node), how)
        return protocol.OPEN_OUT.size

    def _read(self, node: int, request: memoryview, reply: memoryview) -> int:
        handle, offset, length = protocol.READ_IN.unpack_from(request, _HEADER_SIZE)
        blocks = self._files.get((node, handle)) or self._files.adopt(node, handle)
        count: int = min(length, blocks.size - offset, len(reply))
        if count <= 0:
            return 0  # the end of the file; anywhere else the kernel would take a short answer for it
        blocks.readinto(offset, reply[:count])
        return count

    def _lseek(self, node: int, request: memoryview, reply: memoryview) -> int:
        handle, offset, whence = protocol.LSEEK_IN.unpack_from(request, _HEADER_SIZE)
        blocks = self._files.get((node, handle)) or self._files.adopt(node, handle)
        kind = {os.SEEK_DATA: ExtentKind.DATA, os.SEEK_HOLE: ExtentKind.ZERO}.get(whence)
        if kind is None:
            return -errno.EINVAL
        found = _next(blocks, offset, kind)
        if found is None:
            return -errno.ENXIO
        protocol.LSEEK_OUT.pack_into(reply, 0, found)
        return protocol.LSEEK_OUT.size

    def _release(self, node: int, request: memoryview, reply: memoryview) -> int:
        (handle,) = protocol.RELEASE_IN.unpack_from(request, _HEADER_SIZE)
        self._files.release(node, handle)
        return 0

    def _opendir(self, node: int, request: memoryview, reply: memoryview) -> int:
        if Feature.NO_OPENDIR_SUPPORT in self._features:
            return -errno.ENOSYS  # the kernel then never asks again, and caches what it reads
        protocol.OPEN_OUT.pack_into(reply, 0, 0, protocol.OPEN_KEEP_CACHE | protocol.OPEN_CACHE_DIR)
        return protocol.OPEN_OUT.size

    def _readdir(self, node: int, request: memoryview, reply: memoryview) -> int:
        return self._list(node, request, reply, protocol.pack_dirent)

    def _readdirplus(self, node: int, request: memoryview, reply: memoryview) -> int:
        return self._list(node, request, reply, protocol.pack_direntplus)

    def _list(self, node: int, request: memoryview, reply: memoryview, pack: _Packer) -> int:
        """Positions are 1 after ``.``, 2 after ``..``, and then count the entries."""
        _handle, position, limit = protocol.READ_IN.unpack_from(request, _HEADER_SIZE)
        limit = min(limit, len(reply))
        end = 0
        if position < 2:
            itself = self._operations.getattr(node).node
            for number, dots in enumerate((b".", b"..")[position:], position + 1):
                end = pack(_dots(dots, itself), number, reply, end, limit)

        def put(entry: DirEntry, following: int) -> bool:
            nonlocal end
            before, end = end, pack(entry, following + 2, reply, end, limit)
            return end > before

        self._listings.fill(node, max(0, position - 2), put)
        return end

    def _statfs(self, node: int, request: memoryview, reply: memoryview) -> int:
        return protocol.pack_capacity(self._operations.statfs(), reply)

    def _getxattr(self, node: int, request: memoryview, reply: memoryview) -> int:
        if not self._operations.has_xattrs:
            return -errno.ENOSYS
        name = bytes(request[_HEADER_SIZE + protocol.GETXATTR_IN.size : -1])
        return _put_xattr(self._operations.getxattr(node, name), request, reply)

    def _listxattr(self, node: int, request: memoryview, reply: memoryview) -> int:
        if not self._operations.has_xattrs:
            return -errno.ENOSYS
        return _put_xattr(b"".join(name + b"\0" for name in self._operations.listxattr(node)), request, reply)

    def _done(self, node: int, request: memoryview, reply: memoryview) -> int:
        return 0


def _put(value: bytes, reply: memoryview, limit: int, too_long: int) -> int:
    if len(value) > limit:
        return -too_long
    reply[: len(value)] = value
    return len(value)


def _put_xattr(value: bytes, request: memoryview, reply: memoryview) -> int:
    """The value, or only its size where the caller gave no room at all."""
    (room,) = protocol.GETXATTR_IN.unpack_from(request, _HEADER_SIZE)
    if len(value) > protocol.XATTR_MAX:
        return -errno.E2BIG
    if room:
        return _put(value, reply, room, errno.ERANGE)
    protocol.GETXATTR_OUT.pack_into(reply, 0, len(value))
    return protocol.GETXATTR_OUT.size


def _next(blocks: Blocks, offset: int, kind: ExtentKind) -> int | None:
    """The first byte of that kind at or after ``offset``; the end of the file counts as a hole (lseek(2))."""
    if offset >= blocks.size:
        return None
    for extent in blocks.extents(offset, blocks.size - offset):
        if extent.kind is kind:
            return extent.offset
    return blocks.size if kind is ExtentKind.ZERO else None


def _dots(name: bytes, itself: Node) -> DirEntry:
    """``.`` or ``..``; node 0 tells the kernel to take the name only. The parent's inode number is not known here."""
    return DirEntry(
        name, Attributes(0, itself if itself.kind is FileKind.DIRECTORY else Node(itself.inode, FileKind.DIRECTORY, 0))
    )
