"""Bochs: the catalog of a growing disk.

Source: as in ``mntapi.images.bochs``.
"""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks import read_clipped
from mntapi.images.blockmap import Table
from mntapi.images.bochs import parse_header
from mntapi.images.checking.blocktable import Place, table_faults
from mntapi.images.checking.fault import Fault
from mntapi.images.checking.occupied import Occupied
from mntapi.images.formats import Chain
from mntapi.types import FileBlocks
from mntapi.units import SECTOR

_UNUSED = 0xFFFFFFFF


def faults(file: FileBlocks, chain: Chain) -> Iterator[Fault]:
    """What is wrong with one file. Raises what its parsers raise where nothing further can be said."""
    header = parse_header(read_clipped(file, 0, SECTOR), file.path)
    usable = min(header.catalog_count, max(0, file.size - header.catalog_offset) // 4)
    if usable < header.catalog_count:
        yield Fault(file.path, 72, f"the catalog is outside the file: {header.catalog_count} entries")
    table = Table(file, header.catalog_offset, usable, width=4, order="little", absent=_UNUSED, blank=b"\xff")
    stride = header.bitmap_size + header.extent_size
    data_at = header.catalog_offset + 4 * header.catalog_count
    occupied = Occupied(stride)

    def place_of(index: int, entry: int) -> Place | str:
        stored = min(header.extent_size, max(0, header.disk_size - index * header.extent_size))
        end = data_at + entry * stride + header.bitmap_size + stored
        if end > file.size:
            return f"extent {index} is outside the file: it ends at {end}, the file at {file.size}"
        return Place(entry * stride, min(stride, file.size - entry * stride))

    yield from table_faults(file, file.path, table, usable, place_of, occupied)
    yield from occupied.note(file.path)
