"""Superblocks that contradict themselves or want too much of a reader; and where they say that things are."""

from __future__ import annotations

import pytest

from contract.xfs_builder import built
from mntapi.errors import Corrupt, NotFound, Unsupported
from mntapi.filesystems.runs import Memory
from mntapi.filesystems.xfs.superblock import MAX_INODE, find_superblock, parse_superblock


def test_what_it_says() -> None:
    found = parse_superblock(built())
    assert (found.version, found.block_size, found.directory_block_size, found.log_blocks) == (5, 4096, 8192, 10)
    assert found.has_kinds and not found.folds_case and found.uuid == b"U" * 16
    assert parse_superblock(built(incompat=5)).uuid == b"M" * 16
    assert parse_superblock(built(log_start=0)).log_blocks == 0
    old = parse_superblock(built(version=0xF4A4, features=0, incompat=1 << 31))
    assert (old.version, old.has_kinds, old.folds_case) == (4, False, True)


def test_numbers_become_bytes() -> None:
    found = parse_superblock(built())
    assert found.block_at(0) == 0 and found.block_at(999) == 999 * 4096
    assert found.block_at(1024) == 1000 * 4096 and found.block_at(2 << 10 | 499) == 2499 * 4096
    for block, count in ((1000, 1), (999, 2), (2 << 10 | 500, 1), (2 << 10, 501), (3 << 10, 1), (1 << 60, 1), (5, 1 << 60)):
        assert found.block_at(block, count) is None
    assert found.inode_at(64) == 8 * 4096 and found.inode_at(1 << 13 | 9) == 1001 * 4096 + 512
    for number in (0, 7, -1, 1000 << 3, 3 << 13, 1 << 47, 1 << 63):
        with pytest.raises(NotFound):
            found.inode_at(number)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"magic": b"XFSC"}, 0),
        ({"block_size": 4097}, 4),
        ({"block_log": 17, "block_size": 1 << 17}, 4),
        ({"block_log": 8, "block_size": 256}, 4),
        ({"sector_size": 1024}, 102),
        ({"sector_log": 8, "sector_size": 256}, 102),
        ({"inode_size": 4096, "inode_log": 12}, 104),
        ({"inode_size": 1024}, 104),
        ({"inodes_per_block": 9}, 106),
        ({"inodes_per_block_log": 4}, 106),
        ({"inodes_per_block_log": 255}, 106),
        ({"ag_blocks": 0}, 84),
        ({"ag_block_log": 11}, 84),
        ({"ag_count": 0}, 8),
        ({"ag_count": 4}, 8),
        ({"blocks": 1 << 63}, 8),
        ({"directory_log": 5}, 192),
        ({"in_progress": 1}, 126),
    ],
)
def test_numbers_that_contradict_each_other(changes: dict[str, object], field: int) -> None:
    with pytest.raises(Corrupt, match="impossible") as raised:
        parse_superblock(built(**changes))
    assert raised.value.offset == field


@pytest.mark.parametrize(
    ("changes", "message", "field"),
    [
        ({"version": 0xB4A3}, "version 3", 100),
        ({"version": 0xB4A6}, "version 6", 100),
        ({"version": 0x94A4}, "folders of version 1", 100),
        ({"incompat": 0x101}, "feature metadir", 216),
        ({"incompat": 0x601}, "feature zoned, zone-gaps", 216),
        ({"incompat": 0x80000101}, "feature metadir, 0x80000000", 216),
    ],
)
def test_features_that_are_refused(changes: dict[str, object], message: str, field: int) -> None:
    with pytest.raises(Unsupported, match=message) as raised:
        parse_superblock(built(**changes))
    assert raised.value.offset == field and raised.value.reason == "xfs-feature"


def test_inode_numbers_must_leave_room() -> None:
    """A tree of several volumes keeps the bits from 2^47 on."""
    big = {"ag_blocks": 1 << 28, "ag_block_log": 28}
    most = MAX_INODE >> 31
    assert parse_superblock(built(**big, ag_count=most, blocks=most << 28)).ag_count == most
    with pytest.raises(Unsupported, match="too large"):
        parse_superblock(built(**big, ag_count=most + 1, blocks=(most + 1) << 28))


def test_a_copy_is_read_where_the_checksum_is_wrong() -> None:
    """The last allocation group's, or that in the middle; a copy of another file system does not count."""
    small = {"ag_blocks": 16, "ag_block_log": 4, "ag_count": 3, "blocks": 48, "block_size": 512, "block_log": 9}
    small |= {"inodes_per_block": 1, "inodes_per_block_log": 0}
    bad = bytearray(built(**small))
    bad[60] ^= 1
    right = built(**small, in_progress=1)
    other = built(**small, in_progress=1, uuid=b"O" * 16)
    for first, last, found in ((right, b"", 64), (b"", right, 64), (right, other, 64), (other, other, None)):
        volume = bytearray(48 * 512)
        volume[:512], volume[16 * 512 : 17 * 512] = bad, first.ljust(512, b"\0")
        volume[32 * 512 : 33 * 512] = last.ljust(512, b"\0")
        if found is None:
            with pytest.raises(Corrupt, match="copies is wrong") as raised:
                find_superblock(Memory(bytes(volume)))
            assert raised.value.reason == "checksum"
        else:
            assert find_superblock(Memory(bytes(volume))).root == found
    with pytest.raises(Corrupt, match="copies is wrong"):
        find_superblock(Memory(bytes(bad)))
    with pytest.raises(Corrupt, match="too small"):
        find_superblock(Memory(bytes(100)))
