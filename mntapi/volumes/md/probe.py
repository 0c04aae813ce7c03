"""Finding the superblock of a member, and what else lies where one could be."""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks import read, read_clipped
from mntapi.errors import Corrupt, MntapiError
from mntapi.types import Blocks, Volume
from mntapi.units import SECTOR
from mntapi.volumes.bootrecord import has_partition_at
from mntapi.volumes.md import version0, version1
from mntapi.volumes.md.superblock import Superblock

_INTEL = b"Intel Raid ISM Cfg Sig. "
_DDF = b"\xde\x11\xde\x11"
_DDF_REVISION = b"01."


def find(volume: Volume) -> Superblock | None:
    """The superblock of a member; of several (an array was made over another) the one that was made last.

    Raises:
        Corrupt, Unsupported: there is one that cannot be used, and no other.
        MntapiError: a place where one could be cannot be read, and no other place has one.
    """
    found: list[Superblock] = []
    trouble: MntapiError | None = None
    for version, offset in _places(volume):
        try:
            superblock = _at(volume.blocks, version, offset)
        except MntapiError as error:
            trouble = trouble or error
            continue
        if superblock is not None:
            found.append(superblock)
    if trouble is not None and not found:
        raise trouble
    return max(found, key=lambda superblock: superblock.created, default=None)


def _places(volume: Volume) -> Iterator[tuple[str, int]]:
    yield from version1.places(volume.size).items()
    offset = version0.place(volume.size)
    if offset > 0 and not _in_partition(volume, offset):
        yield "0.90", offset


def _at(blocks: Blocks, version: str, offset: int) -> Superblock | None:
    if version == "0.90":
        return version0.parse(read_clipped(blocks, offset, version0.SIZE), offset)
    return version1.parse(read_clipped(blocks, offset, version1.SIZE), version, offset)


def _in_partition(volume: Volume, offset: int) -> bool:
    """Whether byte ``offset`` of a disk belongs to one of its partitions: version 0.90 does not say what it is the end of, and
    the last partition may end where the disk does. A table inside an array on whole disks ends in front of its superblock."""
    if volume.kind != "disk":
        return False
    try:
        sector = read_clipped(volume.blocks, 0, SECTOR)
    except MntapiError:
        return False  # no table then
    return has_partition_at(sector, volume.blocks.sector_size, offset)


def bad_blocks(blocks: Blocks, superblock: Superblock) -> list[tuple[int, int]]:
    """Ranges (offset and length in bytes of the member's data) that must not be believed.

    Raises:
        Corrupt: the log lies past the end.
        MntapiError: it cannot be read.
    """
    if superblock.bad_block_log is None:
        return []
    offset, length, unit = superblock.bad_block_log
    if offset + length > blocks.size:
        raise Corrupt("the MD bad block log is past the end of the member", offset=offset, reason="md-bad-block-log")
    ranges = version1.parse_bad_blocks(read(blocks, offset, length), unit)
    return sorted((start - superblock.data_offset, count) for start, count in ranges)


def foreign(blocks: Blocks) -> str | None:
    """The name of the firmware's RAID that a whole disk belongs to: mdadm reads those too, and their data may be striped.

    Source: mdadm's super-intel.c and super-ddf.c; SNIA Common RAID DDF 2.0, section 5.4. The anchors: Intel's in the last
    sector but one, DDF's in the last one. Their checksums are not compared: makers count DDF's in different ways.
    """
    end = blocks.size // SECTOR * SECTOR
    if end < 2 * SECTOR:
        return None
    tail = read_clipped(blocks, end - 2 * SECTOR, 2 * SECTOR)
    if tail.startswith(_INTEL):
        return "Intel Matrix Storage (IMSM)"
    anchor = tail[SECTOR:]
    if anchor.startswith(_DDF) and anchor[32:].startswith(_DDF_REVISION):
        return "SNIA DDF"
    return None
