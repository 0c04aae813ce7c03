"""MD superblocks: what is none, what is damaged, what mdadm would never write."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from contract.md_builder import DATA_OFFSET, SECTOR, UUID_TEXT, member0, member1, version0, version1
from contract.raid_model import Memory
from mntapi.blocks import Fault
from mntapi.errors import Corrupt, MntapiError, ReadFailed, Unsupported
from mntapi.types import Volume
from mntapi.volumes.md import probe
from mntapi.volumes.md import version0 as v0
from mntapi.volumes.md import version1 as v1

HALF = bytes(range(256)) * 32


def volume(content: bytes, kind: str = "partition") -> Volume:
    return Volume(id="disk:a", name="disk0", kind=kind, blocks=Memory(content))


def test_version1() -> None:
    raw = version1((1, 0xFFFE, 0, 0xFFFF), number=2, chunk=8, level=5, layout=2, raid_disks=3, recovery_offset=8, features=2)
    superblock = v1.parse(raw, "1.2", 4096)
    assert superblock is not None
    assert (superblock.uuid, superblock.name, superblock.role, superblock.number) == (UUID_TEXT, "host:made", 0, 2)
    assert superblock.roles == {0: 1, 1: None, 2: 0, 3: None}
    assert (superblock.geometry.chunk, superblock.geometry.component, superblock.recovered) == (4096, 16 * SECTOR, 4096)
    assert (superblock.synced, superblock.unsupported, superblock.bad_block_log) == (None, None, None)
    assert superblock.device_uuid == "6465762d:00000000:00000000:00000002"


@pytest.mark.parametrize(
    "raw",
    [b"", bytes(4096), version1()[:255], version1(magic=1), version1(major=2), version1(super_offset=0)],
    ids=["empty", "zeros", "cut", "magic", "major", "elsewhere"],
)
def test_no_version1(raw: bytes) -> None:
    assert v1.parse(raw, "1.2", 4096) is None


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (version1(checksum=1), "checksum.*byte 4312.*expected.*found 00000001"),
        (version1(max_roles=1921), "too many devices.*found 1921"),
        (version1(max_roles=0xFFFFFFFF), "too many devices"),
        (version1(raid_disks=0), "too many members"),
        (version1(raid_disks=0xFFFFFFFF), "too many members"),
        (version1(size=17), "uses more than the member has"),
        (version1(size=0, data_size=1 << 60), "uses more"),
        (version1(data_offset=1 << 60), "uses more"),
        (version1(features=8, log_size=9, log_offset=8), "bad block log"),
        (version1(features=8, log_size=1, log_offset=0), "bad block log"),
        (version1(features=8, log_size=1, log_offset=8, log_shift=200), "bad block log"),
        (version1(features=8, log_size=1, log_offset=-9), "bad block log.*512 at -512"),
    ],
)
def test_damaged_version1(raw: bytes, text: str) -> None:
    with pytest.raises(Corrupt, match=text):
        v1.parse(raw, "1.2", 4096)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (version1(features=4), "reshape"),
        (version1(features=512), "journal"),
        (version1((0, 1, 0xFFFD), raid_disks=2), "journal"),
        (version1(features=1 << 13), "0x2000"),
        (version1(features=1 | 256 | 1024 | 2048 | 4096), None),
    ],
)
def test_what_is_not_read(raw: bytes, text: str | None) -> None:
    superblock = v1.parse(raw, "1.2", 4096)
    assert superblock is not None
    assert (superblock.unsupported is None) if text is None else (text in (superblock.unsupported or ""))


def test_an_odd_number_of_roles_is_summed_too() -> None:
    raw = bytearray(version1((0, 1, 2)))
    raw[260] ^= 1
    with pytest.raises(Corrupt, match="checksum"):
        v1.parse(bytes(raw), "1.2", 4096)


def test_bad_block_log() -> None:
    log = struct.pack("<4Q", 256 << 10 | 16, 5 << 10, (1 << 54) - 1 << 10 | 1, (1 << 64) - 1) + b"\1" * 8
    assert list(v1.parse_bad_blocks(log, 512)) == [(256 * 512, 16 * 512), ((1 << 54) - 1 << 9, 512)]
    assert list(v1.parse_bad_blocks(log[:8], 4096)) == [(256 * 4096, 16 * 4096)]
    member = member1(bytes(65536), features=8, log_size=8, log_offset=8, log=struct.pack("<2Q", 40 << 10 | 8, 0))
    superblock = probe.find(volume(member))
    assert superblock is not None
    assert probe.bad_blocks(Memory(member), superblock) == [(40 * SECTOR - DATA_OFFSET, 8 * SECTOR)]
    with pytest.raises(Corrupt, match="past the end"):
        probe.bad_blocks(Memory(member), replace(superblock, bad_block_log=(len(member) - 4095, 4096, 512)))


def test_version0() -> None:
    superblock = v0.parse(version0(1, (0, 1), level=5, layout=2, chunk=65536), 65536)
    assert superblock is not None
    assert (superblock.uuid, superblock.role, superblock.version) == (UUID_TEXT, 1, "0.90")
    assert (superblock.geometry.component, superblock.data_size, superblock.synced) == (65536, 65536, None)
    assert superblock.last_seen == {0: "8:1", 1: "8:17"}


def test_version0_that_is_not_clean() -> None:
    """How far the resync got counts only if it was noted together with the events."""
    noted = v0.parse(version0(state=0, w41=10, recovered=24), 65536)
    stale = v0.parse(version0(state=0, w41=9, recovered=24), 65536)
    assert noted is not None and stale is not None
    assert (noted.synced, stale.synced) == (24 * SECTOR, 0)


def test_version0_with_failed_disks() -> None:
    superblock = v0.parse(version0(0, (0, 1, 2), w132=6, w164=1, w196=2), 65536)
    assert superblock is not None
    assert {number: superblock.roles[number] for number in range(4)} == {0: 0, 1: None, 2: None, 3: None}


def test_no_version0() -> None:
    assert v0.parse(version0()[:4095], 65536) is None
    assert v0.parse(bytes(4096), 65536) is None
    assert v0.parse(version0(w1=1), 65536) is None
    assert v0.place(100_000) == 0
    assert v0.place(1000) < 0


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (version0(checksum=1), "checksum.*byte 65688"),
        (version0(raid_disks=0), "too many members"),
        (version0(raid_disks=28), "too many members.*found 28"),
        (version0(w9=0xFFFFFFFF), "too many members"),
        (version0(size=65), "uses more than the member has.*65 KiB"),
    ],
)
def test_damaged_version0(raw: bytes, text: str) -> None:
    with pytest.raises(Corrupt, match=text):
        v0.parse(raw, 65536)


def test_version0_checksums_of_old_machines() -> None:
    """Some folded the sum to 16 bits."""
    total = sum(struct.unpack("<1024I", version0(checksum=0)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert v0.parse(version0(checksum=total), 65536) is not None


def test_other_machines_and_reshapes() -> None:
    with pytest.raises(Unsupported, match="big-endian"):
        v0.parse(version0(order=">"), 65536)
    reshaped = v0.parse(version0(w2=91), 65536)
    assert reshaped is not None and "reshape" in (reshaped.unsupported or "")


def test_the_last_array_made_counts() -> None:
    """A member of 0.90 that became one of 1.2."""
    old = member0(HALF * 8, w6=100)
    new = bytearray(old)
    new[4096:8192] = version1(created=200, size=8, data_size=8)
    found = probe.find(volume(bytes(new)))
    assert found is not None and found.version == "1.2"
    new[4096:8192] = version1(created=50, size=8, data_size=8)
    found = probe.find(volume(bytes(new)))
    assert found is not None and found.version == "0.90"
    new[4096:8192] = version1(checksum=5)
    found = probe.find(volume(bytes(new)))
    assert found is not None and found.version == "0.90"


def test_trouble_is_told_if_nothing_is_found() -> None:
    good = member1(HALF)
    bad_end = Volume(id="a", name="a", kind="partition", blocks=Fault(Memory(good), bad=[(0, 512)]))
    assert probe.find(bad_end) is not None
    with pytest.raises(ReadFailed):
        probe.find(Volume(id="a", name="a", kind="partition", blocks=Fault(Memory(bytes(65536)), bad=[(0, 512)])))
    with pytest.raises(Corrupt, match="checksum"):
        probe.find(volume(bytes(4096) + version1(checksum=1)))


@pytest.mark.parametrize("size", [0, 1, 511, 512, 4096, 4352, 8192, 65536, 65537, 131072])
def test_small_volumes(size: int) -> None:
    assert probe.find(volume(bytes(size), "disk")) is None
    assert probe.foreign(Memory(bytes(size))) is None


def test_whose_end_it_is() -> None:
    """Version 0.90 in a last partition that ends with the disk is not the disk's; one behind the table's partitions is."""
    disk = bytearray(bytes(65536) + member0(HALF * 8))
    disk[510:512] = b"\x55\xaa"
    disk[446:462] = struct.pack("<B3sB3sII", 0, b"", 0xFD, b"", 128, len(disk) // 512 - 128)
    assert probe.find(volume(bytes(disk), "disk")) is None
    assert probe.find(volume(bytes(disk), "lvm")) is not None
    disk[446:462] = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 8, 100)
    assert probe.find(volume(bytes(disk), "disk")) is not None
    unreadable = Volume(id="a", name="a", kind="disk", blocks=Fault(Memory(bytes(disk)), bad=[(0, 512)]))
    assert probe.find(unreadable) is not None


def test_firmware_raid() -> None:
    blank = bytes(65536)
    intel = blank[:-1024] + b"Intel Raid ISM Cfg Sig. 1.3.00".ljust(1024, b"\0")
    assert probe.foreign(Memory(intel)) == "Intel Matrix Storage (IMSM)"
    ddf = blank[:-512] + b"\xde\x11\xde\x11" + bytes(508)
    assert probe.foreign(Memory(ddf)) is None


def test_errors_are_ours() -> None:
    """Any 4 KiB with a good checksum: an answer or an error of ours."""
    for name in ("level", "layout", "size", "chunk", "raid_disks", "data_offset", "data_size", "recovery_offset", "number"):
        for value in (0, 1, 0x7FFFFFFF, *((0xFFFFFFFF, 0x80000000) if name != "level" else ())):
            try:
                assert v1.parse(version1(**{name: value}), "1.2", 4096) is not None
            except MntapiError as error:
                assert error.offset is not None
