"""The conformance scripts over live mounts, on both backends. Oracles: the kernel's own ext4 over a loop device, ntfs-3g."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from real.fuse_live import BACKENDS, CONFORMANCE, live, need, run

pytestmark = pytest.mark.root
FILES = 100_000


def fill(top: Path, *, special: bool) -> None:
    """Names, kinds and sizes that a reader gets wrong most easily."""
    rng = random.Random(7)
    sizes = {
        "empty": 0,
        "one": 1,
        "page": 4096,
        "page+1": 4097,
        "big": 3_000_001,
        "n" * 255: 5,
        "new\nline": 7,
        "ünï": 9,
        "-rf": 3,
    }
    for name, size in sizes.items():
        (top / name).write_bytes(rng.randbytes(size))
    with open(top / "sparse", "wb") as file:
        file.truncate(5_000_000)
        file.seek(1_000_000)
        file.write(b"data" * 1000)
    deep = top
    for depth in range(20):
        deep = deep / f"d{depth}"
        deep.mkdir()
        (deep / "leaf").write_text(str(depth))
    many = top / "many"
    many.mkdir()
    for index in range(1000):
        (many / f"file number {index}").write_bytes(b"x" * (index % 7))
    os.link(top / "big", top / "hard link")
    os.symlink("../not/there", top / "link")
    os.utime(top / "one", ns=(1_500_000_000_123_456_789, 1_400_000_000_987_654_300))
    if special:
        os.mkfifo(top / "fifo")
        os.mknod(top / "null", 0o600 | 0o020000, os.makedev(1, 300))
        os.symlink("x" * 1000, top / "long link")
        (top / os.fsdecode(b"latin \xe9")).write_text("not UTF-8")
        os.chmod(top / "one", 0o4711)
        os.chown(top / "one", 1234, 70000)
        os.utime(top / "page", ns=(-5_000_000_001, -1_000_000_001))
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(top / "socket"))


@pytest.fixture(scope="module")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An ext4 image, mounted by the kernel."""
    need("mkfs.ext4", "mount")
    folder = tmp_path_factory.mktemp("ext4")
    content, image, target = folder / "content", folder / "image", folder / "mnt"
    content.mkdir()
    target.mkdir()
    fill(content, special=True)
    os.setxattr(content / "big", "user.comment", b"\0binary\xff")
    os.setxattr(content / "big", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    image.touch()
    os.truncate(image, 64 << 20)
    run("mkfs.ext4", "-q", "-I", "256", "-d", content, image)
    if subprocess.run(["mount", "-o", "loop,ro,noload", image, target], capture_output=True).returncode:
        pytest.skip("cannot mount ext4 over a loop device here")
    yield target
    run("umount", target)


@pytest.fixture(scope="module")
def ntfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An NTFS image, mounted by ntfs-3g."""
    need("mkntfs", "ntfs-3g")
    folder = tmp_path_factory.mktemp("ntfs")
    image, target = folder / "image", folder / "mnt"
    target.mkdir()
    image.touch()
    os.truncate(image, 32 << 20)
    run("mkntfs", "-F", "-Q", "-q", image)
    run("ntfs-3g", image, target)
    try:
        fill(target, special=False)
    finally:
        run("umount", target)
    run("ntfs-3g", "-o", "ro", image, target)
    yield target
    run("umount", target)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reference", ["ext4", "ntfs"])
def test_a_tree_is_the_same_as_in_another_mount(
    tmp_path: Path, request: pytest.FixtureRequest, reference: str, backend: str
) -> None:
    other = request.getfixturevalue(reference)
    with live(tmp_path / "mnt", {"host": str(other)}, backend=backend) as mount:
        run(sys.executable, CONFORMANCE / "trees.py", mount.target, other)
        for name in ("sparse", "big", "empty", "n" * 255):
            holes = ["--holes"] if name == "sparse" and (backend, reference) == ("kernel", "ext4") else []
            run(sys.executable, CONFORMANCE / "reads.py", mount.target / name, other / name, *holes)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_block_file_reads_as_the_raw_image(tmp_path: Path, backend: str) -> None:
    need()
    raw = tmp_path / "raw"
    with open(raw, "wb") as file:
        for start, content in ((0, os.urandom(2_000_000)), (9_000_000, os.urandom(1_000_000)), (20_000_000, b"end")):
            file.seek(start)
            file.write(content)
    with live(tmp_path / "mnt", {"disk": str(raw)}, backend=backend) as mount:
        holes = ["--holes"] if backend == "kernel" else []
        run(sys.executable, CONFORMANCE / "reads.py", mount.target / "disks" / "disk0", raw, *holes)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_large_folder_is_read_in_any_order(tmp_path: Path, backend: str) -> None:
    need()
    count = FILES if backend == "kernel" else FILES // 10
    with live(tmp_path / "mnt", {"many": count}, backend=backend) as mount:
        run(sys.executable, CONFORMANCE / "folders.py", mount.target, str(count))


def test_the_scripts_find_differences(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, text in ((one, "a"), (other, "b")):
        folder.mkdir()
        (folder / "file").write_text(text)
    for command in (("trees.py", one, other), ("reads.py", one / "file", other / "file"), ("folders.py", one, "2")):
        done = subprocess.run([sys.executable, CONFORMANCE / command[0], *command[1:]], capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout.strip() != "same", command
