"""Reading many pieces of several members with few reads: neighbours are read at once, each piece straight to its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from mntapi.blocks.scatter import readv
from mntapi.errors import MntapiError, ReadFailed
from mntapi.types import Blocks
from mntapi.units import KIB, MIB

WINDOW = 4 * MIB
"""Bytes of an array that are worked on at a time, so that a large read does not need as much memory again."""

_GAP = 16 * KIB
"""Bytes between two pieces that are read along, rather than asking twice: a chunk of parity between chunks of data."""

_NOWHERE = memoryview(bytearray(_GAP))
"""Where they go to, whoever reads them."""

UNIT = 4 * KIB
"""Bytes in the smallest piece that is given up for a bad sector; Linux computes parity in units of this size too."""


class Piece(NamedTuple):
    """``length`` bytes at ``offset`` of member ``member`` are those at ``position`` of the buffer that is being filled."""

    member: int
    offset: int
    length: int
    position: int

    def units(self, unit: int) -> Iterator[Piece]:
        """The same, cut at multiples of ``unit`` bytes of the member."""
        start, end = self.offset, self.offset + self.length
        while start < end:
            stop = min(end, start - start % unit + unit)
            yield Piece(self.member, start, stop - start, self.position + start - self.offset)
            start = stop


_BY_OFFSET = attrgetter("offset")


class Failure(NamedTuple):
    """A piece that could not be read, and why."""

    piece: Piece
    error: MntapiError


def windows(offset: int, length: int) -> Iterator[tuple[int, int, int]]:
    """The range in parts of at most ``WINDOW`` bytes: (offset, length, position in the buffer)."""
    for position in range(0, length, WINDOW):
        yield offset + position, min(WINDOW, length - position), position


def missing(member: int) -> ReadFailed:
    """The error for bytes that only an absent member has."""
    return ReadFailed(f"cannot be read: member {member} of the array is missing", reason="member-missing")


def gather(members: Sequence[Blocks | None], pieces: Iterable[Piece], buffer: memoryview) -> list[Failure]:
    """Read all pieces into ``buffer``; what could not be read is returned, in no order, and its bytes are undefined."""
    by_member: dict[int, list[Piece]] = {}
    for piece in pieces:
        by_member.setdefault(piece.member, []).append(piece)
    failures: list[Failure] = []
    for index, wanted in by_member.items():
        member = members[index]
        if member is None:
            failures += [Failure(piece, missing(index)) for piece in wanted]
            continue
        for run in _runs(wanted):
            failures += _read_run(member, run, buffer)
    return failures


def _runs(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """Pieces of one member, grouped into what is read at once."""
    if len(pieces) == 1:
        yield pieces
        return
    pieces.sort(key=_BY_OFFSET)
    first = 0
    end = pieces[0].offset
    for index, (_, offset, length, _) in enumerate(pieces):
        if not 0 <= offset - end <= _GAP:
            yield pieces[first:index]
            first = index
        end = offset + length
    yield pieces[first:]


def _read_run(member: Blocks, run: Sequence[Piece], buffer: memoryview) -> list[Failure]:
    try:
        if len(run) == 1:
            ((_, offset, length, position),) = run
            member.readinto(offset, buffer[position : position + length])
        else:
            readv(member, run[0].offset, run[-1].offset + run[-1].length - run[0].offset, _places(run, buffer))
    except MntapiError as error:
        if len(run) == 1:
            return [Failure(run[0], error)]
        return [failure for piece in run for failure in _read_run(member, [piece], buffer)]
    return []


def _places(run: Sequence[Piece], buffer: memoryview) -> list[memoryview]:
    """Where the bytes of a run go to, those of its gaps included."""
    places = []
    end = run[0].offset
    for _, offset, length, position in run:
        if offset > end:
            places.append(_NOWHERE[: offset - end])
        places.append(buffer[position : position + length])
        end = offset + length
    return places
