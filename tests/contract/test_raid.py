"""RAID combinators against a slow model of the layouts: whole, degraded, with bad sectors, and broken beyond repair."""

from __future__ import annotations

import random
from contextlib import ExitStack, closing, nullcontext
from itertools import combinations
from pathlib import Path

import pytest

from contract.blocks_contract import check_blocks
from contract.raid_model import PICTURES, RAID10_PICTURES, Memory, content, parity_members, picture_rows, raid10_members
from mntapi.blocks import Fault, HostFile, Missing, Slice, read
from mntapi.errors import Invalid, ReadFailed
from mntapi.types import Blocks, ExtentKind
from mntapi.volumes.raid import Mirrored, ParityArray, ParityLayout, Raid10, Striped
from mntapi.volumes.raid import sparse as sparse_module
from mntapi.volumes.raid.gather import WINDOW
from mntapi.volumes.raid.raid10 import survives

CHUNK = 2048


def striped_members(data: bytes, count: int, chunk: int) -> list[bytes]:
    pieces = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    return [b"".join(pieces[index::count]) for index in range(count)]


def files(members: list[bytes], folder: Path, stack: ExitStack) -> list[Blocks]:
    """Slices of files in which something else comes first, as partitions are."""
    slices: list[Blocks] = []
    for index, member in enumerate(members):
        path = folder / f"member{index}"
        path.write_bytes(b"else" + member)
        slices.append(Slice(stack.enter_context(closing(HostFile.open(str(path)))), 4, len(member)))
    return slices


def unreadable(member: bytes, *bad: tuple[int, int]) -> Fault:
    return Fault(Memory(member), bad=bad)


@pytest.mark.parametrize(("count", "chunk", "size"), [(1, 512, 5000), (2, 4096, 65536), (3, 1000, 100_001), (7, 512, 70_000)])
def test_striped(count: int, chunk: int, size: int) -> None:
    data = content(size, holes=4)
    members = [Memory(member) for member in striped_members(data, count, chunk)]
    check_blocks(Striped(members, chunk, size), data)


def test_striped_larger_than_a_window() -> None:
    data = content(WINDOW + 300_000)
    members = [Memory(member) for member in striped_members(data, 3, 65536)]
    striped = Striped(members, 65536, len(data))
    assert read(striped, 5, len(data) - 5) == data[5:]


@pytest.mark.parametrize(("count", "chunk"), [(1, 4096), (2, 512), (3, 1000), (5, 65_536)])
def test_striped_on_files(count: int, chunk: int, tmp_path: Path) -> None:
    data = content(2_000_001, holes=2)
    with ExitStack() as stack:
        members = files(striped_members(data, count, chunk), tmp_path, stack)
        striped = Striped(members, chunk, len(data))
        check_blocks(striped, data)
        for offset, length in ((0, chunk * count), (1, chunk), (chunk - 1, 2), (chunk + 7, 3 * chunk * count - 5)):
            assert read(striped, offset, length) == data[offset : offset + length]


def test_striped_reads_are_few() -> None:
    data = content(1 << 20)
    members = [Memory(member) for member in striped_members(data, 4, 4096)]
    assert read(Striped(members, 4096, len(data)), 0, len(data)) == data
    assert [member.reads for member in members] == [1, 1, 1, 1]


def test_striped_with_one_missing() -> None:
    data = content(16 * CHUNK)
    first, _, third = striped_members(data, 3, CHUNK)
    striped = Striped([Memory(first), Missing(len(first), "disk b is missing"), Memory(third)], CHUNK, len(data))
    assert read(striped, 2 * CHUNK, 2 * CHUNK) == data[2 * CHUNK : 4 * CHUNK]
    with pytest.raises(ReadFailed, match="disk b is missing"):
        read(striped, 0, 3 * CHUNK)
    assert all(extent.kind is ExtentKind.DATA for extent in striped.extents(0, len(data)))


def test_sparse_stripes_are_told_at_once() -> None:
    """A petabyte of holes is one extent."""

    class Hole(Memory):
        def __init__(self, size: int) -> None:
            self.size = size

        def extents(self, offset: int, length: int):
            yield sparse_module.Extent(offset, length, ExtentKind.ZERO)

    striped = Striped([Hole(1 << 48) for _ in range(4)], 4096, 1 << 50)
    assert list(striped.extents(5, (1 << 50) - 5)) == [(5, (1 << 50) - 5, ExtentKind.ZERO)]
    mixed = Striped([Hole(1 << 48), Missing(1 << 48, "gone")], 4096, 1 << 49)
    assert list(mixed.extents(0, 1 << 49)) == [(0, 1 << 49, ExtentKind.DATA)]
    few = list(mixed.extents(0, 8 * 4096))
    assert [extent.kind for extent in few] == [ExtentKind.ZERO, ExtentKind.DATA] * 4


@pytest.mark.parametrize("size", [0, 1, 40_000])
def test_mirrored(size: int) -> None:
    data = content(size + 1, holes=2)[:size]
    check_blocks(Mirrored([Memory(data), Memory(data)], size), data)
    check_blocks(Mirrored([None, Memory(data + b"more")], size), data)


def test_mirrored_with_bad_sectors() -> None:
    data = content(65536)
    first, second = unreadable(data, (0, 512), (8192, 4096)), unreadable(data, (4096, 512), (60_000, 512))
    check_blocks(Mirrored([first, None, second], len(data)), data)
    both = Mirrored([unreadable(data, (8192, 512)), unreadable(data, (8192, 512))], len(data))
    assert read(both, 0, 8192) == data[:8192]
    with pytest.raises(ReadFailed, match=r"injected.*8192"):
        read(both, 0, 65536)
    with pytest.raises(ReadFailed, match="all members"):
        read(Mirrored([None, None], 512), 0, 1)
    assert [extent.kind for extent in Mirrored([None], 512).extents(0, 512)] == [ExtentKind.DATA]


def parity_array(layout: str, *, holes: int = 0, chunk: int = CHUNK) -> tuple[list[bytes], bytes, ParityLayout]:
    rows = picture_rows(PICTURES[layout])
    width = sum(cell not in "PQ" for cell in rows[0])
    data = content(chunk * width * (len(rows) + 2), holes=holes)
    return parity_members(layout, data, chunk), data, ParityLayout(layout)


def test_every_layout_has_a_picture() -> None:
    assert {layout.value for layout in ParityLayout} == set(PICTURES)
    assert ParityLayout.RAID4 is ParityLayout.PARITY_N
    assert ParityLayout.RAID4_PARITY_0 is ParityLayout.PARITY_0
    assert ParityLayout.PARITY_N_6 is ParityLayout.RAID6_PARITY_N


@pytest.mark.parametrize("layout", PICTURES)
def test_parity(layout: str) -> None:
    """Whole, and with every choice of as many members missing as the parity can replace."""
    members, data, kind = parity_array(layout, holes=3)
    check_blocks(ParityArray([Memory(member) for member in members], CHUNK, len(data), kind), data)
    for count in range(1, 3 if kind.is_raid6 else 2):
        for gone in combinations(range(len(members)), count):
            some = [None if index in gone else Memory(member) for index, member in enumerate(members)]
            check_blocks(ParityArray(some, CHUNK, len(data), kind), data, ranges=12)


@pytest.mark.parametrize("layout", ["left-symmetric", "raid6-left-symmetric", "ddf-n-continue"])
def test_parity_replaces_bad_sectors(layout: str) -> None:
    """Every member has bad sectors, each at another place: no stripe lacks more than its parity can give."""
    members, data, kind = parity_array(layout, chunk=16384)
    blocks = [
        unreadable(member, (index * 4096 % 16384, 512), (32768, 1 if index == 2 else 0)) for index, member in enumerate(members)
    ]
    check_blocks(ParityArray(blocks[: len(members)], 16384, len(data), kind), data, ranges=60)


def test_parity_beyond_repair() -> None:
    members, data, kind = parity_array("left-symmetric")
    some: list[Blocks | None] = [None, unreadable(members[1], (0, 512)), Memory(members[2]), Memory(members[3])]
    broken = ParityArray(some, CHUNK, len(data), kind)
    assert read(broken, CHUNK + 512, len(data) - CHUNK - 512) == data[CHUNK + 512 :]
    with pytest.raises(ReadFailed, match="injected"):
        read(broken, CHUNK, 512)
    with pytest.raises(ReadFailed, match="member 0 of the array is missing"):
        read(broken, 0, 1)
    two = ParityArray([None, None, Memory(members[2]), Memory(members[3])], CHUNK, len(data), kind)
    with pytest.raises(ReadFailed, match="member 0"):
        read(two, 0, len(data))
    assert read(two, 2 * CHUNK, CHUNK) == data[2 * CHUNK : 3 * CHUNK]


def test_raid6_beyond_repair() -> None:
    members, data, kind = parity_array("raid6-left-symmetric")
    for gone in ((1, 2, 3), (0, 1, 2), (1, 2, 4), (0, 1, 4)):
        blocks = [None if index in gone else Memory(member) for index, member in enumerate(members)]
        with pytest.raises(ReadFailed, match="member 1"):
            read(ParityArray(blocks, CHUNK, len(data), kind), 0, CHUNK)


def test_zeros_on_two_members_say_nothing_without_the_third() -> None:
    """What two missing members of a RAID 5 held is not known, whatever the others hold."""
    zeros = Memory(bytes(8 * CHUNK))
    array = ParityArray([None, None, zeros, zeros], CHUNK, 24 * CHUNK, ParityLayout.LEFT_SYMMETRIC)
    kinds = {extent.kind for extent in array.extents(0, CHUNK)}
    assert kinds == {ExtentKind.DATA}
    one = ParityArray([None, zeros, zeros, zeros], CHUNK, 24 * CHUNK, ParityLayout.LEFT_SYMMETRIC)
    assert list(one.extents(0, 24 * CHUNK)) == [(0, 24 * CHUNK, ExtentKind.ZERO)]


@pytest.mark.parametrize(("layout", "gone"), [("left-symmetric", 1), ("raid6-right-asymmetric", 2), ("ddf-zero-restart", 1)])
@pytest.mark.parametrize("chunk", [512, 20_480, 131_072])
def test_degraded_on_files(layout: str, gone: int, chunk: int, tmp_path: Path) -> None:
    """Members that are files get their chunks by one system call, gaps included; parts of large chunks are computed in turn."""
    members, data, kind = parity_array(layout, chunk=chunk)
    with ExitStack() as stack:
        blocks = files(members, tmp_path, stack)
        check_blocks(ParityArray(blocks, chunk, len(data), kind), data, ranges=60)
        for lost in list(combinations(range(len(members)), gone))[::3]:
            some = [None if index in lost else one for index, one in enumerate(blocks)]
            check_blocks(ParityArray(some, chunk, len(data), kind), data, ranges=60)


def test_an_array_of_degraded_arrays() -> None:
    """Each computes while the one around it does."""
    chunk = 4096
    data = content(chunk * 3 * 8)
    inner = ParityLayout.LEFT_SYMMETRIC
    members: list[Blocks | None] = []
    for member in parity_members("left-symmetric", data, chunk):
        below = parity_members("left-symmetric", member + bytes(chunk), chunk)
        members.append(ParityArray([None, *map(Memory, below[1:])], chunk, len(member), inner))
    for lost in range(4):
        some = [None if index == lost else member for index, member in enumerate(members)]
        check_blocks(ParityArray(some, chunk, len(data), ParityLayout.LEFT_SYMMETRIC), data, ranges=40)


def test_a_member_fails_where_another_is_missing() -> None:
    """RAID 6: the second loss is found only while the first is being made up for, by any member, in any part of a chunk."""
    for layout in ("raid6-left-symmetric", "ddf-n-continue"):
        members, data, kind = parity_array(layout, chunk=12_288)
        for bad in range(1, len(members)):
            some: list[Blocks | None] = [None, *map(Memory, members[1:])]
            some[bad] = unreadable(members[bad], (5000, 1), (12_288, 4096), (40_000, 9000))
            array = ParityArray(some, 12_288, len(data), kind)
            check_blocks(array, data, ranges=30)


def test_degraded_reads_are_few() -> None:
    """A long read of a degraded array reads each member once, and once for the parity."""
    chunk = 4096
    data = content(chunk * 3 * 80)
    members = [Memory(member) for member in parity_members("left-symmetric", data, chunk)]
    array = ParityArray([members[0], None, members[2], members[3]], chunk, len(data), ParityLayout.LEFT_SYMMETRIC)
    assert read(array, 0, len(data)) == data
    assert [member.reads for member in members] == [2, 0, 2, 2]


@pytest.mark.parametrize("shape", RAID10_PICTURES)
def test_raid10(shape: tuple[int, int, int, bool]) -> None:
    count, near, far, is_offset = shape
    chunks = 1 + max(int(cell) for row in picture_rows(RAID10_PICTURES[shape]) for cell in row)
    data = content(chunks * CHUNK, holes=1)
    members = raid10_members(RAID10_PICTURES[shape], data, CHUNK)
    for gone in [None, *range(count)]:
        some = [None if index == gone else Memory(member) for index, member in enumerate(members)]
        check_blocks(Raid10(some, CHUNK, len(data), near, far, is_offset), data, ranges=30)


@pytest.mark.parametrize("shape", RAID10_PICTURES)
def test_which_members_raid10_can_do_without(shape: tuple[int, int, int, bool]) -> None:
    """What survives is told of every choice of members, as it turns out when everything is read."""
    count, near, far, is_offset = shape
    member = Memory(bytes(near * far * CHUNK))
    for lost in (set(some) for number in range(count) for some in combinations(range(count), number)):
        members = [None if index in lost else member for index in range(count)]
        array = Raid10(members, CHUNK, count * CHUNK, near, far, is_offset)
        with nullcontext() if survives(count, near, far, lost) else pytest.raises(ReadFailed):
            read(array, 0, array.size)


def test_raid10_with_bad_sectors() -> None:
    shape = (3, 1, 2, False)
    chunk = 16384
    data = content(6 * chunk)
    members = raid10_members(RAID10_PICTURES[shape], data, chunk)
    # Chunk 0 is at 0 of the first member and at 2 chunks of the second.
    bad = [unreadable(members[0], (0, 512)), unreadable(members[1], (2 * chunk + 4096, 512)), Memory(members[2])]
    check_blocks(Raid10(bad, chunk, len(data), 1, 2, False), data)
    worse = [unreadable(members[0], (0, 512)), unreadable(members[1], (2 * chunk, 512)), Memory(members[2])]
    array = Raid10(worse, chunk, len(data), 1, 2, False)
    assert read(array, 4096, len(data) - 4096) == data[4096:]
    with pytest.raises(ReadFailed, match="injected"):
        read(array, 0, len(data))
    gone = Raid10([None, None, Memory(members[2])], chunk, len(data), 1, 2, False)
    with pytest.raises(ReadFailed, match="member 0 of the array is missing"):
        read(gone, 0, 1)


def test_nonsense_is_refused() -> None:
    some = Memory(bytes(8192))
    layout = ParityLayout.LEFT_SYMMETRIC
    for make in (
        lambda: Striped([], 512, 0),
        lambda: Striped([some], 0, 0),
        lambda: Striped([some], 512, -1),
        lambda: Striped([some, some], 512, 3 * 8192),
        lambda: Mirrored([], 0),
        lambda: Mirrored([some, some], 8193),
        lambda: ParityArray([some], 512, 512, layout),
        lambda: ParityArray([some, some], 512, 512, ParityLayout.RAID6_LEFT_SYMMETRIC),
        lambda: ParityArray([None] * 385, 512, 512, layout),
        lambda: ParityArray([None] * 256, 512, 512, ParityLayout.ROTATING_N_CONTINUE),
        lambda: ParityArray([some] * 3, 512, 2 * 8192 + 1, layout),
        lambda: Raid10([some] * 3, 512, 512, 0, 2, False),
        lambda: Raid10([some] * 70, 512, 512, 65, 1, False),
        lambda: Raid10([some], 512, 512, 2, 1, False),
        lambda: Raid10([some] * 5, 512, 512, 2, 2, False),
        lambda: Raid10([some] * 2, 512, 8193, 2, 1, False),
    ):
        with pytest.raises(Invalid):
            make()


def test_the_largest_arrays() -> None:
    """Coefficients of 253 data disks: any two can be computed."""
    rng = random.Random(1)
    columns = [rng.randbytes(16) for _ in range(253)]
    p, q = bytes(16), bytes(16)
    for column in reversed(columns):
        q = bytes((byte << 1 & 0xFF) ^ (0x1D if byte & 0x80 else 0) for byte in q)
        p, q = (bytes(a ^ b for a, b in zip(both, column, strict=True)) for both in (p, q))
    members: list[Blocks | None] = [Memory(column) for column in (*columns, p, q)]
    members[3] = members[252] = None
    array = ParityArray(members, 16, 16 * 253, ParityLayout.RAID6_PARITY_N)
    assert read(array, 0, array.size) == b"".join(columns)
