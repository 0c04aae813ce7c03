"""Inodes as they are on the volume, by number: where they lie, and many of them read together."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

from mntapi.blocks import Cache
from mntapi.errors import Corrupt, MntapiError, NotFound
from mntapi.filesystems.ext.checksums import Checksums
from mntapi.filesystems.ext.superblock import Superblock, parse_inode_table
from mntapi.filesystems.names import Listed
from mntapi.units import MIB

MAX_TABLES = 4096
"""Block groups whose inode table is remembered; of 128 MiB each, if blocks have 4 KiB."""
AHEAD = 2 * MIB
"""Bytes of inodes, in a large folder, that are read together and kept until the next are."""


class InodeTable:
    """Reads and verifies inodes. Thread-safe; borrows the cache, which is of the whole volume.

    Args:
        checksums: what verifies them, None where the file system has no checksums.
    """

    def __init__(self, cache: Cache, superblock: Superblock, checksums: Checksums | None) -> None:
        self._cache = cache
        self._sb = superblock
        self._checksums = checksums
        self._table_at = lru_cache(maxsize=MAX_TABLES)(self._find_table)
        self._at_once = max(1, AHEAD // superblock.inode_size)
        self._coming: frozenset[int] = frozenset()
        self._together: dict[int, bytes] = {}

    def at(self, number: int) -> int:
        """Byte of an inode on the volume. Raises NotFound if there is no such, Corrupt if its table lies outside."""
        if not 1 <= number <= self._sb.inodes:
            raise NotFound(f"there is no inode {number}", expected=f"1 to {self._sb.inodes}")
        group, index = divmod(number - 1, self._sb.inodes_per_group)
        return self._table_at(group) + index * self._sb.inode_size

    def read(self, number: int) -> bytes:
        """The inode. Raises as ``at``, as reading the volume does, and Corrupt where its checksum is wrong."""
        at = self.at(number)
        if number in self._coming:
            self._read_together()
        raw = self._together.get(number) or self.metadata(at, self._sb.inode_size)
        if self._checksums is not None and any(raw):
            self._checksums.check_inode(raw, number, at)
        return raw

    def metadata(self, at: int, length: int) -> bytes:
        """Bytes of the volume. Raises Corrupt where it ends before."""
        if at + length > self._cache.size:
            raise Corrupt("the file system goes past the end of its volume", offset=at, expected=f"at most {self._cache.size}")
        return self._cache.read(at, length)

    def ahead(self, entries: Iterator[Listed]) -> Iterator[Listed]:
        """The same entries. If they are many, and one's inode is read while they are given out, so are those of the thousands
        around it, in the order in which they lie in the tables: names come in the order of their hashes, and in that order
        each block of the tables would be read again and again."""
        try:
            yield from self._announced(entries)
        finally:
            self._coming = frozenset()

    def _announced(self, entries: Iterator[Listed]) -> Iterator[Listed]:
        trouble: MntapiError | None = None
        while trouble is None:
            some: list[Listed] = []
            try:
                some.extend(islice(entries, self._at_once))
            except MntapiError as error:
                trouble = error
            if not some:
                break
            if len(some) == self._at_once:
                self._coming = frozenset(listed.inode for listed in some)
            yield from some
        if trouble is not None:
            raise trouble

    def _read_together(self) -> None:
        coming, self._coming = self._coming, frozenset()
        together: dict[int, bytes] = {}
        for number in sorted(coming):
            try:
                together[number] = self.metadata(self.at(number), self._sb.inode_size)
            except MntapiError:
                continue  # whoever asks for this one is told
        self._together = together

    def clear(self) -> None:
        """Forget what was read."""
        self._table_at.cache_clear()
        self._coming = frozenset()
        self._together = {}

    def _find_table(self, group: int) -> int:
        """Byte of a group's inode table on the volume."""
        at = self._sb.descriptor_at(group)
        descriptor = self.metadata(at, self._sb.descriptor_size)
        table = parse_inode_table(descriptor)
        if not 0 < table < self._sb.blocks:
            raise Corrupt(
                "an inode table outside the file system", offset=at, expected=f"1 to {self._sb.blocks - 1}", found=table
            )
        return table * self._sb.block_size
