"""Data at logical addresses, each sector compared with its checksum, and had in another way where that is wrong.

Source: btrfs documentation, "On-disk Format", section "Extent csum"; fs/btrfs/file-item.c ``btrfs_lookup_bio_sums``: data of a
file with checksums that has none is an error to the kernel too.
"""

from __future__ import annotations

from collections.abc import Callable

from mntapi.errors import Corrupt, MntapiError, ReadFailed
from mntapi.filesystems.btrfs.chunks import Chunk, Chunks
from mntapi.filesystems.btrfs.items import Type
from mntapi.filesystems.btrfs.storage import Storage, most_telling
from mntapi.filesystems.btrfs.superblock import Superblock
from mntapi.filesystems.btrfs.tree import Item, Tree
from mntapi.units import MIB, align_down, align_up

STEP = MIB
"""Bytes that are read and verified at a time."""
_NONE = Item(((1 << 64) - 10, Type.EXTENT_CSUM, 0), b"", 0)
"""No checksums, under the key that all have but for its offset, which is the logical address of the first."""


class Data:
    """Reads data. Thread-safe; borrows the storage."""

    def __init__(self, storage: Storage, superblock: Superblock, chunks: Chunks, checksums: Callable[[], Tree]) -> None:
        self._storage = storage
        self._chunks = chunks
        self._checksums = checksums
        self._sector_size = superblock.sector_size
        self._algorithm = superblock.checksum

    def readinto(self, logical: int, buffer: memoryview, *, verify: bool, at: int) -> None:
        """Fill the buffer with what is stored at a logical address.

        Args:
            logical: need not be that of a sector.
            buffer: as for ``Blocks.readinto``.
            verify: whether there are checksums.
            at: the byte on the volume that names the address, for errors.

        Raises:
            Corrupt: no version of a sector matches its checksum (reason ``checksum``), it has none, or lies in no chunk; or
                data without checksums is only on a device that missed a commit.
            ReadFailed: no version can be read.
        """
        done = 0
        while done < len(buffer):
            chunk = self._chunks.find(logical + done, at)
            count = min(len(buffer) - done, chunk.end - logical - done, STEP)
            if verify:
                self._verified(chunk, logical + done, buffer[done : done + count], at)
            else:
                self._storage.read(chunk, logical + done, buffer[done : done + count], is_verified=False)
            done += count

    def _verified(self, chunk: Chunk, logical: int, buffer: memoryview, at: int) -> None:
        start = align_down(logical, self._sector_size)
        end = align_up(logical + len(buffer), self._sector_size)
        if end > chunk.end:
            raise Corrupt("data in a chunk that ends within a sector", offset=at, found=chunk.end, reason="no-chunk")
        if end - start == len(buffer):
            self._sectors(chunk, start, buffer, at)
            return
        whole = memoryview(bytearray(end - start))
        self._sectors(chunk, start, whole, at)
        buffer[:] = whole[logical - start : logical - start + len(buffer)]

    def _sectors(self, chunk: Chunk, logical: int, buffer: memoryview, at: int) -> None:
        """Whole sectors: all from what can be read first if they are right, else each from the version that has it right."""
        wanted = self._wanted(logical, len(buffer), at)
        try:
            self._storage.read(chunk, logical, buffer, is_verified=True)
            found = self._algorithm.each(buffer, self._sector_size)
        except (Corrupt, ReadFailed):
            found = b""
        if found == wanted:
            return
        size = self._algorithm.size
        for index in range(len(buffer) // self._sector_size):
            right = wanted[index * size : (index + 1) * size]
            if found[index * size : (index + 1) * size] != right:
                start = index * self._sector_size
                self._sector(chunk, logical + start, buffer[start : start + self._sector_size], right)

    def _sector(self, chunk: Chunk, logical: int, buffer: memoryview, wanted: bytes) -> None:
        failures: list[MntapiError] = []
        for version in self._storage.versions(chunk, logical, len(buffer)):
            try:
                version.readinto(buffer)
                found = self._algorithm.of(bytes(buffer))
                if found == wanted:
                    return
                what, hint = "the checksum of data is wrong", "what the guest wrote is not there any more"
                raise Corrupt(what, offset=version.at, expected=wanted.hex(), found=found.hex(), hint=hint, reason="checksum")
            except (Corrupt, ReadFailed) as error:
                failures.append(error)
        raise most_telling(failures)

    def _wanted(self, logical: int, length: int, at: int) -> bytes:
        """The stored checksums of whole sectors, one after the other. Raises Corrupt where one is missing."""
        size, sector = self._algorithm.size, self._sector_size
        tree, found, reached = self._checksums(), bytearray(), logical
        first = tree.floor((*_NONE.key[:2], logical)) or _NONE
        start = first.key[2] if first.key[:2] == _NONE.key[:2] else logical
        for item in tree.items((*_NONE.key[:2], start), (*_NONE.key[:2], logical + length - 1)):
            skipped, uneven = divmod(reached - item.key[2], sector)
            if skipped < 0 or uneven:
                break
            found += item.raw[skipped * size :][: length // sector * size - len(found)]
            reached = logical + len(found) // size * sector
        if reached != logical + length:
            raise Corrupt("data without the checksum it must have", offset=at, found=f"logical {reached}", reason="no-checksum")
        return bytes(found)
