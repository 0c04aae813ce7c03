"""Bad block logs of MD members, made by hand: what is read from the others, and when that is told. Real ones: test_md.py."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from contract.md_builder import DATA_OFFSET, member1
from contract.raid_model import Memory, content, parity_members
from mntapi.blocks import read
from mntapi.errors import ReadFailed
from mntapi.types import Volume, VolumeState
from mntapi.volumes import md

DATA = content(64 * 1024)
CHUNK = 4096


def array(*members: bytes) -> Volume:
    """The only array."""
    disks = [
        Volume(id=f"disk:{index}", name=f"disk{index}", kind="disk", blocks=Memory(one)) for index, one in enumerate(members)
    ]
    (found,) = (volume for volume in md.volumes(disks) if volume.kind == "md")
    return found


def mirror(number: int, data: bytes = DATA, **fields: int | bytes) -> bytes:
    return member1(data, (0, 1), number=number, raid_disks=2, **fields)


def test_bad_blocks() -> None:
    """What a member lists as bad is read from the other, overlapping and strange entries included."""
    start = DATA_OFFSET // 512
    log = struct.pack("<6Q", start << 10 | 8, start + 4 << 10 | 8, 3 << 10 | 8, start + 120 << 10 | 511, 1 << 60, (1 << 64) - 1)
    bad = bytearray(DATA)
    bad[: 12 * 512] = bytes(12 * 512)
    bad[120 * 512 :] = bytes(8 * 512)
    first = mirror(0, bytes(bad), features=8, log_size=8, log_offset=8, log=log)  # type: ignore[arg-type]
    volume = array(first, mirror(1))
    assert volume.state is VolumeState.OK
    assert read(volume.blocks, 0, volume.size) == DATA
    alone = array(first)
    assert alone.state is VolumeState.INCOMPLETE
    assert read(alone.blocks, 12 * 512, 108 * 512) == DATA[12 * 512 : 120 * 512]
    with pytest.raises(ReadFailed, match="bad blocks"):
        read(alone.blocks, 0, 512)


def listed(*sectors: int) -> dict[str, int | bytes]:
    """Fields of a member whose log has eight sectors of its data from each of these on."""
    log = b"".join(struct.pack("<Q", DATA_OFFSET // 512 + sector << 10 | 8) for sector in sectors)
    return {"features": 8, "log_size": 8, "log_offset": 8, "log": log} if sectors else {}


@pytest.mark.parametrize("lists", [((0,), (8,)), ((0,), (4,)), ((16,), (0, 16)), ((0, 120), ())])
def test_bad_blocks_in_the_same_place(lists: Sequence[Sequence[int]]) -> None:
    """It is told if some are in no other member, and only then."""
    volume = array(*(mirror(number, **listed(*sectors)) for number, sectors in enumerate(lists)))  # type: ignore[arg-type]
    lost = is_unreadable(volume)
    assert volume.state is (VolumeState.INCOMPLETE if lost else VolumeState.OK)
    told = "bad blocks of member 0 (disk0), member 1 (disk1) may be in no other member"
    assert volume.reason == (told if lost else None)


@pytest.mark.parametrize("lists", [((0,), (8,), (16,), (24,)), ((0,), (), (), (0,)), ((), (4,), (8,), ()), ((0,), (), (), ())])
@pytest.mark.parametrize("gone", [None, 1, 3])
def test_bad_blocks_and_parity(lists: Sequence[Sequence[int]], gone: int | None) -> None:
    parts = parity_members("left-symmetric", DATA, CHUNK)
    whole = [
        member1(part, (0, 1, 2, 3), number=number, level=5, layout=2, chunk=8, raid_disks=4, **listed(*sectors))
        for number, (part, sectors) in enumerate(zip(parts, lists, strict=True))
        if number != gone
    ]
    volume = array(*whole)
    expected = VolumeState.OK if gone is None else VolumeState.DEGRADED
    assert volume.state is (VolumeState.INCOMPLETE if is_unreadable(volume) else expected)


def is_unreadable(volume: Volume) -> bool:
    """Whether any sector is; all others are what they should be."""
    lost = False
    for at in range(0, volume.size, 512):
        try:
            assert read(volume.blocks, at, 512) == DATA[at : at + 512]
        except ReadFailed:
            lost = True
    return lost


def test_bad_blocks_and_a_member_that_is_rebuilt() -> None:
    """What one has not yet, and the other has no longer."""
    parts = parity_members("left-symmetric", DATA, CHUNK)
    more = [{"features": 2, "recovery_offset": 8}, listed(24), {}, {}]
    members = [
        member1(part, (0, 1, 2, 3), number=number, level=5, layout=2, chunk=8, raid_disks=4, **fields)  # type: ignore[arg-type]
        for number, (part, fields) in enumerate(zip(parts, more, strict=True))
    ]
    volume = array(*members)
    assert volume.state is VolumeState.INCOMPLETE and is_unreadable(volume)
    assert (volume.reason or "").endswith("bad blocks of member 1 (disk1) may be in no other member")


@pytest.mark.parametrize(("bad", "state"), [((0, 2), VolumeState.OK), ((0, 1), VolumeState.INCOMPLETE)])
def test_bad_blocks_of_raid_10(bad: Sequence[int], state: VolumeState) -> None:
    """Copies may be in different places: two members that share a chunk are not sure to have all."""
    parts = [DATA[: 8 * CHUNK]] * 4
    members = [
        member1(
            part,
            (0, 1, 2, 3),
            number=number,
            level=10,
            layout=0x102,
            chunk=8,
            raid_disks=4,
            **listed(*([8] if number in bad else [])),
        )
        for number, part in enumerate(parts)
    ]
    assert array(*members).state is state


def test_a_bad_block_log_that_is_gone() -> None:
    """What of the member may be believed is not known, so nothing of it is."""
    volume = array(mirror(0, bytes(len(DATA)), features=8, log_size=8, log_offset=1 << 20), mirror(1))
    assert volume.state is VolumeState.DEGRADED
    assert "member 0 (disk0) cannot be used: the MD bad block log is past the end" in (volume.reason or "")
    assert read(volume.blocks, 0, volume.size) == DATA


def test_bad_blocks_and_parity_that_is_not_sure() -> None:
    """Like a member that is missing: what is computed may be wrong, and that is told."""
    parts = parity_members("left-symmetric", DATA[: 12 * CHUNK], CHUNK)
    fields = {"level": 5, "layout": 2, "chunk": 8, "raid_disks": 4, "resync_offset": 0}
    whole = [member1(part, (0, 1, 2, 3), number=number, **fields) for number, part in enumerate(parts)]
    assert array(*whole).state is VolumeState.OK
    volume = array(member1(parts[0], (0, 1, 2, 3), number=0, **fields, **listed(0)), *whole[1:])
    assert volume.state is VolumeState.INCOMPLETE
    told = "bad blocks of member 0 (disk0) are computed from parity, which may be wrong: it was not shut down cleanly"
    assert volume.reason == told
