"""What superblocks and logs say of images and copies, and what is then read. The kernel's own arrays: tests/contract."""

from __future__ import annotations

import struct

import pytest

from mntapi.blocks import read
from mntapi.errors import Corrupt, MntapiError, ReadFailed, Unsupported
from mntapi.types import Volume, VolumeState
from mntapi.volumes import lvm
from mntapi.volumes.lvm import mirror
from mntapi.volumes.lvm.superblock import ALL, parse_superblock
from unit.lvm_builder import DATA_AT, EXTENT, Memory, disk, found, group_text, linear, segment, uuid, volume

DEGRADED, INCOMPLETE, DAMAGED, UNSUPPORTED, OK = (
    VolumeState.DEGRADED,
    VolumeState.INCOMPLETE,
    VolumeState.DAMAGED,
    VolumeState.UNSUPPORTED,
    VolumeState.OK,
)
KINDS = {"raid1": (1, 0, 0), "raid4": (5, 4, 128), "raid5_ls": (5, 2, 128), "raid5_n": (5, 5, 128), "raid10": (10, 0x102, 128)}
"""Level, layout, sectors in a stripe, as Linux 6.1 stores them."""


def superblock(
    position: int,
    count: int,
    kind: str,
    *,
    events: int = 5,
    failed: int = 0,
    rebuilt: int = ALL,
    synchronised: int = ALL,
    features: int = 1,
    flags: int = 0,
    array: int = 0,
    offset: int = 0,
    more: int = 0,
    incompatible: int = 0,
) -> bytes:
    """A superblock of dm-raid; offsets in sectors."""
    level, layout, chunk = KINDS[kind]
    return struct.pack(
        "<4s3I4Q3IIQ4I4Q3QI",
        b"DmRd", features, count, position, events, failed, rebuilt, synchronised, level, layout, chunk,
        flags, ALL, level, layout, chunk, 0, array, offset, offset, 0, more, 0, 0, incompatible,
    )  # fmt: skip


def raid_text(kind: str, count: int, *, data: int = 1, size: int = 1, more: str = "", status: str = "") -> str:
    """A RAID volume r: images of ``data`` extents on pv0, pv1 ..., from extent 1 on, their superblocks in extent 0."""
    level, _, chunk = KINDS[kind]
    names = ", ".join(f'"r_rmeta_{index}", "r_rimage_{index}"' for index in range(count))
    stripe = f"stripe_size = {chunk}" if level != 1 else ""
    top = volume("r", segment(0, size, kind, f"device_count = {count} region_size = 128 {stripe} raids = [{names}] {more}"))
    for index in range(count):
        top += volume(f"r_rmeta_{index}", linear(0, 1, f"pv{index}", 0), visible=False)
        image = volume(f"r_rimage_{index}", linear(0, data, f"pv{index}", 1), visible=False)
        top += image.replace('"WRITE"', '"WRITE", "REBUILD"') if status == f"REBUILD {index}" else image
    return top


def make(kind: str, blocks: list[bytes | None], *, missing: tuple[int, ...] = (), **options) -> Volume:
    """The array of a volume group with one disk for each superblock (None: none was ever written)."""
    marked = options.pop("marked", ())
    seeds = [f"disk{index}" for index in range(len(blocks))]
    text = group_text(raid_text(kind, len(blocks), **options), physical=seeds)
    for index in marked:
        text = text.replace(
            f'id = "{uuid(seeds[index])}" status = ["ALLOCATABLE"] flags = []',
            f'id = "{uuid(seeds[index])}" status = ["ALLOCATABLE"] flags = ["MISSING"]',
        )
    claimed = []
    for index, block in enumerate(blocks):
        content = bytearray(disk(seeds[index], text))
        if block is not None:
            content[DATA_AT : DATA_AT + len(block)] = block
        if index not in missing:
            claimed.append(found(bytes(content), seeds[index]))
    (one,) = (one for one in lvm.volumes(claimed) if one.kind == "lvm")
    return one


def begins(one: Volume, at: int = 0) -> bytes:
    return read(one.blocks, at, 20).split(b".")[0]


def mirrors(count: int = 2, **changes: dict[str, int]) -> list[bytes | None]:
    return [superblock(index, count, "raid1", **changes.get(f"_{index}", {})) for index in range(count)]


def fives(**options) -> list[bytes | None]:
    return [superblock(index, 3, "raid5_ls", **options) for index in range(3)]


def test_a_superblock() -> None:
    block = parse_superblock(
        superblock(2, 5, "raid5_ls", events=9, failed=2, rebuilt=8, synchronised=16, array=64, offset=4, more=1)
    )
    assert block is not None
    assert (block.position, block.device_count, block.events, block.level, block.layout) == (2, 5, 9, 5, 2)
    assert (block.rebuilt, block.synchronised, block.chunk) == (8 * 512, 16 * 512, 65536)
    assert (block.array_size, block.data_offset, block.failed) == (64 * 512, 4 * 512, 1 << 64 | 2)
    assert not block.is_reshaping
    old = parse_superblock(superblock(2, 5, "raid5_ls", features=0, flags=1, offset=9, more=7))
    assert old is not None and (old.is_reshaping, old.data_offset, old.failed) == (False, 0, 0)


@pytest.mark.parametrize("content", [b"", bytes(4096), b"DmRd", superblock(0, 1, "raid1")[:-1]])
def test_no_superblock(content: bytes) -> None:
    assert parse_superblock(content) is None


@pytest.mark.parametrize("content", [superblock(0, 2, "raid1", features=2), superblock(0, 2, "raid1", incompatible=1)])
def test_features_that_are_not_known(content: bytes) -> None:
    with pytest.raises(Unsupported, match="features"):
        parse_superblock(content)
    assert make("raid1", [content, content]).state is UNSUPPORTED


def test_all_is_well() -> None:
    one = make("raid1", mirrors())
    assert (one.state, one.reason, begins(one)) == (OK, None, b"disk0 1")
    one = make("raid5_ls", fives(), size=2)
    assert (one.state, begins(one), begins(one, EXTENT)) == (OK, b"disk0 1", b"disk1 1")


def test_an_image_that_failed() -> None:
    """The freshest superblock says so, whichever it is; the image's own, older one does not know."""
    one = make("raid1", mirrors(_0={"events": 4}, _1={"events": 5, "failed": 1}))
    assert (one.state, begins(one)) == (DEGRADED, b"disk1 1")
    assert one.reason == "image 0 is out of date: the array was used without it"


def test_the_older_superblock_does_not_decide() -> None:
    one = make("raid1", mirrors(_0={"events": 5}, _1={"events": 4, "failed": 1}))
    assert (one.state, begins(one)) == (OK, b"disk0 1")


def test_an_image_that_is_being_rebuilt() -> None:
    one = make("raid1", mirrors(_0={"rebuilt": 8}), size=1)
    assert begins(one) == b"disk0 1"
    assert read(one.blocks, 4096, 10) == b"." * 10
    assert one.reason == "image 0 is rebuilt up to byte 4096 only"
    one = make("raid1", mirrors(_0={"rebuilt": 8}), missing=(1,))
    assert one.state is INCOMPLETE
    read(one.blocks, 0, 4096)
    with pytest.raises(ReadFailed):
        read(one.blocks, 4096, 1)


def test_an_image_that_lvm_wants_rebuilt() -> None:
    one = make("raid1", mirrors(), status="REBUILD 0")
    assert (one.state, begins(one), one.reason) == (DEGRADED, b"disk1 1", "image 0 is to be rebuilt")


def test_an_image_on_a_disk_that_came_back() -> None:
    one = make("raid1", mirrors(), marked=(0,))
    assert (one.state, begins(one)) == (DEGRADED, b"disk1 1")
    assert one.reason is not None and "is here again, but was missing" in one.reason


def test_an_image_without_superblock() -> None:
    one = make("raid1", [None, superblock(1, 2, "raid1")])
    assert (one.state, begins(one)) == (DEGRADED, b"disk1 1")
    assert one.reason == "image 0 has no superblock that can be read"
    assert begins(make("raid1", [None, None])) == b"disk0 1"


def test_a_disk_that_is_missing() -> None:
    one = make("raid1", mirrors(), missing=(1,))
    assert (one.state, begins(one)) == (DEGRADED, b"disk0 1")
    assert one.reason == f"PV {uuid('disk1')} is missing"


def test_a_superblock_that_cannot_be_read() -> None:
    """The image is there, its superblock on another disk that is not: the kernel takes such an image for failed."""
    text = group_text(raid_text("raid1", 2), physical=("disk0", "disk1", "disk2"))
    text = text.replace(linear(0, 1, "pv0", 0), linear(0, 1, "pv2", 0))
    content = bytearray(disk("disk1", text))
    content[DATA_AT : DATA_AT + 512] = superblock(1, 2, "raid1").ljust(512, b"\0")
    claimed = [found(disk("disk0", text), "disk0"), found(bytes(content), "disk1")]
    (one,) = (one for one in lvm.volumes(claimed) if one.kind == "lvm")
    assert (one.state, begins(one)) == (DEGRADED, b"disk1 1")
    assert one.reason is not None and one.reason.startswith(f"PV {uuid('disk2')} is missing")


def test_raid4_of_kernels_that_put_the_parity_last(monkeypatch: pytest.MonkeyPatch) -> None:
    first = make("raid4", [superblock(index, 3, "raid4") for index in range(3)], size=2)
    assert (begins(first), begins(first, EXTENT)) == (b"disk1 1", b"disk2 1")
    monkeypatch.setitem(KINDS, "raid4", (4, 0, 128))
    last = make("raid4", [superblock(index, 3, "raid4") for index in range(3)], size=2)
    assert (begins(last), begins(last, EXTENT)) == (b"disk0 1", b"disk1 1")


def test_parity_that_was_never_computed() -> None:
    """All disks there: data is read. One missing: what it held is an error, not what the parity happens to make of it."""
    one = make("raid5_ls", fives(synchronised=0), size=2)
    assert (one.state, begins(one), begins(one, EXTENT)) == (OK, b"disk0 1", b"disk1 1")
    one = make("raid5_ls", fives(synchronised=0), size=2, missing=(1,))
    assert begins(one) == b"disk0 1"
    with pytest.raises(ReadFailed):
        read(one.blocks, EXTENT, 1)
    assert one.reason is not None and "parity is computed up to byte 0 " in one.reason
    assert one.state is INCOMPLETE
    one = make("raid5_ls", fives(), size=2, missing=(1,))
    assert one.state is DEGRADED and one.reason is not None and one.reason.startswith("PV")
    read(one.blocks, EXTENT, 1)


def test_parity_that_was_computed_in_part() -> None:
    one = make("raid5_ls", fives(synchronised=128), size=4, data=2, missing=(1,))
    read(one.blocks, EXTENT, EXTENT)
    assert (begins(one, 2 * EXTENT), begins(one, 3 * EXTENT)) == (b"disk2 2", b"disk0 2")
    one = make("raid5_ls", fives(synchronised=128), size=4, data=2, missing=(2,))
    assert (begins(one, EXTENT), begins(one, 3 * EXTENT)) == (b"disk1 1", b"disk0 2")
    with pytest.raises(ReadFailed):
        read(one.blocks, 2 * EXTENT, 1)
    assert [extent.length for extent in one.blocks.extents(0, one.size)] == [one.size]


@pytest.mark.parametrize(
    ("kind", "blocks", "what"),
    [
        ("raid1", mirrors(_0={"flags": 1, "events": 9}), "being reshaped"),
        ("raid1", [superblock(index, 3, "raid1") for index in range(2)], "being converted"),
        ("raid5_ls", [superblock(index, 3, "raid5_n") for index in range(3)], "being converted"),
        ("raid5_ls", [superblock(index, 3, "raid1") for index in range(3)], "being converted"),
        ("raid5_ls", [superblock(2 - index, 3, "raid5_ls") for index in range(3)], "another order"),
    ],
)
def test_arrays_that_are_being_changed(kind: str, blocks: list[bytes | None], what: str) -> None:
    one = make(kind, blocks, size=2 if kind != "raid1" else 1)
    assert one.state is UNSUPPORTED
    assert one.reason is not None and what in one.reason


def test_data_behind_an_offset() -> None:
    """What a finished reshape leaves: room at the start of every image, and an older size in the superblock. What is behind
    that has no parity yet."""
    blocks = fives(offset=128, array=256)
    one = make("raid5_ls", blocks, size=6, data=3, more="reshape_count = 1")
    assert (one.state, one.size, begins(one)) == (OK, 4 * EXTENT, b"disk0 2")
    one = make("raid5_ls", blocks, size=6, data=3, more="reshape_count = 1", missing=(0,))
    assert (one.state, one.size) == (INCOMPLETE, 4 * EXTENT)
    read(one.blocks, 0, 2 * EXTENT)
    with pytest.raises(ReadFailed):
        read(one.blocks, 2 * EXTENT, 2 * EXTENT)
    one = make("raid5_ls", fives(array=256), size=6, data=3, more="reshape_count = 3")
    assert one.state is DAMAGED and one.reason is not None and "room for a reshape" in one.reason
    tens: list[bytes | None] = [superblock(index, 4, "raid10", array=256) for index in range(4)]
    for room, state in ((2, OK), (1, UNSUPPORTED)):
        one = make("raid10", tens, size=6, data=3, more=f"data_copies = 2 reshape_count = {room}")
        assert (one.state, one.size) == (state, (6 - 2 * room) * EXTENT)
    one = make("raid5_ls", fives(offset=1 << 20), size=2)
    assert one.state is DAMAGED and one.reason is not None and "begins behind its end" in one.reason


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("device_count = 3", "device_count = 4", "as many images"),
        ("device_count = 3", "device_count = 4294967296", "as many images"),
        ("stripe_size = 128", "stripe_size = 0", "being converted"),
        ('"r_rmeta_0", "r_rimage_0"', '"r_rmeta_0", "r_rmeta_0", "r_rimage_0"', "as many images|metadata image"),
        ('"r_rimage_2"]', "]", "without its data"),
        ('"r_rimage_2"', '"nobody"', "the group has not"),
        ("extent_count = 2 type", "extent_count = 20 type", "the array cannot be"),
    ],
)
def test_arrays_that_cannot_be(old: str, new: str, what: str) -> None:
    text = group_text(raid_text("raid5_ls", 3, size=2), physical=("disk0", "disk1", "disk2"))
    assert old in text
    claimed = []
    for index, block in enumerate(fives()):
        content = bytearray(disk(f"disk{index}", text.replace(old, new)))
        content[DATA_AT : DATA_AT + len(block or b"")] = block or b""
        claimed.append(found(bytes(content), f"disk{index}"))
    (one,) = (one for one in lvm.volumes(claimed) if one.kind == "lvm")
    assert one.state in (DAMAGED, UNSUPPORTED)
    assert one.reason is not None and any(part in one.reason for part in what.split("|")), one.reason


def test_striped_images() -> None:
    images = "".join(volume(f"r_rimage_{index}", linear(0, 1, "pv0", index), visible=False) for index in range(2))

    def top(rest: str, size: int = 2) -> Volume:
        text = group_text(volume("r", segment(0, size, "raid0", rest)) + images)
        (one,) = (one for one in lvm.volumes([found(disk("one", text))]) if one.kind == "lvm")
        return one

    one = top('stripe_count = 2 stripe_size = 128 raid0_lvs = ["r_rimage_0", "r_rimage_1"]')
    assert (begins(one), begins(one, EXTENT)) == (b"one 0", b"one 1")
    assert begins(top('stripe_count = 1 raid0_lvs = ["r_rimage_1"]', 1)) == b"one 1"
    for rest, size in (
        ('stripe_count = 2 raid0_lvs = ["r_rimage_0", "r_rimage_1"]', 2),
        ('stripe_count = 1 raid0_lvs = ["r_rimage_1"]', 2),
    ):
        assert top(rest, size).state is DAMAGED
    assert top("stripe_count = 1").state is DAMAGED


def test_raid10_survives_what_its_copies_allow() -> None:
    blocks: list[bytes | None] = [superblock(index, 4, "raid10") for index in range(4)]
    one = make("raid10", blocks, size=2, more="data_copies = 2", missing=(0, 3))
    assert one.state is DEGRADED
    assert (begins(one), begins(one, EXTENT)) == (b"disk1 1", b"disk2 1")
    one = make("raid10", blocks, size=2, more="data_copies = 2", missing=(0, 1))
    assert one.state is INCOMPLETE
    assert begins(one, EXTENT) == b"disk2 1"
    with pytest.raises(ReadFailed):
        read(one.blocks, 0, 1)
    assert begins(make("raid10", [None] * 4, size=2, more="data_copies = 2")) == b"disk0 1"


def log(bits: bytes, *, magic: int = 0x4D695272, version: int = 2) -> bytes:
    return struct.pack("<IIQ", magic, version, 0).ljust(1024, b"\0") + bits


def test_a_log() -> None:
    assert mirror.clean_regions(Memory(log(b"\x05\x01")), 9) == b"\x05\x01"
    for content, count in ((log(b"\x05"), 9), (b"", 1), (log(b"\xff"), mirror.MAX_REGIONS + 1)):
        with pytest.raises(Corrupt, match="too small"):
            mirror.clean_regions(Memory(content), count)
    for content in (log(b"\x05", magic=1), log(b"\x05", version=1)):
        with pytest.raises(Corrupt, match="no header"):
            mirror.clean_regions(Memory(content), 8)


def test_regions_that_are_clean() -> None:
    copy = Memory(bytes(range(200)) * 10)
    assert mirror.trusted(copy, b"\xff\xff\xff", 100) is copy
    part = mirror.trusted(copy, b"\x00\xfe\xff", 100)
    assert part.size == 2000
    assert read(part, 900, 1100) == copy.content[900:]
    assert [extent.length for extent in part.extents(0, 2000)] == [2000]
    for at in (0, 899):
        with pytest.raises(ReadFailed, match="may differ"):
            read(part, at, 1)


def mirrored(bits: bytes | None, *, rest: str = "", missing: tuple[int, ...] = (), kind: str = "mirror") -> Volume:
    """A mirror of pv0 and pv1, its log on pv2, in regions of 64 sectors."""
    named = f'mirror_log = "m_mlog" {rest}' if bits is not None else rest
    text = group_text(
        volume("m", segment(0, 1, kind, f'mirror_count = 2 region_size = 64 {named} mirrors = ["pv0", 1, "pv1", 1]'))
        + volume("m_mlog", linear(0, 1, "pv2", 0), visible=False),
        physical=("disk0", "disk1", "disk2"),
    )
    claimed = []
    for index in range(3):
        content = bytearray(disk(f"disk{index}", text))
        if index == 2 and bits is not None:
            content[DATA_AT : DATA_AT + 1024 + len(bits)] = log(bits)
        if index not in missing:
            claimed.append(found(bytes(content), f"disk{index}"))
    (one,) = (one for one in lvm.volumes(claimed) if one.kind == "lvm")
    return one


def test_a_mirror_and_its_log() -> None:
    one = mirrored(b"\x03")
    assert (one.state, begins(one)) == (OK, b"disk0 1")
    one = mirrored(b"\x03", missing=(0,))
    assert (one.state, begins(one)) == (DEGRADED, b"disk1 1")
    assert one.reason == f"PV {uuid('disk0')} is missing"
    one = mirrored(b"\x02", missing=(0,))
    assert one.state is INCOMPLETE and one.reason == f"PV {uuid('disk0')} is missing"
    read(one.blocks, EXTENT // 2, 100)
    with pytest.raises(ReadFailed):
        read(one.blocks, 0, 1)


def test_a_mirror_whose_log_is_gone() -> None:
    one = mirrored(b"\x03", missing=(2,))
    assert (one.state, begins(one)) == (DEGRADED, b"disk0 1")
    assert one.reason is not None and one.reason.startswith(f"PV {uuid('disk2')} is missing")
    one = mirrored(b"\x03", missing=(0, 2))
    assert one.state is INCOMPLETE
    with pytest.raises(MntapiError):
        read(one.blocks, 0, 1)


def test_a_mirror_without_log() -> None:
    """Nothing tells whether the second copy was ever complete: it is not read."""
    assert begins(mirrored(None)) == b"disk0 1"
    with pytest.raises(ReadFailed):
        read(mirrored(None, missing=(0,)).blocks, 0, 1)


def test_extents_that_are_moved() -> None:
    """``pvmove``: the source until LVM says that all is copied, then either."""
    for moved in (0, 1):
        assert begins(mirrored(None, rest=f"extents_moved = {moved}")) == b"disk0 1"
    assert begins(mirrored(None, rest="extents_moved = 1", missing=(0,))) == b"disk1 1"
    with pytest.raises(ReadFailed):
        read(mirrored(None, rest="extents_moved = 0", missing=(0,)).blocks, 0, 1)
