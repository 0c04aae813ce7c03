"""The log tree: files that were synced since the last commit, replayed in memory.

``fsync`` does not wait for a commit of all trees: it writes the items of the one file into a log tree, one for each subvolume,
and where the data is that they name, and points the superblock to those. A mount replays them.

Here they are replayed, or told, as a whole. What is replayed is what is put down in the items themselves: regular files that
were there and kept their names, and new ones whose names are free in folders that were there: size, times, attributes, extents,
checksums. What needs decisions of the kernel's is told: folders that were synced, names that went away or changed, files
without names. One thing is not as after a mount: the folder of a new file keeps its times, where the kernel takes those of
the replay.

Source: fs/btrfs/tree-log.c ``btrfs_recover_log_trees``, ``replay_one_buffer``, ``overwrite_item``, ``replay_one_extent``,
``add_inode_ref``, ``replay_xattr_deletes``; fs/btrfs/file.c ``btrfs_drop_extents``. Compared with what the kernel's mount made
of the same images.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

from mntapi.errors import Unsupported
from mntapi.filesystems.btrfs.items import (
    FileExtent,
    Stored,
    Type,
    name_hash,
    parse_extent,
    parse_inode,
    parse_names,
    parse_root,
)
from mntapi.filesystems.btrfs.patched import Changes
from mntapi.filesystems.btrfs.pointer import HIGHEST, Key, Pointer
from mntapi.filesystems.btrfs.superblock import LOG
from mntapi.filesystems.btrfs.tree import FIRST_FREE, LAST_FREE, Item, Nodes, Tree
from mntapi.types import FileKind
from mntapi.units import align_up

CHECKSUMS = HIGHEST - 10
"""The object of all checksums."""
MAX_ITEMS = 1 << 16
"""Items of all log trees together; a log is begun anew with every commit, half a minute at most."""
MAX_CUT = 1 << 16
"""Extents of a file that are cut or replaced."""
_END = 1 << 63
_REF = struct.Struct("<QH")
_NAME = struct.Struct("<QBQQ2HB")
_REGULAR = 1
"""The kind of a regular file beside its name."""
_SIZE_AT, _STORED_AT, _WITHIN_AT = 16, 24, 37
_U64 = struct.Struct("<Q")
_PART = struct.Struct("<2Q")


class _Cut(NamedTuple):
    """A range of a file whose extents go."""

    start: int
    end: int


def read_logs(nodes: Nodes, root: Pointer) -> dict[int, list[Item]]:
    """The items of all log trees, by the id of their subvolume.

    Raises:
        Unsupported: there are too many.
        Corrupt, ReadFailed: a log tree is damaged.
    """
    logs: dict[int, list[Item]] = {}
    left = MAX_ITEMS
    for record in Tree(nodes, root).items((LOG, Type.ROOT_ITEM, 0), (LOG, Type.ROOT_ITEM, HIGHEST - 1)):
        log = Tree(nodes, parse_root(record).pointer).items((0, 0, 0), (HIGHEST - 1, 255, HIGHEST - 1))
        logs[record.key[2]] = list(islice(log, left + 1))
        left -= len(logs[record.key[2]])
        if left < 0:
            raise _beyond(f"more than {MAX_ITEMS} items", record)
    return logs


def subvolume_changes(tree: Tree, log: Sequence[Item], sector_size: int) -> Changes:
    """What the log of a subvolume changes in its tree.

    Args:
        tree: the subvolume's.
        log: all items of its log, in order; checksums are passed over.
        sector_size: bytes.

    Raises:
        Unsupported: it has more than what is replayed here; says what.
        Corrupt, ReadFailed: it or the tree is damaged.
    """
    changes, names = Changes(), set[tuple[int, bytes]]()
    by_inode: dict[int, list[Item]] = {}
    for item in log:
        if item.key[:2] == (CHECKSUMS, Type.EXTENT_CSUM):
            continue
        if not FIRST_FREE <= item.key[0] <= LAST_FREE:
            raise _beyond("an item of no file", item)
        by_inode.setdefault(item.key[0], []).append(item)
    for items in by_inode.values():
        _File(tree, items, sector_size, changes, names).replay()
    return changes


def checksum_changes(tree: Tree, log: Sequence[Item], checksum_size: int, sector_size: int) -> Changes:
    """What checksums in logs add to the tree of them. Raises as ``subvolume_changes``."""
    changes = Changes()
    for item in (item for item in log if item.key[:2] == (CHECKSUMS, Type.EXTENT_CSUM)):
        start = item.key[2]
        end = start + len(item.raw) // checksum_size * sector_size
        before = tree.floor((*item.key[:2], end - 1))
        covered = 0 if before is None or before.key[:2] != item.key[:2] else len(before.raw) // checksum_size * sector_size
        if covered and before is not None and before.key[2] + covered > start:
            raise _beyond("checksums of what has some", item)
        changes.added[item.key] = item
    return changes


class _File:
    """The items of one inode in a log. ``names``: those that logs have put into folders before."""

    def __init__(
        self, tree: Tree, items: Sequence[Item], sector_size: int, changes: Changes, names: set[tuple[int, bytes]]
    ) -> None:
        self._tree = tree
        self._items = items
        self._sector_size = sector_size
        self._changes = changes
        self._names = names

    def replay(self) -> None:
        first = self._items[0]
        number = first.key[0]
        if first.key[1] != Type.INODE_ITEM or not first.raw[:8].strip(b"\0"):
            raise _beyond("a file of which it is only said that it is there", first)
        if parse_inode(first).kind is not FileKind.FILE:
            raise _beyond("a folder that was synced, or something else that is no file", first)
        was = self._tree.get(first.key)
        if was is None and any(True for _ in self._tree.items((number, 0, 0), (number, 255, HIGHEST - 1))):
            raise _beyond("a file that is there in part", first)
        names = 0
        extents: list[Item] = []
        for item in self._items[1:]:
            if item.key[1] == Type.INODE_REF:
                names += self._place(item, is_new=was is None)
            elif item.key[1] == Type.XATTR_ITEM:
                self._changes.added[item.key] = item
            elif item.key[1] == Type.EXTENT_DATA:
                extents.append(item)
            else:
                raise _beyond(f"items of type {item.key[1]}", item)
        if was is None and (not names or names != parse_inode(first).links):
            raise _beyond("a new file without all its names", first)
        if was is not None and parse_inode(was).links != parse_inode(first).links:
            raise _beyond("a file with other names than it had", first)
        self._drop_attributes(number)
        self._replace_extents(first, was, extents)

    def _place(self, item: Item, *, is_new: bool) -> int:
        """Put the names of a back reference into their folder; how many there are. Of a file that was there they must be."""
        if not is_new:
            was = self._tree.get(item.key)
            if was is None or was.raw != item.raw:
                raise _beyond("a file with other names than it had", item)
            return 0
        number, _, folder = item.key
        count = 0
        for index, name in _names(item):
            self._check_free(item, folder, index, name)
            raw = _NAME.pack(number, Type.INODE_ITEM, 0, 0, 0, len(name), _REGULAR) + name
            key = (folder, int(Type.DIR_INDEX), index)
            self._changes.added[key] = Item(key, raw, item.at)
            self._grow(folder, 2 * len(name), item)
            count += 1
        self._changes.added[item.key] = item
        return count

    def _check_free(self, item: Item, folder: int, index: int, name: bytes) -> None:
        key = (folder, int(Type.DIR_INDEX), index)
        if self._tree.get(key) is not None or key in self._changes.added:
            raise _beyond("a name in a place of its folder that is taken", item)
        same_hash = self._tree.get((folder, Type.DIR_ITEM, name_hash(name)))
        taken = [one.name for one in parse_names(same_hash)] if same_hash is not None else []
        if name in taken or (folder, name) in self._names:
            raise _beyond("a name that is taken", item)
        self._names.add((folder, name))

    def _grow(self, folder: int, length: int, item: Item) -> None:
        """The size of a folder is twice the length of its names."""
        key = (folder, int(Type.INODE_ITEM), 0)
        inode = self._changes.added.get(key) or self._tree.get(key)
        if inode is None or parse_inode(inode).kind is not FileKind.DIRECTORY:
            raise _beyond("a new file in a folder that is not there", item)
        self._changes.added[key] = _changed(inode, _SIZE_AT, _U64.pack(parse_inode(inode).size + length))

    def _drop_attributes(self, number: int) -> None:
        """A log has all attributes of a file; those it has not are gone."""
        for item in self._tree.items((number, Type.XATTR_ITEM, 0), (number, Type.XATTR_ITEM, HIGHEST - 1)):
            self._changes.removed.add(item.key)

    def _replace_extents(self, inode: Item, was: Item | None, logged: Sequence[Item]) -> None:
        """Cut away what lies behind the new end and where extents were logged, then put those in."""
        parsed = parse_inode(inode)
        new = [parse_extent(item, self._sector_size) for item in logged]
        ends = [(extent.start, align_up(extent.end, self._sector_size)) for extent in new]
        cuts = _joined([*ends, (align_up(parsed.size, self._sector_size), _END)])
        stored = parse_inode(was).stored if was is not None else 0
        for item in self._overlapping(inode.key[0], cuts):
            old = parse_extent(item, self._sector_size)
            self._changes.removed.add(item.key)
            stored -= _stored(old)
            for start, end in _left(old, cuts, self._sector_size):
                part = _part(item, old, start, end)
                self._changes.added[part.key] = part
                stored += _stored(parse_extent(part, self._sector_size))
        for item, extent in zip(logged, new, strict=True):
            self._changes.added[item.key] = item
            stored += _stored(extent)
        if stored < 0:
            raise _beyond("a file that takes less than nothing", inode)
        self._changes.added[inode.key] = _changed(inode, _STORED_AT, _U64.pack(stored))

    def _overlapping(self, number: int, cuts: Sequence[_Cut]) -> list[Item]:
        """The extents there were that any cut touches."""
        found: dict[Key, Item] = {}
        for start, end in cuts:
            before = self._tree.floor((number, Type.EXTENT_DATA, start))
            first = before.key[2] if before is not None and before.key[:2] == (number, Type.EXTENT_DATA) else start
            for item in self._tree.items((number, Type.EXTENT_DATA, first), (number, Type.EXTENT_DATA, end - 1)):
                if align_up(parse_extent(item, self._sector_size).end, self._sector_size) > start:
                    found[item.key] = item
                if len(found) > MAX_CUT:
                    raise _beyond(f"changes of more than {MAX_CUT} extents of a file", item)
        return [found[key] for key in sorted(found)]


def _names(item: Item) -> Iterator[tuple[int, bytes]]:
    """The names in a back reference, and their indexes in the folder. What is cut off is not replayed."""
    at = 0
    while at < len(item.raw):
        if at + _REF.size > len(item.raw):
            raise _beyond("a back reference that is cut off", item)
        index, length = _REF.unpack_from(item.raw, at)
        at += _REF.size + length
        if not length or at > len(item.raw):
            raise _beyond("a back reference that is cut off", item)
        yield index, item.raw[at - length : at]


def _joined(ranges: Sequence[tuple[int, int]]) -> list[_Cut]:
    """The ranges in order, those that overlap joined."""
    cuts: list[_Cut] = []
    for start, end in sorted(ranges):
        if cuts and start <= cuts[-1].end:
            cuts[-1] = _Cut(cuts[-1].start, max(end, cuts[-1].end))
        else:
            cuts.append(_Cut(start, end))
    return cuts


def _left(extent: FileExtent, cuts: Sequence[_Cut], sector_size: int) -> Iterator[tuple[int, int]]:
    """What the cuts, which are in order, leave of an extent, as ranges of the file."""
    start, end = extent.start, align_up(extent.end, sector_size)
    for cut in cuts[bisect_right(cuts, start, key=attrgetter("end")) :]:
        if cut.start >= end:
            break
        if cut.start > start:
            yield start, cut.start
        start = max(start, cut.end)
    if start < end:
        yield start, end


def _part(item: Item, extent: FileExtent, start: int, end: int) -> Item:
    """A part of an extent as an item of its own. Inline data has no parts."""
    if extent.kind == Stored.INLINE:
        raise _beyond("changes of a part of data that lies in the tree", item)
    key = (item.key[0], item.key[1], start)
    within = extent.within + start - extent.start if extent.stored else 0
    return _changed(item._replace(key=key), _WITHIN_AT, _PART.pack(within, end - start))


def _stored(extent: FileExtent) -> int:
    """Bytes that count as stored: none for a hole; of what is prepared and was not written, all."""
    return extent.length if extent.kind == Stored.INLINE or extent.stored else 0


def _changed(item: Item, at: int, new: bytes) -> Item:
    return item._replace(raw=item.raw[:at] + new + item.raw[at + len(new) :])


def _beyond(what: str, item: Item) -> Unsupported:
    return Unsupported(f"it has {what}", offset=item.at, reason="log-tree")
