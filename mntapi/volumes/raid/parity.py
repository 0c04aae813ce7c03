"""RAID 4, 5 and 6: what a missing member held is computed from the others.

A read first asks the members that hold the data. For what these cannot give, the rest of the stripe is read and the missing
part computed (``rebuild.py``), in small units where each of two members has a bad sector at another place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mntapi import galois
from mntapi.blocks import check_range
from mntapi.blocks.turns import Turns
from mntapi.errors import Invalid, MntapiError
from mntapi.types import Blocks, Extent, WritableBlocks
from mntapi.volumes.raid.complete import all_present
from mntapi.volumes.raid.gather import Failure, Piece, gather, missing, windows
from mntapi.volumes.raid.layout import ParityLayout, rows
from mntapi.volumes.raid.parity_writer import ParityWriter
from mntapi.volumes.raid.rebuild import Rebuild
from mntapi.volumes.raid.sparse import Stripe, striped_extents
from mntapi.volumes.raid.striped import check_geometry, check_member, chunks

MAX_MEMBERS = 384
"""Members of an array. Linux, LVM and LDM allow no more."""


class ParityArray:
    """``size`` bytes in stripes: a chunk of data on each member but one (RAID 6: two), which hold the parity.

    Args:
        members: in order; None is a missing one.
        chunk: bytes.
        size: bytes of data, at most what whole stripes on the members hold.
        layout: where the parity is.

    Raises:
        Invalid: too few or too many members, a chunk that is not positive, or a member that is too small for ``size``.
    """

    def __init__(self, members: Sequence[Blocks | None], chunk: int, size: int, layout: ParityLayout) -> None:
        parities = 2 if layout.is_raid6 else 1
        check_geometry(len(members), chunk, size, at_least=parities + 1)
        if len(members) > MAX_MEMBERS or (layout.is_raid6 and len(members) > galois.ORDER):
            raise Invalid(f"a parity array of {len(members)} members")
        self._stripe = Stripe(chunk * (len(members) - parities), chunk)
        needed = -(-size // self._stripe.array) * chunk
        for index, member in enumerate(members):
            if member is not None:
                check_member(index, member, needed)
        self.size = size
        present = [member for member in members if member is not None]
        self.sector_size = max((member.sector_size for member in present), default=512)
        self._members = tuple(members)
        self._chunk = chunk
        self._rows = rows(layout, len(members))
        self._is_complete = len(members) - len(present) <= parities
        self._rebuild = Rebuild(self._members, self._rows, chunk)
        self._turns = Turns()

    def readinto(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        if offset < 0 or offset + length > self.size:
            check_range(self.size, offset, length)
        if 0 < length <= self._chunk - offset % self._chunk and self._read_chunk(offset, buffer):
            return
        for start, count, position in windows(offset, length):
            self._turns.read(self._read, list(self._pieces(start, count)), buffer[position : position + count])

    def _read_chunk(self, offset: int, buffer: memoryview) -> bool:
        """Read or compute a part of one chunk; False if it takes more thought."""
        number, within = divmod(offset, self._chunk)
        row, index = divmod(number, len(self._rows[0].data))
        place = self._rows[row % len(self._rows)].data[index]
        member, within = self._members[place], row * self._chunk + within
        if member is None:  # so nobody writes meanwhile: no array is written without all of its members
            return self._rebuild.fill_small(place, within, buffer)
        try:
            member.readinto(within, buffer)
        except MntapiError:
            return False  # it is asked again along with the others, and its error raised if they cannot replace it
        return True

    def _read(self, pieces: Sequence[Piece], buffer: memoryview) -> None:
        there = [piece for piece in pieces if self._members[piece.member] is not None]
        failures = gather(self._members, there, buffer)
        failed = {failure.piece for failure in failures}
        failures += [Failure(piece, missing(piece.member)) for piece in pieces if self._members[piece.member] is None]
        if failures:
            self._rebuild.fill(failures, [piece for piece in there if piece not in failed], buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return striped_extents(self._members, self._stripe, self._pieces, offset, length, is_complete=self._is_complete)

    def _pieces(self, offset: int, length: int) -> Iterator[Piece]:
        table, chunk = self._rows, self._chunk
        width, period = len(table[0].data), len(table)
        for number, within, size, position in chunks(chunk, offset, length):
            row, index = divmod(number, width)
            yield Piece(table[row % period].data[index], row * chunk + within, size, position)

    def writable(self) -> WritableBlocks:
        """The same, to be written, parity included. Raises Unsupported where a member is missing, or cannot be written."""
        return ParityWriter(self, all_present(self._members), self._rows, self._chunk, self._read, self._turns)

    def close(self) -> None:
        """Nothing to release: the members belong to somebody else."""
