"""What every writer is given, and what it does."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal, Protocol

from mntapi.export.batches import Batch, Piece
from mntapi.export.newfile import NewFile


@dataclass(frozen=True, slots=True)
class Target:
    """The file to write, and the disk that shall be in it."""

    file: NewFile
    size: int
    """Bytes of the disk; whole sectors where the format counts in those."""
    sector_size: int
    compression: str | None
    pool: Executor
    """Threads to compress with."""


class Writer(Protocol):
    """Writes one format. Batches come in order; what they leave out is zeros."""

    @property
    def unit(self) -> int:
        """Bytes that are stored together; pieces of batches are cut at multiples of it."""

    def write(self, batch: Batch) -> None:
        """Write the data of a batch. Raises Failed, or Unsupported where the format has no room for more."""

    def finish(self) -> None:
        """Write what leads to the data. The file is then complete, but not synced."""


def packed_units(
    pool: Executor, batch: Batch, unit: int, compress: Callable[[bytes | memoryview], bytes]
) -> Iterator[tuple[Piece, bytes]]:
    """The units of a batch that are not zeros, each compressed as a whole unit, in order; zeros follow the end of the disk."""
    pieces = list(batch.units(unit))

    def pack(piece: Piece) -> bytes:
        content = batch.view(piece)
        return compress(content if piece.length == unit else bytes(content).ljust(unit, b"\0"))

    return zip(pieces, pool.map(pack, pieces), strict=True)


def encoded(numbers: array[int], order: Literal["little", "big"]) -> bytes:
    """The numbers as they are on disk, in that byte order."""
    if sys.byteorder != order:
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()
