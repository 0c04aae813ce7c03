"""XFS of version 5 against the kernel's own mount, whole and damaged."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mntapi
from contract.filesystem_contract import check_filesystem, digest, resolve, tree_of
from contract.mounting import mounted, need, need_root, run
from contract.test_ext import fill
from contract.xfs_images import SIGNATURE, SMALL, Changed, byte_of, dirty, fill_more, made, opened, sealed
from mntapi.blocks import Fault, HostFile, Slice, read
from mntapi.errors import Corrupt, NotFound, ReadFailed
from mntapi.filesystems.readers import open_filesystem
from mntapi.filesystems.xfs import described
from mntapi.session.tree import VolumeTree
from mntapi.types import Blocks, Extent, ExtentKind, FileKind, FileSystem, VolumeState
from mntapi.units import MIB

RAW = "ro,norecovery,nouuid"
LAYOUTS = {
    "new": (4096, "-m", "bigtime=1,inobtcount=1,reflink=1,rmapbt=1", "-i", "nrext64=1"),
    "old": (1024, "-b", "size=1024", "-n", "size=8192", "-m", "finobt=0,reflink=0,rmapbt=0,bigtime=0", "-i", "sparse=0"),
    "large": (16384, "-b", "size=16384", "-n", "size=65536", "-i", "size=2048"),
}
"""The size of blocks, and what mkfs.xfs is told."""
MANY = 60_000


@pytest.fixture(scope="session", params=LAYOUTS)
def xfs_image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_root()
    need("mkfs.xfs", "xfs_io", "xfs_db", "mount", "setfacl")
    block_size, *options = LAYOUTS[request.param]
    image = made(tmp_path_factory.mktemp("xfs") / f"{request.param}.img", 320 * MIB, "-q", *options)
    with mounted(image, "rw") as top:
        fill(top)
        fill_more(top, block_size)
    if request.param == "new":
        run("xfs_admin", "-U", "generate", image)  # metadata keeps the UUID it was written with
    return image


@pytest.mark.root
def test_against_the_kernel(xfs_image: Path) -> None:
    with mounted(xfs_image, RAW) as top, opened(xfs_image) as fs:
        check_filesystem(fs, tree_of(top))
        root = os.lstat(top)
        assert (fs.root.mode, fs.root.mtime_ns, fs.root.links) == (root.st_mode & 0o7777, root.st_mtime_ns, root.st_nlink)
        whole = os.statvfs(top)
        assert (fs.capacity().total, fs.capacity().block_size) == (whole.f_blocks * whole.f_frsize, whole.f_frsize)
        born = int(subprocess.run(["stat", "-c", "%W", top / "hello.txt"], capture_output=True, check=True).stdout)
        assert resolve(fs, "hello.txt").birthtime_ns // 10**9 == born
        told = run("xfs_db", "-r", "-c", "sb 0", "-c", "print fdblocks icount ifree", xfs_image)
        free, inodes, inodes_free = (int(line.split(" = ")[1]) for line in told.splitlines())
        capacity = fs.capacity()
        assert (capacity.free, capacity.inodes, capacity.inodes_free) == (free * whole.f_frsize, inodes, inodes_free)


@pytest.mark.root
def test_every_form_is_there(xfs_image: Path) -> None:
    """What the comparison with the kernel is worth: xfs_db says that the images have all forms of forks and blocks."""
    want = {
        "folder1": "core.format = 1",
        "folder50": "core.format = [12]",
        "folder400": "core.format = 2",
        "extents": "core.format = 3",
        "link1": "core.format = 1",
        "target1023": "core.format = [12]",
        "attributes-few": "core.aformat = 1",
        "attributes-many": "core.aformat = [23]",
    }
    for path, pattern in want.items():
        assert re.search(pattern, run("xfs_db", "-r", "-c", f"path /{path}", "-c", "print", xfs_image)), path
    told = run("xfs_db", "-r", "-c", "path /extents", "-c", "print u3.bmbt.level", xfs_image)
    assert int(told.split(" = ")[1]) == (1 if xfs_image.stem == "large" else 2)


@pytest.mark.root
def test_never_written_blocks_are_zero_extents(xfs_image: Path) -> None:
    with opened(xfs_image) as fs:
        content = fs.open(resolve(fs, "all-hole"))
        assert list(content.extents(0, content.size)) == [Extent(0, (5 << 30) + 1, ExtentKind.ZERO)]
        content = fs.open(resolve(fs, "preallocated"))
        stored = sum(extent.length for extent in content.extents(0, content.size) if extent.kind is ExtentKind.DATA)
        assert 5000 <= stored <= 2 * 16384
        content = fs.open(resolve(fs, "extents"))
        assert len(list(content.extents(0, content.size))) >= 5999


@pytest.mark.root
def test_a_bad_sector_costs_one_read(xfs_image: Path) -> None:
    """In a file: that read fails, with the byte on the volume. In an inode cluster: the inodes in that sector."""
    with mounted(xfs_image, RAW) as top:
        expected = (top / "a/b/c/deep").read_bytes()
    blocks = HostFile.open(str(xfs_image))
    at = _find(blocks, expected[40_000:40_100]) // 512 * 512
    fs = open_filesystem(Fault(blocks, bad=[(at, 512)]), SIGNATURE)
    content = fs.open(resolve(fs, "a/b/c/deep"))
    failures = []
    for offset in range(0, content.size, 100):
        length = min(100, content.size - offset)
        try:
            assert read(content, offset, length) == expected[offset : offset + length]
        except ReadFailed as error:
            assert at <= error.offset < at + 512
            failures.append(offset)
    assert 5 <= len(failures) <= 7 and 40_000 in failures
    victim = fs._sb.inode_at(resolve(fs, "holes").inode)
    broken = open_filesystem(Fault(blocks, bad=[(victim, 512)]), SIGNATURE)
    found = dict(broken.scan(broken.root))
    assert found.keys() == {entry.name for entry in fs.scan(fs.root)}
    assert [name for name, node in found.items() if node.reason] == ["holes"] and found["holes"].reason == "unreadable"
    with pytest.raises(ReadFailed):
        broken.open(found["holes"])
    blocks.close()


def _find(blocks: Blocks, needle: bytes) -> int:
    for extent in blocks.extents(0, blocks.size):
        for offset in range(extent.offset, extent.end if extent.kind is ExtentKind.DATA else 0, MIB):
            piece = read(blocks, offset, min(MIB + len(needle), blocks.size - offset))
            if needle in piece:
                return offset + piece.index(needle)
    raise AssertionError("the bytes are not in the image")


DAMAGE = {
    "a directory block": (("path /large-folder", "dblock 0"), "large-folder", 8192),
    "the one block of a folder": (("path /folder50", "dblock 0"), "folder50", 8192),
    "a block of an extent tree": (("path /extents", "addr u3.bmbt.ptrs[1]"), "extents", 1024),
    "a leaf of attributes": (("path /attributes-leaf", "ablock 0"), "attributes-leaf", 1024),
    "a node of attributes": (("path /attributes-many", "ablock 0"), "attributes-many", 1024),
    "a value of an attribute": (("path /attributes-huge", "ablock 1"), "attributes-huge", 1024),
    "the target of a link": (("path /target1023", "dblock 0"), "target1023", 2048),
}
"""How xfs_db finds it, whose it is, and its length."""


@pytest.fixture
def old_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout with small blocks, in which everything has a block of its own."""
    need_root()
    need("mkfs.xfs", "xfs_io", "xfs_db", "mount", "setfacl")
    image = tmp_path_factory.getbasetemp() / "xfs-old.img"
    if not image.exists():
        made(image, 320 * MIB, "-q", *LAYOUTS["old"][1:])
        with mounted(image, "rw") as top:
            fill(top)
            fill_more(top, 1024)
    return image


@pytest.mark.root
@pytest.mark.parametrize("what", DAMAGE)
def test_a_wrong_checksum_costs_one_object(old_image: Path, what: str) -> None:
    """One bit, in a byte that nobody else would miss; the block as xfs_db finds it."""
    where, path, _ = DAMAGE[what]
    at = byte_of(old_image, *where)
    blocks = HostFile.open(str(old_image))
    (byte,) = read(blocks, at + 300, 1)
    fs = open_filesystem(Changed(blocks, {at + 300: bytes([byte ^ 1])}), SIGNATURE)
    with pytest.raises(Corrupt, match="checksum") as raised:
        _read_all_of(fs, path)
    assert raised.value.offset == at and raised.value.reason == "checksum"
    for other in {path for _, path, _ in DAMAGE.values()} - {path}:
        _read_all_of(fs, other)
    blocks.close()


def _read_all_of(fs: FileSystem, path: str) -> None:
    node = resolve(fs, path)
    fs.xattrs(node)
    if node.kind is FileKind.DIRECTORY:
        list(fs.scan(node))
    elif node.kind is FileKind.SYMLINK:
        fs.readlink(node)
    else:
        digest(fs, node)


@pytest.mark.root
@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize(
    ("field", "message"), [("uuid", "another file system"), ("place", "another place"), ("owner", "another inode")]
)
def test_a_block_that_was_written_for_something_else(old_image: Path, what: str, field: str, message: str) -> None:
    """With the right checksum, as a write that went to a wrong place has it."""
    where, path, size = DAMAGE[what]
    at = byte_of(old_image, *where)
    blocks = HostFile.open(str(old_image))
    block = bytearray(read(blocks, at, size))
    header = {b"XSLM": described.REMOTE, b"XARM": described.REMOTE, b"BMA3": described.EXTENT_TREE, b"XD": described.DIRECTORY}
    layout = header.get(bytes(block[:4]), header.get(bytes(block[:2]), described.ATTRIBUTES))
    block[getattr(layout, field) + 7] ^= 1
    sealed(block, 0, len(block), layout.checksum)
    fs = open_filesystem(Changed(blocks, {at: bytes(block)}), SIGNATURE)
    with pytest.raises(Corrupt, match=message) as raised:
        _read_all_of(fs, path)
    assert raised.value.offset == at
    blocks.close()


@pytest.mark.root
def test_a_damaged_inode_and_a_damaged_superblock(old_image: Path) -> None:
    blocks = HostFile.open(str(old_image))
    with opened(old_image) as sound:
        names = {entry.name for entry in sound.scan(sound.root)}
        at = sound._sb.inode_at(resolve(sound, "holes").inode)
        capacity = sound.capacity()
    fs = open_filesystem(Changed(blocks, {at + 90: b"\x01"}), SIGNATURE)
    found = dict(fs.scan(fs.root))
    assert found.keys() == names
    assert [name for name, node in found.items() if node.reason] == ["holes"] and found["holes"].reason == "damaged"
    with pytest.raises(Corrupt, match="checksum") as raised:
        fs.open(found["holes"])
    assert raised.value.offset == at
    fs = open_filesystem(Changed(blocks, {150: b"\xff\xff"}), SIGNATURE)
    assert {entry.name for entry in fs.scan(fs.root)} == names and fs.capacity().total == capacity.total
    groups = fs._sb.ag_count
    copies = {group * fs._sb.ag_blocks * 1024 + 150: b"\xff\xff" for group in range(groups)}
    with pytest.raises(Corrupt, match="copies is wrong"):
        open_filesystem(Changed(blocks, copies), SIGNATURE)
    with pytest.raises(Corrupt, match="past the end of its volume"):
        open_filesystem(Slice(blocks, 0, 16384), SIGNATURE)
    blocks.close()


@pytest.fixture(scope="session")
def many_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60,000 names whose own extents are a tree, and names that break things."""
    need_root()
    need("mkfs.xfs", "mount")
    image = made(tmp_path_factory.mktemp("many") / "many.img", 320 * MIB, "-q", "-b", "size=1024")
    with mounted(image, "rw") as top:
        folder = os.fsencode(top)
        for name in (b"new\nline", b"\xff\xfe not UTF-8", b"n" * 255, "é".encode() * 127, b" ", b"...", b"-rf", b"\\"):
            with open(folder + b"/" + name, "wb") as file:
                file.write(name)
        os.mkdir(folder + b"/many")
        for index in range(MANY):
            if index % 100 == 0:
                open(b"%s/many/%d" % (folder, index), "wb").close()
                with (top / "between").open("ab") as file:  # so that the folder's blocks are no neighbours
                    file.write(bytes(1024))
                    os.fsync(file.fileno())
            else:
                os.link(b"%s/many/%d" % (folder, index // 100 * 100), b"%s/many/%d" % (folder, index))
    return image


@pytest.mark.root
def test_names(many_image: Path) -> None:
    assert "core.format = 3" in run("xfs_db", "-r", "-c", "path /many", "-c", "print core.format", many_image)
    with opened(many_image) as fs, mounted(many_image, RAW) as top:
        many = fs.lookup(fs.root, "many")
        with os.scandir(top / "many") as found:
            assert {(entry.name, entry.inode()) for entry in found} == {(name, node.inode) for name, node in fs.scan(many)}
        for name in os.listdir(top):
            node = fs.lookup(fs.root, name)
            if node.kind is FileKind.FILE and name != "between":
                assert read(fs.open(node), 0, node.size) == os.fsencode(name)


@pytest.mark.root
def test_lookup_in_a_large_folder_reads_it_once(many_image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(many_image) as fs:
        listings = []
        inner = fs._folders._listing
        monkeypatch.setattr(fs._folders, "_listing", lambda node: listings.append(node.inode) or inner(node))
        many = fs.lookup(fs.root, "many")
        for index in random.Random(3).sample(range(MANY), 300):
            assert fs.lookup(many, str(index)).kind is FileKind.FILE
        with pytest.raises(NotFound):
            fs.lookup(many, "absent")
        assert listings == [fs.root.inode, many.inode]


@pytest.mark.root
def test_inode_numbers_wider_than_32_bits(tmp_path: Path) -> None:
    """In a sparse volume of 9 TiB, in the folders' short form too."""
    need_root()
    need("mkfs.xfs")
    image = made(tmp_path / "wide.img", 9 << 40, "-q", "-d", "agcount=10", "-l", "size=64m")
    with mounted(image, "rw,inode64") as top:
        for index in range(12):
            (top / f"folder{index}").mkdir()
            (top / f"folder{index}" / "file").write_text(str(index))
            os.link(top / f"folder{index}" / "file", top / "folder0" / f"link{index}")
    with mounted(image, RAW) as top, opened(image) as fs:
        tree = tree_of(top)
        assert max(want.inode for want in tree.values()) > 1 << 32
        check_filesystem(fs, tree)


@pytest.mark.root
def test_parent_pointers_and_exchanged_ranges(tmp_path: Path) -> None:
    """Features that newer programs switch on: here by hand, and the kernel keeps parent pointers from then on."""
    need_root()
    need("mkfs.xfs")
    image = made(tmp_path / "parent.img", 320 * MIB, "-q")
    with image.open("r+b") as file:
        sector = bytearray(file.read(512))
        sector[219] |= 0xC0
        sealed(sector, 0, 512, 224)
        file.seek(0)
        file.write(sector)
    try:
        with mounted(image, "rw") as top:
            fill(top)
    except AssertionError:
        pytest.skip("this kernel keeps no parent pointers")
    with mounted(image, RAW) as top, opened(image) as fs:
        check_filesystem(fs, tree_of(top))


@pytest.mark.root
@pytest.mark.parametrize("options", [(), ("-b", "size=1024", "-l", "su=32k"), ("-s", "size=4096")])
def test_what_is_told_of_the_log(tmp_path: Path, options: tuple[str, ...]) -> None:
    """As xfs_logprint has it: when it is new, after a shutdown, after a replay, and after it went round."""
    need_root()
    need("mkfs.xfs", "xfs_io", "xfs_logprint", "fsfreeze")
    image = made(tmp_path / "log.img", 100 * MIB, *SMALL, "-l", "size=6m", *options)
    assert dirty(image) is None and "<CLEAN>" in run("xfs_logprint", "-t", image)
    with mounted(image, "rw") as top:
        (top / "file").write_text("x")
        run("xfs_io", "-x", "-c", "shutdown -f", top)
    assert dirty(image) == "log not replayed" and "<DIRTY>" in run("xfs_logprint", "-t", image)
    with mounted(image, "rw"):
        pass
    assert dirty(image) is None and "<CLEAN>" in run("xfs_logprint", "-t", image)
    with mounted(image, "rw") as top:
        _go_round(top)
        shutil.copy(image, tmp_path / "snapshot.img")
    assert dirty(image) is None and "<CLEAN>" in run("xfs_logprint", "-t", image)
    assert int(re.search(r"Cycle\s+0x(\w+)", run("xfs_logprint", "-d", image))[1], 16) > 1  # type: ignore[index]
    assert dirty(tmp_path / "snapshot.img") == "log not replayed"
    with mounted(image, "rw") as top:
        (top / "newest").write_text("written just before")
        with _frozen(top):
            shutil.copy(image, tmp_path / "snapshot.img")
    assert dirty(tmp_path / "snapshot.img") is None  # although its log is not empty: what is there changes the superblock only
    with opened(tmp_path / "snapshot.img") as fs:
        assert read(fs.open(resolve(fs, "newest")), 0, 19) == b"written just before"
    with opened(image) as fs, mounted(image, RAW) as top:
        check_filesystem(fs, tree_of(top))


@contextmanager
def _frozen(top: Path) -> Iterator[None]:
    """As a guest's agent does for a snapshot."""
    run("fsfreeze", "-f", top)
    try:
        yield
    finally:
        run("fsfreeze", "-u", top)


def _go_round(top: Path) -> None:
    """Change enough of metadata for 6 MiB of log to be written more than once."""
    for _ in range(3):
        for index in range(3000):
            (top / f"file{index}").touch()
        os.sync()
        for index in range(10, 3000):
            os.unlink(top / f"file{index}")
        os.sync()


def test_a_log_elsewhere(tmp_path: Path) -> None:
    need("mkfs.xfs")
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.truncate(64 * MIB)
    image = made(tmp_path / "data.img", 320 * MIB, "-q", "-l", f"logdev={log},size=64m")
    assert dirty(image) == "log on another device, not looked at"
    with opened(image) as fs:
        assert list(fs.scan(fs.root)) == [] and fs.capacity().total == 320 * MIB


@pytest.mark.root
def test_through_the_public_interface(tmp_path: Path) -> None:
    """A disk with a partition, by ``open_disks`` and the tree of its volumes."""
    need_root()
    need("mkfs.xfs", "sfdisk")
    part = made(tmp_path / "part.img", 320 * MIB, "-q", "-L", "rocky")
    with mounted(part, "rw") as top:
        (top / "etc").mkdir()
        (top / "etc" / "os-release").write_text("ID=rocky\n")
        (top / "etc" / "target").symlink_to("os-release")
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(323 * MIB)
    run("sfdisk", "-q", disk, stdin="label: gpt\nstart=1MiB, size=320MiB\n")
    run("dd", f"if={part}", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc,sparse")
    with mntapi.open_disks(str(disk)) as disk_set:
        (volume,) = disk_set.volumes
        content = disk_set.content(volume)
        assert content.state is VolumeState.OK and content.signature and content.signature.label == "rocky"
        tree = VolumeTree(disk_set)
        node = resolve(tree, f"{volume.name}/etc/os-release")
        assert read(tree.open(node), 0, node.size) == b"ID=rocky\n"
        assert tree.readlink(resolve(tree, f"{volume.name}/etc/target")) == "os-release"
