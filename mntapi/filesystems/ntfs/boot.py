"""The boot sector: sizes of everything, and where ``$MFT`` starts.

Source: Linux-NTFS project documentation, ``$Boot``; fs/ntfs3/ntfs.h ``NTFS_BOOT``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.errors import Corrupt

BOOT_SIZE = 512
_BOOT = struct.Struct("<3x8sHB26x2Q8xb3xb")
MAX_CLUSTER = 1 << 21
"""Bytes; Windows 10 makes clusters of up to 2 MiB."""
MAX_RECORD = 1 << 16


@dataclass(frozen=True, slots=True)
class Boot:
    """Sizes in bytes."""

    sector_size: int
    cluster_size: int
    volume_size: int
    mft_at: int
    record_size: int
    index_size: int


def parse_boot(raw: bytes) -> Boot:
    """The boot sector in ``raw``, 512 bytes.

    Raises:
        Corrupt: it is not one of NTFS, or its sizes are impossible.
    """
    name, sector_size, per_cluster, sectors, mft, per_record, per_index = _BOOT.unpack_from(raw)
    if name != b"NTFS    ":
        raise Corrupt("no NTFS boot sector", offset=3, expected="NTFS", found=name)
    if sector_size not in (256, 512, 1024, 2048, 4096):
        raise Corrupt("the sector size is impossible", offset=11, expected="256 to 4096", found=sector_size)
    cluster_size = sector_size * (per_cluster if per_cluster <= 0x80 else 1 << (256 - per_cluster & 0x1F))
    if not _is_power_of_two(cluster_size) or cluster_size > MAX_CLUSTER:
        raise Corrupt("the cluster size is impossible", offset=13, expected=f"at most {MAX_CLUSTER}", found=cluster_size)
    return Boot(
        sector_size=sector_size,
        cluster_size=cluster_size,
        volume_size=sectors * sector_size,
        mft_at=mft * cluster_size,
        record_size=_size(per_record, cluster_size, 64),
        index_size=_size(per_index, cluster_size, 68),
    )


def _size(count: int, cluster_size: int, at: int) -> int:
    """A size that is a number of clusters, or, where negative, the exponent of a power of two."""
    size = count * cluster_size if count > 0 else 1 << min(-count, 31)
    if not _is_power_of_two(size) or not 512 <= size <= MAX_RECORD:
        raise Corrupt("the size of a record is impossible", offset=at, expected=f"512 to {MAX_RECORD}", found=size)
    return size


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
