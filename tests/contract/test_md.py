"""Arrays made by mdadm, read without it. The oracle in tests/golden/md/facts.json: the SHA-256 of each array as Linux 6.1 reads
it, whole and degraded, and what mdadm 4.2 says (scripts/images/md.py)."""

from __future__ import annotations

import hashlib
import json
import lzma
import random
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

import mntapi
from contract.blocks_contract import check_blocks
from mntapi.blocks import HostFile, Slice, read
from mntapi.errors import ReadFailed
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.units import parse_size
from mntapi.volumes import gpt, mbr, md
from mntapi.volumes.scan import find_volumes, scan

GOLDEN = Path(__file__).parents[1] / "golden/md"
SAMPLES = Path(__file__).parents[3] / "shared/images/util-linux/tests"
FACTS = json.loads((GOLDEN / "facts.json").read_text())
CASES: dict[str, dict] = FACTS["cases"]
PARTITIONED = [case for case, *_ in FACTS["partitions"]]
CHANGED = "sha256 changed"

UNREAD = {"journal-r5": "write journal", "reshape-r5": "reshape"}
AS_IT_IS = {
    "stale-r1": VolumeState.DEGRADED,
    "stale-r5": VolumeState.DEGRADED,
    "stale-09": VolumeState.DEGRADED,
    "rebuild-r1": VolumeState.DEGRADED,
    "rebuild-r5": VolumeState.DEGRADED,
}
"""States of what is not OK."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disks, unpacked."""
    path = tmp_path_factory.mktemp("md")
    for packed in GOLDEN.glob("*.img.xz"):
        with lzma.open(packed) as source, (path / packed.stem).open("wb") as out:
            while chunk := source.read(1 << 20):
                if chunk.count(0) == len(chunk):
                    out.seek(len(chunk), 1)
                else:
                    out.write(chunk)
            out.truncate()
    return path


@pytest.fixture(scope="module")
def disks(folder: Path) -> Iterator[dict[str, HostFile]]:
    with ExitStack() as stack:
        opened = {path.stem: HostFile.open(str(path)) for path in sorted(folder.glob("*.img"))}
        for blocks in opened.values():
            stack.callback(blocks.close)
        yield opened


@pytest.fixture(scope="module")
def partitions(disks: dict[str, HostFile]) -> dict[str, list[Volume]]:
    """The members of each case, in the order they were given to mdadm."""
    found = {}
    for volume in scan([disks[f"disk{number}"] for number in range(5)], [gpt]):
        found[volume.name] = volume
    members = {}
    for index, (case, *sizes) in enumerate(FACTS["partitions"], 1):
        members[case] = [found[f"disk{number}p{index}"] for number in range(len(sizes))]
    return members


def assembled(blocks: list[Blocks]) -> Volume:
    """The array these are members of, each given as a disk."""
    (volume,) = [volume for volume in scan(blocks, [md]) if volume.kind == "md"]
    return volume


def array_of(members: list[Volume], without: str = "") -> Volume:
    return assembled([volume.blocks for number, volume in enumerate(members) if str(number) not in without])


def sha256(blocks: Blocks) -> str:
    digest = hashlib.sha256()
    for start in range(0, blocks.size, 1 << 20):
        digest.update(read(blocks, start, min(1 << 20, blocks.size - start)))
    return digest.hexdigest()


def listing(text: str) -> dict[str, str]:
    """``name : value`` lines of mdadm."""
    return {name.strip(): value.strip() for name, value in re.findall(r"^ *([^:\n]+?) : (.*)$", text, re.MULTILINE)}


def expected(case: str) -> dict:
    facts = CASES[case]
    return facts.get(CHANGED) or facts["sha256 whole"]


READ = [case for case in PARTITIONED if case not in UNREAD and case != "r0-unknown"]


@pytest.mark.parametrize("case", READ)
def test_the_bytes_the_kernel_reads(partitions: dict[str, list[Volume]], case: str) -> None:
    volume = array_of(partitions[case])
    assert volume.state is AS_IT_IS.get(case, VolumeState.OK), volume.reason
    assert (volume.size, sha256(volume.blocks)) == (expected(case)["size"], expected(case)["sha256"])
    content = read(volume.blocks, 0, volume.size)
    check_blocks(volume.blocks, lambda offset, length: content[offset : offset + length], ranges=500 if "n2" in case else 25)


@pytest.mark.parametrize(
    ("case", "without"),
    [(case, key.split("without")[1]) for case, facts in CASES.items() for key in facts if key.startswith("sha256 without")],
)
def test_degraded(partitions: dict[str, list[Volume]], case: str, without: str) -> None:
    """The kernel read the same bytes without those members."""
    facts = CASES[case][f"sha256 without{without}"]
    assert facts == CASES[case]["sha256 whole"]
    volume = array_of(partitions[case], without)
    assert sha256(volume.blocks) == facts["sha256"]
    is_member = CASES[case][f"examine {without[0]}"].find("Device Role : spare") < 0
    if is_member:
        is_sure = "not shut down cleanly" not in (volume.reason or "")
        assert volume.state is (VolumeState.DEGRADED if is_sure else VolumeState.INCOMPLETE)
        assert (volume.reason or "").startswith("member")


@pytest.mark.parametrize("case", [case for case in PARTITIONED if "detail whole" in CASES[case]])
def test_what_mdadm_says(partitions: dict[str, list[Volume]], case: str) -> None:
    volume = array_of(partitions[case])
    said = listing(CASES[case]["detail whole"])
    assert volume.id == f"md:{said['UUID'].split(' ')[0]}"
    details = volume.details
    if case not in UNREAD and case != "grown-r5":
        assert details["level"] == said["Raid Level"]
        assert details.get("metadata") == said["Version"]
        assert details["members"].split(" of ")[1] == said["Raid Devices"]
        if "Layout" in said and said["Raid Level"] != "raid0":
            assert details["layout"] == said["Layout"].lower()
        if "Chunk Size" in said:
            assert parse_size(details["chunk"]) == parse_size(said["Chunk Size"])
    if "Name" in said:
        assert details["name"] == said["Name"].split(" ")[0]
        assert volume.name == f"md-{case}"
    for number, member in enumerate(partitions[case]):
        examined = listing(CASES[case].get(f"examine {number}", ""))
        (told,) = [one for one in md.volumes([member]) if one.kind == "partition"] if examined.get("Magic") else [member]
        if examined.get("Device UUID"):
            assert told.details["device"] == examined["Device UUID"]
            assert told.details["events"] == examined["Events"]
            role = examined["Device Role"].removeprefix("Active device ")
            assert told.details["role"] == (role if role.isdecimal() else role.lower())


@pytest.mark.parametrize(("case", "word"), UNREAD.items())
def test_named_and_not_read(partitions: dict[str, list[Volume]], case: str, word: str) -> None:
    volume = array_of(partitions[case])
    assert volume.state is VolumeState.UNSUPPORTED
    assert word in (volume.reason or "")


def test_a_layout_nobody_recorded(partitions: dict[str, list[Volume]]) -> None:
    """Unequal members: what both layouts agree on is read."""
    volume = array_of(partitions["r0-unknown"])
    facts = CASES["r0-unknown"]["sha256 whole"]
    assert volume.size == facts["size"]
    assert (volume.state, volume.reason) == (
        VolumeState.INCOMPLETE,
        "the layout of this RAID 0 of unequal members was not recorded",
    )
    assert read(volume.blocks, 0, 8) == b"%08x" % (16 * (1 + PARTITIONED.index("r0-unknown")))
    with pytest.raises(ReadFailed, match="not recorded"):
        read(volume.blocks, 0, volume.size)


def test_members_left_out(partitions: dict[str, list[Volume]]) -> None:
    for case in ("stale-r1", "stale-r5", "stale-09"):
        assert "out of date" in (array_of(partitions[case]).reason or "")
    for case in ("rebuild-r1", "rebuild-r5"):
        assert "being rebuilt" in (array_of(partitions[case]).reason or "")


def test_not_shut_down_cleanly(partitions: dict[str, list[Volume]]) -> None:
    for case in ("unclean-r5", "resync-r6"):
        volume = array_of(partitions[case])
        assert (volume.state, volume.reason) == (VolumeState.OK, None)
        assert "not shut down cleanly" in volume.details["sync"]
        assert "may be wrong" in (array_of(partitions[case], "1").reason or "")


def test_a_table_inside_a_mirror_of_whole_disks(disks: dict[str, HostFile]) -> None:
    """Metadata 1.0 lies at the end, so each disk shows the array's partition table: it is the array's all the same."""
    found = find_volumes([disks["whole0"], disks["whole1"]])
    assert [volume.name for volume in found.volumes] == ["md-wholep1", "md-wholep2"]
    array = next(volume for volume in found.containers if volume.kind == "md")
    assert sha256(array.blocks) == CASES["whole"]["sha256 whole"]["sha256"]
    (alone,) = [volume for volume in find_volumes([disks["whole1"]]).containers if volume.kind == "md"]
    assert (alone.state, sha256(alone.blocks)) == (VolumeState.DEGRADED, CASES["whole"]["sha256 whole"]["sha256"])


@pytest.mark.parametrize(("name", "word"), [("imsm", "IMSM"), ("ddf", "DDF")])
def test_containers(disks: dict[str, HostFile], name: str, word: str) -> None:
    for volume in scan([disks[f"{name}0"], disks[f"{name}1"]], [md, gpt, mbr]):
        assert volume.state is VolumeState.UNSUPPORTED
        assert word in (volume.reason or "")


def test_all_at_once_and_in_any_order(folder: Path) -> None:
    """Through the front door: every disk in one set, shuffled; the same volumes whatever the order."""
    paths = [str(path) for path in sorted(folder.glob("*.img"))]
    seen = []
    for seed in (1, 2):
        random.Random(seed).shuffle(paths)
        with mntapi.open_disks(*paths) as opened:
            volumes = {volume.id: volume for volume in opened.volumes if volume.kind == "md"}
            seen.append({key: (volume.name, volume.size, volume.state) for key, volume in volumes.items()})
            for case in ("r0-original", "r5-right-symmetric", "r6-left-symmetric-6", "r10-f2-4"):
                volume = next(volume for volume in volumes.values() if volume.name == f"md-{case}")
                assert sha256(volume.blocks) == expected(case)["sha256"]
    assert seen[0] == seen[1]
    assert len(seen[0]) == len(PARTITIONED)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the shared sample images are not there")
def test_the_sample_of_libblkid(tmp_path: Path) -> None:
    """What ``blkid -p`` says of util-linux's own image."""
    path = tmp_path / "mdraid-1.img"
    path.write_bytes(lzma.decompress((SAMPLES / "ts/blkid/images-fs/mdraid-1.img.xz").read_bytes()))
    said = dict(line.split("=", 1) for line in (SAMPLES / "expected/blkid/low-probe-mdraid-1").read_text().splitlines() if line)
    with closing(HostFile.open(str(path))) as disk:
        found = find_volumes([disk], [md])
    (array,), (member,) = found.volumes, found.containers
    assert array.id.replace(":", "") == "md" + said["ID_FS_UUID"].replace("-", "")
    assert member.details["device"].replace(":", "") == said["ID_FS_UUID_SUB"].replace("-", "")
    assert (array.details["name"], array.details["metadata"]) == (said["ID_FS_LABEL"], said["ID_FS_VERSION"])
    assert (array.name, array.state) == ("md-0", VolumeState.OK)


def test_a_missing_member_is_named_by_its_number(partitions: dict[str, list[Volume]]) -> None:
    """Oracle: ``dev_number`` (md_p.h) in the superblock of the member that is left out, which alone has its UUID."""
    for case in ("r1-12", "r5-default", "r10-n2-4"):
        for number, left_out in enumerate(partitions[case]):
            device = int.from_bytes(read(left_out.blocks, 4096 + 160, 4), "little")
            volume = array_of(partitions[case], without=str(number))
            assert f"member {number} (device number {device}) of {len(partitions[case])} is " in (volume.reason or "")
            assert volume.state is VolumeState.DEGRADED
            assert (volume.reason or "").endswith(f"missing from array {volume.id.removeprefix('md:')}")
            assert volume.details["missing"] == f"{number} (device number {device})"


def test_a_copied_disk(disks: dict[str, HostFile]) -> None:
    """The same member twice: one of them is used, and the other named."""
    copy = Slice(disks["whole0"], 0, disks["whole0"].size)
    found = find_volumes([disks["whole0"], copy, disks["whole1"]], [md])
    (array,) = [volume for volume in found.volumes if volume.kind == "md"]
    assert array.state is VolumeState.OK
    assert "is a copy of member 0, of which disk" in (array.reason or "")
    assert sha256(array.blocks) == CASES["whole"]["sha256 whole"]["sha256"]
