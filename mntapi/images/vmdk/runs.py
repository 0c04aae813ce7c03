"""Runs: which bytes of a disk are where. All kinds of VMDK extents, and chains of them, come down to this one noun.

A ``Layer`` answers a range with runs, ascending and gapless; an extent, several of them end to end, and a child over its
parent are layers. Nothing here reads the disk's own bytes: ``disk.py`` does, through the ``Source`` each run names.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from mntapi.blocks import whole, zero
from mntapi.errors import MntapiError
from mntapi.types import Extent, ExtentKind, FileBlocks


class Source(Protocol):
    """Where the bytes of a run come from. Offsets are the source's own."""

    def readinto(self, offset: int, buffer: memoryview, /) -> None:
        """Fill all of ``buffer``, or raise."""

    def extents(self, offset: int, length: int, /) -> Iterator[Extent]:
        """What is stored there, and what is zeros."""


class Run(NamedTuple):
    """``length`` bytes at ``offset`` of the layer are at ``start`` of ``source``; None if this layer does not store them."""

    offset: int
    length: int
    source: Source | None
    start: int = 0


class Layer(Protocol):
    """A range of bytes and where each of them is."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    @property
    def unit(self) -> int:
        """The smallest piece in bytes that has a place of its own, a power of two; ``HUGE`` if it is one piece."""

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """The range (inside ``0 .. size``) cut into runs, ascending and gapless."""


HUGE = 1 << 40
"""The unit of layers that have no grains."""


class Zeros:
    """Bytes known to be zero. A run of it has ``start`` equal to ``offset``, so that neighbours can be joined."""

    def readinto(self, offset: int, buffer: memoryview, /) -> None:
        zero.fill(buffer)

    def extents(self, offset: int, length: int, /) -> Iterator[Extent]:
        return whole(offset, length, ExtentKind.ZERO)


ZEROS = Zeros()


class Stored:
    """Grains in a file: data, whatever the host thinks of holes in it."""

    def __init__(self, file: FileBlocks) -> None:
        self.readinto = file.readinto  # the file's own method: a read of a grain costs no call of ours

    def extents(self, offset: int, length: int, /) -> Iterator[Extent]:
        return whole(offset, length, ExtentKind.DATA)


class Refused:
    """Bytes that cannot be had; every read raises what ``error`` makes of the offset in the source."""

    def __init__(self, error: Callable[[int], MntapiError]) -> None:
        self._error = error

    def readinto(self, offset: int, buffer: memoryview, /) -> None:
        raise self._error(offset)

    def extents(self, offset: int, length: int, /) -> Iterator[Extent]:
        return whole(offset, length, ExtentKind.DATA)


class Single:
    """``size`` bytes of one source from ``start`` on: a flat extent, zeros, or what cannot be read."""

    unit = HUGE

    def __init__(self, source: Source, start: int, size: int) -> None:
        self.size = size
        self._source = source
        self._start = start

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        yield Run(offset, length, self._source, self._start + offset)


class Joined:
    """Layers end to end: the extents of a descriptor."""

    def __init__(self, parts: Sequence[Layer]) -> None:
        self._parts = parts
        self._starts = []
        self.size = 0
        self.unit = min(part.unit for part in parts)
        for part in parts:
            self._starts.append(self.size)
            self.size += part.size

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        index = bisect_right(self._starts, offset) - 1
        end = offset + length
        while offset < end:
            base, part = self._starts[index], self._parts[index]
            stop = min(end, base + part.size)
            for run in part.runs(offset - base, stop - offset):
                start = run.start + base if run.source is ZEROS else run.start
                yield Run(run.offset + base, run.length, run.source, start)
            offset = stop
            index += 1


class Over:
    """A child over its parent: what the child does not store is the parent's, and zeros where the parent ends earlier."""

    def __init__(self, child: Layer, parent: Layer) -> None:
        self.size = child.size
        self.unit = min(child.unit, parent.unit)
        self._child = child
        self._parent = parent

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        for run in self._child.runs(offset, length):
            if run.source is not None:
                yield run
                continue
            end = run.offset + run.length
            edge = min(max(self._parent.size, run.offset), end)
            if edge > run.offset:
                yield from self._parent.runs(run.offset, edge - run.offset)
            if end > edge:
                yield Run(edge, end - edge, None)
