"""Storage Spaces: the partition type is sgdisk's; no disk of a pool is at hand, so the database is made by hand."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import UUID

import pytest

from contract.make_disk import need, run
from mntapi.blocks import HostFile
from mntapi.errors import Corrupt
from mntapi.types import Volume, VolumeState
from mntapi.volumes import spaces
from mntapi.volumes.scan import scan

POOL, DISK = UUID("01234567-89ab-cdef-0123-456789abcdef"), UUID("76543210-ba98-fedc-3210-fedcba987654")


def database(place: int, pool: UUID = POOL, disk: UUID = DISK) -> bytes:
    """The first sector, in the form of Windows 8 (1) or Windows 10 (2)."""
    head = b"SPACEDB " + place.to_bytes(2, "big")
    return (head.ljust(place * 16, b"\0") + pool.bytes_le + disk.bytes_le).ljust(512, b"\0")


def disk_of_pool(path: Path, content: bytes) -> Path:
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    need("sgdisk")
    with path.open("wb") as out:
        out.truncate(4 << 20)
    run("sgdisk", "-n", "1:2048:4095", "-t", "1:0700", "-n", "2:4096:6143", "-t", "2:4202", path)
    with path.open("r+b") as out:
        out.seek(4096 * 512)
        out.write(content)
    return path


def scanned(*paths: Path) -> list[Volume]:
    with ExitStack() as stack:
        return scan([stack.enter_context(closing(HostFile.open(str(path)))) for path in paths])


@pytest.mark.parametrize("place", [1, 2])
def test_a_pool_is_named(tmp_path: Path, place: int) -> None:
    one = disk_of_pool(tmp_path / "one", database(place))
    two = disk_of_pool(tmp_path / "two", database(place, disk=UUID(int=2)))
    said = subprocess.run(["sgdisk", "-i", "2", str(one)], capture_output=True, text=True, check=True).stdout
    assert spaces.PARTITION_TYPE in said.lower() and "Storage Spaces" in said
    volumes = scanned(one, two)
    assert [volume.state.value for volume in volumes] == ["ok", "unsupported", "ok", "unsupported"]
    for volume in (volumes[1], volumes[3]):
        assert volume.reason == f"a disk of the Storage Spaces pool {POOL}, of which 2 are here: is not read by this version"
    assert [volumes[at].details["pool-disk"] for at in (1, 3)] == [str(DISK), str(UUID(int=2))]


@pytest.mark.parametrize(
    ("content", "text"),
    [(bytes(512), "no Storage Spaces database"), (database(3), "the GUIDs of the pool are in an unknown place")],
)
def test_a_damaged_database(tmp_path: Path, content: bytes, text: str) -> None:
    _, volume = scanned(disk_of_pool(tmp_path / "disk", content))
    assert volume.state is VolumeState.DAMAGED
    assert volume.reason is not None and volume.reason.startswith(f"belongs to a Storage Spaces pool: {text}")


def test_a_database_without_a_table(tmp_path: Path) -> None:
    (tmp_path / "bare").write_bytes(database(2) + bytes(4096))
    (volume,) = scanned(tmp_path / "bare")
    assert (volume.state, volume.details["pool"]) == (VolumeState.UNSUPPORTED, str(POOL))


def test_a_database_cut_off() -> None:
    with pytest.raises(Corrupt, match="no Storage Spaces database"):
        spaces.parse(database(2)[:100])
