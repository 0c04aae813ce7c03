"""Runs become few reads and exact extents."""

from __future__ import annotations

import pytest

from contract.blocks_contract import check_blocks
from mntapi.blocks import Concat, Slice, Zero, check_range
from mntapi.blocks.runs import Run, extents_of, joined, read_runs
from mntapi.errors import ReadFailed
from mntapi.types import Blocks, Extent, ExtentKind
from unit.lvm_builder import Memory

DATA, ZERO = ExtentKind.DATA, ExtentKind.ZERO
ONE, OTHER = Memory(bytes(range(1, 101))), Memory(bytes(range(101, 201)))
HOLE = Zero(100)


@pytest.mark.parametrize(
    ("runs", "want"),
    [
        ([], []),
        ([Run(ONE, 5, 3)], [Run(ONE, 5, 3)]),
        ([Run(ONE, 0, 3), Run(ONE, 3, 4), Run(ONE, 7, 1)], [Run(ONE, 0, 8)]),
        ([Run(ONE, 0, 3), Run(ONE, 4, 4)], [Run(ONE, 0, 3), Run(ONE, 4, 4)]),
        ([Run(ONE, 0, 3), Run(OTHER, 3, 4)], [Run(ONE, 0, 3), Run(OTHER, 3, 4)]),
        ([Run(None, 9, 3), Run(None, 0, 4), Run(ONE, 0, 1)], [Run(None, 9, 7), Run(ONE, 0, 1)]),
        ([Run(ONE, 0, 3), Run(None, 3, 4), Run(ONE, 7, 1)], [Run(ONE, 0, 3), Run(None, 3, 4), Run(ONE, 7, 1)]),
    ],
)
def test_neighbours_are_joined(runs: list[Run], want: list[Run]) -> None:
    assert list(joined(runs)) == want


class Mapped:
    """A volume of pieces of 10 bytes: every source backwards, so that nothing is a neighbour by chance."""

    size = 300
    sector_size = 512

    def _runs(self, offset: int, length: int):
        end = offset + length
        while offset < end:
            index, start = divmod(offset, 10)
            count = min(10 - start, end - offset)
            source: Blocks | None = (ONE, None, OTHER, HOLE)[index % 4]
            yield Run(source, (90 - index // 4 * 10) + start, count)
            offset += count

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        read_runs(self._runs(offset, len(buffer)), buffer)

    def extents(self, offset: int, length: int):
        check_range(self.size, offset, length)
        return extents_of(self._runs(offset, length), offset)

    def close(self) -> None:
        """Nothing to release."""


def test_a_volume_of_runs() -> None:
    parts = [(ONE.content, bytes(100), OTHER.content, bytes(100))[index % 4] for index in range(30)]
    want = b"".join(part[90 - at // 4 * 10 : 100 - at // 4 * 10] for at, part in enumerate(parts))
    check_blocks(Mapped(), want)
    assert list(Mapped().extents(5, 50)) == [
        Extent(5, 5, DATA), Extent(10, 10, ZERO), Extent(20, 10, DATA), Extent(30, 10, ZERO), Extent(40, 10, DATA),
        Extent(50, 5, ZERO),
    ]  # fmt: skip


def test_extents_are_those_of_the_sources() -> None:
    """A run of a source with a hole in it, and a run of zeros beside the hole: one extent."""
    source = Concat([Slice(ONE, 0, 10), Zero(20), Slice(ONE, 30, 10)])
    found = list(extents_of([Run(source, 5, 20), Run(None, 0, 7)], 1000))
    assert found == [Extent(1000, 5, DATA), Extent(1005, 22, ZERO)]
    assert list(extents_of([], 7)) == []


def test_an_error_of_a_source_is_the_readers() -> None:
    from mntapi.blocks import Missing

    with pytest.raises(ReadFailed, match="gone"):
        read_runs([Run(ONE, 0, 5), Run(Missing(5, "it is gone"), 0, 5)], memoryview(bytearray(10)))
