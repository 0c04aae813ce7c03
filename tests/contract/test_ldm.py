"""Dynamic disks of Windows Server 2003 R2, against ldmtool and what the kernel's device-mapper reads where ldmtool tells it to.

The facts beside the disks are made by scripts/images/ldm.py; the disks are libldm's own test data.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

import mntapi
from contract.blocks_contract import check_blocks
from contract.ldm_builder import summed
from contract.make_disk import need, run
from mntapi.blocks import Fault, HostFile, read
from mntapi.blocks.memory_overlay import MemoryOverlay
from mntapi.errors import ReadFailed
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.volumes.scan import Found, find_volumes

SAMPLES = Path(__file__).parents[3] / "shared" / "images" / "libldm" / "ldm-2003r2.tar.xz"
FACTS = json.loads((Path(__file__).parents[1] / "golden" / "ldm" / "facts.json").read_text())
VOLUMES = FACTS["volumes"]
SECTOR = 512
DATABASE = 100352 * SECTOR
VMDB = DATABASE + 17 * SECTOR
HEADERS = (6 * SECTOR, DATABASE + 1856 * SECTOR, DATABASE + 2047 * SECTOR)
RAID5 = ("raid5-1", "raid5-2", "raid5-3")

pytestmark = pytest.mark.skipif(not SAMPLES.is_file(), reason="libldm's samples are not here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ldm")
    with tarfile.open(SAMPLES) as archive:
        for member in archive:
            source = archive.extractfile(member)
            assert source is not None
            with (folder / Path(member.name).name.removeprefix("ldm-2003r2-")).open("wb") as out:
                while chunk := source.read(1 << 16):
                    out.seek(len(chunk), os.SEEK_CUR) if chunk.count(0) == len(chunk) else out.write(chunk)
                out.truncate()
    return folder


@pytest.fixture
def disks(folder: Path) -> Iterator[dict[str, Blocks]]:
    """The ten disks by name."""
    with ExitStack() as stack:
        yield {path.stem: stack.enter_context(closing(HostFile.open(str(path)))) for path in sorted(folder.glob("*.img"))}


def found(disks: dict[str, Blocks], *without: str) -> Found:
    return find_volumes([blocks for name, blocks in disks.items() if name not in without])


def by_name(found: Found) -> dict[str, Volume]:
    return {volume.name.removeprefix("ldm-"): volume for volume in found.volumes}


def digest(blocks: Blocks) -> str:
    sha = hashlib.sha256()
    for at in range(0, blocks.size, 1 << 20):
        sha.update(read(blocks, at, min(1 << 20, blocks.size - at)))
    return sha.hexdigest()


def content(blocks: Blocks) -> bytes:
    return read(blocks, 0, blocks.size)


def patched(disk: Blocks, *patches: tuple[int, bytes]) -> Blocks:
    """The disk with bytes changed, in memory."""
    overlay = MemoryOverlay(disk)
    for offset, new in patches:
        overlay.write(offset, memoryview(new))
    return overlay


def no_headers(disk: Blocks) -> Blocks:
    return patched(disk, *((place, b"JUNK") for place in HEADERS))


def older(disk: Blocks) -> Blocks:
    """The disk with the transaction number of its database one less."""
    (sequence,) = struct.unpack(">Q", read(disk, VMDB + 0x75, 8))
    return patched(disk, (VMDB + 0x75, struct.pack(">QQ", sequence - 1, sequence - 1)))


def test_volumes_are_what_ldmtool_says(disks: dict[str, Blocks]) -> None:
    volumes = by_name(found(disks))
    assert volumes.keys() == VOLUMES.keys()
    for name, volume in volumes.items():
        said = VOLUMES[name]
        assert (volume.id, volume.kind, volume.state, volume.reason) == (f"ldm:{said['guid']}", "ldm", VolumeState.OK, None)
        assert volume.size == said["size"] * SECTOR
        assert volume.details["layout"] == said["type"].lower()
        assert volume.details.get("chunk") == {0: None, 128: "64.0 KiB"}[said["chunk-size"]]
        assert volume.details["drive"] == said["hint"]
        assert volume.details["partitions"] == ", ".join(said["partitions"])
        assert volume.type_code == "0x07"


def test_disks_are_named_and_none_is_listed_beside_its_volumes(disks: dict[str, Blocks]) -> None:
    containers = found(disks).containers
    assert sorted(volume.details["dynamic-disk"] for volume in containers) == sorted(FACTS["disks"])
    assert {volume.details["group-guid"] for volume in containers} == {FACTS["group"]}
    assert {(volume.state, volume.reason) for volume in containers} == {(VolumeState.OK, None)}


@pytest.mark.parametrize("name", VOLUMES)
def test_content_is_what_the_kernel_reads(disks: dict[str, Blocks], name: str) -> None:
    """Every byte; then any range, extents and threads against those bytes."""
    blocks = by_name(found(disks))[name].blocks
    whole = content(blocks)
    assert hashlib.sha256(whole).hexdigest() == VOLUMES[name]["sha256"]
    check_blocks(blocks, whole, ranges=500)


def test_a_simple_volume_is_a_range_of_its_disk(disks: dict[str, Blocks]) -> None:
    volumes = by_name(found(disks))
    simple = volumes["Volume1"]
    assert (simple.disk, simple.offset) == (list(disks).index("simple-1"), 63 * SECTOR)
    assert read(disks["simple-1"], 63 * SECTOR, 512) == read(simple.blocks, 0, 512)
    assert {name for name, volume in volumes.items() if volume.offset is not None} == {"Volume1"}


def test_the_public_way_in_any_order(folder: Path) -> None:
    """Every volume is NTFS with a file of known content."""
    paths = [str(path) for path in folder.glob("*.img")]
    for seed in range(3):
        random.Random(seed).shuffle(paths)
        with mntapi.open_disks(*paths) as disk_set:
            assert {volume.name for volume in disk_set.volumes} == {f"ldm-{name}" for name in VOLUMES}
            tree = mntapi.VolumeTree(disk_set)
            for volume in disk_set.volumes:
                node = mntapi.resolve(tree, f"/{volume.name}/test.txt")
                assert mntapi.read(tree.open(node), 0, node.size) == b"Filesystem test"


@pytest.mark.parametrize(
    ("name", "disk"), [("Volume3", "mirrored-1"), ("Volume3", "mirrored-2"), *(("Raid1", one) for one in RAID5)]
)
def test_redundant_volumes_are_whole_without_a_disk(disks: dict[str, Blocks], name: str, disk: str) -> None:
    volume = by_name(found(disks, disk))[name]
    assert volume.state is VolumeState.DEGRADED
    assert volume.reason is not None and volume.reason.startswith("disk Disk") and "is missing" in volume.reason
    assert digest(volume.blocks) == VOLUMES[name]["sha256"]


def test_a_degraded_volume_keeps_the_contract(disks: dict[str, Blocks]) -> None:
    whole = content(by_name(found(disks))["Raid1"].blocks)
    check_blocks(by_name(found(disks, "raid5-2"))["Raid1"].blocks, whole)


def test_a_bad_sector_is_computed(disks: dict[str, Blocks]) -> None:
    disks["raid5-2"] = Fault(disks["raid5-2"], bad=[(5 << 20, 4096)])
    disks["mirrored-1"] = Fault(disks["mirrored-1"], bad=[(5 << 20, 4096)])
    volumes = by_name(found(disks))
    for name in ("Raid1", "Volume3"):
        assert volumes[name].state is VolumeState.OK
        assert digest(volumes[name].blocks) == VOLUMES[name]["sha256"]


def test_a_spanned_volume_gives_what_is_there(disks: dict[str, Blocks]) -> None:
    whole = content(by_name(found(disks))["Volume2"].blocks)
    volume = by_name(found(disks, "spanned-1"))["Volume2"]  # Disk2, the second half
    half = VOLUMES["Volume2"]["size"] * SECTOR // 2
    assert volume.state is VolumeState.INCOMPLETE
    assert volume.reason is not None
    assert volume.reason.startswith("disk Disk2 (c85a6ce4-edb3-4dbc-a3b9-7fba4b6e6f75) is missing")
    assert volume.details["missing"] == "c85a6ce4-edb3-4dbc-a3b9-7fba4b6e6f75"
    assert volume.members == by_name(found({"one": disks["spanned-2"]}))["Volume2"].members
    assert read(volume.blocks, 0, half) == whole[:half]
    with pytest.raises(ReadFailed, match="Disk2"):
        read(volume.blocks, half - 1, 2)


@pytest.mark.parametrize("without", [("striped-1",), ("striped-2",), ("raid5-1", "raid5-3"), ("mirrored-1", "mirrored-2")])
def test_what_too_few_disks_hold_is_an_error(disks: dict[str, Blocks], without: tuple[str, ...]) -> None:
    name = {"s": "Stripe1", "r": "Raid1", "m": "Volume3"}[without[0][0]]
    whole = content(by_name(found(disks))[name].blocks)
    volume = by_name(found(disks, *without))[name]
    assert volume.state is VolumeState.INCOMPLETE
    right = failed = 0
    for at in range(0, 1 << 20, 64 << 10):
        try:
            assert read(volume.blocks, at, 64 << 10) == whole[at : at + (64 << 10)]
            right += 1
        except ReadFailed:
            failed += 1
    assert failed and bool(right) is (name != "Volume3")


@pytest.mark.parametrize("place", range(3))
def test_a_damaged_private_header_is_told(disks: dict[str, Blocks], place: int) -> None:
    disks["simple-1"] = patched(disks["simple-1"], (HEADERS[place] + 0x40, b"X"))
    result = found(disks)
    assert digest(by_name(result)["Volume1"].blocks) == VOLUMES["Volume1"]["sha256"]
    (disk,) = (volume for volume in result.containers if volume.details["dynamic-disk"] == "Disk1")
    assert disk.reason is not None and f"its private header at byte {HEADERS[place]} cannot be used" in disk.reason


def test_any_private_header_is_enough(disks: dict[str, Blocks]) -> None:
    whole = disks["simple-1"]
    for kept in HEADERS:
        disks["simple-1"] = patched(whole, *((place, b"JUNK") for place in HEADERS if place != kept))
        assert digest(by_name(found(disks))["Volume1"].blocks) == VOLUMES["Volume1"]["sha256"]


def test_the_newest_private_header_counts(disks: dict[str, Blocks]) -> None:
    """The first one says another group, and is older."""
    sector = bytearray(read(disks["simple-1"], HEADERS[0], SECTOR))
    sector[0x18:0x20] = struct.pack(">Q", 4)
    sector[0xB0:0xB4] = b"ffff"
    disks["simple-1"] = patched(disks["simple-1"], (HEADERS[0], summed(bytes(sector))))
    assert by_name(found(disks))["Volume1"].state is VolumeState.OK


def test_without_any_private_header_it_is_a_partition(disks: dict[str, Blocks]) -> None:
    disks["simple-1"] = no_headers(disks["simple-1"])
    volumes = by_name(found(disks))
    assert volumes["Volume1"].state is VolumeState.INCOMPLETE
    (partition,) = (volume for volume in volumes.values() if volume.kind == "partition")
    assert (partition.type_code, partition.state) == ("0x42", VolumeState.OK)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (VMDB, "no VMDB"),
        (VMDB + 8, "the size of a slot is wrong"),
        (DATABASE + 2 * SECTOR, None),
    ],
)
def test_a_database_that_cannot_be_read_is_not_needed(disks: dict[str, Blocks], place: int, text: str | None) -> None:
    """The others of the group have it too."""
    disks["striped-1"] = patched(disks["striped-1"], (place, b"????"))
    result = found(disks)
    assert digest(by_name(result)["Stripe1"].blocks) == VOLUMES["Stripe1"]["sha256"]
    (disk,) = (volume for volume in result.containers if volume.details["dynamic-disk"] == "Disk4")
    assert disk.state is VolumeState.OK
    assert (disk.reason or "").partition(" (")[0].rpartition(": ")[2] == (text or "")


def test_no_database_at_all(disks: dict[str, Blocks]) -> None:
    """The disk says so, and nothing is guessed."""
    disk = patched(disks["simple-1"], *((DATABASE + place * SECTOR, b"????????") for place in (1, 2, 2045, 2046)))
    (volume,) = find_volumes([disk]).volumes
    assert (volume.kind, volume.state) == ("disk", VolumeState.DAMAGED)
    assert volume.reason is not None and "no TOCBLOCK" in volume.reason


def test_an_old_database_is_told_and_its_disk_not_trusted(disks: dict[str, Blocks]) -> None:
    """The copy and the parity of the other disks are used; what only that disk has is read, and the reason says it."""
    wrong = (63 * SECTOR + 8192, b"old!" * 1024)
    for name in ("mirrored-1", "raid5-2", "striped-2"):
        disks[name] = older(patched(disks[name], wrong) if name != "striped-2" else disks[name])
    result = found(disks)
    volumes = by_name(result)
    for name in ("Volume3", "Raid1", "Stripe1"):
        assert digest(volumes[name].blocks) == VOLUMES[name]["sha256"]
        assert "was away while others changed" in (volumes[name].reason or "")
    assert [volumes[name].state.value for name in ("Volume3", "Raid1", "Stripe1")] == ["degraded", "degraded", "ok"]
    reasons = {volume.details["dynamic-disk"]: volume.reason for volume in result.containers if volume.reason}
    assert reasons == dict.fromkeys(
        ("Disk6", "Disk9", "Disk5"), "its LDM database is old: transaction 1132, the group is at 1133"
    )


def test_an_old_disk_and_a_missing_one_give_no_parity(disks: dict[str, Blocks]) -> None:
    disks["raid5-1"] = older(disks["raid5-1"])
    volume = by_name(found(disks, "raid5-2"))["Raid1"]
    assert volume.state is VolumeState.INCOMPLETE
    with pytest.raises(ReadFailed):
        read(volume.blocks, 0, 1 << 20)


def test_an_old_copy_is_better_than_none(disks: dict[str, Blocks]) -> None:
    disks["mirrored-1"] = older(disks["mirrored-1"])
    volume = by_name(found(disks, "mirrored-2"))["Volume3"]
    assert digest(volume.blocks) == VOLUMES["Volume3"]["sha256"]
    assert volume.reason is not None and "is missing" in volume.reason and "was away" in volume.reason


def test_a_copy_of_a_disk(disks: dict[str, Blocks]) -> None:
    """One is used, the other is listed and says so; with the older database it is the one that is not used."""
    copy = older(disks["spanned-1"])
    for order in ([copy, *disks.values()], [*disks.values(), copy]):
        result = find_volumes(order)
        (other,) = (volume for volume in result.volumes if volume.kind == "disk")
        assert other.state is VolumeState.UNSUPPORTED
        assert other.reason is not None and "is a copy of dynamic disk c85a6ce4" in other.reason
        assert digest(by_name(result)["Volume2"].blocks) == VOLUMES["Volume2"]["sha256"]
        assert other.disk == order.index(copy)


def test_copies_that_differ(disks: dict[str, Blocks]) -> None:
    """What lies on several disks is not made of one that is there twice and differs; what lies on it alone is read."""
    half = disks["raid5-1"].size // 2  # one of the places that are compared
    copies = [patched(disks[name], (half - 4096, b"changed!" * 1024)) for name in ("spanned-1", "raid5-1", "mirrored-1")]
    result = find_volumes([*disks.values(), *copies])
    volumes = by_name(result)
    for name in ("Raid1", "Volume3"):
        assert volumes[name].state is VolumeState.DEGRADED
        assert "disk Disk" in (volumes[name].reason or "") and volumes[name].reason.endswith(" differ")
        assert digest(volumes[name].blocks) == VOLUMES[name]["sha256"]
    with pytest.raises(ReadFailed, match=r"several times, and disk\d+, disk\d+ differ"):
        content(volumes["Volume2"].blocks)


def test_a_disk_cut_off(folder: Path, tmp_path: Path, disks: dict[str, Blocks]) -> None:
    """Its private region is gone with its end; the others tell what was on it."""
    for name, size in (("striped-2", 20 << 20), ("mirrored-2", 20 << 20)):
        cut = tmp_path / name
        cut.write_bytes((folder / f"{name}.img").read_bytes()[:size])
        disks[name] = HostFile.open(str(cut))
    volumes = by_name(found(disks))
    whole = content(by_name(found(disks, "mirrored-2"))["Volume3"].blocks)
    stripe, mirror = volumes["Stripe1"], volumes["Volume3"]
    assert (stripe.state, mirror.state) == (VolumeState.INCOMPLETE, VolumeState.DEGRADED)
    assert stripe.reason is not None and "ends before partition Disk5-01 does" in stripe.reason
    assert len(read(stripe.blocks, 0, 30 << 20)) == 30 << 20
    with pytest.raises(ReadFailed, match="ends before it"):
        read(stripe.blocks, 45 << 20, 1 << 20)
    assert mirror.reason is not None and "ends before partition" in mirror.reason
    assert content(mirror.blocks) == whole
    disks["striped-2"].close()
    disks["mirrored-2"].close()


def test_other_partitions_of_the_disk_stay(disks: dict[str, Blocks]) -> None:
    """An OEM partition, which Windows leaves alone when it makes a disk dynamic, and an extended one, which it would not."""
    table = struct.pack("<B3xB3xII", 0, 0x12, 8, 8) + struct.pack("<B3xB3xII", 0, 0x05, 16, 8)
    disks["simple-1"] = patched(disks["simple-1"], (446 + 16, table))
    result = found(disks)
    others = [volume for volume in result.volumes if volume.kind == "partition"]
    assert [(volume.id, volume.type_code, volume.offset, volume.size) for volume in others] == [
        ("mbr:901ce95f-02", "0x12", 8 * SECTOR, 8 * SECTOR),
        ("mbr:901ce95f-03", "0x05", 16 * SECTOR, 8 * SECTOR),
    ]
    assert others[1].reason is not None and "logical partitions are not looked for" in others[1].reason
    assert by_name(result)["Volume1"].state is VolumeState.OK


def as_gpt(folder: Path, tmp_path: Path, name: str) -> Path:
    """The disk with a GPT, as Windows makes it: the private region in a partition of its own, before the data."""
    old = (folder / f"{name}.img").read_bytes()
    path = tmp_path / f"{name}-gpt.img"
    private, efi, data, length = 2048, 4096, 6144, 96327
    with path.open("wb") as out:
        out.truncate(64 << 20)
    kinds = (
        "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3",
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
        "AF9B60A0-1431-4F62-BC68-3311714A69AD",
    )
    parts = [(private, 2048, kinds[0]), (efi, 2048, kinds[1]), (data, length, kinds[2])]
    arguments = [
        part
        for number, (start, count, kind) in enumerate(parts, 1)
        for part in ("-n", f"{number}:{start}:{start + count - 1}", "-t", f"{number}:{kind}")
    ]
    run("sgdisk", "-a", "1", *arguments, path)
    header = bytearray(old[HEADERS[1] : HEADERS[1] + SECTOR])
    header[0x11B : 0x11B + 32] = struct.pack(">4Q", data, length, private, 2048)
    with path.open("r+b") as out:
        for place, content in (
            (private, old[DATABASE : DATABASE + (1 << 20)]),
            (private + 1856, summed(bytes(header))),
            (private + 2047, summed(bytes(header))),
            (data, old[63 * SECTOR : (63 + length) * SECTOR]),
        ):
            out.seek(place * SECTOR)
            out.write(content)
    return path


def ldmtool(paths: Sequence[Path], name: str) -> dict[str, object]:
    script = f"scan {' '.join(map(str, paths))}\nshow volume {FACTS['group']} {name}\n"
    done = subprocess.run(["ldmtool"], input=script, capture_output=True, text=True, check=True)
    answer: dict[str, object] = json.loads(done.stdout.split("ldm> ")[2].partition("\n")[2])
    return answer


def test_gpt_disks(folder: Path, tmp_path: Path) -> None:
    """Disks with a GPT beside one without; the EFI system partition stays a partition."""
    need("sgdisk", "ldmtool")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    paths = [as_gpt(folder, tmp_path, "raid5-1"), folder / "raid5-2.img", as_gpt(folder, tmp_path, "raid5-3")]
    said = VOLUMES["Raid1"]
    assert ldmtool(paths, "Raid1") == {key: value for key, value in said.items() if key != "sha256"}
    with ExitStack() as stack:
        disks = [stack.enter_context(closing(HostFile.open(str(path)))) for path in paths]
        for order in (disks, disks[::-1]):
            result = find_volumes(order)
            volume = by_name(result)["Raid1"]
            assert (volume.state, volume.reason) == (VolumeState.OK, None)
            assert len(volume.members) == 5
            assert digest(volume.blocks) == said["sha256"]
            assert [one.size for one in result.volumes if one.kind == "partition"] == [1 << 20, 1 << 20]
        (degraded,) = (one for one in find_volumes(disks[:2]).volumes if one.name == "ldm-Raid1")
        assert degraded.state is VolumeState.DEGRADED
        assert digest(degraded.blocks) == said["sha256"]


def test_gpt_disk_without_its_private_region(folder: Path, tmp_path: Path) -> None:
    need("sgdisk")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    path = as_gpt(folder, tmp_path, "simple-1")
    with closing(HostFile.open(str(path))) as disk:
        (simple,) = (volume for volume in find_volumes([disk]).volumes if volume.name == "ldm-Volume1")
        assert digest(simple.blocks) == VOLUMES["Volume1"]["sha256"]
        assert (simple.disk, simple.offset) == (0, 6144 * SECTOR)
    with path.open("r+b") as out:
        for place in (2048 + 1856, 2048 + 2047):
            out.seek(place * SECTOR)
            out.write(b"JUNKJUNK")
    with closing(HostFile.open(str(path))) as disk:
        volumes = find_volumes([disk]).volumes
        assert [volume.state.value for volume in volumes] == ["damaged", "ok", "damaged"]
        assert volumes[0].reason == volumes[2].reason == "no private header of a dynamic disk can be used"
    run("sgdisk", "-d", "1", path)
    with closing(HostFile.open(str(path))) as disk:
        efi, data = find_volumes([disk]).volumes
        assert (efi.state, data.state) == (VolumeState.OK, VolumeState.DAMAGED)
        assert data.reason == "there is no LDM metadata partition on this disk"


def test_the_facts_are_of_this_ldmtool(folder: Path) -> None:
    need("ldmtool")
    paths = sorted(folder.glob("*.img"))
    for name, said in VOLUMES.items():
        assert ldmtool(paths, name) == {key: value for key, value in said.items() if key != "sha256"}
