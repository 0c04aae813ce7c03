"""Earlier states in the guest's own tree, with snapshots that Windows and the kernel made.

What the files held is known: from the sample's own test cases, and from what the kernel read in the snapshot when it was made
(scripts/images/guests-snapshot.sh).
"""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import tarfile
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
