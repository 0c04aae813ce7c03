"""The parsers of ext, error by error. Sound input is tested against the kernel in contract/test_ext.py."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.filesystems.ext import mapping, xattr
from mntapi.filesystems.ext.directory import encoded, list_linear, parse_block
from mntapi.filesystems.ext.filesystem import open_filesystem
from mntapi.filesystems.ext.inode import parse_inode
from mntapi.filesystems.ext.mapping import Mapper
from mntapi.filesystems.ext.superblock import Superblock, parse_superblock
from mntapi.filesystems.runs import Memory, RunBlocks, RunList
from mntapi.types import Signature, Usage

FIELDS = {"inodes": 0, "blocks": 4, "first": 20, "log_block": 24, "log_cluster": 28, "per_group": 32, "inodes_per_group": 40}


def superblock(**changed: int) -> bytes:
    raw = bytearray(1024)
    for at, value in ((0, 1024), (4, 4096), (20, 1), (24, 0), (28, 0), (32, 8192), (36, 8192), (40, 1024), (76, 1)):
        struct.pack_into("<I", raw, at, value)
    struct.pack_into("<HH", raw, 56, 0xEF53, 1)
    struct.pack_into("<H", raw, 88, 256)
    for name, value in changed.items():
        width, at = ("<H", int(name[1:])) if name[0] == "h" else ("<I", int(name[1:]))
        struct.pack_into(width, raw, at, value)
    return bytes(raw)


@pytest.mark.parametrize(
    "changed",
    [
        {"h56": 0},
        {"i24": 7},
        {"i28": 21},
        {"h88": 100},
        {"h88": 64},
        {"i32": 0},
        {"i40": 0},
        {"i40": 1 << 20},
        {"i4": 1},
        {"i96": 0x80},
    ],
)
def test_superblocks_that_are_refused(changed: dict[str, int]) -> None:
    with pytest.raises(Corrupt) as raised:
        parse_superblock(superblock(**changed))
    assert raised.value.offset is not None


@pytest.mark.parametrize(
    ("bits", "name"), [(0x1, "compression"), (0x8, "journal-dev"), (0x1000, "dirdata"), (0x40000000, "0x40000000")]
)
def test_features_that_are_refused(bits: int, name: str) -> None:
    with pytest.raises(Unsupported, match=name) as raised:
        parse_superblock(superblock(i96=bits | 0x40))
    assert raised.value.reason == "ext-feature"


def test_where_group_descriptors_are() -> None:
    """As e2fsprogs' dumpe2fs prints for the same parameters: sparse_super copies in 0, 1, 3, 5, 7, 9, 25 ..."""
    parsed = parse_superblock(superblock(i4=8192 * 200, i100=0x1))
    assert parsed.groups == 200
    assert [group for group in range(60) if parsed._has_superblock(group)] == [0, 1, 3, 5, 7, 9, 25, 27, 49]
    assert [group for group in range(9) if parse_superblock(superblock())._has_superblock(group)] == list(range(9))
    assert parsed.descriptor_at(33) == 2 * 1024 + 33 * 32
    meta: Superblock = parse_superblock(superblock(i4=8192 * 200, i96=0x10, i100=0x1, i20=0))
    assert meta.descriptor_at(0) == 2 * 1024  # the superblock is in block 1
    assert meta.descriptor_at(64) == 64 * 8192 * 1024
    assert parse_superblock(superblock(i4=8192 * 200, i96=0x10, i100=0x1)).descriptor_at(32) == (1 + 32 * 8192) * 1024


@pytest.mark.parametrize("size", [0, 1024, 2047])
def test_too_small_for_a_superblock(size: int) -> None:
    with pytest.raises(Corrupt, match="too small"):
        open_filesystem(Memory(bytes(size)), Signature("ext4", Usage.FILESYSTEM))


def test_device_numbers_and_unknown_types() -> None:
    raw = bytearray(128)
    struct.pack_into("<H", raw, 0, 0o020000)
    struct.pack_into("<2I", raw, 40, 0x0811, 0)
    assert parse_inode(bytes(raw)).rdev == os.makedev(8, 17)
    struct.pack_into("<2I", raw, 40, 0, 70_000 & 0xFF | 300 << 8 | (70_000 & ~0xFF) << 12)
    assert parse_inode(bytes(raw)).rdev == os.makedev(300, 70_000)
    assert parse_inode(bytes(256)).kind is None


def mapper(blocks: dict[int, bytes], count: int = 1000) -> Mapper:
    return Mapper(lambda number: blocks[number], 1024, count)


def node(depth: int, *entries: bytes, magic: int = 0xF30A, most: int = 4, count: int | None = None, size: int = 60) -> bytes:
    head = struct.pack("<4H4x", magic, len(entries) if count is None else count, most, depth)
    return (head + b"".join(entries)).ljust(size, b"\0")


def leaf(logical: int, length: int, physical: int) -> bytes:
    return struct.pack("<I2HI", logical, length, 0, physical)


def branch(block: int) -> bytes:
    return struct.pack("<2IH2x", 0, block, 0)


def test_extents_holes_and_what_was_never_written() -> None:
    child = node(0, leaf(2, 3, 10), leaf(5, 0x8002, 20), leaf(7, 1, 13), most=84, size=1024)
    found = mapper({99: child}).extents(node(1, branch(99)), 9000)
    assert list(found.pieces(0, 9000)) == [(2048, None), (3072, 10240), (2048, None), (1024, 13312), (808, None)]


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (node(0, magic=1), "no extent tree node"),
        (node(0, count=5), "overfull"),
        (node(0, count=3, most=2), "overfull"),
        (node(6), "wrong depth"),
        (node(2, branch(99)), "wrong depth"),
        (node(1, branch(1000)), "map block outside"),
        (node(1, branch(0)), "map block outside"),
        (node(0, leaf(0, 2, 999)), "block outside"),
        (node(0, leaf(0, 2, 0)), "block outside"),
        (node(0, leaf(0, 0, 9)), "empty or out of order"),
        (node(0, leaf(3, 3, 9), leaf(5, 1, 20)), "empty or out of order"),
    ],
)
def test_extent_trees_that_are_refused(root: bytes, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        mapper({99: node(0, size=1024)}).extents(root, 10_000)


def test_maps_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "MAX_MAP_BLOCKS", 2)
    with pytest.raises(Unsupported, match="too large"):
        mapper({99: node(0, size=1024)}).extents(node(1, branch(99), branch(99), branch(99)), 10)


def test_block_maps_of_every_depth() -> None:
    """A double and a triple indirect block over a hole; files end in the middle of a block of pointers."""
    pointers = struct.pack("<256I", *range(300, 556))
    blocks = {100: pointers, 101: struct.pack("<256I", 0, 100, *[0] * 254), 102: struct.pack("<256I", 101, *[0] * 255)}
    root = struct.pack("<15I", *range(20, 32), 0, 101, 102)
    k = 1024
    found = mapper(blocks).block_map(root, (12 + 256 + 65536 + 600) * k)
    pieces = list(found.pieces(0, found.size))
    direct, data = (12 * k, 20 * k), (256 * k, 300 * k)
    assert pieces == [direct, (512 * k, None), data, ((65536 - 512 + 256) * k, None), data, (88 * k, None)]
    assert mapper(blocks).block_map(root, 5000).size == 5 * k
    with pytest.raises(Corrupt, match="block outside"):
        mapper(blocks, 25).block_map(root, 12 * k)
    with pytest.raises(Corrupt, match="map block outside"):
        mapper(blocks, 100).block_map(root, 1 << 30)


def dirent(inode: int, length: int, name: bytes, kind: int = 1, name_length: int | None = None) -> bytes:
    return struct.pack("<IH2B", inode, length, len(name) if name_length is None else name_length, kind) + name


@pytest.mark.parametrize(
    "bad", [dirent(1, 4, b""), dirent(1, 13, b"abc"), dirent(1, 2000, b"abc"), dirent(1, 12, b"abc", name_length=9), bytes(8)]
)
def test_directory_entries_that_are_refused(bad: bytes) -> None:
    block = (dirent(7, 12, b"ok") + b"\0\0" + bad).ljust(1024, b"\0")
    found = parse_block(block, 4096)
    assert next(found).name == b"ok"
    with pytest.raises(Corrupt) as raised:
        list(found)
    assert raised.value.offset == 4096 + 12


def test_entries_of_64_kib_blocks_and_unused_ones() -> None:
    block = (dirent(0, 12, b"gone") + dirent(5, 0xFFFF, b"x", kind=0)).ljust(1 << 16, b"\0")
    with pytest.raises(Corrupt):
        list(parse_block(block, 0))
    assert [entry.name for entry in parse_block(dirent(5, 0, b"x").ljust(1 << 16, b"\0"), 0)] == [b"x"]


def test_folders_with_holes_or_too_much_damage() -> None:
    runs = RunList()
    runs.add(1024, 0)
    runs.add(1024, None)
    block = dirent(7, 1024, b"name").ljust(1024, b"\0")
    listed = list_linear(RunBlocks(Memory(block), runs, 2048), 1024, 1 << 20, lambda raw, at: None, encrypted=False)
    assert next(listed).name == "name"
    with pytest.raises(Corrupt, match="hole"):
        next(listed)
    with pytest.raises(Corrupt, match="does not fit"):
        list(list_linear(Memory(bytes(3000 * 512)), 512, 1 << 30, lambda raw, at: None, encrypted=False))


def test_encrypted_names_fit_and_differ() -> None:
    names = {encoded(bytes([index]) * 255) for index in range(3)} | {encoded(b"a" * 254 + b"b"), encoded(b"a" * 189)}
    assert len(names) == 5 and max(map(len, names)) <= 255
    assert not any("/" in name or "=" in name for name in names)


def entry(name: bytes, value_at: int, size: int, namespace: int = 1, inode: int = 0) -> bytes:
    return (struct.pack("<2BH3I", len(name), namespace, value_at, inode, size, 0) + name).ljust(
        -(-(16 + len(name)) // 4) * 4, b"\0"
    )


@pytest.mark.parametrize("entries", [b"\1" * 10, entry(b"n", 4000, 100), struct.pack("<2BH3I", 255, 1, 0, 0, 0, 0)])
def test_attributes_that_are_refused(entries: bytes) -> None:
    raw = struct.pack("<I", xattr.MAGIC) + bytes(28) + entries
    with pytest.raises(Corrupt) as raised:
        list(xattr.in_block(raw if len(entries) < 16 else raw.ljust(64, b"\0"), 1 << 20))
    assert raised.value.offset == (1 << 20) + 32


def test_no_attribute_block() -> None:
    with pytest.raises(Corrupt, match="no block"):
        list(xattr.in_block(bytes(1024), 0))
    assert list(xattr.in_inode(bytes(100), 0)) == []


def test_unknown_namespaces_are_not_shown() -> None:
    raw = (
        struct.pack("<I", xattr.MAGIC)
        + entry(b"c", 0, 0, namespace=9)
        + entry(b"data", 0, 0, namespace=7)
        + entry(b"x", 0, 0)
        + bytes(4)
    )
    assert dict(xattr.decode(xattr.in_inode(raw, 0), raw, lambda *_: b"")) == {"user.x": b""}


@pytest.mark.parametrize("stored", [b"", struct.pack("<I", 2), struct.pack("<I2H", 1, 2, 7), struct.pack("<IH", 1, 1)])
def test_access_lists_that_are_refused(stored: bytes) -> None:
    with pytest.raises(Corrupt):
        xattr.kernel_acl(stored)


PARSERS: dict[str, Callable[[bytes], object]] = {
    "superblock": lambda raw: parse_superblock(raw.ljust(1024, b"\0")),
    "inode": lambda raw: parse_inode(raw.ljust(256, b"\0")).rdev,
    "directory": lambda raw: list(parse_block(raw, 0)),
    "attributes": lambda raw: list(xattr.decode(xattr.parse_entries(raw, 0, 0, 0), raw, lambda *_: b"")),
    "extents": lambda raw: mapper({}).extents(raw.ljust(60, b"\0")[:60], 1 << 20),
    "map": lambda raw: mapper({}).block_map(raw.ljust(60, b"\0")[:60], 5000),
}


@pytest.mark.parametrize("parser", PARSERS)
@given(raw=st.binary(max_size=300))
def test_any_bytes_give_a_value_or_an_error_of_ours(parser: str, raw: bytes) -> None:
    try:
        PARSERS[parser](raw)
    except (MntapiError, KeyError) as error:
        assert not isinstance(error, KeyError) or parser in ("extents", "map")  # the mapper asked for a block
