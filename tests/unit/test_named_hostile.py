"""Superblocks of named managers that are damaged or lie: what is believed, what is told, and that nothing is raised.

Real ones are in tests/contract/test_named.py.
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mntapi.blocks import check_range, read
from mntapi.errors import Corrupt, ReadFailed
from mntapi.types import Volume, VolumeState
from mntapi.volumes import named
from mntapi.volumes.named import at_end, bcache, drbd, kinds, single, zfs
from mntapi.volumes.names import MAX_NAME, component_name
from mntapi.volumes.scan import find_volumes, scan
from unit.lvm_builder import EXTENT, group_text, linear
from unit.lvm_builder import disk as physical_volume
from unit.lvm_builder import volume as logical

GOLDEN = Path(__file__).parents[1] / "golden" / "named"
KIB, MIB = 1 << 10, 1 << 20
ZFS_HEAD = b"\x01\x01\0\0\0\0\0\0\0\0\0\x01"


class Memory:
    """A disk in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)
        self.sector_size = 512

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        buffer[:] = self.content[offset : offset + len(buffer)]

    def extents(self, offset: int, length: int):
        raise ReadFailed("a scan needs no extents")

    def close(self) -> None:
        """Nothing to release."""


def golden(name: str, size: int | None = None) -> bytes:
    return lzma.decompress((GOLDEN / f"{name}.img.xz").read_bytes())[:size]


def patched(content: bytes, *patches: tuple[int, bytes]) -> bytes:
    changed = bytearray(content)
    for offset, new in patches:
        changed[offset : offset + len(new)] = new
    return bytes(changed)


def volume(content: bytes, kind: str = "disk", state: VolumeState = VolumeState.OK) -> Volume:
    return Volume(id="disk:x", name="disk0", kind=kind, blocks=Memory(content), disk=0, offset=0, state=state)


def described(content: bytes) -> list[Volume]:
    one = volume(content)
    (scheme,) = (scheme for scheme in (at_end, named) if scheme.claims(one))
    return list(scheme.volumes([one]))


# The kinds


def test_what_changes_under_the_scan() -> None:
    """The superblock is there when asked first, and gone when read."""

    class Fading(Memory):
        reads = 0

        def readinto(self, offset: int, buffer: memoryview) -> None:
            self.reads += 1
            super().readinto(offset, buffer)
            if self.reads > self.limit:
                buffer[:] = bytes(len(buffer))

        limit = 1000

    blocks = Fading(golden("bcache-alone"))
    one = Volume(id="disk:x", name="disk0", kind="disk", blocks=blocks)
    assert named.claims(one)
    blocks.limit = blocks.reads + 2  # the second question of ``volumes``
    with pytest.raises(Corrupt, match="no longer there"):
        list(named.volumes([one]))
    blocks.limit = 0
    (gone,) = named.volumes([one])
    assert (gone.state, gone.reason) == (VolumeState.DAMAGED, "its superblock is no longer there")


def test_a_kind_must_say_how() -> None:
    with pytest.raises(NotImplementedError):
        kinds.Kind().finds(volume(b""))
    with pytest.raises(NotImplementedError):
        kinds.Kind().volumes([])


def test_a_state_it_had_stays() -> None:
    """A cut-off partition with a pool on it is still a cut-off partition."""
    cut = volume(golden("solo0", 512 * KIB), state=VolumeState.INCOMPLETE)
    (told,) = named.volumes([cut])
    assert told.state is VolumeState.INCOMPLETE


def test_names_from_disk() -> None:
    assert component_name("a/b\\c\0d\n") == "a_b_c_d_"
    assert len(component_name("é" * 300).encode()) <= MAX_NAME


# ZFS


def pair(name: str, kind: int, value: bytes, count: int = 1, size: int | None = None) -> bytes:
    raw = name.encode()
    body = struct.pack(">I", len(raw)) + raw.ljust(-(-len(raw) // 4) * 4, b"\0") + struct.pack(">II", kind, count) + value
    length = len(body) + 8 if size is None else size
    return struct.pack(">II", length, length) + body


def nvlist(*pairs: bytes) -> bytes:
    return b"".join(pairs) + bytes(8)


def number(name: str, value: int) -> bytes:
    return pair(name, 8, value.to_bytes(8, "big"))


def nested(depth: int) -> bytes:
    inner = nvlist()
    for _ in range(depth):
        inner = nvlist(pair("children", 19, bytes(8) + inner))
    return ZFS_HEAD + inner


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "no ZFS label"),
        (ZFS_HEAD, "cut off"),
        (ZFS_HEAD + number("txg", 1), "cut off"),
        (ZFS_HEAD + nvlist(pair("x" * 9, 9, b"\xff\xff\xff\xff")), "cut off"),
        (ZFS_HEAD + nvlist(pair("txg", 8, bytes(8), size=1 << 31)), "wrong size"),
        (ZFS_HEAD + nvlist(pair("txg", 8, bytes(8), size=4)), "wrong size"),
        (nested(zfs.MAX_DEPTH), "nested too deep"),
        (ZFS_HEAD + nvlist(*[number("n", 1)] * (zfs.MAX_PAIRS + 1)), "too many values"),
        (ZFS_HEAD + nvlist(pair("children", 20, b"", count=1 << 31)), "cut off"),
    ],
)
def test_zfs_labels_that_lie(raw: bytes, text: str) -> None:
    with pytest.raises(Corrupt, match=text):
        zfs.parse(raw)


def test_zfs_values_of_other_types_are_left_out() -> None:
    leaf = nvlist(pair("type", 9, b"\0\0\0\4disk"), number("guid", 7))
    tree = nvlist(pair("type", 9, b"\0\0\0\6mirror\0\0"), pair("children", 20, bytes(8) + leaf), pair("whole", 1, b"", count=0))
    label = zfs.parse(ZFS_HEAD + nvlist(pair("vdev_tree", 19, bytes(8) + tree), number("name", 3), number("guid", 5)))
    assert (label.pool, label.guid, label.pool_guid) == ("", 5, 0)
    assert label.tree is not None
    assert [(one.kind, one.guid) for one in label.tree.leaves()] == [("disk", 7)]


@pytest.mark.parametrize(("state", "role"), [(3, "spare"), (4, "cache"), (0, "device")])
def test_zfs_devices_of_no_pool(state: int, role: str) -> None:
    content = patched(bytes(MIB), (16 * KIB, ZFS_HEAD + nvlist(number("guid", 9), number("state", state))))
    (one,) = described(content)
    assert one.reason == f"a {role} of a ZFS pool it does not name: is not read by this version"
    assert one.details["device-guid"] == "9"


def test_a_damaged_zfs_label_is_none() -> None:
    one = volume(patched(bytes(MIB), (16 * KIB, ZFS_HEAD + b"\xff" * 64)))
    assert not named.claims(one)


# bcache


def bcache_device(*patches: tuple[int, bytes]) -> bytes:
    """With the right checksum."""
    content = patched(golden("bcache-alone"), *((4096 + offset, new) for offset, new in patches))
    checksum = bcache._crc64(content[4096 + 8 : 4096 + 208])
    return patched(content, (4096, checksum.to_bytes(8, "little")))


def test_bcache_checksum() -> None:
    content = golden("bcache-alone")
    assert bcache.parse(content[4096:8192]) is not None
    assert bcache.parse(patched(content, (4096 + 72, b"x"))[4096:8192]) is None
    assert bcache.parse(content[4096:5000]) is None


@pytest.mark.parametrize(("offset", "new"), [(8, b"\x09"), (16, b"\x07"), (206, b"\xff\xff")])
def test_bcache_numbers_that_are_not_believed(offset: int, new: bytes) -> None:
    assert bcache.parse(bcache_device((offset, new))[4096:8192]) is None


@pytest.mark.parametrize("sector", [0, 15, 1 << 40])
def test_bcache_content_nowhere(sector: int) -> None:
    (one,) = described(bcache_device((184, sector.to_bytes(8, "little"))))
    assert (one.kind, one.state) == ("disk", VolumeState.DAMAGED)
    assert one.reason == f"bcache content is said to begin at byte {sector * 512}"


def test_bcache_that_lost_its_cache() -> None:
    (one,) = described(bcache_device((104, (3 << 61).to_bytes(8, "little"))))
    assert (one.kind, one.state) == ("disk", VolumeState.DAMAGED)
    assert one.reason is not None and "lost newer data with its cache" in one.reason


def test_bcache_label() -> None:
    (one,) = described(bcache_device((72, b"my/disk")))
    assert one.name == "bcache-my_disk"


# DRBD


def drbd_device(*patches: tuple[int, bytes]) -> bytes:
    content = golden("drbd-v08-current")
    return patched(content, *((len(content) - 4096 + offset, new) for offset, new in patches))


@pytest.mark.parametrize(
    ("offset", "new"),
    [(60, b"none"), (68, b"\0\0\0\1"), (76, b"\0\0\0\0"), (76, b"\x80\0\0\0"), (0, b"\x7f" * 8)],
)
def test_drbd_numbers_that_are_not_believed(offset: int, new: bytes) -> None:
    assert not at_end.claims(volume(drbd_device((offset, new))))


def test_drbd_agreed_size() -> None:
    """Both nodes have as much as the smaller of them."""
    _, content = described(drbd_device((0, (100).to_bytes(8, "big"))))
    assert content.size == 51200


def test_drbd_behind_its_peer() -> None:
    _, content = described(drbd_device((56, b"\0\0\0\1"), (40, b"\x11" * 8)))
    assert (content.id, content.state) == ("drbd:1111111111111111", VolumeState.INCOMPLETE)
    assert content.reason == "this node's copy is not up to date: another node has newer content"


def test_drbd_in_the_last_logical_volume() -> None:
    """The physical volume ends as the logical one does, and is no DRBD device; one whose label is damaged lies inside."""
    inner = golden("drbd-v08-current")
    extents = len(inner) // EXTENT
    text = group_text(logical("data", linear(0, extents, "pv0", 0)), physical=("pv0",), extents=extents)
    content = physical_volume("pv0", text, extents=extents)[: -len(inner)] + inner
    (found,), containers = find_volumes([Memory(content)])
    assert [one.kind for one in (*containers, found)] == ["disk", "lvm", "drbd"]
    assert read(found.blocks, 0, found.size) == inner[: found.size]
    assert not at_end.claims(volume(content))
    assert at_end.claims(volume(patched(content, (512 + 100, b"damaged"))))


def test_drbd_on_nothing() -> None:
    assert not at_end.claims(volume(b""))
    assert drbd.parse(bytes(79), 0) is None


# Others


def test_vdo() -> None:
    (one,) = described(b"dmvdo001" + bytes(4096))
    assert (one.state, one.details["manager"]) == (VolumeState.UNSUPPORTED, "vdo")
    assert single.parse(b"") is None


def adaptec() -> bytes:
    return patched(bytes(512), (0, b"\x37\xfc\x4d\x1e"), (0x100, b"DPTM"))


def jmicron() -> bytes:
    return patched(bytes(512), (0, b"JM"), (126, (0x10000 - 0x4D4A).to_bytes(2, "little")))


@pytest.mark.parametrize(
    ("maker", "sectors", "sector"),
    [
        ("Adaptec HostRAID", 1, adaptec),
        ("JMicron", 1, jmicron),
        ("HighPoint 45x", 11, lambda: b"\xf3\x16\x78\x5a".ljust(512, b"\0")),
        ("HighPoint 45x", 11, lambda: b"\xfd\x16\x78\x5a".ljust(512, b"\0")),
    ],
)
def test_raids_of_mainboards_no_sample_has(maker: str, sectors: int, sector: Callable[[], bytes]) -> None:
    content = bytes(MIB - sectors * 512) + sector() + bytes(512 * (sectors - 1))
    (one,) = described(content)
    assert one.details["maker"] == maker
    assert not at_end.claims(volume(content, kind="partition"))
    assert not at_end.claims(volume(patched(content, (len(content) - sectors * 512, b"????"))))


@pytest.mark.parametrize("at", [0, 2, 50])
def test_a_boot_record_at_the_end_is_no_raid_of_via(at: int) -> None:
    """The magic is that of every boot record."""
    sector = patched(bytes(512), (0, b"\x55\xaa"), (50, b"\xff"))
    assert at_end.claims(volume(bytes(MIB) + sector))
    assert not at_end.claims(volume(bytes(MIB) + patched(sector, (at, b"\x0a"))))


def pieces(names: Sequence[str]) -> list[bytes]:
    return [golden(name, 512 * KIB if name.startswith(("tank", "wide", "solo")) else None) for name in names]


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["tank0", "bcache-dirty", "bcache-cache", "drbd-v08-new", "drbd-v09-new"]),
    st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_any_bytes_in_a_superblock(name: str, patches: list[tuple[int, int]]) -> None:
    (content,) = pieces([name])
    start = {"t": 16 * KIB, "b": 4096, "d": len(content) - 4096}[name[0]]
    content = patched(content, *((start + place, bytes([value])) for place, value in patches))
    for one in scan([Memory(content)]):
        read(one.blocks, 0, min(one.size, 4096))
