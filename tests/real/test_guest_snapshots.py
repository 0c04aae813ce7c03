"""Earlier states in the guest's own tree, with snapshots that Windows and the kernel made.

What the files held is known: from the sample's own test cases, and from what the kernel read in the snapshot when it was made
(scripts/images/guests-snapshot.sh).
"""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.mounting import need, need_root
from contract.windows_builder import guid_device, mbr_device, system_tree
from contract.windows_disks import C_DRIVE, TWO_PARTITIONS, disk, ntfs, system_files
from mntapi.units import MIB

SAMPLE = Path(__file__).parents[3] / "shared/images/dfir_ntfs/test_data/vss_3_volstor.tar.gz"
VOLUME = mbr_device(0x74091D91, 4196352 * 512)
"""As ``MountedDevices`` would call the sample's second partition."""
COPIES = ("@2021-03-13T22:13:30Z", "@2021-03-13T22:13:17Z")
GOLDEN = Path(__file__).parents[1] / "golden/guests-snapshot"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def shadowed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """A Windows, and the disk with shadow copies that Windows Server made, which is its ``E:``."""
    need_root()
    need("mkntfs", "ntfs-3g", "sfdisk")
    if not SAMPLE.is_file():
        pytest.skip("the shared images are not here")
    folder = tmp_path_factory.mktemp("shadowed")
    with tarfile.open(SAMPLE) as archive:
        archive.extractall(folder, filter="data")
    files = system_files(system_tree({"C": guid_device(C_DRIVE), "E": VOLUME}))
    first = disk(folder / "c.raw", TWO_PARTITIONS, [(ntfs(folder / "c", files), MIB)])
    yield str(first), "-d", str(folder / "vss_3_volstor.raw")
    shutil.rmtree(folder)


@pytest.mark.root
def test_shadow_copies_are_beside_the_live_drive(mntapi, shadowed: tuple[str, str, str]) -> None:
    """test.txt held 52,272 times 1, then 2, now 3."""
    wanted = [("live", b"3"), (COPIES[0], b"2"), (COPIES[1], b"1")]
    found = mntapi.json("versions", *shadowed, "E:\\test.txt")
    assert [(one["version"], one["size"], one["sha256"]) for one in found] == [
        (label, 52272, sha256(letter * 52272)) for label, letter in wanted
    ]
    assert [one["differs_from_next"] for one in found] == [True, True, None]
    for one, (_, letter) in zip(found, wanted, strict=True):
        assert mntapi("cat", *shadowed, one["path"]).stdout == letter.decode() * 52272
    names = {one["name"] for one in mntapi.json("ls", *shadowed, "/E:")}
    assert {"test.txt", *COPIES} <= names


@pytest.mark.root
def test_shadow_copies_in_a_mount(mounted, shadowed: tuple[str, str, str]) -> None:
    top = mounted(*shadowed)
    assert (top / "E:/test.txt").read_bytes() == b"3" * 52272
    for label, letter in zip(COPIES, (b"2", b"1"), strict=True):
        assert (top / "E:" / label / "test.txt").read_bytes() == letter * 52272


@pytest.fixture
def snapshotted(tmp_path: Path) -> Path:
    """A Linux on LVM, with a snapshot of its root."""
    path = tmp_path / "disk.img"
    path.write_bytes(lzma.decompress((GOLDEN / "disk.img.xz").read_bytes()))
    return path


def test_a_snapshot_of_lvm_is_beside_the_live_root(mntapi, snapshotted: Path) -> None:
    facts = json.loads((GOLDEN / "facts.json").read_text())
    label = f"@{facts['time'].replace(' +0000', 'Z').replace(' ', 'T')}"
    assert set(facts["before"]) != set(facts["live"])
    for path in {*facts["before"], *facts["live"]}:
        live, before = mntapi.json("versions", snapshotted, path)
        assert (live["version"], before["version"]) == ("live", label)
        assert (live["sha256"], before["sha256"]) == (facts["live"].get(path), facts["before"].get(path))
        assert live["differs_from_next"] == (facts["live"].get(path) != facts["before"].get(path))
    told = mntapi("cat", snapshotted, f"/{label}/home/ann/gone.txt").stdout
    assert told == "to be deleted\n"
    assert label in {one["name"] for one in mntapi.json("ls", snapshotted, "/")}


@pytest.mark.parametrize("where", ["disk", "partition"])
def test_copies_of_a_disk_keep_their_snapshots(mntapi, snapshotted: Path, tmp_path: Path, where: str) -> None:
    """Each clone's own, also where one clone is found later than the other."""
    clone = tmp_path / "clone.img"
    if where == "disk":
        shutil.copy(snapshotted, clone)
    else:
        need("sfdisk")
        clone.write_bytes(bytes(MIB) + snapshotted.read_bytes() + bytes(MIB))
        subprocess.run(["sfdisk", "-q", clone], input="label: dos\nstart=2048, size=24MiB\n", text=True, check=True)
    facts = json.loads((GOLDEN / "facts.json").read_text())
    for guest in ("/guest0", "/guest1"):
        live, before = mntapi.json("versions", snapshotted, "-d", clone, f"{guest}/home/ann/budget.txt")
        assert live["sha256"] == facts["live"]["/home/ann/budget.txt"]
        assert before["sha256"] == facts["before"]["/home/ann/budget.txt"]
    assert {one["name"] for one in mntapi.json("ls", snapshotted, "-d", clone, "/")} == {"guest0", "guest1"}


def test_info_tells_of_the_snapshots_that_the_tree_has(mntapi, snapshotted: Path) -> None:
    assert "1 earlier state beside the live files" in mntapi("info", snapshotted).stdout
    told = mntapi.json("info", snapshotted)
    (before,) = [one for one in told["volumes"] if one["name"] == "vg0-before"]
    (state,) = told["guests"][0]["snapshots"]
    assert (state["path"], state["volume"], state["description"]) == ("/", before["id"], "vg0-before")
    assert time.strftime("@%Y-%m-%dT%H:%M:%SZ", time.gmtime(state["time_ns"] // 10**9)) in {
        one["name"] for one in mntapi.json("ls", snapshotted, "/")
    }


@pytest.mark.parametrize("volume", ["vg0-root", "vg0-before"])
def test_versions_by_the_name_of_the_volume(mntapi, snapshotted: Path, volume: str) -> None:
    wanted = mntapi("versions", snapshotted, "/home/ann/budget.txt").stdout
    assert mntapi("versions", snapshotted, f"/{volume}/home/ann/budget.txt").stdout == wanted


def test_versions_in_a_set_without_a_guest(mntapi, tmp_path: Path) -> None:
    """The paths are those that ``cat`` takes there."""
    if not SAMPLE.is_file():
        pytest.skip("the shared images are not here")
    with tarfile.open(SAMPLE) as archive:
        archive.extractall(tmp_path, filter="data")
    disk = tmp_path / "vss_3_volstor.raw"
    for folder in ("disk0p2", f"disk0p2{COPIES[1]}"):
        found = mntapi.json("versions", disk, f"/{folder}/test.txt")
        assert [one["version"] for one in found] == ["live", *COPIES]
    for one, letter in zip(found, "321", strict=True):
        assert mntapi("cat", disk, one["path"]).stdout == letter * 52272
