"""Computing what a member held from the rest of its stripe.

Whatever is missing, the answer is one sum: some of the members that are there, each times a factor (``recipe``). Members are
read for many stripes at once; what of them was read already is taken from where it was read to.

Source: H. Peter Anvin, "The mathematics of RAID-6", 2004-2011, sections 3 and 4.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from mntapi.errors import MntapiError
from mntapi.galois import combine, inverse, product
from mntapi.types import Blocks
from mntapi.units import KIB, MIB
from mntapi.volumes.raid.gather import UNIT, Failure, Piece, gather
from mntapi.volumes.raid.layout import Row

_PART = 512 * KIB
"""Bytes of a member that are computed at a time."""
_ROOM = 2 * MIB
"""Bytes of all members together that they are computed from: a huge page, and no more than stays in the processor's cache."""
_KEPT_ROOMS = 4
"""Seldom do more threads compute at once."""
_MAX_RECIPES = 1024


class Recipe(NamedTuple):
    """What a member held is the sum of these members' bytes, each times its factor."""

    members: tuple[int, ...]
    factors: tuple[int, ...]


def recipe(row: Row, lost: int, gone: Collection[int]) -> Recipe | None:
    """How to compute data member ``lost`` without those that are ``gone``, itself among them; None if too many are."""
    others = [member for member in row.data if member in gone and member != lost]
    known = [member for member in row.data if member not in gone]
    if not others and row.p not in gone:
        return Recipe((*known, row.p), (1,) * (len(known) + 1))
    if row.q is None or row.q in gone or len(others) > 1 or (others and row.p in gone):
        return None
    # Q is a * lost + b * other + the known, each times its weight; b * P takes the other one away.
    b = row.weights[others[0]] if others else 0
    share = inverse(row.weights[lost] ^ b)
    members = (*known, row.q, *((row.p,) if others else ()))
    factors = (*(row.weights[member] ^ b for member in known), 1, *((b,) if others else ()))
    return Recipe(members, tuple(product(factor, share) for factor in factors))


class _Rooms:
    """Memory to compute from. Kept, for new pages from the system cost more than the sums; whoever has one is alone with it,
    be it an array that is a member of another."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []

    def take(self, length: int) -> memoryview:
        """At least so many bytes, whatever they hold."""
        if length > _ROOM:
            return memoryview(bytearray(length))
        try:
            return self._free.pop()
        except IndexError:
            return _new_room()

    def give_back(self, room: memoryview) -> None:
        """Let others have it."""
        if len(room) == _ROOM and len(self._free) < _KEPT_ROOMS:
            self._free.append(room)


def _new_room() -> memoryview:
    room = mmap.mmap(-1, _ROOM)
    with suppress(OSError):  # a kernel without huge pages, on which reading and computing take a fifth less time
        room.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(room)


_rooms = _Rooms()


class _Known:
    """Bytes of members that one read has brought already."""

    def __init__(self, pieces: Iterable[Piece], chunk: int, buffer: memoryview) -> None:
        self._pieces = {(piece.member, piece.offset // chunk): piece for piece in pieces}
        self._chunk = chunk
        self._buffer = buffer

    def get(self, member: int, offset: int, length: int) -> memoryview | None:
        """Those, if all of them were read; they lie inside one chunk."""
        piece = self._pieces.get((member, offset // self._chunk))
        if piece is None or not piece.offset <= offset <= offset + length <= piece.offset + piece.length:
            return None
        start = piece.position + offset - piece.offset
        return self._buffer[start : start + length]


class Rebuild:
    """Fills in what members could not give. Thread-safe.

    Args:
        members: None is a missing one.
        rows: the stripes until they repeat.
        chunk: bytes.
    """

    def __init__(self, members: Sequence[Blocks | None], rows: Sequence[Row], chunk: int) -> None:
        self._members = members
        self._rows = rows
        self._chunk = chunk
        self._gone = frozenset(index for index, member in enumerate(members) if member is None)
        self._width = len(rows[0].data) + 1
        self._limit = max(UNIT, min(_PART, _ROOM // self._width) // UNIT * UNIT)
        self._recipe = lru_cache(_MAX_RECIPES)(self._make_recipe)

    def _make_recipe(self, row: int, lost: int) -> Recipe | None:
        return recipe(self._rows[row], lost, self._gone | {lost})

    def _recipe_at(self, offset: int, lost: int) -> Recipe | None:
        return self._recipe(offset // self._chunk % len(self._rows), lost)

    def fill(self, failures: Iterable[Failure], there: Iterable[Piece], buffer: memoryview) -> None:
        """Compute the pieces that could not be read.

        Args:
            failures: those; each lies in one chunk.
            there: pieces that were read, each in one chunk.
            buffer: where all of them have their places.

        Raises:
            MntapiError: a piece's own error, because too much else is missing too.
        """
        known = _Known(there, self._chunk, buffer)
        for batch in self._batches(failures):
            for failure in self._compute(batch, known, buffer):
                for unit in failure.piece.units(UNIT):
                    self._fill_unit(unit, known, buffer, failure.error)

    def fill_small(self, lost: int, offset: int, buffer: memoryview) -> bool:
        """Compute a few sectors inside one chunk of member ``lost``, with little ado; whether that could be done."""
        length = len(buffer)
        found = self._recipe_at(offset, lost) if length <= self._limit else None
        if found is None:
            return False
        room = _rooms.take(length * self._width)
        columns = [room[at : at + length] for at in range(0, length * len(found.members), length)]
        for member, column in zip(found.members, columns, strict=True):
            if not self._read(member, offset, column):
                return False
        combine(found.factors, columns, buffer)
        _rooms.give_back(room)
        return True

    def _batches(self, failures: Iterable[Failure]) -> Iterator[list[Failure]]:
        """The pieces in parts, as many at a time as are computed together."""
        batch: list[Failure] = []
        total = 0
        for failure in failures:
            for part in failure.piece.units(self._limit):
                if batch and total + part.length > self._limit:
                    yield batch
                    batch, total = [], 0
                batch.append(Failure(part, failure.error))
                total += part.length
        if batch:
            yield batch

    def _compute(self, batch: Sequence[Failure], known: _Known, buffer: memoryview) -> list[Failure]:
        """Compute parts from the members that should be there; returns those for which one could not be read either."""
        room = _rooms.take(sum(failure.piece.length for failure in batch) * self._width)
        columns: dict[tuple[int, int, int], memoryview] = {}
        wanted: list[Piece] = []
        recipes: list[Recipe] = []
        end = 0
        for failure in batch:
            lost, offset, length, _ = failure.piece
            found = self._recipe_at(offset, lost)
            if found is None:
                raise failure.error
            recipes.append(found)
            for member in found.members:
                place = member, offset, length
                if place in columns:
                    continue
                column = known.get(*place)
                if column is None:
                    wanted.append(Piece(*place, end))
                    column = room[end : end + length]
                    end += length
                columns[place] = column
        bad = {failure.piece[:3] for failure in gather(self._members, wanted, room)}
        left = []
        for failure, found in zip(batch, recipes, strict=True):
            _, offset, length, position = failure.piece
            places = [(member, offset, length) for member in found.members]
            if bad and not bad.isdisjoint(places):
                left.append(failure)
            else:
                combine(found.factors, [columns[place] for place in places], buffer[position : position + length])
        _rooms.give_back(room)
        return left

    def _fill_unit(self, unit: Piece, known: _Known, buffer: memoryview, error: MntapiError) -> None:
        """Read a unit, for only another part of its piece may be bad; else compute it from those that have their part."""
        lost, offset, length, position = unit
        place = buffer[position : position + length]
        if self._read(lost, offset, place):
            return
        gone = {*self._gone, lost}
        while found := recipe(self._rows[offset // self._chunk % len(self._rows)], lost, gone):
            columns = {member: self._column(member, offset, length, known) for member in found.members}
            there = [column for column in columns.values() if column is not None]
            if len(there) == len(columns):
                combine(found.factors, there, place)
                return
            gone.update(member for member, column in columns.items() if column is None)
        raise error

    def _column(self, member: int, offset: int, length: int, known: _Known) -> memoryview | None:
        """Bytes of a member, None if they cannot be read."""
        column = known.get(member, offset, length)
        if column is None:
            column = memoryview(bytearray(length))
            return column if self._read(member, offset, column) else None
        return column

    def _read(self, member: int, offset: int, place: memoryview) -> bool:
        """Whether a member could be read."""
        blocks = self._members[member]
        try:
            if blocks is not None:
                blocks.readinto(offset, place)
        except MntapiError:
            return False  # the caller has the error of the piece that was asked for, and raises that if nothing helps
        return blocks is not None
