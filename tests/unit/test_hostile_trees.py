"""Trees that never end, and destinations with surprises: ``ls -R``, ``find`` and ``cp`` come to an end and replace nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract.memory_filesystem import Memory, MemoryFileSystem
from contract.mounting import need, run
from mntapi.blocks import Fault, HostFile
from mntapi.cli.walk import MAX_DEPTH, Walker
from mntapi.errors import Corrupt, Denied, Invalid
from mntapi.filesystems.readers import open_filesystem
from mntapi.restore import copy as restore
from mntapi.restore.copy import Copier, CopyOptions, Report
from mntapi.types import FileSystem, Signature, Usage


@contextmanager
def opened(image: Path, kind: str) -> Iterator[FileSystem]:
    blocks = HostFile.open(str(image))
    fs = open_filesystem(blocks, Signature(kind, Usage.FILESYSTEM))
    try:
        yield fs
    finally:
        fs.close()
        blocks.close()


def looping_ext(folder: Path) -> Path:
    """``/a/b/c`` is ``/a`` again, and ``/a/b/top`` the root: hard links to folders, which only debugfs makes."""
    need("mke2fs", "debugfs")
    (folder / "tree" / "a" / "b").mkdir(parents=True)
    (folder / "tree" / "a" / "file").write_text("contents")
    image = folder / "ext.img"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-d", folder / "tree", image, "1M")
    run("debugfs", "-w", "-f", "-", image, stdin="link /a /a/b/c\nlink / /a/b/top\n")
    return image


def looping_fat(folder: Path) -> Path:
    """``/A/B`` starts at the cluster of ``/A``."""
    need("mkfs.vfat", "mmd", "mcopy")
    image = folder / "fat.img"
    image.write_bytes(bytes(1 << 20))
    run("mkfs.vfat", "-F", "12", image)
    run("mmd", "-i", image, "::/A", "::/A/B")
    (folder / "FILE").write_text("contents")
    run("mcopy", "-i", image, folder / "FILE", "::/A/FILE")
    raw = bytearray(image.read_bytes())
    above, inner = (raw.index(name.ljust(11) + b"\x10") for name in (b"A", b"B"))
    raw[inner + 26 : inner + 28] = raw[above + 26 : above + 28]
    image.write_bytes(raw)
    return image


@pytest.mark.parametrize(("kind", "make"), [("ext4", looping_ext), ("vfat", looping_fat)])
def test_folders_that_loop(kind: str, make: Callable[[Path], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with opened(make(tmp_path), kind) as fs:
        walker = Walker(fs)
        paths = [path.lower() for path, _ in walker.below("/", fs.root)]
        complaints = capfd.readouterr().err.splitlines()
        assert "/a/file" in paths and len(paths) == len(set(paths)) < 10
        assert walker.failed == len(complaints) > 0 and all("loops" in line for line in complaints)
        copier = Copier(fs, CopyOptions(recursive=True))
        copier.copy("/", fs.root, str(tmp_path), "out")
    assert {failure.error.reason for failure in copier.report.failures} == {"folder-loop"}
    assert len(copier.report.failures) == walker.failed
    files = [path for path in (tmp_path / "out").rglob("*") if path.name.lower() == "file"]
    assert {file.read_text() for file in files} == {"contents"}
    assert len(list((tmp_path / "out").rglob("*"))) < 10


def test_folders_nested_deeper_than_a_copy_goes(tmp_path: Path) -> None:
    """An ext4 that holds them, made from a real tree; what is above the limit is copied."""
    need("mke2fs")
    deep = restore._MAX_DEPTH + 10
    top = tmp_path / "tree"
    os.makedirs(os.path.join(top, *["d"] * deep))
    (top / "d" / "file").write_text("contents")
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-d", top, tmp_path / "deep.img", "4M")
    with opened(tmp_path / "deep.img", "ext4") as fs:
        walker = Walker(fs)
        assert sum(1 for path, _ in walker.below("/", fs.root) if path.endswith("/d")) == deep and walker.failed == 0
        copier = Copier(fs, CopyOptions(recursive=True))
        copier.copy("/", fs.root, str(tmp_path), "out")
    [failure] = copier.report.failures
    assert isinstance(failure.error, Invalid) and failure.path.count("/d") == restore._MAX_DEPTH
    assert (tmp_path / "out" / "d" / "file").read_text() == "contents"


def test_a_walk_ends_where_no_path_reaches(capfd: pytest.CaptureFixture[str]) -> None:
    content: dict[str, object] = {}
    for _ in range(300):
        content = {"d": content}
    fs = MemoryFileSystem(content)
    walker = Walker(fs)
    below = "/x" * (MAX_DEPTH - 100)
    assert sum(1 for _ in walker.below(below, fs.root)) == 101
    assert walker.failed == 1 and "too deeply" in capfd.readouterr().err


def copy(tree: FileSystem, destination: Path, *, overwrite: bool = False) -> Report:
    copier = Copier(tree, CopyOptions(recursive=True, overwrite=overwrite))
    copier.copy("/", tree.root, str(destination.parent), destination.name)
    return copier.report


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_damaged_replaces_nothing(tmp_path: Path, overwrite: bool) -> None:
    """Neither what is there, nor what the guest has under the name, nor an earlier damaged copy."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.damaged.2").symlink_to("nowhere")
    tree = MemoryFileSystem({"a.damaged": b"the guest's own", "a": Fault(Memory(b"x" * 9000), bad=[(5000, 1)])})
    assert len(copy(tree, out, overwrite=overwrite).failures) == 1
    assert (out / "a.damaged").read_bytes() == b"the guest's own"
    assert os.readlink(out / "a.damaged.2") == "nowhere"
    assert (out / "a.damaged.3").read_bytes() == b"x" * 4096 + bytes(4096) + b"x" * 808
    report = copy(MemoryFileSystem({"a": Fault(Memory(b"y" * 9000), bad=[(0, 1)])}), out, overwrite=overwrite)
    assert len(report.failures) == 1 and "a.damaged.4" in str(report.failures[0].error.hint)
    assert sorted(os.listdir(out)) == ["a.damaged", "a.damaged.2", "a.damaged.3", "a.damaged.4"]


def _device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes device nodes")
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("device nodes cannot be made here")


@pytest.mark.parametrize("make", [_device, os.mkfifo, Path.mkdir], ids=["device", "pipe", "folder"])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("value", [b"file", "link"], ids=["file", "link"])
def test_what_is_no_file_is_never_replaced(
    tmp_path: Path, make: Callable[[Path], None], overwrite: bool, value: object
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    make(out / "name")
    before = (out / "name").lstat()
    [failure] = copy(MemoryFileSystem({"name": value}), out, overwrite=overwrite).failures
    assert isinstance(failure.error, Denied)
    after = (out / "name").lstat()
    assert (before.st_ino, before.st_mode, before.st_rdev) == (after.st_ino, after.st_mode, after.st_rdev)
    assert os.listdir(out) == ["name"]


def test_an_ext_folder_whose_block_is_its_parents(tmp_path: Path) -> None:
    """Two inodes over the same entries: no folder is met twice by number, and still it ends."""
    need("mke2fs", "debugfs")
    (tmp_path / "tree" / "a" / "b").mkdir(parents=True)
    image = tmp_path / "ext.img"
    run("mke2fs", "-q", "-F", "-t", "ext2", "-b", "1024", "-d", tmp_path / "tree", image, "1M")
    told = run("debugfs", "-R", "blocks /a", image).split()
    run("debugfs", "-w", "-R", f"set_inode_field /a/b block[0] {told[0]}", image)
    with opened(image, "ext2") as fs:
        walker = Walker(fs)
        assert [path for path, _ in walker.below("/", fs.root) if "lost" not in path] == ["/a", "/a/b", "/a/b/b"]
        assert walker.failed == 1
        assert [type(failure.error) for failure in copy(fs, tmp_path / "out").failures] == [Corrupt]


def test_the_loop_is_real(tmp_path: Path) -> None:
    """What the tests above stand on: the names below the loop are those above it."""
    with opened(looping_fat(tmp_path), "vfat") as fs:
        above = fs.lookup(fs.root, "A")
        again = fs.lookup(above, "B")
        assert {name for name, _ in fs.scan(again)} == {name for name, _ in fs.scan(above)} >= {"B", "FILE"}
