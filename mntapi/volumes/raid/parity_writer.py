"""Writing RAID 4, 5 and 6: whatever is written of a stripe, its parity is computed anew from all of its data.

So the parity of what was written is right even if it was not before, as after a crash. Only the part of each chunk that is
written is read and computed.

Parity is written before data. So whichever write fails, the parity that fits the data as they are then needs no room: it
differs from what is stored only where that was just written. If the process or the machine dies between the writes, the parity
of that stripe is wrong until it is written again, as in MD without a journal (the "write hole"): that does no harm while all
members can be read; without one of them, what is computed in its place may be wrong there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mntapi.blocks import check_range
from mntapi.blocks.turns import Turns
from mntapi.blocks.writable import Layer, check_agreement, correct, putting_right, writable
from mntapi.errors import AWAY, Unsupported
from mntapi.galois import combine
from mntapi.types import Blocks
from mntapi.units import SECTOR
from mntapi.volumes.raid.gather import Piece, gather
from mntapi.volumes.raid.layout import Row
from mntapi.volumes.raid.striped import chunks


class ParityWriter(Layer):
    """An array of which no member is missing.

    Args:
        shown: what reads it.
        members: in order.
        rows: its stripes until they repeat.
        chunk: bytes.
        read: reads pieces of the members into a buffer, if need be with the help of parity; takes no turn.
        turns: those of the readers.

    Raises:
        Unsupported: a member cannot be written.
    """

    def __init__(
        self,
        shown: Blocks,
        members: Sequence[Blocks],
        rows: Sequence[Row],
        chunk: int,
        read: Callable[[Sequence[Piece], memoryview], None],
        turns: Turns,
    ) -> None:
        self._members = [writable(member) for member in members]
        super().__init__(shown, self._members)
        self._shown = shown
        self._rows = rows
        self._chunk = chunk
        self._read = read
        self._turns = turns

    def write(self, offset: int, content: memoryview) -> None:
        """See ``WritableBlocks``. Raises Failed once parity could not be put right after an error."""
        check_range(self.size, offset, len(content))
        stripe = self._chunk * len(self._rows[0].data)
        with self._turns.writing():
            check_agreement(self._shown)
            done = 0
            while done < len(content):
                number, within = divmod(offset + done, stripe)
                count = min(len(content) - done, stripe - within)
                self._write_stripe(number, within, content[done : done + count])
                done += count

    def _write_stripe(self, number: int, within: int, content: memoryview) -> None:
        """Write a part of stripe ``number``, from byte ``within`` of its data on."""
        row, base = self._rows[number % len(self._rows)], number * self._chunk
        parts = list(chunks(self._chunk, within, len(content)))
        first = min(start for _, start, _, _ in parts)
        length = max(start + size for _, start, size, _ in parts) - first
        columns = self._columns(row, base + first, length, {index for index, _, size, _ in parts if size == length})
        for index, start, size, position in parts:
            columns[index][start - first : start - first + size] = content[position : position + size]
        try:
            for member, parity in _parities(row, columns):
                self._members[member].write(base + first, parity)
            for index, start, size, position in parts:
                self._members[row.data[index]].write(base + start, content[position : position + size])
        except BaseException:
            with putting_right(self._shown):
                self._put_right(row, base + first, columns)
            raise

    def _columns(self, row: Row, offset: int, length: int, replaced: set[int]) -> list[memoryview]:
        """What the data members of a stripe hold there, but for those that are about to be replaced."""
        buffer = memoryview(bytearray(length * len(row.data)))
        pieces = [
            Piece(member, offset, length, index * length) for index, member in enumerate(row.data) if index not in replaced
        ]
        self._read(pieces, buffer)
        return [buffer[at : at + length] for at in range(0, len(buffer), length)]

    def _put_right(self, row: Row, offset: int, meant: Sequence[memoryview]) -> None:
        """Make the parity fit the data as they are now. A sector that cannot be read is taken for what it was to hold."""
        length = len(meant[0])
        buffer = b"".join(meant)
        now = memoryview(bytearray(buffer))
        whole = (Piece(member, offset, length, index * length) for index, member in enumerate(row.data))
        pieces = [sector for piece in whole for sector in piece.units(SECTOR)]
        for (_, _, size, position), error in gather(self._members, pieces, now):
            if error.reason in AWAY:
                raise error
            now[position : position + size] = buffer[position : position + size]
        for member, parity in _parities(row, [now[at : at + length] for at in range(0, len(now), length)]):
            for at in range(0, length, SECTOR):
                right = bytes(parity[at : at + SECTOR])
                correct(self._members[member], offset + at, len(right), right)

    def discard(self, offset: int, length: int) -> None:
        """Raises Unsupported: members would forget blocks of different sizes, and parity would fit none of them."""
        check_range(self.size, offset, length)
        raise Unsupported("parts of an array with parity cannot be discarded", reason="discard")


def _parities(row: Row, columns: Sequence[memoryview]) -> Iterator[tuple[int, memoryview]]:
    """Which member has a parity of a stripe with these data, and that parity; it is overwritten by the next."""
    parity = memoryview(bytearray(len(columns[0])))
    combine((1,) * len(columns), columns, parity)
    yield row.p, parity
    if row.q is not None:
        combine(tuple(row.weights[member] for member in row.data), columns, parity)
        yield row.q, parity
