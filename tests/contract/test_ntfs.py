"""NTFS against ntfs-3g's mount of the same image, against public samples, and what no free tool can make patched in by hand."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract.blocks_contract import check_blocks
from contract.filesystem_contract import Want, check_filesystem, resolve, tree_of, walk
from contract.mounting import mounted_ntfs, need, need_root, run
from mntapi.blocks import Fault, HostFile, read
from mntapi.errors import Corrupt, Invalid, NotFound, ReadFailed, Unsupported
from mntapi.filesystems.ntfs.filesystem import NtfsFileSystem
from mntapi.filesystems.readers import open_filesystem
from mntapi.types import Blocks, Extent, ExtentKind, FileKind, Signature, Usage

SAMPLES = Path(__file__).parents[2].parent / "shared" / "images"
SIGNATURE = Signature("ntfs", Usage.FILESYSTEM)
NOT_THE_SAME = frozenset({"mode", "allocated"})
"""ntfs-3g shows everything as 0777, and resident files as taking no space."""
TEXT = b"some text that compresses well, again and again. "
REPARSE = {
    "wof": 0x80000017,
    "dedup": 0x80000013,
    "cloud-placeholder": 0x9000601A,
    "hsm": 0xC0000004,
    "reparse-80001234": 0x80001234,
}


@contextmanager
def opened(image: Path) -> Iterator[NtfsFileSystem]:
    blocks = HostFile.open(str(image))
    fs = open_filesystem(blocks, SIGNATURE)
    assert isinstance(fs, NtfsFileSystem)
    try:
        yield fs
    finally:
        fs.close()
        fs.close()
        blocks.close()


def fill(top: Path) -> None:
    """Files of every kind that ntfs-3g can make."""
    (top / "empty").touch()
    (top / "resident").write_bytes(b"r" * 300)
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "deep").write_bytes(random.Random(1).randbytes(70_001))
    for name in (
        b"new\nline",
        b"\x01\x7f",
        b"n" * 255,
        "é".encode() * 127,
        "emoji \U0001f600".encode(),
        b"lone \xed\xa0\x80x",
        b"q?*:",
    ):
        with open(os.fsencode(top) + b"/" + name, "wb") as file:
            file.write(name)
    (top / "Case").write_text("upper")
    (top / "case").write_text("lower")
    with (top / "holes").open("wb") as file:
        for at, byte in ((0, b"a"), (1 << 20, b"b")):
            file.seek(at)
            file.write(byte * 5000)
        file.truncate(3 << 20)
    (top / "streams").write_text("main")
    os.setxattr(top / "streams", "user.short", b"alternate")
    os.setxattr(top / "streams", "user.long", random.Random(2).randbytes(30_000))
    os.setxattr(top / "a", "user.of a folder", b"yes")
    os.symlink("target/\u4e2d", top / "interix-link")
    for index in range(120):
        os.link(top / "streams", top / "a" / f"a hard link with quite a long name, number {index}")
    (top / "large-folder").mkdir()
    for index in range(1500):
        (top / "large-folder" / f"file number {index}").touch()
    for index in range(0, 1500, 7):
        (top / "large-folder" / f"file number {index}").unlink()
    (top / "times").touch()
    os.utime(top / "times", ns=(1_000_000_000_123_456_700, -1_234_567_890_000_000_000))
    _fill_scattered(top)


def _fill_scattered(top: Path) -> None:
    """Two files grown in turns, so that their runs need several records."""
    with (top / "scattered").open("wb") as one, (top / "other").open("wb") as two:
        for index in range(600):
            for file in (one, two):
                file.write(bytes([index % 251]) * 4096)
                file.flush()


def _fill_compressed(top: Path) -> None:
    folder = top / "compressed"
    folder.mkdir()
    os.setxattr(folder, "system.ntfs_attrib_be", struct.pack(">I", 0x810))
    noise = random.Random(4).randbytes(70_000)
    (folder / "mixed").write_bytes(TEXT * 9000 + noise + bytes(200_000) + b"end")
    (folder / "small").write_bytes(TEXT * 200)
    (folder / "noise").write_bytes(noise)
    (folder / "runs").write_bytes(b"".join(bytes([index]) * (index * 37) for index in range(200)))
    with (folder / "holes").open("wb") as file:
        file.write(TEXT * 3000)
        file.seek(1 << 20)
        file.write(TEXT * 100)
        file.truncate(2 << 20)


def _fill_reparse(top: Path) -> None:
    printed, real = "C:\\some\\target".encode("utf-16-le"), "\\??\\C:\\some\\target".encode("utf-16-le")
    names = struct.pack("<4H", 0, len(real), len(real), len(printed))
    _reparse(top / "symlink", 0xA000000C, names + bytes(4) + real + printed)
    _reparse(top / "no-print-name", 0xA000000C, struct.pack("<4H", 0, len(real), len(real), 0) + bytes(4) + real)
    (top / "junction").mkdir()
    _reparse(top / "junction", 0xA0000003, names + real + printed)
    _reparse(top / "wsl-link", 0xA000001D, struct.pack("<I", 2) + "usr/ü".encode())
    for reason, tag in REPARSE.items():
        (top / reason).write_text("not the contents")
        _reparse(top / reason, tag, bytes(16))


def _reparse(path: Path, tag: int, data: bytes) -> None:
    if not path.exists():
        path.touch()
    os.setxattr(path, "system.ntfs_reparse_data", struct.pack("<IHH", tag, len(data), 0) + data)


def _image(path: Path, *options: str) -> Path:
    need_root()
    need("mkntfs", "ntfs-3g")
    with path.open("wb") as file:
        file.truncate(48 << 20)
    run("mkntfs", "-q", "-F", *options, path)
    return path


LAYOUTS = {"4k": (), "512": ("-c", "512"), "64k": ("-c", "65536"), "4k-sectors": ("-s", "4096")}


@pytest.fixture(scope="session", params=LAYOUTS)
def ntfs_image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = _image(tmp_path_factory.mktemp("ntfs") / "ntfs.img", *LAYOUTS[request.param])
    with mounted_ntfs(image, "rw,streams_interface=xattr") as top:
        fill(top)
    return image


@pytest.fixture(scope="session")
def special_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = _image(tmp_path_factory.mktemp("ntfs-special") / "special.img", "-C")
    with mounted_ntfs(image, "rw,streams_interface=xattr") as top:
        _fill_compressed(top)
        _fill_reparse(top)
        (top / "plain").write_bytes(random.Random(5).randbytes(100_000))
        (top / "read-only").touch()
        os.setxattr(top / "read-only", "system.ntfs_attrib_be", struct.pack(">I", 0x21))
        (top / "system").write_text("an ordinary system file")
        os.setxattr(top / "system", "system.ntfs_attrib_be", struct.pack(">I", 0x24))
        for name, mode, device in (("char", 0o20644, os.makedev(10, 200)), ("block", 0o60644, os.makedev(8, 17))):
            os.mknod(top / name, mode, device)
    return image


@pytest.mark.root
def test_against_ntfs_3g(ntfs_image: Path) -> None:
    with opened(ntfs_image) as fs:
        with mounted_ntfs(ntfs_image, "ro,streams_interface=xattr") as top:
            oracle = tree_of(top, skip=NOT_THE_SAME)
        check_filesystem(fs, oracle, time_unit_ns=100)
        assert fs.capacity().total <= ntfs_image.stat().st_size


@pytest.mark.root
def test_case_is_ignored_where_only_one_name_fits(ntfs_image: Path) -> None:
    with opened(ntfs_image) as fs:
        assert fs.lookup(fs.root, "RESIDENT") == fs.lookup(fs.root, "resident")
        assert fs.lookup(fs.root, "É" * 127) == fs.lookup(fs.root, "é" * 127)
        assert fs.lookup(fs.root, "Case") != fs.lookup(fs.root, "case")
        with pytest.raises(NotFound):
            fs.lookup(fs.root, "CASE")
        fs._folders.clear()
        fs._folders._limit = 3
        assert fs.lookup(fs.root, "RESIDENT") == fs.lookup(fs.root, "resident")
        with pytest.raises(NotFound):
            fs.lookup(fs.root, "CASE")


@pytest.mark.root
def test_compression_against_ntfs_3g(special_image: Path) -> None:
    with mounted_ntfs(special_image, "ro,streams_interface=xattr") as top:
        oracle = tree_of(top / "compressed", skip=NOT_THE_SAME)
    with opened(special_image) as fs:
        folder = fs.lookup(fs.root, "compressed")
        for name, want in oracle.items():
            node = fs.lookup(folder, name)
            assert node.size == want.size
            content = fs.open(node)
            _check_content(content, want)
        assert fs.lookup(folder, "mixed").allocated < fs.lookup(folder, "mixed").size
        extents = list(fs.open(fs.lookup(folder, "holes")).extents(0, 2 << 20))
        assert [extent.kind for extent in extents] == [ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.DATA, ExtentKind.ZERO]


def _check_content(content: Blocks, want: Want) -> None:
    whole = read(content, 0, content.size)
    assert hashlib.sha256(whole).hexdigest() == want.sha256
    check_blocks(content, whole, ranges=40)
    content.close()


@pytest.mark.root
def test_links_and_special_files(special_image: Path) -> None:
    with opened(special_image) as fs:
        targets = {
            "symlink": "C:/some/target",
            "no-print-name": "C:/some/target",
            "junction": "C:/some/target",
            "wsl-link": "usr/ü",
        }
        for name, target in targets.items():
            node = fs.lookup(fs.root, name)
            assert (node.kind, fs.readlink(node), node.size) == (FileKind.SYMLINK, target, len(target.encode())), name
            with pytest.raises(Invalid):
                fs.open(node)
        char, block = fs.lookup(fs.root, "char"), fs.lookup(fs.root, "block")
        assert (char.kind, char.rdev) == (FileKind.CHAR_DEVICE, os.makedev(10, 200))
        assert (block.kind, block.rdev) == (FileKind.BLOCK_DEVICE, os.makedev(8, 17))
        assert fs.lookup(fs.root, "read-only").mode == 0o444
        assert read(fs.open(fs.lookup(fs.root, "system")), 0, 2) == b"an"
        with pytest.raises(Invalid):
            fs.readlink(fs.lookup(fs.root, "plain"))


@pytest.mark.root
def test_special_files_of_windows_own_linux(tmp_path: Path) -> None:
    image = _image(tmp_path / "wsl.img")
    with mounted_ntfs(image, "rw,special_files=wsl") as top:
        os.symlink("a/ü", top / "link")
        os.mkfifo(top / "fifo")
        os.mknod(top / "char", 0o20644, os.makedev(10, 200))
        os.mknod(top / "block", 0o60644, os.makedev(8, 17))
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(top / "socket"))
    with mounted_ntfs(image, "ro,special_files=wsl") as top:
        oracle = tree_of(top, skip=NOT_THE_SAME, xattrs=False)
    with opened(image) as fs:
        check_filesystem(fs, oracle, time_unit_ns=100)


@pytest.mark.root
@pytest.mark.parametrize("reason", REPARSE)
def test_contents_that_are_elsewhere_are_refused(special_image: Path, reason: str) -> None:
    with opened(special_image) as fs:
        node = fs.lookup(fs.root, reason)
        assert (node.kind, node.reason, node.size) == (FileKind.FILE, reason, 16)
        with pytest.raises(Unsupported) as raised:
            fs.open(node)
        assert raised.value.reason == reason


def _patched(image: Path, tmp_path: Path, name: str, kind: int, field: int, value: bytes) -> Path:
    """A copy in which byte ``field`` of the first attribute of type ``kind`` of the root's file ``name`` is ``value``."""
    with opened(image) as fs:
        number = fs.lookup(fs.root, name).inode
        ((_, at),) = fs._mft._table._inner._runs.pieces(number * fs._boot.record_size, fs._boot.record_size)
    raw = bytearray(image.read_bytes())
    offset = at + struct.unpack_from("<H", raw, at + 20)[0]
    while struct.unpack_from("<I", raw, offset)[0] != kind:
        offset += struct.unpack_from("<I", raw, offset + 4)[0]
    if kind == 0x10:
        field += struct.unpack_from("<H", raw, offset + 20)[0]
    raw[offset + field : offset + field + len(value)] = value
    copy = tmp_path / "patched.img"
    copy.write_bytes(raw)
    return copy


@pytest.mark.root
def test_behind_the_initialised_size_are_zeros(special_image: Path, tmp_path: Path) -> None:
    copy = _patched(special_image, tmp_path, "plain", 0x80, 56, struct.pack("<Q", 50_000))
    with mounted_ntfs(copy) as top:
        expected = (top / "plain").read_bytes()
    assert expected[50_000:] == bytes(50_000) and expected[:50_000].count(0) < 1000
    with opened(copy) as fs:
        content = fs.open(fs.lookup(fs.root, "plain"))
        assert read(content, 0, content.size) == expected
        assert list(content.extents(0, 100_000))[-1] == Extent(50_000, 50_000, ExtentKind.ZERO)


@pytest.mark.root
def test_encrypted_files_are_refused(special_image: Path, tmp_path: Path) -> None:
    copy = _patched(special_image, tmp_path, "plain", 0x10, 32, struct.pack("<I", 0x4020))
    with opened(copy) as fs:
        node = fs.lookup(fs.root, "plain")
        assert node.reason == "efs"
        with pytest.raises(Unsupported) as raised:
            fs.open(node)
        assert raised.value.reason == "efs"


@pytest.mark.root
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (64, b"\x21\x10\xff\x7f", "outside the volume"),
        (64, b"\x00", "end before it does"),
        (64, b"\x99", "mapping pair"),
        (16, struct.pack("<Q", 7), "piece of a stream is missing"),
        (56, struct.pack("<Q", 1 << 50), "impossible sizes"),
    ],
)
def test_damaged_runs_are_errors(special_image: Path, tmp_path: Path, field: int, value: bytes, message: str) -> None:
    copy = _patched(special_image, tmp_path, "plain", 0x80, field + 8 * (field == 64), value)
    with opened(copy) as fs:
        found = dict(fs.scan(fs.root))
        assert found["plain"].reason == "damaged"
        assert fs.lookup(fs.root, "plain") == found["plain"]
        with pytest.raises(Corrupt, match=message):
            fs.open(found["plain"])
        assert found["read-only"].reason is None


@pytest.mark.root
def test_a_bad_sector_costs_one_read(ntfs_image: Path) -> None:
    blocks = HostFile.open(str(ntfs_image))
    with opened(ntfs_image) as fs:
        deep = fs.open(resolve(fs, "a/b/deep"))
        expected = read(deep, 0, deep.size)
        ((_, at),) = deep._runs.pieces(40_000 // 512 * 512, 512)
        number = resolve(fs, "resident").inode
        ((_, record),) = fs._mft._table._inner._runs.pieces(number * fs._boot.record_size, 512)
    broken = open_filesystem(Fault(blocks, bad=[(at, 512), (record, 512)]), SIGNATURE)
    content = broken.open(resolve(broken, "a/b/deep"))
    with pytest.raises(ReadFailed) as raised:
        read(content, 40_000, 10)
    assert raised.value.offset is not None and at <= raised.value.offset < at + 512
    assert read(content, 41_000, 20_000) == expected[41_000:61_000]
    assert broken.lookup(broken.root, "resident").reason == "unreadable"
    assert broken.lookup(broken.root, "holes").reason is None
    blocks.close()


@pytest.mark.root
def test_a_damaged_index_block_hides_only_its_own_names(ntfs_image: Path, tmp_path: Path) -> None:
    with opened(ntfs_image) as fs:
        folder = fs.lookup(fs.root, "large-folder")
        names = {entry.name for entry in fs.scan(folder)}
        stream = fs._mft.stream(fs._mft.file(folder.inode), 0xA0, "$I30")
        ((_, at),) = stream.runs.pieces(8192, 512)
    raw = bytearray(ntfs_image.read_bytes())
    raw[at : at + 4] = b"BAAD"
    (tmp_path / "copy.img").write_bytes(raw)
    with opened(tmp_path / "copy.img") as fs:
        found = []
        with pytest.raises(Corrupt, match="no such record"):
            for entry in fs.scan(fs.lookup(fs.root, "large-folder")):
                found.append(entry.name)
        assert len(names) - 60 < len(found) < len(names)
        with pytest.raises(Corrupt):
            fs.lookup(fs.lookup(fs.root, "large-folder"), "is it there?")


@pytest.mark.root
def test_a_record_by_now_another_files_is_not_believed(ntfs_image: Path) -> None:
    with opened(ntfs_image) as fs:
        node = resolve(fs, "resident")
        assert fs.node(node.inode) == node
        with pytest.raises(Corrupt, match="another file's"):
            fs.node(node.inode | 0x7777 << 48)
        with pytest.raises(NotFound):
            fs.node(1 << 40)
        used = {node.inode for node in walk(fs).values()}
        deleted = next(number for number in range(70, fs._mft.count) if number not in used)
        with pytest.raises(Corrupt, match="not in use"):
            fs.node(deleted)


def _published(name: str) -> dict[str, Want]:
    table = {}
    for line in (SAMPLES / "TRUTH" / f"{name}.tsv").read_text().splitlines()[1:]:
        path, kind, size, sha256, written = line.split("\t")
        if kind in "fd":
            kinds = {"f": FileKind.FILE, "d": FileKind.DIRECTORY}
            table[path[1:]] = Want(kinds[kind], int(size) if size else None, sha256 or None, mtime_ns=int(written) * 10**9)
    return table


def test_published_tree_of_a_sample() -> None:
    """Its truth has no sum for the empty and the sparse file's siblings beyond what upstream's unit tests say."""
    image = SAMPLES / "ColinFinck-ntfs" / "testdata" / "testfs1"
    if not image.exists():
        pytest.skip("no ../shared/images")
    with opened(image) as fs:
        check_filesystem(fs, _published("ColinFinck_testfs1"), time_unit_ns=10**9)


def test_syzkaller_seeds(tmp_path: Path) -> None:
    """512 to 4096-byte sectors, 1 to 128 KiB clusters; the manifest says what is in them."""
    seeds = sorted(SAMPLES.glob("syzkaller/ntfs*.img.gz"))
    if not seeds:
        pytest.skip("no ../shared/images")
    known = "3c6ee728bbfd"
    for seed in seeds:
        image = tmp_path / "seed.img"
        image.write_bytes(gzip.decompress(seed.read_bytes()))
        with opened(image) as fs:
            found = walk(fs)
            if seed.name != "ntfs_7.img.gz":  # not usable as truth
                content = fs.open(found["file0/file0"])
                assert hashlib.sha256(read(content, 0, 1050)).hexdigest().startswith(known)
                assert read(fs.open(found["file2"]), 0, 9000) == bytes(9000)


@pytest.mark.root
def test_the_sleuth_kit_decompresses_the_same(special_image: Path) -> None:
    """A second reader for LZNT1, and the one place where ``TskBlocks`` meets contents that are compressed for sure."""
    import pytsk3

    from mntapi.filesystems.tsk.image import Session, TskBlocks

    blocks = HostFile.open(str(special_image))
    session = Session(blocks, pytsk3.TSK_FS_TYPE_NTFS)
    with opened(special_image) as fs:
        for name in ("mixed", "runs", "holes"):
            node = resolve(fs, f"compressed/{name}")
            handle = session.file(node.inode)
            stream = next(item for item in session.attributes(handle) if item.info.type == pytsk3.TSK_FS_ATTR_TYPE_NTFS_DATA)
            check_blocks(TskBlocks(session, handle, stream, node.size, 512), read(fs.open(node), 0, node.size), ranges=40)
    session.close()
    blocks.close()
