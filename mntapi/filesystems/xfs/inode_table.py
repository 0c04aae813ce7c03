"""Inodes as they are on the volume, read and verified a cluster at a time.

The checksum of one inode costs more than all else that is done with it. Those of a hundred neighbours, computed together,
cost a tenth of that each, and whoever walks a folder wants the neighbours next.
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from typing import NamedTuple

from mntapi.blocks import read_clipped
from mntapi.crc32c import crc32c_each
from mntapi.errors import Corrupt, MntapiError
from mntapi.filesystems.xfs.described import CHECKSUM, Metadata, checksum_of
from mntapi.filesystems.xfs.inode import CHECKSUM_AT
from mntapi.filesystems.xfs.superblock import Superblock
from mntapi.types import Blocks
from mntapi.units import KIB

CLUSTER = 64 * KIB
MAX_CLUSTERS = 128
"""Kept in memory: 8 MiB."""
_U32 = struct.Struct("<I")


class _Cluster(NamedTuple):
    """Bytes of the volume, and the checksum of each piece of an inode's size; none in version 4."""

    raw: bytes
    checksums: tuple[int, ...]


class InodeTable:
    """Reads inodes by their place. Thread-safe; borrows the volume."""

    def __init__(self, volume: Blocks, metadata: Metadata, superblock: Superblock) -> None:
        self._volume = volume
        self._metadata = metadata
        self._size = superblock.inode_size
        self._has_checksums = superblock.version == 5
        self._clusters: OrderedDict[int, _Cluster] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, at: int) -> bytes:
        """The inode at byte ``at`` of the volume. Raises Corrupt where its checksum is wrong."""
        index, offset = divmod(at, CLUSTER)
        cluster = self._cluster(index)
        if cluster is None or offset + self._size > len(cluster.raw):
            raw = self._metadata.read(at, self._size)
            found = checksum_of(raw, CHECKSUM_AT) if self._has_checksums else 0
        else:
            raw = cluster.raw[offset : offset + self._size]
            found = cluster.checksums[offset // self._size] if self._has_checksums else 0
        stored = _U32.unpack_from(raw, CHECKSUM_AT)[0]
        if self._has_checksums and found != stored:
            raise Corrupt("a wrong checksum", offset=at, expected=f"{stored:#010x}", found=f"{found:#010x}", reason=CHECKSUM)
        return raw

    def _cluster(self, index: int) -> _Cluster | None:
        """The cluster, or None where it cannot be read whole: then only what is asked for is read."""
        with self._lock:
            cluster = self._clusters.get(index)
            if cluster is not None:
                self._clusters.move_to_end(index)
                return cluster
        try:
            raw = read_clipped(self._volume, index * CLUSTER, CLUSTER)
        except MntapiError:
            return None
        raw = raw[: len(raw) // self._size * self._size]
        cluster = _Cluster(raw, checksums(raw, self._size, CHECKSUM_AT) if self._has_checksums else ())
        with self._lock:
            self._clusters[index] = cluster
            while len(self._clusters) > MAX_CLUSTERS:
                self._clusters.popitem(last=False)
        return cluster

    def clear(self) -> None:
        """Forget what was read."""
        with self._lock:
            self._clusters.clear()


def checksums(raw: bytes, size: int, checksum_at: int) -> tuple[int, ...]:
    """The CRC-32C of each ``size`` bytes of ``raw``, each with zeros in the four bytes where it is kept itself."""
    blank = bytearray(raw)
    zeros = bytes(len(raw) // size)
    for position in range(checksum_at, checksum_at + 4):
        blank[position::size] = zeros
    return crc32c_each(bytes(blank), size)
