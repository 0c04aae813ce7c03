"""QCOW2 version 3, clusters of 64 KiB, optionally compressed. Tables go behind the data they lead to, when it is complete.

Source: QEMU, docs/interop/qcow2 ("Header", "Host cluster management", "Cluster mapping", "Compressed Clusters Descriptor").
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable

from mntapi.errors import Unsupported
from mntapi.export.batches import Batch
from mntapi.export.newfile import NewFile
from mntapi.export.writer import Target, encoded, packed_units
from mntapi.images.qcow2.entries import COMPRESSED, COPIED
from mntapi.images.qcow2.header import MAGIC, MAX_L1_BYTES, V2, V3, Compression, Incompatible

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
ENTRIES = CLUSTER // 8
SPAN = CLUSTER * ENTRIES
"""Bytes of the disk that one L2 table maps: 512 MiB."""
COUNTS = CLUSTER // 2
"""Clusters that one refcount block counts: 2 GiB of the file."""
_HEADER_LENGTH = 112
_SECTORS_SHIFT = 62 - (CLUSTER_BITS - 8)
"""Bit of a compressed cluster's descriptor at which the number of further sectors starts."""
_ZSTD_LEVEL = 3


class Qcow2Writer:
    """See ``mntapi.export.writer.Writer``."""

    unit = CLUSTER

    def __init__(self, target: Target) -> None:
        self._file = target.file
        self._size = target.size
        self._pool = target.pool
        self._compression = Compression.ZSTD if target.compression == "zstd" else Compression.DEFLATE
        self._compress = _compressor(self._compression) if target.compression else None
        self._l1 = array("Q", bytes(8 * max(1, -(-target.size // SPAN))))
        if len(self._l1) * 8 > MAX_L1_BYTES:
            raise Unsupported("the disk is too large for QCOW2", path=target.file.path, found=f"{target.size} bytes")
        self._clusters = Clusters(self._file, used=1 + -(-len(self._l1) // ENTRIES))
        self._index = -1
        self._l2 = array("Q")
        self._packed_end = self._packed_limit = 0
        """Where the next compressed cluster goes, and the end of the host clusters they have."""

    def write(self, batch: Batch) -> None:
        if self._compress is None:
            for run in batch.runs(CLUSTER):
                self._store(run.offset, batch.view(run))
            return
        for piece, packed in packed_units(self._pool, batch, CLUSTER, self._compress):
            if len(packed) < CLUSTER:
                self._store_packed(piece.offset, packed)
            else:
                self._store(piece.offset, batch.view(piece))

    def _store(self, offset: int, content: memoryview) -> None:
        """Store the clusters from ``offset`` on as they are."""
        done = 0
        while done < len(content):
            count = min(len(content) - done, SPAN - (offset + done) % SPAN)
            clusters = -(-count // CLUSTER)
            host = self._clusters.allocate(clusters)
            self._file.write(host, content[done : done + count])
            self._map(offset + done, array("Q", range(host | COPIED, (host | COPIED) + clusters * CLUSTER, CLUSTER)))
            done += count

    def _store_packed(self, offset: int, packed: bytes) -> None:
        """Store one compressed cluster."""
        start = self._packed_place(len(packed))
        self._packed_end = start + len(packed)
        self._file.write(start, packed)
        sectors = (self._packed_end - 1 >> 9) - (start >> 9)
        self._map(offset, array("Q", [COMPRESSED | sectors << _SECTORS_SHIFT | start]))

    def _packed_place(self, length: int) -> int:
        """Byte offset for so many compressed bytes, less than a cluster: right behind those before if the host cluster there
        has room, or the next one follows it and is free."""
        room = self._packed_limit - self._packed_end
        if length <= room and self._packed_end >= self._clusters.first * CLUSTER:
            self._clusters.share(self._packed_end)
            return self._packed_end
        host = self._clusters.allocate()
        follows = room > 0 and host == self._packed_limit
        self._packed_limit = host + CLUSTER
        if not follows:
            return host
        self._clusters.share(self._packed_end)
        return self._packed_end

    def _map(self, offset: int, entries: array[int]) -> None:
        """Set the L2 entries of the clusters from ``offset`` on, which are in one table."""
        index, at = offset // SPAN, offset % SPAN // CLUSTER
        if index != self._index:
            self._write_l2()
            self._index, self._l2 = index, array("Q", bytes(CLUSTER))
        self._l2[at : at + len(entries)] = entries

    def _write_l2(self) -> None:
        if self._index >= 0:
            host = self._clusters.allocate()
            self._file.write(host, encoded(self._l2, "big"))
            self._l1[self._index] = host | COPIED

    def finish(self) -> None:
        self._write_l2()
        self._file.write(CLUSTER, encoded(self._l1, "big"))
        table, table_clusters = self._clusters.finish()
        is_zstd = self._compression is Compression.ZSTD
        fixed = V2.pack(MAGIC, 3, 0, 0, CLUSTER_BITS, self._size, 0, len(self._l1), CLUSTER, table, table_clusters, 0, 0)
        features = V3.pack(Incompatible.COMPRESSION_TYPE if is_zstd else 0, 0, 0, 4, _HEADER_LENGTH)
        self._file.write(0, (fixed + features + bytes([self._compression])).ljust(_HEADER_LENGTH, b"\0"))
        self._file.resize(self._clusters.end)


class Clusters:
    """Hands out the clusters at the end of the file, and writes how often each is used. ``first``: the first still counted."""

    def __init__(self, file: NewFile, *, used: int) -> None:
        self._file = file
        self._counts = array("H", [1]) * used
        """Counts from cluster ``first`` on."""
        self._blocks = array("Q")
        self.first = 0

    @property
    def end(self) -> int:
        """Byte offset of the next cluster."""
        return (self.first + len(self._counts)) * CLUSTER

    def allocate(self, count: int = 1) -> int:
        """Byte offset of that many clusters in a row, each used once."""
        while len(self._counts) > COUNTS:
            self._write_block()
        offset = self.end
        self._counts.extend((1,) * count)
        return offset

    def share(self, offset: int) -> None:
        """The cluster at ``offset`` is used once more."""
        self._counts[offset // CLUSTER - self.first] += 1

    def _write_block(self) -> None:
        """Write the oldest block of counts, so that memory does not grow with the file."""
        place = self.end
        self._counts.append(1)
        self._file.write(place, encoded(self._counts[:COUNTS], "big"))
        self._blocks.append(place)
        del self._counts[:COUNTS]
        self.first += COUNTS

    def finish(self) -> tuple[int, int]:
        """Write the last counts and the table of all blocks; its offset in bytes, and how many clusters it takes."""
        used, blocks, clusters = self.end // CLUSTER, 0, 0
        while blocks * COUNTS < used + clusters + blocks - len(self._blocks):
            blocks += 1
            clusters = -(-blocks // ENTRIES)
        last = blocks - len(self._blocks)
        table = self.end
        self._counts.extend((1,) * (clusters + last))
        place = table + clusters * CLUSTER
        counts = self._counts + array("H", [0]) * (last * COUNTS - len(self._counts))
        self._file.write(place, encoded(counts, "big"))
        self._blocks.extend(range(place, place + last * CLUSTER, CLUSTER))
        self._file.write(table, encoded(self._blocks, "big").ljust(clusters * CLUSTER, b"\0"))
        return table, clusters


def _compressor(compression: Compression) -> Callable[[bytes | memoryview], bytes]:
    if compression is Compression.DEFLATE:
        return _deflate
    try:
        import zstandard
    except ImportError as error:
        raise Unsupported("zstd needs the Python package zstandard", hint="pip install zstandard") from error
    return lambda content: zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(content)  # one is not for several threads


def _deflate(content: bytes | memoryview) -> bytes:
    """Without a zlib header; readers inflate with a window of 4 KiB."""
    packer = zlib.compressobj(wbits=-12)
    return packer.compress(content) + packer.flush()
