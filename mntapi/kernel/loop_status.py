"""What loop devices are attached to, read from sysfs.

Not by LOOP_GET_STATUS64: that asks the backing file's own file system for the inode, so it fails, or waits for ever, when
the FUSE server below is dead, which is just when one wants to clean up. Needs no rights.

Source: Documentation/ABI/stable/sysfs-block; drivers/block/loop.c, the ``loop`` attribute group.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from mntapi.errors import Failed, NotFound
from mntapi.kernel.mountinfo import is_below

SYSFS = "/sys/block"
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class LoopStatus:
    """An attached device. Offset and limit in bytes; a ``size_limit`` of 0 means: to the end of the file."""

    number: int
    backing_file: str
    """Its path as the kernel sees it now; `` (deleted)`` is appended where the file has no name any more."""
    offset: int
    size_limit: int
    read_only: bool
    autoclear: bool
    direct_io: bool
    sequence: int | None
    """The kernel's number for this attachment (diskseq): never used again, though the device is. None before Linux 5.15."""

    @property
    def path(self) -> str:
        """The block device."""
        return f"/dev/loop{self.number}"

    @property
    def backing_name(self) -> str:
        """The backing file's path, without the mark for a deleted one."""
        return self.backing_file.removesuffix(_DELETED)

    def is_same(self, other: LoopStatus) -> bool:
        """Whether both are the same attachment, at two times."""
        if self.sequence is not None and other.sequence is not None:
            return (self.number, self.sequence) == (other.number, other.sequence)
        return (self.number, self.backing_name, self.offset) == (other.number, other.backing_name, other.offset)


def status(number: int) -> LoopStatus:
    """What the device is attached to.

    Raises:
        NotFound: there is no such device, or it is not attached.
        Failed: there is no sysfs.
    """
    if not os.path.isdir(SYSFS):
        raise Failed("there is no sysfs, so loop devices cannot be told apart", path=SYSFS, hint="mount -t sysfs sysfs /sys")
    try:
        return LoopStatus(
            number=number,
            backing_file=_read(number, "loop/backing_file"),
            offset=int(_read(number, "loop/offset")),
            size_limit=int(_read(number, "loop/sizelimit")),
            read_only=_read(number, "ro") == "1",
            autoclear=_read(number, "loop/autoclear") == "1",
            direct_io=_read(number, "loop/dio") == "1",
            sequence=_sequence(number),
        )
    except OSError as error:
        raise NotFound(f"loop device {number} is not attached to anything") from error


def attached_below(folder: str) -> list[LoopStatus]:
    """All devices whose backing file is ``folder`` (absolute) or lies below it, by number."""
    found = []
    for name in os.listdir(SYSFS):
        match = re.fullmatch(r"loop(\d+)", name)
        if match is None:
            continue
        try:
            device = status(int(match[1]))
        except NotFound:
            continue  # free, or detached while we looked
        if is_below(device.backing_name, folder):
            found.append(device)
    return sorted(found, key=lambda device: device.number)


def minor(number: int) -> int:
    """The device's minor number: with the kernel's ``loop.max_part`` set it is a multiple of ``number``."""
    try:
        return int(_read(number, "dev").split(":")[1])
    except OSError:
        return number  # no such device yet, or no sysfs: right unless max_part is set


def _sequence(number: int) -> int | None:
    try:
        return int(_read(number, "diskseq"))
    except FileNotFoundError:
        return None


def _read(number: int, attribute: str) -> str:
    with open(f"{SYSFS}/loop{number}/{attribute}", "rb") as file:
        return os.fsdecode(file.read().removesuffix(b"\n"))
