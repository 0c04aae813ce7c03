"""RAID 10: chunks in turn over the members, each stored several times.

Near copies stand beside each other; far copies begin again further down, each set of them one place further right; with offset
they stand in the very next row.

Source: ``raid10_find_phys``, ``calc_sectors`` and ``raid10_size`` in drivers/md/raid10.c of the kernel; md(4), "RAID10".
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from math import gcd

from mntapi.blocks import check_range
from mntapi.blocks.writable import Spread
from mntapi.errors import Invalid
from mntapi.types import Blocks, Extent, WritableBlocks
from mntapi.units import align_up
from mntapi.volumes.raid.complete import all_present
from mntapi.volumes.raid.gather import UNIT, Failure, Piece, gather, windows
from mntapi.volumes.raid.sparse import Stripe, striped_extents
from mntapi.volumes.raid.striped import check_geometry, check_member, chunks

MAX_COPIES = 64
"""Copies of a chunk. Linux has no limit but the members; more than three are hardly ever seen."""


def survives(count: int, near: int, far: int, lost: Collection[int]) -> bool:
    """Whether ``count`` members can do without these: a copy of every chunk is left. Copies of a chunk are on neighbours."""
    firsts = range(0, count * near, near)
    return all(any((first + step) % count not in lost for step in range(near * far)) for first in firsts)


class Raid10:
    """``size`` bytes in ``near`` times ``far`` copies.

    Args:
        members: in order; None is a missing one.
        chunk: bytes.
        size: bytes; how far the far copies are depends on it.
        near: copies beside each other.
        far: copies further down.
        far_is_offset: those are in the next row.

    Raises:
        Invalid: fewer members than copies, near and far copies that would lie on each other, or a member that is too small.
    """

    def __init__(
        self, members: Sequence[Blocks | None], chunk: int, size: int, near: int, far: int, far_is_offset: bool
    ) -> None:
        if near < 1 or far < 1 or near * far > MAX_COPIES:
            raise Invalid(f"an array of {near} near and {far} far copies")
        check_geometry(len(members), chunk, size, at_least=near * far)
        if near > 1 and far > 1 and len(members) % near:
            raise Invalid(f"{near} near and {far} far copies on {len(members)} members lie on each other")
        rows = -(-align_up(size, chunk) // chunk * near // len(members))
        for index, member in enumerate(members):
            if member is not None:
                check_member(index, member, rows * far * chunk)
        self.size = size
        self.sector_size = max((member.sector_size for member in members if member is not None), default=512)
        self._members = tuple(members)
        self._chunk = chunk
        self._near, self._far = near, far
        self._rows_per_stripe = far if far_is_offset else 1
        self._far_rows = 1 if far_is_offset else rows
        self._turn = threading.Lock()

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        for start, count, position in windows(offset, len(buffer)):
            self._read(start, count, buffer[position : position + count])

    def _read(self, offset: int, length: int, buffer: memoryview) -> None:
        """First one copy of each piece, as few reads as possible; then the other copies of what failed."""
        for failure in gather(self._members, self._pieces(offset, length), buffer):
            number, within = divmod(offset + failure.piece.position, self._chunk)
            pieces = list(self._copies(number, within, failure.piece.length, failure.piece.position))
            if not self._read_copy(pieces, buffer):
                self._read_units(pieces, failure, buffer)

    def _read_copy(self, pieces: Sequence[Piece], buffer: memoryview) -> bool:
        """Read one of the copies; whether any could be."""
        return any(not gather(self._members, [piece], buffer) for piece in pieces)

    def _read_units(self, pieces: Sequence[Piece], failure: Failure, buffer: memoryview) -> None:
        """Each unit from whichever copy has it: two members may each have a bad sector."""
        for unit in pieces[0].units(UNIT):
            start = unit.position - pieces[0].position
            copies = [Piece(member, offset + start, unit.length, unit.position) for member, offset, _, _ in pieces]
            if not self._read_copy(copies, buffer):
                raise failure.error

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        count = len(self._members)
        common = gcd(count, self._near)
        stripe = Stripe(count // common * self._chunk, self._near // common * self._rows_per_stripe * self._chunk)
        absent = sum(member is None for member in self._members)
        in_stripe = self._near * self._rows_per_stripe  # copies
        return striped_extents(self._members, stripe, self._pieces, offset, length, is_complete=absent < in_stripe)

    def _pieces(self, offset: int, length: int) -> Iterator[Piece]:
        """One copy of each chunk: the first that is not on a missing member, if there is any."""
        for number, within, size, position in chunks(self._chunk, offset, length):
            copies = self._copies(number, within, size, position)
            first = next(copies)
            if self._members[first.member] is None:
                first = next((piece for piece in copies if self._members[piece.member] is not None), first)
            yield first

    def _copies(self, number: int, within: int, length: int, position: int) -> Iterator[Piece]:
        """All copies of a part of a chunk."""
        for member, row in self._places(number):
            yield Piece(member, row * self._chunk + within, length, position)

    def _places(self, number: int) -> Iterator[tuple[int, int]]:
        """Where the copies of a chunk are: (member, row of chunks)."""
        count = len(self._members)
        for near in range(self._near):
            row, member = divmod(number * self._near + near, count)
            for far in range(self._far):
                yield (member + far * self._near) % count, row * self._rows_per_stripe + far * self._far_rows

    def writable(self) -> WritableBlocks:
        """The same, to be written: all copies are. Raises Unsupported where a member is missing, or cannot be."""
        return Spread(self, all_present(self._members), self._all_copies, turn=self._turn)

    def _all_copies(self, offset: int, length: int) -> Iterator[Piece]:
        for number, within, size, position in chunks(self._chunk, offset, length):
            yield from self._copies(number, within, size, position)

    def close(self) -> None:
        """Nothing to release: the members belong to somebody else."""
