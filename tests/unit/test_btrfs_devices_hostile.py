"""btrfs over several devices whose superblocks or chunks lie: errors say what is wrong, and the rest stays readable."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.btrfs_devices import failures, filesystem_on, opened, unpack
from contract.btrfs_editor import edited
from contract.memory_filesystem import Memory
from mntapi.blocks import Concat, HostFile, Slice, read
from mntapi.errors import Corrupt, MntapiError
from mntapi.filesystems.btrfs import devices as reader
from mntapi.filesystems.btrfs.chunks import PROFILES, Chunk, Profile, Stripe, parse_chunk
from mntapi.filesystems.btrfs.devices import Device, Devices, read_devices
from mntapi.filesystems.btrfs.filesystem import BtrfsFileSystem
from mntapi.filesystems.btrfs.storage import Storage
from mntapi.filesystems.btrfs.tree import Item
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.units import GIB, KIB, MIB
from mntapi.volumes import named
from mntapi.volumes.named import btrfs
from mntapi.volumes.scan import scan

SUPER = 64 * KIB
MAX_S = 20
"""For what takes milliseconds, on a machine that is shared."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return unpack("raid0", tmp_path_factory.mktemp("btrfs-raid0"))


@pytest.fixture
def pair(unpacked: list[Path]) -> Iterator[list[HostFile]]:
    """Two devices, one copy of everything, CRC-32C."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(blocks)) for blocks in opened(unpacked)]


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


# finding them


def device(count: int = 2, number: int = 1, chunks: bytes = b"", size: int | None = None, length: int = MIB) -> bytes:
    """A superblock of an unknown kind of checksum, so that none is compared."""
    block = bytearray(4 * KIB)
    block[32:48] = UUID(int=77).bytes
    struct.pack_into("<Q8x8sQ", block, 48, SUPER, b"_BHRfS_M", 5)
    struct.pack_into("<Q", block, 0x88, count)
    struct.pack_into("<I", block, 0xA0, len(chunks) if size is None else size)
    struct.pack_into("<H", block, 0xC4, 77)
    struct.pack_into("<2Q", block, 0xC9, number, length)
    block[0x10B:0x11B] = UUID(int=number).bytes
    block[811 : 811 + len(chunks)] = chunks
    return (bytes(SUPER) + bytes(block)).ljust(MIB, b"\0")


def described(*contents: bytes) -> Volume:
    members = [Volume(f"disk:{number}", f"disk{number}", "disk", Memory(content)) for number, content in enumerate(contents)]
    assert all(named.claims(member) for member in members)
    return list(named.volumes(members))[-1]


def test_chunks_in_the_superblock_that_lie() -> None:
    """Stripes without end, in an array that claims to be larger than its place."""
    chunk = bytes(17) + bytes(44) + struct.pack("<HH", 65535, 0)
    assert "device 0 (uuid 00000000" in (described(device(chunks=chunk, size=1 << 31)).reason or "")
    assert described(device(chunks=chunk[:30])).reason == "btrfs over 2 devices: 1 that it does not name is missing"


def test_absurdly_many_devices() -> None:
    assert btrfs.parse(device(btrfs.MAX_DEVICES + 1)[SUPER:]) is None
    assert btrfs.parse(device(1)[SUPER:]) is None
    assert btrfs.parse(b"") is None


def test_more_devices_than_there_should_be() -> None:
    volume = described(*(device(2, number) for number in (1, 2, 3)))
    assert (volume.state, volume.reason, len(volume.members)) == (VolumeState.OK, None, 3)


@pytest.mark.parametrize("length", [0, (1 << 64) - 1, 1 << 62])
def test_devices_of_impossible_length(length: int) -> None:
    volume = described(device(2, 1, length=length), device(2, 2))
    assert volume.size == length + MIB
    assert (volume.state is VolumeState.OK) is (length == 0)


def test_a_volume_is_not_a_device_of_itself() -> None:
    (volume,) = scan([Memory(device(2, number)) for number in (1, 2)])
    assert (volume.kind, len(volume.members)) == ("btrfs", 2)
    assert not named.claims(volume)


def test_a_length_that_leads_nowhere(pair: list[HostFile]) -> None:
    """The reader finds the next device by it: the other one is as if it were not there."""
    one, other = pair
    for length in (0, one.size - 4096, one.size + other.size, (1 << 64) - 1):
        lying = edited(one, (SUPER + 209, u64(length)))
        _, found = read_devices(Concat([lying, other]))
        assert [device.number for device in found.all] == [1]


def test_a_device_of_another_file_system_behind_it(pair: list[HostFile]) -> None:
    one, other = pair
    _, found = read_devices(Concat([one, edited(other, (SUPER + 32, b"\x99"))]))
    assert [device.number for device in found.all] == [1]


def test_no_more_devices_are_looked_for(pair: list[HostFile], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_DEVICES", 3)
    _, found = read_devices(Concat([pair[0]] * 5))
    assert len(found.all) == 3


def test_a_device_with_the_number_of_another() -> None:
    devices = Devices((Device(1, b"a" * 16, 0, 10, True), Device(1, b"b" * 16, 10, 10, True)))
    assert devices.find(1, b"a" * 16) == devices.all[0]
    assert devices.find(1, b"b" * 16) is devices.find(2, b"a" * 16) is None


# chunks


def chunk_items(fs: BtrfsFileSystem) -> list[Item]:
    return list(fs._nodes._chunks._tree.items((256, 228, 0), (256, 228, 1 << 64)))  # type: ignore[attr-defined]


def lying(pair: Sequence[HostFile], change: Callable[[Item], tuple[int, bytes]], kind: int = 1) -> list[Blocks]:
    """The devices, the first chunk item of a kind of content changed, its checksum right."""
    fs = filesystem_on(pair)
    assert isinstance(fs, BtrfsFileSystem)
    item = next(item for item in chunk_items(fs) if item.raw[24] & kind)
    at, new = change(item)
    if at < pair[0].size:
        return [edited(pair[0], (at, new)), pair[1]]
    return [pair[0], edited(pair[1], (at - pair[0].size, new))]


@pytest.mark.parametrize(
    ("place", "new", "message"),
    [
        (44, b"\xff\xff", "wrong number of stripes"),
        (44, b"\0\0", "wrong number of stripes"),
        (0, u64((1 << 64) - 1), "impossible size"),
        (16, u64(1), "impossible stripes"),
        (24, u64(0x81), None),
        (24, u64(0x41), "impossible stripes"),
        (24, u64(0x801), "unknown|impossible|wrong"),
        (24, u64(0x19), "unknown profile"),
        (48, u64(99), r"device 99 \(uuid .*\) is missing"),
        (56, u64(1 << 62), "past the end of its device"),
        (64, b"\x99" * 16, "device . .uuid 99999999.* is missing"),
    ],
)
def test_chunks_of_data_that_lie(pair: list[HostFile], place: int, new: bytes, message: str | None) -> None:
    """Files that lie in it are errors; names and small files are there."""
    started = time.monotonic()
    trouble = failures(lying(pair, lambda item: (item.at + place, new)), "raid0", but=["plain"])
    assert "folder/deep/large" in trouble
    assert not [path for path in trouble if path.startswith("folder/small0")]
    if message is not None:
        with pytest.raises(MntapiError, match=message):
            raise trouble["folder/deep/large"]
    assert time.monotonic() - started < MAX_S


def test_data_chunks_over_each_other(pair: list[HostFile]) -> None:
    trouble = failures(lying(pair, lambda item: (item.at, u64(1 << 50))), "raid0")
    with pytest.raises(Corrupt, match="chunks overlap"):
        raise trouble["folder/deep/large"]


def test_a_wide_chunk_all_of_whose_stripes_are_one() -> None:
    """255 stripes with parity on the same place of one device: all ways are tried, within bounds."""
    item = struct.pack("<4Q3I2H", GIB, 2, 64 * KIB, 0x101, 0, 0, 4096, 255, 0) + struct.pack("<2Q16s", 1, 0, b"a" * 16) * 255
    chunk = parse_chunk(0, item, 0)
    storage = Storage(Memory(bytes(range(256)) * 4096), Devices((Device(1, b"a" * 16, 0, MIB, True),)))
    started = time.monotonic()
    buffer = memoryview(bytearray(4096))
    count = 0
    for version in storage.versions(chunk, 5 * 64 * KIB, 4096):
        version.readinto(buffer)
        count += 1
    assert count == 1 + 2 + 252
    assert time.monotonic() - started < MAX_S


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=48, max_size=48 + 32 * 6), st.integers(0, 1 << 63))
def test_any_chunk(raw: bytes, logical: int) -> None:
    """Whatever it says, its pieces are gapless and within what was asked for."""
    try:
        chunk = parse_chunk(logical, raw, 0)
    except MntapiError:
        return
    length = min(chunk.length, 300_000)
    pieces = list(chunk.pieces(chunk.end - length, length))
    assert [piece.position for piece in pieces] == [sum(one.length for one in pieces[:at]) for at in range(len(pieces))]
    assert sum(piece.length for piece in pieces) == length
    for piece in pieces:
        for source in chunk.sources(piece):
            assert len(source.stripes) == len(set(source.stripes)) == len(source.factors)


@pytest.mark.parametrize("profile", [profile for profile in PROFILES.values() if profile.is_striped])
def test_units_of_a_chunk_lie_side_by_side(profile: Profile) -> None:
    """No two units share a place, and each stripe is filled from its start on."""
    chunk = Chunk(0, 24 * 64 * KIB, profile, tuple(Stripe(number, 0, b"") for number in range(6)))
    places = [(next(chunk.sources(piece)).stripes[0], piece.offset) for piece in chunk.pieces(0, chunk.length)]
    assert len(set(places)) == 24
    width = chunk._width
    assert {offset for _, offset in places} == {row * 64 * KIB for row in range(-(-24 // width))}


# all of it


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_any_bytes_in_a_superblock(unpacked: list[Path], changes: list[tuple[int, int]], sealed: bool) -> None:
    with ExitStack() as stack:
        one, other = (stack.enter_context(closing(blocks)) for blocks in opened(unpacked))
        patches = [(SUPER + place, bytes([value])) for place, value in changes if place >= 32]
        changed: Blocks = edited(one, *patches) if sealed and patches else Slice(one, 0, one.size)
        for volume in scan([changed, other]):
            read(volume.blocks, 0, min(volume.size, 4096))
            try:
                _, found = read_devices(volume.blocks)
            except MntapiError:
                continue
            assert len(found.all) <= 2
