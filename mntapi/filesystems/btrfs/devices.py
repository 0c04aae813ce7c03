"""Devices: where on the volume each device of the file system begins, and which of them may be believed.

The volume has the devices end to end, in any order. Each has a superblock that says which device of how many it is and how
long, so that the place of the next one follows from it. One that missed a commit holds an older generation; what is on it is
used only where a checksum and a generation prove it.

Source: btrfs documentation, "On-disk Format", sections "Superblock" and "Dev item"; fs/btrfs/volumes.c ``open_fs_devices``:
the kernel too believes the superblock with the highest generation.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from mntapi.errors import Corrupt, MntapiError
from mntapi.filesystems.btrfs.superblock import Superblock, read_superblock
from mntapi.types import Blocks

MAX_DEVICES = 4096
"""Devices of a file system. One chunk may lie on 2,000 at most: more would not fit into a tree node."""


class Device(NamedTuple):
    """One that is here: ``size`` bytes from ``start`` of the volume on. ``is_current``: it has seen the last commit."""

    number: int
    uuid: bytes
    start: int
    size: int
    is_current: bool


class Devices:
    """Those that are here."""

    def __init__(self, devices: tuple[Device, ...]) -> None:
        self.all = devices
        self._by_number = {device.number: device for device in reversed(devices)}

    def find(self, number: int, uuid: bytes) -> Device | None:
        """The device, or None if it is not here. One of that number with another UUID was removed, or has taken its place."""
        device = self._by_number.get(number)
        return device if device is not None and device.uuid == uuid else None


def read_devices(volume: Blocks) -> tuple[Superblock, Devices]:
    """The newest superblock, and the devices. What comes after a device that cannot be told is as if it were not there.

    Raises:
        Corrupt: the first device has no sound superblock, or devices were changed apart from each other.
        ReadFailed, Unsupported: as ``read_superblock`` for the first device.
    """
    found = [read_superblock(volume)]
    if found[0].device_count == 1:
        return found[0], Devices((_device(found[0], volume.size, is_current=True),))
    while len(found) < MAX_DEVICES:
        following = _following(volume, found[-1])
        if following is None:
            break
        found.append(following)
    newest = max(found, key=lambda superblock: superblock.generation)
    for other in found:
        if other.generation == newest.generation and other.history != newest.history:
            raise split(other.at, newest.at)
    return newest, Devices(
        tuple(
            _device(one, min(one.device_size, volume.size - one.start), is_current=one.generation == newest.generation)
            for one in found
        )
    )


def split(at: int, other: int) -> Corrupt:
    """The error for devices that went on without each other, which is seen at these bytes of the volume."""
    return Corrupt(
        "the devices were changed apart from each other, and which is right cannot be told",
        offset=at,
        expected=f"what is at byte {other}",
        hint="give only those that were changed together",
        reason="split",
    )


def _following(volume: Blocks, superblock: Superblock) -> Superblock | None:
    """That of the next device, None if there is none of the same file system."""
    start = superblock.start + superblock.device_size
    if superblock.device_size <= 0 or start >= volume.size:
        return None
    try:
        found = read_superblock(volume, start)
    except MntapiError:
        return None  # whoever needs a device that is not known says so
    return found if found.node_uuid == superblock.node_uuid else None


def _device(superblock: Superblock, size: int, *, is_current: bool) -> Device:
    return Device(superblock.device, superblock.device_uuid, superblock.start, size, is_current)


def name_of(number: int, uuid: bytes) -> str:
    """A device as messages name it."""
    return f"device {number} (uuid {UUID(bytes=uuid)})"
