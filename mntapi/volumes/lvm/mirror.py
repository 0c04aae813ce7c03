"""Mirror segments of the old kind (before RAID 1) and ``pvmove``: copies that only the log knows to be alike.

The first copy is the one the kernel reads and copies from. Another is read only in regions that the log on disk calls clean;
without a log on disk, or while extents are moved, only where LVM noted that all was copied.
Source: Linux drivers/md/dm-log.c (``struct log_header_disk``), dm-raid1.c; lib/mirror/mirrored.c of LVM2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NoReturn

from mntapi.blocks import check_range, read
from mntapi.blocks.writable import REASON
from mntapi.errors import Corrupt, ReadFailed, Unsupported
from mntapi.types import Blocks, Extent

MAX_REGIONS = 2**24
"""Regions a log is read for. LVM's default of 2 MiB makes that 32 TiB; it chooses larger ones for larger volumes."""

_HEADER = struct.Struct("<IIQ")
_MAGIC = 0x4D695272
_VERSION = 2
_BITS_AT = 1024


def clean_regions(log: Blocks, count: int) -> bytes:
    """The bits of a log, the first region lowest: set where all copies are alike.

    Args:
        log: the log volume.
        count: regions of the mirror.

    Raises:
        Corrupt: it is no log, or too small for so many.
        MntapiError: what reading raises.
    """
    length = -(-count // 8)
    if count > MAX_REGIONS or log.size < _BITS_AT + length:
        raise Corrupt("the mirror's log is too small", expected=f"{count} regions", found=log.size, reason="lvm-mirror-log")
    magic, version, _ = _HEADER.unpack(read(log, 0, _HEADER.size))
    if magic != _MAGIC or version != _VERSION:
        raise Corrupt(
            "the mirror's log has no header", offset=0, expected=f"{_MAGIC:08x}", found=f"{magic:08x}", reason="lvm-mirror-log"
        )
    return read(log, _BITS_AT, length)


def trusted(copy: Blocks, bits: bytes, region: int) -> Blocks:
    """The copy, unreadable in regions of ``region`` bytes that are not clean; the copy itself if all are."""
    count = -(-copy.size // region)
    every = (1 << count) - 1
    return copy if int.from_bytes(bits, "little") & every == every else _Clean(copy, bits, region)


class _Clean:
    """A copy of which only clean regions can be read."""

    def __init__(self, inner: Blocks, bits: bytes, region: int) -> None:
        self._inner = inner
        self.size = inner.size
        self.sector_size = inner.sector_size
        self._bits = bits
        self._region = region

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        first, stop = offset // self._region, -(-(offset + len(buffer)) // self._region)
        if not all(self._bits[index >> 3] >> (index & 7) & 1 for index in range(first, stop)):
            raise ReadFailed("cannot be read: the mirror's log says that this copy may differ here", reason="lvm-mirror-log")
        self._inner.readinto(offset, buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self._inner.extents(offset, length)

    def writable(self) -> NoReturn:
        """Raises Unsupported."""
        raise Unsupported("the mirror's log says that its copies differ", reason=REASON)

    def close(self) -> None:
        """Nothing to release: the copy belongs to somebody else."""
