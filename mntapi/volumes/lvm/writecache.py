"""Volumes with a write cache: blocks on a fast device that are newer than the origin.

The fast device begins with a superblock, then comes an entry for each of its blocks: which sector of the origin it holds, and
in which commit it was written. What was written since the last commit does not count, and of two blocks for one sector, which
a power cut may leave, the one of the later commit does. All blocks that count are read from the fast device.

Source: Linux Documentation/admin-guide/device-mapper/writecache.rst; drivers/md/dm-writecache.c (``struct
wc_memory_superblock``, ``init_memory``, ``writecache_resume``).
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from mntapi.blocks import read
from mntapi.errors import Corrupt, Unsupported
from mntapi.types import Blocks
from mntapi.units import KIB, MIB, SECTOR, align_up
from mntapi.volumes.lvm.chunks import ChunkTable, Later, Overlaid

_SUPERBLOCK = struct.Struct("<IIII QQ")  # magic, version, bytes in a block, unused, blocks, number of the next commit
_MAGIC = 0x23489321
_VERSION = 1
_ENTRIES_AT = 64
_ENTRY = struct.Struct("<QQ")  # sector of the origin, commit
_MAX_BLOCK = 64 * KIB
_STEP = MIB
"""Bytes of entries that are read at a time."""

MAX_BLOCKS = 1 << 26
"""Blocks of the fast device: 256 GiB with blocks of 4 KiB."""


@dataclass(frozen=True, slots=True)
class Superblock:
    """How many blocks of how many bytes, and the number of the first commit that does not count."""

    block: int
    count: int
    commit: int

    @property
    def data_start(self) -> int:
        """Where block 0 is, in bytes."""
        return align_up(_ENTRIES_AT + self.count * _ENTRY.size, self.block)


def parse_superblock(content: bytes) -> Superblock | None:
    """The superblock at the start of the fast device; None where the kernel has not yet made one, and so nothing is cached.

    Raises:
        Corrupt: it is none.
        Unsupported: another version, or more than ``MAX_BLOCKS``.
    """
    magic, version, block, _, count, commit = _SUPERBLOCK.unpack_from(content)
    if not magic and not version:
        return None
    if magic != _MAGIC:
        raise _corrupt("has no superblock", 0, f"{_MAGIC:08x}", f"{magic:08x}")
    if version != _VERSION:
        raise Unsupported("the write cache has another version", expected=_VERSION, found=version, reason="lvm-writecache")
    if not SECTOR <= block <= _MAX_BLOCK or block & (block - 1):
        raise _corrupt("has blocks of a size that cannot be", 8, f"a power of two up to {_MAX_BLOCK}", block)
    if count > MAX_BLOCKS:
        raise Unsupported(
            "the write cache has too many blocks", expected=f"at most {MAX_BLOCKS}", found=count, reason="too-many-chunks"
        )
    return Superblock(block, count, commit)


def write_cached(origin: Blocks, fast: Blocks) -> Blocks:
    """The volume. Borrows both; reads only the superblock when it is made.

    Args:
        origin: the slow device, as long as the volume.
        fast: the fast device, its superblock first.

    Raises:
        Corrupt, Unsupported: as ``parse_superblock``, or the cache is larger than its device.
        MntapiError: it cannot be read.
    """
    if fast.size < _ENTRIES_AT:
        raise _corrupt("is too short for a superblock", 0, _ENTRIES_AT, fast.size)
    superblock = parse_superblock(read(fast, 0, _SUPERBLOCK.size))
    if superblock is None:
        return origin
    end = superblock.data_start + superblock.count * superblock.block
    if end > fast.size:
        raise _corrupt("goes past the end of its device", 16, f"at most {fast.size}", end)
    return _WriteCached(origin, fast, superblock)


class _WriteCached(Overlaid):
    def __init__(self, origin: Blocks, fast: Blocks, superblock: Superblock) -> None:
        self._superblock = superblock
        self._table = Later(self._load)
        super().__init__(origin, fast, superblock.block, self._find_cached)

    def _find_cached(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        start, block = self._superblock.data_start, self._superblock.block
        for index, place in self._table.get().between(first, end):
            yield index, start + place * block

    def _load(self) -> ChunkTable:
        chunks = -(-self.size // self._chunk)
        return ChunkTable(chunks, self._superblock.count, self._committed(), "write cache", choose=self._later)

    def _committed(self) -> Iterator[tuple[list[int], list[int]]]:
        """All blocks that count, some at a time: blocks of the origin, and the blocks of the cache that have their content."""
        unit, commit = self._chunk // SECTOR, self._superblock.commit
        for first in range(0, self._superblock.count, _STEP // _ENTRY.size):
            count = min(_STEP // _ENTRY.size, self._superblock.count - first)
            numbers = array("Q", read(self._above, _ENTRIES_AT + first * _ENTRY.size, count * _ENTRY.size))
            if sys.byteorder == "big":
                numbers.byteswap()
            sectors = numbers[::2]
            places = [place for place, number in enumerate(numbers[1::2]) if number < commit]
            for place in places:
                if sectors[place] % unit:
                    at = _ENTRIES_AT + (first + place) * _ENTRY.size
                    raise _corrupt("has a block for a part of blocks", at, f"a multiple of {unit}", sectors[place])
            yield [sectors[place] // unit for place in places], [first + place for place in places]

    def _later(self, one: int, other: int) -> int:
        """Which of two blocks of the cache for one block of the origin counts."""
        (_, first), (_, second) = (
            _ENTRY.unpack(read(self._above, _ENTRIES_AT + place * _ENTRY.size, _ENTRY.size)) for place in (one, other)
        )
        if first == second:
            at = _ENTRIES_AT + other * _ENTRY.size
            raise _corrupt("has two blocks of one commit for the same sector", at, f"another than that of block {one}", first)
        return one if first > second else other


def _corrupt(what: str, offset: int, expected: object, found: object) -> Corrupt:
    return Corrupt(f"the write cache {what}", offset=offset, expected=expected, found=found, reason="lvm-writecache")
