"""ext2, ext3 and ext4 against the kernel's own mount of the same image, and against public samples."""

from __future__ import annotations

import os
import random
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract.filesystem_contract import Want, check_filesystem, digest, resolve, tree_of, walk
from contract.mounting import mounted, need, need_root, run
from mntapi.blocks import Cache, Concat, Fault, HostFile, Slice, read
from mntapi.errors import Corrupt, NotFound, ReadFailed, Unsupported
from mntapi.filesystems.ext import inode_table
from mntapi.filesystems.ext.filesystem import ExtFileSystem
from mntapi.filesystems.readers import open_filesystem
from mntapi.types import Blocks, Extent, ExtentKind, FileKind, Signature, Usage

SAMPLES = Path(__file__).parents[2].parent / "shared" / "images"
SIGNATURE = Signature("ext4", Usage.FILESYSTEM)
MANY = 100_000


@contextmanager
def opened(image: Path) -> Iterator[ExtFileSystem]:
    blocks = HostFile.open(str(image))
    fs = open_filesystem(blocks, SIGNATURE)
    assert isinstance(fs, ExtFileSystem)
    try:
        yield fs
    finally:
        fs.close()
        fs.close()
        blocks.close()


def fill(top: Path) -> None:
    """Files of every kind that ext knows, through the kernel."""
    (top / "hello.txt").write_text("hello\n")
    (top / "empty").touch()
    (top / "a" / "b" / "c").mkdir(parents=True)
    (top / "a" / "b" / "c" / "deep").write_bytes(random.Random(1).randbytes(70_001))
    for length in (1, 59, 60, 61, 100, 900):
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
    _fill_contents(top)
    _fill_attributes(top)
    _fill_times(top)


def _fill_contents(top: Path) -> None:
    with (top / "holes").open("wb") as file:
        for at, byte in ((0, b"a"), (1 << 20, b"b"), (2 << 20, b"c")):
            file.seek(at)
            file.write(byte * 5000)
        file.truncate(3 << 20)
    (top / "all-hole").touch()
    os.truncate(top / "all-hole", (5 << 30) + 1)
    with (top / "scattered").open("wb") as file:
        for index in range(0, 1600, 2):
            file.seek(index * 4096)
            file.write(bytes([index % 251 + 1]) * 4096)
    subprocess.run(["fallocate", "-l", "1M", top / "unwritten"], check=False, capture_output=True)
    with (top / "unwritten").open("r+b") as file:
        file.seek(65536)
        file.write(b"z" * 4096)
    (top / "past-end").write_text("abc")
    subprocess.run(["fallocate", "-n", "-l", "300K", top / "past-end"], check=False, capture_output=True)
    for size in (10, 60, 61, 100, 150):
        (top / f"small{size}").write_bytes(random.Random(size).randbytes(size))
    (top / "small-folder").mkdir()
    for index in range(9):
        (top / "small-folder" / f"f{index}").touch()
    (top / "large-folder").mkdir()
    for index in range(1500):
        (top / "large-folder" / f"a rather long name, so that blocks fill up {index}").touch()


def _fill_attributes(top: Path) -> None:
    os.setxattr(top / "hello.txt", "user.short", b"value")
    os.setxattr(top / "hello.txt", "user.empty", b"")
    os.setxattr(top / "hello.txt", "user.long", b"B" * 700)
    os.setxattr(top / "a", "trusted.t", b"\0\1")
    os.setxattr(top / "small100", "user.x", b"y" * 30)
    os.setxattr(top / "empty", "security.selinux", b"system_u:object_r:etc_t:s0\0")
    os.setxattr(top / "holes", "security.capability", bytes.fromhex("0100000202200000000000000000000000000000"))
    run("setfacl", "-m", "u:1000:rw,g:70000:r", top / "hello.txt")
    run("setfacl", "-d", "-m", "u:1000:rwx", top / "a")


def _fill_times(top: Path) -> None:
    for name, seconds in (("future", 5_000_000_000), ("past", -1_000_000_000), ("edge", (1 << 31) - 1)):
        (top / name).touch()
        os.utime(top / name, ns=(seconds * 10**9 + 123_456_789, seconds * 10**9 + 987_654_321))


LAYOUTS = {
    "ext2-1k": ("-t", "ext2", "-b", "1024"),
    "ext3-4k": ("-t", "ext3", "-b", "4096", "-I", "128"),
    "ext4": ("-t", "ext4", "-O", "inline_data", "-I", "256"),
    "ext4-1k-plain": ("-t", "ext4", "-b", "1024", "-O", "^64bit,^flex_bg,^metadata_csum,^dir_index,^filetype"),
    "ext4-meta-bg": ("-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,64bit,^resize_inode,ea_inode"),
    "ext4-bigalloc": ("-t", "ext4", "-O", "bigalloc", "-C", "16384"),
    "ext4-sparse-super2": ("-t", "ext4", "-O", "sparse_super2,meta_bg,^resize_inode,large_dir,inline_data", "-b", "2048"),
    "ext4-inode-1024": ("-t", "ext4", "-O", "inline_data,ea_inode", "-I", "1024"),
}


@pytest.fixture(scope="session", params=LAYOUTS)
def ext_image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_root()
    need("mkfs.ext4", "mount", "setfacl")
    image = tmp_path_factory.mktemp("ext") / f"{request.param}.img"
    with image.open("wb") as file:
        file.truncate(48 << 20)
    run("mke2fs", "-q", "-F", *LAYOUTS[request.param], image)
    with mounted(image, "rw,user_xattr,acl") as top:
        fill(top)
        if "ea_inode" in " ".join(LAYOUTS[request.param]):
            os.setxattr(top / "past-end", "user.own-inode", random.Random(2).randbytes(20_000))
    return image


@pytest.mark.root
def test_against_the_kernel(ext_image: Path) -> None:
    with mounted(ext_image) as top, opened(ext_image) as fs:
        oracle = tree_of(top)
        whole = os.statvfs(top)
        check_filesystem(fs, oracle)
        assert fs.capacity().inodes == whole.f_files
        assert fs.capacity().inodes_free == whole.f_ffree
        assert fs.capacity().free == whole.f_bfree * whole.f_frsize
        root = os.lstat(top)
        assert (fs.root.mode, fs.root.mtime_ns, fs.root.links) == (root.st_mode & 0o7777, root.st_mtime_ns, root.st_nlink)


@pytest.mark.root
def test_never_written_blocks_are_zero_extents(ext_image: Path) -> None:
    with opened(ext_image) as fs:
        content = fs.open(resolve(fs, "all-hole"))
        assert list(content.extents(0, content.size)) == [Extent(0, (5 << 30) + 1, ExtentKind.ZERO)]
        content = fs.open(resolve(fs, "unwritten"))
        data = [extent for extent in content.extents(0, content.size) if extent.kind is ExtentKind.DATA]
        assert data == [Extent(65536, 4096, ExtentKind.DATA)] or "ext4" not in ext_image.name
        content = fs.open(resolve(fs, "scattered"))
        assert len(list(content.extents(0, content.size))) >= 1599


@pytest.mark.root
def test_a_bad_sector_costs_one_read(ext_image: Path) -> None:
    """In a file: that read fails, with the byte on the volume. In an inode table: its entries carry a reason."""
    with mounted(ext_image) as top:
        expected = (top / "a/b/c/deep").read_bytes()
    blocks = HostFile.open(str(ext_image))
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
    assert fs.readlink(resolve(fs, "link100")) == "t" * 100
    blocks.close()


@pytest.mark.root
def test_an_unreadable_inode_is_listed(ext_image: Path) -> None:
    blocks = HostFile.open(str(ext_image))
    with opened(ext_image) as fs:
        victim = resolve(fs, "holes")
        at = fs._inodes.at(victim.inode) // 512 * 512
        names = {entry.name for entry in fs.scan(fs.root)}
    broken = open_filesystem(Fault(blocks, bad=[(at, 512)]), SIGNATURE)
    found = dict(broken.scan(broken.root))
    assert found.keys() == names
    assert found["holes"].reason == "unreadable"
    assert broken.lookup(broken.root, "holes") == found["holes"]
    with pytest.raises(ReadFailed) as raised:
        broken.open(found["holes"])
    assert raised.value.offset is not None and at <= raised.value.offset < at + 512
    blocks.close()


def _find(blocks: Blocks, needle: bytes) -> int:
    for offset in range(0, blocks.size - len(needle), 1 << 20):
        piece = read(blocks, offset, min((1 << 20) + len(needle), blocks.size - offset))
        if needle in piece:
            return offset + piece.index(needle)
    raise AssertionError("the bytes are not in the image")


@pytest.fixture(scope="session")
def names_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names that break things, and a folder of 100,000."""
    need_root()
    need("mkfs.ext4", "mount")
    image = tmp_path_factory.mktemp("names") / "names.img"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-N", "2000", image)
    with mounted(image, "rw") as top:
        folder = os.fsencode(top)
        for name in (
            b"new\nline",
            b"\xff\xfe not UTF-8",
            b"n" * 255,
            "é".encode() * 127,
            b"\x01\x7f",
            b" ",
            b"...",
            b"-rf",
            b"*",
            b"\\",
        ):
            with open(folder + b"/" + name, "wb") as file:
                file.write(name)
        os.mkdir(folder + b"/many")
        first = folder + b"/many/0"
        open(first, "wb").close()
        links = os.pathconf(top, "PC_LINK_MAX")
        for index in range(1, MANY):
            if index % (links - 1) == 0:
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


@pytest.mark.root
def test_lookup_in_a_large_folder_reads_it_once(names_image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(names_image) as fs:
        listings = []
        inner = fs._folders._listing
        monkeypatch.setattr(fs._folders, "_listing", lambda node: listings.append(node.inode) or inner(node))
        many = fs.lookup(fs.root, "many")
        for index in random.Random(3).sample(range(MANY), 500):
            assert fs.lookup(many, str(index)).kind is FileKind.FILE
        with pytest.raises(NotFound):
            fs.lookup(many, "absent")
        assert listings == [fs.root.inode, many.inode]


def test_a_folder_too_large_to_keep_is_read_through(tmp_path: Path) -> None:
    need("mke2fs")
    source = tmp_path / "source"
    source.mkdir()
    for index in range(40):
        (source / f"f{index}").touch()
    image = tmp_path / "small.img"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-d", source, image, "8M")
    with opened(image) as fs:
        fs._folders._limit = 10
        assert fs.lookup(fs.root, "f39").kind is FileKind.FILE
        with pytest.raises(NotFound):
            fs.lookup(fs.root, "f40")
        assert fs._folders._held == 0


@pytest.mark.root
def test_encrypted_folders_are_named_and_refused(tmp_path: Path) -> None:
    """No key is at hand here, so the flag is set by debugfs: names then are ciphertext as far as anybody can tell."""
    need("mke2fs", "debugfs")
    image = tmp_path / "crypt.img"
    (tmp_path / "source" / "secret").mkdir(parents=True)
    (tmp_path / "source" / "secret" / "inside").write_text("ciphertext")
    (tmp_path / "source" / "link").symlink_to("target")
    run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "encrypt", "-d", tmp_path / "source", image, "8M")
    for path in ("/secret", "/secret/inside", "/link"):
        run("debugfs", "-w", "-R", f"set_inode_field {path} flags 0x80800", image)
    with opened(image) as fs:
        secret, link = fs.lookup(fs.root, "secret"), fs.lookup(fs.root, "link")
        assert (secret.reason, link.reason) == ("fscrypt", "fscrypt")
        (inside,) = fs.scan(secret)
        assert inside.name == "aW5zaWRl"  # base64 of "inside", as coreutils' basenc --base64url says
        assert inside.node.reason == "fscrypt"
        for call in (lambda: fs.open(inside.node), lambda: fs.readlink(link)):
            with pytest.raises(Unsupported) as raised:
                call()
            assert raised.value.reason == "fscrypt"


@pytest.mark.parametrize("ahead", [inode_table.AHEAD, 4096])
def test_a_damaged_folder_block_hides_only_its_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int) -> None:
    need("mke2fs", "debugfs")
    monkeypatch.setattr(inode_table, "AHEAD", ahead)
    source = tmp_path / "source"
    (source / "big").mkdir(parents=True)
    for index in range(300):
        (source / "big" / f"a long name to fill blocks with {index:05}").touch()
    image = tmp_path / "dir.img"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "^dir_index", "-d", source, image, "8M")
    block = int(run("debugfs", "-R", "bmap /big 5", image).split()[-1])
    blocks = HostFile.open(str(image))
    for volume, error in (
        (Fault(blocks, bad=[(block * 1024, 1024)]), ReadFailed),
        (_Zeroed(blocks, block * 1024, 1024), Corrupt),
    ):
        fs = open_filesystem(volume, SIGNATURE)
        big = fs.lookup(fs.root, "big")
        names = []
        with pytest.raises(error):
            for entry in fs.scan(big):
                names.append(entry.name)
        assert 250 < len(names) < 300
        assert fs.lookup(big, names[-1]).kind is FileKind.FILE
        with pytest.raises(error):
            fs.lookup(big, "is it there?")
    blocks.close()


def test_inodes_of_a_large_folder_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("mke2fs")
    monkeypatch.setattr(inode_table, "AHEAD", 16 * 256)
    source = tmp_path / "source"
    source.mkdir()
    sizes = {f"file{index}": index for index in range(100)}
    for name, size in sizes.items():
        (source / name).write_bytes(bytes(size))
    image = tmp_path / "large.img"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-I", "256", "-d", source, image, "8M")
    with opened(image) as fs:
        nodes = dict(fs.scan(fs.root))
        assert {name: node.size for name, node in nodes.items() if name in sizes} == sizes
        at = fs._inodes.at(nodes["file50"].inode) // 512 * 512
        beside = {name for name, node in nodes.items() if at <= fs._inodes.at(node.inode) < at + 512}
        assert len(fs._inodes._together) == 16
        fs.close()
        assert {name: fs.lookup(fs.root, name) for name in nodes} == nodes
        assert not fs._inodes._together, "who wants one name is not made to wait for all inodes"
    blocks = HostFile.open(str(image))
    broken = open_filesystem(Fault(blocks, bad=[(at, 512)]), SIGNATURE)
    found = dict(broken.scan(broken.root))
    assert {name for name, node in found.items() if node.reason} == beside
    assert all(found[name] == nodes[name] for name in nodes.keys() - beside)
    blocks.close()


class _Zeroed(Cache):
    """The volume with a range of it overwritten by zeros."""

    def __init__(self, inner: Blocks, start: int, length: int) -> None:
        super().__init__(inner)
        self._zeroed = range(start, start + length)

    def readinto(self, offset: int, buffer: memoryview) -> None:
        super().readinto(offset, buffer)
        for at in self._zeroed:
            if offset <= at < offset + len(buffer):
                buffer[at - offset] = 0


def test_published_tree_of_a_qcow2_sample() -> None:
    first = SAMPLES / "dfvfs" / "test_data" / "ext2.splitraw.000"
    if not first.exists():
        pytest.skip("no ../shared/images")
    parts = [HostFile.open(str(first)), HostFile.open(str(first.with_suffix(".001")))]
    fs = open_filesystem(Concat(parts), Signature("ext2", Usage.FILESYSTEM))
    assert (
        dict(_published("dfvfs_ext2")).items()
        <= {path: (node.size, node.mtime_ns // 10**9) for path, node in walk(fs).items()}.items()
    )
    assert fs.readlink(resolve(fs, "a_link")) == "a_directory/another_file"
    for part in parts:
        part.close()


def _published(name: str) -> Iterator[tuple[str, tuple[int, int]]]:
    for line in (SAMPLES / "TRUTH" / f"{name}.tsv").read_text().splitlines()[1:]:
        path, kind, size, _, written = line.split("\t")
        if kind in "fl":
            yield path[1:], (int(size), int(written))


def test_published_hashes_of_a_sample(tmp_path: Path) -> None:
    packed = SAMPLES / "ext4-view-rs" / "test_data" / "test_disk_ext2.bin.zst"
    if not packed.exists():
        pytest.skip("no ../shared/images")
    need("zstd")
    run("zstd", "-q", "-d", packed, "-o", tmp_path / "disk")
    truth = {}
    for line in (SAMPLES / "TRUTH" / "ext4-view_ext2.tsv").read_text().splitlines()[1:]:
        path, kind, size, sha256, _ = line.split("\t")
        truth[path[1:]] = Want({"f": FileKind.FILE, "d": FileKind.DIRECTORY}[kind], int(size) if size else None, sha256 or None)
    with opened(tmp_path / "disk") as fs:
        check_filesystem(fs, truth)
        assert len(digest(fs, resolve(fs, "big_file"))) == 64


@pytest.fixture(scope="module")
def plain_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("mke2fs", "debugfs")
    folder = tmp_path_factory.mktemp("plain")
    (folder / "source").mkdir()
    (folder / "source" / "file").write_text("x" * 5000)
    (folder / "source" / "inline").write_text("inline data of more than sixty bytes, so that an attribute holds its end")
    (folder / "source" / "link").symlink_to("t" * 100)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "inline_data,^metadata_csum", "-d", folder / "source", folder / "image", "8M")
    return folder / "image"


def changed(image: Path, tmp_path: Path, *commands: str) -> Path:
    """A copy after some commands of debugfs."""
    copy = tmp_path / "changed.img"
    copy.write_bytes(image.read_bytes())
    for command in commands:
        run("debugfs", "-w", "-R", command, copy)
    return copy


@pytest.mark.parametrize(
    ("command", "path", "message"),
    [
        ("set_inode_field file links_count 0", "file", "not in use"),
        ("set_inode_field file mode 0", "file", "not in use"),
        ("set_inode_field file size 0x8000000000000000", "file", "impossible size"),
        ("set_inode_field inline size 4000", "inline", "inline data ends"),
        ("set_inode_field link size 70000", "link", "target of a symbolic link"),
        ("set_inode_field file block[5] 99999999", "file", "block outside the file system"),
        ("set_inode_field file file_acl 2", "file", "no block of extended attributes"),
        ("set_inode_field file file_acl 99999999", "file", "past the end"),
    ],
)
def test_damage_to_one_inode_stays_there(plain_image: Path, tmp_path: Path, command: str, path: str, message: str) -> None:
    with opened(changed(plain_image, tmp_path, command)) as fs:
        found = dict(fs.scan(fs.root))
        assert found[path].reason in (None, "damaged")
        with pytest.raises(Corrupt, match=message):
            if path == "link":
                fs.readlink(found[path])
            elif "acl" in command:
                fs.xattrs(found[path])
            else:
                content = fs.open(found[path])
                read(content, 0, content.size)
        other = "inline" if path == "file" else "file"
        node = fs.lookup(fs.root, other)
        assert len(read(fs.open(node), 0, node.size)) == node.size


def test_a_value_kept_in_an_inode_must_be_one(plain_image: Path, tmp_path: Path) -> None:
    image = changed(plain_image, tmp_path, "ea_set file user.x yes")
    with opened(image) as fs:
        node = fs.lookup(fs.root, "file")
        assert fs.xattrs(node) == {"user.x": b"yes"}
        with pytest.raises(Corrupt, match="no attribute value"):
            fs._value(node.inode, 3)
        with pytest.raises(Corrupt, match="too long"):
            fs._value(node.inode, 1 << 20)


def test_the_root_must_be_a_folder(plain_image: Path, tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="no folder"), opened(changed(plain_image, tmp_path, "set_inode_field / mode 0100644")):
        pass


def test_inode_tables_outside(plain_image: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(Corrupt, match="inode table outside"),
        opened(changed(plain_image, tmp_path, "set_block_group 0 inode_table 99999999")),
    ):
        pass
    blocks = HostFile.open(str(plain_image))
    with pytest.raises(Corrupt, match="past the end of its volume"):
        open_filesystem(Slice(blocks, 0, 4096), SIGNATURE)
    fs = open_filesystem(blocks, SIGNATURE)
    for number in (0, 1 << 40):
        with pytest.raises(NotFound):
            fs.node(number)
    blocks.close()
