"""Managers that keep their superblock at the end of a device, so that what they hold begins where the device does: DRBD, and
RAIDs of mainboards and adapters.

LUKS, LVM or a file system in them looks the same without them. They are asked first: else a copy that is out of date, or one
disk of a stripe, would be read as if it were the whole truth.
"""

from mntapi.volumes.named import bios_raid, drbd
from mntapi.volumes.named.kinds import Kinds

name = "named-at-end"

_KINDS = Kinds(drbd.KIND, bios_raid.KIND)
claims, volumes = _KINDS.claims, _KINDS.volumes
