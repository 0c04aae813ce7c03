"""Copies of a disk in one set: a disk and its snapshot, or the same disk by two paths.

What a volume manager wrote on both is the same, so it cannot tell them apart; but where one went on being used and the other
did not, their contents differ. A volume put together of both would be of two times: one that nobody ever had.
"""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks import read
from mntapi.errors import MntapiError
from mntapi.types import Blocks
from mntapi.units import KIB, MIB, align_down

HEAD = 128 * KIB
"""Bytes at the start that are always compared: most file systems have a superblock there that changes with each mount."""
PIECE = 4 * KIB
"""Bytes that are compared in each of ``PLACES`` places behind that, which are spread evenly."""
PLACES = 128
SMALL = 4 * MIB
"""What is not longer is compared in full."""


def are_alike(one: Blocks, other: Blocks) -> bool:
    """Whether two that claim to be the same have one size, and the same bytes wherever they are compared.

    All of it is not compared: that would take as long as reading it. A place that only one can be read at is not alike.
    """
    return one.size == other.size and all(_content(one, *place) == _content(other, *place) for place in _ranges(one.size))


def _content(blocks: Blocks, offset: int, length: int) -> bytes | None:
    """What is there, None if that cannot be read."""
    try:
        return read(blocks, offset, length)
    except MntapiError:
        return None


def _ranges(size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of what is compared; the last place is the end."""
    yield from ((at, min(HEAD, size - at)) for at in range(0, size if size <= SMALL else HEAD, HEAD))
    if size > SMALL:
        yield from ((align_down((size - PIECE) * place // PLACES, PIECE), PIECE) for place in range(1, PLACES))
        yield size - PIECE, PIECE
