"""Volumes of real tools, written through overlays: what LVM2, mdadm and cryptsetup made (tests/golden, or made here).

Oracles: SHA-256 of the originals; where lvs, mdadm and sfdisk say that the bytes are; QEMU for LUKS1, cryptsetup for LUKS2;
for copies and parity, reading without a disk. (The kernel was asked once, by hand.)
"""

from __future__ import annotations

import itertools
import json
import lzma
import random
import re
import subprocess
import tarfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner

import mntapi
from contract.luks_maker import cryptsetup, encrypted, needs_cryptsetup, passphrase, pattern
from contract.vss_builder import Copy
from contract.vss_builder import Volume as Shadowed
from contract.writable_contract import check_writable
from contract.writable_sets import GOLDEN, digest, golden, luks1, needs_qemu, of_qemu, qemu_img, unpack
from mntapi.blocks import HostFile, read
from mntapi.blocks.memory_overlay import MemoryOverlay
from mntapi.blocks.writable import Unwritable
from mntapi.cli import convert
from mntapi.errors import ReadFailed
from mntapi.keys import Keys
from mntapi.session.diskset import DiskSet
from mntapi.session.overlay import overlays_in_memory, volume_blocks, why_read_only, with_overlays
from mntapi.types import Blocks, Image, OpenOptions, Volume, VolumeState, WritableBlocks
from mntapi.units import MIB
from mntapi.volumes.scan import scan

LVM = json.loads((GOLDEN / "lvm/facts.json").read_text())
MD = json.loads((GOLDEN / "md/facts.json").read_text())


def opened(paths: list[Path], keys: Keys | None = None) -> DiskSet:
    """The set with a place to write over each disk."""
    disk_set = mntapi.open_disks(*map(str, paths), options=OpenOptions(keys=keys or Keys()))
    return with_overlays(disk_set, overlays_in_memory(), keys)


def writable_volume(volume: Volume) -> WritableBlocks:
    blocks = volume_blocks(volume)
    assert why_read_only(volume) is None and isinstance(blocks, WritableBlocks)
    return blocks


def scribble(blocks: WritableBlocks, seed: str) -> bytes:
    """Write all of it, in pieces of odd sizes, out of order, some of it twice; what it holds then."""
    rng = random.Random(seed)
    content = rng.randbytes(blocks.size)
    cuts = sorted({0, blocks.size, *(rng.randrange(blocks.size + 1) for _ in range(20))})
    pieces = list(itertools.pairwise(cuts))
    rng.shuffle(pieces)
    for start, end in pieces:
        blocks.write(start, memoryview(content)[start:end])
        middle = (start + end) // 2
        blocks.write(middle, memoryview(content)[middle : min(end, middle + 1000)])
    blocks.flush()
    return content


def committed(disk_set: DiskSet, folder: Path) -> list[Path]:
    """The disks as they are now, as new files."""
    folder.mkdir()
    for index, disk in enumerate(disk_set.disks):
        with (folder / f"disk{index}.img").open("wb") as out:
            out.truncate(disk.blocks.size)
            for extent in disk.blocks.extents(0, disk.blocks.size):
                if extent.kind.value == "data":
                    out.seek(extent.offset)
                    out.write(read(disk.blocks, extent.offset, extent.length))
    return sorted(folder.iterdir())


def tree_is(paths: list[Path], want: dict[str, bytes]) -> None:
    """Opened without overlay, the volumes hold that."""
    with mntapi.open_disks(*map(str, paths)) as disk_set:
        found = {volume.id: volume for volume in disk_set.volumes}
        assert {key: found[key].size for key in want} == {key: len(content) for key, content in want.items()}
        for key, content in want.items():
            assert read(found[key].blocks, 0, found[key].size) == content, found[key].name


def all_written(kind: str, names: str, folder: Path) -> tuple[dict[str, str], dict[str, bytes], list[Path]]:
    """Write every volume that can be: why others cannot, the contents by id, and the new disks."""
    paths = golden(kind, names, folder)
    before = [digest(path) for path in paths]
    refused, want = {}, {}
    with opened(paths) as disk_set:
        for volume in disk_set.volumes:
            why = why_read_only(volume)
            if why is not None:
                refused[volume.id] = why
            elif volume.kind in ("lvm", "md"):
                want[volume.id] = scribble(writable_volume(volume), volume.id)
        for volume in disk_set.volumes:  # none reached into another
            if volume.id in want:
                assert read(volume.blocks, 0, volume.size) == want[volume.id], volume.name
        new = committed(disk_set, folder / "new")
    assert [digest(path) for path in paths] == before
    return refused, want, new


LVM_REFUSED = {
    "plain/error": "an error segment",
    "plain/mixed": "an error segment",
    "plain/zero": "zeros that are stored nowhere",
    "plain/mirrorcore": "member 1, 2 is missing or not trusted",
    "plain/origin": "snapshots were taken of it",
    "plain/before": "a snapshot is not written",
    "plain/renumbered": "parity of the array was never computed in full",
    "came-back/both": "missing when the group was used",
    **dict.fromkeys(("stale/five", "stale/mirror", "stale/six", "stale/ten"), "degraded: image 1 is out of date"),
}
LVM_ONE_SEGMENT = {"on-a": "came-back", "li-near": "plain", "moving": "plain", "data": "twin"}
"""Logical volumes of one segment, by which lvs alone tells where they are."""


def test_lvm(tmp_path: Path) -> None:
    refused, want, new = all_written("lvm", "disk?.img.xz", tmp_path)
    assert {_name(key) for key in refused} == LVM_REFUSED.keys()
    assert all(LVM_REFUSED[_name(key)] in why for key, why in refused.items()), refused
    kinds = {row["segtype"] for row in LVM["lvs"] if "lvm:" + row["lv_uuid"] in want}
    assert kinds >= {"linear", "striped", "mirror", "raid0", "raid0_meta", "raid1", "raid10", "raid4", "raid5_ls", "raid6_zr"}
    tree_is(new, want)
    _check_where_lvs_says(new, want)
    without_one = new[1:]  # what raid-set has of it, parity and copies make up for
    names = {key: _name(key) for key in want}
    is_redundant = {key: name.startswith("raid-set/") and "/r0" not in name for key, name in names.items()}
    tree_is(without_one, {key: want[key] for key in want if is_redundant[key]})


def _name(key: str) -> str:
    """Group and volume of an id."""
    return next(f"{row['vg_name']}/{row['lv_name']}" for row in LVM["lvs"] if "lvm:" + row["lv_uuid"] == key)


def partition_starts(disk: Path) -> list[int]:
    """In bytes, by sfdisk."""
    told = json.loads(subprocess.run(["sfdisk", "--json", disk], capture_output=True, check=True).stdout)
    return [one["start"] * 512 for one in told["partitiontable"]["partitions"]]


def _check_where_lvs_says(disks: list[Path], want: dict[str, bytes]) -> None:
    """At the extent of the physical volume that lvs names, counted from where pvs says that extents begin."""
    starts = {row["pv_name"]: int(row["pe_start"]) for row in LVM["pvs"]}
    units = {row["vg_uuid"]: int(row["vg_extent_size"]) for row in LVM["vgs"]}
    rows = [row for row in LVM["lvs"] if LVM_ONE_SEGMENT.get(row["lv_name"]) == row["vg_name"]]
    assert len(rows) == len(LVM_ONE_SEGMENT)
    for row in rows:
        content, device, extent = want["lvm:" + row["lv_uuid"]], *row["devices"].rstrip(")").split("(")
        disk = disks["abcdefg".index(device[len("/tmp/disks/sd")])]
        start = partition_starts(disk)[int(device[-1]) - 1] + starts[device] + int(extent) * units[row["vg_uuid"]]
        assert disk.read_bytes()[start : start + len(content)] == content, row


WHY = {"thin": "its pool would have to", "cache": "its cache would have to", "snapshot": "its store would have to"}


@pytest.mark.parametrize("image", ["thin", "caches", "snapshots"])
def test_what_lvm_keeps_books_of(tmp_path: Path, image: str) -> None:
    seen = set()
    with opened([unpack(GOLDEN / f"lvm-targets/{image}.img.xz", tmp_path / "disk")]) as disk_set:
        for volume in disk_set.volumes:
            kinds = volume.details.get("segments", "").split(", ")
            for kind in WHY.keys() & set(kinds) if volume.state is VolumeState.OK else ():
                seen.add(kind)
                assert WHY[kind] in str(why_read_only(volume)), volume.name
    assert seen == {{"thin": "thin", "caches": "cache", "snapshots": "snapshot"}[image]}


MD_REFUSED = {
    "bad-blocks": "has bad blocks there",
    "journal-r5": "write journal",
    "r0-unknown": "not recorded",
    "rebuild-r1": "is being rebuilt",
    "rebuild-r5": "is being rebuilt",
    "reshape-r5": "reshape",
    **dict.fromkeys(("stale-09", "stale-r1", "stale-r5"), "degraded: member"),
}
MD_CASES = {
    f"md:{uuid}": case
    for case, facts in MD["cases"].items()
    for key, text in facts.items()
    if key.startswith(("detail", "examine"))
    for uuid in re.findall(r"^ *(?:Array )?UUID : (\S+)", text, re.MULTILINE)
}
"""The arrays of the golden images by their ids."""


def test_md(tmp_path: Path) -> None:
    refused, want, new = all_written("md", "disk?.img.xz", tmp_path)
    assert {MD_CASES[key] for key in refused} == MD_REFUSED.keys()
    assert all(MD_REFUSED[MD_CASES[key]] in why for key, why in refused.items()), refused
    levels = {MD_CASES[key].partition("-")[0] for key in want}
    assert levels >= {"linear", "r0", "r1", "r4", "r5", "r6", "r10", "unclean", "ppl"}
    tree_is(new, want)
    _check_where_mdadm_says(new, want)
    tree_is(new[1:], {key: want[key] for key in want if MD_CASES[key].startswith(("r4", "r5", "r6", "r10", "r1-"))})


def _check_where_mdadm_says(disks: list[Path], want: dict[str, bytes]) -> None:
    """Each copy of a mirror, at the offset that mdadm tells where it is not 0."""
    checked = []
    for number, (case, *sizes) in enumerate(MD["partitions"]):
        for index in range(len(sizes) if case.startswith("r1-") else 0):
            lines = MD["cases"][case][f"examine {index}"].splitlines()
            told = {name.strip(): value for name, _, value in (line.partition(" : ") for line in lines)}
            if "Data Offset" in told and told["Device Role"].startswith("Active"):
                start = partition_starts(disks[index])[number] + int(told["Data Offset"].split()[0]) * 512
                content = want[f"md:{told['Array UUID']}"]
                assert disks[index].read_bytes()[start : start + len(content)] == content, (case, index)
                checked.append(case)
    assert len(checked) >= 4


LUKS1 = ("aes-xts-plain64", "aes-cbc-essiv:sha256", "aes-cbc-plain64")


@needs_cryptsetup
@needs_qemu
@pytest.mark.parametrize("cipher", LUKS1)
def test_luks1(tmp_path: Path, cipher: str) -> None:
    """QEMU has its own implementation: it reads what was written here, as we read what it wrote."""
    path, keys = tmp_path / "disk", Keys((passphrase(),))
    luks1(path, cipher, pattern(MIB))
    before = digest(path)
    with opened([path], keys) as disk_set:
        (volume,) = disk_set.volumes
        assert read(volume.blocks, 0, volume.size) == pattern(MIB)
        want = check_writable(writable_volume(volume), volume.blocks, writes=60)
        (new,) = committed(disk_set, tmp_path / "new")
    assert digest(path) == before and new.read_bytes()[: 2 * MIB] == path.read_bytes()[: 2 * MIB]  # the header
    qemu_img("convert", "--image-opts", of_qemu(new), "-O", "raw", tmp_path / "read")
    assert (tmp_path / "read").read_bytes() == want


@needs_cryptsetup
@pytest.mark.parametrize(
    "options", [("aes-xts-plain64", "512", "4096"), ("aes-xts-plain64", "256", "512"), ("aes-cbc-essiv:sha256", "256", "512")]
)
def test_luks2(tmp_path: Path, options: tuple[str, str, str]) -> None:
    """cryptsetup decrypts what was written here."""
    path, keys = tmp_path / "disk", Keys((passphrase(),))
    encrypted(path, *(text for pair in zip(("-c", "-s", "--sector-size"), options, strict=True) for text in pair))
    with opened([path], keys) as disk_set:
        (volume,) = disk_set.volumes
        want = check_writable(writable_volume(volume), volume.blocks, writes=60)
        (new,) = committed(disk_set, tmp_path / "new")
    header = tmp_path / "header"
    arguments = ("reencrypt", "--decrypt", "--force-offline-reencrypt", "--header", header, "-d", "-", new)
    cryptsetup(*arguments)
    assert new.read_bytes()[: len(want)] == want


@needs_cryptsetup
def test_lvm_on_luks(tmp_path: Path) -> None:
    """The usual Linux guest. Oracle: lvs says where on the physical volume the logical one is."""
    unpack(GOLDEN / "lvm/disk3.img.xz", tmp_path / "lvm")
    start = partition_starts(tmp_path / "lvm")[3]
    encrypted(
        tmp_path / "disk", "-c", "aes-xts-plain64", "-s", "512", content=(tmp_path / "lvm").read_bytes()[start:][: 3 * MIB]
    )
    keys = Keys((passphrase(),))
    with opened([tmp_path / "disk"], keys) as disk_set:
        (volume,) = disk_set.volumes
        assert volume.name == "twin-data"
        want = scribble(writable_volume(volume), "luks")
        (luks,) = [one for one in disk_set.containers if one.kind == "luks"]
        assert read(luks.blocks, 45056, len(want)) == want  # pe_start, and extent 0
        (new,) = committed(disk_set, tmp_path / "new")
    with mntapi.open_disks(str(new), options=OpenOptions(keys=keys)) as disk_set:
        assert read(disk_set.volumes[0].blocks, 0, len(want)) == want


LDM_SAMPLES = Path(__file__).parents[3] / "shared/images/libldm/ldm-2003r2.tar.xz"


@pytest.mark.skipif(not LDM_SAMPLES.is_file(), reason="libldm's samples are not here")
def test_dynamic_disks(tmp_path: Path) -> None:
    """Windows' own; each redundant volume is the same without one of its disks, and none is written without."""
    with tarfile.open(LDM_SAMPLES) as archive, ExitStack() as stack:
        disks: dict[str, Blocks] = {}
        for member in archive:
            archive.extract(member, tmp_path, filter="data")
            file = stack.enter_context(closing(HostFile.open(str(tmp_path / member.name))))
            disks[member.name] = MemoryOverlay(file)
        volumes = {one.details["layout"]: one for one in scan(list(disks.values())) if one.kind == "ldm"}
        assert volumes.keys() >= {"simple", "spanned", "striped", "mirrored", "raid5"}, volumes.keys()
        want = {}
        for one in volumes.values():
            blocks, content = writable_volume(one), random.Random(one.id).randbytes(300_001)
            for offset in (0, one.size // 2 - 7, one.size - len(content)):
                blocks.write(offset, memoryview(content))
            want[one.id] = content
        for without in (None, "mirrored-1", "mirrored-2", "raid5-1", "raid5-2", "raid5-3"):
            present = [blocks for name, blocks in disks.items() if without is None or without not in name]
            for one in scan(present):
                if one.id in want:
                    content = want[one.id]
                    for offset in (0, one.size // 2 - 7, one.size - len(content)):
                        assert read(one.blocks, offset, len(content)) == content, (one.name, without)
                    is_lacking = without is not None and without.startswith(one.details["layout"])
                    assert is_lacking == (why_read_only(one) is not None)


@pytest.mark.parametrize(("name", "why"), [("bcache-alone", "cache"), ("drbd-v09-current", "peer")])
def test_half_of_a_pair_is_not_written(name: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with lzma.open(GOLDEN / f"named/{name}.img.xz") as packed:
        path.write_bytes(packed.read())
    with opened([path]) as disk_set:
        (volume,) = (one for one in disk_set.volumes if one.kind in ("bcache", "drbd"))
        assert why in str(why_read_only(volume)) and volume_blocks(volume) is volume.blocks


@pytest.mark.parametrize(("name", "why"), [("bcache-alone", "cache"), ("drbd-v09-current", "peer")])
def test_what_lies_on_half_of_a_pair_is_not_written(name: str, why: str, tmp_path: Path) -> None:
    """A partition, which sfdisk made there."""
    path, inner = unpack(GOLDEN / f"named/{name}.img.xz", tmp_path / name), tmp_path / "inner"
    with mntapi.open_disks(str(path)) as disk_set:
        (half,) = (one for one in disk_set.volumes if one.kind in ("bcache", "drbd"))
        offset, size = half.offset, half.size
    with inner.open("wb") as made:
        made.truncate(size)
    subprocess.run(["sfdisk", "-q", inner], input=b"label: gpt\nstart=2048\n", check=True)
    with path.open("r+b") as disk:
        disk.seek(offset)
        disk.write(inner.read_bytes())
    with opened([path]) as disk_set:
        (partition,) = (one for one in disk_set.volumes if one.kind == "partition")
        assert why in str(why_read_only(partition)) and volume_blocks(partition) is partition.blocks
        assert read(partition.blocks, 0, partition.size) == inner.read_bytes()[1 * MIB :][: partition.size]


def test_a_linear_array_without_its_last_member(tmp_path: Path) -> None:
    """Neither written, nor converted: how long it would be is not known."""
    paths = golden("md", "disk?.img.xz", tmp_path)
    lacking = [path for path in paths if path.name != "disk2.img"]
    with opened(paths) as whole, opened(lacking) as disk_set:
        array, full = disk_set.volume("md-linear-12"), whole.volume("md-linear-12")
        assert full.state is VolumeState.OK and why_read_only(full) is None
        assert array.state is VolumeState.INCOMPLETE and "missing" in str(why_read_only(array))
        assert read(array.blocks, 0, 4096) == read(full.blocks, 0, 4096)
        with pytest.raises(ReadFailed):
            read(array.blocks, 0, array.size)
    more = [word for path in lacking[1:] for word in ("-d", str(path))]
    words = [str(lacking[0]), str(tmp_path / "out"), "--format", "raw", "--volume", "md-linear-12", *more]
    done = CliRunner().invoke(convert.command, words)
    assert isinstance(done.exception, ReadFailed) and not (tmp_path / "out").exists()


def shadowed(folder: Path) -> Path:
    """An NTFS volume with shadow copies that share blocks with it."""
    copies = [Copy(1, 128, [(0, 0, 150, 0, 0)]), Copy(2, 168, [(1, 0, 190, 0, 0)])]
    path = folder / "ntfs"
    path.write_bytes(Shadowed(1, copies=copies).image())
    return path


def test_a_shadow_copy_does_not_change_with_its_volume(tmp_path: Path) -> None:
    """Here without Windows, which would save the old blocks first."""
    path = shadowed(tmp_path)
    with mntapi.open_disks(str(path)) as disk_set:
        before = {one.id: read(one.blocks, 0, one.size) for one in disk_set.volumes if one.kind == "vss"}
    with opened([path]) as disk_set:
        (base,) = (one for one in disk_set.volumes if one.kind != "vss")
        copies = [one for one in disk_set.volumes if one.kind == "vss"]
        assert [copy.name.partition("@")[0] for copy in copies] == [base.name] * 2
        writable_volume(base).write(3 * 16384, memoryview(b"NEW!" * 4096))
        assert {one.id: read(one.blocks, 0, one.size) for one in copies} == before
        assert all("a shadow copy is not written" in str(why_read_only(one)) for one in copies)


def test_shadow_copies_that_only_the_overlay_shows(tmp_path: Path) -> None:
    """Nothing keeps them as they are when their volume is written, so they are not read."""
    made, plain = shadowed(tmp_path).read_bytes(), tmp_path / "plain"
    plain.write_bytes(bytes(len(made)))

    def overlay_of(_index: int, disk: Image) -> WritableBlocks:
        overlay = MemoryOverlay(disk.blocks)
        overlay.write(0, memoryview(made))
        return overlay

    with with_overlays(mntapi.open_disks(str(plain)), overlay_of) as disk_set:
        copies = [one for one in disk_set.volumes if one.kind == "vss"]
        assert len(copies) == 2 and all(one.state is VolumeState.UNSUPPORTED for one in copies)
        with pytest.raises(ReadFailed, match="may be written"):
            read(copies[0].blocks, 0, 1)


def test_shadow_copies_of_what_is_never_written(tmp_path: Path) -> None:
    """They are read through the overlay: of an unlocked BitLocker volume the originals show none."""
    made, plain = shadowed(tmp_path).read_bytes(), tmp_path / "plain"
    plain.write_bytes(bytes(len(made)))

    def overlay_of(_index: int, disk: Image) -> WritableBlocks:
        overlay = MemoryOverlay(disk.blocks)
        overlay.write(0, memoryview(made))
        return cast(WritableBlocks, Unwritable(overlay, "there is no writer"))

    with with_overlays(mntapi.open_disks(str(plain)), overlay_of) as disk_set:
        (first, _) = (one for one in disk_set.volumes if one.kind == "vss")
        assert first.state is VolumeState.OK and read(first.blocks, 0, 16384) == made[150 * 16384 :][:16384]
