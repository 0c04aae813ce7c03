"""The reading verbs on a real disk. Oracles: the files the disk was made from, blkid, sfdisk, stat."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from contract.make_disk import RealDisk, run

DISK_KEYS = {"path", "format", "virtual_size", "chain", "details", "snapshots"}
BASIC_KEYS = {"id", "name", "kind", "disk", "offset", "size", "state", "reason", "members", "details"}
VOLUME_KEYS = BASIC_KEYS | {"filesystem", "label", "uuid", "free", "stack", "mount_points"}


def test_info_json_agrees_with_sfdisk_and_blkid(mntapi, disk: RealDisk) -> None:
    info = mntapi.json("info", disk.vmdk)
    [one] = info["disks"]
    assert set(info) == {"disks", "guests", "machines", "volumes"} and set(one) == DISK_KEYS
    assert (one["path"], one["format"], one["virtual_size"]) == (str(disk.vmdk), "vmdk", disk.raw.stat().st_size)
    assert [link["file"] for link in one["chain"]] == [str(disk.vmdk)]
    table = json.loads(run("sfdisk", "--json", disk.raw))["partitiontable"]["partitions"]
    assert [(volume["offset"], volume["size"]) for volume in info["volumes"]] == [
        (part["start"] * 512, part["size"] * 512) for part in table
    ]
    for volume in info["volumes"]:
        assert set(volume) == VOLUME_KEYS and volume["disk"] == 0 and volume["state"] == "ok"
        blkid = dict(
            line.split("=", 1)
            for line in run("blkid", "-p", "-o", "export", "-O", volume["offset"], "-S", volume["size"], disk.raw).splitlines()
        )
        assert (volume["filesystem"], volume["label"], volume["uuid"]) == (blkid["TYPE"], blkid["LABEL"], blkid["UUID"])
    assert [volume["name"] for volume in info["volumes"]] == ["disk0p1", "disk0p2"]


def test_info_tells_the_free_space_that_e2fsprogs_and_ntfsprogs_tell(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    ext4, ntfs = mntapi.json("info", disk.vmdk)["volumes"]
    parts = []
    for volume in (ext4, ntfs):
        parts.append(tmp_path / volume["filesystem"])
        with disk.raw.open("rb") as raw, parts[-1].open("wb") as out:
            raw.seek(volume["offset"])
            out.write(raw.read(volume["size"]))
    header = dict(line.split(":", 1) for line in run("dumpe2fs", "-h", parts[0]).splitlines() if ":" in line)
    assert ext4["free"] == int(header["Free blocks"]) * int(header["Block size"])
    told = dict(line.strip().split(":", 1) for line in run("ntfsinfo", "-m", parts[1]).splitlines() if ":" in line)
    assert ntfs["free"] == int(told["Free Clusters"].split()[0]) * int(told["Cluster Size"])


def test_info_page(mntapi, disk: RealDisk) -> None:
    page = mntapi("info", disk.vmdk).stdout
    assert "disk0p1" in page and "ext4" in page and "32.0 MiB" in page and "root" in page
    tree = [line.split("  ")[0] for line in page.splitlines() if "─ disk0p" in line]
    assert tree == ["├─ disk0p1", "└─ disk0p2"] and "░" in page and "partitions" in page
    start = mntapi.json("info", disk.vmdk)["volumes"][1]["offset"]
    assert f"starts at: byte {start} of disk0" in mntapi("info", "-v", disk.vmdk).stdout


def test_the_stack_of_a_volume_begins_with_its_disk(mntapi, disk: RealDisk) -> None:
    for volume in mntapi.json("info", disk.vmdk)["volumes"]:
        [below] = volume["stack"]
        assert set(below) == BASIC_KEYS and (below["name"], below["kind"]) == ("disk0", "disk")
        assert volume["members"] == [below["id"]] and below["size"] == disk.raw.stat().st_size


def test_a_picture_to_scale(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    mntapi("info", "--svg", tmp_path / "disks.svg", disk.vmdk)
    mntapi("info", "--svg", tmp_path / "disks.svg", disk.vmdk, code=6)  # never over something that is there
    tree = ElementTree.parse(tmp_path / "disks.svg")
    name = "{http://www.w3.org/2000/svg}"
    boxes = {group.find(f"{name}title").text.split(":")[0]: group.find(f"{name}rect").attrib for group in tree.iter(f"{name}g")}
    assert set(boxes) == {"disk0", "disk0p1", "disk0p2"}
    whole, size = boxes["disk0"], disk.raw.stat().st_size
    for volume in mntapi.json("info", disk.vmdk)["volumes"]:
        box = boxes[volume["name"]]
        assert float(box["width"]) / float(whole["width"]) == pytest.approx(volume["size"] / size, abs=0.01)
        left = (float(box["x"]) - float(whole["x"])) / float(whole["width"])
        assert left == pytest.approx(volume["offset"] / size, abs=0.01)
    assert mntapi("info", "--svg", "-", disk.vmdk).stdout.rstrip() == (tmp_path / "disks.svg").read_text().rstrip()


def test_ids_do_not_depend_on_the_order_of_disks(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    other = tmp_path / "other.raw"
    with other.open("wb") as out:
        out.truncate(1 << 20)
    one = {volume["offset"]: volume["id"] for volume in mntapi.json("info", disk.vmdk)["volumes"]}
    two = mntapi.json("info", other, "-d", disk.vmdk)["volumes"]
    assert {volume["offset"]: volume["id"] for volume in two if volume["disk"] == 1} == one
    assert [volume["name"] for volume in two] == ["disk0", "disk1p1", "disk1p2"] and two[0]["state"] == "unknown"


def test_ls(mntapi, disk: RealDisk) -> None:
    top = [entry["name"] for entry in mntapi.json("ls", disk.vmdk)]
    assert top == sorted([*os.listdir(disk.files), "lost+found", "volumes"])
    assert mntapi("ls", disk.vmdk, "/volumes").stdout == "disk0p2\n"
    assert mntapi("ls", disk.vmdk, "/deep/er").stdout == mntapi("ls", disk.vmdk, "/disk0p1/deep/er").stdout == "still\n"
    names = mntapi.json("ls", disk.vmdk, "/disk0p1")
    assert {entry["name"] for entry in names} == {*os.listdir(disk.files), "lost+found"}
    [file] = mntapi.json("ls", disk.vmdk, "/disk0p1/etc/hostname")
    status = (disk.files / "etc/hostname").stat()
    assert (file["size"], file["mode"], file["mtime_ns"] // 10**9) == (6, 0o640, int(status.st_mtime))  # mke2fs -d: seconds
    assert (file["path"], file["kind"]) == ("/disk0p1/etc/hostname", "file")
    line = mntapi("ls", "-l", disk.vmdk, "/disk0p1/etc").stdout.splitlines()
    assert line[0].startswith("-rw-r-----  1") and line[1].endswith("os-release -> ../usr/lib/os-release")
    assert "/disk0p1/deep/er/still:" in mntapi("ls", "-R", disk.vmdk, "/disk0p1").stdout


def test_cat(mntapi, disk: RealDisk) -> None:
    assert mntapi("cat", disk.vmdk, "/disk0p1/etc/os-release").stdout == "NAME=Debian\n"
    done = subprocess.run([*mntapi.argv, "cat", str(disk.vmdk), "/disk0p2/budget.csv"], capture_output=True, check=True)
    assert done.stdout == disk.budget
    assert mntapi("cat", disk.vmdk, "/disk0p1/empty").stdout == ""


def test_cp_keeps_bytes_times_modes_and_holes(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    result = mntapi.json("cp", "-r", disk.vmdk, "/disk0p1", tmp_path / "out")
    assert result["failures"] == []
    for source in disk.files.rglob("*"):
        copy = tmp_path / "out" / source.relative_to(disk.files)
        if source.is_symlink():
            assert os.readlink(copy) == os.readlink(source)
        elif source.is_file():
            assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
            assert copy.stat().st_mode == source.stat().st_mode and int(copy.stat().st_mtime) == int(source.stat().st_mtime)
    assert (tmp_path / "out/sparse").stat().st_blocks * 512 < 1 << 20


def test_cp_to_folders_and_names(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    mntapi("cp", disk.vmdk, "/disk0p1/etc/hostname", tmp_path / "renamed")
    mntapi("cp", disk.vmdk, "/disk0p1/etc/hostname", "/disk0p2/budget.csv", tmp_path)
    assert (tmp_path / "renamed").read_text() == (tmp_path / "hostname").read_text() == "web01\n"
    assert (tmp_path / "budget.csv").read_bytes() == disk.budget
    again = mntapi("cp", disk.vmdk, "/disk0p1/etc/hostname", tmp_path, code=3)
    assert again.stderr.startswith("error: /disk0p1/etc/hostname:") and "--overwrite" in again.stderr
    mntapi("cp", "--overwrite", disk.vmdk, "/disk0p1/etc/hostname", tmp_path)
    mntapi("cp", disk.vmdk, "/disk0p1/etc", tmp_path, code=3)
    mntapi("cp", disk.vmdk, "/disk0p1/absent", tmp_path, code=4)
    mntapi("cp", disk.vmdk, "/disk0p1/etc/hostname", tmp_path / "no/such/folder", code=4)
    mntapi("cp", disk.vmdk, "/disk0p1/etc/hostname", code=2)
    mntapi("cp", "-r", disk.vmdk, "/", tmp_path / "all")
    assert {path.name for path in (tmp_path / "all").iterdir()} == {*os.listdir(disk.files), "lost+found", "volumes"}
    assert (tmp_path / "all/volumes/disk0p2/budget.csv").read_bytes() == disk.budget


def test_find(mntapi, disk: RealDisk) -> None:
    find = lambda *tests: set(mntapi("find", disk.vmdk, *tests).stdout.splitlines())  # noqa: E731
    assert find("--name", "*.csv") == {"/volumes/disk0p2/budget.csv"}
    assert find("/disk0p2", "--name", "*.csv") == {"/disk0p2/budget.csv"}
    assert find("/disk0p1/etc") == {"/disk0p1/etc/hostname", "/disk0p1/etc/os-release"}
    assert find("/disk0p1", "--type", "l") == {"/disk0p1/etc/os-release"}
    assert find("--type", "f", "--size", "+2M") == {
        "/deep/er/still/data.bin",
        "/sparse",
        "/volumes/disk0p2/budget.csv",
    }
    assert find("/disk0p1", "--size", "6") == {"/disk0p1/etc/hostname", "/disk0p1/x\x1b[31mred"}
    assert "/disk0p1/etc/hostname" not in find("/disk0p1", "--newer", "2017-07-15")
    assert "/disk0p1/etc/hostname" in find("/disk0p1", "--newer", "2017-07-14T02:39:59")
    assert find("/disk0p1/empty") == {"/disk0p1/empty"}
    everything = {entry["path"] for entry in mntapi.json("find", disk.vmdk, "/disk0p1")}
    assert everything == {f"/disk0p1/{path.relative_to(disk.files)}" for path in disk.files.rglob("*")} | {
        "/disk0p1/lost+found"
    }
    mntapi("find", disk.vmdk, "--size", "huge", code=2)
    mntapi("find", disk.vmdk, "--newer", "yesterdayish", code=2)


def test_names_on_a_terminal_are_escaped(mntapi, disk: RealDisk) -> None:
    out = run("script", "-qec", " ".join([*mntapi.argv, "ls", str(disk.vmdk), "/disk0p1"]), "/dev/null")
    assert "new\\nline" in out and "x\\x1b[31mred" in out and "\x1b" not in out
    assert "x\x1b[31mred" in mntapi("ls", disk.vmdk, "/disk0p1").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["info", "absent.vmdk"], 4, "absent.vmdk: no such file"),
        (["info", "/dev/null"], 7, "neither a regular file nor a block device"),
        (["info"], 2, "Missing argument"),
        (["frobnicate"], 2, "No such command"),
        (["ls", "{disk}", "/disk0p9"], 4, "'disk0p9'"),
        (["ls", "{disk}", "/disk0p1/etc/absent"], 4, "/disk0p1/etc/absent"),
        (["cat", "{disk}", "/disk0p1/etc"], 2, "is a folder"),
        (["cat", "{disk}", "/disk0p1/etc/hostname/x"], 2, "is not a folder"),
        (["info", "{disk}", "--format", "floppy"], 2, "floppy"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(mntapi, disk: RealDisk, arguments: list[str], code: int, text: str) -> None:
    done = mntapi(*(argument.format(disk=disk.vmdk) for argument in arguments), code=code)
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: ") and text in lines[0]
    assert len(lines) <= 2 and all(line.startswith("hint: ") for line in lines[1:])


def test_an_empty_file(mntapi, tmp_path: Path) -> None:
    (tmp_path / "empty.vmdk").touch()
    assert "0 bytes" in mntapi("info", tmp_path / "empty.vmdk", code=8).stderr


def test_a_closed_pipe_is_no_error_message(mntapi, disk: RealDisk) -> None:
    command = " ".join([*mntapi.argv, "cat", str(disk.vmdk), "/disk0p2/budget.csv", "| head -c 10 >/dev/null"])
    assert subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stderr == ""


def test_reading_changes_neither_bytes_nor_times(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    os.utime(disk.vmdk, ns=(1, 2))
    before = hashlib.sha256(disk.vmdk.read_bytes()).digest()
    os.utime(disk.vmdk, ns=(1, 2))
    mntapi("info", disk.vmdk)
    mntapi("cp", "-r", disk.vmdk, "/", tmp_path / "out")
    assert (disk.vmdk.stat().st_atime_ns, disk.vmdk.stat().st_mtime_ns) == (1, 2)
    assert hashlib.sha256(disk.vmdk.read_bytes()).digest() == before


def test_help_and_version(mntapi) -> None:
    page = mntapi("--help").stdout
    assert "Exit codes" in page and all(verb in page for verb in ("info", "mount", "umount", "doctor"))
    assert mntapi("--version").stdout.startswith("mntapi 0.")
    assert mntapi(code=2).stderr.startswith("Usage:")
