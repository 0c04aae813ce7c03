"""MBR tables against sfdisk and libblkid, and every way a chain of logical partitions can be broken."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mntapi.blocks import Fault, HostFile, Slice, read
from mntapi.errors import Corrupt
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.volumes import bootrecord, mbr
from mntapi.volumes.scan import scan

SECTOR = 512
MIB = 1 << 20
EXTENDED = ("5", "f", "85")
ALL_LINKS = [
    "label: dos\nlabel-id: 0x8f8378c0",
    "start=2048, size=2048, type=83, bootable",
    "start=4096, size=2048, type=7",
    "start=6144, size=12288, type={}",
    "start=18432, type=82",
    "start=6200, size=100, type=83",
    "start=6400, size=2000, type=b",
    "start=8500, size=3000, type=8e",
    "start=12000, size=6000, type=fd",
]

pytestmark = pytest.mark.skipif(shutil.which("sfdisk") is None, reason="sfdisk is not installed")


def sfdisk(path: Path, script: str, size: int = 16 * MIB) -> Path:
    """A disk with the table that sfdisk makes of the script."""
    with path.open("wb") as out:
        out.truncate(size)
    subprocess.run(["sfdisk", "-q", "--no-reread", str(path)], input=script, text=True, check=True, capture_output=True)
    return path


def sfdisk_says(path: Path) -> list[tuple[str, int, int, str]]:
    """Name, start, size (bytes) and type byte of all but extended partitions, by ``sfdisk --json``."""
    table = json.loads(subprocess.run(["sfdisk", "--json", str(path)], check=True, capture_output=True).stdout)[
        "partitiontable"
    ]
    return [
        (
            "disk0p" + partition["node"].removeprefix(str(path)),
            partition["start"] * SECTOR,
            partition["size"] * SECTOR,
            f"0x{int(partition['type'], 16):02x}",
        )
        for partition in table["partitions"]
        if partition["type"] not in EXTENDED and partition["size"]
    ]


def ours(volumes: list[Volume]) -> list[tuple[str, int | None, int, str | None]]:
    return [(volume.name, volume.offset, volume.size, volume.type_code) for volume in volumes]


def patch(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as out:
        out.seek(offset)
        out.write(content)


def entry(kind: int, first: int, count: int, boot: int = 0) -> bytes:
    return struct.pack("<B3xB3xII", boot, kind, first, count)


def record(*entries: bytes, signature: int = 0) -> bytes:
    return bytes(440) + struct.pack("<IH", signature, 0) + b"".join(entries).ljust(64, b"\0") + b"\x55\xaa"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with primary and logical partitions."""
    return sfdisk(tmp_path / "disk.raw", "\n".join(ALL_LINKS).format("5"))


def scanned(path: Path, bad: tuple[tuple[int, int], ...] = (), size: int | None = None) -> list[Volume]:
    """What a scan finds. The file is closed: the volumes' fields are what counts."""
    blocks = HostFile.open(str(path))
    try:
        inner: Blocks = Slice(blocks, 0, size) if size is not None else blocks
        return scan([Fault(inner, bad=bad) if bad else inner])
    finally:
        blocks.close()


@pytest.mark.parametrize("extended", EXTENDED)
def test_primary_and_logical(tmp_path: Path, extended: str) -> None:
    path = sfdisk(tmp_path / "disk.raw", "\n".join(ALL_LINKS).format(extended))
    volumes = scanned(path)
    assert len(volumes) == 7
    assert ours(volumes) == sfdisk_says(path)
    assert all(volume.state is VolumeState.OK and volume.reason is None and volume.kind == "partition" for volume in volumes)
    assert [volume.id for volume in volumes] == [f"mbr:8f8378c0-0{number}" for number in (1, 2, 4, 5, 6, 7, 8)]
    assert {volume.members for volume in volumes} == {("disk:8f8378c0",)}


@pytest.mark.parametrize(
    "script",
    [
        "label: dos\nstart=1, size=1",
        "label: dos\nx2 : start=2048, size=2048, type=7\nx4 : start=1024, size=1024",
        "label: dos\nstart=63, size=990, type=5\nstart=1100, type=6\nstart=70, size=9\nstart=100, size=9\nstart=200, size=800",
        "label: dos\nstart=2048, size=20, type=f",
    ],
)
def test_other_tables(tmp_path: Path, script: str) -> None:
    path = sfdisk(tmp_path / "disk.raw", script)
    volumes = scanned(path)
    expected = sfdisk_says(path)
    assert ours(volumes) == (expected or [("disk0", 0, 16 * MIB, None)])


def test_the_bytes_are_those_of_the_partition(disk: Path) -> None:
    with disk.open("r+b") as out:
        for lba in (2048, 4095, 6200, 6299, 18432, 32767):
            out.seek(lba * SECTOR)
            out.write(lba.to_bytes(8, "big") * 64)
    blocks = HostFile.open(str(disk))
    volumes = {volume.name: volume.blocks for volume in scan([blocks])}
    for name, first, last in (("disk0p1", 2048, 4095), ("disk0p5", 6200, 6299), ("disk0p4", 18432, 32767)):
        inner = volumes[name]
        assert inner.size == (last - first + 1) * SECTOR
        assert read(inner, 0, SECTOR) == first.to_bytes(8, "big") * 64
        assert read(inner, inner.size - SECTOR, SECTOR) == last.to_bytes(8, "big") * 64
    blocks.close()


def test_without_a_signature_the_disk_is_named(tmp_path: Path) -> None:
    path = sfdisk(tmp_path / "disk.raw", "label: dos\nsize=2048")
    patch(path, 440, bytes(4))
    assert [volume.id for volume in scanned(path)] == ["mbr:disk:disk.raw-01"]


def test_overlapping_partitions_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(record(entry(7, 100, 100), entry(0x83, 150, 100), entry(0, 0, 0), entry(0x83, 100, 100)).ljust(MIB, b"\0"))
    expected = [("disk0p1", 51200, 51200, "0x07"), ("disk0p2", 76800, 51200, "0x83"), ("disk0p4", 51200, 51200, "0x83")]
    assert ours(scanned(path)) == sfdisk_says(path) == expected


def test_type_zero_counts_if_it_has_a_size(tmp_path: Path) -> None:
    """The first partition of isohybrid images; Linux and sfdisk list it."""
    path = tmp_path / "disk.raw"
    path.write_bytes(record(entry(0, 0, 500, 0x80), entry(0xEF, 600, 100), entry(0x83, 700, 0)).ljust(MIB, b"\0"))
    assert ours(scanned(path)) == sfdisk_says(path)
    assert len(scanned(path)) == 2


def test_past_the_end(disk: Path) -> None:
    size = 20000 * SECTOR
    volumes = {volume.name: volume for volume in scanned(disk, size=size)}
    assert len(volumes) == 7
    cut = volumes.pop("disk0p4")
    assert (cut.state, cut.offset, cut.size) == (VolumeState.INCOMPLETE, 18432 * SECTOR, size - 18432 * SECTOR)
    full = (32768 - 18432) * SECTOR
    assert cut.reason == f"goes past the end of the disk: {full - cut.size} of its {full} bytes are missing"
    assert {volume.state for volume in volumes.values()} == {VolumeState.OK}


def test_all_of_it_past_the_end(disk: Path) -> None:
    """A disk cut off in front of its partitions; the extended one is listed because its chain cannot be read."""
    volumes = scanned(disk, size=SECTOR)
    assert [(volume.name, volume.size, volume.state) for volume in volumes] == [
        (f"disk0p{number}", 0, VolumeState.INCOMPLETE) for number in (1, 2, 3, 4)
    ]
    assert volumes[2].reason is not None
    assert volumes[2].reason.endswith("a link of the logical partitions is past the end of the disk (at byte 3145728)")


def test_unreadable_first_sector(disk: Path) -> None:
    (volume,) = scanned(disk, bad=((0, SECTOR),))
    assert (volume.id, volume.state, volume.size) == ("disk:#0", VolumeState.DAMAGED, 16 * MIB)
    assert volume.reason == "cannot be read: injected fault (at byte 0)"


def test_unreadable_link(disk: Path) -> None:
    """Partitions in front of it, the primary ones and the extended one that holds the rest are listed."""
    links = [offset for offset in range(6144 * SECTOR, 18432 * SECTOR, SECTOR) if is_record(disk, offset)]
    assert len(links) == 4
    link = links[2]
    volumes = {volume.name: volume for volume in scanned(disk, bad=((link + 100, 1),))}
    assert list(volumes) == ["disk0p1", "disk0p2", "disk0p3", "disk0p4", "disk0p5", "disk0p6"]
    extended = volumes["disk0p3"]
    assert (extended.state, extended.offset, extended.type_code) == (VolumeState.DAMAGED, 6144 * SECTOR, "0x05")
    assert extended.reason is not None and f"cannot be read: injected fault (at byte {link + 100})" in extended.reason


def is_record(path: Path, offset: int) -> bool:
    with path.open("rb") as file:
        file.seek(offset + 510)
        return file.read(2) == b"\x55\xaa"


def test_damaged_link(disk: Path) -> None:
    patch(disk, 6144 * SECTOR, b"?" * SECTOR)
    extended = scanned(disk)[2]
    assert (extended.name, extended.state) == ("disk0p3", VolumeState.DAMAGED)
    assert extended.reason is not None
    assert f"no boot record (at byte {6144 * SECTOR + 510}, expected 55 aa, found 3f 3f)" in extended.reason


def chained(tmp_path: Path, links: dict[int, bytes], extended: tuple[int, int] = (100, 900)) -> list[Volume]:
    """A disk of 1 MiB with one extended partition of (first sector, sectors) and boot records at these sectors."""
    path = tmp_path / "disk.raw"
    path.write_bytes(record(entry(5, *extended), signature=0xABCD).ljust(MIB, b"\0"))
    for lba, link in links.items():
        patch(path, lba * SECTOR, link)
    return scanned(path)


@pytest.mark.parametrize("target", [0, 200])
def test_a_chain_that_loops(tmp_path: Path, target: int) -> None:
    first = record(entry(0x83, 1, 10), entry(5, 200, 100))
    second = record(entry(0x83, 1, 20), entry(5, target, 100))
    extended, *logical = chained(tmp_path, {100: first, 300: second})
    assert [(volume.name, volume.offset) for volume in logical] == [("disk0p5", 101 * SECTOR), ("disk0p6", 301 * SECTOR)]
    assert (extended.state, extended.name) == (VolumeState.DAMAGED, "disk0p1")
    assert extended.reason is not None and "loops" in extended.reason


def test_a_chain_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mbr, "MAX_LINKS", 8)
    links = {100 + n: record(entry(5, n + 1, 1)) for n in range(100)}
    (extended,) = chained(tmp_path, links)
    assert (extended.state, extended.size) == (VolumeState.DAMAGED, 900 * SECTOR)
    assert extended.reason is not None and "more than 8 links" in extended.reason


def test_links_backwards_and_in_any_entry(tmp_path: Path) -> None:
    """DR-DOS wrote the link first; nothing says that the chain ascends."""
    volumes = chained(
        tmp_path,
        {
            100: record(entry(5, 600, 200), entry(6, 1, 50)),
            700: record(entry(7, 2, 30), entry(5, 300, 90)),
            400: record(entry(0, 0, 0), entry(0x83, 3, 7)),
        },
    )
    assert [(volume.name, volume.offset) for volume in volumes] == [
        ("disk0p5", 101 * SECTOR),
        ("disk0p6", 702 * SECTOR),
        ("disk0p7", 403 * SECTOR),
    ]


def test_an_entry_outside_its_extended_partition(tmp_path: Path) -> None:
    """Entries one and two are believed, as Linux does, and it is said; three and four must make sense."""
    link = record(entry(0x83, 1000, 50), entry(0x83, 1, 10), entry(0x83, 1000, 50), entry(0x83, 20, 10))
    volumes = chained(tmp_path, {100: link})
    assert [(volume.name, volume.offset, volume.reason) for volume in volumes] == [
        ("disk0p5", 1100 * SECTOR, "lies outside its extended partition"),
        ("disk0p6", 101 * SECTOR, None),
        ("disk0p7", 120 * SECTOR, None),
    ]


def test_a_link_outside_the_disk(tmp_path: Path) -> None:
    extended, logical = chained(tmp_path, {100: record(entry(0x83, 1, 10), entry(5, 0xFFFFFFF0, 10))})
    assert logical.name == "disk0p5"
    assert extended.reason is not None and f"(at byte {(0xFFFFFFF0 + 100) * SECTOR})" in extended.reason


def test_an_extended_partition_never_used(tmp_path: Path) -> None:
    """Nothing was ever written into it: the disk has no volume but itself."""
    (volume,) = chained(tmp_path, {})
    assert (volume.kind, volume.state) == ("disk", VolumeState.OK)


def test_two_extended_partitions(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(record(entry(5, 100, 100), entry(0xF, 300, 100)).ljust(MIB, b"\0"))
    patch(path, 100 * SECTOR, record(entry(7, 1, 9)))
    patch(path, 300 * SECTOR, record(entry(7, 2, 9)))
    assert [(v.name, v.offset) for v in scanned(path)] == [("disk0p5", 101 * SECTOR), ("disk0p6", 302 * SECTOR)]


class Declared(Slice):
    """A disk that says how large its sectors are."""

    def __init__(self, inner: Blocks, sector_size: int) -> None:
        super().__init__(inner, 0, inner.size)
        self.sector_size = sector_size


def test_declared_sector_size(tmp_path: Path) -> None:
    """4096 was told by somebody who knows, and holds even where a reading in 512 would fit a disk that was cut off."""
    path = tmp_path / "disk.raw"
    path.write_bytes(record(entry(0x83, 8, 100)).ljust(MIB, b"\0"))
    blocks = HostFile.open(str(path))
    assert [(v.offset, v.size) for v in scan([blocks])] == [(8 * 512, 100 * 512)]
    assert [(v.offset, v.size) for v in scan([Declared(blocks, 4096)])] == [(8 * 4096, 100 * 4096)]
    (cut,) = scan([Declared(Slice(blocks, 0, MIB // 4), 4096)])
    assert (cut.offset, cut.state) == (8 * 4096, VolumeState.INCOMPLETE)
    blocks.close()


def test_an_unreadable_link_does_not_change_the_sector_size(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(record(entry(0x83, 1, 4), entry(5, 8, 4)).ljust(MIB, b"\0"))
    patch(path, 8 * 4096, record(entry(0x83, 1, 2)))
    assert [(v.name, v.offset) for v in scanned(path)] == [("disk0p1", 4096), ("disk0p5", 9 * 4096)]
    primary, extended = scanned(path, bad=((8 * SECTOR, 1),))
    assert (primary.offset, extended.offset, extended.state) == (SECTOR, 8 * SECTOR, VolumeState.DAMAGED)


def test_a_table_that_goes_away(tmp_path: Path) -> None:
    """Between the claim and the reading, as on storage that fails: the disk stays listed."""
    path = sfdisk(tmp_path / "disk.raw", "label: dos\nsize=2048")
    (partition,) = scanned(path)
    path.write_bytes(bytes(MIB))
    blocks = HostFile.open(str(path))
    disk = Volume(id="disk:x", name="disk0", kind="disk", blocks=blocks, disk=0, offset=0)
    (volume,) = mbr.volumes([disk])
    assert (volume.id, volume.state) == ("disk:x", VolumeState.DAMAGED)
    assert not mbr.claims(partition)
    blocks.close()


@pytest.mark.parametrize("boot", [0x01, 0x79, 0xFF])
def test_a_boot_indicator_that_is_none(tmp_path: Path, boot: int) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(record(entry(0x83, 8, 100), entry(0x83, 200, 100, boot)).ljust(MIB, b"\0"))
    assert [volume.kind for volume in scanned(path)] == ["disk"]
    assert blkid(path).get("PTTYPE") is None


def blkid(path: Path) -> dict[str, str]:
    """What ``blkid -p`` says of the whole file."""
    text = subprocess.run(["blkid", "-p", "-o", "export", str(path)], capture_output=True, text=True).stdout
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


@pytest.mark.skipif(shutil.which("blkid") is None, reason="blkid is not installed")
@pytest.mark.parametrize(
    "command",
    [
        "mkfs.fat -F 12 -C {} 1440",
        "mkfs.fat -F 16 --mbr=y -C {} 16384",
        "mkfs.fat -F 32 --mbr=n -C {} 65536",
        "mkfs.ntfs -Q -F -q {}",
        "mkfs.exfat {}",
        "mkfs.ext4 -q -F {}",
        "mkfs.xfs -q -f {}",
        "mkswap {}",
    ],
)
def test_a_file_system_on_the_whole_disk(tmp_path: Path, command: str) -> None:
    """Boot sectors that end in 55 AA are not tables: what libblkid calls a file system without a table is one volume."""
    program, *arguments = command.format(path := tmp_path / "disk.raw").split()
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    if "-C" not in arguments:
        with path.open("wb") as out:
            out.truncate(320 * MIB)
    subprocess.run([program, *arguments], check=True, capture_output=True)
    found = blkid(path)
    assert "TYPE" in found
    assert "PTTYPE" not in found or program == "mkfs.exfat"  # libblkid 2.38 takes its zeros for an empty table
    (volume,) = scanned(path)
    assert (volume.kind, volume.state, volume.size) == ("disk", VolumeState.OK, path.stat().st_size)


def boot_sector(**changes: int) -> bytes:
    """A FAT16 boot sector without a name, whose table area would pass for a table."""
    values = {"size": 512, "cluster": 4, "reserved": 1, "fats": 2, "root": 512, "small": 20480, "media": 0xF8, "fat": 20}
    values.update(changes)
    sector = bytearray(record(entry(0x83, 1, 10)))
    struct.pack_into("<HBHBHHBH", sector, 11, *values.values())
    return bytes(sector)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size": 256},
        {"size": 513},
        {"cluster": 3},
        {"cluster": 0},
        {"reserved": 0},
        {"fats": 0},
        {"media": 0x11},
        {"media": 0xF0},
        {"small": 10},
        {"cluster": 1, "small": 0xFFFF, "fat": 1},
        {"root": 0xFFFF, "small": 1000},
    ],
    ids=str,
)
def test_fat_parameters_without_a_name(tmp_path: Path, changes: dict[str, int]) -> None:
    """Where each number stops making sense, libblkid agrees."""
    path = tmp_path / "disk.raw"
    path.write_bytes(boot_sector(**changes).ljust(10 * MIB, b"\0"))
    found = blkid(path)
    assert [volume.kind for volume in scanned(path)] == ["partition" if found.get("PTTYPE") == "dos" else "disk"]


@pytest.mark.parametrize(
    ("offset", "name"), [(3, b"NTFS    "), (3, b"EXFAT   "), (3, b"-FVE-FS-"), (0, bytes.fromhex("c9c2d4c1"))]
)
def test_names_that_rule_a_table_out(offset: int, name: bytes) -> None:
    sector = bytearray(record(entry(0x83, 1, 10)))
    assert bootrecord.is_table(bytes(sector))
    sector[offset : offset + len(name)] = name
    assert not bootrecord.is_table(bytes(sector))


@pytest.mark.parametrize("name", [b"JFS     ", b"HPFS    "])
def test_pseudo_fat_parameters(name: bytes) -> None:
    """OS/2 puts FAT's parameters in front of JFS and HPFS; they prove nothing."""
    sector = bytearray(boot_sector())
    assert not bootrecord.is_table(bytes(sector))
    sector[54:62] = name
    assert bootrecord.is_table(bytes(sector))


def test_fat32_parameters() -> None:
    sector = bytearray(boot_sector(small=0, fat=0, root=0))
    struct.pack_into("<I", sector, 32, 0x0FFFFFFF)
    struct.pack_into("<I", sector, 36, 1000)
    assert bootrecord.is_filesystem(bytes(sector))
    struct.pack_into("<I", sector, 36, 0)
    assert not bootrecord.is_filesystem(bytes(sector))


def test_an_empty_table_is_none(tmp_path: Path) -> None:
    assert [volume.kind for volume in scanned(sfdisk(tmp_path / "disk.raw", "label: dos"))] == ["disk"]


def test_disk_too_small_for_a_table(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(record(entry(0x83, 1, 1))[:511])
    assert [volume.kind for volume in scanned(path)] == ["disk"]


def test_errors_have_a_place(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(MIB))
    blocks = HostFile.open(str(path))
    disk = Volume(id="disk:x", name="disk0", kind="disk", blocks=blocks, disk=0, offset=0)
    with pytest.raises(Corrupt) as error:
        list(mbr._partitions(disk))
    assert error.value.offset == 0
    blocks.close()
