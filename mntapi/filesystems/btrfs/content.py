"""The contents of a file, mapped anew on every read: nothing of it is kept but the extents that were unpacked last.

Source: btrfs documentation, "On-disk Format", section "Extent data"; fs/btrfs/inode.c ``btrfs_get_extent``.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from mntapi.blocks import check_range, merged
from mntapi.blocks.zero import fill
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.filesystems.btrfs.compression import unpacked
from mntapi.filesystems.btrfs.data import Data
from mntapi.filesystems.btrfs.items import FileExtent, Stored, Type, parse_extent
from mntapi.filesystems.btrfs.tree import Tree
from mntapi.types import Extent, ExtentKind
from mntapi.units import MIB

KEPT = 4 * MIB
"""Bytes of unpacked extents that are kept, of all files of a file system."""


class Piece(NamedTuple):
    """``length`` bytes of a file: from byte ``within`` of the extent on, or zeros where that is None."""

    length: int
    extent: FileExtent | None
    within: int = 0


class Extents:
    """Where the bytes of an inode are."""

    def __init__(self, tree: Tree, inode: int, sector_size: int) -> None:
        self._tree = tree
        self._inode = inode
        self._sector_size = sector_size

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        """The range cut at the borders of extents. What no extent covers is a hole, whether or not the file system says so.

        Raises:
            Corrupt: extents overlap, or the tree is damaged there.
            ReadFailed: it cannot be read.
        """
        end = offset + length
        previous = 0
        for extent in self._between(offset, end):
            if extent.start < previous:
                raise Corrupt(
                    "extents of a file overlap", offset=extent.at, expected=f"byte {previous} or later", found=extent.start
                )
            previous = extent.end
            if extent.end <= offset:
                continue
            if extent.start > offset:
                yield Piece(extent.start - offset, None)
                offset = extent.start
            count = min(extent.end, end) - offset
            yield Piece(count, None if extent.is_zeros else extent, offset - extent.start)
            offset += count
        if offset < end:
            yield Piece(end - offset, None)

    def _between(self, offset: int, end: int) -> Iterator[FileExtent]:
        """The extents that may have to do with the range, in order."""
        if offset >= end:
            return
        before = self._tree.floor((self._inode, Type.EXTENT_DATA, offset))
        if before is not None and before.key[:2] == (self._inode, Type.EXTENT_DATA):
            offset = before.key[2]
        for item in self._tree.items((self._inode, Type.EXTENT_DATA, offset), (self._inode, Type.EXTENT_DATA, end - 1)):
            yield parse_extent(item, self._sector_size)


class Unpacker:
    """Unpacks extents, and keeps those last used: a file is read in pieces smaller than they are. Thread-safe."""

    def __init__(self, data: Data, sector_size: int) -> None:
        self._data = data
        self._sector_size = sector_size
        self._kept: OrderedDict[tuple[int, int, int, int, bool], bytes] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def content(self, extent: FileExtent, *, verify: bool) -> bytes:
        """All that a compressed extent unpacks to.

        Raises:
            Corrupt, ReadFailed, Unsupported: as ``unpacked`` and ``Data.readinto``, with the byte on the volume.
        """
        key = (extent.stored, extent.stored_length, extent.unpacked, extent.compression, verify)
        if extent.kind == Stored.INLINE:
            return self._unpacked(extent, extent.content)
        with self._lock:
            content = self._kept.get(key)
            if content is not None:
                self._kept.move_to_end(key)
                return content
        packed = bytearray(extent.stored_length)
        self._data.readinto(extent.stored, memoryview(packed), verify=verify, at=extent.at)
        content = self._unpacked(extent, bytes(packed))
        self._keep(key, content)
        return content

    def _unpacked(self, extent: FileExtent, packed: bytes) -> bytes:
        try:
            return unpacked(extent.compression, packed, extent.unpacked, self._sector_size)
        except MntapiError as error:
            error.offset = extent.at  # it knows bytes only, not where they are from
            raise

    def _keep(self, key: tuple[int, int, int, int, bool], content: bytes) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = content
                self._held += len(content)
            while self._held > KEPT:
                self._held -= len(self._kept.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget all of it."""
        with self._lock:
            self._kept.clear()
            self._held = 0


class FileContent:
    """The first ``size`` bytes of a file as ``Blocks``. Borrows everything. ``verify``: whether its data has checksums."""

    sector_size = 512

    def __init__(self, extents: Extents, size: int, data: Data, unpacker: Unpacker, *, verify: bool) -> None:
        self.size = size
        self._extents = extents
        self._data = data
        self._unpacker = unpacker
        self._verify = verify

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        done = 0
        for piece in self._extents.pieces(offset, len(buffer)):
            self._piece(piece, buffer[done : done + piece.length])
            done += piece.length

    def _piece(self, piece: Piece, part: memoryview) -> None:
        extent = piece.extent
        if extent is None:
            fill(part)
            return
        start = extent.within + piece.within
        if extent.encoding:
            raise Unsupported("an extent is encrypted or encoded", offset=extent.at, found=extent.encoding, reason="encryption")
        if extent.compression:
            part[:] = self._unpacker.content(extent, verify=self._verify)[start : start + len(part)]
        elif extent.kind == Stored.INLINE:
            part[:] = extent.content[start : start + len(part)]
        else:
            self._data.readinto(extent.stored + start, part, verify=self._verify, at=extent.at)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return merged(self._kinds(offset, length))

    def _kinds(self, offset: int, length: int) -> Iterator[Extent]:
        for piece in self._extents.pieces(offset, length):
            yield Extent(offset, piece.length, ExtentKind.ZERO if piece.extent is None else ExtentKind.DATA)
            offset += piece.length

    def close(self) -> None:
        """Nothing to release."""
