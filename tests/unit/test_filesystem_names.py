"""Names and runs: what every reader shares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contract.blocks_contract import check_blocks
from mntapi.blocks import Zero, read
from mntapi.errors import Corrupt, NotADirectory, NotFound, ReadFailed, Unsupported
from mntapi.filesystems import runs
from mntapi.filesystems.names import Folders, Listed, presentable
from mntapi.filesystems.runs import MAX_OFFSET, Memory, RunBlocks, RunList
from mntapi.types import Extent, ExtentKind, FileKind, Node

ROOT = Node(1, FileKind.DIRECTORY, 0)


def test_names_that_no_path_can_hold_are_replaced() -> None:
    assert presentable(b"plain \xff") == "plain \udcff"
    assert presentable(b"../../etc/passwd") == "..\u2215..\u2215etc\u2215passwd"
    assert presentable(b"a\0b") == "a\u2400b"
    assert presentable(b"") == "\ufffd"


class Tree:
    """Folders out of a dict: inode -> names; an exception in the list is raised there."""

    def __init__(self, **names: object) -> None:
        self.names = {"1": names}
        self.listed = 0

    def listing(self, directory: Node) -> Iterator[Listed]:
        self.listed += 1
        for name, inode in self.names[str(directory.inode)].items():
            if isinstance(inode, Exception):
                raise inode
            yield Listed(name, int(str(inode)))

    def node(self, inode: int) -> Node:
        if inode == 13:
            raise Corrupt("bad inode")
        if inode == 14:
            raise ReadFailed("bad sector")
        return Node(inode, FileKind.FILE, inode)


def test_bad_inodes_are_listed_with_a_reason_in_scan_and_lookup() -> None:
    tree = Tree(good=10, broken=13, lost=14)
    folders = Folders(tree.listing, tree.node)
    found = dict(folders.scan(ROOT))
    assert [found[name].reason for name in ("good", "broken", "lost")] == [None, "damaged", "unreadable"]
    for name, node in found.items():
        assert folders.lookup(ROOT, name) == node


def test_lookup_in_a_folder_that_breaks_off() -> None:
    tree = Tree(first=10, rest=Corrupt("no more", offset=512))
    folders = Folders(tree.listing, tree.node)
    assert folders.lookup(ROOT, "first").inode == 10
    with pytest.raises(Corrupt, match="no more"):
        folders.lookup(ROOT, "second")
    with pytest.raises(NotADirectory):
        folders.lookup(Node(5, FileKind.FILE, 0), "x")


def test_least_recently_used_folders_are_forgotten() -> None:
    tree = Tree()
    tree.names = {str(number): {f"{number}-{index}": 10 for index in range(4)} for number in range(1, 6)}
    folders = Folders(tree.listing, tree.node, limit=10)
    for number in (1, 2, 1, 3, 1, 4, 5):
        folders.lookup(Node(number, FileKind.DIRECTORY, 0), f"{number}-0")
        assert folders._held <= 11
    assert 1 <= len(folders._folders) <= 2
    before = tree.listed
    folders.lookup(Node(5, FileKind.DIRECTORY, 0), "5-3")
    assert tree.listed == before
    folders.clear()
    assert folders._held == 0


def test_case_folds_only_where_it_is_unambiguous() -> None:
    tree = Tree(One=10, Two=11, two=12)
    for limit in (100, 2):
        folders = Folders(tree.listing, tree.node, fold=str.upper, limit=limit)
        assert folders.lookup(ROOT, "ONE").inode == 10
        assert folders.lookup(ROOT, "two").inode == 12
        with pytest.raises(NotFound):
            folders.lookup(ROOT, "TWO")


def test_runs_are_joined_and_read() -> None:
    volume = Memory(bytes(range(256)) * 16)
    listed = RunList()
    for length, source in ((512, 1024), (512, 1536), (100, None), (412, None), (512, 0), (0, 7)):
        listed.add(length, source)
    assert len(listed) == 3
    expected = volume._content[1024:2048] + bytes(512) + volume._content[:512]
    check_blocks(RunBlocks(volume, listed, 2000), expected[:2000])
    check_blocks(RunBlocks(volume, listed, 2000, valid=700), expected[:700] + bytes(1300))
    kinds = [extent.kind for extent in RunBlocks(volume, listed, 2048).extents(0, 2048)]
    assert kinds == [ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.DATA]


def test_memory_keeps_the_contract() -> None:
    check_blocks(Memory(b"some bytes" * 100), b"some bytes" * 100)
    check_blocks(Memory(b""), b"")


def test_a_run_outside_the_volume_costs_only_itself() -> None:
    listed = RunList()
    listed.add(512, 0)
    listed.add(512, 1 << 40)
    content = RunBlocks(Zero(4096), listed, 1024)
    assert read(content, 0, 512) == bytes(512)
    with pytest.raises(Corrupt, match="outside the volume"):
        read(content, 500, 100)


def test_runs_must_reach_the_end_and_stay_possible() -> None:
    listed = RunList()
    listed.add(512, 0)
    with pytest.raises(Corrupt, match="end before"):
        RunBlocks(Zero(4096), listed, 513)
    for length, source in ((1, MAX_OFFSET), (MAX_OFFSET, None)):
        with pytest.raises(Corrupt, match="impossible place"):
            listed.add(length, source)
    listed.pad(600)
    assert list(RunBlocks(Zero(4096), listed, 600).extents(0, 600))[1] == Extent(512, 88, ExtentKind.ZERO)


def test_runs_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_RUNS", 3)
    listed = RunList()
    for index in range(3):
        listed.add(1, index * 10)
    with pytest.raises(Unsupported, match="too many pieces") as raised:
        listed.add(1, 99)
    assert raised.value.reason == "too-many-runs"
