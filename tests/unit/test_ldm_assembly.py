"""Groups that no sample has, made by hand: mirrors of spans and stripes, records that contradict each other, hostile databases.

What the disks hold is known by construction (each sector has its number); that the databases are right, ldmtool says.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.ldm_builder import (
    GROUP,
    RAID5,
    SECTOR,
    STRIPED,
    Database,
    Disk,
    component_record,
    disk_record,
    partition_record,
    volume_guid,
    volume_record,
)
from contract.raid_model import Memory as Stored
from mntapi.blocks import Slice, check_range, read
from mntapi.blocks.memory_overlay import MemoryOverlay
from mntapi.blocks.writable import writable
from mntapi.errors import ReadFailed, Unsupported
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.volumes import ldm
from mntapi.volumes.ldm import assembly
from mntapi.volumes.names import component_name
from mntapi.volumes.scan import find_volumes, scan

DISKS = [disk_record(number) for number in (11, 12, 13, 14)]


class Memory:
    """A disk in memory."""

    def __init__(self, content: bytes | bytearray, sector_size: int = SECTOR) -> None:
        self.content = content
        self.size = len(content)
        self.sector_size = sector_size

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        buffer[:] = self.content[offset : offset + len(buffer)]

    def extents(self, offset: int, length: int):
        raise ReadFailed("a scan needs no extents")

    def close(self) -> None:
        """Nothing to release."""


def volumes_of(records: Sequence[bytes], *numbers: int, **options: object) -> list[Volume]:
    """The LDM volumes of a group with these records, on the disks of these numbers."""
    database = Database([*records, *DISKS], **options)  # type: ignore[arg-type]
    disks = [Memory(Disk(number, database, data_sectors=1024).build()) for number in numbers or (11, 12, 13, 14)]
    return [volume for volume in scan(disks, [ldm]) if volume.kind == "ldm"]


def numbers(volume: Volume, start: int = 0, length: int | None = None) -> list[tuple[int, int]]:
    """Disk and sector of every sector of the volume."""
    raw = read(volume.blocks, start, volume.size - start if length is None else length)
    return [struct.unpack_from("<II", raw, at) for at in range(0, len(raw), SECTOR)]


def span(disk: int, start: int, count: int) -> list[tuple[int, int]]:
    return [(disk, sector) for sector in range(start, start + count)]


MIRROR_OF_SPANS = [
    volume_record(1, "Both", 2, 24),
    component_record(2, 1, 2),
    component_record(3, 1, 2),
    partition_record(4, 2, 11, 0, 16),
    partition_record(5, 2, 12, 32, 8, offset=16),
    partition_record(6, 3, 13, 100, 8),
    partition_record(7, 3, 14, 200, 16, offset=8),
]


def test_a_mirror_of_spanned_volumes() -> None:
    """Each copy lacks another disk: together they are whole."""
    (volume,) = volumes_of(MIRROR_OF_SPANS)
    assert (volume.id, volume.name, volume.state) == (f"ldm:{volume_guid(1)}", "ldm-Both", VolumeState.OK)
    assert volume.details["layout"] == "mirrored spanned"
    assert numbers(volume) == span(11, 0, 16) + span(12, 32, 8)
    (volume,) = volumes_of(MIRROR_OF_SPANS, 12, 13, 14)
    assert numbers(volume) == span(13, 100, 8) + span(14, 200, 16)
    assert volume.reason is not None and volume.reason.startswith("disk Disk11")
    assert volume.state is VolumeState.DEGRADED
    (volume,) = volumes_of(MIRROR_OF_SPANS, 11, 14)
    assert volume.state is VolumeState.INCOMPLETE
    assert numbers(volume, 0, 16 * SECTOR) == span(11, 0, 16)
    assert numbers(volume, 16 * SECTOR) == span(14, 208, 8)


def test_a_mirror_of_striped_volumes() -> None:
    records = [
        volume_record(1, "Both", 2, 32),
        component_record(2, 1, 2, STRIPED, chunk=8, columns=2),
        component_record(3, 1, 2, STRIPED, chunk=8, columns=2),
        partition_record(4, 2, 11, 0, 16),
        partition_record(5, 2, 12, 0, 16, column=1),
        partition_record(6, 3, 13, 0, 16, column=1),
        partition_record(7, 3, 14, 0, 16),
    ]
    (volume,) = volumes_of(records)
    assert volume.details["layout"] == "mirrored striped"
    assert numbers(volume) == span(11, 0, 8) + span(12, 0, 8) + span(11, 8, 8) + span(12, 8, 8)
    (volume,) = volumes_of(records, 11, 13, 14)
    assert numbers(volume) == span(14, 0, 8) + span(13, 0, 8) + span(14, 8, 8) + span(13, 8, 8)


def test_a_mirror_of_old_disks_is_not_written() -> None:
    """One alone is read, as they may be of different times; written, it would differ from the other."""
    records = [volume_record(1, "V", 2, 8), component_record(2, 1, 1), component_record(3, 1, 1)]
    records += [partition_record(4, 2, 11, 0, 8), partition_record(5, 3, 12, 0, 8)]
    database = [Database([*records, *DISKS], committed=number) for number in (4, 4, 5)]
    disks = [
        MemoryOverlay(Memory(Disk(number, each, data_sectors=1024).build()))
        for number, each in zip((11, 12, 13), database, strict=True)
    ]
    (volume,) = (volume for volume in scan(disks, [ldm]) if volume.kind == "ldm")
    assert volume.state is VolumeState.OK and "was away while others changed" in (volume.reason or "")
    assert numbers(volume) == span(11, 0, 8)
    with pytest.raises(Unsupported, match="member 1 is missing or not trusted"):
        writable(volume.blocks)


def test_disks_of_which_there_are_copies() -> None:
    """A volume on several of them is read if they are alike, but not written."""
    database = Database([*MIRROR_OF_SPANS, *DISKS])
    disks = [MemoryOverlay(Stored(Disk(number, database, data_sectors=1024).build())) for number in (11, 12, 13, 14, 11)]
    (volume,) = (volume for volume in scan(disks, [ldm]) if volume.kind == "ldm")
    assert (volume.state, volume.reason, numbers(volume)) == (VolumeState.OK, None, span(11, 0, 16) + span(12, 32, 8))
    with pytest.raises(Unsupported, match="a copy of disk Disk11"):
        writable(volume.blocks)
    disks[4].write(disks[4].size - 1, memoryview(b"?"))
    (volume,) = (volume for volume in scan(disks, [ldm]) if volume.kind == "ldm")
    assert volume.state is VolumeState.DEGRADED and "is there several times, and disk4, disk0 differ" in (volume.reason or "")
    with pytest.raises(Unsupported, match="is there several times"):
        writable(volume.blocks)


def test_a_copy_the_database_does_not_trust() -> None:
    records = [volume_record(1, "V", 2, 8), component_record(2, 1, 1, state="STALE"), component_record(3, 1, 1)]
    records += [partition_record(4, 2, 11, 0, 8), partition_record(5, 3, 12, 0, 8)]
    (volume,) = volumes_of(records)
    assert numbers(volume) == span(12, 0, 8)
    assert (volume.state, volume.reason) == (VolumeState.DEGRADED, "copy C2 is STALE")
    (volume,) = volumes_of(records, 11)
    assert numbers(volume) == span(11, 0, 8)
    assert volume.state is VolumeState.INCOMPLETE and (volume.reason or "").endswith("what is read is an old copy")
    assert volume.reason is not None and "C2 is STALE" in volume.reason and "Disk12" in volume.reason


def test_a_state_that_is_not_active_is_told() -> None:
    records = [volume_record(1, "V", 1, 8, state="NEEDSYNC"), component_record(2, 1, 1), partition_record(4, 2, 11, 0, 8)]
    (volume,) = volumes_of(records)
    assert (volume.state, volume.reason) == (VolumeState.OK, "the database says it is NEEDSYNC")


@pytest.mark.skipif(shutil.which("ldmtool") is None, reason="ldmtool is not installed")
def test_ldmtool_reads_these_databases(tmp_path: Path) -> None:
    records = [
        volume_record(1, "Stripe1", 1, 32, hint="Q:"),
        component_record(2, 1, 2, STRIPED, chunk=8, columns=2),
        partition_record(4, 2, 11, 0, 16),
        partition_record(5, 2, 12, 0, 16, column=1),
    ]
    database = Database([*records, *DISKS])
    paths = []
    for number in (11, 12):
        paths.append(tmp_path / f"{number}.img")
        paths[-1].write_bytes(Disk(number, database).build())
    script = f"scan {' '.join(map(str, paths))}\nshow volume {GROUP} Stripe1\n"
    done = subprocess.run(["ldmtool"], input=script, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.split("ldm> ")[2].partition("\n")[2])
    (volume,) = volumes_of(records)
    assert volume.id == f"ldm:{said['guid']}"
    assert (volume.size, volume.details["drive"]) == (said["size"] * SECTOR, said["hint"])
    assert (volume.details["layout"], volume.details["chunk"]) == (said["type"], "4.00 KiB")
    assert said["chunk-size"] == 8
    assert volume.details["partitions"] == ", ".join(said["partitions"])


V, C, P = volume_record(1, "V", 1, 16), component_record(2, 1, 1), partition_record(3, 2, 11, 0, 16)


@pytest.mark.parametrize(
    ("records", "state", "text"),
    [
        ([V], "damaged", "components are not in the database"),
        ([volume_record(1, "V", 2, 16), C, P], "damaged", "components are not in the database"),
        ([V, C], "damaged", "partitions of component C2 are not in the database"),
        ([V, component_record(2, 1, 2), P], "damaged", "partitions of component C2 are not in the database"),
        ([V, C, partition_record(3, 2, 99, 0, 16)], "damaged", "the disk of partition P3 is not in the database"),
        ([V, C, partition_record(3, 2, 11, 0, 8)], "damaged", "component C2 is too small"),
        ([V, C, partition_record(3, 2, 11, 0, 16, offset=8)], "damaged", "does not begin where the one before it ends"),
        ([volume_record(1, "V", 1, 0), C, P], "damaged", "impossible size"),
        ([volume_record(1, "V", 1, 1 << 60), C, P], "damaged", "impossible size"),
        ([V, component_record(2, 1, 1, STRIPED, chunk=8, columns=1), P], "damaged", "1 columns in chunks of 4096 bytes"),
        ([V, component_record(2, 1, 1, RAID5), P], "damaged", "1 columns in chunks of 0 bytes"),
        (
            [V, component_record(2, 1, 2, STRIPED, chunk=8, columns=1), P, partition_record(4, 2, 12, 0, 8, offset=16)],
            "unsupported",
            "columns of several partitions",
        ),
        (
            [V, component_record(2, 1, 2, STRIPED, chunk=8, columns=2), P, partition_record(4, 2, 12, 0, 7, column=1)],
            "damaged",
            "component C2 is too small",
        ),
    ],
)
def test_records_that_contradict_each_other(records: list[bytes], state: str, text: str) -> None:
    """The volume says why it cannot be read, and others of the group are not affected."""
    good = [volume_record(21, "Good", 1, 8), component_record(22, 21, 1), partition_record(23, 22, 12, 40, 8)]
    whole, broken = sorted(volumes_of([*records, *good]), key=lambda volume: volume.name)
    assert (broken.name, broken.state.value) == ("ldm-V", state)
    assert broken.reason is not None and text in broken.reason
    if broken.size:
        with pytest.raises(ReadFailed, match=text):
            read(broken.blocks, 0, 1)
    assert (whole.state, numbers(whole)) == (VolumeState.OK, span(12, 40, 8))


def test_columns_have_a_limit() -> None:
    count = assembly.MAX_MEMBERS + 1
    records = [volume_record(1, "V", 1, 16), component_record(2, 1, count, STRIPED, chunk=8, columns=count)]
    records += [partition_record(10 + column, 2, 11, 0, 8, column=column) for column in range(count)]
    database = Database([*records, *DISKS], slots=1000)
    volume = scan([Memory(Disk(11, database).build())], [ldm])[-1]
    assert volume.reason is not None and f"{count} columns" in volume.reason


def test_sectors_of_4096_bytes() -> None:
    """The header counts in sectors of the disk, the records in units of 512 bytes; the medium need not say which it has."""
    database = Database([volume_record(1, "V", 1, 32), component_record(2, 1, 1), partition_record(3, 2, 11, 16, 32), *DISKS])
    disk = Disk(11, database, data_sectors=64, sector=4096)
    content = disk.build()
    assert len(content) == (63 + 64 + 2048) * 4096
    for sector_size in (4096, 512):
        (volume,) = scan([Memory(content, sector_size)], [ldm])
        assert volume.offset == 63 * 4096 + 16 * SECTOR
        assert read(volume.blocks, 0, volume.size) == disk.data(2, 4)


def test_a_partition_on_no_part_of_its_disk() -> None:
    records = [V, C, partition_record(3, 2, 11, 1 << 50, 16)]
    (volume,) = volumes_of(records)
    assert volume.state is VolumeState.INCOMPLETE
    assert volume.reason is not None and "ends before partition P3 does" in volume.reason
    with pytest.raises(ReadFailed):
        read(volume.blocks, 0, 1)


def test_a_disk_the_group_does_not_know() -> None:
    database = Database([V, C, P, *DISKS])
    result = find_volumes([Memory(Disk(number, database, data_sectors=64).build()) for number in (11, 77)], [ldm])
    stranger = next(volume for volume in result.volumes if volume.kind == "disk")
    assert stranger.reason == "the group's database does not know this disk"
    assert {volume.name for volume in result.volumes} == {"ldm-V", "disk1"}


def test_two_groups_do_not_mix() -> None:
    one = Disk(11, Database([V, C, P, *DISKS]), data_sectors=64).build()
    private = len(one) - 2048 * SECTOR
    other = bytearray(Disk(12, Database([V, C, partition_record(3, 2, 12, 0, 16), *DISKS]), data_sectors=64).build())
    guid = b"99999999-2222-3333-4444-555555555555"
    for place in (6 * SECTOR, private + 1856 * SECTOR, private + 2047 * SECTOR):
        total = int.from_bytes(other[place + 8 : place + 12], "big") + sum(guid) - sum(GROUP.encode())
        other[place + 0xB0 : place + 0xB0 + 36] = guid
        other[place + 8 : place + 12] = total.to_bytes(4, "big")
    volumes = scan([Memory(one), Memory(other)], [ldm])
    assert [numbers(volume)[0][0] for volume in volumes] == [11, 12]
    assert [volume.id for volume in volumes] == [f"ldm:{volume_guid(1)}@{volume.members[0]}" for volume in volumes]


def test_names_from_disk() -> None:
    assert component_name("ldm-Volume1") == "ldm-Volume1"
    assert component_name("ldm-../\0\n/x") == "ldm-..____x"
    assert len(component_name("ldm-" + "é" * 300).encode()) <= 200


@pytest.mark.parametrize(("sectors", "count"), [(1 << 31, 2000), (8, 30000)])
def test_large_databases_are_read_in_time(sectors: int, count: int) -> None:
    """As many records as fit into the largest database, all partitions of one volume."""
    records = [volume_record(1, "V", 1, sectors * count), component_record(2, 1, count)]
    records += [partition_record(10 + n, 2, 11, 0, sectors, offset=n * sectors) for n in range(count)]
    database = Database([*records, *DISKS], slots=count + 100).build()
    disk = Disk(11, Database(DISKS), data_sectors=64)
    content = bytearray(disk.build())
    private = len(content) - 2048 * SECTOR
    room = 2030 * SECTOR
    content[private + 17 * SECTOR : private + 17 * SECTOR + room] = database[:room].ljust(room, b"\0")
    began = time.process_time()
    result = find_volumes([Memory(content)], [ldm])
    assert time.process_time() - began < 20
    assert result.volumes


BASE = Disk(11, Database([*MIRROR_OF_SPANS, *DISKS], slots=60), data_sectors=64).build()
PRIVATE = len(BASE) - 2048 * SECTOR


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60 * 128 - 1), st.integers(0, 255)), min_size=1, max_size=12))
def test_any_bytes_in_the_database(patches: list[tuple[int, int]]) -> None:
    """No bytes make the scan raise, and what is listed can be asked."""
    content = bytearray(BASE)
    for place, value in patches:
        content[PRIVATE + 17 * SECTOR + place] = value
    for volume in scan([Memory(content)], [ldm]):
        assert volume.size < assembly.MAX_SIZE
        try:
            read(volume.blocks, 0, min(volume.size, 65536))
        except ReadFailed:
            assert volume.state is not VolumeState.OK


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, SECTOR - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_bytes_in_the_headers(patches: list[tuple[int, int]]) -> None:
    """With checksums that are right."""
    content = bytearray(BASE)
    for start in (PRIVATE + 1856 * SECTOR, PRIVATE + 2047 * SECTOR, PRIVATE + SECTOR, PRIVATE + 2 * SECTOR):
        for place, value in patches:
            content[start + place] = value
        total = sum(content[start : start + SECTOR]) - sum(content[start + 8 : start + 12])
        content[start + 8 : start + 12] = total.to_bytes(4, "big")
    content[6 * SECTOR : 7 * SECTOR] = bytes(SECTOR)
    content[PRIVATE + 2045 * SECTOR : PRIVATE + 2047 * SECTOR] = bytes(2 * SECTOR)
    for volume in scan([Memory(content)], [ldm]):
        try:
            read(volume.blocks, 0, min(volume.size, 4096))
        except ReadFailed:
            assert volume.state is not VolumeState.OK


def test_an_unreadable_disk_is_not_hidden() -> None:
    class Dead(Memory):
        def readinto(self, offset: int, buffer: memoryview) -> None:
            raise ReadFailed("cannot be read: dead", offset=offset)

    disks: list[Blocks] = [Dead(BASE), Memory(BASE)]
    (dead,) = (volume for volume in scan(disks, [ldm]) if volume.kind == "disk")
    assert dead.state is VolumeState.DAMAGED


def test_a_disk_inside_a_volume() -> None:
    """A dynamic disk need not be a disk of the set: its volumes then have no place on one."""
    inner = Volume(id="x", name="x", kind="lvm", blocks=Slice(Memory(BASE), 0, len(BASE)))
    assert ldm.claims(inner)
    volume = next(one for one in ldm.volumes([inner]) if one.kind == "ldm")
    assert (volume.disk, volume.offset) == (None, None)
