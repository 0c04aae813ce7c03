"""Storage Spaces of Windows: the disks of a pool are recognised and grouped, and nothing in it is read.

A disk of a pool has a GPT partition of its own type that begins with a database; the spaces are cut into slabs all over it.

Graded: the partition type is Microsoft's own (``PARTITION_SPACES_GUID`` of winioctl.h). The place of the two GUIDs is what two
open readers of the format agree on (KimVegetable/StorageSpaceReconstructor, gus33000/StorageSpace), their byte order what the
second does; no disk of a pool was seen. Both also read the slab tables, in ways that differ and that nothing here could prove.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from mntapi.blocks import read_clipped
from mntapi.errors import Corrupt, MntapiError
from mntapi.types import Volume, VolumeState
from mntapi.units import SECTOR

name = "spaces"

PARTITION_TYPE = "e75caf8f-f680-4cee-afa3-b001e56efc2d"
MAGIC = b"SPACEDB "

_START = struct.Struct(">8sH")
_PLACES = (1, 2)
"""Where the GUIDs are, in units of 16 bytes: since Windows 8, and since Windows 10."""


@dataclass(frozen=True, slots=True)
class Member:
    """What the database's first sector says: the pool, and which of its disks this is."""

    pool_guid: str
    disk_guid: str


def parse(sector: bytes) -> Member:
    """The start of a database.

    Raises:
        Corrupt: there is none.
    """
    if not sector.startswith(MAGIC) or len(sector) < SECTOR:
        raise Corrupt("no Storage Spaces database", offset=0, expected=MAGIC.decode(), found=sector[:8].hex(" ") or "nothing")
    _, place = _START.unpack_from(sector)
    if place not in _PLACES:
        raise Corrupt("the GUIDs of the pool are in an unknown place", offset=8, expected="1 or 2", found=place)
    pool, disk = (UUID(bytes_le=sector[at : at + 16]) for at in (place * 16, place * 16 + 16))
    return Member(str(pool), str(disk))


def claims(volume: Volume) -> bool:
    """Whether it is a partition of that type, or begins with the database. An I/O error is raised."""
    return volume.type_code == PARTITION_TYPE or read_clipped(volume.blocks, 0, len(MAGIC)) == MAGIC


def volumes(claimed: Sequence[Volume]) -> Iterator[Volume]:
    """The partitions again, with their pool."""
    pools: dict[str, list[tuple[Volume, Member]]] = {}
    for volume in claimed:
        try:
            member = parse(read_clipped(volume.blocks, 0, SECTOR))
        except MntapiError as error:
            yield replace(volume, state=VolumeState.DAMAGED, reason=f"belongs to a Storage Spaces pool: {error}")
            continue
        pools.setdefault(member.pool_guid, []).append((volume, member))
    for pool, members in pools.items():
        disks = len({member.disk_guid for _, member in members})
        reason = f"a disk of the Storage Spaces pool {pool}, of which {disks} are here: is not read by this version"
        for volume, member in members:
            details = {**volume.details, "pool": pool, "pool-disk": member.disk_guid}
            yield replace(volume, state=VolumeState.UNSUPPORTED, reason=reason, details=details)
