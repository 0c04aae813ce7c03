"""Whether the file of an overlay has its end: a copy that ran out of space looks whole until a cluster is read that is gone."""

from __future__ import annotations

from mntapi.errors import Corrupt, Unsupported
from mntapi.images.qcow2.entries import COMPRESSED, OFFSET_MASK, ZERO_FLAG
from mntapi.images.qcow2.header import MAX_L1_BYTES, Header
from mntapi.images.qcow2.storage import Storage

MAX_REFCOUNT_TABLE = MAX_L1_BYTES
"""Bytes of a refcount table: the largest overlay there can be has half as many."""


def check_complete(storage: Storage, header: Header) -> None:
    """Raise Corrupt, with the byte offset, where a table or cluster of the overlay lies past the end of its file.

    Usually two reads: no cluster is in use past the last one that is counted. Counts may be ahead of the file after a power
    failure, so if they are, the tables decide, all of which are read.

    Raises also Unsupported: the refcount table is larger than any of an overlay.
    """
    size, cluster = storage.size, header.cluster_size
    _check_place(storage, header.l1_offset, header.l1_size * 8, size, "its L1 table")
    table_bytes = header.refcount_table_clusters * cluster
    if table_bytes > MAX_REFCOUNT_TABLE:
        expected = f"at most {MAX_REFCOUNT_TABLE} bytes"
        raise Unsupported("the refcount table is too large", path=storage.path, expected=expected, found=table_bytes)
    _check_place(storage, header.refcount_table_offset, table_bytes, size, "its refcount table")
    if _counted_end(storage, header.refcount_table_offset, table_bytes, cluster) > size:
        _check_tables(storage, header, size)


def _check_place(storage: Storage, offset: int, length: int, size: int, what: str) -> None:
    if offset + length > size:
        raise Corrupt(
            f"is cut short: {what} is past its end",
            path=storage.path,
            offset=offset,
            expected=f"a file of at least {offset + length} bytes",
            found=size,
            hint="the copy of the overlay is not whole: was the disk full? take the overlay that it was copied from",
            reason="truncated",
        )


def _counted_end(storage: Storage, offset: int, length: int, cluster: int) -> int:
    """The end of the last cluster that is counted as in use; if even its block of counts is past the end, that one's."""
    table = _raw(storage, offset, length)
    used = len(table.rstrip(b"\0"))
    if not used:
        return 0
    index = (used - 1) // 8
    block = int.from_bytes(table[8 * index : 8 * index + 8], "big") & OFFSET_MASK
    if block + cluster > storage.size:
        return block + cluster
    counts = _raw(storage, block, cluster).rstrip(b"\0")
    return (index * (cluster // 2) + -(-len(counts) // 2)) * cluster


def _raw(storage: Storage, offset: int, length: int) -> bytes:
    content = bytearray(length)
    storage.readinto(offset, memoryview(content))
    return bytes(content)


def _check_tables(storage: Storage, header: Header, size: int) -> None:
    seen = set()
    for entry in storage.read_numbers("Q", header.l1_offset, header.l1_size):
        place = entry & OFFSET_MASK
        if place and place not in seen:
            seen.add(place)
            _check_place(storage, place, header.cluster_size, size, "an L2 table")
            entries = storage.read_numbers("Q", place, header.cluster_size // 8)
            hosts = (one & OFFSET_MASK for one in entries if not one & (COMPRESSED | ZERO_FLAG))
            beyond = [host for host in hosts if host and host + header.cluster_size > size]
            if beyond:
                _check_place(storage, min(beyond), header.cluster_size, size, "a cluster of the disk")
