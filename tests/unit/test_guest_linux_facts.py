"""What a Linux guest records of itself: releases of all ages, ELF headers, wtmp, passwd, and where each fact is looked for."""

from __future__ import annotations

import platform
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from contract.memory_filesystem import Memory, MemoryFileSystem
from mntapi.errors import Corrupt, ReadFailed
from mntapi.guests.files import GuestFiles
from mntapi.guests.linux import facts, users, wtmp
from mntapi.guests.linux.elf import architecture
from mntapi.guests.linux.release import find_release, parse_variables
from mntapi.guests.linux.users import parse_passwd
from mntapi.guests.linux.wtmp import last_times
from mntapi.guests.types import User

RELEASES = [
    ({"redhat-release": "Red Hat Linux release 7.3 (Valhalla)"}, "Red Hat Linux release 7.3 (Valhalla)", 7, 3, "Red Hat"),
    ({"redhat-release": "CentOS release 5.11 (Final)"}, "CentOS release 5.11 (Final)", 5, 11, "CentOS Project"),
    (
        {
            "redhat-release": "Red Hat Enterprise Linux Server release 6.10 (Santiago)",
            "oracle-release": "Oracle Linux Server release 6.10",
        },
        "Oracle Linux Server release 6.10",
        6,
        10,
        "Oracle",
    ),
    (
        {"SuSE-release": "SUSE Linux Enterprise Server 11 (x86_64)\nVERSION = 11\nPATCHLEVEL = 4"},
        "SUSE Linux Enterprise Server 11 (x86_64)",
        11,
        4,
        "SUSE",
    ),
    ({"debian_version": "4.0"}, "Debian GNU/Linux 4.0", 4, 0, "Debian Project"),
    ({"debian_version": "lenny/sid"}, "Debian GNU/Linux lenny/sid", None, None, "Debian Project"),
    (
        {
            "debian_version": "wheezy/sid",
            "lsb-release": 'DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=10.04\nDISTRIB_DESCRIPTION="Ubuntu 10.04.4 LTS"',
        },
        "Ubuntu 10.04.4 LTS",
        10,
        4,
        "Canonical",
    ),
    ({"alpine-release": "2.7.9"}, "Alpine Linux 2.7.9", 2, 7, "Alpine Linux"),
    ({"gentoo-release": "Gentoo Base System release 2.2"}, "Gentoo Base System release 2.2", 2, 2, "Gentoo Foundation"),
    ({"slackware-version": "Slackware 13.37.0"}, "Slackware 13.37.0", 13, 37, "Slackware Linux"),
    ({"arch-release": ""}, "Arch Linux", None, None, "Arch Linux"),
    (
        {"os-release": 'NAME="Arch Linux"\nPRETTY_NAME="Arch Linux"\nID=arch\nBUILD_ID=rolling'},
        "Arch Linux",
        None,
        None,
        "Arch Linux",
    ),
    (
        {
            "os-release": 'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\nVERSION="12 (bookworm)"',
            "debian_version": "12.4",
        },
        "Debian GNU/Linux 12 (bookworm)",
        12,
        4,
        "Debian Project",
    ),
    (
        {
            "os-release": 'NAME="CentOS Linux"\nPRETTY_NAME="CentOS Linux 7 (Core)"\nID="centos"\nVERSION_ID="7"',
            "centos-release": "CentOS Linux release 7.9.2009 (Core)",
        },
        "CentOS Linux 7 (Core)",
        7,
        9,
        "CentOS Project",
    ),
]


@pytest.mark.parametrize(("etc", "product", "major", "minor", "vendor"), RELEASES, ids=lambda value: str(value)[:20])
def test_releases_of_all_ages(etc: dict[str, str], product: str, major: int | None, minor: int | None, vendor: str) -> None:
    files = GuestFiles(MemoryFileSystem({"etc": {name: f"{text}\n".encode() for name, text in etc.items()}}))
    found = find_release(files)
    assert found is not None
    assert (found.product, found.major, found.minor, found.vendor) == (product, major, minor, vendor)


def test_os_release_in_full() -> None:
    text = r"""# comment
NAME=Fedora\ Linux
VERSION='40 (Server Edition)'
ID=fedora
VERSION_ID=40
PRETTY_NAME="Fedora \"40\""
VARIANT="Server Edition"
VENDOR_NAME="Fedora"
IMAGE_VERSION=7
broken line
BAD="no end
EMPTY=
"""
    found = find_release(GuestFiles(MemoryFileSystem({"usr": {"lib": {"os-release": text.encode()}}})))
    assert found is not None and found.origin == "/usr/lib/os-release"
    assert (found.name, found.product, found.edition, found.vendor) == (
        "Fedora Linux",
        'Fedora "40"',
        "Server Edition",
        "Fedora",
    )
    assert (found.major, found.minor, found.build) == (40, None, "7")
    assert found.details == {"id": "fedora", "image-version": "7"}


def test_nothing_says_what_it_is() -> None:
    assert find_release(GuestFiles(MemoryFileSystem({"etc": {"os-release": b"\0\1\2 garbage"}}))) is None


def test_variables_are_bounded_and_plain() -> None:
    assert parse_variables('A="\x1b[31mred"\nB=' + "x" * 20000) == {"A": "[31mred"}
    assert len(parse_variables("".join(f"K{number}=1\n" for number in range(1000)))) == 256


def header(machine: int, *, wide: bool = True, big: bool = False) -> bytes:
    return (
        b"\x7fELF" + bytes((2 if wide else 1, 2 if big else 1)) + bytes(10) + struct.pack(">HH" if big else "<HH", 2, machine)
    )


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (header(62), "x86_64"),
        (header(62, wide=False), "x86_64"),
        (header(3, wide=False), "x86"),
        (header(183), "aarch64"),
        (header(40, wide=False), "arm"),
        (header(21), "ppc64le"),
        (header(21, big=True), "ppc64"),
        (header(22, big=True), "s390x"),
        (header(8), "mips64el"),
        (header(243), "riscv64"),
        (header(243, wide=False), "riscv32"),
    ],
)
def test_architectures(raw: bytes, name: str) -> None:
    found = architecture(raw)
    assert found is not None and found[0] == name


def test_this_machine_says_the_same() -> None:
    with open(sys.executable, "rb") as program:
        found = architecture(program.read(64))
    assert found == (platform.machine(), sys.byteorder == "big")


def test_what_is_no_program() -> None:
    assert architecture(header(0xFFF0)) is None
    for raw in (b"#!/bin/sh\n" + bytes(20), b"\x7fELF", b""):
        with pytest.raises(Corrupt, match="no ELF header"):
            architecture(raw)


def record(kind: int, user: bytes, seconds: int, size: int = 384, *, big: bool = False) -> bytes:
    order = ">" if big else "<"
    times = "iii" if size == 384 else "qqq"
    packed = struct.pack(
        f"{order}h2xi32s4s32s256shh{times}16s20s", kind, 1, b"~", b"", user, b"5.10", 0, 0, 0, seconds, 250_000, b"", b""
    )
    return packed.ljust(size, b"\0")


LOG = [(2, b"reboot", 100), (7, b"ann", 150), (1, b"shutdown", 200), (2, b"reboot", 300), (1, b"runlevel", 301), (8, b"", 400)]


@pytest.mark.parametrize("size", [384, 400])
@pytest.mark.parametrize("big", [False, True])
def test_starts_and_shutdowns(size: int, big: bool) -> None:
    raw = b"".join(record(*one, size, big=big) for one in LOG)
    found = last_times(Memory(raw), big_endian=big)
    assert (found.last_boot_ns, found.last_shutdown_ns) == (300_250_000_000, 200_250_000_000)


def test_sizes_of_records_are_told_apart() -> None:
    """25 records of 384 bytes are as long as 24 of 400."""
    raw = b"".join(record(*LOG[number % len(LOG)], 384) for number in range(25))
    assert last_times(Memory(raw)).last_boot_ns == 300_250_000_000
    raw = b"".join(record(*LOG[number % len(LOG)], 400) for number in range(24))
    assert last_times(Memory(raw)).last_boot_ns == 300_250_000_000


def test_wtmp_as_utmpdump_reads_it(tmp_path: Path) -> None:
    if shutil.which("utmpdump") is None:
        pytest.skip("needs utmpdump")
    path = tmp_path / "wtmp"
    path.write_bytes(b"".join(record(*one) for one in LOG))
    out = subprocess.run(
        ["utmpdump", path], capture_output=True, check=True, text=True, env={"TZ": "UTC", "PATH": "/usr/bin"}
    ).stdout
    boots = [line for line in out.splitlines() if line.startswith("[2]")]
    assert "1970-01-01T00:05:00,250000+00:00" in boots[-1]


def test_a_log_without_end_is_read_from_its_end() -> None:
    class Long(Memory):
        def __init__(self) -> None:
            super().__init__(b"")
            self.size = 384 << 40
            self.asked = 0

        def readinto(self, offset: int, buffer: memoryview) -> None:
            self.asked += len(buffer)
            buffer[:] = (record(2, b"reboot", 77) * (len(buffer) // 384 + 1))[: len(buffer)]

    log = Long()
    assert last_times(log).last_boot_ns == 77_250_000_000
    assert log.asked <= wtmp.MAX_TAIL + 100


def test_times_that_are_none() -> None:
    raw = record(2, b"reboot", 0) + record(2, b"reboot", -5)
    assert last_times(Memory(raw)).last_boot_ns is None
    assert last_times(Memory(b"")).last_boot_ns is None
    assert last_times(Memory(raw[:100])).last_boot_ns is None


PASSWD = """\
root:x:0:0:root:/root:/bin/bash
# comment:x:1:1:::
+nis::::::
ann:$6$secret:1000:1000:Ann \x1b[2J,,,:/home/ann:/bin/sh
short:x:1
bad:x:minus:0:::
\x1b]0;t:x:5:5::/:
"""


def test_users_without_secrets() -> None:
    found = parse_passwd(PASSWD)
    assert found == (User("root", "0", "/root"), User("ann", "1000", "/home/ann"), User("]0;t", "5", "/"))
    assert "secret" not in repr(found)


def test_users_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "MAX_USERS", 2)
    assert len(parse_passwd("".join(f"u{number}:x:{number}:0::/:\n" for number in range(9)))) == 2


def tree(content: dict[str, object]) -> GuestFiles:
    return GuestFiles(MemoryFileSystem(content))


@pytest.mark.parametrize(
    ("etc", "name"),
    [
        ({"hostname": b"# note\n\nweb01\n"}, "web01"),
        ({"hostname": b'hostname="gentoo"\n'}, "gentoo"),
        ({"HOSTNAME": b"suse.example.org\n"}, "suse.example.org"),
        ({"sysconfig": {"network": b"NETWORKING=yes\nHOSTNAME=old.example.org\n"}}, "old.example.org"),
        ({"conf.d": {"hostname": b'# Set\nhostname="box"\n'}}, "box"),
        ({"rc.conf": b'HOSTNAME="arch"\n'}, "arch"),
        ({"hostname": b"\x1b]0;pwned\x07web\x9b31m\n"}, "]0;pwnedweb\udc9b31m"),
        ({"hostname": b"# only a note\n"}, None),
        ({}, None),
    ],
)
def test_host_names(etc: dict[str, object], name: str | None) -> None:
    assert facts.hostname(tree({"etc": etc}), "/etc") == name


@pytest.mark.parametrize(
    ("etc", "zone"),
    [
        ({"localtime": "/usr/share/zoneinfo/Europe/Paris"}, "Europe/Paris"),
        ({"localtime": "../usr/share/zoneinfo/posix/America/Argentina/Ushuaia"}, "America/Argentina/Ushuaia"),
        ({"localtime": "/etc/zoneinfo/UTC"}, "UTC"),
        ({"localtime": b"TZif2", "timezone": b"Asia/Tokyo\n"}, "Asia/Tokyo"),
        ({"localtime": "/somewhere/else", "sysconfig": {"clock": b'ZONE="America/New York"\n'}}, "America/New_York"),
        ({"sysconfig": {"clock": b'TIMEZONE="Europe/Berlin"\n'}}, "Europe/Berlin"),
        ({"localtime": b"TZif2"}, None),
    ],
)
def test_time_zones(etc: dict[str, object], zone: str | None) -> None:
    assert facts.timezone(tree({"etc": etc}), "/etc") == zone


def test_machine_ids() -> None:
    own = b"0123456789ABCDEF0123456789abcdef\n"
    assert facts.machine_id(tree({"etc": {"machine-id": own}}), "/etc") == own.decode().strip().lower()
    dbus = {"etc": {"machine-id": b"uninitialized\n"}, "var": {"lib": {"dbus": {"machine-id": own}}}}
    assert facts.machine_id(tree(dbus), "/etc") == own.decode().strip().lower()
    assert facts.machine_id(tree({"etc": {"machine-id": b""}}), "/etc") is None


def test_the_architecture_is_that_of_the_first_program() -> None:
    shell = {"bin": {"sh": "/usr/bin/dash"}, "usr": {"bin": {"dash": header(183)}}}
    assert facts.machine(tree(shell)).architecture == "aarch64"
    script = {"bin": {"sh": b"#!/bin/true"}, "sbin": {"init": header(22, big=True)}}
    assert facts.machine(tree(script)) == facts.Machine("s390x", True)
    assert facts.machine(tree({"bin": {"sh": "sh"}})) == facts.Machine()


def test_when_it_was_installed_and_how_that_is_known() -> None:
    def made(content: dict[str, object], **metadata: dict[str, int]) -> tuple[int, str] | None:
        return facts.installed(GuestFiles(MemoryFileSystem(content, metadata=metadata)), "/etc")

    etc = {"machine-id": b"0" * 32}
    assert made({"root": {"anaconda-ks.cfg": b""}}, **{"anaconda-ks.cfg": {"mtime_ns": 7}}) == (7, "/root/anaconda-ks.cfg")
    assert made({"etc": etc}, **{"": {"birthtime_ns": 8}}) == (8, "the root folder was made")
    assert made({"etc": etc, "lost+found": {}}, **{"lost+found": {"birthtime_ns": 9}}) == (9, "the file system was made")
    assert made({"etc": etc}, **{"machine-id": {"mtime_ns": 10}}) == (10, "/etc/machine-id")
    assert made({"etc": {"machine-id": b""}}, **{"machine-id": {"mtime_ns": 10}}) is None
    assert made({"root": {"anaconda-ks.cfg": b""}}) is None


def test_both_logs_count_and_a_bad_one_is_a_reason() -> None:
    class Failing(Memory):
        def readinto(self, offset: int, buffer: memoryview) -> None:
            raise ReadFailed("cannot be read", offset=0)

    files = tree({"var": {"log": {"wtmp": Failing(bytes(384)), "wtmp.1": record(2, b"reboot", 5)}}})
    assert facts.uptimes(files, big_endian=False).last_boot_ns == 5_250_000_000
    assert files.reasons == ["/var/log/wtmp: cannot be read (at byte 0)"]


def test_vendors_and_products_are_those_of_this_machine() -> None:
    path = Path("/etc/os-release")
    if not path.exists() or shutil.which("sh") is None:
        pytest.skip("needs an os-release and a shell")
    told = subprocess.run(
        ["sh", "-c", ". /etc/os-release; echo $PRETTY_NAME; echo $ID"], capture_output=True, check=True, text=True
    )
    found = parse_variables(path.read_text())
    assert [found["PRETTY_NAME"], found["ID"]] == told.stdout.split("\n")[:2]
    assert re.match(r"\w", found["ID"])
