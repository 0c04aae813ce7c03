"""Mount points whose volume is not there: whether anything is missed, and what would bring it."""

from __future__ import annotations

import re

from mntapi.guests.types import MountKind, MountPoint

_NO_VOLUME = "not a volume of the set"
"""What the reason says of a drive letter that is a DVD drive's, or that of a stick (``guests/windows/drives.py``)."""
_DRIVE = re.compile(r"/dev/(?:cdrom|dvd|cdrw|sr|scd|fd|floppy)\d*")
_TOO_MANY = re.compile(
    r" all have |: [1-9]\d* (?:disks|volumes) of the set |^\d+ logical volumes are |: [1-9]\d* of the \d+ arrays "
)
"""Reasons of ``guests/linux/devices.py`` and ``guests/bsd.py`` for which the set has too many that fit."""
_NOWHERE = re.compile(r" is a disk image inside the guest$| is a ZFS dataset| (?:could|cannot) be told from others$")
"""Those of ``guests/linux`` that have to do with no disk."""


def is_medium(mount: MountPoint) -> bool:
    """Whether nothing is missed there: a drive for media, or what is mounted only when somebody wants it to be."""
    if mount.kind is not MountKind.MISSING:
        return False
    return "noauto" in mount.options or _NO_VOLUME in (mount.reason or "") or _DRIVE.fullmatch(mount.source) is not None


def advice_for(mount: MountPoint) -> str | None:
    """What brings the files of a mount point that is missing: a key where its volume is there and locked, else its disk;
    None where neither can."""
    reason = mount.reason or ""
    name, is_locked, _ = reason.partition(" is locked: ")  # as guests/linux/mounts.py says it
    if is_locked:
        return f"--key {name}:FILE opens it"
    if reason.endswith(", which is locked"):  # as guests/linux/devices.py says it
        return "open that with --key, or give the disk with -d"
    if _TOO_MANY.search(reason):
        return "open the disks of one machine at a time"
    return None if is_medium(mount) or _NOWHERE.search(reason) else "give the disk with -d"
