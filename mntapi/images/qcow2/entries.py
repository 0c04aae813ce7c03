"""What the entries of an L2 table say: numbers in, pieces of the guest's disk out; no I/O.

Source: QEMU, docs/interop/qcow2 ("Cluster mapping", "Extended L2 Entries"). Reserved bits that are set make an entry corrupt,
as ``qemu-img check`` has it: the offset beside them is then not to be trusted either.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mntapi.errors import Corrupt

OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
L1_RESERVED = 0x7F00_0000_0000_01FF
L2_RESERVED = 0x3F00_0000_0000_01FE
COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO_FLAG = 1
DESCRIPTOR_MASK = COMPRESSED - 1
SUBCLUSTERS = 32
ALL_ALLOCATED = 0xFFFF_FFFF
ALL_ZERO = ALL_ALLOCATED << 32


class Kind(enum.Enum):
    """Where the bytes of a piece are."""

    UNALLOCATED = 0
    """In the backing file; zeros where there is none."""
    ZERO = 1
    DATA = 2
    COMPRESSED = 3
    BAD = 4
    """Nowhere: the entry contradicts the format."""


class Piece(NamedTuple):
    """Guest bytes ``start .. end``; ``host`` is an offset in the data file (DATA) or a compressed cluster's descriptor."""

    start: int
    end: int
    kind: Kind
    host: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """What the entries of an image may say, from its header."""

    cluster_bits: int
    version: int
    extended: bool
    data_file: bool
    """Guest clusters are in another file, each at its guest offset."""

    @property
    def cluster_size(self) -> int:
        """Bytes in a cluster."""
        return 1 << self.cluster_bits

    @property
    def entry_size(self) -> int:
        """Bytes in an L2 entry."""
        return 16 if self.extended else 8

    def check_host(self, entry: int, guest: int) -> int:
        """The host offset in a standard entry. Raises Corrupt if it cannot be the place of the cluster at ``guest``."""
        host = entry & OFFSET_MASK
        if entry & L2_RESERVED:
            raise Corrupt("an L2 entry has reserved bits set", found=f"{entry:#018x}", reason="l2-entry")
        if host & (self.cluster_size - 1):
            raise Corrupt("a cluster is not at a cluster boundary", found=host, reason="l2-entry")
        if self.data_file and host != guest and host:
            raise Corrupt("a cluster is not at its own offset in the data file", expected=guest, found=host, reason="l2-entry")
        return host

    def compressed(self, entry: int) -> int:
        """The descriptor in a compressed entry. Raises Corrupt where the format has none."""
        if self.data_file or entry & COPIED:
            raise Corrupt("a compressed cluster where none can be", found=f"{entry:#018x}", reason="l2-entry")
        return entry & DESCRIPTOR_MASK

    def is_present(self, entry: int, host: int) -> bool:
        """Whether the entry names a host cluster: offset 0 is one only in a data file, told by the copied flag."""
        if host == 0 and entry & COPIED and not self.data_file:
            raise Corrupt("a cluster in use has no offset", found=f"{entry:#018x}", reason="l2-entry")
        return bool(host or entry & COPIED)


def descriptor_range(descriptor: int, cluster_bits: int) -> tuple[int, int]:
    """Where the compressed bytes of a cluster are: (offset, length), at most two clusters long."""
    shift = 62 - (cluster_bits - 8)
    offset = descriptor & ((1 << shift) - 1)
    sectors = (descriptor >> shift) + 1
    return offset, sectors * 512 - (offset & 511)


def pieces(entries: Sequence[int], guest: int, layout: Layout, *, strict: bool) -> Iterator[Piece]:
    """The pieces that 8-byte entries make of the disk from ``guest`` on; neighbours that continue each other are one.

    Raises:
        Corrupt: an entry is bad, and ``strict``; its offset is the entry's, in bytes from the first. Else the piece is BAD.
    """
    count, size = len(entries), layout.cluster_size
    at = 0
    while at < count:
        entry, first = entries[at], at
        at += 1
        kind, host = Kind.UNALLOCATED, 0
        if entry:
            try:
                kind, host = _classify(entry, guest + first * size, layout)
            except Corrupt as error:
                if strict:
                    error.offset = first * 8
                    raise
                kind = Kind.BAD
        if kind is not Kind.COMPRESSED and kind is not Kind.BAD:
            step = size if kind is Kind.DATA or host else 0
            expected = entry + step
            while at < count and entries[at] == expected:
                expected += step
                at += 1
        yield Piece(guest + first * size, guest + at * size, kind, host)


def _classify(entry: int, guest: int, layout: Layout) -> tuple[Kind, int]:
    if entry & COMPRESSED:
        return Kind.COMPRESSED, layout.compressed(entry)
    host = layout.check_host(entry, guest)
    if entry & ZERO_FLAG:
        if layout.version < 3:
            raise Corrupt("a zero cluster, which version 2 does not have", found=f"{entry:#018x}", reason="l2-entry")
        return Kind.ZERO, host
    return (Kind.DATA, host) if layout.is_present(entry, host) else (Kind.UNALLOCATED, 0)


def extended_pieces(numbers: Sequence[int], guest: int, layout: Layout, *, strict: bool) -> Iterator[Piece]:
    """Like ``pieces`` for 16-byte entries: ``numbers`` are the entries and, after each, its bitmap of subclusters."""
    count, size = len(numbers), layout.cluster_size
    at = 0
    while at < count:
        entry, bitmap, first = numbers[at], numbers[at + 1], at
        at += 2
        if bitmap == ALL_ALLOCATED or bitmap == entry == 0:
            step = size if bitmap else 0
            expected = entry + step
            while at < count and numbers[at] == expected and numbers[at + 1] == bitmap:
                expected += step
                at += 2
        start, end = guest + first // 2 * size, guest + at // 2 * size
        try:
            yield from _extended(entry, bitmap, start, end, layout)
        except Corrupt as error:
            if strict:
                error.offset = first * 8
                raise
            yield Piece(start, end, Kind.BAD)


def _extended(entry: int, bitmap: int, start: int, end: int, layout: Layout) -> list[Piece]:
    """The pieces of the clusters ``start .. end``: one cluster, or several that are all allocated or all unallocated."""
    if entry & COMPRESSED:
        return [Piece(start, end, Kind.COMPRESSED, layout.compressed(entry))]
    host = layout.check_host(entry & ~ZERO_FLAG, start)
    present = layout.is_present(entry, host)
    allocated, zero = bitmap & ALL_ALLOCATED, bitmap >> SUBCLUSTERS
    if allocated & zero or (allocated and not present):
        raise Corrupt("a bitmap of subclusters contradicts its entry", found=f"{entry:#018x} {bitmap:#018x}", reason="l2-entry")
    if bitmap == ALL_ALLOCATED:
        return [Piece(start, end, Kind.DATA, host)]
    if bitmap == 0:
        return [Piece(start, end, Kind.UNALLOCATED)]
    size = layout.cluster_size // SUBCLUSTERS
    return [_subcluster(bitmap >> bit, start + bit * size, size, host + bit * size) for bit in range(SUBCLUSTERS)]


def _subcluster(bits: int, start: int, size: int, host: int) -> Piece:
    if bits & 1:
        return Piece(start, start + size, Kind.DATA, host)
    return Piece(start, start + size, Kind.ZERO if bits >> SUBCLUSTERS & 1 else Kind.UNALLOCATED)
