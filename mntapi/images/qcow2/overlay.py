"""A place to write: a QCOW2 version 3 file of our own that holds what was changed, over an image that is never written.

``create.py`` makes one in an empty file, or goes on with one; both give an ``Overlay``. QEMU reads such files, and the name of
the original is in them.

What is on disk is valid at any moment, whether the process or the whole machine dies: a write goes to a cluster that this
overlay owns, and only ``flush`` writes the tables that lead to a new one, in this order, each step on the medium before the
next begins: data and reference counts, L2 tables, L1 table. A death in between loses clusters (``qemu-img check`` calls them
leaked), never data that was flushed.

What a flush writes has its room in the file since the write that made it necessary. So it is a write that fails when the host's
file system is full, and not the flush, as far as that system overwrites in place (btrfs and ZFS may want room for that, too).
A write that failed leaves no cluster behind.
"""

from __future__ import annotations

import errno
import threading
from array import array
from collections.abc import Callable, Iterator

from mntapi.blocks import check_range, merged, whole
from mntapi.blocks.zero import fill
from mntapi.errors import Corrupt, Invalid, MntapiError, Unsupported
from mntapi.images.qcow2.entries import COPIED, L1_RESERVED, OFFSET_MASK, ZERO_FLAG, Kind, Layout, Piece, pieces
from mntapi.images.qcow2.header import Header
from mntapi.images.qcow2.refcounts import Refcounts
from mntapi.images.qcow2.storage import Storage
from mntapi.types import Extent, ExtentKind, Image
from mntapi.units import align_down, align_up

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
ENTRIES = CLUSTER // 8
SPAN = CLUSTER * ENTRIES
"""Bytes of the disk that one L2 table maps: 512 MiB."""
MAX_TABLES = 64
"""L2 tables that are kept: 4 MiB. As many changed ones make a flush."""

_LAYOUT = Layout(CLUSTER_BITS, version=3, extended=False, data_file=False)

Punch = Callable[[int, int, int], None]
"""(descriptor, offset, length): give the bytes back to the host's file system, as ``fallocate`` does (kernel layer)."""


class Overlay:
    """The disk with its changes: ``mntapi.types.WritableBlocks``. Owns the overlay's file and the original's blocks.

    Reads take no lock unless a table has to be loaded; writes, discards and flushes take turns.
    """

    def __init__(self, storage: Storage, header: Header, backing: Image, *, punch: Punch | None) -> None:
        self.size = backing.blocks.size
        self.sector_size = backing.blocks.sector_size
        self.path = storage.path
        self._storage = storage
        self._backing = backing.blocks
        self._punch = punch
        self._l1_offset = header.l1_offset
        self._l1 = storage.read_numbers("Q", header.l1_offset, header.l1_size)
        self._refcounts = Refcounts(
            storage,
            cluster_bits=CLUSTER_BITS,
            table_offset=header.refcount_table_offset,
            table_size=header.refcount_table_clusters * ENTRIES,
            first=-(-storage.size // CLUSTER),
        )
        self._tables: dict[int, array[int]] = {}
        self._dirty: set[int] = set()
        """Tables that changed since the last flush."""
        self._new: set[int] = set()
        """L1 entries that are not on disk yet."""
        self._lock = threading.RLock()
        self._is_closed = False

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        for start, end, kind, host in self._pieces(offset, offset + len(buffer)):
            part = buffer[start - offset : end - offset]
            if kind is Kind.DATA:
                self._storage.readinto(host, part)
            elif kind is Kind.ZERO:
                fill(part)
            else:
                self._backing.readinto(start, part)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return merged(self._extents(offset, offset + length))

    def _extents(self, offset: int, end: int) -> Iterator[Extent]:
        for start, stop, kind, _ in self._pieces(offset, end):
            if kind is Kind.UNALLOCATED:
                yield from self._backing.extents(start, stop - start)
            else:
                yield from whole(start, stop - start, ExtentKind.DATA if kind is Kind.DATA else ExtentKind.ZERO)

    def _pieces(self, start: int, end: int) -> Iterator[Piece]:
        """The range cut by where its bytes are: DATA in our file, ZERO, or UNALLOCATED: in the original."""
        if self._is_closed:
            raise Invalid("is closed", path=self.path)
        while start < end:
            index = first = start // SPAN
            while index * SPAN < end and not self._l1[index]:
                index += 1
            stop = min(end, max(index, first + 1) * SPAN)
            if index > first:
                yield Piece(start, stop, Kind.UNALLOCATED)
            else:
                yield from self._table_pieces(first, start, stop)
            start = stop

    def _table_pieces(self, index: int, start: int, end: int) -> Iterator[Piece]:
        first, last = start % SPAN // CLUSTER, (end - 1) % SPAN // CLUSTER
        entries = self._table(index)[first : last + 1]
        try:
            found = list(pieces(entries, align_down(start, CLUSTER), _LAYOUT, strict=True))
        except Corrupt as error:
            raise error.located(path=self.path, base=(self._l1[index] & OFFSET_MASK) + 8 * first) from None
        for piece in found:
            if piece.kind is Kind.COMPRESSED:
                raise Unsupported("another program compressed clusters of the overlay", path=self.path, offset=piece.host)
            begin = max(start, piece.start)
            yield Piece(begin, min(end, piece.end), piece.kind, piece.host + begin - piece.start)

    def _table(self, index: int) -> array[int]:
        """The L2 table with that index, which must exist."""
        table = self._tables.get(index)
        if table is not None:
            return table
        with self._lock:
            table = self._tables.get(index)
            if table is None:
                entry = self._l1[index]
                offset = entry & OFFSET_MASK
                if entry & L1_RESERVED or offset % CLUSTER or not entry & COPIED:
                    at = self._l1_offset + 8 * index
                    raise Corrupt("an L1 entry is bad", path=self.path, offset=at, found=f"{entry:#018x}", reason="l1-entry")
                table = self._storage.read_numbers("Q", offset, ENTRIES)
                self._keep(index, table)
        return table

    def _keep(self, index: int, table: array[int]) -> None:
        self._tables[index] = table
        if len(self._tables) > MAX_TABLES:
            oldest = next((key for key in self._tables if key not in self._dirty and key != index), None)
            if oldest is not None:
                del self._tables[oldest]

    def _table_to_change(self, offset: int) -> array[int]:
        """The L2 table with the entry of the cluster at ``offset``, made if there is none yet, and marked as changed.

        Many changed tables make a flush first. A new one, and its L1 entry, have their room in the file when this returns: a
        flush that finds none would lose what was written.
        """
        index = offset // SPAN
        if index not in self._dirty and len(self._dirty) >= MAX_TABLES:
            self._flush()
        if not self._l1[index]:
            place = self._refcounts.allocate()
            try:
                self._storage.write(place, bytes(CLUSTER))
                self._storage.write(self._l1_offset + 8 * index, bytes(8))
            except MntapiError:
                self._refcounts.give_back(place)
                raise
            self._dirty.add(index)
            self._keep(index, array("Q", [0]) * ENTRIES)
            self._new.add(index)
            self._l1[index] = place | COPIED  # last: a reader that sees it finds the table
        table = self._table(index)
        self._dirty.add(index)
        return table

    def write(self, offset: int, content: memoryview) -> None:
        """See ``WritableBlocks``. Raises Failed where the system does; what was not written reads as before."""
        check_range(self.size, offset, len(content))
        with self._lock:
            done = 0
            while done < len(content):
                count = min(len(content) - done, CLUSTER - (offset + done) % CLUSTER)
                self._write_cluster(offset + done, content[done : done + count])
                done += count

    def _write_cluster(self, offset: int, content: memoryview) -> None:
        """Write bytes that lie in one cluster."""
        piece = next(self._pieces(offset, offset + 1))
        if piece.kind is Kind.DATA:
            self._check_owned(offset)
            self._storage.write(piece.host, content)
            return
        cluster = self._filled(offset, content, piece.kind)
        table = self._table_to_change(offset)
        host = align_down(piece.host, CLUSTER) if piece.kind is Kind.ZERO else 0
        place = host or self._refcounts.allocate()
        try:
            self._storage.write(place, cluster)
        except MntapiError:
            if not host:
                self._refcounts.give_back(place)
            raise
        table[offset % SPAN // CLUSTER] = place | COPIED

    def _check_owned(self, offset: int) -> None:
        """Raise unless the cluster is this overlay's alone; a program that makes snapshots clears the flag."""
        if not self._table(offset // SPAN)[offset % SPAN // CLUSTER] & COPIED:
            raise Unsupported("another program shares clusters of the overlay", path=self.path, offset=offset)

    def _filled(self, offset: int, content: memoryview, kind: Kind) -> memoryview:
        """The whole cluster as it will be: ``content`` among what was there before."""
        if len(content) == CLUSTER:
            return content
        cluster = memoryview(bytearray(CLUSTER))
        start = align_down(offset, CLUSTER)
        if kind is Kind.UNALLOCATED:
            self._backing.readinto(start, cluster[: min(CLUSTER, self.size - start)])
        cluster[offset - start : offset - start + len(content)] = content
        return cluster

    def _set(self, offset: int, entry: int) -> None:
        """Change the L2 entry of the cluster at ``offset``."""
        self._table_to_change(offset)[offset % SPAN // CLUSTER] = entry

    def discard(self, offset: int, length: int) -> None:
        """See ``WritableBlocks``. Clusters of the original that are zeros stay as they are, and cost nothing."""
        check_range(self.size, offset, length)
        end = offset + length
        start = align_up(offset, CLUSTER)
        end = end if end == self.size else align_down(end, CLUSTER)
        with self._lock:
            for piece in self._pieces(start, end) if start < end else ():
                if piece.kind is Kind.DATA:
                    self._discard_data(piece)
                elif piece.kind is Kind.UNALLOCATED:
                    self._hide(piece)

    def _discard_data(self, piece: Piece) -> None:
        """Make our clusters zero clusters that keep their place, without the bytes in it."""
        for start in range(piece.start, piece.end, CLUSTER):
            self._check_owned(start)
            self._set(start, piece.host + start - piece.start | COPIED | ZERO_FLAG)
        if self._punch is None:
            return
        try:
            self._punch(self._storage.fileno(), piece.host, align_up(piece.end - piece.start, CLUSTER))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise self._storage.failed("punched", error, piece.host) from error
            self._punch = None  # this file system cannot, and the zero clusters do not need it

    def _hide(self, piece: Piece) -> None:
        """Make clusters zero clusters where the original has data in them."""
        for extent in self._backing.extents(piece.start, piece.end - piece.start):
            if extent.kind is ExtentKind.DATA:
                for start in range(align_down(extent.offset, CLUSTER), extent.end, CLUSTER):
                    self._set(start, ZERO_FLAG)

    def flush(self) -> None:
        """See ``WritableBlocks``. Raises Failed; all is then still in memory, but a failed sync cannot be made good."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        self._refcounts.write_back()
        self._storage.sync()
        if not self._dirty:
            return
        for index in self._dirty:
            self._storage.write_numbers(self._l1[index] & OFFSET_MASK, self._tables[index])
        self._storage.sync()
        if self._new:
            for index in self._new:
                self._storage.write_numbers(self._l1_offset + 8 * index, self._l1[index : index + 1])
            self._storage.sync()
        self._new.clear()
        self._dirty.clear()
        while len(self._tables) > MAX_TABLES:
            del self._tables[next(iter(self._tables))]

    def close(self) -> None:
        """Flush, and release the file and the original, also when the flush fails (then raise what it raised)."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            try:
                self._flush()
            finally:
                self._storage.close()
                self._backing.close()
