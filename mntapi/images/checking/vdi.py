"""VDI: the block table, and the count of blocks in the header.

Source: as in ``mntapi.images.vdi``; that the header counts the blocks in use: open documentation of qemu (block/vdi.c).
"""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks import read_clipped
from mntapi.images.blockmap import Table
from mntapi.images.checking.blocktable import Place, table_faults
from mntapi.images.checking.fault import Fault
from mntapi.images.checking.occupied import Occupied
from mntapi.images.formats import Chain
from mntapi.images.vdi import MAGIC_AT, parse_header
from mntapi.types import FileBlocks

_UNUSED, _ZEROS = 0xFFFFFFFF, 0xFFFFFFFE
_HEADER_BYTES = 0x1C8
_ALLOCATED_AT = 0x184


def faults(file: FileBlocks, chain: Chain) -> Iterator[Fault]:
    """What is wrong with one file. Raises what its parsers raise where nothing further can be said."""
    header = parse_header(read_clipped(file, MAGIC_AT, _HEADER_BYTES), file.path)
    table_end = header.table_offset + 4 * header.block_count
    if not MAGIC_AT < header.table_offset <= table_end <= min(header.data_offset, file.size):
        what = f"the block table, {header.table_offset} to {table_end}, lies over the data at {header.data_offset} or outside"
        yield Fault(file.path, 0x154, what)
    usable = min(header.block_count, max(0, file.size - header.table_offset) // 4)
    table = Table(file, header.table_offset, usable, width=4, order="little", absent=_UNUSED, blank=b"\xff")
    stride = header.block_size + header.block_extra
    occupied = Occupied(stride)
    used = 0

    def place_of(index: int, entry: int) -> Place | str | None:
        nonlocal used
        if entry == _ZEROS:
            return None
        used += 1
        start = header.data_offset + entry * stride
        end = start + header.block_extra + min(header.block_size, max(0, header.disk_size - index * header.block_size))
        if end > file.size:
            return f"block {index} is outside the file: it ends at {end}, the file at {file.size}"
        return Place(entry * stride, min(stride, file.size - entry * stride))

    yield from table_faults(file, file.path, table, usable, place_of, occupied)
    allocated = int.from_bytes(read_clipped(file, _ALLOCATED_AT, 4), "little")
    if allocated != used:
        yield Fault(file.path, _ALLOCATED_AT, f"the header counts {allocated} blocks in use, the block table {used}")
    yield from occupied.note(file.path)
