"""Volumes with chunks of another device laid over them: what thin volumes, snapshots and cached volumes have in common.

``Overlaid`` reads; a ``Finder`` says which chunks lie over a range and where they are; ``ChunkTable`` holds the finder's
answers for the formats that keep no tree (snapshots) or one the other way round (caches).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from threading import Lock
from typing import NamedTuple

from mntapi.blocks import check_range, merged, shifted
from mntapi.errors import Corrupt, Unsupported
from mntapi.types import Blocks, Extent

Finder = Callable[[int, int], Iterator[tuple[int, int]]]
"""``(first, end)``, chunk numbers of the volume, to those of these chunks that are laid over, ascending: each with the byte
offset of its content."""

MAX_CHUNKS = 1 << 24
"""Chunks in a table; 8 bytes each. 64 GiB of changes in a snapshot with chunks of 4 KiB, 1 TiB with 64 KiB."""

_BATCH = 1 << 18
"""Chunks that are sorted together. A look-up searches every batch, of which there are at most 64."""


class Run(NamedTuple):
    """Neighbouring bytes of the volume that are neighbours in their source; all in bytes."""

    source: Blocks
    position: int
    length: int


class Overlaid:
    """``beneath``, and over it chunks of ``above`` where ``find`` has one. Borrows both.

    Args:
        beneath: what shows where no chunk is laid over; as long as the volume.
        above: what has the chunks. One that is not inside it raises Corrupt when it is read.
        chunk: bytes of a chunk.
        find: which chunks are laid over, and where they are in ``above``.
    """

    def __init__(self, beneath: Blocks, above: Blocks, chunk: int, find: Finder) -> None:
        self.size = beneath.size
        self.sector_size = max(beneath.sector_size, above.sector_size)
        self._beneath = beneath
        self._above = above
        self._chunk = chunk
        self._find = find

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        done = 0
        for source, position, count in _joined(self._runs(offset, len(buffer))):
            source.readinto(position, buffer[done : done + count])
            done += count

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return merged(self._extents(offset, length))

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        for source, position, count in _joined(self._runs(offset, length)):
            yield from shifted(source.extents(position, count), offset - position)
            offset += count

    def _runs(self, offset: int, length: int) -> Iterator[Run]:
        end, chunk = offset + length, self._chunk
        for index, position in self._find(offset // chunk, -(-end // chunk)):
            start, stop = max(offset, index * chunk), min(end, (index + 1) * chunk)
            if offset < start:
                yield Run(self._beneath, offset, start - offset)
            place = position + start - index * chunk
            if place + stop - start > self._above.size:
                raise Corrupt(
                    f"chunk {index} of the volume is kept past the end of what keeps it",
                    expected=f"below {self._above.size}",
                    found=position,
                    reason="lvm-metadata",
                )
            yield Run(self._above, place, stop - start)
            offset = stop
        if offset < end:
            yield Run(self._beneath, offset, end - offset)

    def close(self) -> None:
        """Nothing to release: both belong to somebody else."""


def _joined(runs: Iterator[Run]) -> Iterator[Run]:
    """The same runs, those that go on where the last one ended joined to it."""
    last: Run | None = None
    for run in runs:
        if last is None:
            last = run
        elif run.source is last.source and run.position == last.position + last.length:
            last = Run(last.source, last.position, last.length + run.length)
        else:
            yield last
            last = run
    if last is not None:
        yield last


class ChunkTable:
    """Which chunk is kept at which place, both counted in chunks: 8 bytes each, and read in order of chunks.

    Args:
        chunks, places: how many there are of each. A place that there is not is kept as one behind the last.
        pieces: what the table holds, as (chunks, places) of the same length, in any order.
        name: begins every message.

    Raises:
        Corrupt: a chunk is not in the volume.
        Unsupported: there are more than ``MAX_CHUNKS`` in the table, or so many in the volume that two numbers take more
            than 64 bits (2 PiB with chunks of 4 KiB and a place for each in 64 TiB do not).
        MntapiError: what ``pieces`` raises.

    A chunk that is not in the volume may be any chunk, misread, so nothing of the table can be trusted then.
    """

    def __init__(self, chunks: int, places: int, pieces: Iterable[tuple[Sequence[int], Sequence[int]]], name: str) -> None:
        self._shift = (places + 1).bit_length()
        self._name = name
        if chunks.bit_length() + self._shift > 64:
            raise Unsupported(f"{name}: has {chunks} chunks, too many for a table", reason="too-many-chunks")
        self._batches: list[array[int]] = []
        packed = self._packed(chunks, places, pieces)
        while batch := sorted(islice(packed, _BATCH)):
            self._batches.append(array("Q", batch))
            if len(self._batches) * _BATCH > MAX_CHUNKS:
                raise Unsupported(f"{name}: more than {MAX_CHUNKS} chunks differ from the origin", reason="too-many-chunks")

    def _packed(self, chunks: int, places: int, pieces: Iterable[tuple[Sequence[int], Sequence[int]]]) -> Iterator[int]:
        for some, where in pieces:
            if some and max(some) >= chunks:
                raise self._corrupt("has a chunk that is not in the volume", f"below {chunks}", max(some))
            if some and max(where) >= places:
                where = [min(place, places + 1) for place in where]
            yield from [chunk << self._shift | place for chunk, place in zip(some, where, strict=True)]

    def between(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """The chunks in ``first .. end``, ascending, each with its place. Raises Corrupt where one has two places."""
        low, high, last = first << self._shift, end << self._shift, -1
        mask = (1 << self._shift) - 1
        parts = [map(batch.__getitem__, range(bisect_left(batch, low), bisect_left(batch, high))) for batch in self._batches]
        for packed in merge(*parts):
            chunk = packed >> self._shift
            if chunk == last:
                raise self._corrupt(f"keeps chunk {chunk} twice")
            last = chunk
            yield chunk, packed & mask

    def _corrupt(self, what: str, expected: object = None, found: object = None) -> Corrupt:
        return Corrupt(f"{self._name}: {what}", expected=expected, found=found, reason="lvm-metadata")


class Later:
    """A table that is made when it is first asked for. One that fails is tried again: the storage may have recovered."""

    def __init__(self, make: Callable[[], ChunkTable]) -> None:
        self._make = make
        self._table: ChunkTable | None = None
        self._lock = Lock()

    def get(self) -> ChunkTable:
        """The table. Raises what making it raises."""
        with self._lock:
            if self._table is None:
                self._table = self._make()
            return self._table
