"""RAID 0: chunks in turn over the members."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mntapi.blocks import check_range
from mntapi.blocks.scatter import readv
from mntapi.blocks.writable import Spread
from mntapi.errors import Invalid
from mntapi.types import Blocks, Extent, WritableBlocks
from mntapi.volumes.raid.gather import Piece, windows
from mntapi.volumes.raid.sparse import Stripe, striped_extents


class Striped:
    """``size`` bytes, ``chunk`` of them on the first member, as many on the second, and so on round and round.

    Args:
        members: in order; one that is not there is a ``Missing`` of the right size.
        chunk: bytes.
        size: bytes; it need not use the members up, nor be a whole number of chunks.

    Raises:
        Invalid: no members, a chunk that is not positive, or a member that is too small for ``size``.
    """

    def __init__(self, members: Sequence[Blocks], chunk: int, size: int) -> None:
        check_geometry(len(members), chunk, size)
        full, rest = divmod(size, chunk * len(members))
        for index, member in enumerate(members):
            check_member(index, member, full * chunk + min(chunk, max(0, rest - index * chunk)))
        self.size = size
        self.sector_size = max(member.sector_size for member in members)
        self._members = tuple(members)
        self._chunk = chunk

    def readinto(self, offset: int, buffer: memoryview) -> None:
        length, chunk = len(buffer), self._chunk
        if offset < 0 or offset + length > self.size:
            check_range(self.size, offset, length)
        number, within = divmod(offset, chunk)
        if within + length <= chunk:
            row, index = divmod(number, len(self._members))
            if length:
                self._members[index].readinto(row * chunk + within, buffer)
            return
        for start, count, position in windows(offset, length):
            self._scatter(start, buffer[position : position + count])

    def _scatter(self, offset: int, buffer: memoryview) -> None:
        """Read each member once: its chunks lie side by side there, and ``stripe`` bytes apart in the buffer."""
        chunk, count = self._chunk, len(self._members)
        stripe = chunk * count
        number, within = divmod(offset, chunk)
        last = -(-(within + len(buffer)) // chunk)
        for turn in range(min(count, last)):
            row, index = divmod(number + turn, count)
            start = turn * chunk - within
            places = [buffer[max(0, at) : at + chunk] for at in range(start, len(buffer), stripe)]
            skipped = max(0, -start)
            readv(self._members[index], row * chunk + skipped, sum(map(len, places)), places)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        stripe = Stripe(self._chunk * len(self._members), self._chunk)
        return striped_extents(self._members, stripe, self._pieces, offset, length)

    def _pieces(self, offset: int, length: int) -> Iterator[Piece]:
        chunk, count = self._chunk, len(self._members)
        for number, within, size, position in chunks(chunk, offset, length):
            row, index = divmod(number, count)
            yield Piece(index, row * chunk + within, size, position)

    def writable(self) -> WritableBlocks:
        """The same, to be written. Raises Unsupported where a member cannot be."""
        return Spread(self, self._members, self._pieces)

    def close(self) -> None:
        """Nothing to release: the members belong to somebody else."""


def chunks(chunk: int, offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
    """The chunks a range touches: (number, first byte in the chunk, bytes, how far into the range)."""
    number, within = divmod(offset, chunk)
    position = 0
    while position < length:
        size = min(chunk - within, length - position)
        yield number, within, size, position
        position += size
        number, within = number + 1, 0


def check_geometry(members: int, chunk: int, size: int, *, at_least: int = 1) -> None:
    """Raise Invalid for an array that cannot be."""
    if members < at_least:
        raise Invalid(f"an array of {members} members, at least {at_least} are needed")
    if chunk <= 0 or size < 0:
        raise Invalid(f"an array of {size} bytes in chunks of {chunk}")


def check_member(index: int, member: Blocks, needed: int) -> None:
    """Raise Invalid if the member has not the bytes the array needs of it."""
    if member.size < needed:
        raise Invalid(f"member {index} of the array is too small", expected=f"{needed} bytes", found=member.size)
