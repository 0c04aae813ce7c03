"""Windows dynamic disks (Logical Disk Manager): simple, spanned, striped, mirrored and RAID-5 volumes over several disks.

Not here: partition tables of basic disks, the arithmetic of RAID (``volumes/raid``), Storage Spaces (``volumes/spaces``). Not
read: the log of the database (what is committed is in the database itself), and columns of several partitions, which no Windows
makes. Start reading at ``records.py``, then ``disk.py``, ``assembly.py``, ``group.py``.

Always true:

* A disk is known by the GUID in its private header, never by its place in the set.
* The newest committed database of the group counts for all disks; older ones are told.
* A volume whose disks are not all there is INCOMPLETE; what redundancy gives is read, everything else raises.
* Other partitions of a dynamic disk stay listed: OEM partitions of an MBR disk by this scheme, those of a GPT disk by that one.

Graded: the format has no public specification. Headers, checksums, records and all five layouts were checked on the ten disks
of libldm's Server 2003 R2 set against ``ldmtool`` and the NTFS on them; GPT disks, 4096-byte sectors, disks of Vista and later,
and databases in the middle of a change are as the sources named in each module say, not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mntapi.types import Volume
from mntapi.volumes.ldm.marks import DATA_TYPE, METADATA_TYPE, has_dynamic_partition
from mntapi.volumes.partition import may_hold_table

name = "ldm"


def claims(volume: Volume) -> bool:
    """Whether it is a dynamic disk with an MBR, or one of the LDM partitions of a GPT disk. An I/O error is raised."""
    if volume.type_code in (METADATA_TYPE, DATA_TYPE):
        return True
    if not may_hold_table(volume) or not has_dynamic_partition(volume):
        return False
    from mntapi.volumes.ldm.disk import has_header

    return has_header(volume)


def volumes(claimed: Sequence[Volume]) -> Iterator[Volume]:
    """See ``Scheme.volumes``. What it takes is imported with the first member: other disks are not to pay for it."""
    from mntapi.volumes.ldm.scheme import volumes

    return volumes(claimed)
