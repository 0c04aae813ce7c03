"""UFS1 and UFS2 in both byte orders against makefs, which was given the tree; and damage, which must end in a clear error."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from contract.filesystem_contract import Want, check_filesystem, tree_of, walk
from contract.mounting import need, run
from mntapi.blocks import read
from mntapi.errors import Corrupt, MntapiError, NotFound, Unsupported
from mntapi.filesystems.runs import Memory
from mntapi.filesystems.ufs.content import Content
from mntapi.filesystems.ufs.directory import list_folder, parse_piece
from mntapi.filesystems.ufs.filesystem import UfsFileSystem, open_filesystem
from mntapi.filesystems.ufs.inode import parse_inode
from mntapi.filesystems.ufs.superblock import find_superblock
from mntapi.types import Extent, ExtentKind, FileKind, Node, Signature, Usage

UFS = Signature("ufs", Usage.FILESYSTEM)
NOT_STORED = frozenset({"links", "inode", "allocated", "ctime_ns", "mtime_ns", "rdev"})
SUPERBLOCK_AT = 8192
"""Where makefs puts it, whatever the version."""
QUICK_S = 2.0


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every kind of map: fragments, direct, indirect and doubly indirect blocks (of 4 KiB), in several groups."""
    top = tmp_path_factory.mktemp("ufs") / "tree"
    (top / "folder" / "deeper").mkdir(parents=True)
    for index in range(300):
        (top / "folder" / f"a name of some length {index}").write_text("x" * index * 7)
    for name, size in (("direct", 40_000), ("indirect", 700_001), ("double", 6_000_000)):
        (top / name).write_bytes(random.Random(size).randbytes(size))
    (top / "short").symlink_to("folder/deeper")
    (top / "long").symlink_to("y" * 300)
    os.mkfifo(top / "pipe", 0o600)
    (top / "direct").chmod(0o4751)
    return top


def made(tree: Path, folder: Path, version: int, order: str) -> bytes:
    need("makefs")
    image = folder / f"ufs{version}{order}.img"
    options = f"version={version},bsize=4096,fsize=512"
    run("makefs", "-t", "ffs", "-B", order, "-o", options, "-s", "16m", "-f", "200", image, tree)
    return image.read_bytes()


@pytest.fixture(scope="module")
def images(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("images")
    return {f"{version}{order}": made(tree, folder, version, order) for version in (1, 2) for order in ("le", "be")}


def opened(image: bytes | bytearray) -> UfsFileSystem:
    return open_filesystem(Memory(bytes(image)), UFS)


def wanted(tree: Path) -> dict[str, Want]:
    return tree_of(tree, skip=NOT_STORED, xattrs=False)


@pytest.mark.parametrize("which", ["1le", "1be", "2le", "2be"])
def test_what_makefs_put_in(tree: Path, images: dict[str, bytes], which: str) -> None:
    fs = opened(images[which])
    check_filesystem(fs, wanted(tree))
    found = walk(fs)
    assert {found[name].links for name in ("folder", "direct")} == {3, 1}
    assert abs(found["direct"].mtime_ns - (tree / "direct").stat().st_mtime_ns) < 1_000_000_000
    assert found["indirect"].allocated == 700_416 + 4096  # whole fragments, and a block of pointers
    capacity = fs.capacity()
    assert capacity.total == len(images[which]) and 0 < capacity.free < capacity.total
    assert 0 < capacity.inodes_free < capacity.inodes - len(found)
    fs.close()
    fs.close()


def test_the_sleuth_kit_finds_the_same_blocks(images: dict[str, bytes], tmp_path: Path) -> None:
    need("istat", "icat")
    image = tmp_path / "image"
    image.write_bytes(images["1le"])
    fs = opened(images["1le"])
    node = walk(fs)["double"]
    told = subprocess.run(["icat", "-f", "ufs1", image, str(node.inode)], capture_output=True, check=True).stdout
    assert told == read(fs.open(node), 0, node.size)


def inode_at(image: bytes, name: str) -> int:
    return find_superblock(Memory(image)).inode_at(walk(opened(image))[name].inode)


def with_size(image: bytes, name: str, size: int) -> bytes:
    changed = bytearray(image)
    struct.pack_into("<Q", changed, inode_at(image, name) + 8, size)
    return bytes(changed)


@pytest.mark.parametrize("size", [1 << 36, 1 << 50, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_damaged_size_costs_no_time(images: dict[str, bytes], size: int) -> None:
    """The Sleuth Kit follows such a map block by block, in C, for hours."""
    image = with_size(images["1le"], "double", size)
    started = time.process_time()
    fs = opened(image)
    node = walk(fs)["double"]
    assert node.size in (size, 0) and (node.reason is None) == (size < 1 << 63)
    try:
        content = fs.open(node)
        read(content, 0, 4096)
        read(content, content.size - 4096, 4096)
        for _ in content.extents(0, content.size):
            continue
    except MntapiError as error:
        assert isinstance(error, Corrupt), error
    assert time.process_time() - started < QUICK_S


def content_of(image: bytes, pointers: tuple[int, ...], size: int) -> Content:
    """A file with these pointers in the file system on ``image``."""
    superblock = find_superblock(Memory(image))
    volume = Memory(image)
    raw = read(volume, superblock.inode_at(2), superblock.inode_size)
    inode = replace(parse_inode(raw, superblock), pointers=pointers, size=size)
    return Content(volume, superblock, inode, lambda at: read(volume, at * superblock.fragment_size, superblock.block_size))


def test_holes_of_every_level(images: dict[str, bytes]) -> None:
    """A file of which only the last block is there, by three levels of pointers in blocks that are written here."""
    image = bytearray(images["1le"])
    end = len(image) // 512
    tables = [end - 8 * at for at in (4, 3, 2)]
    for table, after in zip(tables, [*tables[1:], end - 8], strict=True):
        image[table * 512 : table * 512 + 4096] = struct.pack("<1024I", *[0] * 1023, after)
    image[-4096:] = b"L" * 4096
    size = (12 + 1024 + 1024**2 + 1024**3) * 4096
    content = content_of(bytes(image), (0,) * 14 + (tables[0],), size)
    assert list(content.extents(0, size)) == [
        Extent(0, size - 4096, ExtentKind.ZERO),
        Extent(size - 4096, 4096, ExtentKind.DATA),
    ]
    assert read(content, size - 8192, 8192) == bytes(4096) + b"L" * 4096
    with pytest.raises(Corrupt, match="larger than its pointers"):
        content_of(bytes(image), (0,) * 15, size + 1)


def test_pointer_blocks_without_pointers_are_a_hole_until_they_are_too_many(images: dict[str, bytes]) -> None:
    image = bytearray(images["1le"])
    first, second = len(image) // 512 - 8, len(image) // 512 - 16
    image[-4096:] = bytes(4096)
    image[-8192:-4096] = struct.pack("<I", first) * 1024
    content = content_of(bytes(image), (0,) * 13 + (second, 0), 1 << 32)
    assert list(content.extents(0, 1 << 32)) == [Extent(0, 1 << 32, ExtentKind.ZERO)]
    image[-8192:-4096] = struct.pack("<I", second) * 1024
    image[-12288:-8192] = struct.pack("<I", second) * 1024
    image[-4096:] = bytes(4096)
    image[-8192:-4096] = struct.pack("<I", first) * 1024
    started = time.process_time()
    content = content_of(bytes(image), (0,) * 14 + (len(image) // 512 - 24,), 1 << 42)
    with pytest.raises(Unsupported, match="too many steps"):
        list(content.extents(0, 1 << 42))
    assert time.process_time() - started < QUICK_S


@pytest.mark.parametrize("pointers", [(1 << 31,) * 15, (0,) * 12 + (1 << 31,) * 3])
def test_pointers_out_of_the_file_system(images: dict[str, bytes], pointers: tuple[int, ...]) -> None:
    image = bytearray(images["1le"])
    at = inode_at(bytes(image), "double")
    struct.pack_into("<15I", image, at + 40, *pointers)
    fs = opened(image)
    content = fs.open(walk(fs)["double"])
    with pytest.raises(Corrupt, match=r"outside the file system|past the end") as caught:
        read(content, 12 * 4096, 4096) if not pointers[0] else read(content, 0, 1)
    assert caught.value.offset == (1 << 31) * 512


@pytest.mark.parametrize(
    ("at", "layout", "value", "what"),
    [
        (48, "<I", 0, "block size"),
        (48, "<I", 3000, "block size"),
        (52, "<I", 0, "fragment size"),
        (52, "<I", 1 << 20, "fragment size"),
        (56, "<I", 3, "number of fragments"),
        (44, "<I", 0, "number of cylinder groups"),
        (184, "<I", 0, "number of inodes"),
        (188, "<I", 0, "size of a group"),
        (36, "<I", 0, "size"),
        (1320, "<i", 61, "length of links"),
        (1320, "<i", -1, "length of links"),
    ],
)
def test_superblocks_that_contradict_themselves(images: dict[str, bytes], at: int, layout: str, value: int, what: str) -> None:
    image = bytearray(images["1le"])
    struct.pack_into(layout, image, SUPERBLOCK_AT + at, value)
    with pytest.raises(Corrupt, match=f"impossible {what}") as caught:
        opened(image)
    assert caught.value.offset == SUPERBLOCK_AT + at


def test_too_many_fragments_in_a_block(images: dict[str, bytes]) -> None:
    image = bytearray(images["1le"])
    struct.pack_into("<3I", image, SUPERBLOCK_AT + 48, 65536, 512, 128)
    with pytest.raises(Corrupt, match="number of fragments"):
        opened(image)


def test_where_a_superblock_counts(images: dict[str, bytes]) -> None:
    """A UFS2's says where it belongs; a UFS1's at 64 KiB is a copy; relatives are not read."""
    elsewhere = bytearray(images["2le"])
    elsewhere[65536 : 65536 + 1376] = elsewhere[SUPERBLOCK_AT : SUPERBLOCK_AT + 1376]
    assert find_superblock(Memory(bytes(elsewhere))).at == SUPERBLOCK_AT
    copied = bytearray(images["1le"])
    copied[65536 : 65536 + 1376] = copied[SUPERBLOCK_AT : SUPERBLOCK_AT + 1376]
    assert find_superblock(Memory(bytes(copied))).at == SUPERBLOCK_AT
    relative = bytearray(images["1le"][: 1 << 17])
    struct.pack_into("<I", relative, SUPERBLOCK_AT + 1372, 0x00195612)
    with pytest.raises(Unsupported, match="no superblock"):
        find_superblock(Memory(bytes(relative)))
    with pytest.raises(Unsupported):
        find_superblock(Memory(bytes(100)))


def test_inodes_that_are_refused(images: dict[str, bytes]) -> None:
    image = bytearray(images["1le"])
    fs = opened(image)
    with pytest.raises(NotFound):
        fs.node(1)
    with pytest.raises(NotFound):
        fs.node(fs.capacity().inodes)
    with pytest.raises(Corrupt, match="not in use"):
        fs.node(fs.capacity().inodes - 1)
    with pytest.raises(Corrupt, match="past the end"):
        opened(image[: inode_at(bytes(image), "direct") - 512])
    at = find_superblock(Memory(bytes(image))).inode_at(2)
    struct.pack_into("<H", image, at, 0o100644)
    with pytest.raises(Corrupt, match="no folder"):
        opened(image)


def test_a_folder_larger_than_its_volume_and_one_with_a_hole(images: dict[str, bytes]) -> None:
    fs = opened(with_size(images["1le"], "folder", 1 << 30))
    with pytest.raises(Corrupt, match="larger than its volume"):
        list(fs.scan(fs.lookup(fs.root, "folder")))
    image = bytearray(images["1le"])
    struct.pack_into("<I", image, inode_at(bytes(image), "folder") + 44, 0)
    fs = opened(image)
    names = []
    with pytest.raises(Corrupt, match="a hole at 4096"):
        for entry in fs.scan(fs.lookup(fs.root, "folder")):
            names.append(entry.name)
    assert 150 < len(names) < 301


def test_a_damaged_piece_of_a_folder_costs_only_its_names(images: dict[str, bytes]) -> None:
    image = bytearray(images["1le"])
    first = struct.unpack_from("<I", image, inode_at(bytes(image), "folder") + 40)[0] * 512
    struct.pack_into("<H", image, first + 512 + 4, 7)
    fs = opened(image)
    names = []
    with pytest.raises(Corrupt, match="does not fit") as caught:
        for entry in fs.scan(fs.lookup(fs.root, "folder")):
            names.append(entry.name)
    assert caught.value.offset == 512 and 280 < len(names) < 301
    with pytest.raises(Corrupt):
        list(list_folder(Memory(b"\1\0\0\0\7\0\0\0" * 64 * 1030), "<"))


@pytest.mark.parametrize(
    ("order", "raw"),
    [
        ("<", struct.pack("<IH2B4s", 7, 12, 3, 0, b"old\0")),
        (">", struct.pack(">IHH4s", 7, 12, 3, b"old\0")),
        ("<", struct.pack("<IH2B4s", 7, 12, 8, 3, b"old\0")),
    ],
)
def test_entries_as_they_were_before_4_4bsd(order: str, raw: bytes) -> None:
    assert [(entry.name, entry.inode) for entry in parse_piece(raw, 0, order)] == [("old", 7)]


def test_entries_that_name_nothing() -> None:
    hidden = struct.pack("<IH2B4s", 1, 12, 14, 2, b"wh\0\0") + struct.pack("<IH2B4s", 0, 12, 8, 2, b"no\0\0")
    assert list(parse_piece(hidden, 0, "<")) == []


def test_inodes_before_4_4bsd_have_their_owner_elsewhere(images: dict[str, bytes]) -> None:
    image = bytearray(images["1be"])
    struct.pack_into(">i", image, SUPERBLOCK_AT + 1324, -1)
    at = inode_at(bytes(image), "direct")
    struct.pack_into(">2H", image, at + 4, 12, 0xFFFF)
    struct.pack_into(">2I", image, at + 116, 1, 70_000)
    fs = opened(image)
    found = walk(fs)
    assert (found["direct"].uid, found["direct"].gid) == (12, 70_000)
    assert fs.readlink(found["short"]) == "folder/deeper" and fs.readlink(found["long"]) == "y" * 300


def test_a_snapshot_in_the_file_system_is_not_taken_for_a_file(images: dict[str, bytes]) -> None:
    image = bytearray(images["2le"])
    struct.pack_into("<I", image, inode_at(bytes(image), "direct") + 88, 0x200000)
    fs = opened(image)
    node = walk(fs)["direct"]
    assert node.reason == "ufs-snapshot"
    with pytest.raises(Unsupported):
        fs.open(node)


def test_devices(images: dict[str, bytes]) -> None:
    image = bytearray(images["1le"])
    at = inode_at(bytes(image), "direct")
    for number, told in ((0x0102, os.makedev(1, 2)), (0x10000, 0)):
        struct.pack_into("<H", image, at, 0o020600)
        struct.pack_into("<I", image, at + 40, number)
        node = walk(opened(image))["direct"]
        assert (node.kind, node.rdev, node.size) == (FileKind.CHAR_DEVICE, told, 0)


def test_a_target_that_is_too_long(images: dict[str, bytes]) -> None:
    fs = opened(with_size(images["1le"], "long", 1 << 20))
    with pytest.raises(Corrupt, match="too long"):
        fs.readlink(walk(fs)["long"])


def test_bytes_changed_at_random(tmp_path: Path) -> None:
    """In a process of its own, with limits on memory and time."""
    top = tmp_path / "tree"
    (top / "folder").mkdir(parents=True)
    for index in range(40):
        (top / "folder" / f"name {index}").write_text("x" * index * 90)
    (top / "large").write_bytes(random.Random(1).randbytes(300_000))
    need("makefs")
    here = Path(__file__).parent
    for version in ("1", "2"):
        run("makefs", "-t", "ffs", "-b", "50%", "-o", f"version={version}", tmp_path / f"{version}.img", top)
    done = subprocess.run(
        [sys.executable, str(here / "hostile_walk.py"), "ufs", "1", "150"],
        input=f"{tmp_path / '1.img'}\n{tmp_path / '2.img'}",
        env={"PYTHONPATH": str(here.parents[1]), "PATH": ""},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if " s {" in line]
    assert len(lines) == 302 and "FileKind.FILE" in lines[0]


def test_what_has_no_contents(images: dict[str, bytes]) -> None:
    fs = opened(images["1le"])
    pipe = walk(fs)["pipe"]
    with pytest.raises(MntapiError, match="no contents"):
        fs.open(pipe)
    with pytest.raises(MntapiError, match="is a folder"):
        fs.open(fs.root)
    with pytest.raises(MntapiError, match="no symbolic link"):
        fs.readlink(Node(2, FileKind.DIRECTORY, 0))
