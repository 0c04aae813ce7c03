"""btrfs against the kernel's own mount of the same image, and against public samples."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import random
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import mntapi
from contract.btrfs_editor import SUPERBLOCKS, Changed, edited, spoiled
from contract.filesystem_contract import Want, check_filesystem, digest, resolve, tree_of, walk
from contract.mounting import mounted, need, need_root, run
from mntapi.blocks import Fault, HostFile, read
from mntapi.errors import Corrupt, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.filesystems.btrfs.filesystem import BtrfsFileSystem
from mntapi.filesystems.readers import open_filesystem
from mntapi.types import Blocks, Extent, ExtentKind, FileKind, Signature, Usage

SAMPLES = Path(__file__).parents[2].parent / "shared" / "images"
SIGNATURE = Signature("btrfs", Usage.FILESYSTEM)
SIZE = 256 << 20
MANY = 100_000
_FICLONERANGE = 0x4020940D
_PUNCH = "--punch-hole"


def open_btrfs(blocks: Blocks) -> BtrfsFileSystem:
    fs = open_filesystem(blocks, SIGNATURE)
    assert isinstance(fs, BtrfsFileSystem)
    return fs


@contextmanager
def opened(image: Path) -> Iterator[BtrfsFileSystem]:
    blocks = HostFile.open(str(image))
    fs = open_btrfs(blocks)
    try:
        yield fs
    finally:
        fs.close()
        fs.close()
        blocks.close()


def make(image: Path, *options: str | Path, size: int = SIZE) -> Path:
    with image.open("wb") as file:
        file.truncate(size)
    run("mkfs.btrfs", "-q", "-f", *options, image)
    return image


def fill(top: Path) -> None:
    """Files of every kind that btrfs knows, through the kernel."""
    (top / "hello.txt").write_text("hello\n")
    (top / "empty").touch()
    (top / "a" / "b" / "c").mkdir(parents=True)
    (top / "a" / "b" / "c" / "deep").write_bytes(random.Random(1).randbytes(70_001))
    for length in (1, 100, 3900):
        os.symlink("t" * min(length, 255) + "/t" * ((length - 255) // 2), top / f"link{length}")
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(top / "socket"))
    os.mknod(top / "char", 0o20600, os.makedev(10, 200))
    os.mknod(top / "char-large", 0o20600, os.makedev(300, 70_000))
    os.mknod(top / "block", 0o60640, os.makedev(8, 17))
    os.link(top / "hello.txt", top / "a" / "hard")
    os.chmod(top / "empty", 0o4711)
    os.chown(top / "empty", 70_000, 80_000)
    (top / "large-folder").mkdir()
    for index in range(1500):
        (top / "large-folder" / f"a rather long name, so that nodes fill up {index}").touch()
    _fill_contents(top)
    _fill_extents(top)
    _fill_attributes(top)


def text(size: int) -> bytes:
    """Something that can be packed, and is not the same everywhere."""
    return b"".join(b"line %d of a text, %d\n" % (number, number * number % 977) for number in range(size // 20))[:size]


def _fill_contents(top: Path) -> None:
    for size in (1, 10, 2000, 2048, 2049, 3900, 4095, 4096, 4097, 8191):
        (top / f"text{size}").write_bytes(text(size))
        (top / f"noise{size}").write_bytes(random.Random(size).randbytes(size))
    (top / "long-text").write_bytes(text(3_000_001))
    (top / "zeros").write_bytes(bytes(700_000))
    (top / "noise").write_bytes(random.Random(2).randbytes(1_500_000))
    (top / "mixture").write_bytes(b"".join(text(50_000) + random.Random(n).randbytes(90_000) for n in range(5)))
    for name, seconds in (("future", 5_000_000_000), ("past", -1_000_000_000), ("edge", (1 << 31) - 1)):
        (top / name).touch()
        os.utime(top / name, ns=(seconds * 10**9 + 123_456_789, seconds * 10**9 + 987_654_321))


def _fill_extents(top: Path) -> None:
    """Files whose extents are holes, are shared, are only partly used, or were never written."""
    with (top / "holes").open("wb") as file:
        for at, byte in ((0, b"a"), (1 << 20, b"b"), (2 << 20, b"c")):
            file.seek(at)
            file.write(byte * 5000)
        file.truncate(3 << 20)
    (top / "all-hole").touch()
    os.truncate(top / "all-hole", (5 << 30) + 1)
    with (top / "scattered").open("wb") as file:
        for index in range(0, 1000, 2):
            file.seek(index * 4096)
            file.write(bytes([index % 251 + 1]) * 4096)
    (top / "grown").write_bytes(text(1000))
    os.sync()
    os.truncate(top / "grown", 100_000)
    run("fallocate", "-l", "1M", top / "unwritten")
    with (top / "unwritten").open("r+b") as file:
        file.seek(65536)
        file.write(b"z" * 4096)
    (top / "past-end").write_text("abc")
    run("fallocate", "-n", "-l", "300K", top / "past-end")
    for name in ("long-text", "noise"):
        run("cp", "--reflink=always", top / name, top / f"{name}-copy")
        with (top / f"{name}-part").open("wb") as file, (top / name).open("rb") as source:
            fcntl.ioctl(file, _FICLONERANGE, struct.pack("qQQQ", source.fileno(), 16384, 200_704, 65536))
        with (top / f"{name}-copy").open("r+b") as file:
            for at in (20_480, 300_000, 1_000_001):
                file.seek(at)
                file.write(b"overwritten" * 1000)
                os.fsync(file.fileno())
        run("fallocate", _PUNCH, "-o", "600K", "-l", "100K", top / f"{name}-copy")


def _fill_attributes(top: Path) -> None:
    os.setxattr(top / "hello.txt", "user.short", b"value")
    os.setxattr(top / "hello.txt", "user.empty", b"")
    os.setxattr(top / "hello.txt", "user.long", b"B" * 3000)
    os.setxattr(top / "a", "trusted.t", b"\0\1")
    os.setxattr(top / "empty", "security.selinux", b"system_u:object_r:etc_t:s0\0")
    os.setxattr(top / "holes", "security.capability", bytes.fromhex("0100000202200000000000000000000000000000"))
    os.setxattr(top / "a" / "b", "btrfs.compression", b"zlib")
    for index in range(200):
        os.setxattr(top / "noise1", f"user.{index}", b"%d" % index)
    run("setfacl", "-m", "u:1000:rw,g:70000:r", top / "hello.txt")
    run("setfacl", "-d", "-m", "u:1000:rwx", top / "a")


def map_logical(image: Path, logical: int) -> list[int]:
    """Bytes on the volume of each copy, as btrfs-progs say."""
    need("btrfs-map-logical")
    return [int(place) for place in re.findall(r"physical (\d+)", run("btrfs-map-logical", "-l", str(logical), image))]


def superblock_says(image: Path, key: str) -> str:
    said = re.search(rf"^{re.escape(key)}\s+(.*)$", run("btrfs", "inspect-internal", "dump-super", image), re.MULTILINE)
    assert said is not None
    return said[1]


LAYOUTS = {
    "default": ((), "rw"),
    "mixed": (("-M", "-n", "4096"), "rw,compress=zstd"),
    "old": (("-O", "^no-holes,^skinny-metadata,^extref", "-R", "^free-space-tree", "-m", "single"), "rw"),
    "large-nodes-xxhash": (("-n", "65536", "--csum", "xxhash"), "rw,compress=zlib"),
    "dup-data-sha256": (("-d", "dup", "--csum", "sha256"), "rw,compress-force=lzo"),
    "small-nodes-blake2": (("-n", "4096", "--csum", "blake2"), "rw,compress-force=zlib"),
    "zstd": ((), "rw,compress-force=zstd:9"),
    "lzo": (("-n", "32768"), "rw,compress=lzo,max_inline=0"),
    "no-checksums": ((), "rw,nodatasum"),
}


@pytest.fixture(scope="session", params=LAYOUTS)
def btrfs_image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_root()
    need("mkfs.btrfs", "mount", "setfacl", "fallocate")
    options, mount_options = LAYOUTS[request.param]
    image = make(tmp_path_factory.mktemp("btrfs") / f"{request.param}.img", *options)
    with mounted(image, mount_options) as top:
        fill(top)
    return image


@pytest.mark.root
def test_against_the_kernel(btrfs_image: Path) -> None:
    with mounted(btrfs_image) as top, opened(btrfs_image) as fs:
        check_filesystem(fs, tree_of(top), lookups=100)
        root = os.lstat(top)
        assert (fs.root.mode, fs.root.mtime_ns, fs.root.links, fs.root.inode) == (0o755, root.st_mtime_ns, 1, root.st_ino)
        assert fs.capacity().total == SIZE
        assert fs.capacity().block_size == os.statvfs(top).f_bsize
        assert resolve(fs, "hello.txt").birthtime_ns == _birth(top / "hello.txt")


def _birth(path: Path) -> int:
    """statx(2)'s time of birth, by stat(1): Python does not tell it on Linux."""
    need("date")
    said = run("stat", "-c", "%w", path).strip()
    return int(run("date", "-d", said, "+%s%N"))


COMPRESSED = {"mixed": "zstd", "zstd": "zstd", "lzo": "lzo", "large-nodes-xxhash": "zlib", "dup-data-sha256": "lzo"}


@pytest.mark.root
def test_the_kernel_did_pack(btrfs_image: Path) -> None:
    """That the samples hold what they are there for."""
    said = run("btrfs", "inspect-internal", "dump-tree", "-t", "5", btrfs_image)
    kind = COMPRESSED.get(btrfs_image.stem)
    if kind is not None:
        assert said.count(f"extent compression 1 ({kind})".replace("1", {"zlib": "1", "lzo": "2", "zstd": "3"}[kind])) > 20
    assert "(prealloc)" in said and "(inline)" in said
    assert ("disk byte 0 nr 0" in said) is (btrfs_image.stem == "old")


@pytest.mark.root
def test_never_written_bytes_are_zero_extents(btrfs_image: Path) -> None:
    with opened(btrfs_image) as fs:
        content = fs.open(resolve(fs, "all-hole"))
        assert list(content.extents(0, content.size)) == [Extent(0, (5 << 30) + 1, ExtentKind.ZERO)]
        content = fs.open(resolve(fs, "unwritten"))
        data = [extent for extent in content.extents(0, content.size) if extent.kind is ExtentKind.DATA]
        assert data == [Extent(65536, 4096, ExtentKind.DATA)]
        content = fs.open(resolve(fs, "scattered"))
        assert len(list(content.extents(0, content.size))) == 999


@pytest.mark.root
def test_damaged_data_is_an_error_with_its_place_or_read_from_the_copy(btrfs_image: Path) -> None:
    """One byte of one sector: read again from the copy (profile DUP), else that sector alone cannot be read."""
    with mounted(btrfs_image) as top:
        expected = (top / "noise").read_bytes()
    blocks = HostFile.open(str(btrfs_image))
    places = list(_find(blocks, expected[500_000:500_100]))
    assert len(places) == (2 if btrfs_image.stem == "dup-data-sha256" else 1)
    at = places[0]
    fs = open_btrfs(spoiled(blocks, (at, b"\0\0")))
    content = fs.open(resolve(fs, "noise"))
    if btrfs_image.stem == "no-checksums":
        assert read(content, 0, content.size) == expected[:500_000] + b"\0\0" + expected[500_002:]
    elif len(places) == 2:
        assert read(content, 0, content.size) == expected
    else:
        start = 500_000 - 500_000 % 4096
        with pytest.raises(Corrupt, match="the checksum of data is wrong") as raised:
            read(content, 500_010, 3)
        assert raised.value.offset == at - 500_000 % 4096
        assert raised.value.reason == "checksum"
        assert read(content, 0, start) == expected[:start]
        assert read(content, start + 4096, content.size - start - 4096) == expected[start + 4096 :]
    blocks.close()


@pytest.mark.root
def test_a_bad_sector_costs_its_block_or_nothing(btrfs_image: Path) -> None:
    with mounted(btrfs_image) as top:
        expected = (top / "noise").read_bytes()
    blocks = HostFile.open(str(btrfs_image))
    places = list(_find(blocks, expected[500_000:500_100]))
    at = places[0] // 512 * 512
    fs = open_btrfs(Fault(blocks, bad=[(at, 512)]))
    content = fs.open(resolve(fs, "noise"))
    start = 500_000 - 500_000 % 4096
    if len(places) == 2:
        assert read(content, 0, content.size) == expected
    else:
        with pytest.raises(ReadFailed) as raised:
            read(content, 0, content.size)
        assert raised.value.offset is not None and at <= raised.value.offset < at + 512
        assert read(content, 0, start) == expected[:start]
        assert read(content, start + 4096, content.size - start - 4096) == expected[start + 4096 :]
    blocks.close()


@pytest.mark.root
def test_damaged_metadata_is_read_from_the_copy(btrfs_image: Path) -> None:
    """The root of the top-level subvolume, in each copy."""
    said = run("btrfs", "inspect-internal", "dump-tree", "-t", "5", btrfs_image)
    found = re.search(r"^(?:node|leaf) (\d+) level (\d+)", said, re.MULTILINE)
    assert found is not None
    places = map_logical(btrfs_image, int(found[1]))
    blocks = HostFile.open(str(btrfs_image))
    with opened(btrfs_image) as fs:
        names = [entry.name for entry in fs.scan(fs.root)]
    assert len(places) == (1 if btrfs_image.stem in ("old", "mixed") else 2)
    for place in places:
        for volume in (spoiled(blocks, (place + 200, b"spoiled")), Fault(blocks, bad=[(place + 512, 512)])):
            if len(places) == 2:
                fs = open_btrfs(volume)
                assert [entry.name for entry in fs.scan(fs.root)] == names
            else:
                with pytest.raises((Corrupt, ReadFailed)) as raised:
                    open_btrfs(volume)
                assert raised.value.offset is not None and place <= raised.value.offset <= place + 512
    with pytest.raises(Corrupt, match="the checksum of a tree node is wrong") as raised:
        open_btrfs(spoiled(blocks, *((place + 200, b"spoiled") for place in places)))
    assert raised.value.offset == places[0]
    blocks.close()


@pytest.mark.root
def test_a_copy_that_missed_a_write(subvolumes_image: Path) -> None:
    """Its checksum is right, and its generation is not what its parent says."""
    places = map_logical(subvolumes_image, int(superblock_says(subvolumes_image, "root")))
    assert len(places) == 2
    blocks = HostFile.open(str(subvolumes_image))
    wanted = walk(open_btrfs(blocks))
    (generation,) = struct.unpack("<Q", read(blocks, places[0] + 80, 8))
    stale = struct.pack("<Q", generation - 1)
    assert walk(open_btrfs(edited(blocks, (places[0] + 80, stale)))) == wanted
    with pytest.raises(Corrupt, match="wrong generation") as raised:
        open_btrfs(edited(blocks, *((place + 80, stale) for place in places)))
    assert raised.value.offset == places[0]
    blocks.close()


def _find(blocks: Blocks, needle: bytes) -> Iterator[int]:
    for extent in blocks.extents(0, blocks.size):
        if extent.kind is ExtentKind.DATA:
            piece = read(blocks, extent.offset, extent.length)
            at = piece.find(needle)
            while at >= 0:
                yield extent.offset + at
                at = piece.find(needle, at + 1)


@pytest.fixture(scope="session")
def subvolumes_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Ubuntu, SUSE and their users have them: nested, with snapshots of both kinds, and one that was deleted."""
    need_root()
    need("mkfs.btrfs", "btrfs", "mount")
    image = make(tmp_path_factory.mktemp("subvolumes") / "subvolumes.img")
    with mounted(image, "rw") as top:
        for path in ("@", "@home", "@/.snapshots", "gone"):
            run("btrfs", "subvolume", "create", top / path)
        (top / "@" / "etc").mkdir()
        (top / "@" / "etc" / "hostname").write_text("box\n")
        (top / "@" / "var" / "lib").mkdir(parents=True)
        run("btrfs", "subvolume", "create", top / "@" / "var" / "lib" / "machines")
        (top / "@" / "var" / "lib" / "machines" / "m").write_text("in a nested one\n")
        (top / "plain").mkdir()
        (top / "@home" / "ann").mkdir()
        for number in (1, 2):
            (top / "@" / ".snapshots" / str(number)).mkdir()
            run(
                "btrfs",
                "subvolume",
                "snapshot",
                *(["-r"] if number == 1 else []),
                top / "@",
                top / f"@/.snapshots/{number}/snapshot",
            )
            (top / "@" / "etc" / "hostname").write_text(f"box{number}\n")
        run("btrfs", "subvolume", "snapshot", top / "@home", top / "plain" / "home copy")
        run("btrfs", "subvolume", "delete", "-c", top / "gone")
        run("btrfs", "subvolume", "set-default", top / "@" / ".snapshots" / "2" / "snapshot")
    return image


@contextmanager
def mounted_top(image: Path) -> Iterator[Path]:
    with mounted(image, "ro,subvolid=5") as top:
        yield top


@pytest.mark.root
def test_subvolumes_are_folders(subvolumes_image: Path) -> None:
    """A snapshot's own nested subvolumes are empty folders in it: the kernel gives those the time of the mount."""
    with mounted_top(subvolumes_image) as top, opened(subvolumes_image) as fs:
        oracle = tree_of(top, skip=frozenset({"inode"}))
        empty = {path for path in oracle if os.lstat(top / path).st_ino == 2}
        assert len(empty) == 4
        for path in empty:
            oracle[path] = replace(oracle[path], mtime_ns=0, ctime_ns=0)
        check_filesystem(fs, oracle)
        found = walk(fs)
        assert len({node.inode for node in found.values()}) == len(found)
        assert all(node.inode < 1 << 46 for node in found.values())
        assert all(node.inode < 1 << 20 for path, node in found.items() if path not in empty)  # others need the upper bits
        assert all(fs.xattrs(node) == {} for node in found.values())
        with opened(subvolumes_image) as again:
            assert walk(again) == found


@pytest.mark.root
def test_subvolumes_are_listed_as_btrfs_progs_list_them(subvolumes_image: Path) -> None:
    with mounted_top(subvolumes_image) as top, opened(subvolumes_image) as fs:
        said = run("btrfs", "subvolume", "list", "-p", "-u", "-q", "-R", top)
        form = r"ID (\d+) gen (\d+) parent (\d+) top level \d+ parent_uuid (\S+)\s+received_uuid (\S+)\s+uuid (\S+)\s+path (.*)"
        listed = re.findall(form, said)
        ours = [one for one in fs.subvolumes() if one.id != 5]
        assert [
            (
                str(one.id),
                str(one.generation),
                str(one.parent),
                str(one.parent_uuid or "-"),
                str(one.received_uuid or "-"),
                str(one.uuid),
                one.path,
            )
            for one in ours
        ] == sorted(listed, key=lambda fields: int(fields[0]))
        assert len(ours) == 7
        read_only = {line.split(" path ")[1] for line in run("btrfs", "subvolume", "list", "-r", top).splitlines()}
        assert {one.path for one in ours if one.is_read_only} == read_only == {"@/.snapshots/1/snapshot"}
        for one in ours:
            shown = run("btrfs", "subvolume", "show", top / str(one.path))
            created = re.search(r"Creation time:\s+(.*)", shown)
            assert created is not None and one.created_ns is not None
            assert one.created_ns // 10**9 == int(run("date", "-d", created[1], "+%s"))
            assert one.path is not None and fs.subvolume_root(one.id) == resolve(fs, one.path)
        default = re.search(r"ID (\d+) ", run("btrfs", "subvolume", "get-default", top))
        assert default is not None and fs.default_subvolume == int(default[1])
        assert (fs.subvolumes()[0].path, fs.subvolumes()[0].id, fs.subvolume_root(5)) == ("", 5, fs.root)
        with pytest.raises(NotFound, match="no subvolume 999"):
            fs.subvolume_root(999)


@pytest.fixture(scope="session")
def names_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names that break things, and a folder of 100,000."""
    need_root()
    need("mkfs.btrfs", "mount")
    image = make(tmp_path_factory.mktemp("btrfs-names") / "names.img")
    with mounted(image, "rw") as top:
        folder = os.fsencode(top)
        names = (b"new\nline", b"\xff\xfe not UTF-8", b"n" * 255, "é".encode() * 127, b"\x01\x7f", b" ", b"...", b"-rf", b"*")
        for name in (*names, b"\\"):
            with open(folder + b"/" + name, "wb") as file:
                file.write(name)
        os.mkdir(folder + b"/many")
        first = folder + b"/many/0"
        open(first, "wb").close()
        links = 60_000
        for index in range(1, MANY):
            if index % links == 0:
                first = b"%s/many/%d" % (folder, index)
                open(first, "wb").close()
            else:
                os.link(first, b"%s/many/%d" % (folder, index))
    return image


@pytest.mark.root
def test_names(names_image: Path) -> None:
    with opened(names_image) as fs, mounted(names_image) as top:
        many = fs.lookup(fs.root, "many")
        assert sorted(entry.name for entry in fs.scan(many)) == sorted(os.listdir(top / "many"))
        for name in os.listdir(top):
            node = fs.lookup(fs.root, name)
            if node.kind is FileKind.FILE:
                assert read(fs.open(node), 0, node.size) == os.fsencode(name)
        for index in random.Random(3).sample(range(MANY), 500):
            assert fs.lookup(many, str(index)).links > 30_000


@pytest.mark.root
def test_through_the_public_interface(subvolumes_image: Path) -> None:
    with mntapi.open_disks(str(subvolumes_image)) as disk_set:
        (volume,) = disk_set.volumes
        signature = disk_set.content(volume).signature
        assert signature is not None and (signature.kind, signature.dirty) == ("btrfs", None)
        assert disk_set.content(volume).state == "ok"
        tree = mntapi.VolumeTree(disk_set)
        node = mntapi.resolve(tree, f"/{volume.name}/@/.snapshots/1/snapshot/etc/hostname")
        assert mntapi.read(tree.open(node), 0, node.size) == b"box\n"
        assert tree.node(node.inode) == node


def test_files_put_there_by_mkfs_with_large_sectors(tmp_path: Path) -> None:
    """This kernel mounts no sectors larger than its pages."""
    need("mkfs.btrfs")
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "folder" / "file").write_bytes(text(200_001))
    (source / "small").write_bytes(b"small")
    (source / "link").symlink_to("folder/file")
    image = make(tmp_path / "image", "-s", "16384", "-n", "32768", "--rootdir", source)
    oracle = tree_of(source, skip=frozenset({"inode", "allocated", "ctime_ns", "mtime_ns", "links"}), xattrs=False)
    with opened(image) as fs:
        check_filesystem(fs, oracle)


def test_public_samples(tmp_path: Path) -> None:
    packed = SAMPLES / "syzkaller" / "btrfs_20.img.gz"
    if not packed.exists():
        pytest.skip("no ../shared/images")
    (tmp_path / "image").write_bytes(gzip.decompress(packed.read_bytes()))
    seed = Want(FileKind.FILE, 1050, "3c6ee728bbfd")
    with opened(tmp_path / "image") as fs:
        found = walk(fs)
        assert found["file0/file0"].size == seed.size
        assert digest(fs, found["file0/file0"]).startswith(str(seed.sha256))
        for name, content in (("file2", bytes(9000)), ("file3", bytes(9000))):
            assert read(fs.open(found[name]), 0, 9000) == content
        assert (found["file1"].size, found["file.cold"].size) == (10, 100)


# superblocks


@pytest.fixture(scope="session")
def plain_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made without root, its metadata once, its checksums CRC-32C."""
    need("mkfs.btrfs")
    folder = tmp_path_factory.mktemp("plain-btrfs")
    (folder / "source" / "folder").mkdir(parents=True)
    (folder / "source" / "file").write_bytes(text(50_000))
    (folder / "source" / "link").symlink_to("file")
    return make(folder / "image", "-m", "single", "--rootdir", folder / "source")


@pytest.fixture
def plain(plain_image: Path) -> Iterator[Blocks]:
    blocks = HostFile.open(str(plain_image))
    yield blocks
    blocks.close()


def test_the_second_superblock_where_the_first_is_damaged(plain: Blocks) -> None:
    wanted = walk(open_btrfs(plain))
    for damaged in (spoiled(plain, (65536 + 100, b"spoiled")), Fault(plain, bad=[(65536, 512)])):
        assert walk(open_btrfs(damaged)) == wanted
    with pytest.raises(Corrupt, match="the checksum of the superblock is wrong") as raised:
        open_btrfs(spoiled(plain, *((place + 100, b"spoiled") for place in SUPERBLOCKS)))
    assert raised.value.offset == 65536


def test_superblocks_that_are_none(plain: Blocks) -> None:
    for change, message in (
        ((65536 + 64, b"_BHRfS_X"), "no btrfs superblock"),
        ((65536 + 48, b"\0\0\2"), "belongs elsewhere"),
    ):
        with pytest.raises(Corrupt, match=message):
            open_btrfs(Changed(edited(plain, change), {}, size=SUPERBLOCKS[1]))
    with pytest.raises(Corrupt, match="too small"):
        open_btrfs(Changed(plain, {}, size=65536))


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        (196, b"\x04\0", Unsupported, "checksums of kind 4"),
        (188, (0x341 | 0x2000).to_bytes(8, "little"), Unsupported, "feature extent-tree-v2 "),
        (188, (0x341 | 0x1000 | 1 << 40).to_bytes(8, "little"), Unsupported, "feature zoned, 0x10000000000"),
        (188, (0x341 | 0x4000).to_bytes(8, "little"), Unsupported, "feature raid-stripe-tree"),
        (136, b"\0", Corrupt, "no devices"),
        (144, b"\0\x11", Corrupt, "sector size is impossible"),
        (148, b"\0\x08", Corrupt, "node size is impossible"),
        (148, b"\0\0\x02", Corrupt, "node size is impossible"),
        (160, b"\x01\x08", Corrupt, "more than fit"),
        (198, b"\x08", Corrupt, "the root tree is too high"),
        (199, b"\xff", Corrupt, "the chunk tree is too high"),
    ],
)
def test_superblocks_refused(plain: Blocks, field: int, value: bytes, error: type[MntapiError], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        open_btrfs(Changed(edited(plain, (65536 + field, value)), {}, size=SUPERBLOCKS[1]))
    assert raised.value.offset == 65536 + field


def test_features_that_change_nothing(plain: Blocks) -> None:
    """The block group tree, verity and unknown ones for writers; RAID features that are left over; a log tree."""
    changes = (65536 + 180, (0xFF).to_bytes(8, "little")), (65536 + 188, (0x341 | 0x8 | 0x880 | 0x10000).to_bytes(8, "little"))
    assert walk(open_btrfs(edited(plain, *changes))) == walk(open_btrfs(plain))


def test_a_changed_metadata_uuid(plain_image: Path, tmp_path: Path) -> None:
    need("btrfstune")
    copy = tmp_path / "copy"
    run("cp", "--sparse=always", plain_image, copy)
    run("btrfstune", "-m", copy)
    assert superblock_says(copy, "metadata_uuid") != superblock_says(copy, "fsid")
    with opened(copy) as fs, opened(plain_image) as before:
        assert walk(fs).keys() == walk(before).keys()


@pytest.mark.root
def test_a_seed_is_read_and_what_grew_from_it_needs_it(plain_image: Path, tmp_path: Path) -> None:
    need_root()
    need("btrfstune", "losetup")
    seed = tmp_path / "seed"
    run("cp", "--sparse=always", plain_image, seed)
    run("btrfstune", "-f", "-S", "1", seed)
    run("btrfstune", "-f", "-u", seed)
    with opened(seed) as fs, opened(plain_image) as before:
        assert walk(fs).keys() == walk(before).keys()
    sprout = tmp_path / "sprout"
    with sprout.open("wb") as file:
        file.truncate(SIZE)
    device = run("losetup", "--find", "--show", sprout).strip()
    try:
        with mounted(seed) as top:
            run("btrfs", "device", "add", "-f", device, top)
    finally:
        run("losetup", "--detach", device)
    uuid = superblock_says(seed, "dev_item.uuid")
    with pytest.raises(ReadFailed, match=f"device 1 .uuid {uuid}. is missing") as lacking, opened(sprout):
        pass
    assert lacking.value.hint is not None and "seed" in lacking.value.hint


@pytest.mark.root
def test_a_log_tree_is_replayed(tmp_path: Path) -> None:
    """The image of a running machine: a file that was synced by itself is in the log tree only."""
    need_root()
    need("mkfs.btrfs", "mount")
    image, copy = make(tmp_path / "image"), tmp_path / "copy"
    with mounted(image, "rw,commit=3000") as top:
        (top / "committed").write_bytes(b"committed")
        os.sync()
        with (top / "logged").open("wb") as file:
            file.write(b"logged")
            file.flush()
            os.fsync(file.fileno())
        run("cp", "--sparse=always", image, copy)
    with mntapi.open_disks(str(copy)) as disk_set:
        (volume,) = disk_set.volumes
        content = disk_set.content(volume)
        assert (content.state, content.reason) == ("ok", "journal replayed in memory")
        assert content.signature is not None and content.signature.dirty == "log tree not replayed"
        fs = disk_set.filesystem(volume)
        assert [entry.name for entry in fs.scan(fs.root)] == ["committed", "logged"]
        assert read(fs.open(resolve(fs, "logged")), 0, 6) == b"logged"
    with opened(image) as fs:
        assert walk(fs).keys() == {"committed", "logged"}


@pytest.mark.root
def test_a_file_system_that_was_ext4(tmp_path: Path) -> None:
    """Its chunks lie where ext4 was, and the whole of that is in a file of a subvolume."""
    need_root()
    need("mke2fs", "btrfs-convert", "mount")
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    for number in range(40):
        (source / "folder" / f"file{number}").write_bytes(random.Random(number).randbytes(number * 1500))
    image = tmp_path / "image"
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", source, image, "300M")
    run("btrfs-convert", "--no-progress", image)
    with mounted(image, "ro", kind="btrfs") as top, opened(image) as fs:
        before = resolve(fs, "ext2_saved/image")
        oracle = tree_of(top, skip=frozenset({"inode"}))
        with (top / "ext2_saved" / "image").open("rb") as file:
            assert digest(fs, before) == hashlib.file_digest(file, "sha256").hexdigest()
        check_filesystem(fs, oracle)


@pytest.mark.root
@pytest.mark.parametrize("options", ["compress=zstd", "compress-force=lzo", "autodefrag"])
def test_what_years_of_use_leave_behind(tmp_path: Path, options: str) -> None:
    """Writes, clones, holes and cuts at random, snapshots in between, then a balance: extents used in part, and shared."""
    need_root()
    need("mkfs.btrfs", "btrfs", "mount", "fallocate")
    image = make(tmp_path / "image")
    rng = random.Random(options)
    with mounted(image, f"rw,{options}") as top:
        run("btrfs", "subvolume", "create", top / "live")
        for step in range(250):
            _use(top / "live", rng)
            if step % 50 == 49:
                os.sync()
                run("btrfs", "subvolume", "snapshot", "-r", top / "live", top / f"snapshot{step}")
        run("btrfs", "subvolume", "delete", top / "snapshot99")
        run("btrfs", "balance", "start", "--full-balance", top)
        _use(top / "live", rng)
    with mounted(image) as top, opened(image) as fs:
        check_filesystem(fs, tree_of(top, skip=frozenset({"inode"})), lookups=20)


def _use(folder: Path, rng: random.Random) -> None:
    """One change of one of six files."""
    path = folder / f"file{rng.randrange(6)}"
    path.touch()
    at, length = rng.randrange(0, 800_000), rng.choice((100, 4096, 10_000, 150_000))
    action = rng.choice(("text", "text", "noise", "clone", "hole", "cut", "allocate", "remove"))
    if action == "clone":
        with path.open("r+b") as file, (folder / f"file{rng.randrange(6)}").open("a+b") as source:
            if source.seek(0, os.SEEK_END) >= 200_000 and source.name != file.name:
                start = rng.randrange(0, 20) * 4096
                fcntl.ioctl(file, _FICLONERANGE, struct.pack("qQQQ", source.fileno(), start, 65536, at - at % 4096))
    elif action in ("hole", "allocate"):
        run("fallocate", *(["--punch-hole"] if action == "hole" else []), "-o", str(at), "-l", str(length), path)
    elif action == "cut":
        os.truncate(path, at)
    elif action == "remove" and rng.random() < 0.3:
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(text(length) if action == "text" else rng.randbytes(length))
            if rng.random() < 0.3:
                os.fsync(file.fileno())
