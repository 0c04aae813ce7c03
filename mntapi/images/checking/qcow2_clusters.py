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
from mntapi.images.qcow2.entries import (
    COMPRESSED,
    COPIED,
    L1_RESERVED,
    OFFSET_MASK,
    Layout,
    descriptor_range,
    extended_pieces,
    pieces,
)
from mntapi.images.qcow2.header import Header
from mntapi.types import FileBlocks

L1_PAGE = 65536
"""Entries of an L1 table that are read at once."""


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

    def l1_faults(self, offset: int, count: int, *, times: int, is_active: bool) -> Iterator[Fault]:
        """Count an L1 table of ``count`` entries that ``times`` states of the disk use, and note the tables it names."""
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
                    yield from self._l1_entry(entry, offset + 8 * (base + index), times, is_active)

    def _l1_entry(self, entry: int, place: int, times: int, is_active: bool) -> Iterator[Fault]:
        table = entry & OFFSET_MASK
        if entry & L1_RESERVED or table % self._header.cluster_size or not table:
            yield Fault(self._path, place, f"an L1 entry is bad: {entry:#018x}")
        elif table + self._header.cluster_size > self._file.size:
            yield Fault(self._path, place, f"an L2 table is outside the file: {table}")
        else:
            cluster = table >> self._bits
            self._tables.add(cluster, 1, times)
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
        for run in _runs(numbers, self._header.cluster_size, extended=self._layout.extended):
            place = offset + run.first * entry_size
            try:
                self._validate(run)
            except Corrupt as error:
                yield Fault(self._path, place, f"{error.what}: found {error.found}")
                continue
            if run.entry & COMPRESSED:
                yield from self._compressed(run, place, times)
            elif not self._layout.data_file:
                yield from self._standard(run, place, times)
                if is_active and refcounts.is_usable:
                    yield from self._copied_faults(run, place, refcounts)
            else:
                yield from self._outside(run, place)

    def _validate(self, run: Run) -> None:
        """Raise Corrupt if the format has no such entry. Which part of the disk it is for is not known here: it is believed."""
        guest = run.entry & OFFSET_MASK
        if self._layout.extended:
            found = extended_pieces((run.entry, run.bitmap), guest, self._layout, strict=True)
        else:
            found = pieces((run.entry,), guest, self._layout, strict=True)
        for _ in found:
            continue

    def _compressed(self, run: Run, place: int, times: int) -> Iterator[Fault]:
        offset, length = descriptor_range(self._layout.compressed(run.entry), self._bits)
        if offset >= self._file.size or offset + length >= self._file.size + self._header.cluster_size:
            yield Fault(self._path, place, f"a compressed cluster is outside the file: {length} bytes at {offset}")
            return
        first = offset >> self._bits
        yield from self._data(first, (offset + length - 1 >> self._bits) - first + 1, place, times)

    def _standard(self, run: Run, place: int, times: int) -> Iterator[Fault]:
        host = run.entry & OFFSET_MASK
        if not host:
            return
        yield from self._outside(run, place)
        inside = min(run.number, max(0, self.end - (host >> self._bits)))
        if inside:
            yield from self._data(host >> self._bits, inside, place, times)

    def _outside(self, run: Run, place: int) -> Iterator[Fault]:
        """Clusters past the end of the file that holds them; the last one of a file may be cut short."""
        host = run.entry & OFFSET_MASK
        end = host + run.number * self._header.cluster_size
        if host and end - self._data_size >= self._header.cluster_size:
            yield Fault(self._path, place, f"clusters are outside the file: up to {end}, the file ends at {self._data_size}")

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
