"""XFS folders in the inode and in blocks, and every way in which they can be wrong."""

from __future__ import annotations

import struct

import pytest

from contract.xfs_builder import (
    BLOCK,
    COUNT,
    mapped,
    metadata_of,
    pointer,
    superblock,
)
from mntapi.errors import Corrupt
from mntapi.filesystems.runs import RunList
from mntapi.filesystems.xfs.directory import MAX_BAD_BLOCKS, list_blocks, list_short, parse_block
from mntapi.filesystems.xfs.extents import Mapped
from mntapi.filesystems.xfs.inode import Fork, Format
from mntapi.types import FileKind


def data_block(entries: list[bytes], size: int = BLOCK, *, magic: bytes = b"XD2D") -> bytes:
    raw = bytearray(magic.ljust(16, b"\0"))
    for entry in entries:
        raw += entry[:-2] + struct.pack(">H", len(raw))
    free = size - len(raw)
    return bytes(raw) + (struct.pack(">2H", 0xFFFF, free).ljust(free - 2, b"\0") + struct.pack(">H", len(raw)) if free else b"")


def entry(name: bytes, inode: int, kind: int = 1) -> bytes:
    raw = struct.pack(">QB", inode, len(name)) + name + bytes([kind])
    return raw.ljust((len(raw) + 2 + 7) & ~7, b"\0")


def names_in(raw: bytes, *, has_kinds: bool = True) -> list[tuple[str, int, FileKind]]:
    return [tuple(found) for found in parse_block(raw, 1000, has_kinds=has_kinds)]


class TestDirectory:
    def test_a_block(self) -> None:
        raw = data_block([entry(b".", 9, 2), entry(b"..", 9, 2), entry(b"a", 10), entry(b"b/c", 11, 7), entry(b"d", 12, 99)])
        assert names_in(raw) == [
            ("a", 10, FileKind.FILE),
            ("b\N{DIVISION SLASH}c", 11, FileKind.SYMLINK),
            ("d", 12, FileKind.FILE),
        ]

    @pytest.mark.parametrize(
        ("raw", "message", "offset"),
        [
            (b"XD1D" + bytes(508), "no directory block", 1000),
            (data_block([], magic=b"XD2B")[:-8] + struct.pack(">2I", 62, 0), "impossible index", 1504),
            (data_block([])[:16] + struct.pack(">2H", 0xFFFF, 0) + bytes(492), "free space", 1016),
            (data_block([])[:16] + struct.pack(">2H", 0xFFFF, 12) + bytes(492), "free space", 1016),
            (data_block([])[:16] + struct.pack(">2H", 0xFFFF, 504) + bytes(492), "free space", 1016),
            (data_block([])[:16] + bytes(496), "does not fit", 1016),
            (data_block([])[:16] + struct.pack(">QB", 9, 255) + bytes(487), "without its tag", 1016),
            (data_block([entry(b"a", 9)], 32), "fits", None),
            (data_block([], 504)[:16] + struct.pack(">2H", 0xFFFF, 488) + bytes(484) + bytes(8), "does not fit", 1504),
            (data_block([entry(b"a", 9)])[:16] + struct.pack(">QB", 9, 250) + bytes(231), "does not fit", 1016),
        ],
    )
    def test_blocks_that_are_damaged(self, raw: bytes, message: str, offset: int | None) -> None:
        if offset is None:
            assert names_in(raw) == [("a", 9, FileKind.FILE)]
            return
        with pytest.raises(Corrupt, match=message) as raised:
            names_in(raw)
        assert raised.value.offset == offset

    def test_in_the_inode(self) -> None:
        narrow = struct.pack(">2BI", 2, 0, 9) + b"\1\0\0a" + b"\1" + pointer(10)[4:] + b"\2\0\0bc" + b"\2" + pointer(11)[4:]
        fork = Fork(Format.LOCAL, 0, narrow.ljust(156, b"\0"), 1000)
        want = [("a", 10, FileKind.FILE), ("bc", 11, FileKind.DIRECTORY)]
        assert [tuple(found) for found in list_short(fork, len(narrow), has_kinds=True)] == want
        wide = struct.pack(">2BQ", 1, 1, 9) + b"\1\0\0a" + pointer(1 << 40)
        fork = Fork(Format.LOCAL, 0, wide, 1000)
        assert [tuple(found) for found in list_short(fork, len(wide), has_kinds=False)] == [("a", 1 << 40, FileKind.FILE)]

    @pytest.mark.parametrize(
        ("raw", "size", "message", "offset"),
        [
            (bytes(20), 21, "into its inode", 1000),
            (bytes(20), 1, "into its inode", 1000),
            (b"\1\0" + bytes(4), 6, "does not fit", 1006),
            (b"\1\0" + bytes(4) + b"\0\0\0" + bytes(20), 29, "does not fit", 1006),
            (b"\1\0" + bytes(4) + b"\1\0\0a\1\0\0\0", 14, "does not fit", 1006),
            (b"\xff\1" + bytes(8) + b"\xff\0\0" + bytes(20), 33, "does not fit", 1010),
        ],
    )
    def test_in_the_inode_and_damaged(self, raw: bytes, size: int, message: str, offset: int) -> None:
        with pytest.raises(Corrupt, match=message) as raised:
            list(list_short(Fork(Format.LOCAL, 0, raw, 1000), size, has_kinds=True))
        assert raised.value.offset == offset

    def test_bad_blocks_cost_their_own_names(self) -> None:
        """And holes, which are blocks that were given back, cost nothing."""
        blocks = {index: data_block([entry(b"%d" % index, 100 + index)]) for index in range(10, 20)}
        content = mapped({**blocks, 13: bytes(BLOCK)}, [(0, 10), (1, 11), (4, 12), (5, 13), (9, 14)])
        names = []
        with pytest.raises(Corrupt, match="no directory block") as raised:
            for found in list_blocks(content, BLOCK, is_described=False, has_kinds=True):
                names.append(found.name)
        assert raised.value.offset == 13 * BLOCK and names == ["10", "11", "12", "14"]
        content = mapped(blocks, [(0, 10)])
        with pytest.raises(Corrupt, match="of this version"):
            list(list_blocks(content, BLOCK, is_described=True, has_kinds=True))

    def test_a_block_with_a_hole_in_it(self) -> None:
        content = mapped({10: data_block([entry(b"a", 10)], 1024)[:512]}, [(0, 10)])
        with pytest.raises(Corrupt, match="a hole in metadata") as raised:
            list(list_blocks(content, 1024, is_described=False, has_kinds=True))
        assert raised.value.offset == 1000

    def test_a_block_in_two_places(self) -> None:
        whole = data_block([entry(b"n" * 200, 10), entry(b"m" * 200, 11), entry(b"l" * 200, 12)], 1024)
        content = mapped({10: whole[:512], 30: whole[512:]}, [(0, 10), (1, 30)])
        found = list(list_blocks(content, 1024, is_described=False, has_kinds=True))
        assert [(name.name[0], name.inode) for name in found] == [("n", 10), ("m", 11), ("l", 12)]

    def test_damage_without_end(self) -> None:
        sb = superblock()
        runs = RunList()
        for index in range(MAX_BAD_BLOCKS * 2):
            runs.add(BLOCK, (index % 2 + 1) * 4 * BLOCK)
            runs.add(BLOCK, None)
        volume = metadata_of(bytes(BLOCK * MAX_BAD_BLOCKS * 4), sb)
        with pytest.raises(Corrupt, match="no directory block"):
            list(list_blocks(Mapped(volume, runs, 9, 0), BLOCK, is_described=False, has_kinds=True))

    def test_a_folder_larger_than_its_volume(self) -> None:
        blocks = {index: data_block([entry(b"%d" % index, 100 + index)]) for index in range(10, 20)}
        content = mapped(blocks, [(index, 10 + index % 10) for index in range(COUNT + 1)])
        names = []
        with pytest.raises(Corrupt, match="larger than its volume"):
            for found in list_blocks(content, BLOCK, is_described=False, has_kinds=True):
                names.append(found.name)
        assert len(names) == COUNT
