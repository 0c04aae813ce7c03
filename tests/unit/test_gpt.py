"""GPT against sgdisk, sfdisk and the kernel, and every way a copy of it can be damaged."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import pytest

from mntapi.blocks import Fault, HostFile, Slice, read
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.volumes import gpt
from mntapi.volumes.scan import scan

SECTOR = 512
MIB = 1 << 20
SIZE = 16 * MIB
LAST = SIZE // SECTOR - 1
MICROSOFT_DATA = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"

pytestmark = pytest.mark.skipif(
    shutil.which("sgdisk") is None or shutil.which("sfdisk") is None, reason="sgdisk or sfdisk is not installed"
)


def run(*command: str, text: str | None = None) -> str:
    return subprocess.run(command, input=text, text=True, check=True, capture_output=True).stdout


def empty(path: Path, size: int = SIZE) -> Path:
    with path.open("wb") as out:
        out.truncate(size)
    return path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three partitions by sgdisk: the first usable sector, a gap, and up to the last usable sector."""
    path = empty(tmp_path_factory.mktemp("gpt") / "disk.raw")
    run(
        "sgdisk", "-a", "1", "-U", "DD27F98D-7519-4C9E-8041-F2BFA7B1EF61",
        "-n", "1:34:2047", "-c", "1:EFI system", "-t", "1:EF00", "-u", "1:0C4A2A68-C2C3-441A-8757-1F888ED2715D",
        "-n", "3:4096:8191", "-c", "3:Büro 数据 😀", "-t", "3:0700",
        "-n", f"7:10000:{LAST - 33}", "-t", "7:8300",
        str(path),
    )  # fmt: skip
    return path


@pytest.fixture
def disk(tmp_path: Path, original: Path) -> Path:
    """A copy of it that a test may change."""
    path = empty(tmp_path / "disk.raw")
    content = original.read_bytes()
    patch(path, 0, content[:MIB])
    patch(path, SIZE - MIB, content[-MIB:])
    return path


def sfdisk_says(path: Path) -> list[tuple[str, int, int, str, str | None, str]]:
    """Name, start, size (bytes), type, label and id of every partition, by ``sfdisk --json``."""
    table = json.loads(run("sfdisk", "--json", str(path)))["partitiontable"]
    unit = table.get("sectorsize", SECTOR)
    return [
        (
            "disk0p" + partition["node"].removeprefix(str(path)).removeprefix("p"),
            partition["start"] * unit,
            partition["size"] * unit,
            partition["type"].lower(),
            partition.get("name"),
            "gpt:" + partition["uuid"].lower(),
        )
        for partition in table["partitions"]
    ]


def ours(volumes: list[Volume]) -> list[tuple[str, int | None, int, str | None, str | None, str]]:
    return [(v.name, v.offset, v.size, v.type_code, v.table_label, v.id) for v in volumes]


class Declared(Slice):
    """A disk that says how large its sectors are."""

    def __init__(self, inner: Blocks, sector_size: int) -> None:
        super().__init__(inner, 0, inner.size)
        self.sector_size = sector_size


@contextmanager
def opened(path: Path) -> Iterator[HostFile]:
    blocks = HostFile.open(str(path))
    yield blocks
    blocks.close()


def scanned(path: Path, *, bad: tuple[tuple[int, int], ...] = (), size: int | None = None) -> list[Volume]:
    """What a scan finds, with these ranges unreadable, or cut off after ``size`` bytes."""
    with opened(path) as blocks:
        inner: Blocks = Slice(blocks, 0, size) if size is not None else blocks
        return scan([Fault(inner, bad=bad) if bad else inner])


def patch(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as out:
        out.seek(offset)
        out.write(content)


def damaged_reason(volumes: list[Volume]) -> str:
    """The reason of the one volume, which is the whole disk."""
    (volume,) = volumes
    assert (volume.kind, volume.state, volume.size) == ("disk", VolumeState.DAMAGED, SIZE)
    assert volume.reason is not None
    return volume.reason


HEADER = struct.Struct("<8sIIII QQQQ 16s QIII")
FIELDS = (
    "magic",
    "revision",
    "size",
    "crc",
    "zero",
    "my",
    "alternate",
    "first",
    "last",
    "guid",
    "entries",
    "count",
    "entry",
    "sum",
)


def rewrite(path: Path, lba: int = 1, *, fix: bool = True, **changes: int) -> None:
    """Change fields of the header in sector ``lba``; with ``fix``, its checksum is made right again."""
    with path.open("r+b") as file:
        file.seek(lba * SECTOR)
        values = dict(zip(FIELDS, HEADER.unpack(file.read(HEADER.size)), strict=True)) | changes
        if fix:
            values["crc"] = 0
            values["crc"] = crc32(HEADER.pack(*values.values()))
        file.seek(lba * SECTOR)
        file.write(HEADER.pack(*values.values()))


def rewrite_entries(path: Path, entries: list[bytes], entry_size: int = 128) -> None:
    """Put these entries in place of the primary's, with right checksums, and destroy the backup."""
    table = b"".join(entry.ljust(entry_size, b"\0") for entry in entries).ljust(128 * 128, b"\0")
    patch(path, 2 * SECTOR, table)
    rewrite(path, sum=crc32(table), entry=entry_size, count=len(table) // entry_size)
    patch(path, SIZE - 33 * SECTOR, bytes(33 * SECTOR))


def entry(first: int, last: int, guid: int = 1, label: bytes = b"") -> bytes:
    return struct.pack("<16s16sQQQ72s", b"type".ljust(16), guid.to_bytes(16, "little"), first, last, 0, label)


def test_sgdisk(disk: Path) -> None:
    volumes = scanned(disk)
    assert ours(volumes) == sfdisk_says(disk)
    assert [volume.name for volume in volumes] == ["disk0p1", "disk0p3", "disk0p7"]
    assert [volume.table_label for volume in volumes] == ["EFI system", "Büro 数据 😀", None]
    assert volumes[0].id == "gpt:0c4a2a68-c2c3-441a-8757-1f888ed2715d"
    assert volumes[1].type_code == MICROSOFT_DATA
    assert {volume.members for volume in volumes} == {("disk:dd27f98d-7519-4c9e-8041-f2bfa7b1ef61",)}
    assert all(v.kind == "partition" and v.state is VolumeState.OK and v.reason is None for v in volumes)


def test_the_last_sector_is_inclusive(disk: Path) -> None:
    for lba in (34, 2047, 10000, LAST - 33):
        patch(disk, lba * SECTOR, lba.to_bytes(8, "big"))
    with opened(disk) as blocks:
        first, _, last = scan([blocks])
        assert [read(first.blocks, offset, 8) for offset in (0, first.size - SECTOR)] == [
            n.to_bytes(8, "big") for n in (34, 2047)
        ]
        assert first.size == 2014 * SECTOR
        assert read(last.blocks, last.size - SECTOR, 8) == (LAST - 33).to_bytes(8, "big")


def test_many_partitions(tmp_path: Path) -> None:
    path = empty(tmp_path / "disk.raw")
    lines = "\n".join(f"size=8, name=part{number}" for number in range(130))
    run("sfdisk", "-q", "--no-reread", str(path), text=f"label: gpt\ntable-length: 160\n{lines}")
    volumes = scanned(path)
    assert len(volumes) == 130
    assert ours(volumes) == sfdisk_says(path)


def test_no_partitions(tmp_path: Path) -> None:
    path = empty(tmp_path / "disk.raw")
    run("sgdisk", "-U", "DD27F98D-7519-4C9E-8041-F2BFA7B1EF61", str(path))
    (volume,) = scanned(path)
    assert (volume.id, volume.state) == ("disk:dd27f98d-7519-4c9e-8041-f2bfa7b1ef61", VolumeState.OK)


def test_hybrid(disk: Path) -> None:
    """The GPT counts; sgdisk copies one partition into the MBR."""
    expected = ours(scanned(disk))
    run("sgdisk", "-h", "3", str(disk))
    assert ours(scanned(disk)) == expected


@pytest.mark.parametrize("sector", [0, 1, 2, 3, 33])
def test_unreadable_sectors(disk: Path, sector: int) -> None:
    """Sector 0, the header, the entries: each alone costs nothing."""
    volumes = scanned(disk, bad=((sector * SECTOR + 5, 1),))
    assert ours(volumes) == sfdisk_says(disk)
    assert all(volume.state is VolumeState.OK for volume in volumes)
    if sector:
        assert volumes[0].reason is not None
        assert volumes[0].reason.startswith(f"from the backup GPT at sector {LAST}: cannot be read: injected fault")


def test_unreadable_copies(disk: Path) -> None:
    reason = damaged_reason(scanned(disk, bad=((SECTOR, 1), (LAST * SECTOR, 1))))
    assert "cannot be read: injected fault (at byte 512)" in reason
    assert f"cannot be read: injected fault (at byte {LAST * SECTOR})" in reason


def test_unreadable_start(disk: Path) -> None:
    """Neither sector 0 nor the header: nothing says that this is a GPT disk."""
    assert "at byte 0" in damaged_reason(scanned(disk, bad=((0, 4 * SECTOR),)))


def test_no_boot_record_and_an_unreadable_header(disk: Path) -> None:
    """Whether there is a GPT cannot be told, and that is what is told."""
    patch(disk, 0, bytes(SECTOR))
    assert damaged_reason(scanned(disk, bad=((SECTOR, 1),))) == "cannot be read: injected fault (at byte 512)"
    assert [volume.kind for volume in scanned(disk, bad=((4096, 1),))] == ["disk"]  # an entry's sector, unused without a header


def test_no_boot_record(disk: Path) -> None:
    expected = ours(scanned(disk))
    patch(disk, 0, bytes(SECTOR))
    assert ours(scanned(disk)) == expected
    patch(disk, 3 * SECTOR, b"not what the checksum says")
    assert [volume.kind for volume in scanned(disk)] == ["disk"]


def test_an_old_gpt_under_an_mbr(disk: Path) -> None:
    """What a tool that knows only MBR leaves behind."""
    patch(disk, 446, struct.pack("<B3xB3xII", 0, 0x83, 2048, 2048).ljust(64, b"\0"))
    assert [(volume.name, volume.id[:4]) for volume in scanned(disk)] == [("disk0p1", "mbr:")]


@pytest.mark.parametrize("offset", [SECTOR, SECTOR + 40, SECTOR + 91, 2 * SECTOR, 33 * SECTOR])
def test_backup(disk: Path, offset: int) -> None:
    """One byte of the primary changed; ``sgdisk --verify`` finds it too."""
    expected = ours(scanned(disk))
    with disk.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
    patch(disk, offset, bytes([byte ^ 0xFF]))
    volumes = scanned(disk)
    assert ours(volumes) == expected
    assert {volume.state for volume in volumes} == {VolumeState.OK}
    assert all(volume.reason is not None and "from the backup GPT" in volume.reason for volume in volumes)


def test_backup_destroyed(disk: Path) -> None:
    expected = ours(scanned(disk))
    patch(disk, SIZE - 33 * SECTOR, bytes(33 * SECTOR))
    volumes = scanned(disk)
    assert ours(volumes) == expected
    assert volumes[0].reason is None


def test_both_destroyed(disk: Path) -> None:
    patch(disk, SECTOR, bytes(SECTOR))
    patch(disk, LAST * SECTOR + 60, b"?")
    reason = damaged_reason(scanned(disk))
    assert reason.startswith(f"{disk}: the MBR announces a GPT, and no copy of it can be used: the checksum of the GPT header")
    assert f"(at byte {LAST * SECTOR + 16}, expected " in reason
    patch(disk, LAST * SECTOR, bytes(SECTOR))
    reason = damaged_reason(scanned(disk))
    assert reason.endswith("no GPT header (at byte 512, expected 45 46 49 20 50 41 52 54, found 00 00 00 00 00 00 00 00)")


def test_a_hybrid_without_gpt(disk: Path) -> None:
    run("sgdisk", "-h", "3", str(disk))
    patch(disk, SECTOR, bytes(SECTOR))
    patch(disk, LAST * SECTOR, bytes(SECTOR))
    damaged_reason(scanned(disk))


@pytest.mark.parametrize("damage", [b"EFI PART\xff", b"\0"])
def test_a_disk_that_grew(disk: Path, damage: bytes) -> None:
    """The backup is where the damaged primary, or the MBR, says the disk ended."""
    expected = ours(scanned(disk))
    patch(disk, SECTOR, damage)
    os.truncate(disk, SIZE + 5 * MIB)
    assert ours(scanned(disk)) == expected


def test_a_disk_that_was_cut_off(disk: Path) -> None:
    """Nothing but the primary is there."""
    volumes = scanned(disk, size=34 * SECTOR)
    assert [(v.name, v.size, v.state) for v in volumes] == [(f"disk0p{n}", 0, VolumeState.INCOMPLETE) for n in (1, 3, 7)]
    part = scanned(disk, size=5000 * SECTOR)[1]
    assert (part.offset, part.size) == (4096 * SECTOR, 904 * SECTOR)
    assert part.reason == f"goes past the end of the disk: {3192 * SECTOR} of its {4096 * SECTOR} bytes are missing"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"size": 91}, "the size of the GPT header is wrong (at byte 524, expected 92 to 512, found 91)"),
        ({"size": 513}, "the size of the GPT header is wrong (at byte 524, expected 92 to 512, found 513)"),
        ({"size": 93}, "the checksum of the GPT header is wrong (at byte 528, "),
        ({"my": 2}, "the GPT header belongs to another sector (at byte 536, expected 1, found 2)"),
        ({"entry": 64}, "the size of a GPT entry is wrong (at byte 596, expected 128, 256 ... 4096, found 64)"),
        ({"entry": 384}, "found 384)"),
        ({"entry": 8192}, "found 8192)"),
        ({"count": 0xFFFFFFFF}, "too many GPT entries (at byte 592, expected at most 32768, found 4294967295)"),
        ({"count": 32769}, "expected at most 32768, found 32769)"),
        ({"entries": LAST}, f"the GPT entries are past the end of the disk (at byte 584, found {LAST * SECTOR})"),
        ({"entries": 2**64 - 1}, "the GPT entries are past the end of the disk (at byte 584"),
        ({"count": 127}, "the checksum of the GPT entries is wrong (at byte 1024"),
    ],
    ids=str,
)
def test_each_field(disk: Path, changes: dict[str, int], text: str) -> None:
    """The checksum of the header is right, and still it is not believed: alone the backup helps, else the disk is damaged."""
    expected = ours(scanned(disk))
    rewrite(disk, **changes, fix="size" not in changes or changes["size"] == 93)
    assert ours(scanned(disk)) == expected
    patch(disk, LAST * SECTOR, bytes(SECTOR))
    (volume,) = scanned(disk)
    assert volume.kind == "disk"
    assert volume.state is VolumeState.DAMAGED
    assert volume.reason is not None and text in volume.reason


def test_parse_header_alone() -> None:
    with pytest.raises(Corrupt, match="no GPT header"):
        gpt.parse_header(b"", 1)
    with pytest.raises(Corrupt, match="cut off"):
        gpt.parse_header(b"EFI PART", 1)


def test_largest_table(disk: Path) -> None:
    """32768 entries, the limit: read, and each a partition."""
    entries = [entry(34 + number, 34 + number, number + 1) for number in range(32768)]
    table = b"".join(entries)
    patch(disk, 4 * MIB, table)
    rewrite(disk, entries=4 * MIB // SECTOR, count=len(entries), sum=crc32(table))
    with opened(disk) as blocks:
        found = gpt.find_table(blocks)
        volumes = scan([blocks])
    assert found is not None
    last = list(gpt.parse_entries(found.entries, 128))[-1]
    assert (last.number, last.first_lba) == (32768, 34 + 32767)
    assert volumes[0].id.startswith("disk:") and volumes[0].state is VolumeState.UNSUPPORTED
    assert volumes[-1].offset == (34 + int(volumes[-1].name[6:]) - 1) * SECTOR


@pytest.mark.parametrize("entry_size", [256, 1024, 4096])
def test_larger_entries(disk: Path, entry_size: int) -> None:
    rewrite_entries(disk, [entry(100, 199, 1, "one".encode("utf-16-le")), entry(300, 300, 2)], entry_size)
    assert [(v.name, v.offset, v.size, v.table_label) for v in scanned(disk)] == [
        ("disk0p1", 100 * SECTOR, 100 * SECTOR, "one"),
        ("disk0p2", 300 * SECTOR, SECTOR, None),
    ]


def test_entries_that_make_no_sense(disk: Path) -> None:
    far = 2**64 - 1
    rewrite_entries(
        disk, [entry(200, 100, 1), entry(200, 199, 2), entry(LAST, LAST + 2, 3), entry(far, far, 4), entry(0, far, 5)]
    )
    volumes = scanned(disk)
    assert [(v.name, v.size, v.state) for v in volumes] == [
        ("disk0p1", 0, VolumeState.DAMAGED),
        ("disk0p2", 0, VolumeState.DAMAGED),
        ("disk0p3", SECTOR, VolumeState.INCOMPLETE),
        ("disk0p4", 0, VolumeState.INCOMPLETE),
        ("disk0p5", SIZE, VolumeState.INCOMPLETE),
    ]
    assert volumes[0].reason == f"the table gives it {-99 * SECTOR} bytes"
    assert volumes[2].reason == "goes past the end of the disk: 1024 of its 1536 bytes are missing"
    assert volumes[3].offset == far * SECTOR


def test_guids_that_are_not_unique(disk: Path) -> None:
    rewrite_entries(disk, [entry(100, 100, 7), entry(200, 200, 7), entry(300, 300, 0), entry(400, 400, 8)])
    assert [volume.id.removeprefix("gpt:") for volume in scanned(disk)] == [
        "00000007-0000-0000-0000-000000000000-p1",
        "00000007-0000-0000-0000-000000000000-p2",
        "00000000-0000-0000-0000-000000000000-p3",
        "00000008-0000-0000-0000-000000000000",
    ]


def test_names(disk: Path) -> None:
    """As long as fits, cut at the first NUL, and not UTF-16 at all."""
    labels = [("x" * 36).encode("utf-16-le"), "a\0b".encode("utf-16-le"), b"\x00\xd8", bytes(72)]
    rewrite_entries(disk, [entry(100 + n, 100 + n, n + 1, label) for n, label in enumerate(labels)])
    assert [volume.table_label for volume in scanned(disk)] == ["x" * 36, "a", "\ufffd", None]


def test_a_boot_sector_with_ee_where_the_type_would_be(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    subprocess.run(["mkfs.fat", "--mbr=y", "-C", str(path), "4096"], check=True, capture_output=True)
    patch(path, 450, b"\xee")
    (volume,) = scanned(path)
    assert (volume.kind, volume.state) == ("disk", VolumeState.OK)


def test_a_table_that_goes_away(disk: Path) -> None:
    with opened(empty(disk)) as blocks:
        container = Volume(id="disk:x", name="disk0", kind="disk", blocks=blocks, disk=0, offset=0)
        (volume,) = gpt.volumes([container])
        assert (volume.id, volume.state) == ("disk:x", VolumeState.DAMAGED)


def test_other_disks_stay_usable(disk: Path, tmp_path: Path) -> None:
    shutil.copy(disk, tmp_path / "bad.raw")
    with opened(disk) as good, opened(tmp_path / "bad.raw") as bad:
        volumes = scan([Fault(bad, bad=[(0, SIZE)]), good])
    assert [(volume.name, volume.state) for volume in volumes] == [
        ("disk0", VolumeState.DAMAGED),
        *((f"disk1p{number}", VolumeState.OK) for number in (1, 3, 7)),
    ]


@contextmanager
def loop_device(path: Path, sector_size: int) -> Iterator[str]:
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("needs root and loop devices")
    try:
        device = run("losetup", "--find", "--show", "--sector-size", str(sector_size), str(path)).strip()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop device: {error.stderr}")
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@pytest.mark.root
@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_large_sectors(tmp_path: Path, label: str) -> None:
    """A disk of 4096-byte sectors, made by sfdisk on a loop device; read from the device, from a file told, and from a file."""
    path = empty(tmp_path / "disk.raw")
    extended = "start=600, size=900, type=5\nstart=610, size=100\nstart=720, size=700" if label == "dos" else "size=900"
    with loop_device(path, 4096) as device:
        run("sfdisk", "-q", "--no-reread", device, text=f"label: {label}\nstart=256, size=100\n{extended}")
        table = json.loads(run("sfdisk", "--json", device))["partitiontable"]
        with opened(Path(device)) as blocks:
            assert blocks.sector_size == 4096
            from_device = [(volume.offset, volume.size) for volume in scan([blocks])]
    assert table["sectorsize"] == 4096
    expected = [(p["start"] * 4096, p["size"] * 4096) for p in table["partitions"] if p["type"] != "5"]
    assert len(expected) == (3 if label == "dos" else 2)
    assert from_device == expected
    with opened(path) as blocks:
        assert [(v.offset, v.size) for v in scan([Declared(blocks, 4096)])] == expected
        assert [(v.offset, v.size) for v in scan([blocks])] == expected
    if label == "gpt":
        patch(path, 4096, bytes(4096))
        assert [(v.offset, v.size) for v in scanned(path)] == expected
        assert [(v.offset, v.size) for v in scanned(path, bad=((0, 1),))] != expected


def test_declared_large_and_written_small(disk: Path) -> None:
    """A disk moved between controllers: the checksum tells which sector size is right."""
    expected = ours(scanned(disk))
    with opened(disk) as blocks:
        assert ours(scan([Declared(blocks, 4096)])) == expected


def test_errors_are_of_the_right_class(disk: Path) -> None:
    rewrite(disk, count=1 << 31)
    with opened(disk) as blocks, pytest.raises(Unsupported):
        gpt.parse_header(read(blocks, SECTOR, SECTOR), 1)
    patch(disk, LAST * SECTOR, bytes(SECTOR))
    with opened(disk) as blocks, pytest.raises(MntapiError) as error:
        gpt.find_table(blocks)
    assert error.value.reason == "gpt-damaged"
