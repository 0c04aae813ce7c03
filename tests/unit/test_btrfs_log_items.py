"""What a log tree may say, item by item: what is replayed, and what is told because it is more than that."""

from __future__ import annotations

import struct
import time
from bisect import bisect_right
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mntapi.errors import Unsupported
from mntapi.filesystems.btrfs import logtree
from mntapi.filesystems.btrfs.items import Type, name_hash, parse_extent, parse_inode
from mntapi.filesystems.btrfs.logtree import CHECKSUMS, checksum_changes, subvolume_changes
from mntapi.filesystems.btrfs.patched import Changes, Patched
from mntapi.filesystems.btrfs.pointer import HIGHEST, Key, Pointer
from mntapi.filesystems.btrfs.tree import Found, Item, Node, Nodes, Tree

SECTOR = 4096
FILE, FOLDER, NEW = 300, 257, 400
MAX_S = 20
"""For what takes milliseconds, on a machine that is shared."""


class OneLeaf:
    """Nodes of a tree that is one leaf, however many items it has."""

    last: Found | None = None

    def __init__(self, items: dict[Key, bytes]) -> None:
        raw, entries = bytearray(), []
        for key in sorted(items):
            entries.append((*key, len(raw), len(items[key])))
            raw += items[key]
        self._node = Node(0, 0, 1, 5, entries, bytes(101) + bytes(raw))

    def read(self, pointer: Pointer) -> Node:
        return self._node


ROOT = Pointer(0, 0, 1, 5, 0)


def tree_of(items: dict[Key, bytes], changes: Changes | None = None) -> Tree:
    nodes = cast(Nodes, OneLeaf(items))
    return Tree(nodes, ROOT) if changes is None else Patched(nodes, ROOT, changes)


def inode(size: int = 0, stored: int = 0, links: int = 1, mode: int = 0o100644, generation: int = 7) -> bytes:
    return struct.pack("<5Q4I", generation, 8, size, stored, 0, links, 0, 0, mode).ljust(160, b"\0")


def extent(start: int, length: int, at: int = 1 << 20, within: int = 0, room: int = 0, kind: int = 1) -> tuple[int, bytes]:
    head = struct.pack("<QQ2BHB", 7, room or within + length, 0, 0, 0, kind)
    return start, head + struct.pack("<4Q", at, (room or within + length) if at else 0, within, length)


def inline(content: bytes) -> tuple[int, bytes]:
    return 0, struct.pack("<QQ2BHB", 7, len(content), 0, 0, 0, 0) + content


def ref(*names: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("<QH", index, len(name)) + name for index, name in names)


def entry(name: bytes) -> bytes:
    return struct.pack("<QBQQ2HB", FILE, 1, 0, 0, 0, len(name), 1) + name


def base(*extents: tuple[int, bytes], size: int = 0, stored: int = 0) -> dict[Key, bytes]:
    """A folder with a file."""
    return {
        (FOLDER, Type.INODE_ITEM, 0): inode(8, mode=0o40755),
        (FOLDER, Type.DIR_ITEM, name_hash(b"file")): entry(b"file"),
        (FOLDER, Type.DIR_INDEX, 2): entry(b"file"),
        (FILE, Type.INODE_ITEM, 0): inode(size, stored),
        (FILE, Type.INODE_REF, FOLDER): ref((2, b"file")),
        (FILE, Type.XATTR_ITEM, 77): entry(b"old attribute"),
        **{(FILE, int(Type.EXTENT_DATA), start): raw for start, raw in extents},
    }


def logged(items: dict[Key, bytes]) -> list[Item]:
    return [Item(key, items[key], 0) for key in sorted(items)]


def changed(was: dict[Key, bytes], log: dict[Key, bytes]) -> Tree:
    return tree_of(was, subvolume_changes(tree_of(was), logged(log), SECTOR))


def extents_of(tree: Tree, number: int = FILE) -> list[tuple[int, int, int, int]]:
    """(start, length, stored at, within) of each."""
    items = tree.items((number, Type.EXTENT_DATA, 0), (number, Type.EXTENT_DATA, HIGHEST - 1))
    return [(one.start, one.length, one.stored, one.within) for one in (parse_extent(item, SECTOR) for item in items)]


def file_of(tree: Tree, number: int = FILE) -> tuple[int, int]:
    item = tree.get((number, Type.INODE_ITEM, 0))
    assert item is not None
    found = parse_inode(item)
    return found.size, found.stored


# what is replayed


def test_a_hole_in_the_middle_of_an_extent_is_filled() -> None:
    was = base(extent(0, 10 * SECTOR), size=10 * SECTOR, stored=10 * SECTOR)
    start, raw = extent(4 * SECTOR, 2 * SECTOR, at=1 << 30)
    tree = changed(was, {(FILE, 1, 0): inode(10 * SECTOR), (FILE, 108, start): raw})
    assert extents_of(tree) == [
        (0, 4 * SECTOR, 1 << 20, 0),
        (4 * SECTOR, 2 * SECTOR, 1 << 30, 0),
        (6 * SECTOR, 4 * SECTOR, 1 << 20, 6 * SECTOR),
    ]
    assert file_of(tree) == (10 * SECTOR, 10 * SECTOR)


def test_a_file_is_cut_off() -> None:
    was = base(extent(0, 4 * SECTOR), extent(8 * SECTOR, SECTOR, at=1 << 21), size=9 * SECTOR, stored=5 * SECTOR)
    tree = changed(was, {(FILE, 1, 0): inode(SECTOR + 1)})
    assert extents_of(tree) == [(0, 2 * SECTOR, 1 << 20, 0)]
    assert file_of(tree) == (SECTOR + 1, 2 * SECTOR)


def test_a_hole_takes_nothing() -> None:
    was = base(extent(0, 2 * SECTOR), size=2 * SECTOR, stored=2 * SECTOR)
    start, raw = extent(0, SECTOR, at=0)
    tree = changed(was, {(FILE, 1, 0): inode(2 * SECTOR), (FILE, 108, start): raw})
    assert file_of(tree) == (2 * SECTOR, SECTOR)


def test_inline_data_is_replaced() -> None:
    start, raw = inline(b"longer than it was")
    tree = changed(base(inline(b"short"), size=5, stored=5), {(FILE, 1, 0): inode(18), (FILE, 108, start): raw})
    assert file_of(tree) == (18, 18)


def test_attributes_are_those_of_the_log() -> None:
    tree = changed(base(), {(FILE, 1, 0): inode(), (FILE, 24, 5): entry(b"new attribute")})
    keys = [item.key for item in tree.items((FILE, 24, 0), (FILE, 24, HIGHEST - 1))]
    assert keys == [(FILE, 24, 5)]


def test_a_new_file() -> None:
    tree = changed(base(), {(NEW, 1, 0): inode(links=2), (NEW, 12, FOLDER): ref((3, b"new"), (4, b"other"))})
    names = list(tree.items((FOLDER, 96, 0), (FOLDER, 96, HIGHEST - 1)))
    assert [item.key[2] for item in names] == [2, 3, 4]
    assert file_of(tree, FOLDER)[0] == 8 + 2 * 3 + 2 * 5
    assert tree.get((NEW, 12, FOLDER)) is not None


# what is told


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ({(5, 1, 0): inode()}, "an item of no file"),
        ({(FILE, 12, FOLDER): ref((2, b"file"))}, "only said that it is there"),
        ({(FILE, 1, 0): inode(generation=0)}, "only said that it is there"),
        ({(FOLDER, 1, 0): inode(mode=0o40755)}, "a folder"),
        ({(NEW, 1, 0): inode(mode=0o120777)}, "a folder that was synced, or something else"),
        ({(FILE, 1, 0): inode(), (FILE, 13, 5): b"x"}, "items of type 13"),
        ({(FILE, 1, 0): inode(links=2)}, "other names than it had"),
        ({(FILE, 1, 0): inode(), (FILE, 12, FOLDER): ref((2, b"name"))}, "other names than it had"),
        ({(FILE, 1, 0): inode(), (FILE, 12, 999): ref((2, b"file"))}, "other names than it had"),
        ({(NEW, 1, 0): inode()}, "without all its names"),
        ({(NEW, 1, 0): inode(links=0)}, "without all its names"),
        ({(NEW, 1, 0): inode(links=2), (NEW, 12, FOLDER): ref((3, b"new"))}, "without all its names"),
        ({(NEW, 1, 0): inode(), (NEW, 12, FOLDER): ref((2, b"new"))}, "place of its folder that is taken"),
        ({(NEW, 1, 0): inode(links=2), (NEW, 12, FOLDER): ref((3, b"a"), (3, b"b"))}, "place of its folder that is taken"),
        ({(NEW, 1, 0): inode(), (NEW, 12, FOLDER): ref((3, b"file"))}, "a name that is taken"),
        ({(NEW, 1, 0): inode(links=2), (NEW, 12, FOLDER): ref((3, b"a"), (4, b"a"))}, "a name that is taken"),
        ({(NEW, 1, 0): inode(), (NEW, 12, 999): ref((3, b"new"))}, "a folder that is not there"),
        ({(NEW, 1, 0): inode(), (NEW, 12, FILE): ref((3, b"new"))}, "a folder that is not there"),
        ({(NEW, 1, 0): inode(), (NEW, 12, FOLDER): b"\3"}, "cut off"),
        ({(NEW, 1, 0): inode(), (NEW, 12, FOLDER): ref((3, b"new"))[:-1]}, "cut off"),
        ({(NEW, 1, 0): inode(), (NEW, 12, FOLDER): ref((3, b""))}, "cut off"),
        ({(555, 1, 0): inode(), (555, 12, FOLDER): ref((3, b"new"))}, "there in part"),
        ({(FILE, 1, 0): inode(1)}, "less than nothing"),
    ],
)
def test_what_is_not_replayed(log: dict[Key, bytes], message: str) -> None:
    was = {**base(extent(0, SECTOR), extent(SECTOR, SECTOR)), (555, 24, 0): b""}
    with pytest.raises(Unsupported, match=message) as told:
        subvolume_changes(tree_of(was), logged(log), SECTOR)
    assert told.value.reason == "log-tree"


def test_a_part_of_inline_data_is_not_replaced() -> None:
    was = base(inline(bytes(6000)), size=6000, stored=6000)
    start, raw = extent(SECTOR, SECTOR)
    with pytest.raises(Unsupported, match="a part of data that lies in the tree"):
        changed(was, {(FILE, 1, 0): inode(8192), (FILE, 108, start): raw})


def test_too_many_extents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logtree, "MAX_CUT", 3)
    was = base(*(extent(number * SECTOR, SECTOR) for number in range(5)), stored=5 * SECTOR)
    with pytest.raises(Unsupported, match="more than 3 extents"):
        changed(was, {(FILE, 1, 0): inode(0)})


def test_checksums_of_what_has_some() -> None:
    was = tree_of({(CHECKSUMS, 128, 1 << 20): bytes(16)})
    for start, count in (((1 << 20) + 3 * SECTOR, 1), ((1 << 20) - SECTOR, 2)):
        with pytest.raises(Unsupported, match="checksums of what has some"):
            checksum_changes(was, [Item((CHECKSUMS, 128, start), bytes(4 * count), 0)], 4, SECTOR)
    beside = Item((CHECKSUMS, 128, (1 << 20) + 4 * SECTOR), bytes(4), 0)
    assert checksum_changes(was, [beside, Item((FILE, 1, 0), b"", 0)], 4, SECTOR).added == {beside.key: beside}


def test_a_long_log_takes_no_longer_than_it_is() -> None:
    many = 20_000
    was = base(*(extent(number * SECTOR, SECTOR) for number in range(many)), size=many * SECTOR, stored=many * SECTOR)
    log = {(FILE, 108, start): raw for start, raw in (extent(n * SECTOR, SECTOR, at=1 << 40) for n in range(0, many, 2))}
    names = {(NEW + n, 1, 0): inode() for n in range(3000)} | {
        (NEW + n, 12, FOLDER): ref((9 + n, b"%d" % n)) for n in range(3000)
    }
    started = time.monotonic()
    tree = changed(was, {(FILE, 1, 0): inode(many * SECTOR), **log, **names})
    assert len(extents_of(tree)) == many
    assert time.monotonic() - started < MAX_S


# a tree with changes


KEYS = st.tuples(st.integers(1, 3), st.integers(0, 2), st.integers(0, 3))


@settings(max_examples=200, deadline=None)
@given(st.sets(KEYS, min_size=1), st.sets(KEYS), st.sets(KEYS), KEYS, KEYS)
def test_a_patched_tree(was: set[Key], removed: set[Key], added: set[Key], one: Key, other: Key) -> None:
    """It is what a tree with these items would be."""
    changes = Changes(set(removed), {key: Item(key, b"new", 0) for key in added})
    tree = tree_of(dict.fromkeys(was, b"old"), changes)
    wanted = {key: b"new" if key in added else b"old" for key in (was - removed) | added}
    ordered = sorted(wanted)
    first, last = sorted((one, other))
    assert [(item.key, item.raw) for item in tree.items(first, last)] == [
        (key, wanted[key]) for key in ordered if first <= key <= last
    ]
    index = bisect_right(ordered, one)
    floor, got = tree.floor(one), tree.get(one)
    assert (floor and floor.key) == (ordered[index - 1] if index else None)
    assert (got and got.raw) == wanted.get(one)
