"""Volumes that are not written although everything that they lie on could be: what LVM's and MD's metadata say against it."""

from __future__ import annotations

import pytest

from contract.md_builder import UUID_TEXT, member1
from mntapi.blocks import Slice, read
from mntapi.blocks.memory_overlay import MemoryOverlay
from mntapi.blocks.writable import writable
from mntapi.errors import Unsupported
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.volumes import lvm, md
from mntapi.volumes.lvm import mirror
from unit.lvm_builder import EXTENT, Memory, disk, group_text, linear, volume
from unit.test_lvm_raid_state import make, superblock

CONTENT = bytes(range(256)) * 64


def refused(blocks: Blocks) -> str:
    with pytest.raises(Unsupported) as caught:
        writable(blocks)
    assert caught.value.reason == "read-only"
    return str(caught.value)


def overlaid(content: bytes, name: str) -> Volume:
    """The volume a scan would claim, on an overlay."""
    return Volume(id=f"disk:{name}", name=name, kind="disk", blocks=MemoryOverlay(Memory(content)), disk=0, offset=0)


def logical(text: str) -> dict[str, Volume]:
    """The volumes of a group on one disk, by name."""
    claimed = [overlaid(disk("one", group_text(text), fill="one"), "disk0")]
    return {one.name: one for one in lvm.volumes(claimed) if one.kind == "lvm"}


def test_a_logical_volume_that_is_read_only() -> None:
    """Its group says so; the origin of thin volumes must be so."""
    both = volume("a", linear(0, 1, "pv0", 1)) + volume("b", linear(0, 1, "pv0", 2)).replace('"WRITE", ', "")
    first, second = logical(both).values()
    assert "read-only" in refused(second.blocks)
    made = writable(first.blocks)
    made.write(5, memoryview(b"written"))
    assert read(first.blocks, 5, 7) == b"written" and first.size == EXTENT


def test_a_mirror_that_is_not_clean() -> None:
    overlay = MemoryOverlay(Memory(CONTENT))
    assert writable(mirror.trusted(overlay, b"\xff\xff", 1024)) is overlay
    assert refused(mirror.trusted(overlay, b"\xff\x7f", 1024)) == "the mirror's log says that its copies differ"


def test_parity_that_was_not_yet_computed() -> None:
    blocks = [superblock(index, 3, "raid5_ls", synchronised=0) for index in range(3)]
    assert "never computed" in refused(make("raid5_ls", list(blocks), size=2).blocks)


def array(*members: bytes) -> Volume:
    (found,) = [one for one in md.volumes([overlaid(one, f"disk{n}") for n, one in enumerate(members)]) if one.kind == "md"]
    assert found.id == f"md:{UUID_TEXT}"
    return found


def test_a_mirror_that_is_being_replaced() -> None:
    """One member is copied to another, which knows how far; what is written would not reach it there."""
    roles = (0, 1, 1)
    members = [member1(CONTENT, roles, number=number, raid_disks=2) for number in range(2)]
    writable(array(*members).blocks).write(0, memoryview(b"x"))
    replacement = member1(CONTENT, roles, number=2, raid_disks=2, features=1 << 4 | 1 << 1, recovery_offset=8)
    found = array(*members, replacement)
    assert found.state is VolumeState.OK
    assert "is being replaced" in refused(found.blocks)


def test_a_log_of_partial_parity() -> None:
    """Linux computes parity of it after a crash."""
    common = {"level": 5, "layout": 2, "chunk": 8, "raid_disks": 3}
    for resync, features, is_written in ((0, 1 << 8, False), (0, 0, True), ((1 << 64) - 1, 1 << 8, True), (0, 1 << 11, False)):
        members = [
            member1(CONTENT, (0, 1, 2), number=number, features=features, resync_offset=resync, **common) for number in range(3)
        ]
        blocks = array(*members).blocks
        if is_written:
            writable(blocks).write(0, memoryview(b"x"))
        else:
            assert "partial parity" in refused(blocks)


def test_a_mirror_that_lacks_a_member() -> None:
    one = array(member1(CONTENT, (0, 1), number=0))
    assert one.state is VolumeState.DEGRADED
    assert "member 1 (device number 1) of 2 is missing" in refused(one.blocks)
    assert refused(Slice(one.blocks, 512, 512)) == f"degraded: {one.reason}"


def test_members_of_which_there_are_copies() -> None:
    """What is written would reach one of them, and the next who opens the set would be refused both."""
    members = [member1(CONTENT, (0, 1), number=number, raid_disks=2) for number in (0, 1)]
    twice = array(*members, members[0])
    assert twice.state is VolumeState.OK and "a copy of a member is in the set" in refused(twice.blocks)
    older = member1(CONTENT, (0, 1), number=0, raid_disks=2, events=9)
    writable(array(*members, older).blocks).write(0, memoryview(b"x"))


def test_disks_of_a_group_of_which_there_are_copies() -> None:
    text = group_text(volume("both", linear(0, 1, "pv0", 0), linear(1, 1, "pv1", 0)), physical=("one", "two"))
    claimed = [overlaid(disk(seed, text), f"disk{n}") for n, seed in enumerate(("one", "two", "one"))]
    (both,) = (one for one in lvm.volumes(claimed) if one.kind == "lvm")
    assert both.state is VolumeState.OK and "a copy of one of its disks is in the set" in refused(both.blocks)


def test_a_logical_volume_that_lacks_a_disk() -> None:
    """What lies on it is not written either: it would not be told that the volume is incomplete."""
    text = group_text(volume("both", linear(0, 1, "pv0", 0), linear(1, 1, "pv1", 0)), physical=("one", "two"))
    (both,) = (one for one in lvm.volumes([overlaid(disk("one", text), "disk0")]) if one.kind == "lvm")
    assert both.state is VolumeState.INCOMPLETE
    assert "is missing" in refused(Slice(both.blocks, 0, 512))
