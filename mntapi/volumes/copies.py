"""Copies of a disk in one set: a disk and its snapshot, or the same disk by two paths.

What a volume manager wrote on both is the same, so it cannot tell them apart; but where one went on being used and the other
did not, their contents differ. A volume put together of both would be of two times: one that nobody ever had.

Always true: one stands for the other only where every byte that either stores was compared and is the same, now. Copies that
hold too much for that are treated as copies that differ: a sample cannot tell that the rest is the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks import read
from mntapi.errors import MntapiError
from mntapi.types import Blocks, Extent, ExtentKind
from mntapi.units import KIB, MIB, align_down, format_size

HEAD = 128 * KIB
"""Bytes at the start that are compared first: most file systems have a superblock there that changes with each mount."""
PIECE = 4 * KIB
"""Bytes that are compared next in each of ``PLACES`` places, which are spread evenly: most copies that differ do so there."""
PLACES = 128
LIMIT = 256 * MIB
"""Bytes stored that are compared at most: a second or so, each time a set is opened."""
_WINDOW = MIB
_LARGE = f"hold more than {format_size(LIMIT)}, too much to compare"


def why_not_alike(one: Blocks, other: Blocks) -> str | None:
    """Why of two that claim to be the same neither may stand for the other, None if they hold the same, byte for byte.

    The words follow their names: ``differ``, ``hold more than 256 MiB, too much to compare``.
    """
    if one.size != other.size:
        return "differ"
    try:
        if not _are_same(one, other, _samples(one.size)):
            return "differ"
        if _is_large(_stored(one, other)):
            return _LARGE
        return None if _are_same(one, other, _stored(one, other)) else "differ"
    except MntapiError as error:
        return f"cannot be compared ({error})"


def _are_same(one: Blocks, other: Blocks, extents: Iterator[Extent]) -> bool:
    """Whether both hold the same bytes in all of these."""
    for extent in extents:
        for start in range(extent.offset, extent.end, _WINDOW):
            count = min(_WINDOW, extent.end - start)
            if read(one, start, count) != read(other, start, count):
                return False
    return True


def _samples(size: int) -> Iterator[Extent]:
    """What is compared first; the last place is the end."""
    head = min(HEAD, size)
    yield Extent(0, head, ExtentKind.DATA)
    for place in range(1, PLACES + 1) if size > HEAD else ():
        start = max(head, align_down((size - PIECE) * place // PLACES, PIECE) if place < PLACES else size - PIECE)
        yield Extent(start, min(PIECE, size - start), ExtentKind.DATA)


def _stored(one: Blocks, other: Blocks) -> Iterator[Extent]:
    """What either stores: everywhere else both are zeros."""
    for extent in one.extents(0, one.size):
        if extent.kind is ExtentKind.DATA:
            yield extent
        else:
            yield from (theirs for theirs in other.extents(extent.offset, extent.length) if theirs.kind is ExtentKind.DATA)


def _is_large(extents: Iterator[Extent]) -> bool:
    left = LIMIT
    for extent in extents:
        left -= extent.length
        if left < 0:
            return True
    return False
