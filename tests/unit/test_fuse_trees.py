"""``TreeFs`` and ``BlockFs``: node numbers, names, and what they make of a tree."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping

import pytest

from contract.memory_filesystem import Memory, MemoryFileSystem
from mntapi.blocks import Concat, Fault, Zero, read
from mntapi.errors import Corrupt, Invalid, IsADirectory, MntapiError, NotADirectory, NotFound, ReadFailed, Unsupported
from mntapi.filesystems.names import DAMAGED, UNREADABLE
from mntapi.types import Blocks, Entry, Extent, ExtentKind, FileKind, Node
from mntapi_fuse import blockfs, failures, treefs
from mntapi_fuse.blockfs import BlockFs
from mntapi_fuse.operations import ROOT, NoAttribute
from mntapi_fuse.treefs import TreeFs


class Shown(MemoryFileSystem):
    """One folder with the entries given."""

    def __init__(self, *entries: Entry) -> None:
        super().__init__({})
        self._entries = entries

    def scan(self, directory: Node) -> Iterator[Entry]:
        yield from self._entries

    def node(self, inode: int) -> Node:
        return next(entry.node for entry in self._entries if entry.node.inode == inode)


def test_numbers_come_from_inodes_and_lead_back() -> None:
    filesystem = MemoryFileSystem({"a": b"1", "folder": {"b": b"22"}})
    tree, other = TreeFs(filesystem), TreeFs(filesystem)
    folder = tree.lookup(ROOT, b"folder")
    inner = tree.lookup(folder.number, b"b")
    assert inner.number == inner.node.inode + 2
    assert other.getattr(inner.number) == inner  # one that never looked it up
    assert read(other.open(inner.number), 0, 2) == b"22"
    assert tree.getattr(ROOT).node == filesystem.root
    with pytest.raises(NotFound):
        other.getattr(12345)


def test_inode_zero_has_a_number_and_shows_another() -> None:
    tree = TreeFs(Shown(Entry("$MFT", Node(0, FileKind.FILE, 5))))
    (entry,) = tree.readdir(ROOT)
    assert entry.attributes.number == 2 and entry.attributes.node.inode == (1 << 32) - 1
    assert tree.getattr(2).node.size == 5


def test_an_entry_that_is_the_root_is_the_root() -> None:
    filesystem = Shown(Entry("loop", MemoryFileSystem({}).root))
    assert next(TreeFs(filesystem).readdir(ROOT)).attributes.number == ROOT


@pytest.mark.parametrize("inode", [-3, (1 << 63) - 2, 1 << 70])
def test_an_inode_number_no_kernel_has(inode: int) -> None:
    with pytest.raises(Corrupt) as raised:
        list(TreeFs(Shown(Entry("x", Node(inode, FileKind.FILE, 1)))).readdir(ROOT))
    assert raised.value.found == inode


def test_a_stand_in_does_not_speak_for_its_inode() -> None:
    healthy = Node(9, FileKind.FILE, 1000)
    bad = Node(9, FileKind.FILE, 0, mode=0, links=0, reason=UNREADABLE)
    folder = Node(9, FileKind.DIRECTORY, 0, mode=0, links=0, reason=DAMAGED)
    tree = TreeFs(Shown(Entry("good", healthy), Entry("bad", bad), Entry("gone", folder)))
    numbers = [entry.attributes.number for entry in tree.readdir(ROOT)]
    assert len(set(numbers)) == 3 and numbers[0] == 11
    later = TreeFs(Shown(Entry("good", healthy)))
    assert [later.getattr(number).node.size for number in numbers] == [1000, 0, 0]
    assert later.getattr(numbers[2]).node == folder._replace(links=1)
    assert later.getxattr(numbers[1], b"user.mntapi.reason") == b"unreadable"
    assert later.listxattr(numbers[0]) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain", b"plain"),
        ("\udce9t\udce9", b"\xe9t\xe9"),
        ("x" * 1024, b"x" * 1024),
        ("x" * 1025, b"x" * 900 + b"~inode9"),
        ("\u20ac" * 400, "\u20ac".encode() * 300 + b"~inode9"),
        ("a/b", "a\u2215b~inode9".encode()),
        ("a\0b", "a\u2400b~inode9".encode()),
        ("", b"~inode9"),
        (".", b".~inode9"),
        ("..", b"..~inode9"),
        ("...", b"..."),
        (".hidden", b".hidden"),
        ("new\nline", b"new\nline"),
        ("half\ud800", b"half?~inode9"),
    ],
)
def test_names(name: str, shown: bytes) -> None:
    class Found(Shown):
        def lookup(self, directory: Node, wanted: str) -> Node:
            if wanted != name:
                raise NotFound("no such file")
            return self._entries[0].node

    tree = TreeFs(Found(Entry(name, Node(9, FileKind.FILE, 1))))
    assert [entry.name for entry in tree.readdir(ROOT)] == [shown]
    assert tree.lookup(ROOT, shown).node.inode == 9
    for absent in (b"absent", b"absent~inode9"):
        with pytest.raises(NotFound):
            tree.lookup(ROOT, absent)


@pytest.mark.parametrize("target", ["", "a\0b", "x" * 4096])
def test_a_target_no_link_can_have(target: str) -> None:
    tree = TreeFs(MemoryFileSystem({"link": target}))
    with pytest.raises(Corrupt) as raised:
        tree.readlink(tree.lookup(ROOT, b"link").number)
    assert raised.value.reason == "bad-link"


def test_reasons_are_attributes() -> None:
    class Extended(MemoryFileSystem):
        def xattrs(self, node: Node) -> Mapping[str, bytes]:
            return {"user.a": b"1"}

    tree = TreeFs(Extended({"plain": b"", "secret": b"x"}, metadata={"secret": {"reason": "efs"}}))
    plain, secret = (tree.lookup(ROOT, name).number for name in (b"plain", b"secret"))
    assert tree.listxattr(plain) == [b"user.a"]
    assert tree.listxattr(secret) == [b"user.a", b"user.mntapi.reason"]
    assert (tree.getxattr(secret, b"user.mntapi.reason"), tree.getxattr(plain, b"user.a")) == (b"efs", b"1")
    with pytest.raises(NoAttribute) as raised:
        tree.getxattr(plain, b"user.mntapi.reason")
    assert raised.value.errno == errno.ENODATA
    with pytest.raises(MntapiError):
        tree.open(secret)


def test_attributes_are_read_once_for_those_who_want_several() -> None:
    asked: list[int] = []

    class Counting(MemoryFileSystem):
        def xattrs(self, node: Node) -> Mapping[str, bytes]:
            asked.append(node.inode)
            if len(asked) == 1:
                raise ReadFailed("a bad sector")
            return {"user.a": b"1", "security.selinux": b"label"} if len(asked) == 2 else {}

    tree = TreeFs(Counting({"a": b"", "b": b""}))
    first, second = (entry.attributes.number for entry in tree.readdir(ROOT))
    with pytest.raises(ReadFailed):
        tree.getxattr(first, b"user.a")
    assert tree.getxattr(first, b"user.a") == b"1"
    assert tree.getxattr(first, b"security.selinux") == b"label"
    assert tree.listxattr(first) == [b"user.a", b"security.selinux"]
    assert tree.listxattr(second) == []
    with pytest.raises(NoAttribute):
        tree.getxattr(second, b"security.selinux")
    assert asked == [first - 2, first - 2, second - 2]


def test_a_guest_does_not_speak_for_us() -> None:
    class Forged(MemoryFileSystem):
        def xattrs(self, node: Node) -> Mapping[str, bytes]:
            return {"user.mntapi.reason": b"all is well", "user.mntapi.original": b"x", "user.mntapied": b"1"}

    tree = TreeFs(Forged({"plain": b"", "secret": b"x"}, metadata={"secret": {"reason": "efs"}}))
    plain, secret = (tree.lookup(ROOT, name).number for name in (b"plain", b"secret"))
    assert tree.listxattr(plain) == [b"user.mntapied"]
    assert tree.listxattr(secret) == [b"user.mntapied", b"user.mntapi.reason"]
    assert tree.getxattr(secret, b"user.mntapi.reason") == b"efs"
    for number, name in (plain, b"user.mntapi.reason"), (plain, b"user.mntapi.original"), (secret, b"user.mntapi.original"):
        with pytest.raises(NoAttribute):
            tree.getxattr(number, name)


class Unopenable(MemoryFileSystem):
    """Its file has a map that makes no sense, or none that is read."""

    error: MntapiError

    def open(self, file: Node) -> Blocks:
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Corrupt("a run outside of the volume"), b"damaged"),
        (ReadFailed("cannot be read"), b"unreadable"),
        (Unsupported("compressed with something new"), b"unsupported"),
        (Corrupt("a chunk without its store", reason="dedup"), b"dedup"),
    ],
)
def test_why_a_file_cannot_be_opened_is_told_before_anybody_tried(error: MntapiError, reason: bytes) -> None:
    filesystem = Unopenable({"file": b"x", "folder": {}})
    filesystem.error = error
    tree = TreeFs(filesystem)
    file, folder = (tree.lookup(ROOT, name).number for name in (b"file", b"folder"))
    assert tree.listxattr(file) == []  # nothing is opened for a list: ls asks for one of every file
    assert tree.getxattr(file, b"user.mntapi.reason") == reason
    assert tree.listxattr(file) == [b"user.mntapi.reason"]
    with pytest.raises(NoAttribute):
        tree.getxattr(folder, b"user.mntapi.reason")


def test_why_reading_failed_is_told_afterwards() -> None:
    bad = Fault(Memory(b"x" * 8192), bad=[(4096, 512)])
    tree = TreeFs(MemoryFileSystem({"file": bad, "folder": {"<unreadable>": b""}}))
    file, folder = (tree.lookup(ROOT, name).number for name in (b"file", b"folder"))
    blocks = tree.open(file)
    assert read(blocks, 0, 4096) == b"x" * 4096 and tree.listxattr(file) == []
    with pytest.raises(ReadFailed):
        read(blocks, 0, 8192)
    with pytest.raises(ReadFailed):
        list(tree.readdir(folder))
    for number in (file, folder):
        assert tree.getxattr(number, b"user.mntapi.reason") == b"unreadable"
        assert tree.listxattr(number) == [b"user.mntapi.reason"]


def test_a_server_that_is_away_is_no_fault_of_the_file() -> None:
    filesystem = Unopenable({"file": b"x"})
    filesystem.error = ReadFailed("cannot be reached", reason="unreachable")
    tree = TreeFs(filesystem)
    number = tree.lookup(ROOT, b"file").number
    with pytest.raises(NoAttribute):
        tree.getxattr(number, b"user.mntapi.reason")
    assert tree.listxattr(number) == []


def test_failures_that_are_remembered_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "MAX_FAILURES", 4)
    filesystem = Unopenable({f"file{index}": b"x" for index in range(20)})
    filesystem.error = Corrupt("no")
    tree = TreeFs(filesystem)
    for entry in list(tree.readdir(ROOT)):
        assert tree.getxattr(entry.attributes.number, b"user.mntapi.reason") == b"damaged"
    assert sum(tree._failures.reason(number) is not None for number in range(64)) <= 4


class Flaky(MemoryFileSystem):
    """Its file cannot be opened while ``error`` is set."""

    error: MntapiError | None = None

    def open(self, file: Node) -> Blocks:
        if self.error:
            raise self.error
        return super().open(file)

    def scan(self, directory: Node) -> Iterator[Entry]:
        if self.error and directory.inode != self.root.inode:
            raise self.error
        return super().scan(directory)


def test_what_can_be_opened_again_has_no_reason() -> None:
    filesystem = Flaky({"file": b"x", "folder": {"inner": b""}})
    tree = TreeFs(filesystem)
    file, folder = (tree.lookup(ROOT, name).number for name in (b"file", b"folder"))
    filesystem.error = ReadFailed("cannot be read")
    with pytest.raises(ReadFailed):
        tree.open(file)
    with pytest.raises(ReadFailed):
        list(tree.readdir(folder))
    assert tree.listxattr(file) == tree.listxattr(folder) == [b"user.mntapi.reason"]
    filesystem.error = None
    tree.open(file)
    assert [entry.name for entry in tree.readdir(folder)] == [b"inner"]
    assert tree.listxattr(file) == tree.listxattr(folder) == []


@pytest.mark.parametrize(
    ("reads", "is_forgotten"),
    [
        ([(0, 16384)], True),
        ([(4096, 4096)], True),
        ([(4096, 512), (4608, 3584)], True),  # from its start on, as cat does
        ([(6144, 2048), (4096, 2048)], True),
        ([(0, 4096), (8192, 8192)], False),  # all around it
        ([(4096, 4095)], False),
        ([(4097, 8192)], False),
        ([(5120, 512)], False),
        ([], False),  # opened only
    ],
)
def test_bytes_that_can_be_read_again_have_no_reason(reads: list[tuple[int, int]], *, is_forgotten: bool) -> None:
    content = Faulty(b"x" * 16384)
    tree = TreeFs(MemoryFileSystem({"file": content}))
    file = tree.lookup(ROOT, b"file").number
    opened = tree.open(file)
    content.error = ReadFailed("cannot be read")
    for at in (4096, 7168):  # two places; what is between them counts as failed too
        with pytest.raises(ReadFailed):
            read(opened, at, 1024)
    content.error = None
    again = tree.open(file)
    for at, length in reads:
        assert read(again, at, length) == b"x" * length
    assert tree.listxattr(file) == ([] if is_forgotten else [b"user.mntapi.reason"])


class Faulty(Memory):
    """Cannot be read while ``error`` is set."""

    error: MntapiError | None = None

    def readinto(self, offset: int, buffer: memoryview) -> None:
        if self.error:
            raise self.error
        super().readinto(offset, buffer)


def test_remembered_nodes_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(treefs, "MAX_NODES", 10)
    tree = TreeFs(MemoryFileSystem({f"f{index}": b"x" * index for index in range(100)}))
    numbers = [entry.attributes.number for entry in tree.readdir(ROOT)]
    assert len(tree._nodes) <= 10
    assert [tree.getattr(number).node.size for number in numbers] == list(range(100))


def blocks(*, uid: int | None = None) -> BlockFs:
    sparse = Concat([Memory(b"x" * 4096), Zero(8192), Memory(b"y" * 100)])
    return BlockFs({"disks": {"disk0": sparse, "disk1": Memory(b"1")}, "volumes": {"disk0p1": Memory(b"volume")}}, uid=uid)


def test_block_files() -> None:
    tree = blocks(uid=7)
    assert [entry.name for entry in tree.readdir(ROOT)] == [b"disks", b"volumes"]
    disks = tree.lookup(ROOT, b"disks")
    disk = tree.lookup(disks.number, b"disk0").node
    assert (disk.size, disk.allocated, disk.mode, disk.uid, disk.gid) == (12388, 4196, 0o400, 7, os.getgid())
    assert (disks.node.mode, disks.node.kind, tree.getattr(ROOT).node.links) == (0o500, FileKind.DIRECTORY, 4)
    volume = tree.lookup(tree.lookup(ROOT, b"volumes").number, b"disk0p1")
    assert read(blocks().open(volume.number), 0, 6) == b"volume"  # the number means the same to another process
    assert tree.statfs().total == 12388 + 1 + 6 and tree.statfs().inodes == 6
    assert not tree.has_xattrs and list(tree.listxattr(ROOT)) == []


def test_closing_a_block_file_leaves_the_disk_open() -> None:
    tree = blocks()
    number = tree.lookup(tree.lookup(ROOT, b"disks").number, b"disk1").number
    tree.open(number).close()
    assert read(tree.open(number), 0, 1) == b"1"


def test_what_block_files_are_not() -> None:
    tree = blocks()
    disks = tree.lookup(ROOT, b"disks").number
    disk = tree.lookup(disks, b"disk0").number
    for call, error in (
        (lambda: tree.lookup(disks, b"disk9"), NotFound),
        (lambda: list(tree.readdir(disk)), NotADirectory),
        (lambda: list(tree.readdir(99)), NotFound),
        (lambda: tree.open(disks), IsADirectory),
        (lambda: tree.open(ROOT), IsADirectory),
        (lambda: tree.getattr(3 << 32), NotFound),
        (lambda: tree.getattr(1 << 32 | 2), NotFound),
        (lambda: tree.readlink(disk), Invalid),
        (lambda: tree.getxattr(disk, b"user.x"), NoAttribute),
    ):
        with pytest.raises(error):
            call()


def test_a_map_that_cannot_be_read_does_not_hide_the_file() -> None:
    class Unmapped(Memory):
        def extents(self, offset: int, length: int) -> Iterator[Extent]:
            yield Extent(0, 512, ExtentKind.ZERO)
            raise ReadFailed("cannot be read")

    tree = BlockFs({"disks": {"disk0": Unmapped(bytes(2048))}})
    assert tree.lookup(tree.lookup(ROOT, b"disks").number, b"disk0").node.allocated == 1536


def test_a_long_map_is_not_walked_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockfs, "MAX_EXTENTS", 3)
    seen: list[int] = []

    class Long(Memory):
        def extents(self, offset: int, length: int) -> Iterator[Extent]:
            for at in range(0, length, 512):
                seen.append(at)
                yield Extent(at, 512, ExtentKind.ZERO)

    tree = BlockFs({"disks": {"disk0": Long(bytes(51200))}})
    assert tree.lookup(tree.lookup(ROOT, b"disks").number, b"disk0").node.allocated == 51200 - 4 * 512
    assert len(seen) == 4


def test_faults_pass_through() -> None:
    content: Blocks = Fault(Memory(bytes(4096)), bad=[(512, 512)])
    tree = BlockFs({"disks": {"disk0": content}})
    opened = tree.open(tree.lookup(tree.lookup(ROOT, b"disks").number, b"disk0").number)
    assert read(opened, 0, 512) == bytes(512)
    with pytest.raises(ReadFailed):
        read(opened, 500, 100)
