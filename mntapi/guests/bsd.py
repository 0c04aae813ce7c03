"""FreeBSD, OpenBSD and NetBSD guests: named, with what their fstab mounts.

Their ``/etc/fstab`` is like Linux's; their names of devices are their own. Partitions inside a BSD disklabel are volumes only
where a scheme finds them; what is not found is listed as missing.

Source: FreeBSD fstab(5), glabel(8), freebsd-version(1), rc.conf(5); OpenBSD fstab(5), myname(5); NetBSD fstab(5), release(7).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mntapi.guests.files import GuestFiles
from mntapi.guests.finder import is_snapshot, readable
from mntapi.guests.linux.devices import Match
from mntapi.guests.linux.facts import machine, machine_id, timezone
from mntapi.guests.linux.fstab import MAX_FSTAB, Mounting, parse_fstab
from mntapi.guests.linux.mounts import NETWORK, VIRTUAL, by_place, is_swap, normal, placed
from mntapi.guests.linux.release import MAX_RELEASE, parse_variables
from mntapi.guests.linux.users import MAX_PASSWD, parse_passwd
from mntapi.guests.types import Candidate, Family, Guest, MountKind, MountPoint
from mntapi.types import FileSystem

MAX_SCRIPT = 1 << 16
"""Bytes of a script or file of settings."""
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})(\S{0,60})")
_LABELLED = re.compile(r"/dev/(ufs|ufsid|gpt|gptid|msdosfs|label)/(.+)", re.DOTALL)
_DISK = re.compile(r"/dev/(?:ada|da|vtbd|nda|nvd|ad|wd|sd|ld|xbd|aacd|mfid)(\d{1,3})(?:p(\d{1,3})|s(\d{1,2}))?")


def find(candidates: Sequence[Candidate]) -> Iterator[Guest]:
    """Every volume with the root of a BSD."""
    for candidate, fs in readable(candidates):
        files = GuestFiles(fs)
        told = _release(files)
        if told is not None:
            yield _guest(candidates, candidate, fs, files, *told)


def _release(files: GuestFiles) -> tuple[str, str] | None:
    """Name and version, from what only that system has."""
    if files.has("/bin/freebsd-version"):
        text = files.text("/bin/freebsd-version", MAX_SCRIPT) or ""
        return "FreeBSD", parse_variables(text).get("USERLAND_VERSION", "")
    if files.has("/bsd") and files.has("/etc/myname"):
        return "OpenBSD", _first_version(files, "/etc/motd")
    if files.has("/netbsd") and files.has("/etc/rc.conf"):
        return "NetBSD", _first_version(files, "/etc/release")
    if files.has("/etc/rc.conf") and files.has("/boot/kernel/kernel") and files.has("/boot/loader.conf"):
        return "FreeBSD", _first_version(files, "/etc/motd")  # before freebsd-version: 9 and earlier
    return None


def _first_version(files: GuestFiles, path: str) -> str:
    match = _VERSION.search(files.text(path, MAX_RELEASE) or "")
    return match[0] if match else ""


def _guest(
    candidates: Sequence[Candidate], candidate: Candidate, fs: FileSystem, files: GuestFiles, name: str, version: str
) -> Guest:
    numbers = _VERSION.match(version)
    table = parse_fstab(files.text("/etc/fstab", MAX_FSTAB) or "")
    signature = candidate.signature
    root = MountPoint("/", MountKind.VOLUME, "", candidate.volume.id, filesystem=signature.kind if signature else None)
    found = {"/": root}
    for entry in table.entries:
        path = normal(entry.target)
        if path == "/":
            found[path] = replace(root, source=entry.source, options=entry.options)
        elif entry.target.startswith("/") and not is_swap(entry) and path not in found:
            found[path] = _mount(entry, candidates)
    found_machine = machine(files)
    settings = parse_variables(files.text("/etc/rc.conf", MAX_SCRIPT) or "")
    return Guest(
        family=Family.BSD,
        volume=candidate.volume.id,
        os_folder="/",
        vendor=f"The {name} Project" if name != "OpenBSD" else name,
        product=f"{name} {version}".strip(),
        major=int(numbers[1]) if numbers else None,
        minor=int(numbers[2]) if numbers else None,
        build=version or None,
        architecture=found_machine.architecture,
        hostname=settings.get("hostname") or files.line("/etc/myname"),
        machine_id=machine_id(files, "/etc") or files.line("/etc/hostid"),
        timezone=timezone(files, "/etc") or files.line("/var/db/zoneinfo"),
        mounts=by_place(found.values()),
        users=parse_passwd(files.text("/etc/passwd", MAX_PASSWD) or ""),
        reasons=(*table.reasons[:8], *files.reasons),
    )


def _mount(entry: Mounting, candidates: Sequence[Candidate]) -> MountPoint:
    kind = MountKind.MISSING
    base = MountPoint(normal(entry.target), kind, entry.source, filesystem=entry.type, options=entry.options)
    if entry.type in NETWORK:
        return replace(base, kind=MountKind.NETWORK, reason="its files are on another machine")
    if entry.type in ("nullfs", "null"):
        return replace(base, kind=MountKind.BIND, folder=normal(entry.source))
    if entry.type in VIRTUAL or entry.type in ("mfs", "kernfs", "ptyfs"):
        return replace(base, kind=MountKind.VIRTUAL, reason="nothing of it is on a disk")
    return placed(base, _device([one for one in candidates if not is_snapshot(one.volume)], entry.source))


def _device(candidates: Sequence[Candidate], source: str) -> Match:
    """The volume that a name of GEOM means, or one that counts disks."""
    found: list[Candidate] = []
    doubt = None
    if match := _LABELLED.fullmatch(source):
        found = [one for one in candidates if _is_called(one, match[1], match[2])]
    elif match := _DISK.fullmatch(source):
        number = int(match[2] or match[3] or 0)
        found = [one for one in candidates if one.volume.disk == int(match[1]) and _has_number(one, number)]
        if len({one.volume.disk for one in candidates}) > 1:
            doubt = f"{source} counts disks, and they were taken in the order given"
    if len(found) != 1:
        return Match(None, f"{source}: {len(found)} volumes of the set could be meant")
    return Match(found[0], doubt)


def _is_called(candidate: Candidate, kind: str, value: str) -> bool:
    volume, signature = candidate.volume, candidate.signature
    if kind == "gpt":
        return volume.table_label == value
    if kind == "gptid":
        return volume.id == f"gpt:{value.lower()}"
    if signature is None:
        return False
    return (signature.uuid or "").lower() == value.lower() if kind == "ufsid" else signature.label == value


def _has_number(candidate: Candidate, number: int) -> bool:
    match = re.search(r"p(\d+)$", candidate.volume.name)
    return int(match[1]) == number if match else number == 0
