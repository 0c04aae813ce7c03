"""Managers of several devices that are recognised and grouped, and read little or not at all.

btrfs over several devices, ZFS pools, bcache, DRBD, RAIDs of mainboards and adapters, VDO, Ceph BlueStore. Each device is
listed again as what it is, with the pool it belongs to, what of that is here, and why it is not read. Only what lies in one
piece is a volume: the content of a bcache backing device that the cache holds nothing for, and that of a DRBD device.

Two schemes: ``at_end.py`` for what keeps its superblock at the end of a device and must be asked before LUKS and LVM, and this
module for the others. A bcache superblock lies where LUKS and LVM write too, so that only the newer of them is found; it need
not be asked first.

Not here: a btrfs on one device, which is a file system like others. Start reading at ``kinds.py``, then ``drbd.py``.

Always true:

* What leaves the first sector alone (btrfs, ZFS, bcache) counts only if nothing newer is there: a partition table or the boot
  sector of another file system.
* Members are matched by the UUIDs in their superblocks, never by their place in the set.
* Nothing is put together that could be out of date: a cache that holds newer data makes its backing device unreadable.
"""

from mntapi.volumes.named import bcache, btrfs, single, zfs
from mntapi.volumes.named.kinds import Kinds

name = "named"

_KINDS = Kinds(bcache.KIND, zfs.KIND, btrfs.KIND, single.KIND)
claims, volumes = _KINDS.claims, _KINDS.volumes
