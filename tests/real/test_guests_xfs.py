"""Systems on XFS and LVM. Oracle: the kernel's mounts of the same volumes, put together by hand as fstab says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.guest_layouts import Machine, by_kernel, make_rocky
from contract.kernel_tree import check_mounted

pytestmark = pytest.mark.root
FACTS = Path(__file__).parents[1] / "golden" / "guests-layouts" / "facts.json"


@pytest.fixture(scope="module")
def rocky(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return make_rocky(tmp_path_factory.mktemp("rocky"))


@pytest.fixture
def oracle(rocky: Machine, tmp_path: Path) -> Iterator[Path]:
    with by_kernel(rocky, tmp_path / "by-kernel") as top:
        yield top


def test_rocky(mntapi, rocky: Machine) -> None:
    info = mntapi.json("info", rocky.disk)
    [guest] = info["guests"]
    told = [guest[key] for key in ("family", "product", "major", "minor", "hostname", "timezone", "reasons")]
    assert told == ["linux", "Rocky Linux 9.4 (Blue Onyx)", 9, 4, "db.example.org", "Europe/Berlin", []]
    assert {volume["name"]: volume["mount_points"] for volume in info["volumes"]} == {
        "disk0p1": [],
        "disk0p2": ["/boot"],
        "rl-home": ["/home"],
        "rl-root": ["/"],
        "rl-swap": [],
    }
    assert {volume["name"]: volume["uuid"] for volume in info["volumes"] if volume["filesystem"] == "xfs"} == {
        "disk0p2": rocky.uuids["boot"],
        "rl-home": rocky.uuids["home"],
        "rl-root": rocky.uuids["root"],
    }


def test_it_is_what_virt_inspector_says(mntapi, rocky: Machine) -> None:
    """Its facts are from scripts/images/guests-layouts.py."""
    [guest] = mntapi.json("info", rocky.disk)["guests"]
    [told] = json.loads(FACTS.read_text())["rocky"]["systems"]
    assert [guest[key] for key in ("family", "architecture", "product", "hostname")] == [
        told[key] for key in ("name", "arch", "product_name", "hostname")
    ]
    assert [str(guest["major"]), str(guest["minor"])] == [told["major_version"], told["minor_version"]]
    assert {mount["path"] for mount in guest["mounts"]} == told["mountpoints"].keys()


@pytest.mark.parametrize("backend", ["kernel", "fusepy"])
def test_the_mounted_tree_is_the_kernels(mounted, rocky: Machine, oracle: Path, backend: str) -> None:
    check_mounted(mounted(rocky.disk, "--fuse-backend", backend), oracle, ours=["volumes"])


def test_paths(mntapi, rocky: Machine, tmp_path: Path) -> None:
    assert mntapi("cat", rocky.disk, "/etc/mail").stdout == "you have mail\n"
    assert mntapi("cat", rocky.disk, "/home/ann/zone").stdout == "TZif2"
    assert len(mntapi("ls", rocky.disk, "/var/log/many").stdout.splitlines()) == 600
    mntapi("cp", "-r", rocky.disk, "/home/ann", tmp_path)
    assert (tmp_path / "ann/budget.ods").read_bytes() == bytes(range(256)) * 300
