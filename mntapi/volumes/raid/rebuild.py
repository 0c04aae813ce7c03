"""Computing what a member held from the rest of its stripe.

What of the stripe was read already is taken from where it was read to. One missing chunk is the sum of the others, computed
for many stripes at once; two are computed stripe by stripe.

Source: H. Peter Anvin, "The mathematics of RAID-6", 2004-2011, sections 3 and 4.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

from mntapi.blocks import read
from mntapi.errors import MntapiError
from mntapi.types import Blocks
from mntapi.units import KIB, MIB
from mntapi.volumes.raid.galois import add, add_into, inverse, multiply, weighted
from mntapi.volumes.raid.gather import UNIT, Failure, Piece, gather
from mntapi.volumes.raid.layout import Row

_PART = 256 * KIB
"""Bytes of a member that are computed at a time: what the sums work on stays in the processor's cache."""

_KEPT = MIB
_SCRATCH = 16 * MIB
"""Bytes of all members together that are kept to compute from."""


class _Scratch(threading.local):
    """A thread's memory for what it computes from. Small ones are kept: new pages from the system cost more than the sums."""

    def __init__(self) -> None:
        self._kept = memoryview(b"")

    def take(self, length: int) -> memoryview:
        """So many bytes, whatever they hold, until the next call."""
        if length > _KEPT:
            return memoryview(bytearray(length))
        if length > len(self._kept):
            self._kept = memoryview(bytearray(length))
        return self._kept[:length]


_scratch = _Scratch()


class Rebuild:
    """The work of one read: its members, and what it knows of them by now.

    Args:
        members: None is a missing one.
        rows: the stripes until they repeat.
        chunk: bytes.
        there: pieces that were read, each inside one chunk, to their places in ``buffer``.
        buffer: what the read fills.
    """

    def __init__(
        self, members: Sequence[Blocks | None], rows: Sequence[Row], chunk: int, there: Iterable[Piece], buffer: memoryview
    ) -> None:
        self._members = members
        self._rows = rows
        self._chunk = chunk
        self._buffer = buffer
        self._there = {(piece.member, piece.offset // chunk): piece for piece in there}

    def fill(self, failures: Iterable[Failure]) -> None:
        """Compute the pieces that could not be read; each lies in one chunk.

        Raises:
            MntapiError: a piece's own error, because too much else is missing too.
        """
        hard: list[Failure] = []
        easy: list[Failure] = []
        for failure in failures:
            (easy if self._is_easy(failure.piece) else hard).append(failure)
        for batch in self._batches(easy):
            hard += self._add_up(batch)
        for failure in hard:
            for part in failure.piece.units(_PART):
                self._fill(Failure(part, failure.error))

    def _is_easy(self, piece: Piece) -> bool:
        """Whether, as far as is known yet, the sum of the others is enough."""
        row = self._row(piece.offset)
        return all(self._members[member] is not None or member == piece.member for member in (*row.data, row.p))

    def _batches(self, failures: Iterable[Failure]) -> Iterator[list[Failure]]:
        """The pieces in parts, as many at a time as are computed together."""
        limit = max(UNIT, min(_PART, _SCRATCH // len(self._members)) // UNIT * UNIT)
        batch: list[Failure] = []
        total = 0
        for failure in failures:
            for part in failure.piece.units(limit):
                if batch and total + part.length > limit:
                    yield batch
                    batch, total = [], 0
                batch.append(Failure(part, failure.error))
                total += part.length
        if batch:
            yield batch

    def _add_up(self, batch: Sequence[Failure]) -> list[Failure]:
        """Compute parts as sums, all at once: which member a summand is from does not matter. Returns those it could not."""
        total = sum(failure.piece.length for failure in batch)
        columns = len(self._rows[0].data)
        scratch = _scratch.take(total * columns)
        wanted: list[Piece] = []
        starts: dict[int, Failure] = {}
        start = 0
        for failure in batch:
            lost, offset, length, _ = failure.piece
            starts[start] = failure
            row = self._row(offset)
            sources = [member for member in (*row.data, row.p) if member != lost]
            for position, member in zip(range(start, total * columns, total), sources, strict=True):
                known = self._known(member, offset, length)
                if known is None:
                    wanted.append(Piece(member, offset, length, position))
                else:
                    scratch[position : position + length] = known
            start += length
        failed = {failure.piece.position % total for failure in gather(self._members, wanted, scratch)}
        content = scratch[:total]
        add_into((scratch[at : at + total] for at in range(0, total * columns, total)), content)
        for start, failure in starts.items():
            _, _, length, position = failure.piece
            if start not in failed:
                self._buffer[position : position + length] = content[start : start + length]
        return [starts[start] for start in sorted(failed)]

    def _row(self, offset: int) -> Row:
        return self._rows[offset // self._chunk % len(self._rows)]

    def _fill(self, failure: Failure) -> None:
        member, offset, length, position = failure.piece
        content = self._lost(member, offset, length)
        if content is not None:
            self._buffer[position : position + length] = content
            return
        if length <= UNIT - offset % UNIT:
            raise failure.error
        for piece in failure.piece.units(UNIT):
            part = self._column(member, piece.offset, piece.length)
            if part is None:
                self._fill(Failure(piece, failure.error))
            else:
                self._buffer[piece.position : piece.position + piece.length] = part

    def _known(self, member: int, offset: int, length: int) -> memoryview | None:
        """Bytes of a member, if they were read before."""
        piece = self._there.get((member, offset // self._chunk))
        if piece is None or not piece.offset <= offset <= offset + length <= piece.offset + piece.length:
            return None
        start = piece.position + offset - piece.offset
        return self._buffer[start : start + length]

    def _column(self, member: int, offset: int, length: int) -> bytes | None:
        """Bytes of a member, None if they cannot be read."""
        known = self._known(member, offset, length)
        if known is not None:
            return bytes(known)
        blocks = self._members[member]
        try:
            return None if blocks is None else read(blocks, offset, length)
        except MntapiError:
            return None  # the caller has the error of the piece that was asked for, and raises that if nothing helps

    def _lost(self, lost: int, offset: int, length: int) -> bytes | None:
        """What the data member ``lost`` holds, or None if the rest of the stripe is not enough to tell."""
        row = self._row(offset)
        others = {member: self._column(member, offset, length) for member in row.data if member != lost}
        known = {member: column for member, column in others.items() if column is not None}
        unknown = [lost, *(member for member in others if member not in known)]
        p = self._column(row.p, offset, length)
        if p is not None and len(unknown) == 1:
            return add([p, *known.values()], length)
        q = None if row.q is None or len(unknown) > (1 if p is None else 2) else self._column(row.q, offset, length)
        if q is None:
            return None
        rest = add([q, *weighted(known, row.weights)], length)
        if p is None:
            return multiply(rest, inverse(row.weights[lost]))
        # Two unknown: lost + other = p - known, and a * lost + b * other = rest.
        a, b = (row.weights[member] for member in unknown)
        both = add([p, *known.values()], length)
        return multiply(add([rest, multiply(both, b)], length), inverse(a ^ b))
