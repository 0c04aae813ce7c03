"""Grain tables that lie in holes of the file are not read, and the extents stay what qemu-img says they are."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mntapi.blocks import HostFile, read
from mntapi.images.formats import open_image
from mntapi.types import DiskSpec, Extent, ExtentKind, FileBlocks, Image
from mntapi.units import GIB, KIB, MIB

pytestmark = pytest.mark.skipif(
    not (shutil.which("qemu-img") and shutil.which("qemu-io")), reason="needs qemu-img and qemu-io (qemu-utils)"
)
WRITTEN = (0, 5 * GIB, 31 * GIB + 512 * KIB, 32 * GIB, 47 * GIB + 320 * KIB, 64 * GIB - 64 * KIB)
TABLE_REACH = 32 * MIB


class Counted:
    """A file that counts what is read of it."""

    def __init__(self, file: HostFile) -> None:
        self._file = file
        self.path, self.size, self.sector_size = file.path, file.size, file.sector_size
        self.bytes = 0

    def readinto(self, offset: int, buffer: memoryview) -> None:
        self.bytes += len(buffer)
        self._file.readinto(offset, buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self._file.extents(offset, length)

    def close(self) -> None:
        self._file.close()


class CountingOpener:
    def __init__(self) -> None:
        self.files: list[Counted] = []

    def open(self, name: str, *, relative_to: str | None = None) -> FileBlocks:
        self.files.append(Counted(HostFile.open(name)))
        return self.files[-1]


def run(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("holes") / "disk.vmdk"
    run("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicSparse", path, 64 * GIB)
    commands = [word for at in WRITTEN for word in ("-c", f"write -P 7 {at} 64k")]
    run("qemu-io", "-f", "vmdk", *commands, path)
    return path


def opened(path: Path) -> tuple[Image, CountingOpener]:
    opener = CountingOpener()
    return open_image(DiskSpec(str(path)), opener), opener


def mapped(path: Path) -> list[tuple[int, int]]:
    """The stored ranges as qemu-img has them, joined."""
    joined: list[tuple[int, int]] = []
    for extent in json.loads(run("qemu-img", "map", "--output=json", "-f", "vmdk", path)):
        if not extent["data"]:
            continue
        if joined and sum(joined[-1]) == extent["start"]:
            joined[-1] = (joined[-1][0], joined[-1][1] + extent["length"])
        else:
            joined.append((extent["start"], extent["length"]))
    return joined


def stored(image: Image, offset: int = 0, length: int | None = None) -> list[tuple[int, int]]:
    extents = image.blocks.extents(offset, image.blocks.size - offset if length is None else length)
    return [(extent.offset, extent.length) for extent in extents if extent.kind is ExtentKind.DATA]


def test_the_extents_are_those_of_qemu_img_and_few_tables_are_read(disk: Path) -> None:
    image, opener = opened(disk)
    before = sum(file.bytes for file in opener.files)
    assert stored(image) == mapped(disk) == [(at, 64 * KIB) for at in WRITTEN]
    assert sum(file.bytes for file in opener.files) - before < 256 * KIB  # all tables are 4 MiB, the directory is 8 KiB
    assert read(image.blocks, 5 * GIB, 4) == b"\7" * 4
    image.blocks.close()


@pytest.mark.parametrize("offset", [64 * KIB, 3 * GIB + 5, 5 * GIB - 1, 31 * GIB, 64 * GIB - TABLE_REACH])
def test_parts_of_it(disk: Path, offset: int) -> None:
    image, _ = opened(disk)
    for length in (1, TABLE_REACH, 2 * GIB):
        end = min(64 * GIB, offset + length)
        parts = [(max(at, offset), min(end, at + 64 * KIB)) for at in WRITTEN]
        expected = [(start, stop - start) for start, stop in parts if start < stop]
        assert stored(image, offset, end - offset) == expected
    image.blocks.close()


def test_a_copy_without_holes_says_the_same(disk: Path, tmp_path: Path) -> None:
    run("cp", "--sparse=never", disk, tmp_path / "dense.vmdk")
    image, opener = opened(tmp_path / "dense.vmdk")
    assert stored(image) == [(at, 64 * KIB) for at in WRITTEN]
    assert sum(file.bytes for file in opener.files) > 3 * MIB
    image.blocks.close()


def test_tables_in_a_hole_that_a_damaged_directory_mixes_with_others(disk: Path, tmp_path: Path) -> None:
    """An entry out of the file, one that is absent, and one that points at another table, among those in the hole."""
    copy = tmp_path / "mixed.vmdk"
    run("cp", "--sparse=always", disk, copy)
    raw = disk.open("rb").read(512)
    redundant, directory = (int.from_bytes(raw[at : at + 8], "little") * 512 for at in (48, 56))
    with copy.open("r+b") as file:
        for start in (redundant, directory):
            file.seek(start)
            first = file.read(4)
            for index, entry in ((600, (1 << 31).to_bytes(4, "little")), (700, bytes(4)), (800, first)):
                file.seek(start + 4 * index)
                file.write(entry)
    image, _ = opened(copy)
    bad = 600 * TABLE_REACH
    found = stored(image)
    assert (bad, TABLE_REACH) in found  # not known to be zeros
    assert (800 * TABLE_REACH, 64 * KIB) in found
    assert [(at, 64 * KIB) for at in WRITTEN] == [one for one in found if one[0] in WRITTEN]
    assert len(found) == len(WRITTEN) + 2
    image.blocks.close()
