"""Classic snapshots: what was in the origin when the snapshot was taken, or was since written to it, kept in a store.

The store begins with a header chunk. Then come areas: one chunk of exceptions, followed by as many chunks of data. An exception
says that a chunk of the volume is kept in a chunk of the store; the first that says chunk 0 ends them all. A merge writes the
kept chunks back to the origin, last exception first, and takes each exception away when its chunk is written. So, at any time,
the exceptions that are left over the origin are the content of the merged volume.

Source: Linux drivers/md/dm-snap-persistent.c; dm-snap.c (``snapshot_map``, ``snapshot_merge_map``).
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from mntapi.blocks import Concat, Missing, Slice, read
from mntapi.errors import Corrupt, Unsupported
from mntapi.types import Blocks
from mntapi.units import KIB, MIB, SECTOR
from mntapi.volumes.lvm.chunks import ChunkTable, Later, Overlaid

_HEADER = struct.Struct("<IIII")  # magic, whether valid, version, sectors in a chunk
_MAGIC = 0x70416E53  # "SnAp"
_VERSION = 1
_EXCEPTION = 16
"""Bytes of an exception: chunk of the volume, chunk of the store."""

MAX_CHUNK = 16 * MIB
"""Bytes of a chunk; LVM makes them up to 512 KiB."""
_STEP = 64 * KIB
"""Bytes of exceptions that are read at a time."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the store says of itself. ``chunk`` in bytes."""

    is_valid: bool
    chunk: int


def parse_header(content: bytes) -> Header:
    """The header at the start of a store.

    Raises:
        Corrupt: it is none.
        Unsupported: another version.
    """
    magic, valid, version, sectors = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        raise _corrupt("the store has no header", 0, "SnAp", content[:4])
    if version != _VERSION:
        raise Unsupported("snapshot: the store has another version", expected=_VERSION, found=version, reason="lvm-snapshot")
    chunk = sectors * SECTOR
    if not SECTOR <= chunk <= MAX_CHUNK or chunk & (chunk - 1):
        raise _corrupt("a chunk size that cannot be", 12, f"a power of two up to {MAX_CHUNK}", chunk)
    return Header(bool(valid), chunk)


class Snapshot(Overlaid):
    """The snapshot. Borrows ``origin`` and ``cow``; reads only the store's header when it is made.

    Args:
        origin: the volume it was taken of, as it is now.
        cow: the store.
        size: bytes of the snapshot. What the origin is too short for cannot be read.

    Raises:
        Corrupt: the store is damaged, or the kernel gave the snapshot up, mostly because the store was full
            (reason ``snapshot-invalid``).
        Unsupported: the store is of another version.
        MntapiError: it cannot be read.
    """

    def __init__(self, origin: Blocks, cow: Blocks, size: int) -> None:
        header = _read_header(cow)
        if not header.is_valid:
            raise Corrupt(
                "snapshot: it was given up, its store was full or failed, and has not all of the old content",
                offset=4,
                reason="snapshot-invalid",
            )
        exceptions = Later(lambda: _exceptions(cow, size, header.chunk))
        super().__init__(_resized(origin, size), cow, header.chunk, _Exceptions(exceptions, header.chunk).find)


def merging(origin: Blocks, cow: Blocks, size: int) -> Blocks:
    """The volume that a snapshot is being merged into, as it will be when all is done. It reads so from the start.

    Args and Raises as ``Snapshot``; but a merge of a snapshot that was given up leaves the origin as it is.
    """
    return Snapshot(origin, cow, size) if _read_header(cow).is_valid else _resized(origin, size)


class _Exceptions:
    """Where the store keeps the chunks that differ from the origin."""

    def __init__(self, table: Later, chunk: int) -> None:
        self._table = table
        self._chunk = chunk

    def find(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Chunks ``first .. end`` that are kept in the store, each with its byte offset there."""
        for index, place in self._table.get().between(first, end):
            yield index, place * self._chunk


def _read_header(cow: Blocks) -> Header:
    if cow.size < _HEADER.size:
        raise _corrupt("the store is too short for its header", 0, _HEADER.size, cow.size)
    return parse_header(read(cow, 0, _HEADER.size))


def _resized(origin: Blocks, size: int) -> Blocks:
    if origin.size >= size:
        return Slice(origin, 0, size)
    return Concat([origin, Missing(size - origin.size, "the origin of the snapshot ends before it")])


def _exceptions(cow: Blocks, size: int, chunk: int) -> ChunkTable:
    return ChunkTable(-(-size // chunk), cow.size // chunk, _areas(cow, chunk), "snapshot")


def _areas(cow: Blocks, chunk: int) -> Iterator[tuple[array[int], array[int]]]:
    """All exceptions, some at a time: chunks of the volume, and the chunks of the store that have their content."""
    stride = chunk * (chunk // _EXCEPTION + 1)
    for area in range(chunk, cow.size, stride):
        if area + chunk > cow.size:
            break
        for position in range(area, area + chunk, _STEP):
            numbers = array("Q", read(cow, position, min(_STEP, area + chunk - position)))
            if sys.byteorder == "big":
                numbers.byteswap()
            old, new = numbers[::2], numbers[1::2]
            if 0 in new:
                end = new.index(0)
                yield old[:end], new[:end]
                return
            yield old, new
    raise _corrupt("the exceptions do not end before the store does", cow.size, "an exception for chunk 0", "the end")


def _corrupt(what: str, offset: int, expected: object, found: object) -> Corrupt:
    return Corrupt(f"snapshot: {what}", offset=offset, expected=expected, found=found, reason="lvm-snapshot")
