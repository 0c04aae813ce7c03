"""LVM2 against LVM2 and the kernel: the volumes of tests/golden/lvm, made by lvcreate, with the SHA-256 of every volume as the
kernel read it and what lvs, vgs and pvs said (scripts/images/lvm.sh)."""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import mntapi
from contract.blocks_contract import check_blocks
from mntapi.blocks import HostFile, read
from mntapi.errors import ReadFailed
from mntapi.types import Volume, VolumeState
from mntapi.volumes.lvm.area import parse_header
from mntapi.volumes.lvm.label import find_label
from mntapi.volumes.scan import Found, find_volumes

GOLDEN = Path(__file__).parents[1] / "golden" / "lvm"
FACTS = json.loads((GOLDEN / "facts.json").read_text())
DISKS = [f"disk{number}" for number in range(7)]
KERNEL: dict[str, dict[str, Any]] = {key: facts for key, facts in FACTS["volumes"].items() if facts["sha256"]}
"""UUID, size and SHA-256 by group and volume; the kernel could not read those with error segments."""
NAMES = {row["lv_uuid"]: row["lv_name"] for row in FACTS["lvs"]}


def unpack(source: Path, target: Path) -> None:
    """Unpack, with holes where there are zeros."""
    size = 1 << 16
    with lzma.open(source) as packed, target.open("wb") as out:
        while chunk := packed.read(size):
            if chunk.count(0) == len(chunk):
                out.seek(len(chunk), 1)
            else:
                out.write(chunk)
        out.truncate()


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lvm")
    for name in DISKS:
        unpack(GOLDEN / f"{name}.img.xz", folder / f"{name}.img")
    return folder


@contextmanager
def scanned(folder: Path, *, without: Sequence[str] = (), order: int = 0) -> Iterator[Found]:
    names = [name for name in DISKS if name not in without]
    random.Random(order).shuffle(names)
    with ExitStack() as stack:
        opened = [HostFile.open(str(folder / f"{name}.img")) for name in names]
        for file in opened:
            stack.callback(file.close)
        yield find_volumes(opened)


def logical(found: Found) -> dict[str, Volume]:
    """The logical volumes by group and name; the exported group of the second name is ``exported``."""
    exported = {row["vg_uuid"] for row in FACTS["vgs"] if row["vg_name"] == "exported"}
    members = {one.id: one for one in (*found.containers, *found.volumes)}
    named = {}
    for one in (one for one in members.values() if one.kind == "lvm"):
        group = one.details["vg"]
        if any(members[key].details["vg uuid"] in exported for key in one.members):
            group = "exported"
        named[f"{group}/{NAMES[one.id.removeprefix('lvm:')]}"] = one
    return named


def digest(one: Volume) -> str:
    return sha256(read(one.blocks, 0, one.size)).hexdigest()


def test_all_volumes_and_only_those(disks: Path) -> None:
    """UUID and size as lvs says, hidden ones left out, names as device-mapper's."""
    with scanned(disks) as found:
        volumes = logical(found)
        told = {f"{row['vg_name']}/{row['lv_name']}": row for row in FACTS["lvs"] if not row["lv_name"].startswith("[")}
        assert set(volumes) == set(told)
        for key, one in volumes.items():
            size = KERNEL[key]["size"] if key in KERNEL else int(told[key]["lv_size"])  # of a snapshot, lvs tells its store's
            assert (one.id, one.size) == (f"lvm:{told[key]['lv_uuid']}", size), key
        assert volumes["plain/li-near"].name == "plain-li--near"
        assert volumes["raid-set/r1three"].name == "raid--set-r1three"
        assert volumes["raid-set/r1three"].details["tags"] == "three"
        assert {one.name.partition("~")[0] for key, one in volumes.items() if key.endswith("/data")} == {"twin-data"}


def test_every_byte_is_the_kernels(disks: Path) -> None:
    with scanned(disks, order=1) as found:
        volumes = logical(found)
        assert len(KERNEL) == 42
        wrong = [key for key, facts in KERNEL.items() if facts["sha256"] != digest(volumes[key])]
        assert wrong == []


def test_the_contract_of_blocks(disks: Path) -> None:
    with scanned(disks) as found:
        for key, one in logical(found).items():
            if key in KERNEL:
                content = read(one.blocks, 0, one.size)
                assert sha256(content).hexdigest() == KERNEL[key]["sha256"]
                check_blocks(one.blocks, content, ranges=60)


def test_the_physical_volumes(disks: Path) -> None:
    """Size and free space as pvs says; nothing of a good group has a reason."""
    with scanned(disks) as found:
        told = {row["pv_uuid"]: row for row in FACTS["pvs"] if row["pv_uuid"]}
        ours = {one.details["pv uuid"]: one for one in (*found.containers, *found.volumes) if "pv uuid" in one.details}
        assert set(ours) == set(told)
        for uuid, row in told.items():
            details = ours[uuid].details
            assert details.get("vg", "") == row["vg_name"].replace("exported", "twin"), uuid
            if row["vg_name"]:
                assert (details["size"], details["free"]) == (row["pv_size"], row["pv_free"]), row
        assert {one.reason for one in ours.values() if one.details.get("vg") in ("plain", "raid-set", "twin")} == {None}
        assert [one.details["pv uuid"] for one in ours.values() if "vg" not in one.details] == [
            row["pv_uuid"] for row in told.values() if not row["vg_name"]
        ]


@pytest.mark.parametrize("missing", DISKS)
def test_without_one_disk(disks: Path, missing: str) -> None:
    """What redundancy replaces has every byte; the rest says which UUID is missing, and never gives a wrong byte."""
    with scanned(disks, without=[missing], order=2) as found:
        volumes = logical(found)
        if missing == "disk0":
            # What is left of this mirror is the image that was away, and only the missing one knew that.
            assert volumes.pop("stale/mirror").reason == "PV {} is missing (it was /tmp/disks/sda3)".format(
                next(row["pv_uuid"] for row in FACTS["pvs"] if row["pv_name"].endswith("sda3"))
            )
        gone = {row["pv_uuid"] for row in FACTS["pvs"] if f"/sd{'abcdefg'[DISKS.index(missing)]}" in row["pv_name"]}
        for one in volumes.values():
            named = set(filter(None, one.details.get("missing", "").split(", ")))
            assert named <= gone and all(f"PV {uuid} is missing" in (one.reason or "") for uuid in named)
            assert bool(named) == ("is missing" in (one.reason or "")), one.reason
        check_degraded(volumes)


def check_degraded(volumes: dict[str, Volume]) -> None:
    for key, one in volumes.items():
        if key not in KERNEL:
            continue
        if one.state in (VolumeState.OK, VolumeState.DEGRADED):
            assert digest(one) == KERNEL[key]["sha256"], key
            continue
        assert one.state is VolumeState.INCOMPLETE
        assert one.reason is not None and " is missing" in one.reason, (key, one.reason)
        with pytest.raises(ReadFailed):
            read(one.blocks, 0, one.size)


def test_redundant_volumes_survive(disks: Path) -> None:
    """Which ones must be read in full without a disk is known from what they are."""
    for missing in DISKS[:5]:
        with scanned(disks, without=[missing]) as found:
            volumes = logical(found)
            kinds = {key: one for key, one in volumes.items() if key.startswith(("raid-set/r1", "raid-set/r4", "raid-set/r5"))}
            kinds |= {key: one for key, one in volumes.items() if key.startswith("raid-set/r6")}
            assert len(kinds) >= 20
            for key, one in kinds.items():
                assert one.state in (VolumeState.OK, VolumeState.DEGRADED), (key, one.reason)


def test_an_array_that_was_reshaped(disks: Path) -> None:
    """It has the size that it has when it is activated again, larger than its superblocks say. For what is behind that nobody
    has computed parity: without a disk it is an error, and the rest is read."""
    with scanned(disks) as found:
        whole = logical(found)["plain/renumbered"]
        assert (whole.state, whole.size) == (VolumeState.OK, 589824)
        content = read(whole.blocks, 0, whole.size)
    for missing in DISKS[:4]:
        with scanned(disks, without=[missing]) as found:
            one = logical(found)["plain/renumbered"]
            assert (one.state, one.size) == (VolumeState.INCOMPLETE, whole.size)
            assert read(one.blocks, 0, 393216) == content[:393216]
            with pytest.raises(ReadFailed, match="cannot be read"):
                read(one.blocks, 393216, one.size - 393216)


def test_raid6_without_two_disks(disks: Path) -> None:
    for pair in combinations(DISKS[:5], 2):
        if set(pair) == {"disk0", "disk1"}:
            continue  # those two have the only metadata of the group
        with scanned(disks, without=pair) as found:
            volumes = {key: one for key, one in logical(found).items() if key.startswith("raid-set/r6")}
            assert len(volumes) == 9
            for key, one in volumes.items():
                assert one.state is VolumeState.DEGRADED, (pair, key, one.reason)
                assert digest(one) == KERNEL[key]["sha256"], (pair, key)


def test_a_group_whose_metadata_is_elsewhere(disks: Path) -> None:
    """Without the two disks that have the metadata, the others of the group say that they belong to one."""
    with scanned(disks, without=["disk0", "disk1"]) as found:
        volumes = logical(found)
        assert not any(key.startswith("raid-set/") for key in volumes)
        without = {row["pv_uuid"] for row in FACTS["pvs"] if row["vg_name"] == "raid-set" and row["pv_mda_count"] == "0"}
        volumes.pop("stale/mirror", None)
        bare = [one for one in found.volumes if one.details.get("pv uuid") in without]
        assert len(bare) == 4
        assert {one.state for one in bare} == {VolumeState.INCOMPLETE}
        check_degraded(volumes)


def test_an_image_that_is_out_of_date(disks: Path) -> None:
    """The group was used without disk 1, which is here with what it had before: the kernel's superblocks tell."""
    with scanned(disks) as found:
        for name in ("mirror", "five", "six", "ten"):
            one = logical(found)[f"stale/{name}"]
            assert one.state is VolumeState.DEGRADED
            assert one.reason == "image 1 is out of date: the array was used without it"
            assert digest(one) == KERNEL[f"stale/{name}"]["sha256"]


def test_a_disk_that_came_back(disks: Path) -> None:
    with scanned(disks) as found:
        volumes = logical(found)
        both = volumes["came-back/both"]
        assert both.state is VolumeState.DEGRADED and (both.reason or "").startswith("image 1 is old: PV ")
        assert (volumes["came-back/on-b"].state, volumes["came-back/on-b"].reason) == (VolumeState.OK, None)
        containers = [one for one in found.containers if one.reason == "the volume group was used without it"]
        assert len(containers) == 1


def areas(folder: Path) -> Iterator[tuple[Path, int, bool]]:
    """Every metadata area in use: its disk, where it is, whether its text wraps."""
    with scanned(folder) as found:
        for one in (*found.containers, *found.volumes):
            label = find_label(one.blocks) if "pv uuid" in one.details else None
            for area in label.metadata_areas if label is not None else ():
                header = parse_header(read(one.blocks, area.offset, 512), area)
                if header.location is not None and one.disk is not None and one.offset is not None:
                    wraps = header.location.offset + header.location.length > header.area.length
                    yield folder / f"{DISKS[one.disk]}.img", one.offset + area.offset, wraps


def test_metadata_that_wraps_is_among_them(disks: Path) -> None:
    assert any(wraps for *_, wraps in areas(disks))


def test_volumes_through_the_public_interface(disks: Path) -> None:
    paths = [str(disks / f"{name}.img") for name in DISKS]
    random.Random(5).shuffle(paths)
    with mntapi.open_disks(*paths) as disk_set:
        volumes = {one.id.removeprefix("lvm:"): one for one in disk_set.volumes if one.kind == "lvm"}
        for key, facts in KERNEL.items():
            assert digest(volumes[facts["uuid"]]) == facts["sha256"], key


def test_clones_of_all_disks(disks: Path, tmp_path: Path) -> None:
    """Every disk twice, the copies alike: no volume is lost, and each has the kernel's bytes."""
    with ExitStack() as stack:
        opened = []
        for name in DISKS:
            for copy in ("a", "b"):
                link = tmp_path / f"{copy}-{name}.img"
                link.symlink_to(disks / f"{name}.img")
                opened.append(HostFile.open(str(link)))
                stack.callback(opened[-1].close)
        found = find_volumes(opened)
        by_uuid: dict[str, list[Volume]] = {}
        for one in (one for one in (*found.volumes, *found.containers) if one.kind == "lvm"):
            by_uuid.setdefault(one.id.removeprefix("lvm:").partition("@")[0], []).append(one)
        for key, facts in KERNEL.items():
            for one in by_uuid[facts["uuid"]]:
                assert one.state is not VolumeState.UNSUPPORTED and ("times" in (one.reason or "") or not one.members), key
                assert digest(one) == facts["sha256"], key
        assert len(by_uuid[KERNEL["plain/li-near"]["uuid"]]) == 2


TARGETS = Path(__file__).parents[1] / "golden" / "lvm-targets"


def test_thin_volumes_snapshots_and_caches(tmp_path: Path) -> None:
    """Found through the metadata of their groups (scripts/images/lvm-targets.py): what lvs shows, with the kernel's bytes."""
    facts = json.loads((TARGETS / "facts.json").read_text())
    with ExitStack() as stack:
        opened = []
        for name in ("thin", "snapshots", "caches"):
            unpack(TARGETS / f"{name}.img.xz", tmp_path / name)
            opened.append(HostFile.open(str(tmp_path / name)))
            stack.callback(opened[-1].close)
        volumes = {one.id: one for one in find_volumes(opened).volumes if one.kind == "lvm"}
        shown = {row["lv_uuid"]: row for row in facts["lvs"] if not row["lv_name"].startswith("[")}
        pools = {row["lv_uuid"] for row in shown.values() if row["segtype"] in ("thin-pool", "cache-pool")}
        assert {f"lvm:{uuid}" for uuid in shown.keys() - pools} == set(volumes)
        ours = {
            f"{row['vg_name']}/{row['lv_name']}": volumes[f"lvm:{uuid}"] for uuid, row in shown.items() if uuid not in pools
        }
        assert len(facts["sha256"]) > 20
        for key, digest_ in facts["sha256"].items():
            name, *part = key.split(":")
            one = ours["vgs/org3"] if name == "vgs/merging" else ours[name]
            offset, length = map(int, part) if part else (0, one.size)
            assert sha256(read(one.blocks, offset, length)).hexdigest() == digest_, key
        assert ours["vgs/s4"].details["segments"] == "snapshot"
        assert ours["vgs/over"].state is not VolumeState.OK
