"""Lists and trees of XFS extents: holes, and every way in which they can be wrong."""

from __future__ import annotations

import pytest

from contract.xfs_builder import (
    BLOCK,
    COUNT,
    metadata_of,
    node,
    pointer,
    record,
    root,
    superblock,
    volume_of,
)
from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.xfs.extents import MAX_EXTENTS, Extent, Extents
from mntapi.filesystems.xfs.inode import Fork, Format


def extents_of(fork: Fork, blocks: dict[int, bytes] | None = None) -> list[Extent]:
    sb = superblock()
    return list(Extents(metadata_of(volume_of(blocks or {}), sb), sb).extents(fork, 9))


def listed(records: list[bytes], count: int | None = None, size: int = 156) -> Fork:
    return Fork(Format.EXTENTS, len(records) if count is None else count, b"".join(records).ljust(size, b"\0"), 1000)


class TestExtents:
    def test_a_list(self) -> None:
        fork = listed([record(0, 20, 3), record(5, 10, 1, 1)])
        assert extents_of(fork) == [Extent(0, 1536, 10240, False), Extent(2560, 512, 5120, True)]

    @pytest.mark.parametrize(
        ("records", "message", "offset"),
        [
            ([record(0, 20, 3), record(2, 30, 3)], "overlaps", 1016),
            ([record(5, 20, 3), record(2, 30, 3)], "overlaps", 1016),
            ([record(0, 20, 0)], "outside the file system", 1000),
            ([record(0, 0, 1)], "outside the file system", 1000),
            ([record(0, COUNT - 1, 2)], "outside the file system", 1000),
            ([record(0, 1 << 51, 1)], "outside the file system", 1000),
            ([record((1 << 54) - 1, 20, 1)], "outside the file system", 1000),
        ],
    )
    def test_impossible_ones(self, records: list[bytes], message: str, offset: int) -> None:
        with pytest.raises(Corrupt, match=message) as raised:
            extents_of(listed(records))
        assert raised.value.offset == offset

    def test_counts(self) -> None:
        with pytest.raises(Corrupt, match="more extents than an inode has room for"):
            extents_of(listed([], 10))
        with pytest.raises(Unsupported, match="too many pieces") as raised:
            extents_of(listed([], MAX_EXTENTS + 1))
        assert raised.value.reason == "too-many-runs"
        with pytest.raises(Corrupt, match="should have extents"):
            extents_of(Fork(Format.LOCAL, 0, bytes(156), 1000))

    def test_a_tree_of_two_levels(self) -> None:
        blocks = {
            5: node(1, [pointer(6), pointer(7)]),
            6: node(0, [record(0, 100, 2), record(4, 110, 1)]),
            7: node(0, [record(9, 120, 1)]),
            8: node(1, [pointer(9)]),
            9: node(0, [record(20, 130, 1)]),
        }
        fork = Fork(Format.BTREE, 4, root(2, [5, 8]), 1000)
        assert [(extent.offset, extent.source) for extent in extents_of(fork, blocks)] == [
            (0, 51200),
            (2048, 56320),
            (4608, 61440),
            (10240, 66560),
        ]
        with pytest.raises(Corrupt, match="fewer extents than the inode says"):
            extents_of(fork._replace(extents=5), blocks)
        with pytest.raises(Corrupt, match="more extents than the inode says") as raised:
            extents_of(fork._replace(extents=3), blocks)
        assert raised.value.offset == 9 * BLOCK + 24

    @pytest.mark.parametrize(
        ("raw", "blocks", "message", "offset"),
        [
            (root(0, [5]), {}, "impossible root", 1000),
            (root(10, [5]), {}, "impossible root", 1000),
            (root(1, []), {}, "impossible root", 1000),
            (root(1, [5], count=10), {}, "impossible root", 1000),
            (root(1, [0]), {}, "outside the file system", 1000),
            (root(1, [COUNT]), {}, "outside the file system", 1000),
            (root(2, [5]), {5: node(1, [pointer(1 << 60)])}, "outside the file system", 5 * BLOCK),
            (root(1, [5]), {5: node(0, [record(0, 100, 1)], magic=b"BMA3")}, "no block of an extent tree", 5 * BLOCK),
            (root(1, [5]), {5: node(1, [pointer(6)])}, "impossible block", 5 * BLOCK),
            (root(2, [5]), {5: node(1, [pointer(5)])}, "impossible block", 5 * BLOCK),
            (root(1, [5]), {5: node(0, [])}, "impossible block", 5 * BLOCK),
            (root(1, [5]), {5: node(0, [bytes(0)] * 31)}, "impossible block", 5 * BLOCK),
            (root(1, [5, 5]), {5: node(0, [record(0, 100, 1)])}, "overlaps", 5 * BLOCK + 24),
            (root(2, [5]), {5: node(1, [pointer(6)] * 3), 6: node(0, [record(0, 100, 1)])}, "overlaps", 6 * BLOCK + 24),
        ],
    )
    def test_trees_that_lead_nowhere(self, raw: bytes, blocks: dict[int, bytes], message: str, offset: int) -> None:
        with pytest.raises(Corrupt, match=message) as raised:
            extents_of(Fork(Format.BTREE, 100, raw, 1000), blocks)
        assert raised.value.offset == offset

    def test_a_great_many(self) -> None:
        """Three levels of 30 entries each and a root of 9: no more memory than 16 bytes for a run."""
        blocks, leaves = {}, []
        for index in range(2000):
            first = 2 * 30 * index
            blocks[1000 + index] = node(0, [record(first + 2 * step, 5000 + index % 7 * 30 + step, 1) for step in range(30)])
            leaves.append(1000 + index)
        for level, base in ((1, 4000), (2, 4500)):
            groups = [leaves[at : at + 30] for at in range(0, len(leaves), 30)]
            leaves = [base + index for index in range(len(groups))]
            blocks |= {at: node(level, [pointer(below) for below in group]) for at, group in zip(leaves, groups, strict=True)}
        sb = superblock(blocks=8192, ag_blocks=8192, ag_block_log=13)
        image = bytearray(BLOCK * 8192)
        for block, content in blocks.items():
            image[block * BLOCK : (block + 1) * BLOCK] = content
        extents = Extents(metadata_of(bytes(image), sb), sb)
        runs = extents.runs(Fork(Format.BTREE, 60_000, root(3, leaves), 0), 9, 120_000 * BLOCK)
        assert len(runs) == 120_000 and runs.size == 120_000 * BLOCK
        assert list(runs.pieces(59_999 * 2 * BLOCK, 2 * BLOCK)) == [(BLOCK, (5000 + 1999 % 7 * 30 + 29) * BLOCK), (BLOCK, None)]

    def test_holes_and_unwritten_extents_read_as_zeros(self) -> None:
        sb = superblock()
        extents = Extents(metadata_of(volume_of({}), sb), sb)
        runs = extents.runs(listed([record(2, 20, 3), record(5, 23, 1, 1), record(9, 40, 1)]), 9, 8192)
        assert list(runs.pieces(0, 8192)) == [(1024, None), (1536, 10240), (2048, None), (512, 20480), (3072, None)]
        assert extents.runs(listed([record(2, 20, 3), record(9, 40, 1)]), 9, 0, end=4608).size == 2560
