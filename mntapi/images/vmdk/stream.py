"""Streams (``streamOptimized``): compressed grains, each behind a marker that says which it is, tables and a footer last.

A stream whose end was cut off has lost its tables, not its grains: ``walk`` finds them by their markers, in order.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator

from mntapi.blocks import read, read_clipped, whole
from mntapi.errors import Corrupt
from mntapi.images.vmdk.grains import GrainMap, Span
from mntapi.images.vmdk.headers import (
    FOOTER,
    GRAIN_DIRECTORY,
    GRAIN_MARKER_SIZE,
    GRAIN_TABLE,
    HOSTED_MAGIC,
    MARKER_SIZE,
    HostedHeader,
    parse_hosted,
    parse_marker,
)
from mntapi.images.vmdk.recent import Recent
from mntapi.images.vmdk.runs import Refused
from mntapi.types import Extent, ExtentKind, FileBlocks
from mntapi.units import KIB, MIB, SECTOR, align_up

CACHED_GRAINS = 4 * MIB
"""Bytes of inflated grains that the young half of the cache may hold."""


class Inflated:
    """The grains of a compressed extent, by their offset in it. A ``Source``: holes are never asked for."""

    def __init__(self, file: FileBlocks, grains: GrainMap, *, size: int, grain_size: int, markers: bool) -> None:
        self._file = file
        self._map = grains
        self._size = size
        self._grain_size = grain_size
        self._markers = markers
        self._grains: Recent[bytes] = Recent(max(CACHED_GRAINS, grain_size))

    def readinto(self, offset: int, buffer: memoryview, /) -> None:
        done, length = 0, len(buffer)
        while done < length:
            index, start = divmod(offset + done, self._grain_size)
            grain = self._grains.get(index)
            if grain is None:
                grain = self._inflate(index)
                self._grains.put(index, grain, len(grain))
            count = min(length - done, self._grain_size - start)
            buffer[done : done + count] = memoryview(grain)[start : start + count]
            done += count

    def extents(self, offset: int, length: int, /) -> Iterator[Extent]:
        return whole(offset, length, ExtentKind.DATA)

    def _inflate(self, index: int) -> bytes:
        """A grain's bytes; the last one of an extent may be short, or hold more than is asked of it."""
        position = self._position(index)
        needed = min(self._grain_size, self._size - index * self._grain_size)
        inflater = zlib.decompressobj()
        try:
            grain = inflater.decompress(self._deflated(index, position), self._grain_size + 1)
        except zlib.error as error:
            raise self._damaged(index, position, "cannot be inflated", found=str(error)) from error
        if len(grain) > self._grain_size or len(grain) < needed or not inflater.eof:
            raise self._damaged(
                index, position, "is not of its size", expected=f"{needed} bytes", found=f"{len(grain)} bytes or more"
            )
        return grain

    def _position(self, index: int) -> int:
        (span,) = self._map.spans(index, index + 1)
        if span.entries is None or isinstance(span.entries, Refused):
            raise self._damaged(index, None, "is not there")
        return span.entries[0] * SECTOR

    def _deflated(self, index: int, position: int) -> bytes:
        guess = self._grain_size + self._grain_size // 8 + KIB
        raw = read_clipped(self._file, position, guess)
        if not self._markers:
            return raw
        if len(raw) < MARKER_SIZE:
            raise self._damaged(index, position, "lies outside the file")
        marker = parse_marker(raw)
        sector = index * self._grain_size // SECTOR
        if marker.value != sector or not 0 < marker.size <= guess - GRAIN_MARKER_SIZE:
            raise self._damaged(
                index,
                position,
                "has another grain's marker",
                expected=f"sector {sector}, at most {guess} bytes",
                found=f"sector {marker.value}, {marker.size} bytes",
            )
        return raw[GRAIN_MARKER_SIZE : GRAIN_MARKER_SIZE + marker.size]

    def _damaged(
        self, index: int, position: int | None, what: str, *, expected: object = None, found: object = None
    ) -> Corrupt:
        return Corrupt(
            f"the compressed grain for byte {index * self._grain_size} of the extent {what}",
            path=self._file.path,
            offset=position,
            expected=expected,
            found=found,
            reason="grain-damaged",
        )


def find_footer(file: FileBlocks) -> HostedHeader | None:
    """The footer of a stream, or None if the file does not end with one.

    Source: Virtual Disk Format 5.0, "Stream-Optimized Compressed Sparse Extents": footer marker, footer, end-of-stream marker.
    """
    at = file.size - 3 * SECTOR
    if at < SECTOR:
        return None
    raw = read(file, at, 3 * SECTOR)
    marker, end = parse_marker(raw), parse_marker(raw[2 * SECTOR :])
    if (
        (marker.size, marker.kind) != (0, FOOTER)
        or (end.value, end.size, end.kind) != (0, 0, 0)
        or raw[SECTOR : SECTOR + 4] != HOSTED_MAGIC
    ):
        return None
    return parse_hosted(raw[SECTOR : 2 * SECTOR], file.path, at + SECTOR)


class WalkedMap:
    """The grain map that the markers of a stream tell. Grains after the last one that was found are not known to be holes."""

    def __init__(self, file: FileBlocks, header: HostedHeader) -> None:
        self._path = file.path
        self._indexes = array("Q")
        self._sectors = array("Q")
        self._whole = self._walk(file, header)
        self._lost = Refused(self._lost_error)
        self._known = self._indexes[-1] + 1 if self._indexes else 0

    def _walk(self, file: FileBlocks, header: HostedHeader) -> bool:
        """Follow the markers; whether the stream's data is there to its end."""
        position = max(SECTOR, header.overhead)
        self._end = position
        while position + MARKER_SIZE <= file.size:
            self._end = position
            marker = parse_marker(read(file, position, MARKER_SIZE))
            if marker.size:
                position = self._add(marker.value * SECTOR, position, marker.size, header, file.size)
            elif marker.kind == GRAIN_TABLE and marker.value:
                position += SECTOR + marker.value * SECTOR
            else:
                return marker.kind in (GRAIN_DIRECTORY, FOOTER)
            if not position:
                return False
        return False

    def _add(self, offset: int, position: int, length: int, header: HostedHeader, file_size: int) -> int:
        """Note the grain for byte ``offset`` of the extent; the next marker's position, or 0 if this one makes no sense."""
        index, rest = divmod(offset, header.grain_size)
        end = position + GRAIN_MARKER_SIZE + length
        if rest or offset >= header.size or end > file_size:
            return 0
        if self._indexes and index <= self._indexes[-1]:
            self._indexes.pop()  # one of the two lies, and grains between must not become holes because of it
            self._sectors.pop()
            return 0
        self._indexes.append(index)
        self._sectors.append(position // SECTOR)
        return align_up(end, SECTOR)

    def spans(self, first: int, last: int) -> Iterator[Span]:
        at = bisect_left(self._indexes, first)
        while first < last:
            index = min(self._indexes[at], last) if at < len(self._indexes) else last
            if index > first:
                yield from self._between(first, index)
            if index < last:
                yield Span(index, 1, (self._sectors[at],))
            first = index + 1
            at += 1

    def _between(self, first: int, last: int) -> Iterator[Span]:
        """Grains the stream does not have: holes as far as it is known to go."""
        edge = last if self._whole else min(max(self._known, first), last)
        if edge > first:
            yield Span(first, edge - first, None)
        if last > edge:
            yield Span(edge, last - edge, self._lost)

    def _lost_error(self, offset: int) -> Corrupt:
        return Corrupt(
            f"the stream ends before byte {offset} of the disk",
            path=self._path,
            offset=self._end,
            expected="a grain marker",
            hint="the file was not copied whole",
            reason="truncated",
        )
