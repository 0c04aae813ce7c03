"""Logs built by hand: rings in which the end is anywhere, and what is too damaged to tell."""

from __future__ import annotations

import struct

import pytest

from mntapi.filesystems.runs import Memory
from mntapi.filesystems.signatures.source import Source
from mntapi.filesystems.signatures.xfs_log import Log

COUNT = 600
UNMOUNT = struct.pack(">IIBBH", 7, 8, 0xAA, 0x20, 0) + b"Un" + bytes(6)
BUFFER = b"\x3c\x12\x02\x00\x00\x90\x01\x00" + bytes(16)


def operation(flags: int, content: bytes = b"") -> bytes:
    return struct.pack(">IIBBH", 7, len(content), 0x69, flags, 0) + content


def covering(buffer: bytes = BUFFER) -> bytes:
    return b"".join([operation(1), operation(0, bytes(16)), operation(0, buffer), operation(0, bytes(384)), operation(2)])


def record(
    lap: int, sector: int, operations: int, content: bytes, *, tail: int = 0, previous: int = 0, size: int = 32768
) -> bytes:
    """Header sectors and contents, each sector with the number of its round; ``tail`` is the log sequence number."""
    headers = max(1, -(-size // 32768))
    length = -(-len(content) // 512) * 512
    head = bytearray(512)
    struct.pack_into(">4I2Q", head, 0, 0xFEEDBABE, lap, 2, length, lap << 32 | sector, tail)
    struct.pack_into(">2I", head, 36, previous, operations)
    struct.pack_into(">I", head, 320, size)
    rest = bytearray(512 * (headers - 1)) + content.ljust(length, b"\0")
    for at in range(0, len(rest), 512):
        struct.pack_into(">I", rest, at, lap)
    return bytes(head + rest)


def ring(lap: int, end: int, *records: tuple[int, bytes]) -> bytes:
    """A log whose newest round goes up to ``end``, with these records in it."""
    log = bytearray(
        struct.pack(">I", lap).ljust(512, b"\0") * end + struct.pack(">I", lap - 1).ljust(512, b"\0") * (COUNT - end)
    )
    for sector, raw in records:
        for index in range(0, len(raw), 512):
            at = (sector * 512 + index) % len(log)
            log[at : at + 512] = raw[index : index + 512]
    return bytes(log)


def is_clean(log: bytes, count: int = COUNT) -> bool:
    return Log(Source(Memory(bytes(512) + log)), 512, count).is_clean()


@pytest.mark.parametrize("end", [2, 3, 17, 300, 598, 599, 600])
@pytest.mark.parametrize("lap", [1, 2, 70])
def test_an_unmount_anywhere(end: int, lap: int) -> None:
    raw = record(lap, end - 2, 1, UNMOUNT)
    assert is_clean(ring(lap, end, (end - 2, raw)))
    assert not is_clean(ring(lap, end, (end - 2, record(lap, end - 2, 1, UNMOUNT[:9] + b"\0" + UNMOUNT[10:]))))
    assert not is_clean(ring(lap, end, (end - 2, record(lap, end - 2, 2, UNMOUNT))))


def test_a_record_over_the_end_of_the_ring() -> None:
    head, body = record(5, COUNT - 1, 1, UNMOUNT)[:512], struct.pack(">I", 6) + UNMOUNT[4:].ljust(508, b"\0")
    assert is_clean(ring(6, 1, (COUNT - 1, head), (0, body)))


def test_long_records_and_several_headers() -> None:
    assert is_clean(ring(3, 500, (500 - 3, record(3, 497, 1, UNMOUNT, size=65536))))
    assert is_clean(ring(3, 500, (500 - 513 + 100, record(3, 87, 1, UNMOUNT.ljust(412 * 512, b"\0")))))
    assert not is_clean(ring(3, 500, (400, record(3, 400, 1, UNMOUNT))))
    assert not is_clean(ring(3, 500))


def test_a_frozen_log() -> None:
    """Two records of the superblock alone, the second of which says that only they would be replayed."""
    first = record(4, 100, 5, covering(), tail=4 << 32 | 2, previous=98)
    second = record(4, 102, 5, covering(), tail=4 << 32 | 100, previous=100)
    assert is_clean(ring(4, 104, (100, first), (102, second)))
    other = covering(BUFFER[:15] + b"\1" + BUFFER[16:])
    inode = covering(b"\x3b\x12" + BUFFER[2:])
    for content in (other, inode, covering()[:-3], covering()[:100], b"\0" * 512):
        changed = record(4, 100, 5, content, tail=4 << 32 | 2, previous=98)
        assert not is_clean(ring(4, 104, (100, changed), (102, second)))
        assert not is_clean(ring(4, 104, (100, first), (102, record(4, 102, 5, content, tail=4 << 32 | 100, previous=100))))
    for tail, previous in ((4 << 32 | 98, 100), (4 << 32 | 100, 99), (4 << 32 | 100, 1 << 31), (0, 100)):
        changed = record(4, 102, 5, covering(), tail=tail, previous=previous)
        assert not is_clean(ring(4, 104, (100, first), (102, changed)))


def test_logs_that_cannot_be_read() -> None:
    whole = ring(4, 104, (102, record(4, 102, 1, UNMOUNT)))
    assert is_clean(whole)
    assert not is_clean(whole, COUNT + 1)
    assert not is_clean(whole, 1 << 40)
    assert not is_clean(whole, 0)
    assert not is_clean(ring(4, 104, (102, record(4, 102, 1, UNMOUNT, size=1 << 31))))
    assert is_clean(bytes(512 * COUNT))
