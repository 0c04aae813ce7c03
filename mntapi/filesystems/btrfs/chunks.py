"""Chunks: which bytes of the volume a logical address stands for.

A file system on one device has each chunk once (SINGLE) or twice (DUP). The chunk that an address lies in is looked up in the
chunk tree when it is needed; the chunk tree itself lies in chunks that the superblock lists.

Source: btrfs documentation, "On-disk Format", section "Chunk item"; fs/btrfs/tree-checker.c ``btrfs_check_chunk_valid``.
"""

from __future__ import annotations

import struct
import threading
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.btrfs.superblock import CHUNKS_AT, Superblock

if TYPE_CHECKING:
    from mntapi.filesystems.btrfs.tree import Tree

OBJECT = 256
CHUNK_ITEM = 228
MAX_KEPT = 4096
"""Chunks that are remembered; a chunk is at least 8 MiB, mostly 1 GiB."""
_CONTENTS = 0x7
_PROFILES = 0x7F8
_COPIES = {0: 1, 0x8: 1, 0x20: 2, 0x10: 2, 0x200: 3, 0x400: 4}
"""Copies in a chunk by its profile: SINGLE, RAID0 (over one device the same), DUP, RAID1, RAID1C3, RAID1C4."""
_KEY = struct.Struct("<QBQ")
_CHUNK = struct.Struct("<Q 16x Q 12x 2H")
_STRIPE = struct.Struct("<2Q 16x")


class Chunk(NamedTuple):
    """``length`` bytes from ``logical`` on. ``copies``: where each copy begins on the volume."""

    logical: int
    length: int
    copies: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.logical + self.length


class Chunks(Protocol):
    """What finds the chunk of an address."""

    def find(self, logical: int, at: int) -> Chunk:
        """The chunk that the address lies in; ``at`` is the byte on the volume that names the address, for errors.

        Raises:
            Corrupt: there is none, or the chunk tree is damaged.
            Unsupported: it is on other devices.
        """


def parse_chunk(logical: int, raw: bytes, at: int, device: int) -> Chunk:
    """A chunk item.

    Args:
        logical: its key's offset.
        raw: the item; more may follow it.
        at: its byte on the volume, for errors.
        device: the number of the only device there is.

    Raises:
        Corrupt: its numbers are impossible.
        Unsupported: it is striped, or on another device.
    """
    if len(raw) < _CHUNK.size + _STRIPE.size:
        raise Corrupt("a chunk item is cut off", offset=at, expected=f"{_CHUNK.size + _STRIPE.size} bytes", found=len(raw))
    length, kind, count, _ = _CHUNK.unpack_from(raw)
    if not 0 < length <= (1 << 64) - logical or not kind & _CONTENTS:
        raise Corrupt("a chunk of impossible size or kind", offset=at, found=f"{length} bytes of kind {kind:#x}")
    copies = _COPIES.get(kind & _PROFILES)
    if copies is None or (kind & _PROFILES == 0x8 and count > 1):
        raise Unsupported(
            "a chunk is striped over devices", offset=at, found=f"profile {kind & _PROFILES:#x}", reason="several-devices"
        )
    if count != copies or len(raw) < _CHUNK.size + count * _STRIPE.size:
        raise Corrupt("a chunk with the wrong number of copies", offset=at, expected=copies, found=count)
    stripes = [_STRIPE.unpack_from(raw, _CHUNK.size + index * _STRIPE.size) for index in range(count)]
    here = tuple(start for number, start in stripes if number == device)
    if not here:
        raise Unsupported(
            "a chunk lies on another device", offset=at, expected=device, found=stripes[0][0], reason="several-devices"
        )
    return Chunk(logical, length, here)


class SystemChunks:
    """The chunks in the superblock."""

    def __init__(self, superblock: Superblock) -> None:
        self._chunks: list[Chunk] = []
        raw, at = superblock.chunks, 0
        while at < len(raw):
            place = superblock.at + CHUNKS_AT + at
            if at + _KEY.size > len(raw):
                raise Corrupt("a chunk's key in the superblock is cut off", offset=place)
            number, kind, logical = _KEY.unpack_from(raw, at)
            if (number, kind) != (OBJECT, CHUNK_ITEM):
                raise Corrupt("no chunk in the superblock's list of chunks", offset=place, found=f"{number} {kind}")
            at += _KEY.size
            self._chunks.append(parse_chunk(logical, raw[at:], place + _KEY.size, superblock.device))
            at += _CHUNK.size + _CHUNK.unpack_from(raw, at)[2] * _STRIPE.size

    def find(self, logical: int, at: int) -> Chunk:
        for chunk in self._chunks:
            if chunk.logical <= logical < chunk.end:
                return chunk
        raise Corrupt("the chunk tree lies in no chunk that the superblock lists", offset=at, found=logical, reason="no-chunk")


class TreeChunks:
    """The chunks in the chunk tree, each remembered once it was found. Thread-safe."""

    def __init__(self, tree: Tree, device: int) -> None:
        self._tree = tree
        self._device = device
        self._known: list[Chunk] = []
        self._lock = threading.Lock()

    def find(self, logical: int, at: int) -> Chunk:
        with self._lock:
            index = bisect_right(self._known, (logical, 1 << 64)) - 1
            if index >= 0 and logical < self._known[index].end:
                return self._known[index]
        chunk = self._search(logical, at)
        with self._lock:
            if len(self._known) >= MAX_KEPT:
                self._known.clear()
            index = bisect_right(self._known, chunk)
            if not index or self._known[index - 1] != chunk:
                self._known.insert(index, chunk)
        return chunk

    def _search(self, logical: int, at: int) -> Chunk:
        item = self._tree.floor((OBJECT, CHUNK_ITEM, logical))
        if item is not None and item.key[:2] == (OBJECT, CHUNK_ITEM):
            chunk = parse_chunk(item.key[2], item.raw, item.at, self._device)
            for other in self._tree.items((OBJECT, CHUNK_ITEM, chunk.logical + 1), (OBJECT, CHUNK_ITEM, chunk.end - 1)):
                raise Corrupt("chunks overlap", offset=other.at, expected=f"byte {chunk.end} or later", found=other.key[2])
            if logical < chunk.end:
                return chunk
        raise Corrupt("a logical address in no chunk", offset=at, found=logical, reason="no-chunk")
