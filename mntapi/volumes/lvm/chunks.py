"""Volumes with chunks of another device laid over them: what thin volumes, snapshots and cached volumes have in common.

``Overlaid`` reads; a ``Finder`` says which chunks lie over a range and where they are; ``ChunkTable`` holds the finder's
answers for the formats that keep no tree (snapshots) or one the other way round (caches).
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from heapq import merge
from itertools import groupby, islice
from threading import Lock

from mntapi.blocks import check_range
from mntapi.blocks.runs import Run, extents_of, read_runs
from mntapi.errors import Corrupt, Unsupported
from mntapi.types import Blocks, Extent

Finder = Callable[[int, int], Iterator[tuple[int, int]]]
"""``(first, end)``, chunk numbers of the volume, to those of these chunks that are laid over, ascending: each with the byte
offset of its content."""

MAX_CHUNKS = 1 << 24
"""Chunks in a table; 8 bytes each. 64 GiB of changes in a snapshot with chunks of 4 KiB, 1 TiB with 64 KiB."""

MAX_PLACES = 16
"""Places of one chunk of which one is chosen. A power cut leaves two."""

_BATCH = 1 << 18
"""Chunks that are sorted together, or a few more. A look-up searches those batches that may have the chunk, at most 64."""


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
        read_runs(self._runs(offset, len(buffer)), buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return extents_of(self._runs(offset, length), offset)

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


class ChunkTable:
    """Which chunk is kept at which place, both counted in chunks: 8 bytes each, and read in order of chunks.

    Args:
        chunks, places: how many there are of each. A place that there is not is kept as one behind the last.
        pieces: what the table holds, as (chunks, places) of the same length, in any order.
        name: begins every message.
        choose: of two places of one chunk, the one that counts; None: there must be one.

    Raises:
        Corrupt: a chunk is not in the volume.
        Unsupported: there are more than ``MAX_CHUNKS`` in the table, or so many in the volume that two numbers take more
            than 64 bits (2 PiB with chunks of 4 KiB and a place for each in 64 TiB do not).
        MntapiError: what ``pieces`` raises.

    A chunk that is not in the volume may be any chunk, misread, so nothing of the table can be trusted then.
    """

    def __init__(
        self,
        chunks: int,
        places: int,
        pieces: Iterable[tuple[Sequence[int], Sequence[int]]],
        name: str,
        choose: Callable[[int, int], int] | None = None,
    ) -> None:
        self._choose = choose
        self._chunks = chunks
        self._places = places
        self._shift = (places + 1).bit_length()
        self._name = name
        self._bits = chunks.bit_length() + self._shift
        if self._bits > 64:
            raise Unsupported(f"{name}: has {chunks} chunks, too many for a table", reason="too-many-chunks")
        self._batches: list[_Batch] = []
        self._count = 0
        some, where = array("Q"), array("Q")
        for more_chunks, more_places in pieces:
            some.extend(more_chunks)
            where.extend(more_places)
            if len(some) >= _BATCH:
                self._add(some, where)
                some, where = array("Q"), array("Q")
        self._add(some, where)

    def _add(self, some: array[int], where: array[int]) -> None:
        """Keep these, chunk and place in one number."""
        if not some:
            return
        last = max(some)
        if last >= self._chunks:
            raise self._corrupt("has a chunk that is not in the volume", f"below {self._chunks}", last)
        if max(where) >= self._places:
            where = array("Q", [min(place, self._places + 1) for place in where])
        self._batches.append(_Batch(min(some), last, _packed(some, where, self._shift), self._bits))
        self._count += len(some)
        if self._count > MAX_CHUNKS:
            raise Unsupported(f"{self._name}: more than {MAX_CHUNKS} chunks differ from the origin", reason="too-many-chunks")

    def between(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """The chunks in ``first .. end``, ascending, each with its place. Raises Corrupt where one has too many places."""
        low, high = first << self._shift, end << self._shift
        parts = [batch.between(low, high) for batch in self._batches if batch.first < end and batch.last >= first]
        packed = map(int, merge(*parts))
        return self._unique(packed) if self._choose is None else self._chosen(packed, self._choose)

    def _unique(self, packed: Iterable[int]) -> Iterator[tuple[int, int]]:
        mask, last = (1 << self._shift) - 1, -1
        for number in packed:
            chunk = number >> self._shift
            if chunk == last:
                raise self._corrupt(f"keeps chunk {chunk} twice")
            last = chunk
            yield chunk, number & mask

    def _chosen(self, packed: Iterable[int], choose: Callable[[int, int], int]) -> Iterator[tuple[int, int]]:
        mask, shift = (1 << self._shift) - 1, self._shift
        for chunk, numbers in groupby(packed, lambda number: number >> shift):
            places = [number & mask for number in islice(numbers, MAX_PLACES + 1)]
            if len(places) > MAX_PLACES:
                raise self._corrupt(f"keeps chunk {chunk} more than {MAX_PLACES} times")
            yield chunk, reduce(choose, places)

    def _corrupt(self, what: str, expected: object = None, found: object = None) -> Corrupt:
        return Corrupt(f"{self._name}: {what}", expected=expected, found=found, reason="lvm-metadata")


class _Batch:
    """Some of a table's numbers, of ``bits`` bits, for the chunks ``first`` to ``last``. Sorted when first asked for: of a
    table that was filled in order, a small read needs one."""

    def __init__(self, first: int, last: int, content: bytes, bits: int) -> None:
        self.first = first
        self.last = last
        self._content: bytes | None = content
        self._bits = bits
        self._sorted: array[int] | array[float] = array("Q")

    def between(self, low: int, high: int) -> Iterator[int | float]:
        """Those from ``low`` to below ``high``, ascending."""
        content = self._content  # before the other: two threads may sort at once, and both come to the same
        if content is not None:
            numbers = array("Q", content)
            # Floats hold 53 bits, and Python sorts them in two thirds of the time that integers take.
            self._sorted = array("d", sorted(array("d", numbers))) if self._bits <= 53 else array("Q", sorted(numbers))
            self._content = None
        ordered = self._sorted
        return map(ordered.__getitem__, range(bisect_left(ordered, low), bisect_left(ordered, high)))


def _packed(some: array[int], where: array[int], shift: int) -> bytes:
    """``chunk << shift | place`` for each, all at once in one large integer: none of the sums is wider than its 8 bytes."""
    upper, lower = (int.from_bytes(numbers.tobytes(), sys.byteorder) for numbers in (some, where))
    return (upper << shift | lower).to_bytes(8 * len(some), sys.byteorder)


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
