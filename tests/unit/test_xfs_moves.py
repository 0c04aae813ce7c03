"""Pieces of files that the log announces to move: what is believed of them, and what they make of a list of extents."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from mntapi.filesystems.xfs.extents import Extent
from mntapi.filesystems.xfs.moves import Move, gained, moved, owners_of, parse_move
from mntapi.filesystems.xfs.superblock import Superblock

HEAD = bytes(16)
MAP, UNMAP, ATTRIBUTES, UNWRITTEN, REALTIME = 1, 2, 1 << 31, 1 << 30, 1 << 29
SUPERBLOCK = Superblock(
    version=5,
    block_size=4096,
    blocks=2000,
    uuid=bytes(16),
    volume_uuid=bytes(16),
    root=128,
    ag_blocks=1000,
    ag_count=2,
    ag_block_log=10,
    sector_size=512,
    inode_size=512,
    inodes_per_block_log=3,
    log_start=0,
    log_blocks=0,
    log_incompat=0,
    needs_repair=False,
    has_lazy_counters=True,
    inodes=0,
    free_inodes=0,
    free_blocks=0,
    directory_block_size=4096,
    has_kinds=True,
    folds_case=False,
)


def announced(block: int = 100, first: int = 5, count: int = 2, flags: int = MAP) -> bytes:
    """As ``struct xfs_bui_log_format`` with one ``struct xfs_map_extent``."""
    return HEAD + struct.pack("<3Q2I", 131, block, first, count, flags)


def test_what_is_announced() -> None:
    assert parse_move(announced(), SUPERBLOCK) == Move(131, 5 * 4096, 2 * 4096, 100 * 4096, is_unwritten=False)
    assert parse_move(announced(flags=MAP | UNWRITTEN), SUPERBLOCK) == Move(131, 20480, 8192, 409600, is_unwritten=True)
    assert parse_move(announced(flags=UNMAP), SUPERBLOCK) == Move(131, 20480, 8192, None, is_unwritten=False)
    second_group = parse_move(announced(block=1 << 10 | 7), replace(SUPERBLOCK, block_size=1024))
    assert second_group == Move(131, 5 * 1024, 2 * 1024, 1007 * 1024, is_unwritten=False)


@pytest.mark.parametrize(
    "raw",
    [
        announced()[:-1],
        announced() + announced()[16:],
        announced(count=0),
        announced(block=0),
        announced(block=999),
        announced(block=5 << 10),
        announced(first=(1 << 51) - 2),
        announced(first=(1 << 64) - 1),
        announced(flags=0),
        announced(flags=3),
        announced(flags=MAP | ATTRIBUTES),
        announced(flags=UNMAP | REALTIME),
    ],
    ids=[
        "cut off", "two", "nothing", "block 0", "over the end of a group", "no such group", "end too far", "too far", "no kind",
        "unknown kind", "of attributes", "realtime",
    ],
)  # fmt: skip
def test_what_is_not_done_here(raw: bytes) -> None:
    assert parse_move(raw, SUPERBLOCK) is None


def test_owners_without_what_is_cut_off() -> None:
    raw = announced() + announced()[16:].replace(b"\x83", b"\x84")
    assert owners_of(raw) == {131, 132}
    assert owners_of(raw[:-1]) == {131}
    assert owners_of(HEAD) == set()


BEFORE = [Extent(0, 100, 1000, False), Extent(200, 100, 5000, True)]


@pytest.mark.parametrize(
    ("offset", "length", "left"),
    [
        (0, 100, [(200, 100, 5000, True)]),
        (100, 100, [(0, 100, 1000, False), (200, 100, 5000, True)]),
        (40, 10, [(0, 40, 1000, False), (50, 50, 1050, False), (200, 100, 5000, True)]),
        (90, 120, [(0, 90, 1000, False), (210, 90, 5010, True)]),
        (290, 50, [(0, 100, 1000, False), (200, 90, 5000, True)]),
        (0, 1000, []),
    ],
    ids=["one", "a hole", "the middle", "two ends", "an end", "all"],
)
def test_taken_out_and_put_in(offset: int, length: int, left: list[tuple[int, int, int, bool]]) -> None:
    out = Move(131, offset, length, None, is_unwritten=False)
    assert list(moved(BEFORE, [out])) == left
    put = Move(131, offset, length, 9000, is_unwritten=False)
    wanted = sorted([*left, (offset, length, 9000, False)])
    assert list(moved(BEFORE, [out, put])) == list(moved(BEFORE, [put])) == wanted


def test_without_moves_extents_are_not_even_read() -> None:
    extents = iter(BEFORE)
    assert moved(extents, ()) is extents


def test_bytes_on_the_volume() -> None:
    out, put = Move(131, 0, 100, None, is_unwritten=False), Move(131, 0, 70, 9000, is_unwritten=False)
    assert (gained(()), gained([out]), gained([put]), gained([out, put])) == (0, -100, 70, -30)
