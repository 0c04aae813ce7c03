"""MD arrays of superblocks made by hand: who takes part, what is said about the rest, and geometries that cannot be."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import permutations

import pytest

from contract.md_builder import UUID_TEXT, member0, member1, version1
from contract.raid_model import Memory, content, parity_members
from mntapi.blocks import read
from mntapi.errors import Corrupt, ReadFailed, Unsupported
from mntapi.types import Volume, VolumeState
from mntapi.volumes import copies, md
from mntapi.volumes.md.array import build, layout_name, survives
from mntapi.volumes.md.superblock import Geometry
from mntapi.volumes.scan import find_volumes

DATA = content(64 * 1024)
CHUNK = 4096
NO_MEMBER = 0xFFFE


def disks(*members: bytes) -> list[Volume]:
    return [
        Volume(id=f"disk:{index}", name=f"disk{index}", kind="disk", blocks=Memory(member), disk=index, offset=0)
        for index, member in enumerate(members)
    ]


def array(*members: bytes) -> Volume:
    """The only array; the order of its members must not matter."""
    found = [
        [volume for volume in md.volumes(order) if volume.kind == "md"] for order in permutations(disks(*members), len(members))
    ]
    assert all(len(volumes) == 1 for volumes in found)
    assert len({(volume.id, volume.state, frozenset(volume.members)) for (volume,) in found}) == 1
    return found[0][0]


def mirror(number: int, data: bytes = DATA, roles: tuple[int, ...] = (0, 1), **fields: int) -> bytes:
    return member1(data, roles, number=number, raid_disks=2, **fields)


def raid5(*, without: Sequence[int] = (), **fields: int) -> list[bytes]:
    parts = parity_members("left-symmetric", DATA[: 12 * CHUNK], CHUNK)
    return [
        member1(part, (0, 1, 2, 3), number=number, level=5, layout=2, chunk=8, **fields)
        for number, part in enumerate(parts)
        if number not in without
    ]


def text(volume: Volume) -> str:
    return volume.reason or ""


def test_a_mirror() -> None:
    volume = array(mirror(0), mirror(1))
    assert (volume.id, volume.name, volume.state, volume.reason) == (f"md:{UUID_TEXT}", "md-made", VolumeState.OK, None)
    assert read(volume.blocks, 0, volume.size) == DATA
    assert volume.details["level"] == "raid1" and volume.details["members"] == "2 of 2"
    assert "layout" not in volume.details


def test_a_stale_member_is_not_read() -> None:
    volume = array(mirror(0, bytes(len(DATA)), events=8), mirror(1))
    assert volume.state is VolumeState.DEGRADED
    assert text(volume) == "member 0 (disk0) is out of date (event 8 of 10)"
    assert volume.details["missing"] == "0 (device number 0, UUID 6465762d:00000000:00000000:00000000)"
    assert read(volume.blocks, 0, volume.size) == DATA
    assert len(volume.members) == 2


def test_one_event_behind_is_what_a_crash_leaves() -> None:
    assert array(mirror(0, events=9), mirror(1)).state is VolumeState.OK


def test_a_failed_member_is_not_read() -> None:
    """It still believes in itself, and is only one event behind."""
    volume = array(mirror(0, bytes(len(DATA)), events=9), mirror(1, roles=(NO_MEMBER, 1)))
    assert "failed, the others say" in text(volume)
    assert read(volume.blocks, 0, volume.size) == DATA


def test_members_that_contradict() -> None:
    assert "contradicts" in text(array(mirror(0, chunk=8), mirror(1, events=11)))
    assert "contradicts" in text(array(mirror(0, roles=(1, 1)), mirror(1, events=11)))


def test_copies_of_a_member_that_are_alike() -> None:
    """A snapshot and its original: the first is used, and the array is whole."""
    volume = array(mirror(0), mirror(0), mirror(1))
    assert (volume.state, text(volume)) == (VolumeState.OK, "disk1 is a copy of member 0, of which disk0 is used")
    assert read(volume.blocks, 0, volume.size) == DATA and len(volume.members) == 3
    both = array(mirror(0), mirror(0), mirror(0), mirror(1), mirror(1))
    assert text(both).startswith("disk1, disk2 are copies of member 0, of which disk0 is used; disk4 is a copy of member 1")
    assert (both.state, read(both.blocks, 0, both.size)) == (VolumeState.OK, DATA)


def test_of_copies_the_one_with_the_most_events_is_used() -> None:
    for older in ({"events": 9}, {"updated": 4}):
        volume = array(mirror(0, bytes(len(DATA)), **older), mirror(0, updated=5), mirror(1, updated=5))
        assert text(volume) == "disk0 is a copy of member 0, of which disk1 is used"
        assert (volume.state, read(volume.blocks, 0, volume.size)) == (VolumeState.OK, DATA)


def test_copies_of_a_member_that_differ() -> None:
    """Which one is right cannot be told: the mirror's other half is read."""
    volume = array(mirror(0, bytes(len(DATA))), mirror(0), mirror(1))
    assert "disk0, disk1 are copies of the same member 0 and differ" in text(volume)
    assert (volume.state, read(volume.blocks, 0, volume.size)) == (VolumeState.DEGRADED, DATA)
    roles = (0, 0)
    both = [mirror(number, roles=roles, device_uuid=b"dev" + bytes([number]) * 13) for number in (0, 1)]
    assert "all say that they are member 0" in text(array(*both, mirror(0, roles=roles)))


def test_a_mirror_of_nothing_but_copies_that_differ() -> None:
    """One of them alone: it is what the array was at some time, and no mixture of times."""
    volume = array(mirror(0), mirror(0, bytes(len(DATA))), mirror(1), mirror(1, b"1" * len(DATA)))
    assert text(volume).endswith("member 0 (disk0) is used alone") and volume.state is VolumeState.DEGRADED
    assert read(volume.blocks, 0, volume.size) == DATA


def test_copies_that_differ_are_never_put_together_with_others() -> None:
    first, *others = raid5()
    changed = first[:-1] + b"?"
    volume = array(first, changed, *others)
    assert text(volume).startswith("disk0, disk1 are copies of the same member 0 and differ")
    assert volume.state is VolumeState.DEGRADED
    assert read(volume.blocks, 0, volume.size) == DATA[: 12 * CHUNK]
    whole = array(first, first, *others)
    assert (whole.state, read(whole.blocks, 0, whole.size)) == (VolumeState.OK, DATA[: 12 * CHUNK])


def test_copies_that_are_too_much_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "LIMIT", len(DATA) // 4 - 1)
    first, *others = raid5()
    volume = array(first, first, *others)
    assert "disk0, disk1 are copies of the same member 0 and hold more than" in text(volume)
    assert (volume.state, read(volume.blocks, 0, volume.size)) == (VolumeState.DEGRADED, DATA[: 12 * CHUNK])


def test_spares_are_told() -> None:
    roles = (0, 1, 0xFFFF)
    volume = array(mirror(0, roles=roles), mirror(1, roles=roles), mirror(2, bytes(len(DATA)), roles=roles))
    assert (volume.state, volume.details["spares"]) == (VolumeState.OK, "1")
    assert read(volume.blocks, 0, volume.size) == DATA
    spare = [volume for volume in md.volumes(disks(mirror(2, roles=roles))) if volume.kind == "disk"]
    assert spare[0].details["role"] == "spare"


def test_a_replacement_counts_where_the_member_is_gone() -> None:
    roles = (0, 1, 0)
    new = mirror(2, DATA[:4096] + bytes(len(DATA) - 4096), roles=roles, features=16 | 2, recovery_offset=8)
    assert read(array(mirror(0, roles=roles), new).blocks, 0, len(DATA)) == DATA
    old_gone = array(new, mirror(1, b"\1" * len(DATA), roles=roles))
    assert read(old_gone.blocks, 0, 8192) == b"\1" * 8192


def test_a_member_being_rebuilt() -> None:
    volume = array(mirror(0, DATA[:8192] + bytes(len(DATA) - 8192), features=2, recovery_offset=16), mirror(1))
    assert text(volume) == "member 0 (disk0) is being rebuilt, 8.00 KiB of it are"
    assert volume.state is VolumeState.DEGRADED
    assert read(volume.blocks, 0, volume.size) == DATA
    alone = array(mirror(0, DATA[:8192] + bytes(len(DATA) - 8192), features=2, recovery_offset=16))
    assert alone.state is VolumeState.INCOMPLETE
    assert read(alone.blocks, 0, 8192) == DATA[:8192]
    with pytest.raises(ReadFailed, match="not rebuilt that far"):
        read(alone.blocks, 8192, 1)


def test_a_member_that_is_cut_off() -> None:
    volume = array(mirror(0)[:-8192], mirror(1))
    assert (volume.state, text(volume)) == (VolumeState.DEGRADED, "member 0 (disk0) goes past the end of its disk")
    assert read(volume.blocks, 0, volume.size) == DATA
    nothing_left = array(mirror(0)[:8192], mirror(1))
    assert read(nothing_left.blocks, 0, volume.size) == DATA


def test_parity_that_may_be_wrong_is_told() -> None:
    volume = array(*raid5(without=[1], resync_offset=0))
    assert volume.state is VolumeState.INCOMPLETE
    assert text(volume).endswith("what is computed from its parity may be wrong")
    assert read(volume.blocks, 0, volume.size) == DATA[: 12 * CHUNK]
    whole = array(*raid5(resync_offset=0))
    assert (whole.state, whole.reason) == (VolumeState.OK, None)
    assert "not shut down cleanly" in whole.details["sync"]
    assert "sync" not in array(*raid5()).details


def test_too_few_members() -> None:
    volume = array(*raid5(without=[0, 2]))
    named = "members 0 (device number 0), 2 (device number 2) of 4 are missing"
    assert text(volume) == f"{named} from array {UUID_TEXT}"
    assert volume.size == 12 * CHUNK
    assert read(volume.blocks, CHUNK, CHUNK) == DATA[CHUNK : 2 * CHUNK]
    with pytest.raises(ReadFailed, match="member 0"):
        read(volume.blocks, 0, CHUNK)


def test_what_is_named_and_not_read() -> None:
    for fields, word in (({"features": 4}, "reshape"), ({"features": 512}, "journal"), ({"level": -4}, "multipath")):
        volume = array(mirror(0, **fields), mirror(1, **fields))
        assert volume.state is VolumeState.UNSUPPORTED and word in text(volume)
        assert volume.size == 0 and len(volume.members) == 2
    strange = array(*raid5(without=[0, 1, 2], features=1 << 20))
    assert "0x100000" in text(strange)


def geometry(
    level: int, layout: int | None = None, chunk: int = CHUNK, raid_disks: int = 3, component: int = 65536
) -> Geometry:
    return Geometry(level, layout, chunk, raid_disks, component)


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        (geometry(-5), Unsupported),
        (geometry(7), Unsupported),
        (geometry(5, 6), Unsupported),
        (geometry(6, 7), Unsupported),
        (geometry(10, 0), Unsupported),
        (geometry(10, 0x20102), Unsupported),
        (geometry(5, 2, chunk=0), Corrupt),
        (geometry(5, 2, chunk=12288), Corrupt),
        (geometry(0, 2, chunk=512), Corrupt),
        (geometry(0, 2, chunk=1 << 40), Corrupt),
        (geometry(10, 0x102, chunk=0), Corrupt),
        (geometry(5, 2, component=1 << 63), Corrupt),
    ],
)
def test_geometries_that_cannot_be(shape: Geometry, error: type[Exception]) -> None:
    members = {0: Memory(bytes(65536))} if shape.component < 1 << 63 else {}
    with pytest.raises(error):
        build(shape, members)


def test_impossible_arrays_are_damaged_volumes() -> None:
    volume = array(*[member1(DATA, (0,), raid_disks=1, level=5, chunk=8)])
    assert (volume.state, volume.size) == (VolumeState.DAMAGED, 0)
    assert "at least 2" in text(volume)


def test_names_of_layouts() -> None:
    names = [
        layout_name(geometry(level, layout)) for level, layout in ((5, 2), (6, 16), (10, 0x102), (10, 0x10201), (10, 0x201))
    ]
    assert names == ["left-symmetric", "left-asymmetric-6", "near=2", "offset=2", "far=2"]
    assert [layout_name(geometry(0, layout)) for layout in (None, 1, 2)] == [None, "original", "alternate"]
    assert layout_name(geometry(5, 99)) is layout_name(geometry(1, 0)) is None
    assert layout_name(geometry(10, 0x202)) == "near=2, far=2"
    for level, spare in ((0, 0), (1, 2), (4, 1), (5, 1), (6, 2), (10, 2)):
        assert survives(geometry(level, 0x103), range(spare)) and not survives(geometry(level, 0x103), range(spare + 1))


def striped(level: int, sizes: Sequence[int], present: Sequence[int], layout: int | None) -> list[bytes]:
    """Members whose every byte is their number plus one."""
    members = []
    for number in present:
        part = bytes([number + 1]) * sizes[number]
        features = 4096 if layout else 0
        members.append(
            member1(
                part,
                tuple(range(len(sizes))),
                number=number,
                level=level,
                chunk=8,
                size=0,
                features=features,
                layout=layout or 0,
            )
        )
    return members


def pattern(volume: Volume, start: int = 0) -> str:
    """Which member each chunk came from, ``-`` where it cannot be read."""
    out = ""
    for at in range(start, volume.size, CHUNK):
        try:
            out += str(read(volume.blocks, at, CHUNK)[0] - 1)
        except ReadFailed:
            out += "-"
    return out


def test_unequal_members_of_raid0() -> None:
    sizes = (CHUNK, 3 * CHUNK + 512, 3 * CHUNK)
    assert pattern(array(*striped(0, sizes, (0, 1, 2), 2))) == "0121212"
    assert pattern(array(*striped(0, sizes, (0, 1, 2), 1))) == "0122121"
    unknown = array(*striped(0, sizes, (0, 1, 2), None))
    assert pattern(unknown) == "012----"
    assert (unknown.state, text(unknown)) == (
        VolumeState.INCOMPLETE,
        "the layout of this RAID 0 of unequal members was not recorded",
    )
    with pytest.raises(ReadFailed, match="not recorded"):
        read(unknown.blocks, 3 * CHUNK, 1)


def test_raid0_with_one_missing() -> None:
    """Were the missing one the smallest, the first zone would end before it seems to: nothing is read."""
    assert set(pattern(array(*striped(0, (2 * CHUNK,) * 3, (0, 2), 2)))) == {"-"}
    unequal = array(*striped(0, (CHUNK, 2 * CHUNK, 3 * CHUNK), (0, 2), 2))
    assert set(pattern(unequal)) == {"-"}
    assert text(unequal).startswith("member 1 (device number 1) of 3 is missing from array ")
    assert "; its size is recorded nowhere" in text(unequal)


def test_raid0_of_copies() -> None:
    """Two disks, each twice: alike, one of each is used; else nothing can be read, and how much there would be is not known."""
    members = striped(0, (2 * CHUNK,) * 2, (0, 1), 2)
    assert pattern(array(*members, *members)) == "0101"
    volume = array(*members, *(member[:-1] + b"?" for member in members))
    assert (volume.state, pattern(volume)) == (VolumeState.INCOMPLETE, "-")
    assert text(volume).count("are copies of the same member") == 2


def test_linear_with_one_missing() -> None:
    sizes = (CHUNK, 2 * CHUNK, 3 * CHUNK)
    assert pattern(array(*striped(-1, sizes, (0, 1, 2), None))) == "011222"
    assert pattern(array(*striped(-1, sizes, (0, 2), None))) == "0----"
    assert pattern(array(*striped(-1, sizes, (1, 2), None))) == "-" * 6


def test_linear_without_its_last_member_does_not_end_where_the_others_do() -> None:
    volume = array(*striped(-1, (CHUNK, 2 * CHUNK, 3 * CHUNK), (0, 1), None))
    assert (volume.state, pattern(volume)) == (VolumeState.INCOMPLETE, "011-")


def test_version0_members() -> None:
    data = DATA
    volume = array(member0(data), member0(data, 1))
    assert (volume.name, volume.details["metadata"]) == ("md-00010203", "0.90")
    assert read(volume.blocks, 0, volume.size) == data
    alone = array(member0(data, 1))
    assert alone.state is VolumeState.DEGRADED
    assert text(alone) == f"member 0 (device number 0, was device 8:1) of 2 is missing from array {UUID_TEXT}"


def test_names_are_fit_for_folders() -> None:
    for stored, name in (
        (b"host:a/b\x01c", "md-a_b_c"),
        (b"..", "md-.."),
        (b"host:", "md-00010203"),
        (b"\xff" * 32, "md-" + "\ufffd" * 32),
    ):
        assert array(member1(DATA, set_name=stored), member1(DATA, set_name=stored, number=1)).name == name


def test_through_the_scan() -> None:
    """Members, a damaged superblock, and a firmware's disk in one set: the damage stays where it is."""
    damaged = bytearray(mirror(0))
    damaged[4096 + 20] ^= 1
    intel = bytes(65536 - 1024) + b"Intel Raid ISM Cfg Sig. 1.3.00".ljust(1024, b"\0")
    found = find_volumes([Memory(bytes(damaged)), Memory(mirror(1)), Memory(intel), Memory(bytes(65536))], [md])
    states = {volume.id: (volume.state, volume.reason) for volume in found.volumes}
    assert states["disk:#0"][0] is VolumeState.DAMAGED
    assert "checksum" in (states["disk:#0"][1] or "")
    assert states["disk:#2"] == (
        VolumeState.UNSUPPORTED,
        "belongs to a firmware RAID that is not read: Intel Matrix Storage (IMSM)",
    )
    assert states["disk:#3"] == (VolumeState.OK, None)
    assert states[f"md:{UUID_TEXT}"][0] is VolumeState.DEGRADED
    assert found.containers[0].details["role"] == "1"


def test_a_superblock_that_changes_between_reads() -> None:
    volume = disks(bytes(4096) + version1(checksum=1))[0]
    (told,) = md.volumes([volume])
    assert told.state is VolumeState.DAMAGED and "checksum" in (told.reason or "")


def test_hostile_superblocks() -> None:
    """Any field of any member at any value, with a good checksum: nothing raises, and what is read is told to be there."""
    rng = random.Random(4)
    names = [
        "level",
        "layout",
        "size",
        "chunk",
        "raid_disks",
        "data_offset",
        "data_size",
        "recovery_offset",
        "number",
        "events",
        "features",
    ]
    names += ["log_size", "log_offset", "log_shift", "max_roles", "resync_offset"]
    for _ in range(300):
        members = []
        for number in range(3):
            fields = {
                "number": number,
                "level": rng.choice((-1, 0, 1, 4, 5, 6, 10)),
                "layout": rng.choice((0, 2, 16, 0x102, 0x201)),
            }
            for name in rng.sample(names, rng.randrange(3)):
                fields[name] = rng.choice((0, 1, 2, 8, 127, rng.getrandbits(7)))
            if rng.random() < 0.5:
                fields[rng.choice(("raid_disks", "chunk"))] = rng.choice((1920, 0xFFFFFFFF, 1 << 31, 8))
            members.append(member1(DATA, (0, 1, 2), **fields))
        for volume in find_volumes([Memory(member) for member in members], [md]).volumes:
            for at in (0, volume.size // 2, volume.size - 1):
                try:
                    read(volume.blocks, max(0, at), min(1, volume.size))
                    list(volume.blocks.extents(0, min(volume.size, 1 << 20)))
                except ReadFailed:
                    continue


def test_the_largest_superblocks() -> None:
    """1920 members, of which one is there: each level answers."""
    for level in (-1, 0, 1, 10):
        member = member1(DATA, (0,), level=level, layout=0x102, chunk=8, raid_disks=1920)
        (volume,) = [volume for volume in md.volumes(disks(member)) if volume.kind == "md"]
        assert volume.state is (VolumeState.DEGRADED if level == 1 else VolumeState.INCOMPLETE)
        if level:
            assert read(volume.blocks, 0, 4096) == DATA[:4096]
        assert "members 1, 2, 3, 4, 5, 6, 7, 8 and 1911 more of 1920 are missing" in (volume.reason or "")
