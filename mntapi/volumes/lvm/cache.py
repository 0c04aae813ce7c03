"""Cached volumes: a slow origin, chunks of it on a fast device, some of them newer than the origin (dirty).

The mapping is an array with an entry for each chunk of the fast device: which chunk of the origin it holds. What is dirty is a
flag of the entry (metadata version 1) or a bit of an array of its own (version 2), and is true only after a clean shutdown;
else all that is mapped counts as dirty, as it does for the kernel. Chunks that are not dirty are the same on both devices and
are read from the origin.

Source: Linux drivers/md/dm-cache-metadata.c (``__load_mapping_v1``, ``__load_mapping_v2``); persistent-data/dm-bitset.c.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from mntapi.errors import Unsupported
from mntapi.types import Blocks
from mntapi.units import SECTOR
from mntapi.volumes.lvm.btree import Store, array_values, check_superblock
from mntapi.volumes.lvm.chunks import ChunkTable, Later, Overlaid

_NAME = "cache metadata"
_SALT = 9031977
_MAGIC = 0o6142003  # octal in the kernel's source too
_CLEAN_SHUTDOWN, _NEEDS_CHECK = 1, 2
_VALID, _DIRTY = 1, 2
_FLAG_BITS = 16
"""A mapping is the chunk of the origin, and below it flags."""

_SUPERBLOCK = struct.Struct("<4xIQ16xQI16x4x128xQ8x8x8x8xIII4x4xI28xQ")
"""flags, block number, magic, version, mapping root, sectors in a data block and in a metadata block, chunks in the cache,
incompatible features, root of the dirty bits"""

MAX_CACHE_CHUNKS = 1 << 24
"""Chunks of the fast device. LVM makes chunks larger to stay below a million of them."""


@dataclass(frozen=True, slots=True)
class Superblock:
    """What block 0 of the metadata says. ``chunk`` in bytes; roots are blocks, ``dirty_root`` None in version 1."""

    is_clean: bool
    needs_check: bool
    chunk: int
    chunk_count: int
    mapping_root: int
    dirty_root: int | None


def parse_superblock(content: bytes) -> Superblock:
    """The superblock in a block whose checksum is right.

    Raises:
        Corrupt: it is none.
        Unsupported: a newer kernel made it, or the cache has too many chunks.
    """
    flags, block, magic, version, root, chunk, block_size, count, features, dirty = _SUPERBLOCK.unpack_from(content)
    is_one = magic == _MAGIC and block == 0
    check_superblock(_NAME, is_one=is_one, version=version, block_size=block_size * SECTOR, features=features)
    if count > MAX_CACHE_CHUNKS:
        raise Unsupported(
            f"{_NAME}: too many chunks",
            offset=0,
            expected=f"at most {MAX_CACHE_CHUNKS}",
            found=count,
            reason="too-many-chunks",
        )
    return Superblock(
        bool(flags & _CLEAN_SHUTDOWN), bool(flags & _NEEDS_CHECK), chunk * SECTOR, count, root, dirty if version > 1 else None
    )


class Cached(Overlaid):
    """The volume. Borrows all three; reads only the superblock when it is made.

    In the mode ``passthrough`` the kernel reads the origin alone; then there is no need of this.

    Args:
        origin: the slow device, as long as the volume.
        metadata: the metadata device.
        data: the fast device.
        chunk: bytes of a chunk, as LVM's own metadata has it.

    Raises:
        Corrupt, Unsupported: the superblock is damaged, has another chunk size, or is newer than this reader.
        MntapiError: it cannot be read.
    """

    def __init__(self, origin: Blocks, metadata: Blocks, data: Blocks, chunk: int) -> None:
        store = Store(metadata, _NAME)
        self._superblock = parse_superblock(store.checked(0, _SALT))
        if chunk <= 0 or self._superblock.chunk != chunk:
            raise store.corrupt(0, "another chunk size than the volume group has", chunk, self._superblock.chunk)
        self._store = store
        self._dirty = Later(self._load)
        super().__init__(origin, data, chunk, self._find_dirty)

    @property
    def needs_check(self) -> bool:
        """Whether the kernel met an error in the metadata and asks for ``cache_check``; it reads on meanwhile."""
        return self._superblock.needs_check

    @property
    def was_shut_down(self) -> bool:
        """Whether the metadata knows what is dirty. If not, all that is in the cache is read from there."""
        return self._superblock.is_clean

    def _find_dirty(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Chunks ``first .. end`` that are newer in the cache, each with its byte offset there."""
        for index, place in self._dirty.get().between(first, end):
            yield index, place * self._chunk

    def _load(self) -> ChunkTable:
        places = min(self._superblock.chunk_count, self._above.size // self._chunk)
        return ChunkTable(-(-self.size // self._chunk), places, _dirty_chunks(self._store, self._superblock), _NAME)


def _dirty_chunks(store: Store, superblock: Superblock) -> Iterator[tuple[list[int], list[int]]]:
    """All that is dirty, some at a time: chunks of the origin, and the chunks of the cache that have their content."""
    bits = _dirty_bits(store, superblock)
    first = 0
    for mappings in array_values(store, superblock.mapping_root, superblock.chunk_count):
        places = [place for place, mapping in enumerate(mappings, first) if mapping & _VALID]
        if superblock.is_clean:
            places = [place for place in places if _is_dirty(bits, place, mappings[place - first])]
        yield [mappings[place - first] >> _FLAG_BITS for place in places], places
        first += len(mappings)


def _dirty_bits(store: Store, superblock: Superblock) -> bytes | None:
    """A bit for each chunk of the cache, the lowest of a byte first; None where the mappings have them, or nobody does."""
    if superblock.dirty_root is None or not superblock.is_clean:
        return None
    words = -(-superblock.chunk_count // 64)
    return b"".join(_little_endian(values) for values in array_values(store, superblock.dirty_root, words))


def _is_dirty(bits: bytes | None, place: int, mapping: int) -> bool:
    return bool(mapping & _DIRTY if bits is None else bits[place >> 3] >> (place & 7) & 1)


def _little_endian(values: array[int]) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)
