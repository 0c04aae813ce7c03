"""Parallels: the block table, and what lies behind the last block.

Source: as in ``mntapi.images.parallels``.
"""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks import read_clipped
from mntapi.images.blockmap import Table
from mntapi.images.checking.blocktable import Place, table_faults
from mntapi.images.checking.fault import Fault, Severity
from mntapi.images.checking.occupied import Occupied
from mntapi.images.formats import Chain
from mntapi.images.parallels import TABLE_AT, parse_header
from mntapi.types import FileBlocks
from mntapi.units import SECTOR

_IN_USE_AT = 44
_IN_USE = 0x746F6E59
_DATA_AT = 48


def faults(file: FileBlocks, chain: Chain) -> Iterator[Fault]:
    """What is wrong with one file. Raises what its parsers raise where nothing further can be said."""
    head = read_clipped(file, 0, TABLE_AT)
    header = parse_header(head, file.path)
    usable = min(header.entry_count, max(0, file.size - TABLE_AT) // 4)
    if usable < header.entry_count:
        yield Fault(file.path, 32, f"the block table is outside the file: {header.entry_count} entries")
    if int.from_bytes(head[_IN_USE_AT : _IN_USE_AT + 4], "little") == _IN_USE:
        yield Fault(file.path, _IN_USE_AT, "was not closed by its last writer", Severity.NOTE)
    table = Table(file, TABLE_AT, usable, width=4, order="little", absent=0, blank=b"\0")
    occupied = Occupied(SECTOR)
    occupied.take(0, TABLE_AT + 4 * usable)
    end = max(TABLE_AT + 4 * usable, int.from_bytes(head[_DATA_AT : _DATA_AT + 4], "little") * SECTOR)

    def place_of(index: int, entry: int) -> Place:
        nonlocal end
        start = entry * header.unit
        end = max(end, start + header.block_size)
        return Place(start, min(header.block_size, max(0, header.disk_size - index * header.block_size)))

    yield from table_faults(file, file.path, table, usable, place_of, occupied)
    if file.size > end:
        yield Fault(file.path, end, f"{file.size - end} bytes behind the last block belong to nothing", Severity.LEAK)
    yield from occupied.note(file.path)
