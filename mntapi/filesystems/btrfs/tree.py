"""B-trees: verified nodes, and the items of a tree found by key.

What a parent says of a child (level, generation, first key) must be so, and all its keys are below the next pointer's:
so no node can be met twice on a way through a tree, whatever is written there, and a copy that missed a write is not taken for
the newest.

Source: btrfs documentation, "On-disk Format", sections "Header", "Leaf" and "Node"; fs/btrfs/tree-checker.c
``__btrfs_check_leaf``, ``__btrfs_check_node``, ``btrfs_check_eb_owner``; fs/btrfs/disk-io.c ``btrfs_validate_extent_buffer``.
"""

from __future__ import annotations

import operator
import struct
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from mntapi.errors import Corrupt, MntapiError, ReadFailed
from mntapi.filesystems.btrfs.chunks import Chunks
from mntapi.filesystems.btrfs.devices import split
from mntapi.filesystems.btrfs.pointer import HIGHEST, MAX_LEVEL, Key, Pointer
from mntapi.filesystems.btrfs.storage import Storage, Version, most_telling
from mntapi.filesystems.btrfs.superblock import CHECKSUM_ROOM, ROOT_TREE, Superblock
from mntapi.units import MIB

CACHED = 6 * MIB
"""Bytes of nodes that are kept; unpacked they take up to five times as much."""
MAX_BAD_NODES = 256
"""Damaged nodes that one walk through a tree goes around before it gives up."""
FIRST_FREE, LAST_FREE = 256, (1 << 64) - 256
"""Objects between them, ends included, are of the users' making: subvolumes, inodes."""
TOP_LEVEL = 5
"""The tree of the top-level subvolume."""
_HEADER = struct.Struct("<32x 16s Q 24x 2Q I B")
_ITEM = struct.Struct("<QBQ2I")
_POINTER = struct.Struct("<QBQ2Q")


class Item(NamedTuple):
    """An item of a leaf. ``at`` is the byte of its contents on the volume, for errors."""

    key: Key
    raw: bytes
    at: int


@dataclass(frozen=True, slots=True)
class Node:
    """A node whose checksum was right. ``entries`` begin with a key: in a leaf (object, type, offset, place, size), above
    that (object, type, offset, logical address, generation). ``at`` is its byte on the volume."""

    at: int
    level: int
    generation: int
    owner: int
    entries: list[tuple[int, int, int, int, int]]
    raw: bytes

    def item(self, index: int) -> Item:
        """An item of a leaf."""
        number, kind, offset, place, size = self.entries[index]
        start = _HEADER.size + place
        return Item((number, kind, offset), self.raw[start : start + size], self.at + start)


class Found(NamedTuple):
    """The leaf where a key of a tree was looked for: all of the tree's items from key ``first`` to before ``limit``."""

    root: Pointer
    leaf: Node
    first: Key
    limit: Key


def parse_node(raw: bytes, at: int, superblock: Superblock, logical: int) -> Node:
    """A node from its bytes, which lie at byte ``at`` of the volume and at this logical address.

    Raises:
        Corrupt: its checksum is wrong, it belongs elsewhere, its keys are out of order, or items lie outside of it.
    """
    checksum = superblock.checksum
    wanted, found = raw[: checksum.size], checksum.of(raw[CHECKSUM_ROOM:])
    if wanted != found:
        raise Corrupt(
            "the checksum of a tree node is wrong", offset=at, expected=wanted.hex(), found=found.hex(), reason="checksum"
        )
    uuid, own, generation, owner, count, level = _HEADER.unpack_from(raw)
    if own != logical:
        raise Corrupt("a tree node that belongs elsewhere", offset=at + 48, expected=logical, found=own)
    if uuid != superblock.node_uuid:
        raise Corrupt(
            "a tree node of another file system", offset=at + 32, expected=superblock.node_uuid.hex(), found=uuid.hex()
        )
    form = _POINTER if level else _ITEM
    room = (len(raw) - _HEADER.size) // form.size
    if level > MAX_LEVEL or count > room or (level and not count):
        raise Corrupt(
            "a tree node of impossible height or length",
            offset=at + 96,
            expected=f"at most {room}",
            found=f"{count} at {level}",
        )
    body = memoryview(raw)[_HEADER.size : _HEADER.size + count * form.size]
    entries: list[tuple[int, int, int, int, int]] = list(form.iter_unpack(body))
    if not all(map(operator.lt, entries, islice(entries, 1, None))) or not (level or _fits(entries, len(raw))):
        raise Corrupt("the keys of a tree node are out of order, or its items overlap", offset=at)
    return Node(at, level, generation, owner, entries, raw)


def _fits(entries: list[tuple[int, int, int, int, int]], size: int) -> bool:
    """Whether the contents of a leaf's items lie one before the other, gapless from its end on, and behind the items."""
    ends = [place + length for _, _, _, place, length in entries]
    starts = [entry[3] for entry in entries]
    if not entries:
        return True
    return ends == [size - _HEADER.size, *starts[:-1]] and starts[-1] >= len(entries) * _ITEM.size


def is_of_users(tree: int) -> bool:
    """Whether the tree is that of a subvolume. Those share nodes: a node may have any of them for owner."""
    return tree == TOP_LEVEL or FIRST_FREE <= tree <= LAST_FREE


class Nodes:
    """Reads nodes: the first version that is what it must be. Keeps those used last. Thread-safe; borrows the storage."""

    def __init__(self, storage: Storage, superblock: Superblock, chunks: Chunks) -> None:
        self._storage = storage
        self._superblock = superblock
        self._chunks = chunks
        self._most = CACHED // superblock.node_size
        self.last: Found | None = None
        """What the last search came to: who walks through a folder asks for neighbours."""
        self._nodes: OrderedDict[int, Node] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, pointer: Pointer) -> Node:
        """The node there.

        Raises:
            Corrupt, ReadFailed: no version is readable and what it must be; says what is wrong with the first, or which
                device is missing.
        """
        with self._lock:
            node = self._nodes.get(pointer.logical)
            if node is not None:
                self._nodes.move_to_end(pointer.logical)
        if node is not None and _difference(node, pointer) is None:
            return node
        node = self._from_versions(pointer)
        with self._lock:
            self._nodes[pointer.logical] = node
            while len(self._nodes) > self._most:
                self._nodes.popitem(last=False)
        return node

    def _from_versions(self, pointer: Pointer) -> Node:
        size = self._superblock.node_size
        chunk = self._chunks.find(pointer.logical, pointer.at)
        if pointer.logical + size > chunk.end:
            raise Corrupt(
                "a tree node goes past the end of its chunk", offset=pointer.at, expected=chunk.end, reason="no-chunk"
            )
        failures: list[MntapiError] = []
        versions = self._storage.versions(chunk, pointer.logical, size)
        for version in versions:
            try:
                node = self._verified(pointer, version)
            except (Corrupt, ReadFailed) as error:
                failures.append(error)
                continue
            if pointer.owner == ROOT_TREE and node.generation == self._superblock.generation:
                self._check_agreement(pointer, node, version, versions)
            return node
        raise most_telling(failures)

    def _check_agreement(self, pointer: Pointer, node: Node, version: Version, others: Iterator[Version]) -> None:
        """Raise Corrupt if another device has something else there that is as right.

        Each half of a mirror that was mounted alone goes on counting from the same generation, and often writes to the same
        places: together they would be a file system that never was. The root tree changes with every commit, and has times.
        """
        for other in others:
            if version.device is None or other.device in (None, version.device):
                continue
            try:
                same = self._verified(pointer, other).raw == node.raw
            except (Corrupt, ReadFailed):
                continue  # a damaged copy is no other history
            if not same:
                raise split(other.at, node.at)

    def _verified(self, pointer: Pointer, version: Version) -> Node:
        raw, at = bytearray(self._superblock.node_size), version.at
        version.readinto(memoryview(raw))
        node = parse_node(bytes(raw), at, self._superblock, pointer.logical)
        difference = _difference(node, pointer)
        if difference is not None:
            what, expected, found = difference
            raise Corrupt(f"a tree node with the wrong {what}", offset=at, expected=expected, found=found)
        return node

    def clear(self) -> None:
        """Forget all nodes."""
        self.last = None
        with self._lock:
            self._nodes.clear()


def _difference(node: Node, pointer: Pointer) -> tuple[str, object, object] | None:
    """What a node is not that it must be: (what, expected, found)."""
    if node.level != pointer.level:
        return "level", pointer.level, node.level
    if node.generation != pointer.generation:
        return "generation", pointer.generation, node.generation
    if node.owner != pointer.owner and not (is_of_users(node.owner) and is_of_users(pointer.owner)):
        return "owner", pointer.owner, node.owner
    first = node.entries[0][:3] if node.entries else None
    if pointer.first is not None and first != pointer.first:
        return "first key", pointer.first, first
    if node.entries and node.entries[-1] >= pointer.limit:
        return "last key", f"less than {pointer.limit}", node.entries[-1][:3]
    return None


class Tree:
    """One tree. Thread-safe."""

    def __init__(self, nodes: Nodes, root: Pointer) -> None:
        self._nodes = nodes
        self._root = root

    def floor(self, key: Key) -> Item | None:
        """The last item whose key is not above ``key``; None if all are. Raises as ``Nodes.read``."""
        last = self._nodes.last
        if last is None or last.root is not self._root or not last.first <= key < last.limit:
            last = self._leaf(key)
            self._nodes.last = last
        index = bisect_right(last.leaf.entries, (*key, HIGHEST)) - 1
        return last.leaf.item(index) if index >= 0 else None

    def _leaf(self, key: Key) -> Found:
        """The leaf that has the key or would have it, unless the key lies before all there are."""
        pointer = self._root
        node = self._nodes.read(pointer)
        while node.level:
            index = max(0, bisect_right(node.entries, (*key, HIGHEST)) - 1)
            pointer = self._child(node, index, pointer.limit)
            node = self._nodes.read(pointer)
        first = node.entries[0][:3] if node.entries else pointer.limit
        return Found(self._root, node, first, pointer.limit)

    def get(self, key: Key) -> Item | None:
        """The item with this key. Raises as ``Nodes.read``."""
        item = self.floor(key)
        return item if item is not None and item.key == key else None

    def items(self, first: Key, last: Key, damage: list[MntapiError] | None = None) -> Iterator[Item]:
        """The items with keys from ``first`` to ``last``, both included.

        Args:
            first, last: keys.
            damage: where to put what is wrong with nodes that are left out; None: the first that is damaged raises.

        Raises:
            Corrupt, ReadFailed: as ``Nodes.read``; with ``damage`` too if more than ``MAX_BAD_NODES`` nodes are damaged.
        """
        for leaf in self._leaves(self._root, first, last, damage):
            start = bisect_right(leaf.entries, first)
            for index in range(start, bisect_right(leaf.entries, (*last, HIGHEST))):
                yield leaf.item(index)

    def _leaves(self, pointer: Pointer, first: Key, last: Key, damage: list[MntapiError] | None) -> Iterator[Node]:
        try:
            node = self._nodes.read(pointer)
        except (Corrupt, ReadFailed) as error:
            if damage is None or len(damage) >= MAX_BAD_NODES:
                raise
            damage.append(error)
            return
        if not node.level:
            yield node
            return
        start = max(0, bisect_right(node.entries, (*first, HIGHEST)) - 1)
        for index in range(start, bisect_right(node.entries, (*last, HIGHEST))):
            yield from self._leaves(self._child(node, index, pointer.limit), first, last, damage)

    def _child(self, node: Node, index: int, limit: Key) -> Pointer:
        entries = node.entries
        number, kind, offset, logical, generation = entries[index]
        if index + 1 < len(entries):
            limit = entries[index + 1][:3]
        at = node.at + _HEADER.size + index * _POINTER.size
        return Pointer(logical, node.level - 1, generation, self._root.owner, at, (number, kind, offset), limit)
