"""Items, chunks and nodes of btrfs whose numbers lie, byte by byte."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from mntapi.crc32c import crc32c
from mntapi.errors import Corrupt, MntapiError, NotFound, Unsupported
from mntapi.filesystems.btrfs import subvolumes
from mntapi.filesystems.btrfs.checksums import ALGORITHMS
from mntapi.filesystems.btrfs.chunks import PROFILES, UNIT, Chunk, Stripe, SystemChunks, parse_chunk
from mntapi.filesystems.btrfs.items import (
    FileExtent,
    Name,
    Root,
    Stored,
    Type,
    name_hash,
    parse_extent,
    parse_inode,
    parse_inode_ref,
    parse_names,
    parse_root,
    parse_root_ref,
)
from mntapi.filesystems.btrfs.pointer import Pointer
from mntapi.filesystems.btrfs.subvolumes import Numbers, Paths, Roots, read_roots
from mntapi.filesystems.btrfs.superblock import Superblock
from mntapi.filesystems.btrfs.tree import HIGHEST, Item, parse_node
from mntapi.types import FileKind
from mntapi.units import GIB, MIB

AT = 1 << 20
NODE = 4096
UUID = bytes(range(16))


# chunks


def chunk_item(
    length: int, kind: int, *stripes: tuple[int, int], count: int | None = None, unit: int = UNIT, across: int = 1
) -> bytes:
    many = len(stripes) if count is None else count
    head = struct.pack("<4Q3I2H", length, 2, unit, kind, unit, unit, 4096, many, across)
    return head + b"".join(struct.pack("<2Q16s", device, at, UUID) for device, at in stripes)


def stripes(*places: tuple[int, int]) -> tuple[Stripe, ...]:
    return tuple(Stripe(device, at, UUID) for device, at in places)


ONE, TWO, THREE, FOUR = (7, 5 * MIB), (8, 2 * GIB), (9, 0), (6, MIB)


@pytest.mark.parametrize(
    ("raw", "profile", "places"),
    [
        (chunk_item(GIB, 0x1, ONE), "single", (ONE,)),
        (chunk_item(GIB, 0x24, ONE, (7, 2 * GIB)), "DUP", (ONE, (7, 2 * GIB))),
        (chunk_item(GIB, 0x9, ONE), "RAID0", (ONE,)),
        (chunk_item(GIB, 0x9, ONE, TWO, THREE), "RAID0", (ONE, TWO, THREE)),
        (chunk_item(GIB, 0x11, ONE, TWO), "RAID1", (ONE, TWO)),
        (chunk_item(GIB, 0x204, ONE, TWO, THREE), "RAID1C3", (ONE, TWO, THREE)),
        (chunk_item(GIB, 0x404, ONE, TWO, THREE, FOUR), "RAID1C4", (ONE, TWO, THREE, FOUR)),
        (chunk_item(GIB, 0x41, ONE, TWO, THREE, FOUR, across=2), "RAID10", (ONE, TWO, THREE, FOUR)),
        (chunk_item(GIB, 0x81, ONE, TWO), "RAID5", (ONE, TWO)),
        (chunk_item(GIB, 0x101, ONE, TWO, THREE), "RAID6", (ONE, TWO, THREE)),
        (chunk_item(GIB, 0x1, ONE) + b"more", "single", (ONE,)),
    ],
)
def test_chunks(raw: bytes, profile: str, places: tuple[tuple[int, int], ...]) -> None:
    chunk = parse_chunk(3 * GIB, raw, AT)
    assert (chunk.logical, chunk.length, chunk.profile.name, chunk.stripes) == (3 * GIB, GIB, profile, stripes(*places))


@pytest.mark.parametrize(
    ("raw", "error", "message"),
    [
        (b"", Corrupt, "cut off"),
        (chunk_item(GIB, 0x1), Corrupt, "cut off"),
        (chunk_item(0, 0x1, ONE), Corrupt, "impossible size"),
        (chunk_item(HIGHEST - 1, 0x1, ONE), Corrupt, "impossible size"),
        (chunk_item(GIB, 0x20, ONE, TWO), Corrupt, "or kind"),
        (chunk_item(GIB, 0x21, ONE), Corrupt, "wrong number of stripes"),
        (chunk_item(GIB, 0x21, ONE, count=2), Corrupt, "wrong number of stripes"),
        (chunk_item(GIB, 0x1, ONE, TWO), Corrupt, "wrong number of stripes"),
        (chunk_item(GIB, 0x1, ONE, count=0), Corrupt, "wrong number of stripes"),
        (chunk_item(GIB, 0x9, ONE, count=0), Corrupt, "wrong number of stripes"),
        (chunk_item(GIB, 0x9, ONE, count=65535), Corrupt, "wrong number of stripes"),
        (chunk_item(GIB, 0x41, ONE, TWO, THREE, across=2), Corrupt, "wrong number of stripes"),
        (chunk_item(GIB, 0x81, ONE), Corrupt, "wrong number of stripes"),
        (chunk_item(GIB, 0x101, ONE, TWO), Corrupt, "wrong number of stripes"),
        (chunk_item(GIB, 0x101, *[ONE] * 256), Corrupt, "wrong number of stripes"),
        (chunk_item(GIB, 0x41, ONE, TWO, across=0), Corrupt, "impossible stripes"),
        (chunk_item(GIB, 0x9, ONE, TWO, unit=0), Corrupt, "impossible stripes"),
        (chunk_item(GIB, 0x31, ONE, TWO), Unsupported, "unknown profile"),
    ],
)
def test_chunks_that_lie(raw: bytes, error: type[MntapiError], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        parse_chunk(3 * GIB, raw, AT)
    assert raised.value.offset == AT


ROOT = Pointer(MIB, 0, 9, 1, 0)
SUPERBLOCK = Superblock(65536, 0, UUID, 9, ROOT, ROOT, None, 1, 0, 4096, NODE, 7, UUID, GIB, 1, ALGORITHMS[0], b"", b"")
KEY = struct.pack("<QBQ", 256, 228, 3 * GIB)


def test_chunks_of_the_superblock() -> None:
    raw = (
        KEY + chunk_item(GIB, 0x22, (7, MIB), (7, GIB)) + struct.pack("<QBQ", 256, 228, 9 * GIB) + chunk_item(MIB, 0x2, (7, 0))
    )
    chunks = SystemChunks(replace(SUPERBLOCK, chunks=raw))
    assert (
        chunks.find(3 * GIB, 0)
        == chunks.find(4 * GIB - 1, 0)
        == Chunk(3 * GIB, GIB, PROFILES[0x20], stripes((7, MIB), (7, GIB)))
    )
    assert chunks.find(9 * GIB, 0).stripes == stripes((7, 0))
    for logical in (0, 4 * GIB, 9 * GIB + MIB):
        with pytest.raises(Corrupt, match="no chunk that the superblock lists") as raised:
            chunks.find(logical, AT)
        assert raised.value.offset == AT


@pytest.mark.parametrize(
    ("raw", "message", "at"),
    [
        (KEY[:-1], "key in the superblock is cut off", 0),
        (b"x" + KEY, "no chunk in the superblock's list", 0),
        (KEY + chunk_item(GIB, 0x2, (7, 0)) + KEY, "cut off", 17 + 80 + 17),
        (KEY, "cut off", 17),
    ],
)
def test_chunks_of_the_superblock_that_lie(raw: bytes, message: str, at: int) -> None:
    with pytest.raises(Corrupt, match=message) as raised:
        SystemChunks(replace(SUPERBLOCK, chunks=raw))
    assert raised.value.offset == 65536 + 811 + at


# nodes


def node(
    *items: tuple[int, int, int, int, int],
    level: int = 0,
    count: int | None = None,
    uuid: bytes = UUID,
    logical: int = MIB,
    seal: bool = True,
) -> bytes:
    form = struct.Struct("<QBQ2Q" if level else "<QBQ2I")
    head = struct.pack("<16s2Q16s2QIB", uuid, logical, 1, UUID, 9, 5, len(items) if count is None else count, level)
    body = (head + b"".join(form.pack(*item) for item in items)).ljust(NODE - 32, b"\0")
    return (crc32c(body) if seal else 0).to_bytes(4, "little") + bytes(28) + body


ROOM = NODE - 101


def test_nodes() -> None:
    leaf = parse_node(node((1, 2, 3, ROOM - 10, 10), (1, 2, 4, ROOM - 10, 0), (2, 0, 0, ROOM - 30, 20)), AT, SUPERBLOCK, MIB)
    assert [leaf.item(index).key for index in range(3)] == [(1, 2, 3), (1, 2, 4), (2, 0, 0)]
    assert leaf.item(2) == Item((2, 0, 0), bytes(20), AT + NODE - 30)
    above = parse_node(node((1, 2, 3, MIB, 8), (1, 2, 4, MIB, 7), level=7), AT, SUPERBLOCK, MIB)
    assert (above.level, above.generation, above.owner) == (7, 9, 5)
    assert parse_node(node(), AT, SUPERBLOCK, MIB).entries == []


@pytest.mark.parametrize(
    ("raw", "message", "at"),
    [
        (node(seal=False), "checksum", 0),
        (node(logical=2 * MIB), "belongs elsewhere", 48),
        (node(uuid=bytes(16)), "another file system", 32),
        (node(level=8), "impossible height", 96),
        (node(level=1), "impossible height or length", 96),
        (node(count=ROOM // 25 + 1), "impossible height or length", 96),
        (node(level=1, count=ROOM // 33 + 1), "impossible height or length", 96),
        (node((1, 2, 3, ROOM - 10, 10), (1, 2, 3, ROOM - 20, 10)), "out of order", 0),
        (node((1, 2, 3, ROOM, 0), (1, 2, 3, ROOM, 0)), "out of order", 0),
        (node((1, 2, 3, 0, 1), (1, 2, 2, 0, 1), level=1), "out of order", 0),
        (node((1, 2, 3, ROOM - 10, 11)), "items overlap", 0),
        (node((1, 2, 3, ROOM - 11, 10)), "items overlap", 0),
        (node((1, 2, 3, ROOM - 10, 10), (1, 2, 4, ROOM - 19, 10)), "items overlap", 0),
        (node((1, 2, 3, 24, ROOM - 24)), "items overlap", 0),
        (node((1, 2, 3, 0xFFFFFFFF, 0xFFFFFFFF)), "items overlap", 0),
    ],
)
def test_nodes_that_lie(raw: bytes, message: str, at: int) -> None:
    with pytest.raises(Corrupt, match=message) as raised:
        parse_node(raw, AT, SUPERBLOCK, MIB)
    assert raised.value.offset == AT + at


# items


def item(raw: bytes, number: int = 257, kind: int = 1, offset: int = 0) -> Item:
    return Item((number, kind, offset), raw, AT)


def inode(mode: int = 0o100644, size: int = 5) -> bytes:
    head = struct.pack("<5Q4I3Q32x", 1, 1, size, 4096, 0, 1, 2, 3, mode, 0, 1, 0)
    return head + struct.pack("<qIqIqIqI", -1, 5, 2, 6, 3, 7, 4, 8)


def test_inodes() -> None:
    found = parse_inode(item(inode()))
    assert (found.kind, found.size, found.links, found.uid, found.gid, found.flags) == (FileKind.FILE, 5, 1, 2, 3, 1)
    assert (found.atime_ns, found.ctime_ns, found.mtime_ns, found.otime_ns) == (
        -999_999_995,
        2_000_000_006,
        3_000_000_007,
        4_000_000_008,
    )


def test_times_that_lie() -> None:
    """More than a second of nanoseconds would, at the end of time, be more seconds than any program has room for."""
    late = inode()[:112] + struct.pack("<qI", (1 << 63) - 1, 0xFFFFFFFF) * 4
    assert parse_inode(item(late)).mtime_ns == ((1 << 63) - 1) * 10**9


def extent(
    kind: int = 1,
    compression: int = 0,
    *,
    encoding: int = 0,
    unpacked: int = 8192,
    stored: int = MIB,
    stored_length: int = 8192,
    within: int = 0,
    length: int = 8192,
) -> bytes:
    head = struct.pack("<2Q2BHB", 1, unpacked, compression, encoding & 0xFF, encoding >> 8, kind)
    return head + struct.pack("<4Q", stored, stored_length, within, length)


def test_extents() -> None:
    found = parse_extent(item(extent(within=4096, length=4096), offset=12288), 4096)
    assert found == FileExtent(1, 12288, 4096, 0, 0, 8192, MIB, 8192, 4096, b"", AT)
    assert (found.end, found.is_zeros) == (16384, False)
    assert parse_extent(item(extent(stored=0, stored_length=0)), 4096).is_zeros
    assert parse_extent(item(extent(2)), 4096).is_zeros
    assert parse_extent(item(extent(1, 3, unpacked=131072, stored_length=4096, within=4096, length=65536)), 4096).end == 65536
    inline = parse_extent(item(extent(0)[:21] + bytes(8192)), 4096)
    assert (inline.kind, inline.end, len(inline.content), inline.is_zeros) == (Stored.INLINE, 8192, 8192, False)
    assert parse_extent(item(extent(encoding=0x102)), 4096).encoding == 0x102


@pytest.mark.parametrize(
    ("raw", "offset", "message"),
    [
        (extent()[:20], 0, "cut off"),
        (extent()[:52], 0, "cut off"),
        (extent(3), 0, "unknown kind"),
        (extent(0)[:21] + b"x", 0, "inline data"),
        (extent(0, unpacked=1)[:21] + b"x", 4096, "inline data"),
        (extent(0, 1, unpacked=131073)[:21], 0, "impossible size"),
        (extent(1, 1, unpacked=131073), 0, "impossible size"),
        (extent(1, 1, stored_length=131073), 0, "impossible size"),
        (extent(length=0), 0, "impossible numbers"),
        (extent(length=4095), 0, "impossible numbers"),
        (extent(within=4096), 0, "impossible numbers"),
        (extent(within=HIGHEST - 4096), 0, "impossible numbers"),
        (extent(stored=MIB + 1), 0, "impossible numbers"),
        (extent(stored=HIGHEST - 4096), 0, "impossible numbers"),
        (extent(), 1, "impossible numbers"),
        (extent(), (1 << 63) - 4096, "impossible numbers"),
        (extent(1, 1, unpacked=4096), 0, "impossible numbers"),
        (extent(stored=0, stored_length=0, length=1 << 63), 4096, "impossible numbers"),
    ],
)
def test_extents_that_lie(raw: bytes, offset: int, message: str) -> None:
    with pytest.raises(Corrupt, match=message) as raised:
        parse_extent(item(raw, kind=108, offset=offset), 4096)
    assert raised.value.offset is not None and AT <= raised.value.offset < AT + 53


def entry(name: bytes, number: int = 300, *, kind: int = 1, data: bytes = b"", name_length: int | None = None) -> bytes:
    head = struct.pack("<QBQQ2HB", number, 1, 0, 1, len(data), len(name) if name_length is None else name_length, kind)
    return head + name + data


def test_names() -> None:
    both = entry(b"one") + entry(b"two", 301, kind=99, data=b"value")
    assert list(parse_names(item(both))) == [
        Name(b"one", 300, 1, FileKind.FILE, b""),
        Name(b"two", 301, 1, FileKind.FILE, b"value"),
    ]
    for raw, message in ((both + b"x", "entry is cut off"), (both + entry(b"x", name_length=2), "longer than its item")):
        names = parse_names(item(raw))
        assert [next(names).name, next(names).name] == [b"one", b"two"]
        with pytest.raises(Corrupt, match=message) as raised:
            next(names)
        assert raised.value.offset == AT + len(both)


def test_the_hash_of_a_name() -> None:
    """That of ``default`` is in every file system: ``btrfs inspect-internal dump-tree -t root``, item (6 DIR_ITEM)."""
    assert name_hash(b"default") == 2378154706


def root(generation: int = 9, *, again: int | None = None, level: int = 0, references: int = 1) -> bytes:
    tail = struct.pack("<7QI17x2B", generation, 256, MIB, 0, 0, 0, 1, references, 0, level)
    more = struct.pack("<Q16s16s16s32x12xQI", generation if again is None else again, UUID, bytes(16), bytes(16), 5, 6)
    return inode(0o40755) + tail + more


def test_roots() -> None:
    pointer = Pointer(MIB, 0, 9, 257, AT + 176)
    assert parse_root(item(root())) == Root(257, pointer, 9, 1, True, UUID, None, None, 5_000_000_006)
    for raw in (root(again=8), root()[:239]):
        assert parse_root(item(raw)) == Root(257, pointer, 9, 1, True)


@pytest.mark.parametrize(
    ("parse", "raw", "message"),
    [
        (parse_inode, inode()[:-1], "an inode is cut off"),
        (parse_inode, inode(0o0644), "no known kind"),
        (parse_inode, inode(size=1 << 63), "impossible size"),
        (parse_root, root()[:238], "root is cut off"),
        (parse_root, root(level=8), "too high"),
        (parse_inode_ref, bytes(9), "back reference is cut off"),
        (parse_inode_ref, bytes(8) + b"\2\0x", "back reference is cut off"),
        (parse_root_ref, bytes(17), "place is cut off"),
        (parse_root_ref, bytes(16) + b"\2\0x", "place is cut off"),
    ],
)
def test_items_that_lie(parse: object, raw: bytes, message: str) -> None:
    assert callable(parse)
    with pytest.raises(Corrupt, match=message) as raised:
        parse(item(raw))
    assert raised.value.offset is not None and AT <= raised.value.offset < AT + 239


# subvolumes


class FakeTree:
    """A tree of some items; ``damage`` is what cannot be read of it."""

    def __init__(self, *items: Item, damage: MntapiError | None = None) -> None:
        self._items = sorted(items)
        self._damage = damage

    def items(self, first: object, last: object, damage: list[MntapiError] | None = None) -> list[Item]:
        if self._damage is not None and damage is not None:
            damage.append(self._damage)
        return [one for one in self._items if first <= one.key <= last]  # type: ignore[operator]

    def floor(self, key: tuple[int, int, int]) -> Item | None:
        below = [one for one in self._items if one.key <= key]
        return below[-1] if below else None


def subvolume(number: int, **options: int) -> Item:
    return item(root(**options), number, Type.ROOT_ITEM)


def place(parent: int, child: int, name: bytes, folder: int = 256) -> Item:
    return item(struct.pack("<2QH", folder, 1, len(name)) + name, parent, Type.ROOT_REF, child)


def read(*items: Item, damage: MntapiError | None = None) -> Roots:
    return read_roots(FakeTree(*items, damage=damage), AT)  # type: ignore[arg-type]


def test_which_subvolumes_there_are() -> None:
    """Not those being deleted, nor other trees; what is damaged hides itself only."""
    deleted, other = subvolume(258, references=0), subvolume(7)
    broken = item(b"", 259, Type.ROOT_ITEM)
    reloc = subvolume(HIGHEST - 8)
    roots = read(subvolume(257), subvolume(5), deleted, other, broken, reloc, place(5, 257, b"a"), place(256, 257, b"b"))
    assert [one.number for one in roots.all] == [5, 257]
    assert roots.crossing(5, 256, b"a", 257) == 1
    for name in ((5, 256, b"x"), (5, 300, b"a"), (257, 256, b"a"), (256, 256, b"b")):
        assert roots.crossing(*name, 257) is None
    assert roots.crossing(5, 256, b"a", 258) is None


def test_no_top_level_subvolume() -> None:
    with pytest.raises(Corrupt, match="no top-level") as raised:
        read(subvolume(256))
    assert raised.value.offset == AT
    with pytest.raises(Corrupt, match="a node"):
        read(damage=Corrupt("a node", offset=4))
    with pytest.raises(Corrupt, match="cut off"):
        read(item(b"", 5, Type.ROOT_ITEM))


def test_too_many_subvolumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subvolumes, "MAX_SUBVOLUMES", 3)
    assert len(read(subvolume(5), *(subvolume(256 + index) for index in range(2))).all) == 3
    with pytest.raises(Unsupported, match="too many subvolumes") as raised:
        read(subvolume(5), *(subvolume(256 + index) for index in range(4)))
    assert raised.value.reason == "too-many-subvolumes"


def test_numbers() -> None:
    for count in (1, 2, 3, 4, 1000, 1 << 16):
        numbers, most = Numbers(count), (1 << 45) // count
        joined = {
            numbers.join(position, inode_number) for position in {0, 1 % count, count - 1} for inode_number in (256, most - 1)
        }
        assert len(joined) == 2 * len({0, 1 % count, count - 1})
        for number in joined:
            assert 0 <= number < 1 << 45 and not numbers.is_empty(number)
            assert numbers.join(*numbers.split(number)) == number
        assert numbers.join(count - 1, 300) < 301 * count
        with pytest.raises(Unsupported, match="cannot be numbered") as raised:
            numbers.join(0, most + 1)
        assert raised.value.reason == "inode-too-large"
        empty = numbers.empty(257, 256, b"name")
        assert numbers.is_empty(empty) and 1 << 45 <= empty < 1 << 46
        assert numbers.empty(257, 257, b"name") != empty
        for number in (-1, empty, 1 << 46, 1 << 60):
            with pytest.raises(NotFound):
                numbers.split(number)
    assert Numbers(1).join(0, 300) == 300


def paths_of(*places: Item, folders: tuple[Item, ...] = ()) -> dict[int, str | None]:
    roots = read(subvolume(5), *(subvolume(number) for number in range(256, 262)), *places)
    paths = Paths(roots, [FakeTree(*folders)] * len(roots.all))  # type: ignore[arg-type]
    return {one.number: paths.of(one.number) for one in roots.all}


def folder(number: int, parent: int, name: bytes) -> Item:
    return item(struct.pack("<QH", 1, len(name)) + name, number, Type.INODE_REF, parent)


def test_paths() -> None:
    folders = folder(300, 301, b"deep"), folder(301, 256, b"folder"), folder(302, 303, b"x"), folder(303, 302, b"y")
    found = paths_of(
        place(5, 256, b"@"),
        place(256, 257, b"inner", 300),
        place(257, 258, b"a/b"),
        place(5, 259, b"lost", 302),
        place(259, 260, b"below"),
        place(5, 261, b"nowhere", 400),
        folders=folders,
    )
    assert found == {
        5: "",
        256: "@",
        257: "@/folder/deep/inner",
        258: "@/folder/deep/inner/a\N{DIVISION SLASH}b",
        259: None,
        260: None,
        261: None,
    }


def test_subvolumes_that_contain_themselves() -> None:
    circle = place(257, 256, b"up"), place(256, 257, b"down"), place(258, 258, b"self"), place(999, 259, b"gone")
    found = paths_of(*circle, place(256, 260, b"below"), place(5, 261, b"sound"))
    assert found == {5: "", 256: None, 257: None, 258: None, 259: None, 260: None, 261: "sound"}


class CountingTree(FakeTree):
    """Counts how often it is asked."""

    asked = 0

    def floor(self, key: tuple[int, int, int]) -> Item | None:
        self.asked += 1
        return super().floor(key)


def deep(count: int) -> tuple[Roots, CountingTree]:
    """``count`` subvolumes in the undermost of as many folders, and one in the top folder."""
    below = 300 + count - 1
    tree = CountingTree(folder(300, 256, b"d"), *(folder(number, number - 1, b"d") for number in range(301, below + 1)))
    inner = [place(5, number, b"s", below) for number in range(256, 256 + count)]
    top = place(5, 256 + count, b"top")
    return read(subvolume(5), *(subvolume(number) for number in range(256, 257 + count)), *inner, top), tree


def test_folders_are_looked_up_once() -> None:
    roots, tree = deep(40)
    paths = Paths(roots, [tree] * len(roots.all))  # type: ignore[list-item]
    assert [paths.of(one.number) for one in roots.all] == ["", *["d/" * 40 + "s"] * 40, "top"]
    assert tree.asked == 40


def test_folders_without_place_are_looked_up_once() -> None:
    circle = CountingTree(*(folder(number, 300 + (number + 1) % 40, b"d") for number in range(300, 340)))
    roots = read(subvolume(5), *(subvolume(256 + n) for n in range(40)), *(place(5, 256 + n, b"s", 300 + n) for n in range(40)))
    paths = Paths(roots, [circle] * len(roots.all))  # type: ignore[list-item]
    assert [paths.of(one.number) for one in roots.all] == ["", *[None] * 40]
    assert circle.asked == 40


def test_a_damaged_folder() -> None:
    cut = item(b"", 300, Type.INODE_REF, 256)
    found = paths_of(place(5, 256, b"a", 300), place(5, 257, b"b"), folders=(cut,))
    assert (found[256], found[257]) == (None, "b")


@pytest.mark.parametrize(("limit", "value"), [("MAX_FOLDERS", 39), ("MAX_PATHS", 1000)])
def test_too_many_folders_around_subvolumes(limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too deep has no path; what needs none of that has."""
    monkeypatch.setattr(subvolumes, limit, value)
    roots, tree = deep(40)
    paths = Paths(roots, [tree] * len(roots.all))  # type: ignore[list-item]
    found = {one.number: paths.of(one.number) for one in roots.all}
    assert (found[5], found[256], found[296]) == ("", None, "top") and tree.asked <= 40


def test_long_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that fit into what is left are told still."""
    monkeypatch.setattr(subvolumes, "MAX_PATHS", 20)
    found = paths_of(place(5, 256, b"a" * 10), place(256, 257, b"b"), place(5, 258, b"short"), place(258, 259, b"c"))
    assert found == {5: "", 256: "a" * 10, 257: None, 258: "short", 259: None, 260: None, 261: None}
