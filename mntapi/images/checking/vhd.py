"""VHD: both footers, the header and its checksum, the block table and the bitmaps in front of the blocks.

Source: as in ``mntapi.images.vhd``.
"""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks import read_clipped
from mntapi.errors import MntapiError
from mntapi.images.blockmap import Table
from mntapi.images.checking.blocktable import Place, table_faults
from mntapi.images.checking.fault import Fault, Severity
from mntapi.images.checking.occupied import Occupied
from mntapi.images.formats import Chain
from mntapi.images.vhd.image import read_footer
from mntapi.images.vhd.layout import UNUSED
from mntapi.images.vhd.structures import (
    FOOTER_SIZE,
    HEADER_SIZE,
    OLD_FOOTER_SIZE,
    DiskType,
    Footer,
    Header,
    parse_footer,
    parse_header,
)
from mntapi.types import FileBlocks
from mntapi.units import SECTOR, align_up

_SAVED_STATE_AT = 84


def faults(file: FileBlocks, chain: Chain) -> Iterator[Fault]:
    """What is wrong with one file. Raises what its parsers raise where nothing further can be said."""
    footer = read_footer(file)
    yield from _footer_faults(file, footer)
    if footer.kind is not DiskType.FIXED:
        header = parse_header(_header_bytes(file, footer), path=file.path, offset=footer.header_offset)
        yield from _dynamic_faults(file, footer, header)


def _footer_faults(file: FileBlocks, footer: Footer) -> Iterator[Fault]:
    """The one at the end, and the copy at the start of all but fixed disks."""
    at = _footer_at(file)
    tail, head = read_clipped(file, at, FOOTER_SIZE), read_clipped(file, 0, FOOTER_SIZE)
    places = [(at, tail)] if footer.kind is DiskType.FIXED else [(at, tail), (0, head)]
    for offset, content in places:
        try:
            if parse_footer(content, path=file.path, offset=offset) != footer:
                yield Fault(file.path, offset, "the two footers say different things")
        except MntapiError as error:
            yield Fault.of(error, file.path)
    if tail[_SAVED_STATE_AT : _SAVED_STATE_AT + 1] == b"\1":
        yield Fault(file.path, at + _SAVED_STATE_AT, "the machine was saved, not shut down", Severity.NOTE)


def _footer_at(file: FileBlocks) -> int:
    old = file.size - OLD_FOOTER_SIZE
    is_old = old >= 0 and read_clipped(file, old, 8) == b"conectix"
    return old if is_old else max(0, file.size - FOOTER_SIZE)


def _header_bytes(file: FileBlocks, footer: Footer) -> bytes:
    """Padded with zeros where the file ends, which then fails as a header."""
    return read_clipped(file, footer.header_offset, HEADER_SIZE).ljust(HEADER_SIZE, b"\0")


def _dynamic_faults(file: FileBlocks, footer: Footer, header: Header) -> Iterator[Fault]:
    occupied = Occupied(SECTOR)
    count = -(-footer.disk_size // header.block_size)
    places = [
        (0, FOOTER_SIZE, "the copy of the footer"),
        (_footer_at(file), file.size - _footer_at(file), "the footer"),
        (footer.header_offset, HEADER_SIZE, "the header"),
        (header.table_offset, 4 * header.table_count, "the block table"),
        *((locator.offset, locator.length, "a parent locator") for locator in header.locators),
    ]
    for offset, length, what in places:
        if offset + length > file.size:
            yield Fault(file.path, offset, f"{what} is outside the file")
        elif not occupied.take(offset, length):
            yield Fault(file.path, offset, f"{what} lies over another structure")
    if header.table_count < count:
        yield Fault(
            file.path, header.table_offset, f"the block table has {header.table_count} entries, the disk {count} blocks"
        )
    usable = min(header.table_count, max(0, file.size - header.table_offset) // 4)
    table = Table(file, header.table_offset, usable, width=4, order="big", absent=UNUSED, blank=b"\xff")
    bitmap = align_up(-(-header.block_size // SECTOR // 8), SECTOR)

    def place_of(index: int, entry: int) -> Place | str:
        stored = min(header.block_size, footer.disk_size - index * header.block_size)
        return Place(entry * SECTOR, bitmap + stored) if entry else f"block {index} is in sector 0"

    yield from table_faults(file, file.path, table, min(usable, count), place_of, occupied)
    yield from occupied.note(file.path)
