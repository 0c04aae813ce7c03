"""Changes btrfs images for tests without writing them: bytes are replaced in memory, and checksums made right again.

edited(blocks, (at, b"..."))                    # the node or superblock around each change gets a right checksum
spoiled(blocks, (at, b"..."))                   # as it is: a damaged disk
"""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks import check_range, read
from mntapi.crc32c import crc32c
from mntapi.filesystems.btrfs.filesystem import BtrfsFileSystem
from mntapi.filesystems.btrfs.tree import Item
from mntapi.types import Blocks, Extent

SUPERBLOCKS = (65536, 64 << 20)
SUPERBLOCK = 4096
Change = tuple[int, bytes]


class Changed:
    """Blocks with other bytes at some places. ``size`` may cut them off."""

    def __init__(self, inner: Blocks, changes: dict[int, bytes], size: int | None = None) -> None:
        self._inner = inner
        self._changes = changes
        self.size = inner.size if size is None else size
        self.sector_size = inner.sector_size

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        self._inner.readinto(offset, buffer)
        end = offset + len(buffer)
        for at, content in self._changes.items():
            start, stop = max(at, offset), min(at + len(content), end)
            if start < stop:
                buffer[start - offset : stop - offset] = content[start - at : stop - at]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self._inner.extents(offset, length)

    def close(self) -> None:
        """Nothing to release."""


def spoiled(blocks: Blocks, *changes: Change) -> Changed:
    """The changes alone."""
    return Changed(blocks, dict(changes))


def edited(blocks: Blocks, *changes: Change, node_size: int = 16384) -> Changed:
    """The changes, and right CRC-32C checksums of what they are in."""
    plain = spoiled(blocks, *changes)
    seals = {}
    for at, _ in changes:
        start = next((place for place in SUPERBLOCKS if place <= at < place + SUPERBLOCK), None)
        size = node_size if start is None else SUPERBLOCK
        start = at - at % node_size if start is None else start
        seals[start] = crc32c(read(plain, start + 32, size - 32)).to_bytes(4, "little")
    return Changed(plain, seals)


def item_of(fs: BtrfsFileSystem, number: int, kind: int, offset: int = 0, *, subvolume: int = 0) -> Item:
    """An item of a subvolume, for its place."""
    item = fs._trees[subvolume].get((number, kind, offset))
    assert item is not None
    return item
