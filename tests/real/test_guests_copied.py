"""Guests copied, searched and read on the command line. Oracle: where ntfs-3g's mount says that junctions lead."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from contract.make_guest import LinuxMachine, make_linux
from contract.mounting import mounted_ntfs, need, need_root
from contract.windows_builder import guid_device, system_tree
from contract.windows_disks import C_DRIVE, TWO_PARTITIONS, ntfs, system_files
from contract.windows_disks import disk as make_disk
from mntapi.units import MIB

JUNCTIONS = {
    "Documents and Settings": "C:\\Users",
    "Users/Ann/All": "C:\\Users\\Public",
    "Users/Ann/Self": "C:\\Documents and Settings\\Ann",
}


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PC whose C: holds junctions, one to a drive that is not there, and names that differ in case only."""
    need_root()
    need("mkntfs", "ntfs-3g", "sfdisk")
    folder = tmp_path_factory.mktemp("copied")
    files = system_files(system_tree({"C": guid_device(C_DRIVE)}))
    files |= {"Users/Ann/BUDGET.XLSX": b"7", "Users/Public/note": b"all"}
    files |= {f"odd/{name}": name.encode() for name in ("CASE.txt", "case.txt", "Case.TXT")}
    links = [(name, f"\\??\\{target}") for name, target in {**JUNCTIONS, "ToMissing": "Z:\\"}.items()]
    data = ntfs(folder / "data", {}, size=8)
    parts = [(ntfs(folder / "c", files, links=links), MIB), (data, 65 * MIB)]
    return make_disk(folder / "w.raw", TWO_PARTITIONS, parts)


@pytest.mark.root
def test_junctions_work_in_a_copy(mntapi, windows: Path, tmp_path: Path) -> None:
    assert mntapi("cp", "-a", windows, "/", tmp_path / "all").stderr == ""
    copied = tmp_path / "all/C:"
    with mounted_ntfs(windows.parent / "c") as oracle:
        want = {name: os.path.relpath(os.path.realpath(oracle / name), oracle) for name in JUNCTIONS}
    assert want == {name: os.path.relpath(os.path.realpath(copied / name), copied) for name in JUNCTIONS}
    assert (copied / "Users/Ann/Self/BUDGET.XLSX").read_bytes() == b"7"
    assert os.readlink(copied / "ToMissing") == "../Z:"
    assert sorted(os.listdir(copied / "odd")) == ["CASE.txt", "Case.TXT", "case.txt"]


@pytest.mark.root
def test_a_junction_alone(mntapi, windows: Path, tmp_path: Path) -> None:
    told = mntapi("cp", "-r", windows, "c:\\documents and settings", tmp_path).stderr
    assert told.startswith("note: c:\\documents and settings: leads to C:\\Users, which is not in this copy")
    mntapi("cp", "-r", windows, "C:\\Users", tmp_path)
    assert (tmp_path / "documents and settings/Public/note").read_bytes() == b"all"
    again = mntapi.json("cp", "-r", windows, "C:\\Documents and Settings", tmp_path / "again")
    assert [note["path"] for note in again["notes"]] == ["C:\\Documents and Settings"] and not again["failures"]
    far = mntapi.json("cp", "-r", windows, "C:\\Users\\Ann\\All", tmp_path / "far", code=3)
    assert [failure["reason"] for failure in far["failures"]] == ["link"] and not os.path.lexists(tmp_path / "far")


@pytest.mark.root
def test_names_in_any_case(mntapi, windows: Path) -> None:
    found = "/C:/Users/Ann/BUDGET.XLSX\n"
    assert mntapi("find", windows, "--name", "budget*").stdout == mntapi("find", windows, "--iname", "Budget*").stdout == found
    assert mntapi("find", windows, "/disk0p1/Users", "--name", "budget*").stdout == "/disk0p1/Users/Ann/BUDGET.XLSX\n"
    told = mntapi("cat", windows, "C:\\odd\\CASE.TXT", code=4).stderr
    assert "3 that differ from it in case only\nhint: there is 'CASE.txt', 'Case.TXT', 'case.txt'" in told
    assert mntapi("cat", windows, "C:\\odd\\Case.TXT").stdout == "Case.TXT"
    told = mntapi("cat", windows, "C:\\ToMissing\\x", code=4).stderr
    assert (
        told.startswith("error: /Z:: no drive of that letter") and "hint: /C:/ToMissing is a link to Z:/; add the disk" in told
    )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> LinuxMachine:
    return make_linux(tmp_path_factory.mktemp("copied"))


def test_mount_points_of_what_is_not_there(mntapi, machine: LinuxMachine, tmp_path: Path) -> None:
    done = mntapi("cp", "-r", machine.disk, "/mnt", tmp_path)
    assert done.stderr == "note: /mnt/nas: its files are on a server, not on these disks: only the folder is copied\n"
    assert stat.S_ISDIR((tmp_path / "mnt/nas").stat().st_mode)
    told = mntapi("cp", "-r", machine.disk, "/backup", tmp_path, code=3).stderr
    assert told.startswith("error: /backup: /dev/disk/by-uuid/deadbeef") and told.endswith("hint: give the disk with -d\n")
    assert os.listdir(tmp_path / "backup") == []
    assert mntapi("find", machine.disk, "/home", "--name", "BUDGET*").stdout == ""
    assert mntapi("find", machine.disk, "/home", "--iname", "BUDGET*").stdout == "/home/ann/budget.ods\n"
