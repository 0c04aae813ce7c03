"""Streams: each grain is inflated, which compares its checksum, and each marker is compared with the tables.

A table that lost an entry makes a grain read as zeros: only the markers know that it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from mntapi.blocks import read
from mntapi.errors import MntapiError
from mntapi.images.checking.fault import Fault
from mntapi.images.vmdk.grains import SparseExtent
from mntapi.images.vmdk.headers import (
    FOOTER,
    GRAIN_DIRECTORY,
    GRAIN_MARKER_SIZE,
    GRAIN_TABLE,
    MARKER_SIZE,
    HostedHeader,
    parse_marker,
)
from mntapi.images.vmdk.runs import Refused
from mntapi.types import FileBlocks
from mntapi.units import SECTOR, align_up

_METADATA = (GRAIN_TABLE, GRAIN_DIRECTORY, FOOTER)


def stream_faults(file: FileBlocks, extent: SparseExtent, ranges: Iterable[tuple[int, int]]) -> Iterator[Fault]:
    """The grains in these ranges (offset, length) of the extent that cannot be inflated."""
    for start, length in ranges:
        for run in extent.runs(start, length):
            if run.source is None:
                continue
            step = run.length if isinstance(run.source, Refused) else extent.unit
            for offset in range(run.start, run.start + run.length, step):
                try:
                    run.source.readinto(offset, memoryview(bytearray(1)))
                except MntapiError as error:
                    yield Fault.of(error, file.path)


def marker_faults(file: FileBlocks, header: HostedHeader, extent: SparseExtent, place: Callable[[int], int]) -> Iterator[Fault]:
    """Follow the markers from the first one to the end of the stream; every step goes at least a sector on.

    Args:
        place: the byte offset of a grain by its index, according to the tables.
    """
    position = max(SECTOR, header.overhead)
    while position + MARKER_SIZE <= file.size:
        marker = parse_marker(read(file, position, MARKER_SIZE))
        if marker.size:
            index, rest = divmod(marker.value * SECTOR, extent.unit)
            end = position + GRAIN_MARKER_SIZE + marker.size
            if rest or index * extent.unit >= extent.size or end > file.size:
                yield Fault(
                    file.path, position, f"the marker of a grain is damaged: sector {marker.value}, {marker.size} bytes"
                )
                return
            if place(index) != position:
                what = f"the tables do not have the grain for byte {index * extent.unit} of the extent, which is here"
                yield Fault(file.path, position, what)
            position = align_up(end, SECTOR)
        elif marker.kind in _METADATA:
            position += SECTOR + marker.value * SECTOR
        else:
            if marker.kind or marker.value:
                yield Fault(file.path, position, f"a marker of unknown kind {marker.kind}")
            return
