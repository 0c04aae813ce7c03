"""VHDX: both headers, both region tables, the log, the metadata, the block table.

Source: as in ``mntapi.images.vhdx``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping

from mntapi.blocks import read_clipped
from mntapi.images.blockmap import Table
from mntapi.images.checking.blocktable import Place, table_faults
from mntapi.images.checking.fault import Fault, Severity
from mntapi.images.checking.occupied import Occupied
from mntapi.images.formats import Chain
from mntapi.images.vhdx import layout
from mntapi.images.vhdx.image import Structure, read_structure
from mntapi.images.vhdx.metadata import Metadata
from mntapi.images.vhdx.structures import (
    BAT,
    HEADER_SIZE,
    HEADERS_AT,
    METADATA,
    REGION_TABLE_SIZE,
    REGION_TABLES_AT,
    Region,
    has_right_checksum,
    parse_header,
    read_regions,
)
from mntapi.types import Blocks, FileBlocks
from mntapi.units import MIB

_NAMES = {BAT: "the block table", METADATA: "the metadata"}
_STATE = 7
_BITMAP_SECTORS = 1 << 23


def faults(file: FileBlocks, chain: Chain) -> Iterator[Fault]:
    """What is wrong with one file, its log replayed. Raises what its parsers raise where nothing further can be said."""
    yield from _header_faults(file)
    replayed, structure = read_structure(file)
    if structure.log:
        what = f"was not closed: its log has {len(structure.log)} entries, replayed in memory when it is read"
        yield Fault(file.path, structure.header.log_offset, what, Severity.NOTE)
    yield from _region_table_faults(replayed, file.path)
    occupied = Occupied(MIB)
    yield from _region_faults(file.path, structure, read_regions(replayed, file.path), occupied)
    yield from _block_faults(replayed, file.path, structure, occupied)
    yield from occupied.note(file.path)


def _header_faults(file: FileBlocks) -> Iterator[Fault]:
    for at in HEADERS_AT:
        if parse_header(read_clipped(file, at, HEADER_SIZE)) is None:
            yield Fault(file.path, at, "this copy of the header is damaged")


def _region_table_faults(file: Blocks, path: str) -> Iterator[Fault]:
    copies = [read_clipped(file, at, REGION_TABLE_SIZE) for at in REGION_TABLES_AT]
    good = [len(copy) == REGION_TABLE_SIZE and copy[:4] == b"regi" and has_right_checksum(copy) for copy in copies]
    for at, is_good in zip(REGION_TABLES_AT, good, strict=True):
        if not is_good:
            yield Fault(path, at, "this copy of the region table is damaged")
    if all(good) and copies[0] != copies[1]:
        yield Fault(path, REGION_TABLES_AT[1], "the two region tables say different things")


def _region_faults(path: str, structure: Structure, regions: Mapping[uuid.UUID, Region], occupied: Occupied) -> Iterator[Fault]:
    header = structure.header
    occupied.take(0, MIB)
    places = [(Region(header.log_offset, header.log_length), "the log")]
    places += [(region, _NAMES.get(guid, f"region {guid}")) for guid, region in regions.items()]
    for region, name in places:
        if region.offset % MIB or region.length % MIB:
            yield Fault(path, region.offset, f"{name} is not a multiple of 1 MiB: {region.length} bytes at {region.offset}")
        elif not occupied.take(region.offset, region.length):
            yield Fault(path, region.offset, f"{name} lies over another structure")


def _block_faults(file: Blocks, path: str, structure: Structure, occupied: Occupied) -> Iterator[Fault]:
    metadata, region = structure.metadata, structure.block_table
    ratio = _BITMAP_SECTORS * metadata.sector_size // metadata.block_size
    count = _entry_count(metadata, ratio)
    if 8 * count > region.length:
        yield Fault(path, region.offset, f"the block table is too short: {region.length} bytes for {count} entries")
        count = region.length // 8
    table = Table(file, region.offset, count, width=8, order="little", absent=0, mask=_STATE, blank=b"\0")
    has_parent = metadata.parent is not None

    def place_of(at: int, entry: int) -> Place | str | None:
        chunk, block = divmod(at, ratio + 1)
        state, start = entry & _STATE, entry >> 20 << 20
        if block == ratio:
            length = MIB
        else:
            index = chunk * ratio + block
            length = min(metadata.block_size, metadata.disk_size - index * metadata.block_size)
            if state in (layout.UNDEFINED, layout.ZEROS, layout.UNMAPPED):
                return None
        is_stored = state == layout.FULLY_PRESENT or (state == layout.PARTIALLY_PRESENT and has_parent and block != ratio)
        return Place(start, length) if is_stored else f"entry {at} of the block table has an impossible state {state}"

    yield from table_faults(file, path, table, count, place_of, occupied)


def _entry_count(metadata: Metadata, ratio: int) -> int:
    """Entries of the block table, those of sector bitmaps included."""
    blocks = -(-metadata.disk_size // metadata.block_size)
    if metadata.parent is not None:
        return -(-blocks // ratio) * (ratio + 1)
    return blocks + (blocks - 1) // ratio if blocks else 0
