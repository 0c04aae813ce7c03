"""Snapshot stores: headers that cannot be, exceptions against a model, merges, limits."""

from __future__ import annotations

import random
import struct
import tracemalloc

import pytest

from contract.blocks_contract import check_blocks
from contract.lvm_persistent import store
from contract.raid_model import Memory, content
from mntapi.blocks import Concat, Fault, Zero, read
from mntapi.errors import Corrupt, ReadFailed, Unsupported
from mntapi.volumes.lvm import chunks as chunks_module
from mntapi.volumes.lvm.chunks import ChunkTable
from mntapi.volumes.lvm.snapshot import Snapshot, merging

CHUNK = 512  # 32 exceptions in an area
SIZE = 100 * CHUNK


def exceptions(count: int, rng: random.Random) -> list[tuple[int, int]]:
    """``count`` chunks at random, kept in the order the kernel gives out: areas of exceptions are passed over."""
    places = [place for place in range(2, 2 * count + 40) if place % 33 != 1]
    return list(zip(rng.sample(range(100), count), places, strict=False))


def model(origin: bytes, cow: bytes, pairs: list[tuple[int, int]], size: int) -> bytes:
    made = bytearray(origin[:size])
    for old, new in pairs:
        part = cow[new * CHUNK : (new + 1) * CHUNK][: max(0, size - old * CHUNK)]
        made[old * CHUNK : old * CHUNK + len(part)] = part
    return bytes(made)


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 64, 80])
def test_exceptions_against_a_model(count):
    pairs = exceptions(count, random.Random(count))
    cow = bytes(store(pairs, CHUNK, 130 * CHUNK))
    origin = content(SIZE)
    for size in (SIZE, SIZE - 100):
        check_blocks(Snapshot(Memory(origin), Memory(cow), size), model(origin, cow, pairs, size), ranges=60)
        check_blocks(merging(Memory(origin), Memory(cow), size), model(origin, cow, pairs, size), ranges=20)


def test_areas_longer_than_a_step_are_read_in_steps():
    chunk = 1 << 18
    pairs = [(index * 2, index + 2) for index in range(5000)]
    cow = bytearray(store([], chunk, 2 * chunk))
    cow[chunk : chunk + 80000] = b"".join(struct.pack("<QQ", *pair) for pair in pairs)
    last = content(chunk)
    whole = Concat([Memory(bytes(cow)), Zero(4999 * chunk), Memory(last)])
    snapshot = Snapshot(Concat([Zero(9998 * chunk), Memory(content(2 * chunk, seed=2))]), whole, 10000 * chunk)
    assert read(snapshot, 9998 * chunk, 2 * chunk) == last + content(2 * chunk, seed=2)[chunk:]


def test_nothing_but_the_header_is_read_before_it_is_needed():
    cow = Memory(bytes(store([(3, 2)], CHUNK, 40 * CHUNK)))
    snapshot = Snapshot(Zero(SIZE), cow, SIZE)
    assert cow.reads == 1
    read(snapshot, 0, 10)
    read(snapshot, 0, 10)
    assert cow.reads == 2


def test_a_snapshot_longer_than_its_origin_cannot_be_read_there():
    snapshot = Snapshot(Memory(content(SIZE)), Memory(bytes(store([(150, 2)], CHUNK, 40 * CHUNK))), 2 * SIZE)
    assert read(snapshot, 150 * CHUNK, CHUNK) == struct.pack("<Q", 2) * 64
    assert read(snapshot, 0, SIZE) == content(SIZE)
    with pytest.raises(ReadFailed, match="the origin of the snapshot ends"):
        read(snapshot, SIZE, 1)


def test_a_snapshot_that_was_given_up():
    cow = Memory(bytes(store([(3, 2)], CHUNK, 40 * CHUNK, valid=0)))
    with pytest.raises(Corrupt, match="given up") as caught:
        Snapshot(Zero(SIZE), cow, SIZE)
    assert caught.value.reason == "snapshot-invalid"
    origin = content(SIZE)
    check_blocks(merging(Memory(origin), cow, SIZE), origin, ranges=20)


def header(magic: int = 0x70416E53, version: int = 1, sectors: int = 8) -> Memory:
    return Memory(struct.pack("<IIII", magic, 1, version, sectors).ljust(8192, b"\0"))


@pytest.mark.parametrize(
    ("cow", "error", "message"),
    [
        (Memory(b"SnAp"), Corrupt, "too short for its header"),
        (Memory(bytes(8192)), Corrupt, "no header"),
        (header(magic=0x70416E54), Corrupt, "no header"),
        (header(version=2), Unsupported, "another version"),
        (header(sectors=0), Corrupt, "a chunk size that cannot be"),
        (header(sectors=24), Corrupt, "a chunk size that cannot be"),
        (header(sectors=1 << 16), Corrupt, "a chunk size that cannot be"),
        (header(sectors=0xFFFFFFFF), Corrupt, "a chunk size that cannot be"),
    ],
)
def test_a_header_that_cannot_be(cow, error, message):
    for opened in (Snapshot, merging):
        with pytest.raises(error, match=message):
            opened(Zero(SIZE), cow, SIZE)


def refused(pairs: list[tuple[int, int]], size: int = 70 * CHUNK) -> Corrupt:
    snapshot = Snapshot(Zero(SIZE), Memory(bytes(store(pairs, CHUNK, size))), SIZE)
    with pytest.raises(Corrupt) as caught:
        read(snapshot, 0, SIZE)
    return caught.value


def test_exceptions_that_cannot_be():
    assert "has a chunk that is not in the volume" in refused([(100, 2)]).what
    assert "has a chunk that is not in the volume" in refused([(1 << 63, 2)]).what
    assert "keeps chunk 3 twice" in refused([(3, 2), (4, 3), (3, 4)]).what
    assert "do not end before the store does" in refused([(index, 2) for index in range(32)], 34 * CHUNK).what


def test_a_chunk_past_the_end_of_the_store_spoils_only_itself():
    for place in (70, 71, 1 << 63):
        snapshot = Snapshot(Zero(SIZE), Memory(bytes(store([(1, place), (2, 3)], CHUNK, 70 * CHUNK + 100))), SIZE)
        assert read(snapshot, 2 * CHUNK, 8) == struct.pack("<Q", 3)
        for length in (1, CHUNK):
            with pytest.raises(Corrupt, match="chunk 1 of the volume is kept past the end"):
                read(snapshot, CHUNK, length)


def test_a_bad_sector_among_the_exceptions_makes_all_unreadable_until_it_recovers():
    bad = [(CHUNK, 512)]
    cow = Fault(Memory(bytes(store([(3, 2)], CHUNK, 40 * CHUNK))), bad=bad)
    snapshot = Snapshot(Zero(SIZE), cow, SIZE)
    with pytest.raises(ReadFailed):
        read(snapshot, 0, 1)
    cow._bad = ()
    assert read(snapshot, 3 * CHUNK, 8) == struct.pack("<Q", 2)


def test_a_table_sorts_in_batches(monkeypatch):
    monkeypatch.setattr(chunks_module, "_BATCH", 8)
    rng = random.Random(1)
    pairs = [(chunk, rng.randrange(1000)) for chunk in rng.sample(range(5000), 500)]
    table = ChunkTable(
        5000,
        1000,
        [([old for old, _ in pairs[at : at + 7]], [new for _, new in pairs[at : at + 7]]) for at in range(0, 500, 7)],
        "t",
    )
    for first, end in ((0, 5000), (17, 18), (100, 3000), (3, 3)):
        assert list(table.between(first, end)) == sorted(pair for pair in pairs if first <= pair[0] < end)


@pytest.mark.parametrize("places", [1 << 20, 1 << 40])
def test_a_small_read_sorts_what_it_needs(monkeypatch, places: int):
    """Of a table in order one batch; and numbers too wide for a float are kept all the same."""
    monkeypatch.setattr(chunks_module, "_BATCH", 64)
    sorts: list[int] = []
    monkeypatch.setattr(chunks_module, "sorted", lambda some: sorts.append(len(some)) or sorted(some), raising=False)
    table = ChunkTable(1 << 20, places, [(range(at, at + 32), range(places - 32, places)) for at in range(0, 4096, 32)], "t")
    assert sorts == []
    assert list(table.between(100, 103)) == [(100, places - 28), (101, places - 27), (102, places - 26)]
    assert sorts == [64]
    assert len(list(table.between(0, 4096))) == 4096 and sorts == [64] * 64


def test_a_table_takes_eight_bytes_a_chunk():
    count = 200_000
    rng = random.Random(1)
    chunks = rng.sample(range(1 << 20), count)
    tracemalloc.start()
    try:
        pieces = ((chunks[at : at + 4096], range(at, min(count, at + 4096))) for at in range(0, count, 4096))
        table = ChunkTable(1 << 20, 1 << 20, pieces, "t")
        assert sum(1 for _ in table.between(0, 1 << 20)) == count
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 9 * count


def test_a_table_too_large(monkeypatch):
    monkeypatch.setattr(chunks_module, "_BATCH", 8)
    monkeypatch.setattr(chunks_module, "MAX_CHUNKS", 16)
    assert len(list(ChunkTable(99, 99, [(range(16), range(16))], "t").between(0, 99))) == 16
    with pytest.raises(Unsupported, match="more than 16 chunks"):
        ChunkTable(99, 99, [(range(17), range(17))], "t")
    with pytest.raises(Unsupported, match="too many for a table"):
        ChunkTable(1 << 40, 1 << 24, [], "t")


@pytest.mark.parametrize("seed", range(40))
def test_random_exceptions_are_errors_or_bytes_and_nothing_else(seed):
    rng = random.Random(seed)
    cow = store(exceptions(40, rng), CHUNK, 130 * CHUNK)
    for _ in range(rng.choice((1, 3, 200))):
        cow[rng.randrange(2 * CHUNK)] = rng.randrange(256)
    try:
        snapshot = Snapshot(Memory(content(SIZE)), Memory(bytes(cow)), SIZE)
        assert len(read(snapshot, 0, SIZE)) == SIZE
        assert sum(extent.length for extent in snapshot.extents(0, SIZE)) == SIZE
    except (Corrupt, Unsupported) as error:
        assert error.reason in {"lvm-metadata", "lvm-snapshot", "snapshot-invalid"}
