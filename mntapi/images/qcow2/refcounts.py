"""Which clusters of an overlay are in use: its reference counts, all of them 0 or 1.

Source: QEMU, docs/interop/qcow2 ("Host cluster management"). Counts are 16 bits wide (refcount_order 4).
"""

from __future__ import annotations

from array import array

from mntapi.errors import Corrupt, Unsupported
from mntapi.images.qcow2.entries import OFFSET_MASK
from mntapi.images.qcow2.storage import Storage


def table_clusters(file_bytes: int, cluster_bits: int) -> int:
    """Clusters of a refcount table for a file of at most ``file_bytes``."""
    per_block = cluster_bits + cluster_bits - 1
    return max(1, -(-file_bytes >> per_block + cluster_bits - 3))


class Refcounts:
    """Hands out clusters at the end of the file. Not thread-safe; nothing is on disk before ``write_back``.

    Args:
        storage: the overlay's file.
        cluster_bits: size of a cluster.
        table_offset: where the refcount table is, in bytes.
        table_size: entries of the table; it never grows.
        first: the first cluster that may be free: all from there on are unused unless their count says otherwise.
    """

    def __init__(self, storage: Storage, *, cluster_bits: int, table_offset: int, table_size: int, first: int) -> None:
        self._storage = storage
        self._bits = cluster_bits
        self._per_block = 1 << cluster_bits - 1
        self._table_offset = table_offset
        self._table_size = table_size
        self._next = first
        self._spare: list[int] = []
        self._block: tuple[int, array[int]] | None = None
        self._dirty: dict[int, tuple[int, array[int]]] = {}
        """Blocks that changed, by index: (where they are, counts)."""
        self._new: dict[int, int] = {}
        """Entries of the table that are not on disk yet: index and offset of the block."""

    def allocate(self) -> int:
        """Byte offset of a cluster that is in use from now on.

        Raises:
            Unsupported: the file is as large as it can be.
            Failed: there is no room for a block of counts; nothing has changed then.
        """
        if self._spare:
            offset = self._spare[-1]
            self._set(offset >> self._bits, 1)
            return self._spare.pop()
        while True:
            cluster = self._next
            index, at = divmod(cluster, self._per_block)
            counts = self._counts(index)
            if counts is None:
                self._add_block(index, cluster)
            elif counts[at] == 0:
                counts[at] = 1
                self._next += 1
                return cluster << self._bits
            else:
                self._next += 1

    def give_back(self, offset: int) -> None:
        """Take back a cluster that was allocated and is not used after all: the next to allocate gets it."""
        self._set(offset >> self._bits, 0)
        self._spare.append(offset)

    def _set(self, cluster: int, count: int) -> None:
        index, at = divmod(cluster, self._per_block)
        counts = self._counts(index)
        if counts is None:
            raise Corrupt("a cluster in use has no block of counts", path=self._storage.path, offset=cluster << self._bits)
        counts[at] = count

    def _counts(self, index: int) -> array[int] | None:
        """The block of counts with that index, to be changed; None if there is none yet."""
        if index not in self._dirty:
            offset = self._block_offset(index)
            if offset == 0:
                return None
            self._dirty[index] = offset, self._load(index, offset)
        return self._dirty[index][1]

    def _add_block(self, index: int, cluster: int) -> None:
        """Make ``cluster`` a block of counts, its own among them. It has its room before anything is counted there, and so has
        its entry of the table: a flush that finds none would lose what was written."""
        offset = cluster << self._bits
        self._storage.write(offset, bytes(1 << self._bits))
        self._storage.write(self._table_offset + 8 * index, bytes(8))
        counts = array("H", [0]) * self._per_block
        counts[cluster % self._per_block] = 1
        self._new[index] = offset
        self._dirty[index] = offset, counts

    def _block_offset(self, index: int) -> int:
        """Where that block is on disk, 0 if nowhere."""
        if index >= self._table_size:
            raise Unsupported("the overlay is full: its refcount table has no more room", path=self._storage.path)
        return self._storage.read_numbers("Q", self._table_offset + 8 * index, 1)[0]

    def _load(self, index: int, offset: int) -> array[int]:
        if self._block is not None and self._block[0] == index:
            return self._block[1]
        if offset & ~OFFSET_MASK or offset % (1 << self._bits):
            raise Corrupt("a refcount block is not at a cluster boundary", path=self._storage.path, found=offset)
        return self._storage.read_numbers("H", offset, self._per_block)

    def write_back(self) -> bool:
        """Write what changed, blocks before the table that names them; whether there was anything. The caller syncs."""
        if not self._dirty:
            return False
        for offset, counts in self._dirty.values():
            self._storage.write_numbers(offset, counts)
        if self._new:
            self._storage.sync()
            for index, offset in self._new.items():
                self._storage.write_numbers(self._table_offset + 8 * index, array("Q", [offset]))
        last = max(self._dirty)
        self._block = last, self._dirty[last][1]  # the next allocation is most likely from it
        self._dirty.clear()
        self._new.clear()
        return True
