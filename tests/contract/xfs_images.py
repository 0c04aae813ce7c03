"""XFS images for tests: version 5 filled by the kernel, version 4 by mkfs and xfs_db (kernels no longer write it), and a way to
change bytes of one with its checksums made right again."""

from __future__ import annotations

import os
import random
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.mounting import run
from mntapi.blocks import HostFile
from mntapi.crc32c import crc32c
from mntapi.filesystems.probe import probe
from mntapi.filesystems.runs import Memory
from mntapi.filesystems.xfs.filesystem import XfsFileSystem, open_filesystem
from mntapi.types import Blocks, Extent, Signature, Usage

SIGNATURE = Signature("xfs", Usage.FILESYSTEM)
SMALL = ("--unsupported", "-q", "-f")
"""Options of mkfs.xfs for images of less than 300 MiB."""


@contextmanager
def opened(image: Path) -> Iterator[XfsFileSystem]:
    blocks = HostFile.open(str(image))
    fs = open_filesystem(blocks, SIGNATURE)
    try:
        yield fs
    finally:
        fs.close()
        fs.close()
        blocks.close()


def opened_bytes(image: bytes | bytearray) -> XfsFileSystem:
    return open_filesystem(Memory(bytes(image)), SIGNATURE)


def dirty(image: Path) -> str | None:
    """What the probe says of its log."""
    blocks: Blocks = HostFile.open(str(image))
    signature = probe(blocks)
    blocks.close()
    assert signature is not None and signature.kind == "xfs"
    return signature.dirty


def made(image: Path, size: int, *options: str | Path) -> Path:
    """A file system by mkfs.xfs on a new sparse file of ``size`` bytes."""
    with image.open("wb") as file:
        file.truncate(size)
    run("mkfs.xfs", *options, image)
    return image


def fill_more(top: Path, block_size: int) -> None:
    """What XFS does in a way of its own, through the kernel: after ``test_ext.fill``."""
    _fill_folders(top)
    _fill_extents(top, block_size)
    _fill_attributes(top)
    for length in (300, 470, 1000, 1023):
        os.symlink(("/" + "s" * 99) * (length // 100) + "e" * (length % 100), top / f"target{length}")
    os.mknod(top / "char-largest", 0o20600, os.makedev(511, 0x3FFFF))


def _fill_folders(top: Path) -> None:
    """Folders in the inode, in one block, with leaves, with nodes; with what deleting leaves behind."""
    for count in (1, 50, 400, 3000):
        folder = top / f"folder{count}"
        folder.mkdir()
        (folder / "0").touch()
        for index in range(1, count):
            os.link(folder / "0", folder / f"{index}")
    for index in range(40, 2900):
        os.unlink(top / "folder3000" / f"{index}")


def _fill_extents(top: Path, block_size: int) -> None:
    """A tree of extents of two levels where blocks are small; shared, preallocated and collapsed ones."""
    with (top / "extents").open("wb") as file:
        for index in range(3000):
            file.seek(2 * index * block_size)
            file.write(b"%08d" % index * (block_size // 8 if index % 50 == 0 else 1))
    (top / "original").write_bytes(random.Random(5).randbytes(300_000))
    for name in ("copy", "copy-changed"):
        subprocess.run(["cp", "--reflink=auto", top / "original", top / name], check=True)
    with (top / "copy-changed").open("r+b") as file:
        file.seek(131_072)
        file.write(b"not the same" * 1000)
    for command in ("falloc 0 1m", "pwrite 65536 5000", "fpunch 131072 65536", "fzero 262144 65536"):
        run("xfs_io", "-f", "-c", command, top / "preallocated")


def _fill_attributes(top: Path) -> None:
    """In the inode, in one leaf, in many, with values in blocks of their own."""
    rng = random.Random(4)
    for name, count, size in (("few", 2, 10), ("leaf", 5, 200), ("large", 1, 4096), ("huge", 2, 60_000), ("many", 300, 150)):
        (top / f"attributes-{name}").write_text(name)
        for index in range(count):
            os.setxattr(top / f"attributes-{name}", f"user.{name}{index}", rng.randbytes(size))
    os.setxattr(top / "attributes-many", b"security." + "é".encode() * 60, b"")
    os.setxattr(top / "attributes-many", b"trusted.\xff", b"x" * 65_536)
    run("setfacl", "-m", ",".join(f"u:{user}:rw" for user in range(2000, 2200)), top / "attributes-large")


def proto_of(tree: Path) -> str:
    """The prototype file by which mkfs.xfs makes a file system of a folder of the host."""
    return "\n".join(["/none", "0 0", "d--755 0 0", *_proto_lines(tree), "$", ""])


def _proto_lines(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        found = path.lstat()
        owner = f"{found.st_uid} {found.st_gid}"
        mode = f"{'u' if found.st_mode & 0o4000 else '-'}{'g' if found.st_mode & 0o2000 else '-'}{found.st_mode & 0o777:03o}"
        if path.is_symlink():
            yield f"{path.name} l{mode} {owner} {os.readlink(path)}"
        elif path.is_dir():
            yield f"{path.name} d{mode} {owner}"
            yield from _proto_lines(path)
            yield "$"
        elif path.is_file():
            yield f"{path.name} -{mode} {owner} {path}"
        elif path.is_fifo():
            yield f"{path.name} p{mode} {owner}"
        else:
            kind = "c" if path.is_char_device() else "b"
            yield f"{path.name} {kind}{mode} {owner} {os.major(found.st_rdev)} {os.minor(found.st_rdev)}"


class Changed:
    """Blocks with some bytes of them changed: ``changes`` is what to show at which offsets."""

    def __init__(self, inner: Blocks, changes: dict[int, bytes]) -> None:
        self.size = inner.size
        self.sector_size = inner.sector_size
        self._inner = inner
        self._changes = changes

    def readinto(self, offset: int, buffer: memoryview) -> None:
        self._inner.readinto(offset, buffer)
        for at, content in self._changes.items():
            for index, byte in enumerate(content):
                if offset <= at + index < offset + len(buffer):
                    buffer[at + index - offset] = byte

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self._inner.extents(offset, length)

    def close(self) -> None:
        """Nothing to release."""


def byte_of(image: Path, *commands: str) -> int:
    """The byte of the volume where xfs_db is after these commands."""
    told = run("xfs_db", "-r", *[part for command in commands for part in ("-c", command)], "-c", "daddr", image)
    return int(told.split("current daddr is ")[1]) * 512


def sealed(image: bytearray, at: int, size: int, checksum_at: int) -> None:
    """Make the checksum of the ``size`` bytes at ``at`` right."""
    image[at + checksum_at : at + checksum_at + 4] = bytes(4)
    struct.pack_into("<I", image, at + checksum_at, crc32c(bytes(image[at : at + size])))
