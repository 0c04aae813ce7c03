"""What every ``Blocks`` shares: the range check, ``read`` on top of ``readinto``, and extents of the simple kinds."""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.errors import Invalid
from mntapi.types import Blocks, Extent, ExtentKind

MAX_READ = 1 << 31
"""Bytes that one call of ``read`` may ask for; a larger length in our own code is a number from disk that was trusted."""


def check_range(size: int, offset: int, length: int) -> None:
    """Raise Invalid unless ``offset .. offset + length`` lies inside ``0 .. size`` (all bytes)."""
    if offset < 0 or length < 0 or offset + length > size:
        raise Invalid(f"a read of {length} bytes at {offset} is outside the {size} bytes there are", offset=offset)


def read(blocks: Blocks, offset: int, length: int) -> bytes:
    """``length`` bytes at ``offset``: never fewer, never more.

    Raises:
        Invalid: the range is not inside the blocks, or longer than ``MAX_READ``.
        MntapiError: what ``readinto`` raises.
    """
    check_range(min(blocks.size, offset + MAX_READ), offset, length)
    buffer = bytearray(length)
    blocks.readinto(offset, memoryview(buffer))
    return bytes(buffer)


def read_clipped(blocks: Blocks, offset: int, length: int) -> bytes:
    """Like ``read``, but what lies past the end is left out: for probing a structure that may be cut off."""
    length = max(0, min(length, blocks.size - offset))
    return read(blocks, offset, length) if length else b""


def whole(offset: int, length: int, kind: ExtentKind) -> Iterator[Extent]:
    """The range as a single extent (none if it is empty)."""
    if length:
        yield Extent(offset, length, kind)


def shifted(extents: Iterator[Extent], delta: int) -> Iterator[Extent]:
    """The same extents, ``delta`` bytes further on."""
    for offset, length, kind in extents:
        yield Extent(offset + delta, length, kind)


def merged(extents: Iterator[Extent]) -> Iterator[Extent]:
    """Neighbours of one kind joined into one; the input must be ascending and gapless."""
    last: Extent | None = None
    for extent in extents:
        if last is not None and last.kind is extent.kind:
            last = Extent(last.offset, last.length + extent.length, last.kind)
            continue
        if last is not None:
            yield last
        last = extent
    if last is not None:
        yield last
