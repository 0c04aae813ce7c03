"""Where an inode's bytes are: extent trees and block maps, turned into run lists.

Source: Linux Documentation/filesystems/ext4/ifork.rst; fs/ext4/extents.c ``ext4_ext_check``; fs/ext4/indirect.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.runs import RunList

MAX_MAP_BLOCKS = 1 << 16
"""Blocks of extent tree or block map read for one file: 256 GiB mapped by 4 KiB blocks one by one, far more by extents."""
EXTENT_MAGIC = 0xF30A
MAX_DEPTH = 5
MAX_WRITTEN = 1 << 15
"""An extent longer than this many blocks is one of (length - this) blocks that were never written."""
_HEADER = struct.Struct("<4H 4x")
_LEAF = struct.Struct("<I2HI")
_INDEX = struct.Struct("<2IH2x")
DIRECT = 12


class Mapper:
    """Builds the run list of one inode.

    Args:
        read_block: reads a whole block by number; raises what the storage raises.
        block_size: in bytes.
        block_count: of the file system; a pointer past it is damage.
    """

    def __init__(self, read_block: Callable[[int], bytes], block_size: int, block_count: int) -> None:
        self._read_block = read_block
        self._block_size = block_size
        self._block_count = block_count
        self._runs = RunList()
        self._blocks_read = 0

    def extents(self, root: bytes, size: int) -> RunList:
        """The runs of an inode whose ``i_block`` holds the root of an extent tree, up to ``size`` bytes.

        Raises:
            Corrupt: the tree contradicts itself or the file system.
            Unsupported: it is too large to be read at once.
        """
        self._node(root, None, None)
        self._runs.pad(size)
        return self._runs

    def _node(self, raw: bytes, depth: int | None, at: int | None) -> None:
        magic, count, most, found_depth = _HEADER.unpack_from(raw)
        if magic != EXTENT_MAGIC:
            raise Corrupt("no extent tree node", offset=at, expected=hex(EXTENT_MAGIC), found=hex(magic))
        room = min(most, len(raw) // _LEAF.size - 1)
        if count > room:
            raise Corrupt("an extent tree node is overfull", offset=at, expected=f"at most {room}", found=count)
        if found_depth > MAX_DEPTH or (depth is not None and found_depth != depth):
            raise Corrupt("an extent tree node is at the wrong depth", offset=at, expected=depth, found=found_depth)
        for offset in range(_LEAF.size, (count + 1) * _LEAF.size, _LEAF.size):
            if found_depth:
                _, low, high = _INDEX.unpack_from(raw, offset)
                block = low | high << 32
                self._node(self._metadata(block, at), found_depth - 1, block * self._block_size)
            else:
                self._leaf(raw, offset, at)

    def _leaf(self, raw: bytes, offset: int, at: int | None) -> None:
        logical, length, high, low = _LEAF.unpack_from(raw, offset)
        start = logical * self._block_size
        if start < self._runs.size or length == 0:
            raise Corrupt(
                "an extent is empty or out of order", offset=at, expected=f"byte {self._runs.size} or later", found=start
            )
        self._runs.pad(start)
        if length <= MAX_WRITTEN:
            self._data(low | high << 32, length, at)
        else:
            self._runs.add((length - MAX_WRITTEN) * self._block_size, None)

    def block_map(self, root: bytes, size: int) -> RunList:
        """The runs of an inode whose ``i_block`` holds 12 direct and 3 indirect pointers. Otherwise as ``extents``."""
        pointers = struct.unpack("<15I", root)
        self._pointers(pointers[: min(DIRECT, -(-size // self._block_size))], None)
        for level, block in enumerate(pointers[DIRECT:], 1):
            if self._runs.size >= size:
                break
            self._indirect(block, level, size, None)
        self._runs.pad(size)
        return self._runs

    def _indirect(self, block: int, level: int, size: int, at: int | None) -> None:
        per_block = self._block_size // 4
        if block == 0:
            hole = per_block**level * self._block_size
            self._runs.pad(min(size, self._runs.size + hole))
            return
        pointers = struct.unpack(f"<{per_block}I", self._metadata(block, at))
        if level == 1:
            wanted = -(-(size - self._runs.size) // self._block_size)
            self._pointers(pointers[:wanted], block * self._block_size)
            return
        for pointer in pointers:
            if self._runs.size >= size:
                break
            self._indirect(pointer, level - 1, size, block * self._block_size)

    def _pointers(self, pointers: tuple[int, ...], at: int | None) -> None:
        first = pointers[0] if pointers else 0
        if first and pointers == tuple(range(first, first + len(pointers))):
            self._data(first, len(pointers), at)  # the usual case, a thousand times as fast
            return
        for pointer in pointers:
            if pointer:
                self._data(pointer, 1, at)
            else:
                self._runs.add(self._block_size, None)

    def _data(self, block: int, count: int, at: int | None) -> None:
        if block == 0 or block + count > self._block_count:
            raise Corrupt("a block outside the file system", offset=at, expected=f"1 to {self._block_count - 1}", found=block)
        self._runs.add(count * self._block_size, block * self._block_size)

    def _metadata(self, block: int, at: int | None) -> bytes:
        self._blocks_read += 1
        if self._blocks_read > MAX_MAP_BLOCKS:
            raise Unsupported(
                "the block map of the file is too large", expected=f"{MAX_MAP_BLOCKS} blocks", reason="too-many-runs"
            )
        if not 0 < block < self._block_count:
            raise Corrupt(
                "a map block outside the file system", offset=at, expected=f"1 to {self._block_count - 1}", found=block
            )
        return self._read_block(block)
