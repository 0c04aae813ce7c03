"""What a guest records of itself: name, machine id, time zone, architecture, when it was installed and last started.

Source: hostname(5), machine-id(5), localtime(5), wtmp(5); for older systems the settings of their distributions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mntapi.blocks import read_clipped
from mntapi.errors import MntapiError
from mntapi.guests.files import GuestFiles, find, one_line, open_file
from mntapi.guests.linux.elf import HEADER_SIZE, architecture
from mntapi.guests.linux.release import parse_variables
from mntapi.guests.linux.wtmp import Uptimes, last_times
from mntapi.units import KIB

MAX_SETTINGS = 64 * KIB
"""Bytes of a file with settings."""
_PROGRAMS = (
    "/bin/sh",
    "/usr/bin/sh",
    "/sbin/init",
    "/usr/sbin/init",
    "/usr/lib/systemd/systemd",
    "/bin/busybox",
    "/bin/bash",
    "/run/current-system/sw/bin/sh",
    "/nix/var/nix/profiles/system/sw/bin/sh",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-linux.so.2",
    "/lib/ld-linux-armhf.so.3",
    "/lib64/ld64.so.2",
    "/lib/ld64.so.1",
)
"""Programs that every system has one of; what a shell is built for, the system is."""
_INSTALLERS = (
    "/var/log/installer/syslog",
    "/var/log/installer/hardware-summary",
    "/var/log/installer/subiquity-server-debug.log",
    "/root/anaconda-ks.cfg",
    "/var/log/anaconda/anaconda.log",
    "/root/install.log",
    "/var/log/YaST2/y2start.log",
    "/var/adm/autoinstall",
    "/var/log/setup/setup.log",
)
"""What installers leave behind, last written when they were done."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The architecture and the order of its bytes."""

    architecture: str | None = None
    is_big_endian: bool = False


def hostname(files: GuestFiles, etc: str) -> str | None:
    """The static host name, by the first file that says it."""
    for name in ("hostname", "HOSTNAME"):
        for line in (files.text(f"{etc}/{name}", MAX_SETTINGS) or "").split("\n"):
            if line.strip() and not line.lstrip().startswith("#"):
                return _setting(line) or one_line(line)
    for path, key in (("sysconfig/network", "HOSTNAME"), ("conf.d/hostname", "hostname"), ("rc.conf", "HOSTNAME")):
        found = parse_variables(files.text(f"{etc}/{path}", MAX_SETTINGS) or "").get(key)
        if found:
            return found
    return None


def machine_id(files: GuestFiles, etc: str) -> str | None:
    """32 hexadecimal digits; None where it is made at the first start."""
    for path in (f"{etc}/machine-id", "/var/lib/dbus/machine-id"):
        line = (files.line(path, MAX_SETTINGS) or "").lower()
        if re.fullmatch(r"[0-9a-f]{32}", line):
            return line
    return None


def timezone(files: GuestFiles, etc: str) -> str | None:
    """The zone's name in the IANA database, such as ``Europe/Paris``."""
    _, found, zone = (files.link(f"{etc}/localtime") or "").partition("zoneinfo/")
    zone = re.sub(r"^(?:posix|right|uclibc)/", "", zone)
    if found and (shown := one_line(zone)):
        return shown
    line = files.line(f"{etc}/timezone", MAX_SETTINGS)
    if line and not line.startswith("#"):
        return line
    for path in ("sysconfig/clock", "conf.d/clock", "rc.conf"):
        variables = parse_variables(files.text(f"{etc}/{path}", MAX_SETTINGS) or "")
        for key in ("ZONE", "TIMEZONE"):
            if variables.get(key):
                return variables[key].replace(" ", "_")
    return None


def machine(files: GuestFiles) -> Machine:
    """By the first program that is there and is one."""
    for path in _PROGRAMS:
        try:
            content = open_file(files.fs, path)
            try:
                found = architecture(read_clipped(content, 0, HEADER_SIZE))
            finally:
                content.close()
        except MntapiError:
            continue  # a script, or not there: the next one may tell
        if found is not None:
            return Machine(*found)
    return Machine()


def installed(files: GuestFiles, etc: str) -> tuple[int, str] | None:
    """When, in nanoseconds since 1970 UTC, and by what evidence."""
    for path in _INSTALLERS:
        node = files.node(path)
        if node is not None and node.mtime_ns > 0:
            return node.mtime_ns, path
    for path, what in (("/", "the root folder was made"), ("/lost+found", "the file system was made")):
        node = files.node(path)
        if node is not None and (node.birthtime_ns or 0) > 0:
            return node.birthtime_ns or 0, what
    node = files.node(f"{etc}/machine-id")
    if node is not None and machine_id(files, etc) and node.mtime_ns > 0:
        return node.mtime_ns, f"{etc}/machine-id"
    return None


def uptimes(files: GuestFiles, *, big_endian: bool) -> Uptimes:
    """By ``/var/log/wtmp``, and by the one before where it was begun anew."""
    found = [_uptimes(files, path, big_endian) for path in ("/var/log/wtmp", "/var/log/wtmp.1")]
    boots = [one.last_boot_ns for one in found if one.last_boot_ns is not None]
    shutdowns = [one.last_shutdown_ns for one in found if one.last_shutdown_ns is not None]
    return Uptimes(max(boots, default=None), max(shutdowns, default=None))


def _uptimes(files: GuestFiles, path: str, big_endian: bool) -> Uptimes:
    try:
        find(files.fs, path)
        content = open_file(files.fs, path)
        try:
            return last_times(content, big_endian=big_endian)
        finally:
            content.close()
    except MntapiError as error:
        files.note(error, path)
        return Uptimes()


def _setting(line: str) -> str | None:
    """Gentoo's ``hostname="box"`` where others have the name alone."""
    return next(iter(_named(line)), None)


def _named(line: str) -> Iterator[str]:
    yield from (value for key, value in parse_variables(line).items() if key.lower() == "hostname")
