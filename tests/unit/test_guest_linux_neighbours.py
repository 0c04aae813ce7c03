"""Systems that are named, not looked into: BSDs, ESXi, macOS, Android. Files as these systems have them, in short."""

from __future__ import annotations

import plistlib
from collections.abc import Sequence

import pytest

from contract.guest_volumes import candidate
from contract.memory_filesystem import MemoryFileSystem
from mntapi.guests.bsd import _release
from mntapi.guests.files import GuestFiles
from mntapi.guests.finder import find_guests
from mntapi.guests.types import Candidate, Family, Guest, MountKind

ELF = b"\x7fELF\2\1" + bytes(12) + b"\x3e\0"


def only(candidates: Sequence[Candidate]) -> Guest:
    (guest,) = find_guests(candidates)
    return guest


FREEBSD = {
    "bin": {"freebsd-version": b'#!/bin/sh\nUSERLAND_VERSION="13.2-RELEASE-p4"\n', "sh": ELF},
    "etc": {
        "rc.conf": b'hostname="fw01.example.org"\n',
        "os-release": "../var/run/os-release",
        "localtime": "/usr/share/zoneinfo/Europe/Oslo",
        "passwd": b"# $FreeBSD$\nroot:*:0:0:Charlie &:/root:/bin/csh\n",
        "fstab": b"/dev/gpt/rootfs / ufs rw 1 1\n/dev/gptid/AAAA /data ufs rw 2 2\n/dev/ufs/home /home ufs rw 2 2\n"
        b"/dev/ufsid/5f00 /var ufs rw\n/dev/da1p3 /srv ufs rw\n/dev/ada0s1a /old ufs rw\n/dev/gpt/swap none swap sw\n"
        b"proc /proc procfs rw\nfdesc /dev/fd fdescfs rw\n/data/x /x nullfs rw\nnas:/e /nfs nfs rw\nbroken\n"
        b"/dev/zvol/x /z ufs rw\n",
    },
}


def test_freebsd() -> None:
    volumes = [
        candidate(FREEBSD, "gpt:r", name="disk0p2", table_label="rootfs", fs_kind="ufs"),
        candidate({}, "gpt:aaaa", name="disk0p3", fs_kind="ufs"),
        candidate({}, "gpt:b", name="disk0p4", fs_kind="ufs", label="home"),
        candidate({}, "gpt:c", name="disk0p5", fs_kind="ufs", uuid="5F00"),
        candidate({}, "gpt:d", name="disk1p3", disk=1, fs_kind="ufs"),
    ]
    guest = only(volumes)
    assert (guest.family, guest.product, guest.major, guest.minor) == (Family.BSD, "FreeBSD 13.2-RELEASE-p4", 13, 2)
    assert (guest.hostname, guest.architecture, guest.timezone) == ("fw01.example.org", "x86_64", "Europe/Oslo")
    assert [user.name for user in guest.users] == ["root"]
    told = {mount.path: (mount.kind, mount.volume) for mount in guest.mounts}
    assert told == {
        "/": (MountKind.VOLUME, "gpt:r"),
        "/data": (MountKind.VOLUME, "gpt:aaaa"),
        "/home": (MountKind.VOLUME, "gpt:b"),
        "/var": (MountKind.VOLUME, "gpt:c"),
        "/srv": (MountKind.VOLUME, "gpt:d"),
        "/old": (MountKind.MISSING, None),
        "/z": (MountKind.MISSING, None),
        "/proc": (MountKind.VIRTUAL, None),
        "/dev/fd": (MountKind.VIRTUAL, None),
        "/x": (MountKind.BIND, None),
        "/nfs": (MountKind.NETWORK, None),
    }
    doubts = {mount.path: mount.reason for mount in guest.mounts if mount.kind is MountKind.VOLUME and mount.reason}
    assert doubts == {"/srv": "/dev/da1p3 counts disks, and they were taken in the order given"}
    assert guest.mounts[0].source == "/dev/gpt/rootfs"
    assert guest.reasons == ("/etc/fstab, line 12: has no type of file system",)


def test_a_disk_without_partitions() -> None:
    root = {**FREEBSD, "etc": {"fstab": b"/dev/vtbd1 /data ufs rw\n/dev/ada0p1 / ufs rw\n"}}
    data = candidate({}, "disk1", kind="disk", name="disk1", disk=1, fs_kind="ufs")
    guest = only([candidate(root, "mbr:1-01", fs_kind="ufs"), data])
    assert [mount.volume for mount in guest.mounts] == ["mbr:1-01", "disk1"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"bsd": b"", "etc": {"myname": b"gw\n", "motd": b"OpenBSD 7.3 (GENERIC.MP) #1125\n"}}, ("OpenBSD", "7.3")),
        ({"netbsd": b"", "etc": {"rc.conf": b"", "release": b"NetBSD 9.3/amd64\n"}}, ("NetBSD", "9.3/amd64")),
        (
            {
                "boot": {"kernel": {"kernel": b""}, "loader.conf": b""},
                "etc": {"rc.conf": b"", "motd": b"FreeBSD 8.4-RELEASE (G)"},
            },
            ("FreeBSD", "8.4-RELEASE"),
        ),
        ({"etc": {"rc.conf": b"", "passwd": b""}}, None),
    ],
)
def test_which_bsd(content: dict[str, object], told: tuple[str, str] | None) -> None:
    assert _release(GuestFiles(MemoryFileSystem(content))) == told


def test_openbsd_says_its_name() -> None:
    content = {"bsd": b"", "etc": {"myname": b"gw.example.org\n", "motd": b"OpenBSD 7.3\n"}}
    guest = only([candidate(content, "mbr:1-04", fs_kind="ufs")])
    assert (guest.product, guest.vendor, guest.hostname) == ("OpenBSD 7.3", "OpenBSD", "gw.example.org")


def bank(build: str, updated: int, state: int = 0) -> dict[str, object]:
    config = f"bootstate={state}\ntitle=Loading VMware ESXi\nprefix=\nkernel=b.b00\nbuild={build}\nupdated={updated}\n"
    return {"BOOT.CFG": config.encode(), "state.tgz": b"", "b.b00": b""}


def test_esxi_is_named_by_the_bank_that_was_updated_last() -> None:
    volumes = [
        candidate(bank("6.7.0-3.73.14320388", 3), "gpt:1", fs_kind="vfat"),
        candidate(bank("7.0.3-0.35.19482537", 4), "gpt:2", fs_kind="vfat"),
        candidate(bank("8.0.0-1.0.1", 5, state=3), "gpt:3", fs_kind="vfat"),
    ]
    guest = only(volumes)
    assert (guest.family, guest.volume, guest.product) == (Family.ESXI, "gpt:2", "VMware ESXi 7.0.3")
    assert (guest.major, guest.minor, guest.build, guest.vendor) == (7, 0, "19482537", "VMware")
    assert [(mount.path, mount.volume) for mount in guest.mounts] == [("/altbootbank", "gpt:1"), ("/bootbank", "gpt:2")]
    assert guest.details["alternative"] == "6.7.0-3.73.14320388"


def test_an_installer_of_esxi_is_no_guest() -> None:
    config = b"bootstate=0\ntitle=Loading ESXi installer\nkernel=b.b00\nbuild=7.0.3-0.1.2\nupdated=x\n"
    assert find_guests([candidate({"boot.cfg": config.replace(b"bootstate=0\n", b""), "s.v00": b""}, "gpt:1")]) == []
    assert find_guests([candidate({"boot.cfg": b"\xff\0=\n"}, "gpt:1")]) == []


def mac(version: bytes, **more: object) -> dict[str, object]:
    services = {"SystemVersion.plist": version}
    return {"System": {"Library": {"CoreServices": services}}, **more}


PLIST = {"ProductName": "Mac OS X", "ProductVersion": "10.11.6", "ProductBuildVersion": "15G22010"}


def test_macos() -> None:
    settings = plistlib.dumps({"System": {"Network": {"HostNames": {"LocalHostName": "anns-mac\x1b"[:-1]}}}})
    library = {"Preferences": {"SystemConfiguration": {"preferences.plist": settings}}}
    guest = only([candidate(mac(plistlib.dumps(PLIST), Library=library), "gpt:1", fs_kind="hfsplus")])
    assert (guest.family, guest.product, guest.major, guest.minor) == (Family.MACOS, "Mac OS X 10.11.6", 10, 11)
    assert (guest.build, guest.hostname, guest.vendor, guest.edition) == ("15G22010", "anns-mac", "Apple", None)
    assert guest.mounts[0].volume == "gpt:1"


BOMB = b"""<?xml version="1.0"?><!DOCTYPE plist [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>
<plist version="1.0"><dict><key>ProductName</key><string>&b;</string></dict></plist>"""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<plist>",
        b"bplist00" + bytes(40),
        BOMB,
        b"<plist><dict><key>a</key></dict></plist>",
        b"<plist><dict><string>a</string></dict></plist>",
        b"<plist><integer>x</integer></plist>",
        b"<plist><date>x</date></plist>",
        b"<plist></plist>",
        b"<plist></dict></plist>",
        b"<plist>" + b"<array>" * 9000,
        b"x" * 70_000,
    ],
)
def test_property_lists_that_are_none(content: bytes) -> None:
    guest = only([candidate(mac(content), "gpt:1")])
    assert guest.product is None
    assert len(guest.reasons) == 1 and guest.reasons[0].startswith("/System/Library/CoreServices/SystemVersion.plist: ")


@pytest.mark.parametrize(("value", "reasons"), [(["a"], 1), ("text", 1), ({"ProductVersion": 10}, 0)])
def test_property_lists_of_another_kind(value: object, reasons: int) -> None:
    guest = only([candidate(mac(plistlib.dumps(value)), "gpt:1")])
    assert guest.product is None and len(guest.reasons) == reasons


PROPERTIES = b"""\
# begin build properties
ro.build.display.id=lineage_x86-userdebug 9 PI
ro.build.version.release=9
ro.build.version.release=10
ro.product.manufacturer=Example
ro.product.model=Tablet \x1b[2J
ro.product.cpu.abi=x86_64
"""


@pytest.mark.parametrize(
    ("content", "folder", "place"),
    [
        ({"system": {"build.prop": PROPERTIES, "framework": {}}, "init": b""}, "/system", "/"),
        ({"build.prop": PROPERTIES, "framework": {}, "app": {}}, "/", "/system"),
    ],
)
def test_android(content: dict[str, object], folder: str, place: str) -> None:
    guest = only([candidate(content, "gpt:1")])
    assert (guest.family, guest.product, guest.major, guest.vendor) == (Family.ANDROID, "Android 9", 9, "Example")
    assert (guest.os_folder, guest.mounts[0].path, guest.architecture) == (folder, place, "x86_64")
    assert guest.build == "lineage_x86-userdebug 9 PI" and guest.details["model"] == "Tablet [2J"


def test_android_needs_more_than_a_name() -> None:
    assert find_guests([candidate({"build.prop": PROPERTIES}, "gpt:1")]) == []
