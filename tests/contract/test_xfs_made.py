"""XFS of version 4, which kernels no longer mount, against mkfs and xfs_db; public samples; bytes changed at random."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import mntapi
from contract.filesystem_contract import check_filesystem, resolve, tree_of, walk
from contract.hostile_walk import read_all
from contract.mounting import mounted, need, need_root, run
from contract.xfs_images import SMALL, Changed, dirty, made, opened, proto_of, sealed
from mntapi.blocks import HostFile, read
from mntapi.errors import NotFound, Unsupported
from mntapi.filesystems.probe import probe
from mntapi.filesystems.readers import open_filesystem
from mntapi.filesystems.xfs import described, inode_table
from mntapi.types import FileKind
from mntapi.units import MIB

SAMPLES = Path(__file__).parents[2].parent / "shared" / "images"
RAW = "ro,norecovery,nouuid"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mkfs.xfs can put in: files, links, folders of all forms, devices."""
    need_root()
    top = tmp_path_factory.mktemp("proto") / "tree"
    (top / "folder" / "deeper").mkdir(parents=True)
    for index in range(60):
        (top / "folder" / f"a-name-of-some-length-{index}").write_text("x" * index * 70)
    for name, size in (("small", 10), ("large", 700_001)):
        (top / name).write_bytes(random.Random(size).randbytes(size))
    (top / "empty").touch()
    for length in (1, 30, 336, 338, 800):
        (top / f"link{length}").symlink_to("y" * min(250, length) + "/y" * ((length - 250) // 2))
    for name, count in (("many", 3000), ("some", 40)):
        (top / name).mkdir()
        for index in range(count):
            os.mkfifo(top / name / f"name-{index}")
    os.mkfifo(top / "pipe", 0o600)
    os.mknod(top / "char", 0o20600, os.makedev(10, 200))
    os.mknod(top / "block", 0o60640, os.makedev(8, 17))
    (top / "large").chmod(0o4751)
    os.chown(top / "large", 70_000, 80_000)
    return top


OLD = {
    "v4-512": ("-m", "crc=0", "-b", "size=512"),
    "v4-1k": ("-m", "crc=0", "-b", "size=1024", "-n", "size=4096,ftype=0"),
    "v4-ci": ("-m", "crc=0", "-n", "version=ci", "-l", "version=1"),
    "v5": ("-i", "size=1024"),
}
"""What mkfs.xfs is told. It writes long targets of links without the headers of version 5; there they must fit into inodes."""


@pytest.fixture(scope="module")
def made_images(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    need("mkfs.xfs", "xfs_db")
    folder = tmp_path_factory.mktemp("made")
    (folder / "proto").write_text(proto_of(tree))
    images = {}
    for name, options in OLD.items():
        images[name] = made(folder / f"{name}.img", 16 * MIB, *SMALL, *options, "-p", folder / "proto")
    return images


NOT_STORED = frozenset({"links", "inode", "allocated", "ctime_ns", "mtime_ns"})


@pytest.mark.parametrize("which", OLD)
def test_what_mkfs_put_in(tree: Path, made_images: dict[str, Path], which: str) -> None:
    with opened(made_images[which]) as fs:
        assert fs.kind == "xfs" and dirty(made_images[which]) is None
        check_filesystem(fs, tree_of(tree, skip=NOT_STORED, xattrs=False))
        found = walk(fs)
        for path in ("large", "many", "link800", "pipe"):
            told = _told(made_images[which], f"/{path}")
            assert (found[path].inode, found[path].links) == (told["inode"], told["core.nlinkv2"]), path
            assert found[path].allocated == told["core.nblocks"] * fs.capacity().block_size
            assert (found[path].birthtime_ns is None) == which.startswith("v4")


def _told(image: Path, path: str) -> dict[str, int]:
    """Numbers of an inode as xfs_db prints them."""
    output = run("xfs_db", "-r", "-c", f"path {path}", "-c", "print", "-c", "inode", image)
    told = {name: int(value) for name, value in re.findall(r"^(\S+) = (\d+)\b", output, re.MULTILINE)}
    told["inode"] = int(re.search(r"current inode number is (\d+)", output)[1])  # type: ignore[index]
    return told


def test_a_folder_whose_extents_are_a_tree_of_version_4(made_images: dict[str, Path]) -> None:
    """That the test above has met one: blocks of a folder and of its index are made in turn."""
    assert "core.format = 3" in run("xfs_db", "-r", "-c", "path /many", "-c", "print core.format", made_images["v4-512"])


def test_case_of_names(made_images: dict[str, Path]) -> None:
    with opened(made_images["v4-ci"]) as fs:
        assert fs.lookup(fs.root, "LARGE") == fs.lookup(fs.root, "large")
    with opened(made_images["v4-1k"]) as fs, pytest.raises(NotFound):
        fs.lookup(fs.root, "LARGE")


@pytest.mark.parametrize("which", ["v4-512", "v4-1k"])
def test_attributes_of_version_4(made_images: dict[str, Path], tmp_path: Path, which: str) -> None:
    """Set by xfs_db, whose values are all one letter: in the inode, in a leaf, in a tree of leaves, in blocks of their own."""
    image = tmp_path / "changed.img"
    shutil.copy(made_images[which], image)
    want = {
        "small": {"user.short": 10},
        "empty": {"user.a": 10, "trusted.b": 90, "security.c": 120},
        "large": {"user.tiny": 1, "user.large": 60_000, **{f"trusted.number{index}": 180 for index in range(40)}},
    }
    flags = {"user": "-u", "trusted": "-r", "security": "-s"}
    for path, values in want.items():
        commands = [f"path /{path}"]
        for name, size in values.items():
            space, rest = name.split(".", 1)
            commands.append(f"attr_set {flags[space]} -v {size} {rest}")
        run("xfs_db", "-x", *[part for command in commands for part in ("-c", command)], image)
    with opened(image) as fs:
        for path, values in want.items():
            found = fs.xattrs(resolve(fs, path))
            assert found == {name: b"v" * size for name, size in values.items()}, path


def test_realtime_files_are_named_and_refused(made_images: dict[str, Path], tmp_path: Path) -> None:
    image = tmp_path / "realtime.img"
    shutil.copy(made_images["v4-1k"], image)
    run("xfs_db", "-x", "-c", "path /small", "-c", "write core.realtime 1", image)
    with opened(image) as fs:
        node = resolve(fs, "small")
        assert node.reason == "realtime" and node.size == 10
        with pytest.raises(Unsupported) as raised:
            fs.open(node)
        assert raised.value.reason == "realtime"
        assert read(fs.open(resolve(fs, "large")), 0, 10)


@pytest.mark.parametrize("name", ["cryptsetup/tests/img_fs_xfs.img.xz", "cryptsetup/tests/img_fs_xfs5.img.xz"])
@pytest.mark.root
def test_samples_of_cryptsetup(name: str, tmp_path: Path) -> None:
    packed = _sample(name)
    image = tmp_path / "image"
    image.write_bytes(lzma.decompress(packed.read_bytes()))
    with opened(image) as fs:
        found = walk(fs)
        assert {node.kind for node in found.values()} == {FileKind.FILE} and len(found) == 2
        if "xfs5" in name:
            need_root()
            with mounted(image, RAW) as top:
                check_filesystem(fs, tree_of(top))


def _sample(name: str) -> Path:
    path = SAMPLES / name
    if not path.exists():
        pytest.skip("no ../shared/images")
    return path


def test_published_hashes_of_a_sample(tmp_path: Path) -> None:
    """Version 4 in a VHDX, as the tests of DiscUtils know it."""
    packed = _sample("LTRData-DiscUtils/Tests/LibraryTests/Xfs/Data/xfs.vhdx.gz")
    disk = tmp_path / "xfs.vhdx"
    with gzip.open(packed) as source, disk.open("wb") as out:
        shutil.copyfileobj(source, out, MIB)
    with mntapi.open_disks(str(disk)) as disk_set:
        (volume,) = disk_set.volumes
        fs = disk_set.filesystem(volume)
        for path, md5 in (
            ("file.100", "620f0b67a91f7f74151bc5be745b7110"),
            ("file.random", "9a202a11d6e87688591eb97714ed56f1"),
        ):
            node = resolve(fs, f"folder/{path}")
            assert hashlib.md5(read(fs.open(node), 0, node.size)).hexdigest() == md5
        assert len(list(fs.scan(resolve(fs, "huge")))) == 2999 and len(list(fs.scan(resolve(fs, "folder")))) == 1002


@pytest.mark.parametrize("name", ["syzkaller/xfs_0.img.gz", "syzkaller/xfs_27.img.gz"])
def test_seeds_of_syzkaller(name: str, tmp_path: Path) -> None:
    need("xfs_db")
    image = tmp_path / "image"
    image.write_bytes(gzip.decompress(_sample(name).read_bytes()))
    with opened(image) as fs:
        for path, node in {"": fs.root, **walk(fs)}.items():
            if node.kind is FileKind.DIRECTORY:
                told = re.findall(
                    r"^\S+ +(\d+) +\S+ +\S+ +\d+ (.+?)(?: \(\w+\))?$", run("xfs_db", "-r", "-c", f"ls /{path}", image), re.M
                )
                want = {name: int(inode) for inode, name in told if name not in (".", "..")}
                assert {entry.name: entry.node.inode for entry in fs.scan(node)} == want
            told_size = _told(image, f"/{path}")["core.size"]
            assert node.size == told_size or node.kind is not FileKind.FILE


@pytest.mark.parametrize(("which", "count"), [("v4-512", 20), ("v4-ci", 15), ("v5", 5)])
def test_bytes_changed_at_random(made_images: dict[str, Path], which: str, count: int) -> None:
    """In a process of its own, with limits on memory and time. Version 4 believes more of what it reads."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(here / "hostile_walk.py"), "xfs", "1", str(count)],
        input=str(made_images[which]),
        env={"PYTHONPATH": str(here.parents[1]), "PATH": ""},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if " s {" in line]
    assert len(lines) == count + 1 and "FileKind.FILE" in lines[0]


def test_bytes_changed_by_somebody_who_knows_checksums(made_images: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What else protects the reader once every checksum is right."""
    image = made_images["v5"].read_bytes()
    monkeypatch.setattr(described, "checksum_of", lambda raw, at: int.from_bytes(raw[at : at + 4], "little"))
    monkeypatch.setattr(inode_table, "checksum_of", lambda raw, at: int.from_bytes(raw[at : at + 4], "little"))
    monkeypatch.setattr(
        inode_table,
        "checksums",
        lambda raw, size, at: tuple(int.from_bytes(raw[start + at :][:4], "little") for start in range(0, len(raw), size)),
    )
    inodes = [at for at in range(0, len(image), 512) if image[at : at + 2] == b"IN"]
    blocks = [at for at in range(0, len(image), 512) if image[at : at + 4] in (b"XDB3", b"XDD3")]
    met: Counter[str] = Counter()
    for seed in range(8):
        changed, rng = bytearray(image), random.Random(seed)
        for index in range(200):
            place = rng.choice((rng.randrange(512), rng.randrange(200), rng.randrange(48, 100)))
            changed[rng.choice(inodes if index % 10 else blocks) + place] = rng.choice(
                (0, 1, 3, 0x7F, 0x80, 0xFF, rng.randrange(256))
            )
        met.update(read_all(changed, "xfs"))
    assert met[FileKind.FIFO] > 10_000
    for told in ("an extent outside the file system", "an inode with another's number", "a block of another file system"):
        assert met[told], told


def test_an_unfinished_repair_is_told(made_images: dict[str, Path]) -> None:
    blocks = HostFile.open(str(made_images["v5"]))
    sector = bytearray(read(blocks, 0, 512))
    sector[219] |= 0x10
    sealed(sector, 0, 512, 224)
    changed = Changed(blocks, {0: bytes(sector)})
    signature = probe(changed)
    assert signature and signature.dirty == "needs xfs_repair"
    assert len(list(open_filesystem(changed, signature).scan(resolve(open_filesystem(changed, signature), "many")))) == 3000
    blocks.close()
