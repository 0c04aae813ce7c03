"""QED: both levels of tables, every cluster used once, none forgotten.

Source: as in ``mntapi.images.qed``.
"""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks import read_clipped
from mntapi.images.blockmap import Table
from mntapi.images.checking.fault import Fault, Severity
from mntapi.images.checking.occupied import Occupied
from mntapi.images.formats import Chain
from mntapi.images.qed import Header, parse_header
from mntapi.types import FileBlocks

_HEADER_BYTES = 64
_HEADER_CLUSTERS_AT = 12
_NEED_CHECK = 2


def faults(file: FileBlocks, chain: Chain) -> Iterator[Fault]:
    """What is wrong with one file. Raises what its parsers raise where nothing further can be said."""
    head = read_clipped(file, 0, _HEADER_BYTES)
    header = parse_header(head, file.path)
    if header.features & _NEED_CHECK:
        yield Fault(file.path, 16, "was not closed by its last writer: clusters may have leaked", Severity.NOTE)
    occupied = Occupied(header.cluster_size)
    header_size = int.from_bytes(head[_HEADER_CLUSTERS_AT : _HEADER_CLUSTERS_AT + 4], "little") * header.cluster_size
    if not 0 < header_size <= file.size:
        yield Fault(file.path, _HEADER_CLUSTERS_AT, f"the header is outside the file: {header_size} bytes")
        header_size = header.cluster_size
    occupied.take(0, header_size)
    yield from _tables(file, header, occupied)
    for offset, length in occupied.gaps(file.size):
        yield Fault(file.path, offset, f"{length // header.cluster_size} clusters belong to nothing", Severity.LEAK)
    yield from occupied.note(file.path)


def _tables(file: FileBlocks, header: Header, occupied: Occupied) -> Iterator[Fault]:
    problem = _problem(file, header, header.table_offset, 8 * header.entries, occupied)
    if problem:
        yield Fault(file.path, 40, f"the first table {problem}")
        return
    first = _table(file, header, header.table_offset)
    number = first.next_present(0, header.entries)
    while number < header.entries:
        problem = _problem(file, header, first[number], 8 * header.entries, occupied)
        if problem:  # one that is used twice is not read twice, which keeps the work within the size of the file
            yield Fault(file.path, first.offset_of(number), f"table {number}, at {first[number]}, {problem}")
        else:
            yield from _clusters(file, header, number, first[number], occupied)
        number = first.next_present(number + 1, header.entries)


def _clusters(file: FileBlocks, header: Header, number: int, offset: int, occupied: Occupied) -> Iterator[Fault]:
    table = _table(file, header, offset)
    at = table.next_present(0, header.entries)
    while at < header.entries:
        if table[at] != 1:
            index = number * header.entries + at
            stored = min(header.cluster_size, max(1, header.disk_size - index * header.cluster_size))
            problem = _problem(file, header, table[at], stored, occupied)
            if problem:
                yield Fault(file.path, table.offset_of(at), f"cluster {index}, at {table[at]}, {problem}")
        at = table.next_present(at + 1, header.entries)


def _table(file: FileBlocks, header: Header, offset: int) -> Table:
    return Table(file, offset, header.entries, width=8, order="little", absent=0, blank=b"\0")


def _problem(file: FileBlocks, header: Header, offset: int, length: int, occupied: Occupied) -> str | None:
    """What is wrong with a place in the file; it is taken if nothing is."""
    if offset % header.cluster_size:
        return "is not at a cluster boundary"
    if offset + length > file.size:
        return "is outside the file"
    return None if occupied.take(offset, length) else "lies over another cluster or a table"
