"""The disk: reads a layer's runs. This is the path every request of a mounted disk takes, so it is kept short.

The runs of a window of the disk (a few hundred grains) are worked out once, for the whole chain, and kept in flat arrays;
a read inside one run is then a dict lookup, a bisect and the host file's ``preadv``, however deep the chain is.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

from mntapi.blocks import check_range, merged, shifted
from mntapi.errors import Invalid, MntapiError
from mntapi.images.vmdk.recent import Recent
from mntapi.images.vmdk.runs import ZEROS, Layer, Run
from mntapi.types import Extent
from mntapi.units import KIB, MIB

GRAINS_PER_WINDOW = 256
MIN_WINDOW = 64 * KIB
MAX_WINDOW = 1 << 40
"""Bytes of the disk one window covers: of the grains above, within these bounds."""
WINDOW_WEIGHT = 320
RUN_WEIGHT = 24
CACHED_WINDOWS = 4 * MIB
"""Bytes that the young half of the window cache may take, and what a window and each run in it count for."""
_FOREVER = (1 << 63) - 1

Read = Callable[[int, memoryview], None]


class Window(NamedTuple):
    """Runs side by side: byte ``offset`` of the disk, from ``starts[i]`` on, is at ``offset + shifts[i]`` for ``reads[i]``.

    Two entries close it: the window's end, whose read handles what is past it, and an offset nothing reaches.
    """

    starts: array[int]
    shifts: array[int]
    reads: list[Read]


class Disk:
    """The bytes of a layer (``Blocks``). Owns ``resources``: closing the disk closes every file of the chain."""

    sector_size = 512

    def __init__(self, layer: Layer, path: str, resources: ExitStack) -> None:
        self.size = layer.size
        self.layer = layer
        self._path = path
        self._resources = resources
        self._closed = False
        window = min(MAX_WINDOW, max(MIN_WINDOW, layer.unit * GRAINS_PER_WINDOW))
        self._shift = window.bit_length() - 1
        self._windows: Recent[Window] = Recent(CACHED_WINDOWS)

    def readinto(self, offset: int, buffer: memoryview) -> None:
        window = self._windows.get(offset >> self._shift)
        if window is not None:
            starts, shifts, reads = window
            index = bisect_right(starts, offset)
            if offset + len(buffer) <= starts[index]:
                reads[index - 1](offset + shifts[index - 1], buffer)
                return
        self._read_pieces(offset, buffer)

    def _read_pieces(self, offset: int, buffer: memoryview) -> None:
        """A read that spans runs or windows, or the first one in its window."""
        self._check(offset, len(buffer))
        end, done = offset + len(buffer), 0
        while offset < end:
            window = self._window(offset, end)
            starts, shifts, reads = window
            index = bisect_right(starts, offset) - 1
            while offset < end and index < len(reads) - 1:
                count = min(end, starts[index + 1]) - offset
                reads[index](offset + shifts[index], buffer[done : done + count])
                done += count
                offset += count
                index += 1

    def _window(self, offset: int, end: int) -> Window:
        """The window around ``offset``; if its tables cannot be read whole, one for ``offset .. end`` only, not kept."""
        index = offset >> self._shift
        window = self._windows.get(index)
        if window is None:
            start = index << self._shift
            try:
                window = self._resolved(start, min(1 << self._shift, self.size - start))
            except MntapiError:
                return self._resolved(offset, min(end, (index + 1) << self._shift) - offset)
            self._windows.put(index, window, WINDOW_WEIGHT + RUN_WEIGHT * len(window.reads))
        return window

    def _resolved(self, offset: int, length: int) -> Window:
        starts, shifts = array("q"), array("q")
        reads: list[Read] = []
        for run in self.layer.runs(offset, length):
            read, shift = _target(run)
            if not reads or read != reads[-1] or shift != shifts[-1]:
                starts.append(run.offset)
                shifts.append(shift)
                reads.append(read)
        starts.extend((offset + length, _FOREVER))
        shifts.append(0)
        reads.append(self._read_pieces)
        return Window(starts, shifts, reads)

    def _check(self, offset: int, length: int) -> None:
        if self._closed:
            raise Invalid("is closed", path=self._path, offset=offset)
        check_range(self.size, offset, length)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self._check(offset, length)
        return merged(self._extents(offset, length))

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        if length:
            for run in self.layer.runs(offset, length):
                if run.source is None:
                    yield from ZEROS.extents(run.offset, run.length)
                else:
                    yield from shifted(run.source.extents(run.start, run.length), run.offset - run.start)

    def close(self) -> None:
        self._closed = True
        self._windows.clear()
        self._resources.close()


def _target(run: Run) -> tuple[Read, int]:
    """Who reads the run, and what to add to an offset of the disk for it."""
    if run.source is None:
        return ZEROS.readinto, 0
    return run.source.readinto, run.start - run.offset
