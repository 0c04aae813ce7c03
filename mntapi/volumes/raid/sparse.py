"""Extents of striped arrays, a run of whole stripes at a time: a sparse array of terabytes is told in a few steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mntapi.blocks import merged, shifted, whole
from mntapi.types import Blocks, Extent, ExtentKind
from mntapi.units import align_up
from mntapi.volumes.raid.gather import Piece

MAX_MIXED_STRIPES = 1024
"""Stripes in a row that are told chunk by chunk, where one member holds data and another zeros. More are called data."""


class Stripe(NamedTuple):
    """After every ``array`` bytes of the array the pattern begins again, ``member`` bytes further on each member."""

    array: int
    member: int


def striped_extents(
    members: Sequence[Blocks | None],
    stripe: Stripe,
    pieces: Callable[[int, int], Iterator[Piece]],
    offset: int,
    length: int,
    *,
    is_complete: bool = True,
) -> Iterator[Extent]:
    """Extents of an array range.

    Args:
        members: as the pieces count them; None is a missing one.
        stripe: how the array repeats over the members.
        pieces: the array's mapping: where a range lies, in order and without gaps.
        offset: bytes in the array; checked by the caller.
        length: bytes.
        is_complete: the others make up for those that are missing, within the same stripe: zeros on all of them are zeros.
    """
    tell = [member for member in members if member is not None] if is_complete else members
    return merged(_extents(members, tell, stripe, pieces, offset, offset + length))


def _extents(
    members: Sequence[Blocks | None],
    tell: Sequence[Blocks | None],
    stripe: Stripe,
    pieces: Callable[[int, int], Iterator[Piece]],
    offset: int,
    end: int,
) -> Iterator[Extent]:
    limit = align_up(end, stripe.array) // stripe.array * stripe.member
    while offset < end:
        number = offset // stripe.array
        kind, same = _uniform(tell, number * stripe.member, limit)
        count = max(1, same // stripe.member)
        stop = min(end, (number + count) * stripe.array)
        if kind is None and count > MAX_MIXED_STRIPES:
            kind = ExtentKind.DATA
        if kind is None or same < stripe.member:
            yield from _piecewise(members, pieces(offset, stop - offset), offset)
        else:
            yield from whole(offset, stop - offset, kind)
        offset = stop


def _uniform(members: Sequence[Blocks | None], start: int, limit: int) -> tuple[ExtentKind | None, int]:
    """What all members hold from ``start`` on (None if not the same), and for how many bytes no member changes."""
    kinds: set[ExtentKind | None] = set()
    end = limit
    for member in members:
        if member is None:
            kinds.add(None)
            continue
        first = next(member.extents(start, min(member.size, limit) - start), None) if start < member.size else None
        kinds.add(first.kind if first else None)
        end = min(end, first.end if first else start)
    return (kinds.pop() if len(kinds) == 1 else None), end - start


def _piecewise(members: Sequence[Blocks | None], pieces: Iterator[Piece], base: int) -> Iterator[Extent]:
    for piece in pieces:
        member = members[piece.member]
        at = base + piece.position
        if member is None:
            yield from whole(at, piece.length, ExtentKind.DATA)
        else:
            yield from shifted(member.extents(piece.offset, piece.length), at - piece.offset)
