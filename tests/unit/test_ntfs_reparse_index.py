"""Entries of the index of reparse points, without a disk."""

import struct

import pytest

from mntapi.errors import Corrupt
from mntapi.filesystems.ntfs import index

LAST = struct.pack("<Q3H2x", 0, 16, 0, 2)


def block(key: bytes) -> bytes:
    entry = struct.pack("<2H4x3H2x", 28, 0, 32, len(key), 0) + key.ljust(16, b"\0")
    return bytes(16) + struct.pack("<2I8x", 16, 16 + len(entry) + len(LAST)) + entry + LAST


def test_an_entry_is_a_tag_and_a_file() -> None:
    found = list(index.parse_reparse_entries(block(struct.pack("<IQ", 0xA0000003, (7 << 48) + 64)), 16, 0))
    assert found == [(0xA0000003, (7 << 48) + 64)]


def test_a_key_that_is_cut_off() -> None:
    with pytest.raises(Corrupt, match="is cut off"):
        list(index.parse_reparse_entries(block(b"\3\0\0\xa0"), 16, 0))


def test_the_name_of_a_file() -> None:
    value = struct.pack("<Q48xI4x2B", 5, 0, 1, 1) + b"a\0"
    assert index.parse_name(value) == (5, b"a")
    with pytest.raises(Corrupt, match="file name is cut off"):
        index.parse_name(value[:-1])
