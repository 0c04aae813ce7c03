"""The block table (BAT), and the sector bitmaps of a differencing disk.

The table lists the payload blocks in order; after every ``chunk_ratio`` of them comes the entry of the 1 MiB block with their
sector bitmap, the first sector in the lowest bit. Source: [MS-VHDX] 2.4, 2.5.
"""

from __future__ import annotations

from mntapi.blocks import read
from mntapi.errors import Corrupt
from mntapi.images.blockmap import ABSENT, ZERO, Partial, Table
from mntapi.images.vhdx.metadata import Metadata
from mntapi.images.vhdx.structures import Region
from mntapi.types import Blocks
from mntapi.units import MIB

NOT_PRESENT = 0
UNDEFINED = 1
ZEROS = 2
UNMAPPED = 3
FULLY_PRESENT = 6
PARTIALLY_PRESENT = 7
_STATE = 7
_IS_STORED = 4
"""The bit of the state that no other states have; without a parent these are zeros all."""
_OFFSET_SHIFT = 20
_BITMAP_SECTORS = 1 << 23
"""Sectors that a sector bitmap block describes."""
_BITS = tuple(f"{byte:08b}"[::-1].encode() for byte in range(256))


class VhdxLayout:
    """Where the blocks of ``file`` are; see ``mntapi.images.blockmap.Layout``. Borrows ``file``, whose log was replayed."""

    def __init__(self, file: Blocks, path: str, region: Region, metadata: Metadata) -> None:
        self._file = file
        self._path = path
        self._disk_size = metadata.disk_size
        self._block_size = metadata.block_size
        self._ratio = _BITMAP_SECTORS * metadata.sector_size // metadata.block_size
        self._bitmap_bytes = metadata.block_size // metadata.sector_size // 8
        self._has_parent = metadata.parent is not None
        count = _entry_count(metadata, self._ratio)
        if count * 8 > region.length:
            raise Corrupt(
                "the block table is too short for the disk",
                path=path,
                offset=region.offset,
                expected=f"at least {count * 8} bytes",
                found=region.length,
                reason="block-table",
            )
        self._table = Table(
            file,
            region.offset,
            count,
            width=8,
            order="little",
            absent=NOT_PRESENT,
            mask=_STATE if self._has_parent else _IS_STORED,
            blank=b"\0" if self._has_parent else b"\0\1\2\3",
        )

    def locate(self, index: int) -> int | Partial:
        at = index + index // self._ratio
        entry = self._table[at]
        state = entry & _STATE
        if state == FULLY_PRESENT:
            return self._place(entry, at, min(self._block_size, self._disk_size - index * self._block_size))
        if state == NOT_PRESENT:
            return ABSENT
        if state in (UNDEFINED, ZEROS, UNMAPPED):
            return ZERO  # of the answers the specification allows for the first and the last, the one that repeats
        if state == PARTIALLY_PRESENT and self._has_parent:
            data = self._place(entry, at, min(self._block_size, self._disk_size - index * self._block_size))
            stored = self._stored(index)
            return Partial(data, stored) if b"0" in stored else data
        raise self._corrupt(f"block {index} is in a state it cannot have", at, found=state)

    def _stored(self, index: int) -> bytes:
        """``0`` or ``1`` for each sector of a block."""
        chunk, block = divmod(index, self._ratio)
        at = chunk * (self._ratio + 1) + self._ratio
        entry = self._table[at]
        if entry & _STATE != FULLY_PRESENT:
            raise self._corrupt(f"block {index} has no sector bitmap", at, expected=FULLY_PRESENT, found=entry & _STATE)
        bitmap = read(self._file, self._place(entry, at, MIB) + block * self._bitmap_bytes, self._bitmap_bytes)
        return b"".join([_BITS[byte] for byte in bitmap])

    def _place(self, entry: int, at: int, length: int) -> int:
        """Where an entry's block is, ``length`` bytes of which are needed."""
        offset = entry >> _OFFSET_SHIFT << _OFFSET_SHIFT
        if offset < MIB or offset + length > self._file.size:
            raise self._corrupt("a block is outside the file", at, expected=f"{MIB} to {self._file.size}", found=offset)
        return offset

    def _corrupt(self, what: str, at: int, *, expected: object = None, found: object = None) -> Corrupt:
        place = self._table.offset_of(at)
        return Corrupt(what, path=self._path, offset=place, expected=expected, found=found, reason="block-table")

    def next_present(self, index: int, end: int) -> int:
        at = self._table.next_present(index + index // self._ratio, end + end // self._ratio)
        chunk, block = divmod(at, self._ratio + 1)
        return min(end, chunk * self._ratio + block)


def _entry_count(metadata: Metadata, ratio: int) -> int:
    """Entries of the table: that of a disk without a parent ends with the last payload block, without its bitmap."""
    blocks = -(-metadata.disk_size // metadata.block_size)
    if metadata.parent is not None:
        return -(-blocks // ratio) * (ratio + 1)
    return blocks + (blocks - 1) // ratio if blocks else 0
