"""Integrity metadata that is damaged, cut off, or lies, and journals in every state. What the kernel makes of real ones is in
test_lvm_layers.py; here its rules for what is replayed are written out by hand."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.blocks_contract import check_blocks
from mntapi.blocks import read
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.volumes.lvm.chunks import Overlaid
from mntapi.volumes.lvm.integrity import MAX_JOURNAL, parse_superblock, with_journal
from unit.lvm_builder import Memory

SECTOR = 512
DATA = b"d" * (64 * SECTOR)
TAG = 4
ENTRY = 24
"""Bytes of an entry with blocks of a sector: its place, the last bytes, the checksum, and what aligns it."""
ENTRIES = (SECTOR - 8) // ENTRY * 8
SECTION = 8 + ENTRIES


def superblock(
    *, magic: bytes = b"integrt\0", version: int = 3, tag: int = TAG, sections: int = 4, flags: int = 0, shift: int = 0
) -> bytes:
    return struct.pack("<8sBBHIQIB", magic, version, 0, tag, sections, len(DATA) // SECTOR, flags, shift)


def section(index: int, number: int | None, blocks: Mapping[int, bytes]) -> bytes:
    """A section of round ``number`` with these sectors of data, each a byte; None: one sector is of another round."""
    content = bytearray(SECTION * SECTOR)
    for entry in range(ENTRIES):
        at = entry % 8 * SECTOR + entry // 8 * ENTRY
        content[at : at + 8] = b"\xff" * 8
    for entry, (sector, byte) in enumerate(blocks.items()):
        at = entry % 8 * SECTOR + entry // 8 * ENTRY
        content[at : at + 16] = struct.pack("<Q", sector) + byte * 8
        place = (8 + entry) * SECTOR
        content[place : place + SECTOR] = byte * SECTOR
    for sector in range(SECTION):
        round_ = (number or 0) if number is not None or sector != 5 else 3
        mark = 0x1111111111111111 * (round_ + 1) ^ (index << 32 ^ sector)
        content[(sector + 1) * SECTOR - 8 : (sector + 1) * SECTOR] = struct.pack("<Q", mark)
    return bytes(content)


def metadata(sections: Sequence[bytes], **fields: int) -> bytes:
    return superblock(sections=len(sections), **fields).ljust(8 * SECTOR, b"\0") + b"".join(sections)


def replayed(rounds: Sequence[int | None]) -> str:
    """The image's first sectors as letters; section n writes ``A`` + n to sectors 0 and 1 + n."""
    parts = [section(n, number, {0: bytes([65 + n]), 1 + n: bytes([65 + n])}) for n, number in enumerate(rounds)]
    image = with_journal(Memory(DATA), Memory(metadata(parts)))
    content = read(image, 0, image.size)
    if isinstance(image, Overlaid):
        check_blocks(image, content, ranges=20)
    return content[: (len(rounds) + 1) * SECTOR : SECTOR].decode()


@pytest.mark.parametrize(
    ("rounds", "shown"),
    [
        ((0, 0, 0, 0), "DABCD"),  # one round, just finished: what it wrote may be nowhere else
        ((1, 1, 0, 0), "BABCD"),  # the second half of the round before, then this one's first
        ((1, 0, 0, 0), "AABCD"),
        ((0, 3, 3, 3), "AABCD"),  # the rounds begin anew
        ((2, 2, 2, 1), "CABCD"),
        (
            (1, None, 0, 0),
            "ddddd",
        ),  # a section that was being written ends it: what comes before is oldest, and of three rounds
    ],
)
def test_what_is_replayed(rounds: Sequence[int | None], shown: str) -> None:
    assert replayed(rounds) == shown


def test_marks_that_are_none() -> None:
    """The kernel clears such a journal."""
    damaged = bytearray(metadata([section(0, 0, {0: b"A"})]))
    damaged[-1] ^= 0x80
    data = Memory(DATA)
    assert with_journal(data, Memory(bytes(damaged))) is data


def test_a_bitmap_instead_of_a_journal() -> None:
    data = Memory(DATA)
    assert with_journal(data, Memory(metadata([section(0, 0, {0: b"A"})], flags=4))) is data
    assert with_journal(data, Memory(bytes(8192))) is data


def test_entries_behind_the_end_are_left_out() -> None:
    data = Memory(DATA)
    assert with_journal(data, Memory(metadata([section(0, 0, {64: b"A"})]))) is data


def test_an_entry_for_a_part_of_a_block() -> None:
    sectors = 8 + (504 // 32) * 8 * 2
    content = bytearray(SECTOR * sectors)
    for sector in range(sectors):
        content[(sector + 1) * SECTOR - 8 : (sector + 1) * SECTOR] = struct.pack("<Q", 0x1111111111111111 ^ sector)
    content[0:8] = struct.pack("<Q", 1)
    with pytest.raises(Corrupt, match="a part of a block"):
        with_journal(Memory(DATA), Memory(superblock(sections=1, shift=1).ljust(8 * SECTOR, b"\0") + bytes(content)))


@pytest.mark.parametrize(
    ("content", "error", "what"),
    [
        (superblock(magic=b"integrit"), Corrupt, "no superblock"),
        (superblock(version=0), Unsupported, "of a kind"),
        (superblock(version=9), Unsupported, "of a kind"),
        (superblock(flags=1), Unsupported, "of a kind"),
        (superblock(flags=0x20), Unsupported, "of a kind"),
        (superblock(shift=4), Corrupt, "size that cannot be"),
        (superblock(tag=60000), Corrupt, "size that cannot be"),
        (superblock(sections=MAX_JOURNAL), Unsupported, "larger than is read"),
    ],
)
def test_superblocks_that_are_not_believed(content: bytes, error: type[MntapiError], what: str) -> None:
    with pytest.raises(error, match=what):
        parse_superblock(content)


def test_metadata_that_is_cut_off() -> None:
    content = metadata([section(0, 0, {0: b"A"})])
    with pytest.raises(Corrupt, match="past the end"):
        with_journal(Memory(DATA), Memory(content[:-1]))
    with pytest.raises(Corrupt, match="no room"):
        with_journal(Memory(DATA), Memory(content[:20]))


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=40), st.integers(0, 12 * SECTOR))
def test_any_bytes(changed: bytes, at: int) -> None:
    damaged = bytearray(metadata([section(index, 0, {index: b"A"}) for index in range(2)]))
    damaged[at : at + len(changed)] = changed
    try:
        image = with_journal(Memory(DATA), Memory(bytes(damaged)))
        assert len(read(image, 0, image.size)) == len(DATA)
    except MntapiError:
        return
