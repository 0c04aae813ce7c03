"""The block table of a dynamic or differencing disk, and the bitmap in front of every block.

Each block is preceded by a bitmap of its sectors, the first sector in the highest bit. A sector whose bit is 0 was never
written: it is the parent's, and on a dynamic disk zeros. qemu reads such sectors from the block, which comes to the same for
what qemu and Hyper-V write; XenServer allocates blocks without clearing them, so there only the bitmap tells the guest's bytes
from what the storage held before.
"""

from __future__ import annotations

from mntapi.blocks import read
from mntapi.errors import Corrupt
from mntapi.images.blockmap import ABSENT, Partial, Table
from mntapi.images.vhd.structures import Header
from mntapi.types import FileBlocks
from mntapi.units import SECTOR, align_up

UNUSED = 0xFFFFFFFF


class DynamicLayout:
    """Where the blocks of ``file`` are; see ``mntapi.images.blockmap.Layout``."""

    def __init__(self, file: FileBlocks, header: Header, disk_size: int) -> None:
        self._file = file
        self._disk_size = disk_size
        self._block_size = header.block_size
        self._sectors = header.block_size // SECTOR
        self._bitmap_bytes = -(-self._sectors // 8)
        self._data_at = align_up(self._bitmap_bytes, SECTOR)
        self._table = Table(file, header.table_offset, header.table_count, width=4, order="big", absent=UNUSED, blank=b"\xff")

    def locate(self, index: int) -> int | Partial:
        entry = self._table[index]
        if entry == UNUSED:
            return ABSENT
        offset = entry * SECTOR
        data = offset + self._data_at
        end = data + min(self._block_size, self._disk_size - index * self._block_size)
        if entry == 0 or end > self._file.size:
            raise Corrupt(
                f"block {index} is outside the file",
                path=self._file.path,
                offset=self._table.offset_of(index),
                expected=f"{SECTOR} to {self._file.size}",
                found=f"{offset} to {end}",
                reason="block-outside",
            )
        stored = self._stored(offset)
        return data if stored is None else Partial(data, stored)

    def _stored(self, offset: int) -> bytes | None:
        """``0`` or ``1`` for each sector of the block whose bitmap is at ``offset``; None if all are stored."""
        bits = int.from_bytes(read(self._file, offset, self._bitmap_bytes), "big") >> (self._bitmap_bytes * 8 - self._sectors)
        if bits == (1 << self._sectors) - 1:
            return None
        return f"{bits:0{self._sectors}b}".encode()

    def next_present(self, index: int, end: int) -> int:
        return self._table.next_present(index, end)
