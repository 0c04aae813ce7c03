"""FAT, exFAT, ISO 9660 and HFS+ through The Sleuth Kit, against the files that foreign tools put into the images."""

from __future__ import annotations

import gc
import gzip
import hashlib
import os
import random
import shutil
import struct
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from contract.filesystem_contract import Want, check_filesystem, resolve, tree_of, walk
from contract.mounting import need, run
from mntapi.blocks import Fault, HostFile, Slice, read
from mntapi.errors import Corrupt, Invalid, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.filesystems.readers import READERS, open_filesystem
from mntapi.filesystems.tsk.filesystem import TskFileSystem
from mntapi.filesystems.tsk.image import _Image as _TskImage
from mntapi.types import Blocks, Extent, ExtentKind, FileKind, FileSystem, Node, Signature, Usage

REPOSITORY = Path(__file__).parents[2]
SAMPLES = REPOSITORY.parent / "shared" / "images"
NOT_STORED = frozenset({"mode", "uid", "gid", "links", "inode", "allocated", "ctime_ns", "rdev"})
WRITTEN = 1_593_606_896


def signature(kind: str) -> Signature:
    return Signature(kind, Usage.FILESYSTEM)


@contextmanager
def opened(image: Path, kind: str, offset: int = 0) -> Iterator[FileSystem]:
    blocks = HostFile.open(str(image))
    fs = open_filesystem(Slice(blocks, offset, blocks.size - offset), signature(kind))
    try:
        yield fs
    finally:
        fs.close()
        fs.close()
        blocks.close()


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree that all these file systems can hold, with times on whole even seconds."""
    top = tmp_path_factory.mktemp("source") / "tree"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "A long file name.txt").write_text("hello")
    (top / "UPPER.TXT").write_text("upper")
    (top / "sub" / "data.bin").write_bytes(random.Random(1).randbytes(1_000_003))
    (top / "sub" / "deep" / "small").write_bytes(b"x" * 513)
    (top / "many").mkdir()
    for index in range(300):
        (top / "many" / f"file number {index}").write_text(str(index))
    for path in [top, *top.rglob("*")]:
        os.utime(path, (WRITTEN, WRITTEN))
    return top


def expected(source: Path) -> dict[str, Want]:
    return tree_of(source, skip=NOT_STORED | {"mtime_ns"}, xattrs=False)


@pytest.fixture(scope="session")
def fat_image(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("mkfs.vfat", "mcopy", "mdel")
    image = tmp_path_factory.mktemp("fat") / "fat.img"
    with image.open("wb") as file:
        file.truncate(40 << 20)
    run("mkfs.vfat", "-F", "32", "-n", "A LABEL", image)
    run("mcopy", "-s", "-m", "-i", image, *source.iterdir(), "::")
    run("mcopy", "-i", image, source / "UPPER.TXT", "::deleted.txt")
    run("mdel", "-i", image, "::deleted.txt")
    run("mattrib", "-i", image, "+r", "::UPPER.TXT")
    return image


def test_fat(fat_image: Path, source: Path) -> None:
    with opened(fat_image, "vfat") as fs:
        check_filesystem(fs, expected(source))
        assert fs.lookup(fs.root, "sub").mode == 0o755
        assert resolve(fs, "sub/data.bin").mode == 0o644
        assert fs.lookup(fs.root, "UPPER.TXT").mode == 0o444
        assert resolve(fs, "sub/data.bin").mtime_ns == WRITTEN * 10**9
        assert resolve(fs, "SUB/Data.BIN") == resolve(fs, "sub/data.bin")
        with pytest.raises(NotFound):
            fs.node(1 << 40)
        assert fs.xattrs(fs.root) == {}


def test_fat_times_do_not_depend_on_where_we_are(fat_image: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from mntapi.blocks import HostFile
        from mntapi.filesystems.readers import open_filesystem
        from mntapi.types import Signature, Usage
        fs = open_filesystem(HostFile.open(sys.argv[1]), Signature("vfat", Usage.FILESYSTEM))
        print(fs.lookup(fs.lookup(fs.root, "sub"), "data.bin").mtime_ns)
        """
    )
    for zone in ("UTC", "America/New_York", "Asia/Kathmandu"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(fat_image)],
            env={**os.environ, "TZ": zone, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(done.stdout) == WRITTEN * 10**9, zone


def test_an_error_of_the_storage_comes_out_as_it_went_in(fat_image: Path) -> None:
    """Bad sectors all over the directory of ``many`` and in one file: never an empty folder, never zeros."""
    blocks = HostFile.open(str(fat_image))
    whole = read(blocks, 0, blocks.size)
    at = whole.index(b"FILENU") // 512 * 512
    data = whole.index(random.Random(1).randbytes(1_000_003)[500_000:500_100]) // 512 * 512
    fs = open_filesystem(Fault(blocks, bad=[(at, 512), (data, 512)]), signature("vfat"))
    many = fs.lookup(fs.root, "many")
    for call in (lambda: list(fs.scan(many)), lambda: fs.lookup(many, "file number 7")):
        with pytest.raises(ReadFailed) as raised:
            call()
        assert raised.value.offset is not None and at <= raised.value.offset < at + 512
    content = fs.open(resolve(fs, "sub/data.bin"))
    with pytest.raises(ReadFailed):
        read(content, 500_000, 100)
    assert read(content, 501_000, 300_000) == random.Random(1).randbytes(1_000_003)[501_000:801_000]
    blocks.close()


def test_iso(source: Path, tmp_path: Path) -> None:
    need("genisoimage")
    run("genisoimage", "-quiet", "-J", "-o", tmp_path / "joliet.iso", source)
    with opened(tmp_path / "joliet.iso", "iso9660") as fs:
        check_filesystem(fs, expected(source))
        assert resolve(fs, "sub").mode == 0o555
        assert resolve(fs, "sub/data.bin").mode == 0o444


def test_what_may_be_a_rock_ridge_link_is_refused(tmp_path: Path) -> None:
    need("genisoimage")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to("elsewhere")
    (tmp_path / "tree" / "file").write_text("contents")
    run("genisoimage", "-quiet", "-R", "-J", "-o", tmp_path / "rock.iso", tmp_path / "tree")
    with opened(tmp_path / "rock.iso", "iso9660") as fs:
        found = walk(fs)
        assert read(fs.open(found["file"]), 0, 8) == b"contents"
        assert found["link"].reason == "rock-ridge"
        with pytest.raises(Unsupported):
            fs.open(found["link"])


def test_hfsplus(source: Path, tmp_path: Path) -> None:
    need("xorriso")
    tree = tmp_path / "tree"
    shutil.copytree(source, tree)
    (tree / "link").symlink_to("sub/data.bin")
    run("xorriso", "-as", "mkisofs", "-quiet", "-hfsplus", "-o", tmp_path / "hfs.img", tree)
    raw = (tmp_path / "hfs.img").read_bytes()
    start = next(at for at in range(0, len(raw), 512) if raw[at + 1024 : at + 1026] in (b"H+", b"HX"))
    with opened(tmp_path / "hfs.img", "hfsplus", start) as fs:
        check_filesystem(fs, expected(tree))


def test_close_lets_go_of_what_the_c_library_holds(tmp_path: Path) -> None:
    """Megabytes a volume, which would otherwise stay until the garbage collector comes by, if it does."""
    need("mkfs.vfat")
    (tmp_path / "fat.img").write_bytes(bytes(1 << 20))
    run("mkfs.vfat", tmp_path / "fat.img")
    held = _TskImage.__init__
    images: list[weakref.ref[Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_TskImage, "__init__", lambda self, blocks: (images.append(weakref.ref(self)), held(self, blocks))[1])
        with opened(tmp_path / "fat.img", "vfat") as fs:
            assert list(fs.scan(fs.root)) == [] and images[0]() is not None
            gc.disable()
            try:
                fs.close()
                assert images[0]() is None
            finally:
                gc.enable()
            for use in (lambda: fs.node(2), fs.capacity, lambda: list(fs.scan(fs.root))):
                with pytest.raises(Invalid, match="is closed"):
                    use()
        patch.setattr(TskFileSystem, "node", lambda self, inode: Node(inode, FileKind.FILE, 0))
        gc.disable()
        try:
            with pytest.raises(Corrupt, match="no folder"), opened(tmp_path / "fat.img", "vfat"):
                pass
            assert images[1]() is None
        finally:
            gc.enable()


def _seed(name: str, tmp_path: Path) -> Path:
    packed = SAMPLES / "syzkaller" / f"{name}.img.gz"
    if not packed.exists():
        pytest.skip("no ../shared/images")
    (tmp_path / "seed.img").write_bytes(gzip.decompress(packed.read_bytes()))
    return tmp_path / "seed.img"


def test_exfat_seed(tmp_path: Path) -> None:
    """Contents as the manifest says."""
    image = _seed("exfat_0", tmp_path)
    with opened(image, "exfat") as fs:
        found = walk(fs)
        assert set(found) == {"file0", "file0/file0", "file0/file1", "file1", "file2", "file.cold"} or len(found) == 5
        content = fs.open(found["file0/file0"])
        assert hashlib.sha256(read(content, 0, 1050)).hexdigest().startswith("3c6ee728bbfd")
        assert read(fs.open(found["file2"]), 0, 9000) == bytes(9000)


def test_exfat_valid_data_length(tmp_path: Path) -> None:
    """Behind it are zeros, whatever the clusters hold (specification, 7.6.5)."""
    image = _seed("exfat_0", tmp_path)
    raw = bytearray(image.read_bytes())
    with opened(image, "exfat") as fs:
        node = fs.lookup(fs.root, "file.cold")
        before = read(fs.open(node), 0, node.size)
    assert before.count(0) == 0
    stream = next(at for at in range(0, len(raw), 32) if raw[at] == 0xC0 and struct.unpack_from("<Q", raw, at + 24)[0] == 100)
    struct.pack_into("<Q", raw, stream + 8, 40)
    image.write_bytes(raw)
    with opened(image, "exfat") as fs:
        content = fs.open(fs.lookup(fs.root, "file.cold"))
        assert read(content, 0, 100) == before[:40] + bytes(60)
        assert list(content.extents(0, 100)) == [Extent(0, 40, ExtentKind.DATA), Extent(40, 60, ExtentKind.ZERO)]
    struct.pack_into("<Q", raw, stream + 8, 101)
    image.write_bytes(raw)
    with opened(image, "exfat") as fs, pytest.raises(Corrupt):
        fs.open(fs.lookup(fs.root, "file.cold"))


def test_exfat_written_by_windows() -> None:
    packed = SAMPLES / "dfir_ntfs" / "test_data" / "exfat_win.raw.gz"
    if not packed.exists():
        pytest.skip("no ../shared/images")
    blocks = _Bytes(gzip.decompress(packed.read_bytes()))
    fs = open_filesystem(blocks, signature("exfat"))
    names = [entry.name for entry in fs.scan(fs.root)]
    assert "System Volume Information" in names and not any("Label" in name or name.startswith("$") for name in names)
    for name in ("3.bin", "11.bin", "101.bin"):
        node = fs.lookup(fs.root, name)
        assert read(fs.open(node), 0, node.size).decode() == name.removesuffix(".bin")


class _Bytes:
    """An image held in memory."""

    sector_size = 512

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    def readinto(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._content[offset : offset + len(buffer)]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        yield Extent(offset, length, ExtentKind.DATA)

    def close(self) -> None: ...


@pytest.mark.parametrize("kind", sorted(READERS))
@pytest.mark.parametrize("size", [0, 100, 512, 1 << 20])
def test_zeros_are_no_file_system(kind: str, size: int) -> None:
    with pytest.raises(MntapiError) as raised:
        open_filesystem(_Bytes(bytes(size)), signature(kind))
    assert not isinstance(raised.value, NotFound)


def test_no_reader() -> None:
    with pytest.raises(Unsupported, match="zfs_member") as raised:
        open_filesystem(_Bytes(b""), signature("zfs_member"))
    assert raised.value.reason == "no-reader"


def test_a_kind_the_sleuth_kit_is_not_asked_for() -> None:
    from mntapi.filesystems.tsk.filesystem import open_filesystem as open_tsk

    blocks: Blocks = _Bytes(b"")
    with pytest.raises(Unsupported):
        open_tsk(blocks, signature("ext4"))


def test_damage_is_an_error(fat_image: Path, tmp_path: Path) -> None:
    """A file whose chain of clusters ends too early, and a damaged HFS+ catalogue from a fuzzer's seeds."""
    raw = bytearray(fat_image.read_bytes())
    with opened(fat_image, "vfat") as fs:
        node = resolve(fs, "sub/data.bin")
    reserved, fats, fat_size = struct.unpack_from("<HB", raw, 14)[0], raw[16], struct.unpack_from("<I", raw, 36)[0]
    content = random.Random(1).randbytes(512)
    cluster = (raw.index(content) // 512 - reserved - fats * fat_size) // raw[13] + 2
    for copy in range(fats):
        struct.pack_into("<I", raw, (reserved + copy * fat_size) * 512 + 4 * (cluster + 10), 0x0FFFFFFF)
    (tmp_path / "short.img").write_bytes(raw)
    with opened(tmp_path / "short.img", "vfat") as fs:
        with pytest.raises(Corrupt):
            fs.open(node)
        assert resolve(fs, "sub/deep/small").size == 513


def test_damaged_hfsplus(tmp_path: Path) -> None:
    image = _seed("hfsplus_0", tmp_path)
    with opened(image, "hfsplus") as fs, pytest.raises(Corrupt):
        list(fs.scan(fs.root))


def test_case_fold_and_kinds_of_a_published_fat() -> None:
    """go-fat's image: a FAT12 of 1 MiB; the oracle is mtools' listing."""
    image = SAMPLES / "go-fat" / "testcases" / "fat12.dd"
    if not image.exists():
        pytest.skip("no ../shared/images")
    need("mdir")
    listed = run("mdir", "-b", "-/", "-i", image, "::").split("\n")
    names = {line.removeprefix("::/").rstrip("/") for line in listed if line.startswith("::/")}
    with opened(image, "vfat") as fs:
        found = walk(fs)
        assert {name.lower() for name in found} == {name.lower() for name in names}
        assert all(node.kind in (FileKind.FILE, FileKind.DIRECTORY) for node in found.values())
