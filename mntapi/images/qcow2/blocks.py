"""The disk in a QCOW2 chain as ``Blocks``: windows of resolved runs, and one ``preadv`` per run."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack

from mntapi.blocks import check_range, merged, shifted
from mntapi.errors import Invalid
from mntapi.images.qcow2.compressed import ClusterCache
from mntapi.images.qcow2.mapping import Mapping, Resolved, Run, joined, resolve
from mntapi.types import Extent

WINDOW_CLUSTERS_BITS = 8
"""A window is 256 clusters of the link with the smallest clusters."""
MAX_RUNS = 1 << 16
"""Runs that the windows of a disk keep, counting each window as four more: some 10 MiB."""
_WINDOW_COST = 4


class Qcow2Blocks:
    """Reads the disk that ``mapping`` describes.

    Where the bytes of a window are is found once, through all links of the chain; a read is then a look-up and the read of the
    file. The look-up takes no lock: a window is complete before it is put into the dictionary, and is never changed.
    """

    sector_size = 512

    def __init__(self, mapping: Mapping, *, path: str, size: int, window_bits: int, cache: ClusterCache) -> None:
        self.size = size
        self.path = path
        self.window_bits = window_bits
        self.cache = cache
        self._mapping = mapping
        self._owned = ExitStack()
        self._windows: dict[int, Resolved] = {}
        self._used = 0
        self._is_closed = False
        self._lock = threading.Lock()

    def own(self, owned: ExitStack) -> None:
        """Take over what ``close`` is to close."""
        self._owned = owned

    def readinto(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        end = offset + length
        if offset < 0 or end > self.size:
            check_range(self.size, offset, length)
        if not length:
            return
        starts, deltas, sources = self._windows.get(offset >> self.window_bits) or self._load(offset >> self.window_bits)
        at = bisect_right(starts, offset) - 1
        if end <= starts[at + 1]:
            sources[at].readinto(offset + deltas[at], buffer)
        else:
            self._read_runs(offset, end, buffer)

    def _read_runs(self, offset: int, end: int, buffer: memoryview) -> None:
        begin = offset
        while offset < end:
            index = offset >> self.window_bits
            starts, deltas, sources = self._windows.get(index) or self._load(index)
            at = bisect_right(starts, offset) - 1
            stop = min(end, starts[at + 1])
            sources[at].readinto(offset + deltas[at], buffer[offset - begin : stop - begin])
            offset = stop

    def _load(self, index: int) -> Resolved:
        start = index << self.window_bits
        window = resolve(self._mapping, start, min(self.size, start + (1 << self.window_bits)))
        with self._lock:
            if self._is_closed:
                raise Invalid("is closed", path=self.path)
            if index not in self._windows:
                self._windows[index] = window
                self._used += len(window.deltas) + _WINDOW_COST
            while self._used > MAX_RUNS and len(self._windows) > 1:
                oldest = self._windows.pop(next(iter(self._windows)))
                self._used -= len(oldest.deltas) + _WINDOW_COST
        return window

    def runs(self, start: int, end: int, *, strict: bool) -> Iterator[Run]:
        """The runs of ``start .. end``, for the link above: zeros past the end of this disk."""
        return self._mapping.runs(start, end, strict=strict)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return merged(self._extents(offset, offset + length))

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        for run in joined(self._mapping.runs(start, end)):
            yield from shifted(run.source.extents(run.target, run.length), run.start - run.target)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._windows.clear()
        self._mapping.close()
        self._owned.close()
