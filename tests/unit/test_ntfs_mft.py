"""A master file table in several pieces, and records that do not belong to it: no tool makes them on request."""

from __future__ import annotations

import struct

import pytest

from mntapi.blocks import read
from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.ntfs import filesystem, mft
from mntapi.filesystems.ntfs.attribute import DATA, Stream
from mntapi.filesystems.ntfs.boot import parse_boot
from mntapi.filesystems.ntfs.filesystem import NtfsFileSystem, open_filesystem
from mntapi.filesystems.ntfs.mft import Mft
from mntapi.filesystems.runs import Memory
from mntapi.types import Signature, Usage

CLUSTER = 4096
RECORD = 1024
SIGNATURE = Signature("ntfs", Usage.FILESYSTEM)
TIMES = struct.pack("<4QI", 1, 2, 3, 4, 0)


def resident(kind: int, value: bytes, name: str = "", flags: int = 0) -> bytes:
    named = name.encode("utf-16-le").ljust(-(-2 * len(name) // 8) * 8, b"\0")
    value_padded = value.ljust(-(-len(value) // 8) * 8, b"\0")
    start = 24 + len(named)
    head = struct.pack("<2I2B3HIH2x", kind, start + len(value_padded), 0, len(name), 24, flags, 0, len(value), start)
    return head + named + value_padded


def in_clusters(kind: int, pairs: bytes, size: int, lowest: int = 0, name: str = "") -> bytes:
    named = name.encode("utf-16-le").ljust(-(-2 * len(name) // 8) * 8, b"\0")
    pairs = (pairs + b"\0").ljust(-(-(len(pairs) + 1) // 8) * 8, b"\0")
    start = 64 + len(named)
    head = struct.pack("<2I2B3H2QH6x3Q", kind, start + len(pairs), 1, len(name), 64, 0, 0, lowest, 0, start, size, size, size)
    return head + named + pairs


def record(*attributes: bytes, base: int = 0, flags: int = 1) -> bytes:
    body = b"".join(attributes) + b"\xff\xff\xff\xff"
    raw = bytearray(
        (struct.pack("<4s2H8x4H2IQ16x", b"FILE", 48, 3, 1, 1, 56, flags, 56 + len(body), RECORD, base) + body).ljust(
            RECORD, b"\0"
        )
    )
    for number in range(2):
        raw[50 + 2 * number : 52 + 2 * number] = raw[512 * number + 510 : 512 * number + 512]
        raw[512 * number + 510 : 512 * number + 512] = b"\0\0"
    return bytes(raw)


def named_records(*numbers: int) -> bytes:
    return b"".join(struct.pack("<IH2B2QH6x", DATA, 32, 0, 0, 0, number | 1 << 48, 0) for number in numbers)


ROOT_INDEX = struct.pack("<4I2I8x", 0x30, 1, CLUSTER, 1, 16, 32) + struct.pack("<Q3H2x", 0, 16, 0, 2)
ROOT = record(resident(0x10, TIMES), resident(0x90, ROOT_INDEX, "$I30"))


def volume(records: dict[int, bytes], first: bytes | None = None) -> Memory:
    """``$MFT`` in two pieces: records 0-3 in cluster 1, records 4-7 in cluster 3."""
    raw = bytearray(8 * CLUSTER)
    struct.pack_into("<8sHB", raw, 3, b"NTFS    ", 512, 8)
    struct.pack_into("<2Q", raw, 40, 64, 1)
    struct.pack_into("<b3xb", raw, 64, -10, 1)
    table = {
        0: first or record(resident(0x20, named_records(0, 1)), in_clusters(DATA, b"\x11\x01\x01", 8 * RECORD)),
        1: record(in_clusters(DATA, b"\x11\x01\x03", 0, lowest=1), base=1 << 48),
        5: ROOT,
        **records,
    }
    for number, content in table.items():
        at = CLUSTER + number * RECORD if number < 4 else 3 * CLUSTER + (number - 4) * RECORD
        raw[at : at + RECORD] = content
    return Memory(bytes(raw))


def opened(records: dict[int, bytes], first: bytes | None = None) -> NtfsFileSystem:
    fs = open_filesystem(volume(records, first), SIGNATURE)
    assert isinstance(fs, NtfsFileSystem)
    return fs


def test_the_table_in_two_pieces() -> None:
    fs = opened({6: record(resident(0x10, TIMES), resident(DATA, b"contents"))})
    assert fs._mft.count == 8
    node = fs.node(6)
    assert read(fs.open(node), 0, node.size) == b"contents"
    assert list(fs.scan(fs.root)) == []


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ((resident(0x10, TIMES[:20]),), "no times"),
        ((resident(DATA, b""),), "no times"),
        ((resident(0x10, TIMES), resident(0x20, named_records(5))), "does not continue"),
        ((resident(0x10, TIMES), resident(0x20, bytes(32))), "attribute list"),
        ((resident(0x10, TIMES), in_clusters(0x20, b"\x11\x07\x01", 1 << 20)), "end before"),
    ],
)
def test_records_that_are_refused(attributes: tuple[bytes, ...], message: str) -> None:
    fs = opened({6: record(*attributes)})
    with pytest.raises(Corrupt, match=message):
        fs.node(6)


def test_limits_on_records_and_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mft, "MAX_RECORDS", 1)
    fs = opened({6: record(resident(0x10, TIMES), resident(0x20, named_records(2, 3)))})
    with pytest.raises(Corrupt, match="too many records"):
        fs.node(6)
    monkeypatch.setattr(mft, "MAX_LIST", 32)
    with pytest.raises(Corrupt, match="list is too long"):
        fs.node(6)
    monkeypatch.undo()
    fs = opened({6: record(resident(0x10, TIMES), in_clusters(0xC0, b"\x11\x07\x01", 7 * CLUSTER))})
    with pytest.raises(Corrupt, match="too long"):
        fs.node(6)


def test_tables_and_roots_that_are_refused() -> None:
    with pytest.raises(Corrupt, match="has no data"):
        opened({}, first=record(resident(DATA, b"resident")))
    with pytest.raises(Corrupt, match="no folder"):
        opened({5: record(resident(0x10, TIMES))})
    whole = volume({})
    with pytest.raises(Corrupt, match="outside the volume"):
        Mft(Memory(read(whole, 0, CLUSTER)), parse_boot(read(whole, 0, 512)))


def test_folders_larger_than_their_volume_or_mostly_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    index = resident(0x90, ROOT_INDEX, "$I30")
    pairs = b"\x11\x07\x01\x11\x07\x00"
    fs = opened({6: record(resident(0x10, TIMES), index, in_clusters(0xA0, pairs, 14 * CLUSTER, name="$I30"))})
    with pytest.raises(Corrupt, match="larger than its volume"):
        list(fs.scan(fs.node(6)))
    used = resident(0xB0, b"\xff" * 8, "$I30")
    fs = opened({6: record(resident(0x10, TIMES), index, in_clusters(0xA0, b"\x11\x07\x01", 7 * CLUSTER, name="$I30"), used)})
    monkeypatch.setattr(filesystem, "MAX_BAD_BLOCKS", 2)
    with pytest.raises(Corrupt, match="no such record"):
        list(fs.scan(fs.node(6)))


def test_encrypted_streams_are_no_attributes() -> None:
    streams = resident(DATA, b"secret", "hidden", flags=0x4000) + resident(DATA, b"open", "shown")
    fs = opened({6: record(resident(0x10, TIMES), streams)})
    assert fs.xattrs(fs.node(6)) == {"user.shown": b"open"}
    with pytest.raises(Unsupported) as raised:
        fs._content(Stream("", 0x4000, b"secret", None, 6, 6, 6))
    assert raised.value.reason == "efs"
