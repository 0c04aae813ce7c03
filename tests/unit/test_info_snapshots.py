"""The snapshots that ``info`` lists. Oracle: ``qemu-img info``; the ``.vmsd`` itself."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from contract.make_disk import need, run
from mntapi import DiskSpec, OpenOptions, open_disks
from mntapi.cli.info_snapshots import snapshots_page
from mntapi.cli.main import OK, PARTIAL
from mntapi.cli.main import run as mntapi
from mntapi.errors import Corrupt
from mntapi.session import snapshots
from mntapi.session.snapshots import Holder, Listed, snapshots_of
from mntapi.units import MIB

NAMES = ("before update", "2", "\x1b[31mred", "grün")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A QCOW2 that grew between its snapshots."""
    need("qemu-img")
    path = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-f", "qcow2", path, 8 * MIB)
    for number, name in enumerate(NAMES):
        run("qemu-img", "snapshot", "-c", name, path)
        run("qemu-img", "resize", path, (9 + number) * MIB)
    return path


def info(capfdbinary: pytest.CaptureFixture[bytes], *arguments: object, code: int = OK) -> tuple[str, str]:
    assert mntapi(["info", *map(str, arguments)]) == code
    said = capfdbinary.readouterr()
    return said.out.decode(), said.err.decode()


def test_those_of_a_qcow2(disk: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    theirs = json.loads(run("qemu-img", "info", "--output", "json", disk))["snapshots"]
    [ours] = json.loads(info(capfdbinary, "--json", disk)[0])["disks"]
    assert [(one["id"], one["name"], one["vm_state_size"], one["time_ns"]) for one in ours["snapshots"]] == [
        (one["id"], one["name"], one["vm-state-size"], one["date-sec"] * 10**9 + one["date-nsec"]) for one in theirs
    ]
    assert [one["size"] for one in ours["snapshots"]] == [8 * MIB, 9 * MIB, 10 * MIB, 11 * MIB]


def test_the_page_shows_them_escaped(disk: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    page, _ = info(capfdbinary, disk)
    lines = page[page.index("SNAPSHOT") :].splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [["1", "disk0"], ["2", "disk0"], ["3", "disk0"], ["4", "disk0"]]
    assert lines[1].endswith("  before update") and lines[3].endswith("  \\x1b[31mred") and lines[4].endswith("  grün")
    assert "--snapshot" in lines[5]


def test_each_that_is_listed_can_be_opened(disk: Path) -> None:
    with open_disks(str(disk)) as disk_set:
        [holder] = snapshots_of(disk_set.disks, [DiskSpec(str(disk))], OpenOptions())
    for one in holder.snapshots:
        with open_disks(DiskSpec(str(disk), snapshot=one.id)) as then:
            assert then.disks[0].blocks.size == one.size


def test_a_table_that_is_damaged(disk: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What comes before the damage is listed, and what is wrong is told."""
    content = bytearray(disk.read_bytes())
    (table,) = struct.unpack_from(">Q", content, 64)
    id_length, name_length = struct.unpack_from(">HH", content, table + 12)
    (extra_length,) = struct.unpack_from(">I", content, table + 36)
    second = table + (40 + extra_length + id_length + name_length + 7) // 8 * 8
    content[second : second + 40] = b"\xff" * 40
    disk.write_bytes(content)
    page, errors = info(capfdbinary, disk, code=PARTIAL)
    assert NAMES[0] in page and "disk.qcow2" in errors and "extra data" in errors and f"at byte {second + 36}" in errors
    assert json.loads(info(capfdbinary, "--json", disk, code=PARTIAL)[0])["disks"][0]["virtual_size"] == 12 * MIB


def test_no_more_than_the_limit(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "MAX_LISTED", 3)
    with open_disks(str(disk)) as disk_set:
        [holder] = snapshots_of(disk_set.disks, [DiskSpec(str(disk))], OpenOptions())
    assert [one.name for one in holder.snapshots] == list(NAMES[:3])


def test_a_disk_without_any(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (tmp_path / "disk.raw").write_bytes(bytes(MIB))
    assert "SNAPSHOT" not in info(capfdbinary, tmp_path / "disk.raw")[0]
    told = json.loads(info(capfdbinary, "--json", tmp_path / "disk.raw")[0])
    assert told["machines"] == [] and told["disks"][0]["snapshots"] == []


@pytest.fixture
def vmx(tmp_path: Path) -> Path:
    need("qemu-img")
    run("qemu-img", "create", "-f", "vmdk", tmp_path / "a.vmdk", MIB)
    (tmp_path / "web01.vmx").write_text(
        'config.version = "8"\ndisplayName = "web01"\nscsi0:0.present = "TRUE"\nscsi0:0.fileName = "a.vmdk"\n'
    )
    (tmp_path / "web01.vmsd").write_text(
        'snapshot.numSnapshots = "2"\nsnapshot.current = "5"\n'
        'snapshot0.uid = "3"\nsnapshot0.displayName = "installed"\nsnapshot0.createTimeHigh = "400000"\n'
        'snapshot0.createTimeLow = "0"\nsnapshot0.numDisks = "1"\nsnapshot0.disk0.fileName = "a.vmdk"\n'
        'snapshot1.uid = "5"\nsnapshot1.parent = "3"\nsnapshot1.displayName = "before update"\n'
        'snapshot1.description = "by hand"\nsnapshot1.numDisks = "1"\nsnapshot1.disk0.fileName = "a.vmdk"\n'
    )
    return tmp_path / "web01.vmx"


def test_those_of_a_machine(vmx: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    [machine] = json.loads(info(capfdbinary, "--json", vmx)[0])["machines"]
    assert (machine["path"], machine["kind"], machine["name"]) == (str(vmx), "vmx", "web01")
    first, second = machine["snapshots"]
    unknown: dict[str, Any] = {"size": None, "vm_state_size": None}
    assert first == unknown | {
        "id": "3", "name": "installed", "time_ns": (400000 << 32) * 1000, "parent": None, "description": None,
        "is_current": False,
    }  # fmt: skip
    assert second == unknown | {
        "id": "5", "name": "before update", "time_ns": None, "parent": "3", "description": "by hand", "is_current": True,
    }  # fmt: skip
    page, _ = info(capfdbinary, vmx)
    assert "web01.vmx" in page and "before update" in page


def test_of_many_the_newest_are_shown() -> None:
    holder = Holder("/b/disk.qcow2", 0, tuple(Listed(str(number), f"s{number}", vm_state_size=MIB) for number in range(30)))
    short, long = "\n".join(snapshots_page([holder], verbose=False)), "\n".join(snapshots_page([holder], verbose=True))
    assert "s29" in short and "s19" not in short and "20 older ones" in short and "1.00 MiB" in short
    assert "s0" in long and "older" not in long


def test_a_file_that_went_away(tmp_path: Path) -> None:
    (tmp_path / "a.vmx").write_bytes(b'config.version = "8"\nencryption.keySafe = "x"\n')
    [holder] = snapshots_of([], [DiskSpec(str(tmp_path / "a.vmx"))], OpenOptions())
    assert holder.error is not None and not isinstance(holder.error, Corrupt) and holder.snapshots == ()
