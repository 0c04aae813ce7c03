"""What the formats with one block table have in common: each block inside the file, and over nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from mntapi.images.blockmap import Table
from mntapi.images.checking.fault import Fault
from mntapi.images.checking.occupied import Occupied
from mntapi.types import Blocks


class Place(NamedTuple):
    """``length`` bytes of the file from ``start`` on that a block needs."""

    start: int
    length: int


def table_faults(
    file: Blocks,
    path: str,
    table: Table,
    count: int,
    place_of: Callable[[int, int], Place | str | None],
    occupied: Occupied,
) -> Iterator[Fault]:
    """Go through the first ``count`` entries of a table.

    Args:
        place_of: for an index and its entry, where the block is; or why there cannot be one; or None for an entry without.
        occupied: what else is in the file, and the blocks from now on.
    """
    index = table.next_present(0, count)
    while index < count:
        place = place_of(index, table[index])
        if isinstance(place, str):
            yield Fault(path, table.offset_of(index), place)
        elif place is not None:
            start, length = place
            if start + length > file.size:
                what = f"block {index} is outside the file: it ends at {start + length}, the file at {file.size}"
                yield Fault(path, table.offset_of(index), what)
            elif not occupied.take(start, length):
                what = f"block {index}, at {start}, lies over another block or a table"
                yield Fault(path, table.offset_of(index), what)
        index = table.next_present(index + 1, count)
