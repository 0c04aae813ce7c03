"""Runs: where the bytes of a range are, piece by piece. A disk cut into blocks and a volume of chunks both come down to these.

Whoever has a map yields runs, in the order of the range and without gaps; here they become reads and extents. Neighbours are
joined first, so that a table of small blocks does not make small reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mntapi.blocks.base import merged, whole
from mntapi.blocks.zero import fill
from mntapi.types import Blocks, Extent, ExtentKind


class Run(NamedTuple):
    """``length`` bytes that are at ``position`` of their source, side by side; zeros if that is None."""

    source: Blocks | None
    position: int
    length: int


def joined(runs: Iterable[Run]) -> Iterator[Run]:
    """The same runs, those that go on where the last one ended joined to it."""
    last: Run | None = None
    for run in runs:
        if (
            last is not None
            and last.source is run.source
            and (run.source is None or last.position + last.length == run.position)
        ):
            last = Run(last.source, last.position, last.length + run.length)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


def read_runs(runs: Iterable[Run], buffer: memoryview) -> None:
    """Fill the buffer with what is there. Raises what reading the sources raises."""
    done = 0
    for source, position, length in joined(runs):
        part = buffer[done : done + length]
        if source is None:
            fill(part)
        else:
            source.readinto(position, part)
        done += length


def extents_of(runs: Iterable[Run], offset: int) -> Iterator[Extent]:
    """The extents of the range that begins at ``offset``, as their sources have them."""
    return merged(_extents(runs, offset))


def _extents(runs: Iterable[Run], offset: int) -> Iterator[Extent]:
    for source, position, length in joined(runs):
        if source is None:
            yield from whole(offset, length, ExtentKind.ZERO)
        else:
            for start, count, kind in source.extents(position, length):
                yield Extent(start - position + offset, count, kind)
        offset += length
