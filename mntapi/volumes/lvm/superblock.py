"""The superblock of dm-raid, at the start of each ``_rmeta_`` volume: which images of an array are up to date, and how far.

Source: Linux drivers/md/dm-raid.c (``struct dm_raid_superblock``, ``super_init_validation``, ``super_validate``).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.blocks import read_clipped
from mntapi.errors import Unsupported
from mntapi.types import Blocks
from mntapi.units import SECTOR

ALL = 2**64 - 1
"""An offset of the superblock that stands for: everything."""

_MAGIC = b"DmRd"
_SUPERBLOCK = struct.Struct("<4s3I 4Q 3I I Q 4I 4Q 3Q I")
_V190 = 1
"""Feature flag: the fields behind the layout are there."""
_RESHAPING = 1


@dataclass(frozen=True, slots=True)
class Superblock:
    """One image's view of its array. Offsets and sizes are bytes of an image, ``ALL`` for everything."""

    device_count: int
    position: int
    events: int
    failed: int
    """A bit for each image that failed."""
    rebuilt: int
    """Up to where this image is up to date."""
    synchronised: int
    """Up to where parity, or the copies, are known to agree."""
    level: int
    layout: int
    chunk: int
    is_reshaping: bool
    array_size: int
    data_offset: int


def read_superblock(blocks: Blocks) -> Superblock | None:
    """The superblock of a metadata image, None if there is none. Raises as ``parse_superblock``, and what reading raises."""
    return parse_superblock(read_clipped(blocks, 0, _SUPERBLOCK.size))


def parse_superblock(content: bytes) -> Superblock | None:
    """The superblock in the first bytes of a metadata image; None if it is none: the kernel writes it at first use.

    Raises:
        Unsupported: features that we do not know.
    """
    if len(content) < _SUPERBLOCK.size or not content.startswith(_MAGIC):
        return None
    (
        _, features, count, position, events, failed, rebuilt, synchronised, level, layout, chunk,
        flags, _, _, _, _, _, array_size, data_offset, _, _, *more_failed, incompatible,
    ) = _SUPERBLOCK.unpack_from(content)  # fmt: skip
    if features > _V190 or incompatible:
        raise Unsupported(
            "the RAID superblock has features that are not known", found=(features, incompatible), reason="dm-raid"
        )
    if not features:
        flags, array_size, data_offset, more_failed = 0, 0, 0, []
    for index, bits in enumerate(more_failed, 1):
        failed |= bits << 64 * index
    return Superblock(
        device_count=count,
        position=position,
        events=events,
        failed=failed,
        rebuilt=_bytes(rebuilt),
        synchronised=_bytes(synchronised),
        level=level,
        layout=layout,
        chunk=chunk * SECTOR,
        is_reshaping=bool(flags & _RESHAPING),
        array_size=array_size * SECTOR,
        data_offset=data_offset * SECTOR,
    )


def _bytes(sectors: int) -> int:
    return ALL if sectors == ALL else sectors * SECTOR
