"""persistent-data: what thin pools and caches keep their tables in. Checked blocks of 4 KiB, B-trees of them, and arrays.

A tree maps 64-bit keys to 64-bit values; a value may be the root of another tree. Nothing is loaded before it is asked for: a
walk over a range of keys reads the nodes on the way, and ``Store`` keeps a limited number of those.

Always true: a node is used only where its block number, its checksum and the range of keys its parents gave it are right. So
no node serves two places, a walk ends, and it costs no more than the nodes on the disk.

Source: Linux drivers/md/persistent-data/dm-btree-internal.h, dm-btree-spine.c, dm-array.c.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from operator import lt
from typing import NamedTuple, TypeVar

from mntapi.blocks import read
from mntapi.errors import Corrupt, Unsupported
from mntapi.types import Blocks
from mntapi.units import KIB
from mntapi.volumes.lvm.btree_checksum import checksum

BLOCK = 4 * KIB
"""Bytes in a metadata block; thin pools and caches know no other size."""
KEYS = 1 << 64
"""Keys are below this."""

MAX_DEPTH = 16
"""Nodes from a root to a leaf. A node has at least 84 children but for the root's, so 2^48 chunks take 8."""
MAX_NODES = 2048
"""Nodes that are kept, about 5 KiB each."""

_BTREE_SALT = 121107
_ARRAY_SALT = 595846735
_INTERNAL, _LEAF = 1, 2

_T = TypeVar("_T")

_CHECKSUM = struct.Struct("<I")
_NODE = struct.Struct("<IIQIIII")  # checksum, flags, block number, entries, room for entries, bytes in a value, padding
_ARRAY = struct.Struct("<IIIIQ")  # checksum, room for entries, entries, bytes in a value, block number

VALUES_PER_BLOCK = (BLOCK - _ARRAY.size) // 8
"""64-bit values in a full block of an array."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a tree: keys ascending, and for each of them a value, or the block of the child that begins with it."""

    block: int
    is_leaf: bool
    keys: array[int]
    values: array[int]


class Entries(NamedTuple):
    """The part ``low .. high`` of a leaf."""

    leaf: Node
    low: int
    high: int

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Key and value of each."""
        part = slice(self.low, self.high)
        return zip(self.leaf.keys[part], self.leaf.values[part], strict=True)


class Store:
    """The metadata device of a pool or cache, by blocks. Borrows ``blocks``; ``name`` begins every message."""

    def __init__(self, blocks: Blocks, name: str) -> None:
        self._blocks = blocks
        self._name = name
        self.node: Callable[[int], Node] = lru_cache(maxsize=MAX_NODES)(self._node)

    def checked(self, block: int, salt: int) -> bytes:
        """A block whose checksum is right.

        Raises:
            Corrupt: it is past the end, or the checksum is not right.
            MntapiError: it cannot be read.
        """
        if block >= self._blocks.size // BLOCK:
            raise self.corrupt(0, "a block is past the end", f"fewer than {self._blocks.size // BLOCK}", block)
        content = read(self._blocks, block * BLOCK, BLOCK)
        found, expected = _CHECKSUM.unpack_from(content)[0], checksum(content[_CHECKSUM.size :], salt)
        if found != expected:
            raise self.corrupt(block, "a block has a wrong checksum", f"{expected:#010x}", f"{found:#010x}")
        return content

    def corrupt(self, block: int, what: str, expected: object = None, found: object = None) -> Corrupt:
        """An error in that block, to be raised; its offset counts from the start of the metadata device."""
        return Corrupt(
            f"{self._name}: {what}",
            offset=block * BLOCK,
            expected=expected,
            found=found,
            hint="pvck, thin_check or cache_check on a copy tell more",
            reason="lvm-metadata",
        )

    def _node(self, block: int) -> Node:
        return self._parsed(block, _BTREE_SALT, parse_node)

    def array_block(self, block: int) -> array[int]:
        """The values of one block of an array. Raises as ``checked``, and Corrupt if it is none."""
        return self._parsed(block, _ARRAY_SALT, parse_array_block)

    def _parsed(self, block: int, salt: int, parse: Callable[[bytes, int], _T]) -> _T:
        content = self.checked(block, salt)
        try:
            return parse(content, block)
        except Corrupt as error:
            raise self.corrupt(block, error.what, error.expected, error.found) from error


def check_superblock(name: str, *, is_one: bool, version: int, block_size: int, features: int) -> None:
    """What the superblocks of thin pools and caches have in common. ``block_size`` in bytes.

    Raises:
        Corrupt: it is none.
        Unsupported: a newer kernel made it.
    """
    if not is_one:
        raise Corrupt(f"{name}: no superblock", offset=0, reason="lvm-metadata")
    if version not in (1, 2) or block_size != BLOCK or features:
        raise Unsupported(
            f"{name}: made by a newer kernel",
            offset=0,
            expected=f"version 1 or 2, blocks of {BLOCK} bytes, no features",
            found=f"version {version}, blocks of {block_size} bytes, features {features:#x}",
            reason="lvm-metadata-version",
        )


def parse_node(content: bytes, block: int) -> Node:
    """The node in ``block``. Raises Corrupt without a place."""
    _, flags, number, count, room, value_size, _ = _NODE.unpack_from(content)
    if flags not in (_INTERNAL, _LEAF):
        raise Corrupt("a block is no node of a tree", expected="flags 1 or 2", found=flags)
    if number != block:
        raise Corrupt("a node belongs to another place", expected=block, found=number)
    if value_size != 8:
        raise Corrupt("a node has values of another size", expected=8, found=value_size)
    if count > room or _NODE.size + 16 * room > len(content):
        raise Corrupt("a node has too many entries", expected=f"at most {(len(content) - _NODE.size) // 16}", found=count)
    if flags == _INTERNAL and not count:
        raise Corrupt("a node above the leaves has no children")
    keys = _numbers(content, _NODE.size, count)
    if not all(map(lt, keys, keys[1:])):
        raise Corrupt("a node has keys out of order")
    return Node(block, flags == _LEAF, keys, _numbers(content, _NODE.size + 8 * room, count))


def parse_array_block(content: bytes, block: int) -> array[int]:
    """The 64-bit values in a block of an array. Raises Corrupt without a place."""
    _, room, count, value_size, number = _ARRAY.unpack_from(content)
    if number != block:
        raise Corrupt("a block of an array belongs to another place", expected=block, found=number)
    if value_size != 8 or room > VALUES_PER_BLOCK or count > room:
        expected = f"at most {VALUES_PER_BLOCK} values of 8 bytes"
        raise Corrupt("a block of an array has too many values", expected=expected, found=f"{count} of {value_size}")
    return _numbers(content, _ARRAY.size, count)


def _numbers(content: bytes, offset: int, count: int) -> array[int]:
    numbers = array("Q", content[offset : offset + 8 * count])
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def lookup(store: Store, root: int, key: int) -> int | None:
    """The value of ``key`` in the tree at block ``root``, None if it has none. Raises as ``entries``."""
    for found in entries(store, root, key, key + 1):
        return found.leaf.values[found.low]
    return None


def entries(store: Store, root: int, first: int, end: int) -> Iterator[Entries]:
    """The entries with keys in ``first .. end`` of the tree at block ``root``, ascending, leaf by leaf.

    Raises:
        Corrupt: a node on the way is damaged, or the tree is.
        MntapiError: it cannot be read.
    """
    while first < end:
        leaf, limit = _descend(store, root, first)
        low, high = bisect_left(leaf.keys, first), bisect_left(leaf.keys, end)
        if low < high:
            yield Entries(leaf, low, high)
        first = limit


def _descend(store: Store, root: int, key: int) -> tuple[Node, int]:
    """The leaf that has ``key`` if any has, and the first key that is not its business."""
    block, first, end = root, 0, KEYS
    for _ in range(MAX_DEPTH):
        node = store.node(block)
        if node.keys and not first <= node.keys[0] <= node.keys[-1] < end:
            found = f"{node.keys[0]} .. {node.keys[-1]}"
            raise store.corrupt(block, "a node has keys that are not its own", f"from {first}, below {end}", found)
        if node.is_leaf:
            return node, end
        index = max(0, bisect_right(node.keys, key) - 1)
        block, first = node.values[index], node.keys[index]
        end = node.keys[index + 1] if index + 1 < len(node.keys) else end
    raise store.corrupt(block, "a tree is too deep, or loops", f"at most {MAX_DEPTH} levels")


def array_values(store: Store, root: int, count: int) -> Iterator[array[int]]:
    """The first ``count`` values of the array at block ``root``, block by block.

    Raises:
        Corrupt: a block of it is missing or damaged.
        MntapiError: it cannot be read.
    """
    for key, block in _array_blocks(store, root, -(-count // VALUES_PER_BLOCK)):
        values = store.array_block(block)
        expected = min(VALUES_PER_BLOCK, count - key * VALUES_PER_BLOCK)
        if len(values) < expected:
            raise store.corrupt(block, "a block of an array has too few values", expected, len(values))
        yield values[:expected]


def _array_blocks(store: Store, root: int, count: int) -> Iterator[tuple[int, int]]:
    expected = 0
    for found in entries(store, root, 0, count):
        for key, block in found.pairs():
            if key != expected:
                raise store.corrupt(found.leaf.block, "a block of an array is missing", expected, key)
            yield key, block
            expected += 1
    if expected < count:
        raise store.corrupt(root, "an array is too short", f"{count} blocks", expected)
