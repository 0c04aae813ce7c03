"""Commands whose input and output lead nowhere, as those of services do, or cannot be written."""

from __future__ import annotations

import itertools
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from contract.make_disk import RealDisk

CLOSED = [" ".join(some) for count in (1, 2, 3) for some in itertools.combinations(("<&-", ">&-", "2>&-"), count)]


def by_shell(mntapi, redirections: str, *arguments: object) -> subprocess.CompletedProcess:
    command = shlex.join([*mntapi.argv, *map(str, arguments)])
    return subprocess.run(["sh", "-c", f"{command} {redirections}"], env=mntapi.environment, capture_output=True, text=True)


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_streams_change_nothing(mntapi, disk: RealDisk, tmp_path: Path, closed: str) -> None:
    done = by_shell(mntapi, closed, "convert", disk.vmdk, tmp_path / "out", "--format", "raw")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out").read_bytes() == disk.raw.read_bytes()
    done = by_shell(mntapi, closed, "info", tmp_path / "absent")
    assert done.returncode == 4 and ("error:" in done.stderr) is ("2>" not in closed)


@pytest.mark.parametrize("arguments", [("ls", "-R"), ("info",), ("info", "--json")], ids=" ".join)
def test_what_nobody_gets_is_no_success(mntapi, disk: RealDisk, arguments: tuple[str, ...]) -> None:
    done = by_shell(mntapi, ">&-", *arguments, disk.vmdk)
    assert done.returncode == 1 and "standard output" in done.stderr and done.stderr.count("\n") == 2
    file = by_shell(mntapi, ">&-", "cat", disk.vmdk, "/disk0p1/etc/hostname")
    assert file.returncode == 1 and "cannot be written" in file.stderr and "Exception" not in file.stderr


@pytest.mark.root
@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>/dev/full"])
def test_a_mount_without_streams(mntapi, disk: RealDisk, target: Path, closed: str) -> None:
    assert by_shell(mntapi, closed, "mount", disk.vmdk, target).returncode == 0
    assert (target / "disk0p1/etc/hostname").read_text() == "web01\n"
    mntapi("umount", target)


@pytest.mark.root
def test_a_mount_that_cannot_be_told_is_undone(mntapi, disk: RealDisk, target: Path) -> None:
    done = by_shell(mntapi, ">/dev/full", "mount", disk.vmdk, target, "--json")
    assert done.returncode == 1 and "No space left" in done.stderr and "make room" in done.stderr
    assert not os.path.ismount(target) and mntapi.json("ps") == []


def test_no_room_for_a_listing(mntapi, disk: RealDisk) -> None:
    done = by_shell(mntapi, ">/dev/full", "ls", "-R", disk.vmdk)
    assert done.returncode == 1 and done.stderr.count("\n") == 2 and "make room" in done.stderr
