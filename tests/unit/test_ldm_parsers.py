"""The pure parsers of LDM: what they refuse, and with which words. That they are right, tests/contract/test_ldm.py shows."""

from __future__ import annotations

import struct

import pytest

from contract.ldm_builder import (
    GROUP,
    RAID5,
    SECTOR,
    Database,
    component_record,
    contents,
    disk_guid,
    disk_record,
    partition_record,
    private_header,
    record,
    summed,
    var,
    volume_record,
)
from mntapi.errors import Corrupt, Unsupported
from mntapi.volumes.ldm.database import MAX_FRAGMENTS, MAX_NOTES, parse_database, parse_header
from mntapi.volumes.ldm.header import PrivateHeader, parse_contents
from mntapi.volumes.ldm.header import parse_header as parse_private
from mntapi.volumes.ldm.records import ComponentRecord, DiskRecord, Layout, PartitionRecord, VolumeRecord, parse_record

HEADER = private_header(disk_guid(1), (63, 4096), 4159)
SIMPLE = [
    volume_record(1, "Volume1", 1, 64, hint="E:"),
    component_record(2, 1, 1),
    partition_record(3, 2, 4, 8, 64),
    disk_record(4),
]


def changed(sector: bytes, offset: int, new: bytes) -> bytes:
    """With other bytes and the right checksum."""
    return summed(sector[:offset] + new + sector[offset + len(new) :])


def test_a_private_header() -> None:
    assert parse_private(HEADER) == PrivateHeader(
        sequence=5,
        disk_guid=disk_guid(1),
        group_guid=GROUP,
        group_name="Group",
        sector_size=SECTOR,
        data_start=63 * SECTOR,
        data_length=4096 * SECTOR,
        database_start=4159 * SECTOR,
        database_length=2048 * SECTOR,
        contents=(SECTOR, 2046 * SECTOR),
    )
    large = parse_private(private_header(disk_guid(1), (63, 4096), 4159, sector=4096))
    assert (large.sector_size, large.data_start, large.contents) == (4096, 63 * 4096, (4096, 2046 * 4096))


@pytest.mark.parametrize(
    ("sector", "kind", "text"),
    [
        (b"", Corrupt, "no PRIVHEAD"),
        (bytes(SECTOR), Corrupt, "no PRIVHEAD"),
        (HEADER[:100], Corrupt, "PRIVHEAD is cut off"),
        (HEADER[:-1] + b"x", Corrupt, "checksum of the PRIVHEAD is wrong"),
        (changed(HEADER, 12, b"\0\3"), Unsupported, "LDM version"),
        (changed(HEADER, 0x10F, b"\0\0\x10\0"), Unsupported, "another sector size"),
        (changed(HEADER, 0x13B, b"\xff" * 8), Corrupt, "outside of the private region"),
        (changed(HEADER, 0x30, b"no GUID at all"), Corrupt, "not a GUID"),
        (changed(HEADER, 0xB0, b"\xff\xfe"), Corrupt, "not a GUID"),
    ],
)
def test_bad_private_headers(sector: bytes, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        parse_private(sector)


def test_a_table_of_contents() -> None:
    table = parse_contents(contents(9, (17, 1481)))
    assert (table.sequence, table.config_start, table.config_length) == (9, 17 * SECTOR, 1481 * SECTOR)
    with pytest.raises(Corrupt, match="names no configuration"):
        parse_contents(changed(contents(), 0x24, b"konfig"))
    with pytest.raises(Corrupt, match="checksum"):
        parse_contents(contents()[:-1] + b"x")


def test_records() -> None:
    database = parse_database(Database(SIMPLE, committed=42).build())
    assert (database.sequence, database.damage) == (42, ())
    (volume,), (component,), (partition,), (disk,) = (
        database.volumes,
        database.components,
        database.partitions,
        database.disks,
    )
    assert isinstance(volume, VolumeRecord)
    assert (volume.id, volume.name, volume.state, volume.size, volume.hint) == (1, "Volume1", "ACTIVE", 64 * SECTOR, "E:")
    assert component == ComponentRecord(2, "C2", "ACTIVE", Layout.SPANNED, 1, 1, 0, 0)
    assert partition == PartitionRecord(3, "P3", 8 * SECTOR, 0, 64 * SECTOR, 2, 4, 0)
    assert disk == DiskRecord(4, "Disk4", disk_guid(4))
    assert parse_database(Database([disk_record(4, vista=True)]).build()).disks == (disk,)


@pytest.mark.parametrize(
    ("kind", "body", "error", "text"),
    [
        (0x61, b"", Unsupported, "unknown kind"),
        (0x33, b"\x01", Corrupt, "past the end of its record"),
        (0x33, b"\x09" + bytes(9), Corrupt, "a number of too many bytes"),
        (0x34, var(1) + var("Disk1") + var("no GUID"), Corrupt, "has no GUID"),
        (0x32, var(1) + var("C") + var("ACTIVE") + b"\x07", Unsupported, "unknown layout"),
    ],
)
def test_bad_records(kind: int, body: bytes, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        parse_record(kind, 0, body)


def test_the_group_says_nothing_new() -> None:
    assert parse_record(0x35, 8, b"") is parse_record(0x45, 8, b"") is None


@pytest.mark.parametrize(
    ("offset", "new", "error", "text"),
    [
        (0, b"XMDB", Corrupt, "no VMDB"),
        (8, struct.pack(">I", 1 << 31), Corrupt, "size of a slot"),
        (8, struct.pack(">I", 0), Corrupt, "size of a slot"),
        (12, struct.pack(">I", 1 << 31), Corrupt, "first slot is outside"),
        (18, b"\0\5", Unsupported, "database version"),
    ],
)
def test_bad_databases(offset: int, new: bytes, error: type[Exception], text: str) -> None:
    raw = Database(SIMPLE).build()
    with pytest.raises(error, match=text):
        parse_header(raw[:offset] + new + raw[offset + len(new) :])


def test_a_database_cut_off() -> None:
    with pytest.raises(Corrupt, match="no VMDB"):
        parse_header(b"VMDB")


def damage(database: Database, *patches: tuple[int, bytes]) -> tuple[str, ...]:
    raw = bytearray(database.build())
    for offset, new in patches:
        raw[offset : offset + len(new)] = new
    return parse_database(bytes(raw)).damage


def test_damaged_slots_are_told() -> None:
    many = struct.pack(">HH", 0, MAX_FRAGMENTS + 1)
    assert damage(Database(SIMPLE), (512, b"KBLV"))[0] == "no VBLK (record at byte 512 of the database)"
    assert "fragment 9 of 5" in damage(Database(SIMPLE), (512 + 12, struct.pack(">HH", 9, 5)))[0]
    assert f"fragment 0 of {MAX_FRAGMENTS + 1}" in damage(Database(SIMPLE), (512 + 12, many))[0]
    assert "longer than its slots" in damage(Database(SIMPLE), (512 + 20, b"\xff\xff\xff\xff"))[0]
    assert damage(Database(SIMPLE, counts=(1, 1, 1, 3)))[0].startswith("(1, 1, 1, 3) volumes, components, partitions and")


def test_a_missing_fragment() -> None:
    raw = Database(SIMPLE).build()
    second = raw.index(struct.pack(">IHH", 4, 1, 2)) - 8
    texts = damage(Database(SIMPLE), (second + 8, bytes(8)))
    assert texts[0].startswith("1 of 2 fragments are there")
    assert "0) are there" in texts[1]


def test_much_damage_is_told_in_few_words() -> None:
    texts = damage(Database(SIMPLE), *((at, b"JUNK") for at in range(512, 512 + 128 * 100, 128)))
    assert len(texts) == MAX_NOTES + 1
    assert texts[-1] == "97 more damaged records"


def test_a_change_that_was_cut_off() -> None:
    """First new records are written, then the old ones deleted: those not new count, in the second step those not old."""
    new, old = 1, 2
    partition = partition_record(5, 2, 4, 100, 64, status=new)
    first = Database([*SIMPLE, partition], status=2, counts=(1, 1, 1, 1), pending=8)
    assert [one.id for one in parse_database(first.build()).partitions] == [3]
    kept = [volume_record(1, "Volume1", 1, 64), component_record(2, 1, 1), disk_record(4)]
    second = [*kept, partition_record(3, 2, 4, 8, 64, status=old), partition]
    done = parse_database(Database(second, status=3, counts=(1, 1, 1, 1)).build())
    assert ([one.id for one in done.partitions], done.damage) == ([5], ())
    torn = parse_database(Database(second, status=2, counts=(1, 1, 2, 1)).build())
    assert torn.damage[0].count("the database was being changed") == 1


def test_empty_records_are_nothing() -> None:
    assert parse_database(Database([*SIMPLE, record(0, 0, b"")], counts=(1, 1, 1, 1)).build()).damage == ()


def test_raid5_fields() -> None:
    component = component_record(2, 1, 3, RAID5, chunk=128, columns=3)
    parsed = parse_record(0x32, 0x10, component[8:])
    assert isinstance(parsed, ComponentRecord)
    assert (parsed.layout, parsed.chunk, parsed.columns) == (Layout.RAID5, 128 * SECTOR, 3)
