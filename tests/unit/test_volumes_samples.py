"""Disks nobody in this project made, against what libblkid, the kernel and their authors say is on them."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import subprocess
import tarfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from mntapi.blocks import HostFile
from mntapi.types import Volume, VolumeState
from mntapi.volumes.scan import scan

SHARED = Path(__file__).parents[3] / "shared" / "images"
SECTOR = 512
DFIR = "dfir_ntfs/test_data/"
MAX_UNPACKED = 12 << 20

pytestmark = [
    pytest.mark.skipif(not SHARED.is_dir(), reason="the shared images are not here"),
    pytest.mark.skipif(shutil.which("partx") is None or shutil.which("blkid") is None, reason="partx or blkid is missing"),
]


def copy_sparse(source: IO[bytes], path: Path) -> Path:
    """The bytes, zeros left out."""
    with path.open("wb") as out:
        while chunk := source.read(1 << 16):
            if chunk.count(0) == len(chunk):
                out.seek(len(chunk), os.SEEK_CUR)
            else:
                out.write(chunk)
        out.truncate()
    return path


@contextmanager
def _member(name: str):
    """The bytes of a sample: the only disk in an archive, or what is compressed."""
    path = SHARED / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            disk = next(member for member in archive.namelist() if member.endswith(".dd"))
            with archive.open(disk) as file:
                yield file
    elif name.endswith(".tgz"):
        with tarfile.open(path) as archive:
            file = archive.extractfile(next(member for member in archive if member.isfile()))
            assert file is not None
            yield file
    else:
        with (gzip.open if name.endswith(".gz") else lzma.open)(path) as file:
            yield file


def unpacked(name: str, tmp_path: Path) -> Path:
    with _member(name) as source:
        return copy_sparse(source, tmp_path / "disk.raw")


def volumes_of(path: Path) -> list[Volume]:
    blocks = HostFile.open(str(path))
    try:
        return scan([blocks])
    finally:
        blocks.close()


def partx_says(path: Path) -> list[tuple[str, int, int]]:
    """Name, start and size (bytes) of all but extended partitions, by ``partx`` (libblkid)."""
    text = subprocess.run(
        ["partx", "-g", "-r", "-o", "NR,START,SECTORS,TYPE", str(path)], check=True, capture_output=True
    ).stdout.decode()
    rows = [line.split() for line in text.splitlines()]
    return [(f"disk0p{row[0]}", int(row[1]) * SECTOR, int(row[2]) * SECTOR) for row in rows if row[3] not in ("0x5", "0xf")]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        (DFIR + "mbr-512-p1e2.bin.gz", 3),
        (DFIR + "mbr-512-p1e2_2.bin.gz", 3),
        (DFIR + "mbr-win-512.raw.tgz", 7),
        (DFIR + "gpt-512-3p.raw.gz", 3),
        ("sleuthkit_test_data/from_brian/1-extend-part.zip", 6),
        ("util-linux/tests/ts/blkid/images-pt/gpt.img.xz", 5),
        ("libguestfs/test-data/files/mbr-ext2-empty.img.gz", 1),
    ],
)
def test_partitions(tmp_path: Path, name: str, count: int) -> None:
    path = unpacked(name, tmp_path)
    volumes = volumes_of(path)
    assert len(volumes) == count
    assert [(volume.name, volume.offset, volume.size) for volume in volumes] == partx_says(path)
    assert {volume.state for volume in volumes} == {VolumeState.OK}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (DFIR + "mbr-4096-p1e0.bin.gz", [("mbr:ee042850-01", 8, 1000)]),
        (DFIR + "mbr-4096-p1e1.bin.gz", [("mbr:ce1e0256-01", 24, 16), ("mbr:ce1e0256-05", 72, 16)]),
    ],
)
def test_large_sectors(tmp_path: Path, name: str, expected: list[tuple[str, int, int]]) -> None:
    """Oracle, in sectors of 512: ``losetup -b 4096 -r -f --show FILE``, ``partx -o UUID,START,SECTORS /dev/loop0``."""
    volumes = volumes_of(unpacked(name, tmp_path))
    assert [(v.id, v.offset, v.size) for v in volumes] == [(key, n * SECTOR, m * SECTOR) for key, n, m in expected]


def test_uuids_and_labels_of_libblkid(tmp_path: Path) -> None:
    """``util-linux/tests/expected/blkid/lowprobe-pt-gpt`` has them as text."""
    volumes = volumes_of(unpacked("util-linux/tests/ts/blkid/images-pt/gpt.img.xz", tmp_path))
    expected = (SHARED / "util-linux/tests/expected/blkid/lowprobe-pt-gpt").read_text()
    for volume in volumes:
        number = volume.name.removeprefix("disk0p")
        (line,) = [line for line in expected.splitlines() if line.startswith(f"#{number}:")]
        assert line.endswith(f"name='{volume.table_label}' uuid='{volume.id.removeprefix('gpt:')}' type='{volume.type_code}'")


@pytest.mark.parametrize("name", ["atari-primary", "bsd", "dasd-ldl", "sun"])
def test_tables_that_are_not_read(tmp_path: Path, name: str) -> None:
    """Listed as a whole, as the package says."""
    path = unpacked(f"util-linux/tests/ts/blkid/images-pt/{name}.img.xz", tmp_path)
    (volume,) = volumes_of(path)
    assert (volume.kind, volume.size, volume.state) == ("disk", path.stat().st_size, VolumeState.OK)


@pytest.mark.parametrize("name", ["7-undel-ntfs", "9-fat-label", "4-kwsrch-ext3"])
def test_file_systems_without_a_table(tmp_path: Path, name: str) -> None:
    """Boot sectors in which sfdisk and mmls read partitions out of code."""
    (volume,) = volumes_of(unpacked(f"sleuthkit_test_data/from_brian/{name}.zip", tmp_path))
    assert (volume.kind, volume.state) == ("disk", VolumeState.OK)


def test_signatures_of_libblkid(tmp_path: Path) -> None:
    """The images with which libblkid tests its signatures: a table is found on exactly those where ``blkid -p`` finds one."""
    checked = 0
    for path in sorted((SHARED / "util-linux/tests/ts/blkid/images-fs").glob("*.xz")):
        with lzma.open(path) as source:
            if len(content := source.read(MAX_UNPACKED + 1)) > MAX_UNPACKED:
                continue
        disk = tmp_path / path.stem
        disk.write_bytes(content)
        table = subprocess.run(["blkid", "-p", "-s", "PTTYPE", "-o", "value", str(disk)], capture_output=True, text=True).stdout
        found = {volume.kind for volume in volumes_of(disk)}
        assert ("partition" in found) == (table.strip() in ("dos", "gpt") and bool(partx_says(disk))), path.name
        disk.unlink()
        checked += 1
    assert checked > 20
