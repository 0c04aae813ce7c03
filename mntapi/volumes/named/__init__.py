"""Managers of several devices that are recognised and grouped, and read little or not at all.

btrfs over several devices, ZFS pools, bcache, DRBD, RAIDs of mainboards and adapters, VDO, Ceph BlueStore. Each device is
listed again as what it is, with the pool it belongs to, what of that is here, and why it is not read. Only what lies in one
piece is a volume: the content of a bcache backing device that the cache holds nothing for, and that of a DRBD device.

Not here: a btrfs on one device, which is a file system like others. Start reading at ``kinds.py``, then ``drbd.py``.

Always true:

* What leaves the first sector alone (btrfs, ZFS, bcache) counts only if nothing newer is there: a partition table or the boot
  sector of another file system.
* Members are matched by the UUIDs in their superblocks, never by their place in the set.
* Nothing is put together that could be out of date: a cache that holds newer data makes its backing device unreadable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mntapi.errors import MntapiError
from mntapi.types import Volume, VolumeState
from mntapi.volumes.named import bcache, bios_raid, btrfs, drbd, single, zfs
from mntapi.volumes.named.kinds import Kind

name = "named"

KINDS: tuple[Kind, ...] = (bcache.KIND, zfs.KIND, btrfs.KIND, single.KIND, drbd.KIND, bios_raid.KIND)
"""In this order, which is libblkid's within each usage; the first that finds its superblock has the volume."""


def claims(volume: Volume) -> bool:
    """Whether one of them has its superblock there. An I/O error is raised."""
    return any(kind.finds(volume) for kind in KINDS)


def volumes(claimed: Sequence[Volume]) -> Iterator[Volume]:
    """The claimed volumes again, with what is said of them, and the content of those that lie in one piece."""
    groups: dict[int, list[Volume]] = {}
    for volume in claimed:
        try:
            index = next(index for index, kind in enumerate(KINDS) if kind.finds(volume))
        except (MntapiError, StopIteration) as error:
            yield replace(volume, state=VolumeState.DAMAGED, reason=str(error) or "its superblock is no longer there")
            continue
        groups.setdefault(index, []).append(volume)
    for index, members in groups.items():
        yield from KINDS[index].volumes(members)
