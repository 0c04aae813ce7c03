"""What is told of guests: by ``DiskSet.guests``, on the page and in the JSON of ``info``, and who serves them."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from contract.guest_sets import bind, linux, mount
from mntapi.blocks import Zero
from mntapi.cli.info import describe
from mntapi.cli.info_guests import applications_page, describe_guest, heading, mounted_at, short, title
from mntapi.cli.info_page import page
from mntapi.errors import Corrupt, ReadFailed
from mntapi.guests import finder
from mntapi.guests.types import Application, Candidate, Guest, MountKind, MountPoint, PointInTime, User
from mntapi.session.diskset import DiskSet
from mntapi.session.guest_tree import GuestTree
from mntapi.session.launch import Worker
from mntapi.session.tree import VolumeTree, open_tree
from mntapi.types import Image, Volume
from mntapi.volumes.scan import Found

EVIL = "\x1b]0;owned\x07\n\u202e"
FULL = linux(
    mount("/", "root"),
    mount("/home", "home"),
    mount("/srv", "home", reason="this may be a copy"),
    *(MountPoint(f"/m{number}", MountKind.MISSING, "LABEL=gone", reason="no such volume") for number in range(7)),
    MountPoint("/media", MountKind.MISSING, "/dev/cdrom", options=("noauto",)),
    MountPoint("/net", MountKind.NETWORK, f"nas:{EVIL}"),
    MountPoint("/proc", MountKind.VIRTUAL, "proc"),
    bind("/b", "/home"),
    product="Debian GNU/Linux 12 (bookworm)",
    architecture="x86_64",
    hostname=f"web{EVIL}01",
    machine_id="77",
    timezone="Europe/Berlin",
    installed_ns=0,
    last_boot_ns=10**18,
    last_shutdown_ns=10**30,
    users=(User("ann", "1000"),),
    snapshots=(PointInTime("/", "id:root"),),
    details={"hibernated": "yes", "id": "debian"},
    reasons=tuple(f"/etc/{number}{EVIL}: bad sector" for number in range(8)),
    applications=lambda: [Application(f"zsh{EVIL}", "5"), Application("Bash", None, "GNU")],
)


def failing() -> list[Application]:
    raise ReadFailed("bad sector")


def disk_set(*guests: Guest) -> DiskSet:
    volumes = [
        Volume(f"id:{name}", name, "partition", Zero(1 << 20), members=("id:disk0",)) for name in ("root", "home", "rest")
    ]
    disk = Volume("id:disk0", "disk0", "disk", Zero(4 << 20), disk=0, offset=0)
    found = DiskSet([Image("web01.raw", "raw", disk.blocks, ())], Found(volumes, [disk]), ExitStack())
    found._guests = guests
    return found


def test_guests_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Candidate]] = []
    monkeypatch.setattr(finder, "FAMILIES", ())
    monkeypatch.setattr("mntapi.session.guests.find_guests", lambda candidates: asked.append(candidates) or [FULL])
    found = disk_set()
    found._guests = None
    assert found.guests == (FULL,) and found.guests is found.guests
    [candidates] = asked
    assert [one.volume.name for one in candidates] == ["root", "home", "rest"]
    with pytest.raises(Exception, match="holds no file system"):
        candidates[0].filesystem()


def test_which_tree() -> None:
    assert isinstance(open_tree(disk_set()), VolumeTree)
    assert isinstance(open_tree(disk_set(FULL)), GuestTree)
    assert open_tree(disk_set(FULL), snapshots=False)._snapshots is False


def test_the_head_of_the_page() -> None:
    lines = list(heading(disk_set(FULL), verbose=False))
    assert lines[0].startswith("Debian GNU/Linux 12 (bookworm), x86_64, host web\\x1b]0;owned")
    assert lines[1].split(", ") == [
        "       installed 1970-01-01 00:00:00Z",
        "started 2001-09-09 01:46:40Z",
        "shut down @1000000000000000000000Z",
        "time zone Europe/Berlin",
    ]
    assert lines[2] == "       on root" and lines[3].startswith("       hibernated: yes; it was hibernated, not shut down")
    missing = [line for line in lines if "missing: " in line]
    assert len(missing) == 5 and missing[0].endswith("/m0  missing: LABEL=gone (no such volume); give the disk with -d")
    assert "       3 more mount points are missing; -v shows all" in lines and any("1 earlier states" in line for line in lines)
    assert "       note: 3 more; -v shows all" in lines and lines[-1] == ""
    assert all(text.isprintable() for text in lines)
    verbose = list(heading(disk_set(FULL), verbose=True))
    for text in (
        "machine id: 77",
        "users: ann",
        "id: debian",
        "/proc  proc",
        "/b  /home",
        "/srv  LABEL=home  (this may be a copy)",
    ):
        assert f"       {text}" in verbose
    assert all(text.isprintable() for text in verbose) and "-d" not in next(line for line in verbose if "/media" in line)


def test_titles() -> None:
    windows = Guest(FULL.family, "id:c", "C:\\Windows", product="Windows Server 2022 Standard", build="20348.1")
    assert title(windows) == "Windows Server 2022 Standard, build 20348.1"
    assert title(Guest(FULL.family, "id:c", "/")) == "linux"


def test_where_volumes_are_mounted() -> None:
    one, two = disk_set(FULL), disk_set(FULL, linux(mount("/", "rest"), volume="rest"))
    assert mounted_at(one)["id:home"] == ["/home", "/srv"]
    assert mounted_at(two)["id:rest"] == ["guest1:/"] and mounted_at(two, numbered=False)["id:rest"] == ["/"]
    assert short(["/a", "/b", "/c\n", "/d", "/e"]) == "/a, /b, /c\\n and 2 more" and short([]) == ""
    rows = [line for line in page(one, verbose=False) if "─ " in line]
    assert "/home, /srv" in rows[1] and "MOUNTED AT" in "".join(page(one, verbose=False))
    assert "MOUNTED AT" not in "".join(page(disk_set(), verbose=False))


def test_json() -> None:
    told = describe(disk_set(FULL), apps=True)
    assert json.loads(json.dumps(told)) == told
    [guest] = told["guests"]
    assert (guest["hostname"], guest["installed_ns"], guest["details"]["id"]) == (FULL.hostname, 0, "debian")
    assert [one["name"] for one in guest["applications"]] == ["Bash", f"zsh{EVIL}"]
    assert guest["snapshots"][0]["path"] == "/" and len(guest["mounts"]) == len(FULL.mounts)
    assert [volume["mount_points"] for volume in told["volumes"]] == [["/"], ["/home", "/srv"], []]
    assert "applications" not in describe(disk_set(FULL))["guests"][0]


def test_applications_that_cannot_be_read() -> None:
    broken = linux(applications=failing)
    told = describe_guest(broken, apps=True)
    assert told["applications"] is None and told["reasons"] == ["applications: bad sector"]
    with pytest.raises(ReadFailed):
        applications_page(broken)
    assert all(line.isprintable() for line in applications_page(FULL))


def test_a_worker_that_does_not_say_what_it_serves(tmp_path: Path) -> None:
    program = (
        "import socket, sys; from mntapi.session.channel import Channel;"
        "channel = Channel(socket.socket(fileno=int(sys.argv[1]))); channel.receive();"
        "channel.send({'op': 'ready', 'layout': 5})"
    )
    worker = Worker.start([sys.executable, "-c", program], tmp_path / "log")
    fd = os.open(os.devnull, os.O_RDONLY)
    try:
        with pytest.raises(Corrupt, match="what it serves"):
            worker.serve(fd, layout=None, volume=None, backend="kernel")
    finally:
        os.close(fd)
        worker.close()
        worker.wait()
