"""Compressed clusters: inflated once, checked to be exactly a cluster, and kept for a while.

Source: QEMU, docs/interop/qcow2 ("Compressed Clusters Descriptor", "compression_type"); RFC 1951; RFC 8878.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator

from mntapi.blocks import read_clipped, whole
from mntapi.errors import Corrupt, Unsupported
from mntapi.images.qcow2.entries import descriptor_range
from mntapi.images.qcow2.header import Compression
from mntapi.types import Extent, ExtentKind, FileBlocks

CACHE_BYTES = 8 << 20
"""Bytes of inflated clusters that a chain keeps."""
MAX_WINDOW = 1 << 23
"""Bytes of history a zstd frame may ask for; a cluster of 2 MiB never needs more."""


class ClusterCache:
    """The least recently used inflated clusters of a whole chain, by file and descriptor."""

    def __init__(self, capacity: int = CACHE_BYTES) -> None:
        self._capacity = capacity
        self._clusters: OrderedDict[tuple[object, int], bytes] = OrderedDict()
        self._used = 0
        self._lock = threading.Lock()

    def get(self, owner: object, descriptor: int) -> bytes | None:
        """The cluster, if it is here."""
        with self._lock:
            cluster = self._clusters.get((owner, descriptor))
            if cluster is not None:
                self._clusters.move_to_end((owner, descriptor))
            return cluster

    def put(self, owner: object, descriptor: int, cluster: bytes) -> None:
        """Keep the cluster, and drop the oldest that no longer fit."""
        with self._lock:
            if (owner, descriptor) not in self._clusters:
                self._clusters[owner, descriptor] = cluster
                self._used += len(cluster)
            while self._used > self._capacity and len(self._clusters) > 1:
                self._used -= len(self._clusters.popitem(last=False)[1])


class CompressedClusters:
    """The compressed clusters of a file as a source of bytes: byte ``n`` of the cluster with descriptor ``d`` is at
    ``(d << cluster_bits) + n``."""

    def __init__(self, file: FileBlocks, cluster_bits: int, compression: Compression, cache: ClusterCache) -> None:
        self._file = file
        self._bits = cluster_bits
        self._inflate = _inflate_zstd if compression is Compression.ZSTD else _inflate
        self._cache = cache

    def readinto(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            descriptor = offset + done >> self._bits
            start = offset + done - (descriptor << self._bits)
            count = min(len(buffer) - done, (1 << self._bits) - start)
            buffer[done : done + count] = memoryview(self._cluster(descriptor))[start : start + count]
            done += count

    def _cluster(self, descriptor: int) -> bytes:
        cluster = self._cache.get(self, descriptor)
        if cluster is None:
            cluster = self._load(descriptor)
            self._cache.put(self, descriptor, cluster)
        return cluster

    def _load(self, descriptor: int) -> bytes:
        offset, length = descriptor_range(descriptor, self._bits)
        if offset >= self._file.size:
            raise Corrupt(
                "a compressed cluster lies past the end of the file",
                path=self._file.path,
                offset=offset,
                expected=f"at most {self._file.size}",
                reason="truncated",
            )
        # The length counts whole sectors, and the last sector of a file need not be whole.
        source = read_clipped(self._file, offset, length)
        try:
            return self._inflate(source, 1 << self._bits)
        except Corrupt as error:
            raise error.located(path=self._file.path, base=offset) from error.__cause__

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return whole(offset, length, ExtentKind.DATA)


def _inflate(source: bytes, size: int) -> bytes:
    """A raw deflate stream of exactly ``size`` bytes; at most one byte more is ever made."""
    inflater = zlib.decompressobj(wbits=-15)
    try:
        content = inflater.decompress(source, size + 1)
    except zlib.error as error:
        raise Corrupt("a compressed cluster cannot be inflated", offset=0, found=error, reason="inflate") from error
    return _checked(content, size)


def _inflate_zstd(source: bytes, size: int) -> bytes:
    """A zstd frame of exactly ``size`` bytes; at most one byte more is ever made."""
    try:
        import zstandard
    except ImportError as error:
        raise Unsupported(
            "a cluster is compressed with zstd, which needs the Python package zstandard",
            hint="pip install zstandard",
            reason="zstd-absent",
        ) from error
    try:
        with zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(source) as reader:
            content = reader.read(size + 1)
    except zstandard.ZstdError as error:
        raise Corrupt("a compressed cluster cannot be inflated", offset=0, found=error, reason="inflate") from error
    return _checked(content, size)


def _checked(content: bytes, size: int) -> bytes:
    if len(content) != size:
        found = f"more than {size}" if len(content) > size else len(content)
        raise Corrupt(
            "a compressed cluster does not hold a cluster", offset=0, expected=f"{size} bytes", found=found, reason="inflate"
        )
    return content
