"""Which disks make a group and which volumes it has: generations, copies, strangers, descriptions that contradict."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from mntapi.blocks import Fault, HostFile, Slice, read
from mntapi.errors import MntapiError, ReadFailed
from mntapi.types import Volume, VolumeState
from mntapi.volumes import copies, lvm
from mntapi.volumes.lvm import references
from mntapi.volumes.scan import find_volumes, scan
from unit.lvm_builder import (
    AREA_AT,
    AREA_SIZE,
    DATA_AT,
    EXTENT,
    SECTOR,
    Memory,
    area,
    disk,
    found,
    group_text,
    label,
    linear,
    segment,
    uuid,
    volume,
)

OK, INCOMPLETE, DAMAGED, UNSUPPORTED = (
    VolumeState.OK,
    VolumeState.INCOMPLETE,
    VolumeState.DAMAGED,
    VolumeState.UNSUPPORTED,
)


CACHED = volume(
    "x",
    segment(0, 1, "cache", 'origin = "y" cache_pool = "z" metadata_start = 0 metadata_len = 257 data_start = 0 data_len = 1'),
) + volume("y", linear(0, 1, "pv0", 0), visible=False)


def claim(*disks: bytes | Volume) -> list[Volume]:
    return [one if isinstance(one, Volume) else found(one, f"disk{index}") for index, one in enumerate(disks)]


def logical(*disks: bytes | Volume) -> dict[str, Volume]:
    """The logical volumes on these disks by name, as the scheme gives them."""
    claimed = [
        content if isinstance(content, Volume) else found(content, f"disk{index}") for index, content in enumerate(disks)
    ]
    assert all(lvm.claims(one) for one in claimed)
    return {one.name: one for one in lvm.volumes(claimed) if one.kind == "lvm"}


def physical(*disks: bytes | Volume) -> list[Volume]:
    """What the scheme says of these disks themselves, in their order."""
    claimed = [
        content if isinstance(content, Volume) else found(content, f"disk{index}") for index, content in enumerate(disks)
    ]
    told = {one.id: one for one in lvm.volumes(claimed) if one.kind == "disk"}
    return [told[one.id] for one in claimed]


def begins(one: Volume, extent: int = 0) -> bytes:
    """The text an extent of the builder's disks begins with."""
    return read(one.blocks, extent * EXTENT, 40).split(b".")[0]


def two(text: str) -> tuple[bytes, bytes]:
    return disk("one", text), disk("two", text)


def test_what_is_claimed() -> None:
    assert lvm.claims(found(disk("one", group_text(""))))
    assert not lvm.claims(found(bytes(4096)))
    assert not lvm.claims(found(b""))
    with pytest.raises(ReadFailed):
        lvm.claims(Volume(id="x", name="x", kind="disk", blocks=Fault(Memory(bytes(4096)), bad=[(0, 1)])))


def test_volumes_and_what_is_told_of_them() -> None:
    text = group_text(
        volume("data", linear(0, 2, "pv0", 3), linear(2, 1, "pv1", 0), more='tags = ["nightly"]')
        + volume("lo-gs", linear(0, 1, "pv1", 7))
        + volume("hidden", linear(0, 1, "pv1", 8), visible=False),
        physical=("one", "two"),
        name="my-vg",
    )
    volumes = logical(*two(text))
    assert set(volumes) == {"my--vg-data", "my--vg-lo--gs"}
    data, logs = volumes["my--vg-data"], volumes["my--vg-lo--gs"]
    assert (data.id, data.state, data.reason, data.size) == (f"lvm:{uuid('data')}", OK, None, 3 * EXTENT)
    assert data.details == {"vg": "my-vg", "segments": "linear", "tags": "nightly"}
    assert (data.members, data.disk, data.offset) == (("disk:disk0", "disk:disk1"), None, None)
    assert (logs.members, logs.disk, logs.offset) == (("disk:disk1",), 0, DATA_AT + 7 * EXTENT)
    assert [begins(data, extent) for extent in range(3)] == [b"one 3", b"one 4", b"two 0"]
    one, other = physical(*two(text))
    assert one.details["pv uuid"] == uuid("one")
    assert (one.details["vg"], one.details["size"], one.details["free"]) == ("my-vg", str(16 * EXTENT), str(14 * EXTENT))
    assert other.details["free"] == str(13 * EXTENT)
    assert (one.state, one.reason) == (OK, None)


def test_an_exported_group_and_one_of_another_machine_are_just_read() -> None:
    text = group_text(volume("data", linear(0, 1, "pv0", 0))).replace('["RESIZEABLE"', '["EXPORTED", "CLUSTERED"', 1)
    assert begins(logical(disk("one", text))["vg-data"]) == b"one 0"
    assert physical(disk("one", text))[0].details["exported"] == "yes"


def test_the_newest_generation_wins() -> None:
    old = group_text(volume("data", linear(0, 1, "pv0", 0)), physical=("one", "two"), generation=9)
    new = group_text(volume("data", linear(0, 1, "pv1", 5)), physical=("one", "two"), generation=10)
    for pair in ((disk("one", old), disk("two", new)), (disk("two", new), disk("one", old))):
        assert begins(logical(*pair)["vg-data"]) == b"two 5"


def test_two_copies_on_one_disk_and_damage_to_each() -> None:
    size, second = AREA_SIZE // 2, AREA_AT + AREA_SIZE // 2
    old = group_text(volume("data", linear(0, 1, "pv0", 1)), generation=1).encode()
    new = group_text(volume("data", linear(0, 1, "pv0", 2)), generation=2).encode()

    def content(*, broken: int | None = None) -> bytes:
        made = bytearray(disk("one", ""))
        made[SECTOR : 2 * SECTOR] = label("one", len(made), areas=[(AREA_AT, size), (second, size)])
        made[AREA_AT:second] = area(old, size=size)
        made[second : second + size] = area(new, start=second, size=size)
        if broken is not None:
            made[broken] ^= 1
        return bytes(made)

    assert begins(logical(content())["vg-data"]) == b"one 2"
    assert begins(logical(content(broken=AREA_AT + 600))["vg-data"]) == b"one 2"
    assert begins(logical(content(broken=second + 600))["vg-data"]) == b"one 1"
    (told,) = physical(content(broken=second + 600))
    assert told.state is OK
    assert told.reason is not None and f"at byte {second + SECTOR}" in told.reason and "checksum" in told.reason


def test_a_wrapped_text() -> None:
    text = group_text(volume("data", linear(0, 1, "pv0", 2)))
    assert begins(logical(disk("one", text, at=AREA_SIZE - 90))["vg-data"]) == b"one 2"


def test_disks_without_metadata_are_found_through_the_others() -> None:
    text = group_text(volume("data", linear(0, 1, "pv1", 2)), physical=("one", "two"))
    bare = bytearray(disk("two", ""))
    bare[SECTOR : 2 * SECTOR] = label("two", len(bare), areas=())
    ignored = disk("two", group_text("", generation=99), flags=1)
    for other in (bytes(bare), ignored):
        assert begins(logical(disk("one", text), other)["vg-data"]) == b"two 2"
        (alone,) = physical(other)
        assert alone.state is INCOMPLETE
        assert alone.reason is not None and "belongs to a volume group" in alone.reason


def test_a_disk_without_metadata_that_two_groups_list() -> None:
    first = group_text(volume("data", linear(0, 1, "pv1", 2)), physical=("one", "bare"))
    second = group_text(volume("data", linear(0, 1, "pv1", 3)), physical=("two", "bare"), name="other")
    bare = bytearray(disk("bare", ""))
    bare[SECTOR : 2 * SECTOR] = label("bare", len(bare), areas=())
    volumes = logical(disk("one", first), disk("two", second), bytes(bare))
    assert {one.state for one in volumes.values()} == {INCOMPLETE}
    assert physical(disk("one", first), disk("two", second), bytes(bare))[2].state is INCOMPLETE


def test_a_disk_of_no_group() -> None:
    (told,) = physical(disk("one", None))
    assert (told.state, told.reason, told.details) == (OK, None, {"pv uuid": uuid("one")})


def test_disks_that_are_damaged() -> None:
    content = bytearray(disk("one", group_text("")))
    content[SECTOR + 100] ^= 1
    broken_label = bytes(content)
    content = bytearray(disk("two", group_text("")))
    content[AREA_AT + 100] ^= 1
    one, two_, good = physical(broken_label, bytes(content), disk("three", None))
    assert one.state is two_.state is DAMAGED and good.state is OK
    assert one.reason is not None and one.reason.startswith("disk0: the checksum of the LVM2 label is wrong (at byte 528")
    assert two_.reason is not None and two_.reason.startswith(
        "disk1: the metadata's header or its checksum is wrong (at byte 4096"
    )


def test_a_label_that_went_away() -> None:
    (told,) = physical(found(bytes(4096)))
    assert told.state is DAMAGED and told.reason == "the LVM2 label is no longer there (at byte 0)"


def test_a_missing_disk() -> None:
    text = group_text(
        volume("both", linear(0, 1, "pv0", 0), linear(1, 1, "pv1", 0)) + volume("first", linear(0, 1, "pv0", 1)),
        physical=("one", "two"),
    )
    volumes = logical(disk("one", text))
    both = volumes["vg-both"]
    assert (both.state, both.reason, both.size) == (INCOMPLETE, f"PV {uuid('two')} is missing", 2 * EXTENT)
    assert begins(both) == b"one 0"
    with pytest.raises(ReadFailed, match=uuid("two")):
        read(both.blocks, EXTENT - 1, 2)
    assert volumes["vg-first"].state is OK


def test_a_disk_that_is_cut_off() -> None:
    text = group_text(volume("data", linear(0, 3, "pv0", 0)))
    volumes = logical(disk("one", text)[: DATA_AT + EXTENT + 100])
    data = volumes["vg-data"]
    assert (data.state, data.reason) == (INCOMPLETE, f"PV {uuid('one')} ends before its data does")
    assert begins(data) == b"one 0" and data.size == 3 * EXTENT
    read(data.blocks, 0, EXTENT + 100)
    with pytest.raises(ReadFailed, match="ends before"):
        read(data.blocks, EXTENT + 100, 1)
    assert logical(disk("one", text)[:DATA_AT])["vg-data"].state is INCOMPLETE


def test_a_disk_the_group_has_let_go() -> None:
    """It was away when the group went on without it; what its own old metadata says is no longer true."""
    old = group_text(volume("data", linear(0, 1, "pv1", 0)), physical=("one", "two"), generation=3)
    new = group_text(volume("data", linear(0, 1, "pv0", 0)), physical=("one",), generation=5)
    assert begins(logical(disk("one", new), disk("two", old))["vg-data"]) == b"one 0"
    _, other = physical(disk("one", new), disk("two", old))
    assert other.reason == "is no longer a part of volume group vg"


def test_a_disk_that_went_to_another_group() -> None:
    old = group_text(volume("data", linear(0, 1, "pv1", 0)), physical=("one", "two"), generation=3)
    other = group_text(volume("new", linear(0, 1, "pv0", 4)), physical=("two",), name="other")
    volumes = logical(disk("one", old), disk("two", other))
    assert volumes["vg-data"].state is INCOMPLETE
    assert begins(volumes["other-new"]) == b"two 4"


def test_groups_of_one_name() -> None:
    first = group_text(volume("data", linear(0, 1, "pv0", 0)))
    second = group_text(volume("data", linear(0, 1, "pv0", 1)), physical=("two",)).replace(uuid("groupvg"), uuid("othergroup"))
    second = second.replace(uuid("data"), uuid("otherdata"))
    claimed = [found(disk("one", first), "disk0"), found(disk("two", second), "disk1")]
    names = [(one.name, one.id, begins(one)) for one in lvm.volumes(claimed) if one.kind == "lvm"]
    assert names == [("vg-data", f"lvm:{uuid('data')}", b"one 0"), ("vg-data", f"lvm:{uuid('otherdata')}", b"two 1")]


def test_metadata_that_differs_in_one_generation() -> None:
    texts = [group_text(volume("data", linear(0, 1, f"pv{index}", 0)), physical=("one", "two")) for index in (0, 1)]
    volumes = logical(disk("one", texts[0]), disk("two", texts[1]))
    assert volumes["vg-data"].state is DAMAGED
    assert volumes["vg-data"].reason is not None and "different metadata of the same generation" in volumes["vg-data"].reason
    with pytest.raises(MntapiError):
        read(volumes["vg-data"].blocks, 0, 1)


@pytest.fixture
def opened(tmp_path: Path):
    files = []

    def open_(name: str, content: bytes) -> HostFile:
        (tmp_path / name).write_bytes(content)
        files.append(HostFile.open(str(tmp_path / name)))
        return files[-1]

    yield open_
    for file in files:
        file.close()


def test_copies_of_one_disk(opened) -> None:
    """Twenty machines of one template: every copy has its own volumes, with ids that do not depend on the order."""
    text = group_text(volume("data", linear(0, 1, "pv0", 2)))
    disks = [opened(f"{number}.raw", disk("one", text, fill=f"{number} ")) for number in range(5)]
    volumes = scan(disks, [lvm])
    assert len({one.id for one in volumes}) == 5
    assert sorted((one.members, begins(one)) for one in volumes) == [
        ((f"disk:{number}.raw",), f"{number} one 2".encode()) for number in range(5)
    ]
    assert {one.reason for one in volumes} == {f"PV {uuid('one')} is there 5 times"}
    assert {one.id for one in scan(disks[::-1], [lvm])} == {one.id for one in volumes}


def test_copies_of_a_group_on_several_disks(opened) -> None:
    """What lies on one disk is there twice; what lies on two is refused: any pair might be of two machines."""
    text = group_text(
        volume("both", linear(0, 1, "pv0", 0), linear(1, 1, "pv1", 0)) + volume("first", linear(0, 1, "pv0", 1)),
        physical=("one", "two"),
    )
    disks = [opened(f"{copy}{seed}", disk(seed, text, fill=f"{copy} ")) for copy in "ab" for seed in ("one", "two")]
    found_ = find_volumes(disks, [lvm])
    by_name: dict[str, list[Volume]] = {}
    for one in found_.volumes:
        by_name.setdefault(one.name.partition("~")[0], []).append(one)
    assert sorted(begins(one) for one in by_name["vg-first"]) == [b"a one 1", b"b one 1"]
    (both,) = by_name["vg-both"]
    assert both.state is UNSUPPORTED and len(both.members) == 4
    assert both.reason is not None and "have the same UUID" in both.reason and "one machine at a time" in both.reason
    with pytest.raises(ReadFailed):
        read(both.blocks, 0, 1)
    assert all(one.reason is not None and "2 physical volumes have the UUID" in one.reason for one in found_.containers)


def test_copies_of_a_group_that_are_alike(opened) -> None:
    """A disk and its snapshot: a volume on both disks is made of the first copy of each, and says so."""
    text = group_text(volume("both", linear(0, 1, "pv0", 0), linear(1, 1, "pv1", 0)), physical=("one", "two"))
    disks = [opened(f"{copy}{seed}", disk(seed, text)) for copy in "ab" for seed in ("one", "two")]
    for order in (disks[:3], disks, disks[::-1]):
        (both,) = (one for one in scan(order, [lvm]) if one.kind == "lvm")
        assert both.state is OK and (begins(both), begins(both, 1)) == (b"one 0", b"two 0")
        assert f"PV {uuid('one')} is there 2 times: disk" in (both.reason or "")
        assert "are alike, and the first is used" in (both.reason or "")


def test_copies_that_are_too_much_to_compare(opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """That they are alike is not known, so the volume on both disks is not made of them."""
    monkeypatch.setattr(copies, "LIMIT", EXTENT)
    text = group_text(volume("both", linear(0, 1, "pv0", 0), linear(1, 1, "pv1", 0)), physical=("one", "two"))
    disks = [opened(f"{copy}{seed}", disk(seed, text)) for copy, seed in (("a", "one"), ("a", "two"), ("b", "two"))]
    (both,) = (one for one in scan(disks, [lvm]) if one.kind == "lvm")
    assert both.state is UNSUPPORTED and "disk1, disk2 have the same UUID and hold more than" in (both.reason or "")
    with pytest.raises(ReadFailed, match="too much to compare"):
        read(both.blocks, 0, 1)


@pytest.mark.parametrize("where", [1, 1000, 5 * EXTENT // 2])
def test_copies_that_differ_in_one_place(opened, where: int) -> None:
    """Where the file system on the volume begins, or anywhere else that is compared."""
    text = group_text(volume("both", linear(0, 2, "pv0", 3), linear(2, 1, "pv1", 0)), physical=("one", "two"))
    changed = bytearray(disk("one", text))
    changed[DATA_AT + 3 * EXTENT + where if where < EXTENT else -4096] ^= 1
    disks = [opened("a1", disk("one", text)), opened("b1", bytes(changed)), opened("a2", disk("two", text))]
    (both,) = (one for one in scan(disks, [lvm]) if one.kind == "lvm")
    assert both.state is UNSUPPORTED and "have the same UUID and differ" in (both.reason or "")


def test_copies_that_lvm_changed_are_told_apart(opened) -> None:
    text = {
        "a": group_text(volume("both", linear(0, 1, "pv0", 0), linear(1, 1, "pv1", 0)), physical=("one", "two")),
        "b": group_text(volume("both", linear(0, 1, "pv1", 3), linear(1, 1, "pv0", 3)), physical=("one", "two"), generation=4),
    }
    disks = [opened(f"{copy}{seed}", disk(seed, text[copy], fill=f"{copy} ")) for seed in ("one", "two") for copy in "ab"]
    volumes = scan(disks, [lvm])
    assert sorted((begins(one), begins(one, 1)) for one in volumes) == [(b"a one 0", b"a two 0"), (b"b two 3", b"b one 3")]
    assert all(one.state is OK for one in volumes)


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        (volume("x", linear(0, 1, "x", 0)), "vg-x", "lies on itself"),
        (volume("x", linear(0, 1, "y", 0)) + volume("y", linear(0, 1, "x", 0), visible=False), "vg-x", "lies on itself"),
        (volume("x", segment(0, 1, "thin", 'thin_pool = "x"')), "vg-x", "lies on itself"),
        (volume("x", linear(0, 2, "pv0", 0)) + volume("y", linear(0, 1, "pv0", 1)), "vg-x", "is also used by y"),
        (volume("x", linear(0, 1, "pv0", 1)) + volume("y", linear(0, 9, "pv0", 0)), "vg-x", "is also used by y"),
        (volume("x", linear(0, 1, "pv0", 0), linear(1, 1, "pv0", 0)), "vg-x", "is also used by x"),
        (volume("x", linear(0, 2, "pv0", 15)), "vg-x", "goes past the extents of pv0"),
        (volume("x", linear(0, 1, "nobody", 0)), "vg-x", "a volume that the group has not"),
        (volume("x", linear(0, 1, "y", 1)) + volume("y", linear(0, 1, "pv0", 0), visible=False), "vg-x", "past the end of y"),
        (volume("x", segment(0, 1, "striped", "stripe_count = 2147483648 stripes = []")), "vg-x", "stripe_count is wrong"),
        (volume("x", segment(0, 1, "striped", 'stripe_count = 2 stripes = ["pv0", 1]')), "vg-x", "as many areas"),
        (volume("x", segment(0, 3, "striped", 'stripe_count = 2 stripes = ["pv0", 1, "pv0", 5]')), "vg-x", "evenly"),
        (volume("x", segment(0, 1, "striped", "stripe_count = 1 stripes = [1, 2]")), "vg-x", "names no area"),
        (volume("x", segment(0, 1, "striped", 'stripe_count = 1 stripes = ["pv0", -1]')), "vg-x", "names no area"),
        (volume("x", segment(0, 2, "striped", 'stripe_count = 2 stripes = ["pv0", 1, "pv0", 5]')), "vg-x", "stripe_size"),
        (volume("x", "start_extent = 5"), "vg-x", "extent_count is wrong|does not begin"),
        (volume("x", segment(0, 1, "thin", 'thin_pool = "y"')), "vg-x", "a thin pool that the group has not"),
        (volume("x", segment(0, 1, "cache", 'origin = "y" cache_pool = "z"')), "vg-x", "a volume that the group has not"),
        (CACHED, "vg-x", "a cache that the group has not"),
        (CACHED + volume("z", linear(0, 2, "pv0", 1)), "vg-x", "the metadata goes past the end of the cache"),
    ],
)
def test_descriptions_that_contradict_themselves(text: str, name: str, reason: str) -> None:
    """The volume is DAMAGED, with the place; the others are there."""
    good = volume("good", linear(0, 1, "pv0", 14))
    volumes = logical(disk("one", group_text(text + good)))
    bad = volumes[name]
    assert bad.state is DAMAGED
    assert bad.reason is not None and any(part in bad.reason for part in reason.split("|")), bad.reason
    assert bad.reason.startswith("disk0: ") and "at byte" in bad.reason
    with pytest.raises(MntapiError):
        read(bad.blocks, 0, max(1, bad.size))
    assert begins(volumes["vg-good"]) == b"one 14"


def test_a_volume_on_one_that_is_damaged() -> None:
    text = volume("x", linear(0, 1, "bad", 0)) + volume("bad", linear(1, 1, "pv0", 0), visible=False)
    one = logical(disk("one", group_text(text)))["vg-x"]
    assert one.state is DAMAGED and one.reason is not None and "does not begin where" in one.reason


def test_a_volume_called_like_a_physical_one() -> None:
    text = volume("pv0", linear(0, 1, "pv0", 3)) + volume("x", linear(0, 1, "pv0", 4))
    volumes = logical(disk("one", group_text(text)))
    assert (begins(volumes["vg-pv0"]), begins(volumes["vg-x"])) == (b"one 3", b"one 4")


@pytest.mark.parametrize("upwards", [True, False])
def test_volumes_on_volumes(upwards: bool) -> None:
    depth = references.MAX_NESTING
    chain = [volume(f"v{level}", linear(0, 1, f"v{level - 1}" if level else "pv0", 0)) for level in range(depth + 4)]
    volumes = logical(disk("one", group_text("".join(chain if upwards else chain[::-1]))))
    for level in range(depth + 4):
        one = volumes[f"vg-v{level}"]
        if level <= depth:
            assert begins(one) == b"one 0"
        else:
            assert one.state is UNSUPPORTED
            assert one.reason is not None and f"more than {depth} deep" in one.reason


@pytest.mark.parametrize("kind", ["vdo", "from-the-future"])
def test_kinds_that_are_not_read(kind: str) -> None:
    one = logical(disk("one", group_text(volume("x", segment(0, 2, kind, 'origin = "y"')))))["vg-x"]
    assert (one.state, one.size) == (UNSUPPORTED, 2 * EXTENT)
    assert one.reason is not None and "cannot be read in this version" in one.reason
    with pytest.raises(ReadFailed):
        read(one.blocks, 0, 1)


def test_zero_and_error_segments() -> None:
    text = volume("x", linear(0, 1, "pv0", 0), segment(1, 1, "zero", ""), segment(2, 1, "error", ""))
    one = logical(disk("one", group_text(text)))["vg-x"]
    assert one.state is INCOMPLETE and one.reason is not None and "error segment" in one.reason
    assert begins(one) == b"one 0"
    assert read(one.blocks, EXTENT, EXTENT) == bytes(EXTENT)
    with pytest.raises(ReadFailed, match="given these extents up"):
        read(one.blocks, 2 * EXTENT, 1)


def test_a_thousand_volumes_open_fast() -> None:
    """No time is asserted; 5,000 would show a square."""
    text = group_text("".join(volume(f"lv{number}", linear(0, 1, "pv0", number)) for number in range(1000)), extents=1000)
    content = bytearray(DATA_AT + 1000 * EXTENT)
    content[SECTOR : 2 * SECTOR] = label("one", len(content), areas=[(AREA_AT, DATA_AT - AREA_AT)])
    content[AREA_AT:DATA_AT] = area(text.encode(), size=DATA_AT - AREA_AT)
    started = time.perf_counter()
    volumes = logical(bytes(content))
    print(f"1,000 volumes in {time.perf_counter() - started:.3f} s, {len(text)} bytes of metadata")
    assert len(volumes) == 1000
    assert volumes["vg-lv999"].offset == DATA_AT + 999 * EXTENT


@pytest.mark.skipif(shutil.which("blkid") is None, reason="blkid is not installed")
def test_blkid_takes_the_builders_disks_for_real(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(disk("one", group_text("")))
    told = subprocess.run(["blkid", "-p", "-o", "export", str(tmp_path / "disk")], text=True, capture_output=True, check=True)
    assert "TYPE=LVM2_member" in told.stdout and f"UUID={uuid('one')}" in told.stdout


def test_a_group_on_a_part_of_a_disk() -> None:
    """The place of a volume is told from the disk's start where its container has one."""
    content = disk("one", group_text(volume("data", linear(0, 1, "pv0", 2))))
    inner = Volume(id="p", name="disk3p1", kind="partition", blocks=Slice(Memory(bytes(512) + content), 512, len(content)))
    (data,) = logical(inner).values()
    assert (data.disk, data.offset) == (None, None)
    (data,) = (
        one for one in lvm.volumes([Volume("p", "p", "partition", inner.blocks, disk=3, offset=512)]) if one.kind == "lvm"
    )
    assert (data.disk, data.offset) == (3, 512 + DATA_AT + 2 * EXTENT)
