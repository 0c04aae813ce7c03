"""XFS inodes, one by one and by the cluster: what they say, and every way in which they can be wrong."""

from __future__ import annotations

import os
import random
import struct

import pytest

from contract.xfs_builder import (
    core,
    superblock,
)
from mntapi.blocks import Cache, Fault
from mntapi.crc32c import crc32c
from mntapi.errors import Corrupt, ReadFailed
from mntapi.filesystems.runs import Memory
from mntapi.filesystems.xfs.described import Metadata, checksum_of
from mntapi.filesystems.xfs.inode import parse_inode
from mntapi.filesystems.xfs.inode_table import CLUSTER, MAX_CLUSTERS, InodeTable, checksums


class TestInode:
    def test_versions_before_3(self) -> None:
        raw = bytearray(core(0o100644, 2, version=1, links_old=7))
        raw[32:40] = struct.pack(">iI", -2, 5)
        found = parse_inode(bytes(raw), 9, 0, None)
        assert (found.links, found.atime_ns, found.birthtime_ns, found.rdev) == (7, -2 * 10**9 + 5, None, 0)
        assert parse_inode(core(0o100644, 2), 9, 0, None).links == 1
        assert parse_inode(core(0, 2), 9, 0, None).kind is None

    def test_devices(self) -> None:
        found = parse_inode(core(0o020644, 0, data=struct.pack(">I", 10 << 18 | 200)), 9, 0, None)
        assert found.rdev == os.makedev(10, 200)
        assert parse_inode(core(0o020644, 2, data=b"\1\1\1\1"), 9, 0, None).rdev == 0

    @pytest.mark.parametrize(
        ("raw", "message", "offset"),
        [
            (b"XX" + bytes(254), "no inode", 1000),
            (core(0o100644, 2, version=3), "no inode", 1000),
            (core(0o100644, 2, version=0), "no inode", 1000),
            (core(0o100644, 2, size=1 << 63), "impossible size", 1056),
            (core(0o100644, 2, fork_at=20), "attributes lie outside", 1082),
            (core(0o100644, 2, fork_at=255), "attributes lie outside", 1082),
        ],
    )
    def test_none(self, raw: bytes, message: str, offset: int) -> None:
        with pytest.raises(Corrupt, match=message) as raised:
            parse_inode(raw, 9, 1000, None)
        assert raised.value.offset == offset
        with pytest.raises(Corrupt, match="no inode"):
            parse_inode(raw[:4] + b"\2" + raw[5:], 9, 1000, b"U" * 16)

    def test_another_one(self) -> None:
        raw = bytearray(core(0o100644, 2, version=3))
        struct.pack_into(">Q16s", raw, 152, 9, b"U" * 16)
        assert parse_inode(bytes(raw), 9, 0, b"U" * 16).number == 9
        with pytest.raises(Corrupt, match="another's number") as raised:
            parse_inode(bytes(raw), 10, 1000, b"U" * 16)
        assert raised.value.offset == 1152
        with pytest.raises(Corrupt, match="another file system") as raised:
            parse_inode(bytes(raw), 9, 1000, b"V" * 16)
        assert raised.value.offset == 1160


class TestInodeTable:
    @pytest.mark.parametrize(("size", "count"), [(256, 1), (512, 128), (2048, 3)])
    def test_checksums(self, size: int, count: int) -> None:
        raw = bytearray(random.Random(size).randbytes(size * count))
        raw[size // 2 : size] = bytes(size - size // 2)
        want = tuple(checksum_of(bytes(raw[at : at + size]), 100) for at in range(0, len(raw), size))
        assert checksums(bytes(raw), size, 100) == want
        plain = bytes(raw[:100]) + bytes(4) + bytes(raw[104:size])
        assert want[0] == crc32c(plain)

    def test_what_is_cut_off_or_unreadable_is_read_alone(self) -> None:
        sb = superblock(version=0xB4A5, inode_size=512, inode_log=9, inodes_per_block=1, inodes_per_block_log=0)
        inode = bytearray(random.Random(1).randbytes(512))
        struct.pack_into("<I", inode, 100, checksum_of(bytes(inode), 100))
        volume = Memory(bytes(CLUSTER) + bytes(inode))
        bad = Fault(volume, bad=[(CLUSTER + 512 - 1, 1), (0, 512)])
        assert InodeTable(volume, Metadata(Cache(volume), sb), sb).read(CLUSTER) == inode
        table = InodeTable(bad, Metadata(Cache(bad), sb), sb)
        with pytest.raises(ReadFailed):
            table.read(CLUSTER)
        with pytest.raises(Corrupt, match="checksum") as raised:
            table.read(512)
        assert raised.value.offset == 512
        with pytest.raises(Corrupt, match="past the end of its volume"):
            table.read(CLUSTER + 512)

    def test_it_keeps_so_much_and_no_more(self) -> None:
        sb = superblock()
        volume = Memory(bytes(CLUSTER * (MAX_CLUSTERS + 3)))
        table = InodeTable(volume, Metadata(Cache(volume), sb), sb)
        for at in range(0, volume.size, CLUSTER):
            table.read(at)
        assert len(table._clusters) == MAX_CLUSTERS
        table.clear()
        assert not table._clusters
