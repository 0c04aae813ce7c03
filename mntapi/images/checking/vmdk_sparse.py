"""Sparse extents: grain directories, both of them where there are two, grain tables, and the places of the grains.

A table that two entries point to is looked at once, so that the work ends with the size of the file, whatever the size of the
disk. Grains are looked for in two steps, the first of which finds the largest unit that all their places are multiples of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from mntapi.blocks import read_clipped
from mntapi.errors import MntapiError
from mntapi.images.checking.fault import Fault, Severity
from mntapi.images.checking.occupied import Occupied
from mntapi.images.checking.vmdk_stream import marker_faults, stream_faults
from mntapi.images.vmdk import headers
from mntapi.images.vmdk.extents import SESPARSE_TABLE, open_sparse
from mntapi.images.vmdk.grains import ZEROED, Directory, SparseExtent, load
from mntapi.images.vmdk.runs import Refused, Stored
from mntapi.images.vmdk.stream import find_footer
from mntapi.types import FileBlocks
from mntapi.units import MIB, SECTOR

MAX_DIRECTORY = 64 * MIB
"""Bytes of a grain directory that are looked at; a disk of 62 TiB has 8 MiB."""
_UNCLEAN_AT = 72


@dataclass(frozen=True, slots=True)
class Tables:
    """Where an extent keeps its tables: byte offsets of directories, ``count`` entries of array type ``code`` in each."""

    directories: tuple[int, ...]
    count: int
    code: str
    entries_per_table: int
    grain_count: int
    table_at: Callable[[int], int]

    @property
    def width(self) -> int:
        """Bytes of an entry."""
        return 8 if self.code == "Q" else 4

    def length(self, index: int) -> int:
        """Bytes of a table; the last one may be short."""
        return min(self.entries_per_table, self.grain_count - index * self.entries_per_table) * self.width


def sparse_faults(file: FileBlocks, size: int | None) -> Iterator[Fault]:
    """What is wrong with a sparse extent.

    Args:
        size: its bytes according to a descriptor, where there is one.

    Raises:
        MntapiError: its header makes no sense, so that nothing further can be said.
    """
    extent = open_sparse(file)
    if size is not None and not extent.size - extent.unit < size <= extent.size:
        yield Fault(file.path, 12, f"descriptor and header disagree: {size} bytes, {extent.size} bytes")
    header = _hosted_header(file)
    if header is not None and read_clipped(file, _UNCLEAN_AT, 1) == b"\1":
        yield Fault(file.path, _UNCLEAN_AT, "was not closed by its last writer", Severity.NOTE)
    tables = _tables(file, header, extent)
    if tables is None:
        yield Fault(file.path, file.size, "the footer is missing: the stream was cut off")
        yield from stream_faults(file, extent, [(0, extent.size)])
        return
    taken, good = Occupied(SECTOR), list[bytearray]()
    yield from _table_faults(file, tables, taken, good)
    span = tables.entries_per_table * extent.unit
    ranges = ((index * span, min(span, extent.size - index * span)) for index in _marked(good[0]))
    if header is not None and header.compressed:
        yield from stream_faults(file, extent, ranges)
        if header.markers:
            yield from marker_faults(file, header, extent, _entries(file, tables))
    else:
        yield from _grain_faults(file, extent, ranges, taken, _unit(file, tables, extent.unit, good[0]))


def _hosted_header(file: FileBlocks) -> headers.HostedHeader | None:
    """The header, or the footer where the header says so; None for the other kinds."""
    raw = read_clipped(file, 0, headers.HOSTED_SIZE)
    if not raw.startswith(headers.HOSTED_MAGIC):
        return None
    header = headers.parse_hosted(raw, file.path)
    return (find_footer(file) if header.directory == headers.AT_END else None) or header


def _tables(file: FileBlocks, header: headers.HostedHeader | None, extent: SparseExtent) -> Tables | None:
    """Where the tables are; None where nothing tells, in a stream without its footer."""
    grain_count = -(-extent.size // extent.unit)
    if header is not None:
        if header.directory == headers.AT_END:
            return None
        directories = [header.directory]
        if header.redundant_directory is not None:
            directories.append(header.redundant_directory)
        return _made(tuple(directories), "I", header.entries_per_table, grain_count, lambda entry: entry * SECTOR)
    raw = read_clipped(file, 0, SECTOR)
    if raw.startswith(headers.COWD_MAGIC):
        directory = headers.parse_cowd(raw, file.path).directory
        return _made((directory,), "I", headers.COWD_ENTRIES_PER_TABLE, grain_count, lambda entry: entry * SECTOR)
    sesparse = headers.parse_sesparse(raw, file.path)

    def table_at(entry: int) -> int:
        return sesparse.tables + (entry & 0xFFFFFFFF) * sesparse.table_size if entry >> 32 == SESPARSE_TABLE else -1

    return _made((sesparse.directory,), "Q", sesparse.table_size // 8, grain_count, table_at)


def _made(directories: tuple[int, ...], code: str, entries: int, grain_count: int, table_at: Callable[[int], int]) -> Tables:
    return Tables(directories, -(-grain_count // entries), code, entries, grain_count, table_at)


def _table_faults(file: FileBlocks, tables: Tables, taken: Occupied, good: list[bytearray]) -> Iterator[Fault]:
    """Find the tables that can be looked at: ``good`` gets, for each directory, a flag for each of its tables."""
    count = min(tables.count, MAX_DIRECTORY // tables.width)
    if count < tables.count:
        what = f"the grain directory is too large: {count} of {tables.count} entries were looked at"
        yield Fault(file.path, tables.directories[0], what, Severity.NOTE)
    taken.take(0, SECTOR)
    for offset in tables.directories:
        good.append(bytearray(count))
        yield from _directory_faults(file, tables, offset, taken, good[-1])
    if len(good) > 1:
        yield from _copy_faults(file, tables, good)
    yield from taken.note(file.path)


def _directory_faults(file: FileBlocks, tables: Tables, offset: int, taken: Occupied, usable: bytearray) -> Iterator[Fault]:
    """Find the tables of a directory that can be looked at, and mark them in ``usable``."""
    length = len(usable) * tables.width
    if not 0 < offset <= file.size - length:
        yield Fault(file.path, offset, f"a grain directory is outside the file: {length} bytes")
        return
    if not taken.take(offset, length):
        yield Fault(file.path, offset, "a grain directory lies over another structure")
        return
    directory = Directory(file, offset, len(usable), tables.code)
    for index in _used(directory, len(usable)):
        at, place = tables.table_at(directory.entry(index)), offset + index * tables.width
        if not 0 < at <= file.size - tables.length(index):
            yield Fault(file.path, place, f"grain table {index} is outside the file")
        elif not taken.take(at, tables.length(index)):
            yield Fault(file.path, place, f"grain table {index}, at {at}, lies over another structure")
        else:
            usable[index] = 1


def _used(directory: Directory, count: int) -> Iterator[int]:
    index = directory.next_used(0, count)
    while index < count:
        yield index
        index = directory.next_used(index + 1, count)


def _marked(usable: bytearray) -> Iterator[int]:
    index = usable.find(1)
    while index >= 0:
        yield index
        index = usable.find(1, index + 1)


def _copy_faults(file: FileBlocks, tables: Tables, good: list[bytearray]) -> Iterator[Fault]:
    """Compare the tables that both directories point to."""
    first, second = (Directory(file, offset, len(good[0]), tables.code) for offset in tables.directories)
    for index in _marked(bytearray(one | other for one, other in zip(*good, strict=True))):
        if not (good[0][index] and good[1][index]):
            offset = tables.directories[0 if good[0][index] else 1] + index * tables.width
            yield Fault(file.path, offset, f"only one of the two directories has a usable grain table {index}")
            continue
        one, other = (tables.table_at(directory.entry(index)) for directory in (first, second))
        length = tables.length(index)
        if read_clipped(file, one, length) != read_clipped(file, other, length):
            yield Fault(file.path, other, f"the two copies of grain table {index}, at {one} and {other}, differ")


def _grain_faults(
    file: FileBlocks, extent: SparseExtent, ranges: Iterable[tuple[int, int]], taken: Occupied, unit: int
) -> Iterator[Fault]:
    """The grains in these ranges (offset, length) of the extent: inside the file, over nothing else."""
    grains = Occupied(unit)
    for offset, length in ranges:
        for run in extent.runs(offset, length):
            if isinstance(run.source, Refused):
                try:
                    run.source.readinto(run.start, memoryview(bytearray(1)))
                except MntapiError as error:
                    yield Fault.of(error, file.path)
            elif isinstance(run.source, Stored):
                is_free = grains.take(run.start, run.length)  # always: what is under a table can be under a grain too
                if not taken.is_free(run.start, run.length):
                    yield Fault(file.path, run.start, f"the grain for byte {run.offset} of the extent lies over a table")
                elif not is_free:
                    yield Fault(file.path, run.start, f"the grain for byte {run.offset} of the extent lies over another")
    yield from grains.note(file.path)


def _unit(file: FileBlocks, tables: Tables, grain_size: int, usable: bytearray) -> int:
    """The largest number of bytes that all places of grains are multiples of."""
    if tables.code == "Q":
        return SECTOR  # its entries are no sectors
    unit, last = grain_size // SECTOR, file.size // SECTOR
    directory = Directory(file, tables.directories[0], len(usable), tables.code)
    for index in _marked(usable):
        if unit == 1:
            break
        entries = load(file, tables.table_at(directory.entry(index)), tables.length(index) // tables.width, tables.code)
        unit = math.gcd(unit, *(entry for entry in entries if ZEROED < entry < last))
    return unit * SECTOR


def _entries(file: FileBlocks, tables: Tables) -> Callable[[int], int]:
    """A function that gives the byte offset of a grain by its index, 0 where the tables have none."""
    directory = Directory(file, tables.directories[0], tables.count, tables.code)
    held: tuple[int, dict[int, int]] = (-1, {})

    def place(grain: int) -> int:
        nonlocal held
        index, at = divmod(grain, tables.entries_per_table)
        if held[0] != index:
            offset, length = tables.table_at(directory.entry(index)), tables.length(index)
            is_inside = 0 < offset <= file.size - length
            entries = load(file, offset, length // tables.width, tables.code) if is_inside else ()
            held = index, dict(enumerate(entries))
        return held[1].get(at, 0) * SECTOR

    return place
