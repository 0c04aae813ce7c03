"""Which clusters of a QCOW2 file are used, by what, and how often: the walk through L1 and L2 tables."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mntapi.blocks import read
from mntapi.errors import Corrupt, MntapiError
from mntapi.images.checking.counts import Counts
from mntapi.images.checking.fault import Fault, Severity
from mntapi.images.checking.qcow2_refcounts import Refcounts
from mntapi.images.qcow2.compressed import ClusterCache, CompressedClusters
from mntapi.images.qcow2.entries import (
    ALL_ALLOCATED,
    COMPRESSED,
    COPIED,
    L1_RESERVED,
    OFFSET_MASK,
    SUBCLUSTERS,
    ZERO_FLAG,
    Layout,
    descriptor_range,
    extended_pieces,
    pieces,
)
from mntapi.images.qcow2.header import Header
from mntapi.types import FileBlocks

L1_PAGE = 65536
"""Entries of an L1 table that are read at once."""
MAX_PLACES = 1 << 19
"""L2 tables of which it is remembered what part of the disk they are for: of 256 TiB, or of 1 TiB in clusters of 4 KiB."""
MAX_LAST = 128
"""Compressed clusters that may end in the last sector of a file; each takes at least four bytes of it."""


class Run(NamedTuple):
    """``number`` entries of a table from ``first`` on that continue each other: the clusters they name are neighbours."""

    first: int
    number: int
    entry: int
    bitmap: int


class Clusters:
    """What was counted so far. ``is_complete`` unless something was left out, so that what looks leaked may be in use."""

    def __init__(self, file: FileBlocks, header: Header, data_size: int) -> None:
        self.references = Counts()
        self.is_complete = True
        self._metadata = Counts()
        self._tables = Counts()
        """L2 tables by cluster, and how many L1 entries name each."""
        self._active = Counts()
        """L2 tables of the current state."""
        self._places: dict[int, int] = {}
        """L2 tables by cluster, and which entry of an L1 table names each."""
        self._sizes = {True: header.size, False: 0}
        """Bytes of the disk in its current state, and in the largest of the snapshots."""
        self._last: set[int] = set()
        """Compressed clusters that end where the file does, by descriptor."""
        self._inflated = CompressedClusters(file, header.cluster_bits, header.compression, ClusterCache())
        self._file = file
        self._path = file.path
        self._header = header
        self._data_size = data_size
        self._bits = header.cluster_bits
        self._layout = Layout(header.cluster_bits, header.version, header.extended_l2, header.has_data_file)

    @property
    def overflowed(self) -> bool:
        """Whether there was no room to count everything."""
        return any(counts.overflowed for counts in (self.references, self._metadata, self._tables, self._active))

    @property
    def end(self) -> int:
        """The first cluster that the file does not have."""
        return -(-self._file.size >> self._bits)

    def use(self, offset: int, length: int, *, times: int = 1) -> None:
        """Count metadata at ``offset``, in bytes."""
        first = offset >> self._bits
        number = -(-(offset + length) >> self._bits) - first
        self.references.add(first, number, times)
        self._metadata.add(first, number)

    def use_checked(self, offset: int, length: int, what: str, *, times: int = 1) -> Iterator[Fault]:
        """As ``use``; says so instead where it is outside the file or over other metadata."""
        first = offset >> self._bits
        if offset + length > self._file.size:
            yield Fault(self._path, offset, f"{what} is outside the file: {length} bytes")
            return
        if self._metadata.any(first, -(-(offset + length) >> self._bits) - first):
            yield Fault(self._path, offset, f"{what} lies over another structure")
        self.use(offset, length, times=times)

    def fault(self, first: int, number: int, what: str, severity: Severity) -> Fault:
        """A fault of ``number`` clusters from ``first`` on."""
        clusters = "the cluster has" if number == 1 else f"{number} clusters from here on have"
        return Fault(self._path, first << self._bits, f"{clusters} {what}", severity)

    def l1_faults(self, offset: int, count: int, *, times: int, is_active: bool, size: int) -> Iterator[Fault]:
        """Count an L1 table of ``count`` entries that ``times`` states of the disk use, and note the tables it names.

        Args:
            size: bytes of the disk in the largest of these states.
        """
        self._sizes[is_active] = max(self._sizes[is_active], size)
        if offset % self._header.cluster_size:
            yield Fault(self._path, offset, "an L1 table is not at a cluster boundary")
            return
        if offset + 8 * count > self._file.size:
            yield Fault(self._path, offset, f"an L1 table is outside the file: {8 * count} bytes")
            return
        yield from self.use_checked(offset, 8 * count, "an L1 table", times=times)
        for base in range(0, count, L1_PAGE):
            entries = self._numbers(offset + 8 * base, min(L1_PAGE, count - base))
            for index, entry in enumerate(entries):
                if entry:
                    yield from self._l1_entry(entry, offset, base + index, times, is_active)

    def _l1_entry(self, entry: int, l1_offset: int, index: int, times: int, is_active: bool) -> Iterator[Fault]:
        place = l1_offset + 8 * index
        table = entry & OFFSET_MASK
        if entry & L1_RESERVED or table % self._header.cluster_size or not table:
            yield Fault(self._path, place, f"an L1 entry is bad: {entry:#018x}")
        elif table + self._header.cluster_size > self._file.size:
            yield Fault(self._path, place, f"an L2 table is outside the file: {table}")
        else:
            cluster = table >> self._bits
            self._tables.add(cluster, 1, times)
            if len(self._places) < MAX_PLACES:
                self._places.setdefault(cluster, index)
            if is_active:
                if self._active.any(cluster, 1):
                    yield Fault(self._path, place, f"an L2 table is used twice: {table}")
                self._active.add(cluster)

    def l2_faults(self, refcounts: Refcounts) -> Iterator[Fault]:
        """Count the L2 tables, and the clusters they name."""
        for cluster, times in self._tables.items():
            if self._metadata.any(cluster, 1):
                yield Fault(self._path, cluster << self._bits, "an L2 table lies over another structure")
            self.use(cluster << self._bits, self._header.cluster_size, times=times)
        for cluster, times in self._tables.items():
            yield from self._table_faults(cluster << self._bits, times, refcounts, self._active.any(cluster, 1))

    def _table_faults(self, offset: int, times: int, refcounts: Refcounts, is_active: bool) -> Iterator[Fault]:
        entry_size = self._layout.entry_size
        try:
            numbers = self._numbers(offset, self._header.cluster_size // 8)
        except MntapiError as error:
            yield Fault.of(error, self._path)
            return
        table = self._places.get(offset >> self._bits)
        start = None if table is None else table * (self._header.cluster_size // entry_size) << self._bits
        for run in _runs(numbers, self._header.cluster_size, extended=self._layout.extended):
            place = offset + run.first * entry_size
            guest = None if start is None else start + (run.first << self._bits)
            try:
                self._validate(run, guest)
            except Corrupt as error:
                yield Fault(self._path, place, f"{error.what}: found {error.found}")
                continue
            if run.entry & COMPRESSED:
                yield from self._compressed(run, place, times)
                continue
            yield from self._outside(run, place, None if guest is None else self._sizes[is_active] - guest)
            if not self._layout.data_file:
                yield from self._standard(run, place, times)
                if is_active and refcounts.is_usable:
                    yield from self._copied_faults(run, place, refcounts)

    def _validate(self, run: Run, guest: int | None) -> None:
        """Raise Corrupt if the format has no such entry for byte ``guest`` of the disk; what is not known is believed."""
        guest = run.entry & OFFSET_MASK if guest is None else guest
        if self._layout.extended:
            found = extended_pieces((run.entry, run.bitmap), guest, self._layout, strict=True)
        else:
            found = pieces((run.entry,), guest, self._layout, strict=True)
        for _ in found:
            continue

    def _compressed(self, run: Run, place: int, times: int) -> Iterator[Fault]:
        descriptor = self._layout.compressed(run.entry)
        offset, length = descriptor_range(descriptor, self._bits)
        if offset >= self._file.size or offset + length >= self._file.size + self._header.cluster_size:
            yield Fault(self._path, place, f"a compressed cluster is outside the file: {length} bytes at {offset}")
            return
        if offset + length > self._file.size:
            yield from self._cut_faults(descriptor, place)
        first = offset >> self._bits
        yield from self._data(first, (offset + length - 1 >> self._bits) - first + 1, place, times)

    def _cut_faults(self, descriptor: int, place: int) -> Iterator[Fault]:
        """A cluster that ends in a sector of which the file does not have all: only inflating it tells whether it is whole."""
        if descriptor in self._last:
            return
        if len(self._last) == MAX_LAST:
            yield Fault(self._path, place, f"more than {MAX_LAST} compressed clusters end where the file does")
            return
        self._last.add(descriptor)
        try:
            self._inflated.readinto(descriptor << self._bits, memoryview(bytearray(1)))
        except MntapiError as error:
            yield Fault.of(error, self._path)

    def _standard(self, run: Run, place: int, times: int) -> Iterator[Fault]:
        host = run.entry & OFFSET_MASK
        inside = min(run.number, max(0, self.end - (host >> self._bits)))
        if host and inside:
            yield from self._data(host >> self._bits, inside, place, times)

    def _outside(self, run: Run, place: int, rest: int | None) -> Iterator[Fault]:
        """Clusters past the end of the file that holds them. The last one of a file may be cut short, behind what of it is
        stored and behind the end of the disk, which is ``rest`` bytes from the run's start on."""
        host = run.entry & OFFSET_MASK
        end = host + run.number * self._header.cluster_size
        is_present = host or (self._layout.data_file and run.entry & COPIED)
        if not is_present or end <= self._data_size:
            return
        stored = min(self._stored(run), max(0, rest)) if rest is not None else 0
        if end - self._data_size >= self._header.cluster_size or host + stored > self._data_size:
            yield Fault(self._path, place, f"clusters are outside the file: up to {end}, the file ends at {self._data_size}")

    def _stored(self, run: Run) -> int:
        """Bytes from the run's start up to the last one that is read from there."""
        size = self._header.cluster_size
        if not self._layout.extended:
            return 0 if run.entry & ZERO_FLAG else run.number * size
        subclusters = (run.bitmap & ALL_ALLOCATED).bit_length()
        return (run.number - 1) * size + subclusters * size // SUBCLUSTERS if subclusters else 0

    def _data(self, first: int, number: int, place: int, times: int) -> Iterator[Fault]:
        if self._metadata.any(first, number):
            yield Fault(self._path, place, f"a cluster of data, at {first << self._bits} or behind, lies over a table")
        self.references.add(first, number, times)

    def _copied_faults(self, run: Run, place: int, refcounts: Refcounts) -> Iterator[Fault]:
        """The flag that says a cluster may be overwritten, because nothing else uses it."""
        host = run.entry & OFFSET_MASK
        if not host or host + run.number * self._header.cluster_size > self._file.size + self._header.cluster_size:
            return
        is_copied = bool(run.entry & COPIED)
        counts = refcounts.of(host >> self._bits, run.number)
        wrong = sum((count == 1) != is_copied for count in counts)
        if wrong:
            has = "has" if is_copied else "lacks"
            yield Fault(
                self._path, place, f"{wrong} clusters from {host} on: the entry {has} the copied flag, against the refcount"
            )

    def _numbers(self, offset: int, count: int) -> array[int]:
        numbers = array("Q", read(self._file, offset, 8 * count))
        if sys.byteorder == "little":
            numbers.byteswap()
        return numbers


def _runs(numbers: Sequence[int], cluster_size: int, *, extended: bool) -> Iterator[Run]:
    """The entries in use, those together that name neighbours."""
    step = 2 if extended else 1
    at, count = 0, len(numbers)
    while at < count:
        first, entry, bitmap = at, numbers[at], numbers[at + 1] if extended else 0
        at += step
        if entry == 0 and bitmap == 0:
            continue
        if not entry & COMPRESSED:
            expected = entry + (cluster_size if entry & OFFSET_MASK else 0)
            while at < count and numbers[at] == expected and (not extended or numbers[at + 1] == bitmap):
                expected += cluster_size if entry & OFFSET_MASK else 0
                at += step
        yield Run(first // step, (at - first) // step, entry, bitmap)
