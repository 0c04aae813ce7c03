"""Chunks: which stripes on which devices a logical address stands for.

A chunk's profile says how it is spread: whole on one stripe, copied, cut into units in turn over the stripes, with parity. The
chunk that an address lies in is looked up in the chunk tree when it is needed; the chunk tree itself lies in chunks that the
superblock lists. While a file system is converted, chunks of several profiles are side by side.

Source: btrfs documentation, "On-disk Format", section "Chunk item"; fs/btrfs/tree-checker.c ``btrfs_check_chunk_valid``;
fs/btrfs/volumes.c ``btrfs_map_block`` and ``btrfs_raid_array``.
"""

from __future__ import annotations

import struct
import threading
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.btrfs.parity import MAX_DATA, Source, plain, rebuilt
from mntapi.filesystems.btrfs.superblock import CHUNKS_AT, Superblock
from mntapi.units import KIB

if TYPE_CHECKING:
    from mntapi.filesystems.btrfs.tree import Tree

OBJECT = 256
CHUNK_ITEM = 228
MAX_KEPT = 4096
"""Chunks that are remembered; a chunk is at least 8 MiB, mostly 1 GiB."""
UNIT = 64 * KIB
"""Bytes on a stripe before the next one's turn. The kernel knows no other number."""
_CONTENTS = 0x7
_PROFILES = 0x7F8
_KEY = struct.Struct("<QBQ")
_CHUNK = struct.Struct("<Q 8x 2Q 12x 2H")
_STRIPE = struct.Struct("<2Q 16s")


class Profile(NamedTuple):
    """How a chunk is spread. ``copies``: of every byte. ``parities``: stripes of a row that hold parity."""

    name: str
    copies: int = 1
    parities: int = 0
    is_striped: bool = False

    def has_place_for(self, stripes: int) -> bool:
        """Whether a chunk of this profile may have so many stripes."""
        if not self.is_striped:
            return stripes == self.copies
        most = MAX_DATA if self.parities else stripes
        return self.copies + self.parities <= stripes <= most and stripes % self.copies == 0


PROFILES = {
    0x0: Profile("single"),
    0x8: Profile("RAID0", is_striped=True),
    0x10: Profile("RAID1", copies=2),
    0x20: Profile("DUP", copies=2),
    0x40: Profile("RAID10", copies=2, is_striped=True),
    0x80: Profile("RAID5", parities=1, is_striped=True),
    0x100: Profile("RAID6", parities=2, is_striped=True),
    0x200: Profile("RAID1C3", copies=3),
    0x400: Profile("RAID1C4", copies=4),
}
"""By the bit in the kind of a chunk."""


class Stripe(NamedTuple):
    """A chunk's part on a device: ``start`` is its first byte there."""

    device: int
    start: int
    uuid: bytes


class Piece(NamedTuple):
    """``length`` bytes, ``position`` bytes into what was asked for, that lie side by side at ``offset`` of one stripe, or of
    several that are copies. ``row`` and ``column``: which unit of the chunk that is."""

    position: int
    length: int
    offset: int
    row: int
    column: int


class Chunk(NamedTuple):
    """``length`` bytes from ``logical`` on."""

    logical: int
    length: int
    profile: Profile
    stripes: tuple[Stripe, ...]

    @property
    def end(self) -> int:
        return self.logical + self.length

    @property
    def _width(self) -> int:
        """Units of data in a row."""
        return (len(self.stripes) - self.profile.parities) // self.profile.copies if self.profile.is_striped else 1

    def pieces(self, logical: int, length: int) -> Iterator[Piece]:
        """A range of the chunk, cut where it goes on on another stripe."""
        unit, width = UNIT if self.profile.is_striped else self.length, self._width
        offset, done = logical - self.logical, 0
        while done < length:
            number, within = divmod(offset + done, unit)
            row, column = divmod(number, width)
            count = min(unit - within, length - done)
            yield Piece(done, count, row * unit + within, row, column)
            done += count

    def sources(self, piece: Piece) -> Iterator[Source]:
        """All ways to have the bytes of a piece, the plainest first."""
        copies, parities = self.profile.copies, self.profile.parities
        if not parities:
            yield from (plain(piece.column * copies + copy) for copy in range(copies))
            return
        count = len(self.stripes)  # each row begins one stripe further on, data first, then P and Q
        order = [(place + piece.row) % count for place in range(count)]
        data, parity = order[: count - parities], order[count - parities :]
        yield plain(data[piece.column])
        yield from rebuilt(data, piece.column, parity)


class Chunks(Protocol):
    """What finds the chunk of an address."""

    def find(self, logical: int, at: int) -> Chunk:
        """The chunk that the address lies in; ``at`` is the byte on the volume that names the address, for errors.

        Raises:
            Corrupt: there is none, or the chunk tree is damaged.
            Unsupported: it is of an unknown profile.
        """


def parse_chunk(logical: int, raw: bytes, at: int) -> Chunk:
    """A chunk item.

    Args:
        logical: its key's offset.
        raw: the item; more may follow it.
        at: its byte on the volume, for errors.

    Raises:
        Corrupt: its numbers are impossible.
        Unsupported: its profile is not known.
    """
    if len(raw) < _CHUNK.size + _STRIPE.size:
        raise Corrupt("a chunk item is cut off", offset=at, expected=f"{_CHUNK.size + _STRIPE.size} bytes", found=len(raw))
    length, unit, kind, count, across = _CHUNK.unpack_from(raw)
    if not 0 < length <= (1 << 64) - logical or not kind & _CONTENTS:
        raise Corrupt("a chunk of impossible size or kind", offset=at, found=f"{length} bytes of kind {kind:#x}")
    profile = PROFILES.get(kind & _PROFILES)
    if profile is None:
        raise Unsupported("a chunk of an unknown profile", offset=at, found=f"{kind & _PROFILES:#x}", reason="btrfs-profile")
    if not profile.has_place_for(count) or len(raw) < _CHUNK.size + count * _STRIPE.size:
        raise Corrupt("a chunk with the wrong number of stripes", offset=at, expected=f"those of {profile.name}", found=count)
    if profile.is_striped and (unit != UNIT or (profile.copies > 1 and across != profile.copies)):
        raise Corrupt(
            "a chunk with impossible stripes",
            offset=at,
            expected=f"{profile.copies} copies in units of {UNIT} bytes",
            found=f"{across} of {unit}",
        )
    stripes = (_STRIPE.unpack_from(raw, _CHUNK.size + index * _STRIPE.size) for index in range(count))
    return Chunk(logical, length, profile, tuple(Stripe(*fields) for fields in stripes))


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
            self._chunks.append(parse_chunk(logical, raw[at:], place + _KEY.size))
            at += _CHUNK.size + _CHUNK.unpack_from(raw, at)[3] * _STRIPE.size

    def find(self, logical: int, at: int) -> Chunk:
        for chunk in self._chunks:
            if chunk.logical <= logical < chunk.end:
                return chunk
        raise Corrupt("the chunk tree lies in no chunk that the superblock lists", offset=at, found=logical, reason="no-chunk")


class TreeChunks:
    """The chunks in the chunk tree, each remembered once it was found. Thread-safe."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
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
            chunk = parse_chunk(item.key[2], item.raw, item.at)
            for other in self._tree.items((OBJECT, CHUNK_ITEM, chunk.logical + 1), (OBJECT, CHUNK_ITEM, chunk.end - 1)):
                raise Corrupt("chunks overlap", offset=other.at, expected=f"byte {chunk.end} or later", found=other.key[2])
            if logical < chunk.end:
                return chunk
        raise Corrupt("a logical address in no chunk", offset=at, found=logical, reason="no-chunk")
