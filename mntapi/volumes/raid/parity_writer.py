"""Writing RAID 4, 5 and 6: whatever is written of a stripe, its parity is computed anew from all of its data.

So the parity of what was written is right even if it was not before, as after a crash. Only the part of each chunk that is
written is read and computed. Between the writes to the members a stripe's parity is wrong; an error in the middle leaves it so,
which does no harm while all members can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mntapi.blocks import check_range
from mntapi.blocks.turns import Turns
from mntapi.blocks.writable import Layer, writable
from mntapi.errors import Unsupported
from mntapi.types import Blocks
from mntapi.volumes.raid.galois import combine
from mntapi.volumes.raid.gather import Piece
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
        self._rows = rows
        self._chunk = chunk
        self._read = read
        self._turns = turns

    def write(self, offset: int, content: memoryview) -> None:
        """See ``WritableBlocks``."""
        check_range(self.size, offset, len(content))
        stripe = self._chunk * len(self._rows[0].data)
        with self._turns.writing():
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
            self._members[row.data[index]].write(base + start, content[position : position + size])
        self._write_parity(row, base + first, columns)

    def _columns(self, row: Row, offset: int, length: int, replaced: set[int]) -> list[memoryview]:
        """What the data members of a stripe hold there, but for those that are about to be replaced."""
        buffer = memoryview(bytearray(length * len(row.data)))
        pieces = [
            Piece(member, offset, length, index * length) for index, member in enumerate(row.data) if index not in replaced
        ]
        self._read(pieces, buffer)
        return [buffer[at : at + length] for at in range(0, len(buffer), length)]

    def _write_parity(self, row: Row, offset: int, columns: Sequence[memoryview]) -> None:
        parity = memoryview(bytearray(len(columns[0])))
        combine((1,) * len(columns), columns, parity)
        self._members[row.p].write(offset, parity)
        if row.q is not None:
            combine(tuple(row.weights[member] for member in row.data), columns, parity)
            self._members[row.q].write(offset, parity)

    def discard(self, offset: int, length: int) -> None:
        """Raises Unsupported: members would forget blocks of different sizes, and parity would fit none of them."""
        check_range(self.size, offset, length)
        raise Unsupported("parts of an array with parity cannot be discarded", reason="discard")
