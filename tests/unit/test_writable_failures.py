"""Writes to arrays that fail in the middle, as on a full disk: the members agree afterwards. Oracles: a bytearray, and the slow
model of RAID (``contract.raid_model``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from contract.raid_model import PICTURES, RAID10_PICTURES, Memory, content, parity_members, picture_rows, raid10_members
from mntapi.blocks import check_range, read
from mntapi.blocks.memory_overlay import NoSpace
from mntapi.blocks.writable import writable
from mntapi.errors import Failed, ReadFailed
from mntapi.types import Blocks, WritableBlocks
from mntapi.volumes.raid import Mirrored, ParityArray, ParityLayout, Raid10

BLOCK = 512
"""Bytes that the overlays here forget at once."""


class Disk:
    """Room that overlays share, in bytes."""

    def __init__(self, room: int) -> None:
        self.is_dead = False
        self.room = room


class Full(Memory):
    """An overlay that stores what there is room for, byte by byte, and rewrites what it has stored."""

    def __init__(self, original: bytes, disk: Disk) -> None:
        super().__init__(original, grain=BLOCK)
        self.original = original
        self.changed = bytearray(original)
        self.content = self.changed
        self.is_stored = bytearray(len(original))
        self.disk = disk
        self.bad: range = range(0)
        self.reason = ""

    def readinto(self, offset: int, buffer: memoryview) -> None:
        if offset < self.bad.stop and self.bad.start < offset + len(buffer):
            raise ReadFailed("cannot be read", offset=offset, reason=self.reason)
        super().readinto(offset, buffer)

    def write(self, offset: int, content: memoryview) -> None:
        check_range(self.size, offset, len(content))
        for at, byte in enumerate(content, offset):
            if self.disk.is_dead or not (self.is_stored[at] or self.disk.room):
                raise NoSpace("full")
            self.disk.room -= not self.is_stored[at]
            self.is_stored[at] = 1
            self.changed[at] = byte

    def discard(self, offset: int, length: int) -> None:
        check_range(self.size, offset, length)
        for start in range(-(-offset // BLOCK) * BLOCK, (offset + length) // BLOCK * BLOCK, BLOCK):
            self.changed[start : start + BLOCK] = bytes(BLOCK)
            self.disk.room += sum(self.is_stored[start : start + BLOCK])
            self.is_stored[start : start + BLOCK] = bytes(BLOCK)

    def flush(self) -> None:
        pass


Make = Callable[[Sequence[Blocks | None]], Blocks]


def check_failures(
    stored: Sequence[bytes], make: Make, old: bytes, at: int, length: int, *, full: int | None, step: int = 1, seed: int = 5
) -> None:
    """Write a range with room for 0 bytes, for one, and so on until it fits. ``full``: the one member without room; None: all
    share it."""
    new = content(length, seed=seed)
    after = old[:at] + new + old[at + length :]
    for room in range(0, 1 << 16, step):
        disk = Disk(room)
        members = [Full(one, disk if full in (None, index) else Disk(1 << 20)) for index, one in enumerate(stored)]
        array = make(members)
        made = writable(array)
        try:
            made.write(at, memoryview(new))
        except NoSpace:
            kept = read(array, 0, array.size)
            assert all(one in pair for one, pair in zip(kept, zip(old, after, strict=True), strict=True))
            check_left_out(members, make, kept)
            disk.room = 1 << 20
            made.write(at, memoryview(new))
            check_left_out(members, make, after)
        else:
            check_left_out(members, make, after)
            return
    pytest.fail("never fits")


def check_left_out(members: Sequence[Blocks], make: Make, want: bytes) -> None:
    """Whichever member is left out, the array reads the same."""
    for left_out in range(len(members)):
        array = make([None if index == left_out else member for index, member in enumerate(members)])
        assert read(array, 0, array.size) == want


@pytest.mark.parametrize("full", [0, 1, 2, None])
def test_mirror(full: int | None) -> None:
    old = content(200)
    check_failures([old, old, old], lambda members: Mirrored(members, 200), old, 33, 120, full=full)


def test_mirror_copies_are_alike() -> None:
    """Each of three, not only those that are read first."""
    old, new = content(2000), content(1200, seed=2)
    for full in range(3):
        for room in range(0, 1200, 61):
            members = [Full(old, Disk(room if index == full else 9999)) for index in range(3)]
            with pytest.raises(NoSpace):
                writable(Mirrored(members, 2000)).write(300, memoryview(new))
            assert members[0].changed == members[1].changed == members[2].changed


@pytest.mark.parametrize("geometry", [(3, 2, 1, False), (4, 2, 2, False), (3, 1, 2, False), (5, 1, 3, True)])
@pytest.mark.parametrize("full", [0, 1, None])
def test_raid10(geometry: tuple[int, int, int, bool], full: int | None) -> None:
    _, near, far, is_offset = geometry
    rows = picture_rows(RAID10_PICTURES[geometry])
    size = (max(int(cell) for row in rows for cell in row) + 1) * 32
    old = content(size)

    def make(members: Sequence[Blocks | None]) -> Raid10:
        return Raid10(members, 32, size, near, far, is_offset)

    check_failures(raid10_members(RAID10_PICTURES[geometry], old, 32), make, old, 17, min(75, size - 17), full=full)


@pytest.mark.parametrize("layout", ["left-symmetric", "parity-last", "raid6-left-symmetric", "ddf-n-continue"])
@pytest.mark.parametrize("full", [0, 3, None])
@pytest.mark.parametrize(("chunk", "at", "length", "step"), [(32, 20, 200, 1), (32, 70, 9, 1), (1536, 900, 4000, 397)])
def test_parity(layout: str, full: int | None, chunk: int, at: int, length: int, step: int) -> None:
    rows = picture_rows(PICTURES[layout])
    size = chunk * sum(cell not in "PQ" for cell in rows[0]) * 4
    old = content(size)

    def make(members: Sequence[Blocks | None]) -> ParityArray:
        return ParityArray(members, chunk, size, ParityLayout(layout))

    check_failures(parity_members(layout, old, chunk), make, old, at, length, full=full, step=step)


def test_raid6_without_two() -> None:
    """Both parities fit the data."""
    old = content(32 * 12)
    for room in range(0, 250, 7):
        disk = Disk(room)
        members = [Full(one, disk) for one in parity_members("raid6-parity-last", old, 32)]
        array = ParityArray(members, 32, len(old), ParityLayout.RAID6_PARITY_N)
        with pytest.raises(NoSpace):
            writable(array).write(10, memoryview(content(300, seed=9)))
        kept = read(array, 0, array.size)
        for one in range(5):
            for two in range(one):
                rest = [None if index in (one, two) else member for index, member in enumerate(members)]
                assert read(ParityArray(rest, 32, len(old), ParityLayout.RAID6_PARITY_N), 0, len(old)) == kept


def test_discarded_copies() -> None:
    """The ends of the range are written, and may not fit."""
    old = content(3000)
    for full in (0, 1):
        for room in range(0, 312 + 452, 19):
            members = [Full(old, Disk(room if index == full else 9999)) for index in range(2)]
            with pytest.raises(NoSpace):
                writable(Mirrored(members, 3000)).discard(200, 2300)
            assert members[0].changed == members[1].changed
            assert members[0].changed[:200] + members[0].changed[2500:] == old[:200] + old[2500:]
            assert members[0].changed[512:2048] == bytes(1536)


def arrays(disk: Disk) -> list[tuple[list[Full], Blocks]]:
    """A mirror and a RAID 5 of two data chunks, with their members."""
    old = content(4096)
    copies = [Full(old, disk) for _ in range(3)]
    parity = [Full(one, disk) for one in parity_members("parity-last", content(6144), 2048)]
    return [(copies, Mirrored(copies, 4096)), (parity, ParityArray(parity, 2048, 6144, ParityLayout.PARITY_N))]


@pytest.mark.parametrize("which", [0, 1])
def test_what_cannot_be_put_right_is_not_written_again(which: int) -> None:
    class Dying(Disk):
        """Nothing is written any more once it was full."""

        @property
        def room(self) -> int:
            return self._room

        @room.setter
        def room(self, value: int) -> None:
            self._room = value
            self.is_dead |= value == 0

    disk = Dying(5000 if which == 0 else 1500)
    _, array = arrays(disk)[which]
    made, beside = writable(array), writable(array)
    with pytest.raises(Failed) as caught:
        made.write(0, memoryview(content(3000, seed=3)))
    assert caught.value.reason == "members-disagree"
    assert isinstance(caught.value.__context__, NoSpace)
    assert read(made, 4000, 96) == read(array, 4000, 96)
    disk.room, disk.is_dead = 99_999, False
    refused: list[WritableBlocks] = [made, beside, writable(array)]
    for one in refused:
        with pytest.raises(Failed, match="not written any more"):
            one.write(0, memoryview(b"x"))
    if which == 0:
        with pytest.raises(Failed, match="not written any more"):
            made.discard(0, 512)


@pytest.mark.parametrize("member", [0, 1, 2])
@pytest.mark.parametrize("which", [0, 1])
def test_a_bad_sector_where_a_write_fails(which: int, member: int) -> None:
    """It stays the only thing that is wrong, and reads as what was there or what was to be there."""
    disk = Disk(4500 if which == 0 else 3500)
    members, array = arrays(disk)[which]
    old = read(array, 0, array.size)
    members[member].bad = range(1024, 1536)
    new = content(1800, seed=4)
    with pytest.raises(NoSpace):
        writable(array).write(100, memoryview(new))
        writable(array).write(100 + 2048, memoryview(new))
    kept = read(array, 0, array.size)
    whole = old[:100] + new + old[1900:2148] + new + old[3948:]
    assert all(one in pair for one, pair in zip(kept, zip(old, whole, strict=False), strict=False))


@pytest.mark.parametrize("which", [0, 1])
def test_a_member_that_is_away_for_a_while(which: int) -> None:
    """Nobody knows what it will give when it comes back."""

    class Leaving(Full):
        def write(self, offset: int, content: memoryview) -> None:
            self.bad, self.reason = range(self.size), "timeout"
            raise NoSpace("full")

    for index in (0, 1, -1):
        disk = Disk(9999)
        members, _ = arrays(disk)[which]
        members[index] = Leaving(bytes(members[index].content), disk)
        array = Mirrored(members, 4096) if which == 0 else ParityArray(members, 2048, 4096, ParityLayout.PARITY_N)
        with pytest.raises(Failed) as caught:
            writable(array).write(0, memoryview(content(4000, seed=8)))
        assert caught.value.reason == "members-disagree"
