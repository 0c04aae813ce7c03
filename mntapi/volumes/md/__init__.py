"""Linux MD RAID: arrays made by mdadm, assembled by reading.

Read are metadata 0.90, 1.0, 1.1 and 1.2 with the levels linear, 0, 1, 4, 5, 6 and 10 in all layouts, degraded as far as the
redundancy goes. Named but not read: arrays in the middle of a reshape, with a write journal, of a big-endian machine's 0.90;
the firmware's containers (IMSM, DDF). Bitmaps are not needed for reading; a partial parity log is not replayed.

Start reading at ``volumes``, then ``assembly.py`` (who is up to date), ``array.py`` and ``zones.py`` (the levels),
``version1.py`` (metadata).

Always true:

* A member that is out of date, failed, or one of two copies is left out, and the array says so.
* Where a member must not be believed (not rebuilt so far, bad blocks, cut off) reads go to the others or fail.
* An array with too few members has the size it had; what cannot be read is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mntapi.types import Volume
from mntapi.volumes.md.probe import find, foreign

name = "md"


def claims(volume: Volume) -> bool:
    """Whether it is a member of an MD array, or a disk of a firmware's RAID.

    Raises:
        Corrupt, Unsupported: there is a superblock that cannot be used.
        MntapiError: the places where one could be cannot be read.
    """
    return find(volume) is not None or (volume.kind == "disk" and foreign(volume.blocks) is not None)


def volumes(claimed: Sequence[Volume]) -> Iterator[Volume]:
    """See ``Scheme.volumes``. What it takes is imported with the first member: other disks are not to pay for it."""
    from mntapi.volumes.md.scheme import volumes

    return volumes(claimed)
