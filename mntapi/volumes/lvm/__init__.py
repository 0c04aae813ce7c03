"""LVM2: physical volumes in, logical volumes out, with no device-mapper and nothing activated.

Read: linear, striped, mirror, RAID 0 to 10 (with integrity checksums too), thin volumes, snapshots, cached volumes, write
caches, ``pvmove`` under way, zero and error segments. Named, and not read: VDO, a RAID reshape under way, LVM1. Not here:
RAID arithmetic (``mntapi.volumes.raid``). Start reading at ``label.py``, then ``area.py``, ``text.py``, ``group.py``,
``mapping.py``; ``members.py`` decides which disks belong together.

Always true:

* Metadata counts only with its checksum; the newest generation wins, older ones in the buffer are never used.
* A volume is given only if what it lies on makes sense as a whole: no cycle, no extent used twice.
* What is on a disk that is not there cannot be read; what redundancy replaces can, and the volume is DEGRADED.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mntapi.blocks import read_clipped
from mntapi.types import Volume
from mntapi.units import SECTOR
from mntapi.volumes.lvm.label import LABEL_SECTORS, has_label

name = "lvm"


def claims(volume: Volume) -> bool:
    """Whether it bears a label of LVM2, damaged or not. Raises what reading raises."""
    return has_label(read_clipped(volume.blocks, 0, LABEL_SECTORS * SECTOR))


def volumes(claimed: Sequence[Volume]) -> Iterator[Volume]:
    """See ``Scheme.volumes``. What it takes is imported with the first member: other disks are not to pay for it."""
    from mntapi.volumes.lvm.scheme import volumes

    return volumes(claimed)
