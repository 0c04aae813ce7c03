"""btrfs images with one thing wrong, its checksum right: the error names the byte, and the rest stays readable."""

from __future__ import annotations

import lzma
import random
import re
import struct
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from contract.btrfs_editor import Change, Changed, edited, item_of, spoiled
from contract.filesystem_contract import resolve, walk
from contract.hostile_walk import _touch
from contract.mounting import need, run
from mntapi.blocks import HostFile, read
from mntapi.errors import Corrupt, MntapiError, NotFound, Unsupported
from mntapi.filesystems.btrfs import chunks, filesystem, tree
from mntapi.filesystems.btrfs.filesystem import BtrfsFileSystem
from mntapi.filesystems.btrfs.items import Type
from mntapi.filesystems.readers import open_filesystem
from mntapi.types import Blocks, FileKind, Signature, Usage

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
FUZZED = REPOSITORY.parent / "shared" / "images" / "btrfs-progs" / "tests" / "fuzz-tests" / "images"
NODE = 4096
FILES = 160
SUPER = 65536
MAX_S = 20
"""For what takes milliseconds, on a machine that is shared."""


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made without root: one copy of metadata in nodes of 4 KiB, so that trees have two levels."""
    need("mkfs.btrfs")
    folder = tmp_path_factory.mktemp("btrfs-damage")
    source = folder / "source"
    (source / "folder").mkdir(parents=True)
    for number in range(FILES):
        (source / "folder" / f"a name of some length {number:04}").write_bytes(b"%d" % number)
    (source / "large").write_bytes(random.Random(1).randbytes(3 << 20))
    (source / "link").symlink_to("large")
    with (folder / "image").open("wb") as file:
        file.truncate(128 << 20)
    run("mkfs.btrfs", "-q", "-m", "single", "-n", str(NODE), "--rootdir", source, folder / "image")
    return folder / "image"


@pytest.fixture
def blocks(image: Path) -> Iterator[Blocks]:
    opened = HostFile.open(str(image))
    yield opened
    opened.close()


def open_btrfs(blocks: Blocks) -> BtrfsFileSystem:
    fs = open_filesystem(blocks, Signature("btrfs", Usage.FILESYSTEM))
    assert isinstance(fs, BtrfsFileSystem)
    return fs


def edit(blocks: Blocks, *changes: Change) -> Changed:
    return edited(blocks, *changes, node_size=NODE)


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


# trees


@pytest.mark.parametrize(
    ("field", "value", "message", "at"),
    [
        (88, u64(1 << 50), "no chunk that the superblock lists", SUPER + 88),
        (80, u64(1 << 50), "a logical address in no chunk", SUPER + 80),
        (80, u64(0), "a logical address in no chunk", SUPER + 80),
        (80, u64((1 << 64) - 1), "a logical address in no chunk", SUPER + 80),
        (72, u64(1), "wrong generation", None),
        (198, b"\x05", "wrong level", None),
        (164, u64(1), "wrong generation", None),
    ],
)
def test_superblocks_that_point_elsewhere(blocks: Blocks, field: int, value: bytes, message: str, at: int | None) -> None:
    with pytest.raises(Corrupt, match=message) as raised:
        open_btrfs(
            edit(blocks, (SUPER + field, value), (SUPER + 160, read(blocks, SUPER + 160, 4)) if field != 160 else (0, b""))
        )
    assert raised.value.offset is not None
    assert at is None or raised.value.offset == at


def test_a_node_over_the_end_of_its_chunk_and_outside_the_volume(blocks: Blocks) -> None:
    fs = open_btrfs(blocks)
    chunk = fs._nodes._chunks.find(fs._sb.root.logical, 0)
    with pytest.raises(Corrupt, match="past the end of its chunk") as raised:
        open_btrfs(edit(blocks, (SUPER + 80, u64(chunk.end - 512))))
    assert raised.value.offset == SUPER + 80
    with pytest.raises(Corrupt, match="past the end of its device") as raised:
        open_btrfs(Changed(blocks, {}, size=2 << 20))
    assert raised.value.offset is not None and raised.value.offset > 2 << 20


def root_of(fs: BtrfsFileSystem) -> tree.Node:
    """The root node of the top-level subvolume, which has leaves below it."""
    node = fs._nodes.read(fs._roots.all[0].pointer)
    assert node.level == 1 and len(node.entries) > 8
    return node


def pointer_at(node: tree.Node, index: int) -> int:
    """Byte on the volume of a pointer: key (17 bytes), logical address, generation."""
    return node.at + 101 + 33 * index


def test_pointers_that_lie_hide_what_is_behind_them(blocks: Blocks) -> None:
    """One leaf of the folder; names in the others are found, and the error comes last."""
    fs = open_btrfs(blocks)
    node = root_of(fs)
    number, kind, offset, _, generation = node.entries[5]
    child = fs._nodes.read(fs._trees[0]._child(node, 5, (1 << 64, 0, 0)))
    at = pointer_at(node, 5)
    for changes, message, where in (
        (((at + 17, u64(node.entries[0][3])),), "wrong first key", None),
        (((at + 17, u64(fs._roots.all[0].pointer.logical)),), "wrong level", node.at),
        (((at + 17, u64(1 << 50)),), "in no chunk", at),
        (((at + 25, u64(generation - 1)),), "wrong generation", child.at),
        (((child.at + 88, u64(7)),), "wrong owner", child.at),
        (((child.at + 100, b"\1"),), "out of order|impossible", None),
        (((pointer_at(node, 6), struct.pack("<QBQ", *_before(child.entries[-1]))),), "wrong last key", child.at),
        (((at, struct.pack("<QBQ", *_before((number, kind, offset)))),), "wrong (first|last) key", None),
    ):
        damaged = open_btrfs(edit(blocks, *changes))
        found, failures = everything(damaged)
        matching = [failure for failure in failures if re.search(message, str(failure))]
        assert matching, (message, failures[:2])
        assert where is None or where in {failure.offset for failure in matching}
        assert len(found) > FILES // 3  # a pointer with a wrong key hides two leaves, which may have 49 names each


def _before(key: tuple[int, ...]) -> tuple[int, int, int]:
    number, kind, offset = key[:3]
    return (number, kind, offset - 1) if offset else (number, kind - 1, offset)


def everything(fs: BtrfsFileSystem) -> tuple[set[str], list[MntapiError]]:
    """All names, and all errors on the way to names and contents."""
    found: set[str] = set()
    failures: list[MntapiError] = []
    todo, seen = [fs.root], {fs.root.inode}
    while todo:
        try:
            for name, node in fs.scan(todo.pop()):
                found.add(name)
                try:
                    fs.node(node.inode)
                    fs.xattrs(node)
                    if node.kind is FileKind.FILE:
                        content = fs.open(node)
                        read(content, 0, min(content.size, 1 << 20))
                except MntapiError as error:
                    failures.append(error)
                if node.kind is FileKind.DIRECTORY and node.reason is None and node.inode not in seen:
                    seen.add(node.inode)
                    todo.append(node)
        except MntapiError as error:
            failures.append(error)
    return found, failures


def test_damaged_leaves_of_a_folder(blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = open_btrfs(blocks)
    folder = resolve(fs, "folder")
    whole = [entry.name for entry in fs.scan(folder)]
    index = Type.DIR_INDEX
    leaves = {item.at // NODE * NODE for item in fs._trees[0].items((folder.inode, index, 0), (folder.inode, index, 1 << 64))}
    leaves -= {item_of(fs, number, 1).at // NODE * NODE for number in (256, folder.inode)}
    assert len(leaves) > 4
    one, other = sorted(leaves)[:2]
    damaged = open_btrfs(spoiled(blocks, (one + 300, b"spoiled"), (other + 300, b"spoiled")))
    found: list[str] = []
    with pytest.raises(Corrupt, match="checksum") as raised:
        found.extend(entry.name for entry in _until_damage(damaged, found))
    assert raised.value.offset in (one, other)
    assert len(whole) // 2 < len(found) < len(whole)
    assert damaged.lookup(folder, found[-1]).kind is FileKind.FILE
    with pytest.raises(Corrupt, match="checksum"):
        damaged.lookup(folder, "is it there?")
    monkeypatch.setattr(tree, "MAX_BAD_NODES", 1)
    again = open_btrfs(spoiled(blocks, (one + 300, b"spoiled"), (other + 300, b"spoiled")))
    fewer: list[str] = []
    with pytest.raises(Corrupt):
        list(_until_damage(again, fewer))
    assert len(fewer) < len(found)


def _until_damage(fs: BtrfsFileSystem, found: list[str]) -> Iterator[object]:
    for entry in fs.scan(fs.lookup(fs.root, "folder")):
        found.append(entry.name)
    return
    yield


# files


def extent_of(fs: BtrfsFileSystem, path: str, offset: int = 0) -> int:
    return item_of(fs, resolve(fs, path).inode, Type.EXTENT_DATA, offset).at


@pytest.mark.parametrize(
    ("field", "value", "error", "message", "reason"),
    [
        (16, b"\x01", Corrupt, "impossible size", None),
        (17, b"\x01", Unsupported, "encrypted or encoded", "encryption"),
        (20, b"\x07", Corrupt, "unknown kind", None),
        (21, u64(1 << 50), Corrupt, "in no chunk", "no-chunk"),
        (21, u64(0x1000000), Corrupt, "without the checksum|in no chunk", None),
        (45, u64(0), Corrupt, "impossible numbers", None),
        (45, u64(1 << 60), Corrupt, "impossible numbers", None),
    ],
)
def test_extents_that_lie(
    blocks: Blocks, field: int, value: bytes, error: type[MntapiError], message: str, reason: str | None
) -> None:
    at = extent_of(open_btrfs(blocks), "large")
    fs = open_btrfs(edit(blocks, (at + field, value)))
    content = fs.open(resolve(fs, "large"))
    with pytest.raises(error, match=message) as raised:
        read(content, 0, 5000)
    assert reason is None or raised.value.reason == reason
    assert raised.value.offset is not None and at <= raised.value.offset < at + 53
    assert read(content, content.size - 10, 10) == read(open_btrfs(blocks).open(resolve(fs, "large")), content.size - 10, 10)


def test_a_small_extent_that_is_not_what_its_compression_says(blocks: Blocks) -> None:
    """Inline, and of a kind that does not exist."""
    path = f"folder/a name of some length {7:04}"
    at = extent_of(open_btrfs(blocks), path)
    for kind, error, message in ((1, Corrupt, "cannot be unpacked"), (9, Unsupported, "compression of kind 9")):
        fs = open_btrfs(edit(blocks, (at + 16, bytes([kind]))))
        with pytest.raises(error, match=message) as raised:
            read(fs.open(resolve(fs, path)), 0, 1)
        assert raised.value.offset == at


def test_extents_that_overlap(blocks: Blocks) -> None:
    fs = open_btrfs(blocks)
    inode = resolve(fs, "large").inode
    first, second = list(fs._trees[0].items((inode, Type.EXTENT_DATA, 0), (inode, Type.EXTENT_DATA, 1 << 64)))[:2]
    (length,) = struct.unpack_from("<Q", first.raw, 45)
    assert second.key[2] == length
    longer = u64(length + NODE)
    damaged = open_btrfs(edit(blocks, (first.at + 29, longer), (first.at + 45, longer), (first.at + 8, longer)))
    content = damaged.open(resolve(damaged, "large"))
    with pytest.raises(Corrupt, match="overlap") as raised:
        read(content, length - 10, 20 + NODE)
    assert raised.value.offset == second.at
    with pytest.raises(Corrupt, match="overlap"):
        list(content.extents(0, content.size))


def test_no_tree_of_checksums(blocks: Blocks) -> None:
    """Names and small files are still there."""
    at = next(iter(open_btrfs(blocks)._root_tree.items((7, Type.ROOT_ITEM, 0), (7, Type.ROOT_ITEM, 0)))).at
    leaf = at // NODE * NODE
    key = leaf + read(blocks, leaf, NODE).index(struct.pack("<QBQ", 7, Type.ROOT_ITEM, 0))
    fs = open_btrfs(edit(blocks, (key + 8, bytes([Type.ROOT_ITEM + 1]))))
    assert len(list(fs.scan(resolve(fs, "folder")))) == FILES
    assert read(fs.open(resolve(fs, f"folder/a name of some length {7:04}")), 0, 1) == b"7"
    with pytest.raises(Corrupt, match="no tree of checksums"):
        read(fs.open(resolve(fs, "large")), 0, 1)


def test_a_gap_in_the_checksums(blocks: Blocks) -> None:
    """The first item of checksums is moved on by a sector: it now says what is right of the wrong ones."""
    fs = open_btrfs(blocks)
    at = extent_of(fs, "large")
    (logical,) = struct.unpack("<Q", read(blocks, at + 21, 8))
    item = fs._checksum_tree().floor(((1 << 64) - 10, Type.EXTENT_CSUM, logical))
    assert item is not None and item.key[2] <= logical
    leaf = item.at // NODE * NODE
    key = leaf + read(blocks, leaf, NODE).index(struct.pack("<QBQ", *item.key))
    gap = open_btrfs(edit(blocks, (key + 9, u64(logical + 4096))))
    content = gap.open(resolve(gap, "large"))
    for length in (1, 8192):
        with pytest.raises(Corrupt, match="without the checksum") as raised:
            read(content, 0, length)
        assert (raised.value.offset, raised.value.reason) == (at, "no-checksum")
    with pytest.raises(Corrupt, match="the checksum of data is wrong"):
        read(content, 4096, 1)


def test_chunks_are_not_all_remembered(blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_KEPT", 1)
    found, failures = everything(open_btrfs(blocks))
    assert len(found) == FILES + 3 and not failures


def test_chunks_that_overlap(blocks: Blocks) -> None:
    fs = open_btrfs(blocks)
    every = list(fs._nodes._chunks._tree.items((256, 228, 0), (256, 228, 1 << 64)))  # type: ignore[attr-defined]
    chunk = fs._nodes._chunks.find(fs._sb.root.logical, 0)
    one, other = next((one, other) for one, other in pairwise(every) if one.key[2] == chunk.logical)
    with pytest.raises(Corrupt, match="chunks overlap") as raised:
        open_btrfs(edit(blocks, (one.at, u64(other.key[2] - chunk.logical + 4096))))
    assert raised.value.offset == other.at


def test_data_at_the_end_of_its_chunk_and_of_the_volume(blocks: Blocks) -> None:
    fs = open_btrfs(blocks)
    at = extent_of(fs, "large")
    (logical,) = struct.unpack("<Q", read(blocks, at + 21, 8))
    chunk = fs._nodes._chunks.find(logical, 0)
    (item,) = fs._nodes._chunks._tree.items((256, 228, chunk.logical), (256, 228, chunk.logical))  # type: ignore[attr-defined]
    short = open_btrfs(edit(blocks, (item.at, u64(logical + 6000 - chunk.logical))))
    content = short.open(resolve(short, "large"))
    assert len(read(content, 0, 4096)) == 4096
    with pytest.raises(Corrupt, match="ends within a sector") as raised:
        read(content, 0, 6000)
    assert raised.value.offset == at
    place = chunk.stripes[0].start + logical - chunk.logical
    cut = open_btrfs(Changed(blocks, {}, size=place + 8192))
    content = cut.open(resolve(cut, "large"))
    assert len(read(content, 0, 8192)) == 8192
    with pytest.raises(Corrupt, match="past the end of its device") as raised:
        read(content, 0, 8193)
    assert raised.value.offset == place + 8192


def test_data_without_checksums_that_is_outside_the_volume(blocks: Blocks) -> None:
    fs = open_btrfs(blocks)
    inode, at = item_of(fs, resolve(fs, "large").inode, 1), extent_of(fs, "large")
    (logical,) = struct.unpack("<Q", read(blocks, at + 21, 8))
    chunk = fs._nodes._chunks.find(logical, 0)
    place = chunk.stripes[0].start + logical - chunk.logical
    cut = open_btrfs(Changed(edit(blocks, (inode.at + 64, b"\x01")), {}, size=place + 8192))
    content = cut.open(resolve(cut, "large"))
    assert read(content, 5, 8000) == read(fs.open(resolve(fs, "large")), 5, 8000)
    with pytest.raises(Corrupt, match="past the end of its device"):
        read(content, 0, 8193)


# inodes and names


def test_inodes_that_lie(blocks: Blocks) -> None:
    fs = open_btrfs(blocks)
    with pytest.raises(Corrupt, match="no folder"):
        open_btrfs(edit(blocks, (item_of(fs, 256, 1).at + 52, struct.pack("<I", 0o100644))))
    link = item_of(fs, resolve(fs, "link").inode, 1)
    long = open_btrfs(edit(blocks, (link.at + 16, u64(70_000))))
    with pytest.raises(Corrupt, match="target of a symbolic link is too long"):
        long.readlink(resolve(long, "link"))
    broken = open_btrfs(edit(blocks, (link.at + 52, struct.pack("<I", 0))))
    assert dict(broken.scan(broken.root))["link"].reason == "damaged"
    assert broken.lookup(broken.root, "link").reason == "damaged"
    for number in (1, 255, 1 << 40, 1 << 46, -1):
        with pytest.raises(NotFound):
            fs.node(number)


def test_names_that_lie(blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a name stands for: nothing we know, an inode without a place among the numbers, a subvolume that is not there."""
    fs = open_btrfs(blocks)
    wanted = {entry.name for entry in fs.scan(fs.root)}
    link = next(
        item
        for item in fs._trees[0].items((256, Type.DIR_INDEX, 0), (256, Type.DIR_INDEX, 1 << 64))
        if item.raw[30:] == b"link"
    )
    for changes, error, message in (
        ((link.at + 8, b"\x63"), Corrupt, "neither file nor subvolume"),
        ((link.at, u64(1 << 60)), Unsupported, "cannot be numbered"),
        ((link.at + 27, b"\xff"), Corrupt, "longer than its item"),
    ):
        damaged = open_btrfs(edit(blocks, changes))
        found: list[str] = []
        with pytest.raises(error, match=message) as raised:
            for entry in damaged.scan(damaged.root):
                found.append(entry.name)
        assert set(found) == wanted - {"link"}
        assert raised.value.offset in (None, link.at)
    empty = open_btrfs(edit(blocks, (link.at, struct.pack("<QB", 300, Type.ROOT_ITEM))))
    node = dict(empty.scan(empty.root))["link"]
    assert (node.kind, node.size, list(empty.scan(node)), empty.xattrs(node)) == (FileKind.DIRECTORY, 0, [], {})
    slash = open_btrfs(edit(blocks, (link.at + 30, b"../x")))
    assert "..\N{DIVISION SLASH}x" in dict(slash.scan(slash.root))
    monkeypatch.setattr(filesystem, "MAX_DAMAGE", 0)
    few = open_btrfs(edit(blocks, (link.at + 8, b"\x63")))
    with pytest.raises(Corrupt, match="neither"):
        list(few.scan(few.root))


def test_too_many_attributes(tmp_path: Path, blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = open_btrfs(blocks)
    inode = resolve(fs, "link").inode
    reference = next(iter(fs._trees[0].items((inode, Type.INODE_REF, 0), (inode, Type.INODE_REF, 1 << 64))))
    leaf = reference.at // NODE * NODE
    key = leaf + read(blocks, leaf, NODE).index(struct.pack("<QBQ", *reference.key))
    attributed = open_btrfs(edit(blocks, (key + 8, bytes([Type.XATTR_ITEM]))))
    node = attributed.node(inode)
    with pytest.raises(Corrupt, match="entry is cut off"):
        attributed.xattrs(node)
    monkeypatch.setattr(filesystem, "MAX_ATTRIBUTES", 5)
    with pytest.raises(Unsupported, match="too many extended attributes") as raised:
        attributed.xattrs(node)
    assert raised.value.reason == "too-many-xattrs"


# everything at once


def used_nodes(blocks: Blocks) -> list[int]:
    """Where nodes are: blocks that carry the file system's UUID."""
    uuid = read(blocks, SUPER + 32, 16)
    found = []
    for extent in blocks.extents(1 << 20, blocks.size - (1 << 20)):
        if extent.kind.value == "data":
            raw = read(blocks, extent.offset, extent.length)
            start = -extent.offset % NODE
            found += [extent.offset + at for at in range(start, len(raw) - NODE + 1, NODE) if raw[at + 32 : at + 48] == uuid]
    return found


def test_bytes_changed_at_random_with_right_checksums(blocks: Blocks) -> None:
    """No checksum stops these: what is left are the checks of every number."""
    nodes = used_nodes(blocks)
    assert len(nodes) > 30
    rng = random.Random(5)
    slowest, readable = 0.0, 0
    for _ in range(60):
        changes = {}
        for at in rng.sample(nodes, 4):
            for _ in range(rng.choice((1, 2, 5))):
                place = (
                    rng.choice((101, 101, NODE // 2)) + rng.randrange(0, 400) if rng.random() < 0.6 else rng.randrange(48, NODE)
                )
                changes[at + place] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))])
        start = time.monotonic()
        try:
            damaged = open_btrfs(edit(blocks, *changes.items()))
            damaged.subvolumes()
            found, _ = everything(damaged)
            readable += len(found) > 100
        except MntapiError as error:
            assert error.offset is not None or isinstance(error, NotFound)
        slowest = max(slowest, time.monotonic() - start)
    assert slowest < MAX_S
    assert readable > 10


def test_fuzzed_images_of_btrfs_progs(tmp_path: Path) -> None:
    packed = sorted(FUZZED.glob("*.raw.xz"))
    if not packed:
        pytest.skip("no ../shared/images")
    readable = 0
    for path in packed:
        raw = lzma.decompress(path.read_bytes())
        met: dict[str, int] = {}
        start = time.monotonic()
        try:
            fs = open_btrfs(_held(raw))
            for _, node in walk_some(fs):
                met.update(_touch(fs, node, 0))
            fs.subvolumes()
            readable += 1
        except MntapiError as error:
            assert str(error)
        assert time.monotonic() - start < MAX_S
    assert readable >= len(packed) // 4


def _held(raw: bytes) -> Blocks:
    from contract.hostile_walk import Held

    return Held(raw)


def walk_some(fs: BtrfsFileSystem) -> Iterator[tuple[str, object]]:
    try:
        yield from walk(fs).items()
    except MntapiError as error:
        assert str(error)
