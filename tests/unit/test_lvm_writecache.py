"""Write caches that are damaged, cut off, or lie. What the kernel makes of real ones is in test_lvm_layers.py."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.blocks_contract import check_blocks
from mntapi.blocks import read
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.volumes.lvm.chunks import MAX_PLACES
from mntapi.volumes.lvm.writecache import MAX_BLOCKS, parse_superblock, write_cached
from unit.lvm_builder import Memory

BLOCK = 1024
ORIGIN = b"o" * (8 * BLOCK)
FREE = (1 << 64) - 1


def superblock(**fields: int) -> bytes:
    known = {"magic": 0x23489321, "version": 1, "block": BLOCK, "count": 4, "commit": 10, **fields}
    return struct.pack("<IIIIQQ", known["magic"], known["version"], known["block"], 0, known["count"], known["commit"])


def fast(entries: Sequence[tuple[int, int]], **fields: int) -> bytes:
    """A fast device with a block for each entry (sector, commit), filled with its number."""
    listed = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    head = superblock(**{"count": len(entries), **fields}).ljust(64, b"\0") + listed
    blocks = b"".join(bytes([ord("0") + index % 10]) * BLOCK for index in range(len(entries)))
    return head.ljust(-(-len(head) // BLOCK) * BLOCK, b"\0") + blocks


def content(entries: Sequence[tuple[int, int]], **fields: Any) -> str:
    """The volume as a letter for each block."""
    volume = write_cached(Memory(ORIGIN), Memory(fast(entries, **fields)))
    whole = read(volume, 0, volume.size)
    check_blocks(volume, whole, ranges=20)
    assert all(whole[at : at + BLOCK] == whole[at : at + 1] * BLOCK for at in range(0, len(whole), BLOCK))
    return whole[::BLOCK].decode()


def test_what_was_committed_counts() -> None:
    assert content([(2, 9), (FREE, FREE), (6, 10), (14, 0)]) == "o0ooooo3"
    assert content([]) == "oooooooo"


def test_of_two_blocks_the_later_counts() -> None:
    assert content([(2, 3), (2, 4), (4, 8), (4, 7), (4, 12)]) == "o12ooooo"


def test_no_superblock_yet() -> None:
    origin = Memory(ORIGIN)
    assert write_cached(origin, Memory(bytes(4096))) is origin


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ([(2, 3), (2, 3)], "two blocks of one commit"),
        ([(1, 3)], "a part of blocks"),
        ([(16, 3)], "a chunk that is not in the volume"),
        ([(2, commit) for commit in range(MAX_PLACES + 1)], f"more than {MAX_PLACES} times"),
    ],
)
def test_entries_that_contradict(entries: list[tuple[int, int]], what: str) -> None:
    volume = write_cached(Memory(ORIGIN), Memory(fast(entries, commit=100)))
    with pytest.raises(Corrupt, match=what):
        read(volume, 0, volume.size)


@pytest.mark.parametrize(
    ("fields", "error", "what"),
    [
        ({"magic": 1}, Corrupt, "no superblock"),
        ({"version": 2}, Unsupported, "another version"),
        ({"block": 0}, Corrupt, "size that cannot be"),
        ({"block": 1536}, Corrupt, "size that cannot be"),
        ({"block": 1 << 20}, Corrupt, "size that cannot be"),
        ({"count": MAX_BLOCKS + 1}, Unsupported, "too many blocks"),
    ],
)
def test_superblocks_that_are_not_believed(fields: dict[str, int], error: type[MntapiError], what: str) -> None:
    with pytest.raises(error, match=what):
        parse_superblock(superblock(**fields))


def test_a_fast_device_that_is_cut_off() -> None:
    whole = fast([(2, 9), (4, 9)])
    write_cached(Memory(ORIGIN), Memory(whole))
    with pytest.raises(Corrupt, match="past the end"):
        write_cached(Memory(ORIGIN), Memory(whole[:-1]))
    with pytest.raises(Corrupt, match="too short"):
        write_cached(Memory(ORIGIN), Memory(whole[:63]))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 127))
def test_any_bytes(changed: bytes, at: int) -> None:
    damaged = bytearray(fast([(2, 9), (4, 9), (4, 8)]))
    damaged[at : at + len(changed)] = changed
    try:
        volume = write_cached(Memory(ORIGIN), Memory(bytes(damaged)))
        assert len(read(volume, 0, volume.size)) == len(ORIGIN)
    except MntapiError:
        return
