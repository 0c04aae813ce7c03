"""The data of one member: what of it may be believed, and where reading must go to the others instead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from mntapi.blocks import Concat, Missing, Slice
from mntapi.types import Blocks
from mntapi.volumes.md.assembly import Member
from mntapi.volumes.md.probe import bad_blocks


def member_data(member: Member) -> Blocks:
    """As long as its superblock says; what its volume has not, what is not rebuilt yet, and bad blocks, are ``Missing``.

    Raises what reading the bad block log raises.
    """
    blocks, superblock = member.volume.blocks, member.superblock
    size = superblock.data_size
    there = max(0, min(size, blocks.size - superblock.data_offset))
    good = there if superblock.recovered is None else min(there, superblock.recovered)
    parts: list[Blocks] = []
    at = 0
    for start, end in bad_ranges(member, good):
        if at < start:
            parts.append(Slice(blocks, superblock.data_offset + at, start - at))
        parts.append(Missing(end - start, f"{member} has bad blocks there"))
        at = end
    if at < good:
        parts.append(Slice(blocks, superblock.data_offset + at, good - at))
    if good < there:
        parts.append(Missing(there - good, f"{member} is not rebuilt that far"))
    if there < size:
        parts.append(Missing(size - there, f"{member} is cut off"))
    return parts[0] if len(parts) == 1 else Concat(parts or [Missing(0, "no data")])


def bad_ranges(member: Member, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of what its bad block log has of its first ``size`` bytes, ascending. Raises what reading that raises."""
    return _clipped(bad_blocks(member.volume.blocks, member.superblock), size)


def most_at_once(ranges: Iterable[tuple[int, int]]) -> int:
    """How many of these ranges (start, end) have a byte in common, at most."""
    edges = sorted(edge for start, end in ranges for edge in ((start, 1), (end, -1)))
    return max(accumulate(step for _, step in edges), default=0)


def _clipped(ranges: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """Ranges in ascending order as start and end, inside ``size``, none twice."""
    done = 0
    for start, length in ranges:
        first, last = max(done, start), min(size, start + length)
        if first < last:
            yield first, last
            done = last
