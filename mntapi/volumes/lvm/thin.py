"""Thin pools: volumes that share one data device, and the tree that says which chunk of which volume is where on it.

The superblock names a tree of volumes; each value is the root of a volume's own tree, from chunks of the volume to chunks of
the data device. A snapshot is another volume whose tree has nodes in common with the first. Not read: the space maps (they
only say what is free), the tree of device details, and a metadata snapshot that some program holds.

Source: Linux drivers/md/dm-thin-metadata.c; reading unmapped chunks: drivers/md/dm-thin.c (``process_cell``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from mntapi.blocks import Concat, Slice, Zero
from mntapi.types import Blocks
from mntapi.units import SECTOR
from mntapi.volumes.lvm.btree import Store, check_superblock, entries, lookup
from mntapi.volumes.lvm.chunks import Overlaid

_NAME = "thin pool metadata"
_SALT = 160774
_MAGIC = 27022010
_NEEDS_CHECK = 1

_SUPERBLOCK = struct.Struct("<4xIQ16xQIIQQ128x128xQQIIQIII")
"""flags, block number, magic, version, time, transaction, held root, mapping root, details root, sectors in a data block and
in a metadata block, metadata blocks, compatible, read-only compatible and incompatible features"""

_TIME_BITS = 24
"""A mapping is the data block, and below it the time at which the chunk was given to the volume."""


@dataclass(frozen=True, slots=True)
class Superblock:
    """What block 0 of the metadata says. ``chunk`` in bytes, ``mapping_root`` a block."""

    needs_check: bool
    transaction: int
    mapping_root: int
    chunk: int


def parse_superblock(content: bytes) -> Superblock:
    """The superblock in a block whose checksum is right.

    Raises:
        Corrupt: it is none.
        Unsupported: a newer kernel made it.
    """
    flags, block, magic, version, _, transaction, _, root, _, chunk, block_size, _, _, _, features = _SUPERBLOCK.unpack_from(
        content
    )
    is_one = magic == _MAGIC and block == 0
    check_superblock(_NAME, is_one=is_one, version=version, block_size=block_size * SECTOR, features=features)
    return Superblock(bool(flags & _NEEDS_CHECK), transaction, root, chunk * SECTOR)


class ThinPool:
    """A pool. Borrows ``metadata`` and ``data``; reads only the superblock when it is made.

    Args:
        metadata: the metadata device.
        data: the data device.
        chunk: bytes of a chunk, as LVM's own metadata has it.

    Raises:
        Corrupt, Unsupported: the superblock is damaged, has another chunk size, or is newer than this reader.
        MntapiError: it cannot be read.
    """

    def __init__(self, metadata: Blocks, data: Blocks, chunk: int) -> None:
        self._store = Store(metadata, _NAME)
        self._superblock = parse_superblock(self._store.checked(0, _SALT))
        if chunk <= 0 or self._superblock.chunk != chunk:
            raise self._store.corrupt(0, "another chunk size than the volume group has", chunk, self._superblock.chunk)
        self._data = data
        self._chunk = chunk

    @property
    def needs_check(self) -> bool:
        """Whether the kernel met an error in the metadata and asks for ``thin_check``; it reads on meanwhile."""
        return self._superblock.needs_check

    @property
    def transaction(self) -> int:
        """The number of the last change that LVM made; its own metadata has the same, or one more before the change."""
        return self._superblock.transaction

    def volume(self, device_id: int, size: int, origin: Blocks | None = None) -> Blocks:
        """The thin volume with that number.

        Args:
            device_id: its number in the pool.
            size: its bytes; mappings behind that are not looked at.
            origin: an external origin, read where nothing is mapped; zeros follow its end. Zeros if None.

        Raises:
            Corrupt: the pool has no such volume, or the tree of volumes is damaged. Damage below shows when it is read.
            MntapiError: the metadata cannot be read.
        """
        superblock = self._superblock
        root = lookup(self._store, superblock.mapping_root, device_id)
        if root is None:
            raise self._store.corrupt(superblock.mapping_root, f"the pool has no volume {device_id}")
        return Overlaid(_beneath(origin, size), self._data, self._chunk, _Mapping(self._store, root, self._chunk).find)


class _Mapping:
    """The tree of one volume."""

    def __init__(self, store: Store, root: int, chunk: int) -> None:
        self._store = store
        self._root = root
        self._chunk = chunk

    def find(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Chunks ``first .. end`` that are mapped, each with its byte offset on the data device."""
        chunk = self._chunk
        for found in entries(self._store, self._root, first, end):
            for index, value in found.pairs():
                yield index, (value >> _TIME_BITS) * chunk


def _beneath(origin: Blocks | None, size: int) -> Blocks:
    if origin is None:
        return Zero(size)
    if origin.size >= size:
        return Slice(origin, 0, size)
    return Concat([origin, Zero(size - origin.size)])
