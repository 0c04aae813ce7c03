"""Tables cut off, unreadable and mutated: whatever the bytes, a scan ends with volumes that say what they are."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mntapi.blocks import Fault, HostFile, Slice, check_range, read
from mntapi.errors import ReadFailed
from mntapi.types import Blocks, Extent, Volume, VolumeState
from mntapi.volumes.scan import MAX_VOLUMES, scan

SECTOR = 512
MIB = 1 << 20
SIZE = 2 * MIB
DISK_END = SIZE - 40 * SECTOR
LOGICAL = "start=500, size=3000, type=5\nstart=510, size=100\nstart=700, size=100\nstart=900, size=2000"
SCRIPTS = {
    "gpt": "label: gpt\nstart=64, size=100, name=one\nstart=2048, size=1000, name=two\nsize=400",
    "mbr": f"label: dos\nlabel-id: 0x8f8378c0\nstart=64, size=100\nstart=200, size=100\n{LOGICAL}",
}

pytestmark = pytest.mark.skipif(shutil.which("sfdisk") is None, reason="sfdisk is not installed")


class Memory:
    """A disk in memory, which counts what is read of it."""

    def __init__(self, content: bytes | bytearray) -> None:
        self.content = content
        self.size = len(content)
        self.sector_size = SECTOR
        self.bytes_read = 0

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        self.bytes_read += len(buffer)
        buffer[:] = self.content[offset : offset + len(buffer)]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        raise ReadFailed("a scan needs no extents")

    def close(self) -> None:
        """Nothing to release."""


@pytest.fixture(scope="module", params=SCRIPTS)
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A disk made by sfdisk."""
    path = tmp_path_factory.mktemp("hostile") / "disk.raw"
    with path.open("wb") as out:
        out.truncate(SIZE)
    command = ["sfdisk", "-q", "--no-reread", str(path)]
    subprocess.run(command, input=SCRIPTS[request.param], text=True, check=True, capture_output=True)
    return path.read_bytes()


def check_volumes(volumes: list[Volume], size: int) -> None:
    """What is true of every result of a scan of one disk."""
    assert volumes
    assert len(volumes) <= MAX_VOLUMES
    assert len({volume.id for volume in volumes}) == len({volume.name for volume in volumes}) == len(volumes)
    for volume in volumes:
        assert volume.disk == 0
        assert volume.offset is not None and volume.offset >= 0
        assert volume.state is VolumeState.OK or volume.reason
        assert volume.size == 0 or volume.offset + volume.size <= size


def scanned(blocks: Blocks) -> list[Volume]:
    volumes = scan([blocks])
    check_volumes(volumes, blocks.size)
    return volumes


def test_the_disk_is_as_expected(disk: bytes) -> None:
    assert len(scanned(Memory(disk))) in (3, 5)


def test_cut_off_at_every_sector_of_the_first_mib(disk: bytes) -> None:
    """Bytes that are there are the disk's own; what is not there is said to be missing."""
    whole = {volume.id: volume for volume in scanned(Memory(disk))}
    for size in range(0, MIB + 1, SECTOR):
        for volume in scanned(Memory(disk[:size])):
            full = whole.get(volume.id)
            if full is not None:
                assert volume.offset == full.offset
                assert volume.size == full.size or volume.state is VolumeState.INCOMPLETE
                assert volume.size in (full.size, max(0, size - (full.offset or 0)))


def test_cut_off_inside_a_sector(disk: bytes) -> None:
    for size in (1, 445, 509, 511, 513, 519, 520, 603, 604, 1023, 1025, 4095, 4097):
        scanned(Memory(disk[:size]))


def test_each_sector_unreadable(disk: bytes) -> None:
    """Primary partitions and a GPT survive any single bad sector but sector 0 of an MBR."""
    expected = [(volume.id, volume.offset, volume.size) for volume in scanned(Memory(disk))]
    primary = expected[:2]
    for sector in [*range(1200), *range(DISK_END // SECTOR, SIZE // SECTOR)]:
        volumes = scanned(Fault(Memory(disk), bad=[(sector * SECTOR, SECTOR)]))
        if sector == 0 and expected[0][0].startswith("mbr"):
            assert [(volume.kind, volume.state) for volume in volumes] == [("disk", VolumeState.DAMAGED)]
        else:
            found = [(volume.id, volume.offset, volume.size) for volume in volumes]
            assert found[:2] == primary
            assert set(expected) <= set(found) or VolumeState.DAMAGED in {volume.state for volume in volumes}


def test_all_unreadable(disk: bytes) -> None:
    (volume,) = scanned(Fault(Memory(disk), bad=[(0, SIZE)]))
    assert (volume.state, volume.size) == (VolumeState.DAMAGED, SIZE)


INTERESTING = st.sampled_from([0, 1, 2, 5, 0x0F, 0x55, 0x7F, 0x80, 0x85, 0xAA, 0xEE, 0xFF])
SPOTS = st.one_of(
    st.integers(440, 512),
    st.integers(512, 604),
    st.integers(1024, 1536),
    st.integers(SIZE - 512, SIZE - 420),
    st.integers(0, SIZE - 1),
)
LINKS = st.integers(498, 902).map(lambda lba: lba * SECTOR + 446)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    changes=st.lists(st.tuples(st.one_of(SPOTS, LINKS), st.one_of(INTERESTING, st.integers(0, 255))), min_size=1, max_size=12)
)
def test_mutations(disk: bytes, changes: list[tuple[int, int]]) -> None:
    content = bytearray(disk)
    for offset, value in changes:
        content[offset] = value
    blocks = Memory(content)
    for volume in scanned(blocks):
        if volume.size:
            assert read(volume.blocks, volume.size - 1, 1)[0] == content[(volume.offset or 0) + volume.size - 1]
    assert blocks.bytes_read < 64 * MIB


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    sectors=st.lists(st.binary(min_size=64, max_size=64), min_size=1, max_size=4), at=st.lists(st.integers(0, 64), min_size=4)
)
def test_random_tables(sectors: list[bytes], at: list[int]) -> None:
    """Boot records with random entries, here and there in a small disk."""
    content = bytearray(64 * 1024)
    for sector, lba in zip(sectors, [0, *at], strict=False):
        start = min(lba, 127) * SECTOR
        entries = bytearray(sector)
        entries[0::16] = bytes(4)
        content[start + 446 : start + 512] = bytes(entries) + b"\x55\xaa"
    scanned(Memory(content))


@settings(max_examples=300, deadline=None)
@given(
    links=st.lists(
        st.tuples(st.integers(0, 63), st.integers(0, 63), st.sampled_from([5, 15, 0x85, 0x83]), st.integers(0, 40)), max_size=40
    )
)
def test_random_chains(links: list[tuple[int, int, int, int]]) -> None:
    """Links of logical partitions that lead anywhere, also in circles."""
    content = bytearray(64 * SECTOR)
    for lba, target, kind, size in [(0, 1, 5, 63), *links]:
        entry = struct.pack("<B3xB3xII", 0, kind, target, size)
        content[lba * SECTOR + 446 : lba * SECTOR + 512] = (struct.pack("<B3xB3xII", 0, 0x83, 1, 1) + entry).ljust(
            64, b"\0"
        ) + b"\x55\xaa"
    blocks = Memory(content)
    scanned(blocks)
    assert blocks.bytes_read < 2 * MIB


def test_the_disk_is_only_read(tmp_path: Path, disk: bytes) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(disk)
    before = path.stat()
    blocks = HostFile.open(str(path))
    scan([Slice(blocks, 0, SIZE)])
    blocks.close()
    after = path.stat()
    assert path.read_bytes() == disk
    assert (before.st_mtime_ns, before.st_atime_ns, before.st_ctime_ns) == (
        after.st_mtime_ns,
        after.st_atime_ns,
        after.st_ctime_ns,
    )
