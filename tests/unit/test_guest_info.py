"""What is told of guests: by ``DiskSet.guests``, on the page and in the JSON of ``info``, and who serves them."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from contract.guest_sets import bind, linux, mount, tree_of
from contract.guest_volumes import candidate, with_state
from contract.memory_filesystem import MemoryFileSystem
from mntapi.blocks import Zero
from mntapi.cli.info import describe
from mntapi.cli.info_guests import applications_page, describe_guest, heading, mounted_at, short, title
from mntapi.cli.info_page import page
from mntapi.errors import Corrupt, ReadFailed
from mntapi.guests import finder
from mntapi.guests.linux.devices import Devices, Match
from mntapi.guests.linux.fstab import CryptName
from mntapi.guests.linux.mounts import placed
from mntapi.guests.types import Application, Candidate, Family, Guest, MountKind, MountPoint, PointInTime, User
from mntapi.session.diskset import DiskSet
from mntapi.session.guest_tree import GuestTree, advice_for
from mntapi.session.guests import guests_on
from mntapi.session.launch import Worker
from mntapi.session.paths import resolve
from mntapi.session.tree import VolumeTree, open_tree
from mntapi.types import Image, Volume, VolumeState
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
    assert "       2 more mount points are missing; -v shows all" in lines and any(
        "  1 earlier state " in line for line in lines
    )
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


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (None, "; give the disk with -d"),
        ("disk1 is locked: luks2: wants a passphrase", "; --key disk1:FILE opens it"),
        (
            "no volume with LABEL=x in the set; it may be in disk1, which is locked",
            "; open that with --key, or give the disk with -d",
        ),
        ("/images/x.iso is a disk image inside the guest", ""),
        ("pool is a ZFS dataset, which this version does not read", ""),
    ],
)
def test_what_brings_the_files_of_a_mount_point(reason: str | None, advice: str) -> None:
    """The reasons are those of the Linux guests, which are what gives them."""
    missing = MountPoint("/home", MountKind.MISSING, "/dev/mapper/home", reason=reason)
    (line,) = [line for line in heading(disk_set(replace(FULL, mounts=(missing,))), verbose=False) if "/home" in line]
    assert line.endswith(f"/dev/mapper/home{f' ({reason})' if reason else ''}{advice}")


def test_the_reason_of_a_locked_volume_names_its_key() -> None:
    """As the Linux guests say it."""
    locked = with_state(candidate(MemoryFileSystem({}), "id:home", name="disk1"), VolumeState.ENCRYPTED, "luks2: wants a key")
    reason = placed(MountPoint("/home", MountKind.MISSING, "x"), Match(locked)).reason
    missing = MountPoint("/home", MountKind.MISSING, "x", reason=reason)
    (line,) = [line for line in heading(disk_set(replace(FULL, mounts=(missing,))), verbose=False) if "/home" in line]
    assert line.endswith("; --key disk1:FILE opens it")


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ("LABEL=BOOT", "open the disks of one machine at a time"),
        ("/dev/disk/by-path/pci-1-part3", "open the disks of one machine at a time"),
        ("/dev/disk/by-path/pci-1-part4", "give the disk with -d"),
        ("/dev/mapper/vg-home", "open the disks of one machine at a time"),
        ("/dev/vg/other", "give the disk with -d"),
        ("LABEL=gone", "give the disk with -d"),
        ("/dev/sdc1", "give the disk with -d"),
        ("/dev/md7", "give the disk with -d"),
        ("/dev/md/home", "open the disks of one machine at a time"),
        ("/dev/odd", None),
        ("/dev/mapper/crypt", None),
    ],
)
def test_advice_for_what_the_linux_guests_say(source: str, advice: str | None) -> None:
    """More disks do not help where there are too many already."""
    root = candidate({}, "r", name="disk0p1")
    others = [
        *(candidate({}, f"b{disk}", name=f"disk{disk}p3", label="BOOT", disk=disk) for disk in (1, 2)),
        *(candidate({}, f"l{number}", kind="lvm", name="vg-home", disk=None) for number in (1, 2)),
        *(candidate({}, f"m{number}", kind="md", name="md-home", disk=None) for number in (1, 2)),
    ]
    match = Devices([root, *others], root, [CryptName("crypt", "/dev/odd")]).find(source)
    assert match.candidate is None
    assert advice_for(placed(MountPoint("/x", MountKind.MISSING, source), match)) == advice


def test_drives_for_media_are_no_alarm() -> None:
    mounts = (
        MountPoint("/media/cdrom", MountKind.MISSING, "/dev/cdrom"),
        MountPoint("/usb", MountKind.MISSING, "UUID=1", options=("noauto",)),
        MountPoint("E:\\", MountKind.MISSING, "x", reason="a CD or DVD drive, not a volume of the set"),
    )
    lines = list(heading(disk_set(replace(FULL, mounts=mounts)), verbose=False))
    assert "       /media/cdrom  on demand or removable: /dev/cdrom" in lines
    assert "       /usb  on demand or removable: UUID=1" in lines
    assert not [line for line in lines if "missing" in line or "-d" in line] and sum("on demand" in line for line in lines) == 3


def test_the_service_pack_is_told() -> None:
    old = Guest(
        Family.WINDOWS, "id:c", "C:\\Windows", product="Windows 7", build="7601", details={"service-pack": "Service Pack 1"}
    )
    assert title(old) == "Windows 7, Service Pack 1, build 7601"


def test_snapshots_of_volumes_are_earlier_states_of_what_mounts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same that the tree has beside the live files: of what is mounted over, none."""
    volumes = [
        candidate({}, "id:root").volume,
        candidate({}, "id:home").volume,
        candidate({}, "id:s1", name="home@x", details={"base": "id:home", "created": "1970-01-01T00:00:01Z"}).volume,
        candidate({}, "id:s2", name="old", details={"base": "id:root"}).volume,
        candidate({}, "id:s3", details={"base": "id:gone"}).volume,
    ]
    whole = linux(
        mount("/home", "home", folder="/h"), mount("/two", "home"), mount("/two", "root", subvolume="@"), snapshots=()
    )
    of_c = replace(whole, family=Family.WINDOWS, mounts=())
    monkeypatch.setattr("mntapi.session.guests.find_guests", lambda candidates: [whole, of_c])
    one, other = guests_on(volumes, lambda volume: None, lambda volume: MemoryFileSystem({}))
    assert one.snapshots == (
        PointInTime("/", "id:s2", description="old"),
        PointInTime("/home", "id:s1", "/h", time_ns=10**9, description="home@x"),
        PointInTime("/two", "id:s2", subvolume="@", description="old"),
    )
    assert other.snapshots == ()
    tree = tree_of(
        {"root": {"home": {}}, "home": {"h": {}}, "s": {"h": {"f": b""}}},
        replace(linux(mount("/home", "home", folder="/h")), snapshots=(PointInTime("/home", "id:s", "/h"),)),
        details={"s": {"base": "id:home", "created": "1970-01-01T00:00:01Z"}},
    )
    assert [entry.name for entry in tree.scan(resolve(tree, "/home"))] == ["@1970-01-01T00:00:01Z"]
    monkeypatch.setattr("mntapi.session.guests.MAX_SNAPSHOTS", 2)
    assert len(guests_on(volumes, lambda volume: None, lambda volume: MemoryFileSystem({}))[0].snapshots) == 2
