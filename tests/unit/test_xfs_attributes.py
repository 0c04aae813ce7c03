"""XFS attributes in the inode, in leaves and below nodes, and every way in which they can be wrong."""

from __future__ import annotations

import struct

import pytest

from contract.xfs_builder import (
    BLOCK,
    mapped,
    metadata_of,
    superblock,
    volume_of,
)
from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.runs import RunList
from mntapi.filesystems.xfs import attributes
from mntapi.filesystems.xfs.attributes import AttributeBlocks, in_inode, kernel_acl, shown
from mntapi.filesystems.xfs.described import checksum_of
from mntapi.filesystems.xfs.extents import Mapped
from mntapi.filesystems.xfs.inode import Fork, Format


def leaf(entries: list[tuple[int, int]], area: dict[int, bytes], *, after: int = 0, magic: int = 0xFBEE) -> bytes:
    """A leaf of version 4: (place, flags) of each entry, and what is at the places."""
    raw = bytearray(BLOCK)
    struct.pack_into(">IIHxxH", raw, 0, after, 0, magic, len(entries))
    for index, (place, flags) in enumerate(entries):
        struct.pack_into(">IHB", raw, 32 + 8 * index, 0, place, flags)
    for place, content in area.items():
        raw[place : place + len(content)] = content
    return bytes(raw)


def tree_node(level: int, first: int, *, count: int = 1) -> bytes:
    return struct.pack(">IIHxx2H2I", 0, 0, 0xFEBE, count, level, 0, first).ljust(BLOCK, b"\0")


LOCAL = struct.pack(">HB", 3, 1) + b"aVAL"


def attributes_of(*blocks: bytes) -> list[attributes.Attribute]:
    content = mapped(
        {10 + index: raw for index, raw in enumerate(blocks)}, [(index, 10 + index) for index in range(len(blocks))]
    )
    return list(AttributeBlocks(content, BLOCK, 4).attributes())


class TestAttributes:
    def test_leaves_below_nodes(self) -> None:
        remote = struct.pack(">IIB", 4, 600, 1) + b"b"
        found = attributes_of(
            tree_node(2, 1),
            tree_node(1, 2),
            leaf([(400, 1), (450, 0x81)], {400: LOCAL}, after=3),
            leaf([(400, 2)], {400: remote}),
            b"x" * BLOCK,
            b"y" * BLOCK,
        )
        assert dict(shown(iter(found))) == {"user.a": b"VAL", "trusted.b": b"x" * BLOCK + b"y" * 88}

    def test_no_blocks_at_all(self) -> None:
        assert attributes_of() == []

    @pytest.mark.parametrize(
        ("blocks", "message", "offset"),
        [
            ([bytes(BLOCK)], "no leaf", 10 * BLOCK),
            ([leaf([], {}, after=0, magic=0x3BEE)], "no leaf", 10 * BLOCK),
            ([leaf([], {}, after=1), tree_node(1, 0)], "no leaf", 11 * BLOCK),
            ([tree_node(0, 1)], "impossible node", 10 * BLOCK),
            ([tree_node(1, 1, count=0)], "impossible node", 10 * BLOCK),
            ([tree_node(2, 1), tree_node(2, 1)], "impossible node", 11 * BLOCK),
            ([tree_node(1, 0)], "impossible node", 10 * BLOCK),
            ([leaf([], {}, after=1), leaf([], {}, after=1)], "in a circle", 11 * BLOCK),
            ([leaf([], {}, after=1), leaf([], {})[:4] + leaf([], {}, after=0)[4:]], None, 0),
            ([leaf([], {})[:12] + b"\xff\xff" + bytes(498)], "overfull", 10 * BLOCK),
            ([leaf([(510, 1)], {})], "outside its block", 10 * BLOCK),
            ([leaf([(505, 0)], {})], "outside its block", 10 * BLOCK),
            ([leaf([(400, 1)], {})], "outside its block", 10 * BLOCK + 400),
            ([leaf([(400, 1)], {400: b"\xff\xff\1a"})], "outside its block", 10 * BLOCK + 400),
            ([leaf([(400, 0)], {400: struct.pack(">IIB", 1, 65537, 1)})], "too long", 10 * BLOCK + 400),
            ([leaf([(400, 0)], {400: struct.pack(">IIB", 1, 65536, 1)})], "a hole in metadata", 1000),
            ([leaf([], {}, after=1 << 31)], "a hole in metadata", 1000),
        ],
    )
    def test_damage(self, blocks: list[bytes], message: str | None, offset: int) -> None:
        if message is None:
            assert attributes_of(*blocks) == []
            return
        with pytest.raises(Corrupt, match=message) as raised:
            attributes_of(*blocks)
        assert raised.value.offset == offset

    def test_leaves_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(attributes, "MAX_LEAVES", 9)
        assert attributes_of(*[leaf([], {}, after=index + 1) for index in range(8)], leaf([], {})) == []
        with pytest.raises(Corrupt, match="in a circle") as raised:
            attributes_of(*[leaf([], {}, after=index + 1) for index in range(9)], leaf([], {}))
        assert raised.value.offset == 18 * BLOCK

    def test_values_without_end(self) -> None:
        """All entries of a leaf have the same value of 64 KiB: what one block says must not become gigabytes."""
        remote = struct.pack(">IIB", 1, 65536, 1) + b"b"
        first = leaf([(400, 0)] * 40, {400: remote}, after=129 + 1)
        blocks = [
            first,
            *[b"v" * BLOCK] * 129,
            *[leaf([(400, 0)] * 40, {400: remote}, after=131 + index) for index in range(9)],
        ]
        with pytest.raises(Unsupported, match="too many extended attributes") as raised:
            attributes_of(*blocks)
        assert raised.value.offset == (10 + 130 + 5) * BLOCK

    def test_values_that_describe_themselves(self) -> None:
        """Of version 5: parts must come in their order. (What they say of place and owner, a real image tests.)"""
        sb = superblock(version=0xB4A5, inode_size=512, inode_log=9, inodes_per_block=1, inodes_per_block_log=0)
        for offset, length, magic, message in (
            (0, 10, b"XARM", None),
            (1, 10, b"XARM", "another part"),
            (0, 0, b"XARM", "another part"),
            (0, 457, b"XARM", "another part"),
            (0, 9, b"XARM", "another part"),
            (0, 11, b"XARM", "another part"),
            (0, 10, b"XARN", "no value"),
        ):
            raw = bytearray(struct.pack(">4s2I4x16sQQ", magic, offset, length, sb.uuid, 9, 11).ljust(BLOCK, b"v"))
            struct.pack_into("<I", raw, 12, checksum_of(bytes(raw), 12))
            runs = RunList()
            runs.add(BLOCK, 11 * BLOCK)
            reader = AttributeBlocks(Mapped(metadata_of(volume_of({11: bytes(raw)}), sb), runs, 9, 0), BLOCK, 5)
            if message is None:
                assert reader._value(0, 10, 0) == b"v" * 10
                continue
            with pytest.raises(Corrupt, match=message):
                reader._value(0, 10, 0)

    def test_parts_of_a_value_are_as_long_as_can_be(self) -> None:
        """With parts of one byte each, 64 KiB would be 65536 blocks to verify."""
        sb = superblock(version=0xB4A5, inode_size=512, inode_log=9, inodes_per_block=1, inodes_per_block_log=0)
        full = BLOCK - 56
        for lengths in ((full, full, 10), (1, 1, 1), (full, 1, 1), (full, full - 1, 11)):
            blocks, done, runs = {}, 0, RunList()
            for place, length in enumerate(lengths, 11):
                raw = bytearray(struct.pack(">4s2I4x16sQQ", b"XARM", done, length, sb.uuid, 9, place).ljust(BLOCK, b"v"))
                struct.pack_into("<I", raw, 12, checksum_of(bytes(raw), 12))
                blocks[place] = bytes(raw)
                runs.add(BLOCK, place * BLOCK)
                done += length
            reader = AttributeBlocks(Mapped(metadata_of(volume_of(blocks), sb), runs, 9, 0), BLOCK, 5)
            if lengths == (full, full, 10):
                assert reader._value(0, 2 * full + 10, 0) == b"v" * (2 * full + 10)
                continue
            with pytest.raises(Corrupt, match="another part") as raised:
                reader._value(0, 2 * full + 10, 0)
            first = next(at for at, (is_, want) in enumerate(zip(lengths, (full, full, 10), strict=True)) if is_ != want)
            assert raised.value.offset == (11 + first) * BLOCK

    @pytest.mark.parametrize(
        ("raw", "message", "offset"),
        [
            (b"", "into their inode", 1000),
            (struct.pack(">HBx", 3, 0), "into their inode", 1000),
            (struct.pack(">HBx", 5, 0), "into their inode", 1000),
            (struct.pack(">HBx", 4, 1), "cut off", 1004),
            (struct.pack(">HBx", 9, 1) + b"\0\0\0ab", "cut off", 1004),
            (struct.pack(">HBx", 9, 1) + b"\1\2\0ab", "cut off", 1004),
        ],
    )
    def test_in_the_inode_and_damaged(self, raw: bytes, message: str, offset: int) -> None:
        with pytest.raises(Corrupt, match=message) as raised:
            list(in_inode(Fork(Format.LOCAL, 0, raw, 1000)))
        assert raised.value.offset == offset

    def test_which_are_shown(self) -> None:
        raw = b"".join(
            struct.pack(">3B", 1, 1, flags) + name + b"v"
            for name, flags in ((b"u", 0), (b"t", 2), (b"s", 4), (b"p", 8), (b"i", 0x80))
        )
        fork = Fork(Format.LOCAL, 0, struct.pack(">HBx", 4 + len(raw), 5) + raw, 0)
        assert dict(shown(in_inode(fork))) == {"user.u": b"v", "trusted.t": b"v", "security.s": b"v"}

    def test_access_control_lists(self) -> None:
        stored = struct.pack(">I2IH2xI", 1, 2, 1000, 6, 0)
        assert kernel_acl(stored) == struct.pack("<I2HI", 2, 2, 6, 1000)
        assert kernel_acl(struct.pack(">I2IH2x", 1, 1, 5, 7)) == struct.pack("<I2HI", 2, 1, 7, 0xFFFFFFFF)
        for cut in (stored[:-5], b"", b"\xff\xff\xff\xff" + stored[4:]):
            if cut:
                with pytest.raises(Corrupt, match="cut off"):
                    kernel_acl(cut)
