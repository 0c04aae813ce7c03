"""Caches: superblocks that cannot be, what counts as dirty in both metadata versions, hostile mappings."""

from __future__ import annotations

import random

import pytest

from contract.blocks_contract import check_blocks
from contract.lvm_persistent import BLOCK, array_block, cache_superblock, metadata, node
from contract.raid_model import Memory, content
from mntapi.blocks import Fault, Zero, read
from mntapi.errors import Corrupt, ReadFailed, Unsupported
from mntapi.types import Blocks
from mntapi.volumes.lvm.cache import Cached

CHUNK = 512
COUNT = 700  # chunks of the cache: more than one block of the array holds
SIZE = 900 * CHUNK + 100


def cached(
    origin: Blocks, data: Blocks, mappings: dict[int, int], dirty: set[int], *, version: int = 2, is_clean: bool = True
) -> Cached:
    """``mappings``: chunk of the cache -> chunk of the origin; ``dirty``: chunks of the cache."""
    flag = 2 if version == 1 else 0
    entries = [
        (mappings[place] << 16 | 1 | (flag if place in dirty else 0)) if place in mappings else 0 for place in range(COUNT)
    ]
    bits = sum(1 << place for place in dirty)
    words = [bits >> (64 * word) & (1 << 64) - 1 for word in range(-(-COUNT // 64))]
    device = metadata(
        cache_superblock(1, COUNT, chunk=CHUNK, flags=int(is_clean), version=version, dirty_root=4),
        node(1, [(0, 2), (1, 3)]),
        array_block(2, entries[:509]),
        array_block(3, entries[509:]),
        node(4, [(0, 5)]),
        array_block(5, words),
    )
    return Cached(origin, device, data, CHUNK)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("is_clean", [True, False])
def test_dirty_chunks_come_from_the_cache_the_others_from_the_origin(version, is_clean):
    rng = random.Random(version)
    mappings = dict(zip(rng.sample(range(COUNT), 300), [900, *rng.sample(range(900), 299)], strict=True))
    dirty = set(rng.sample(sorted(mappings), 90)) | {min(mappings), next(iter(mappings))}
    origin, data = content(SIZE, seed=5), content(COUNT * CHUNK, seed=6)
    want = bytearray(origin)
    for place, chunk in mappings.items():
        if place in dirty or not is_clean:
            part = data[place * CHUNK : (place + 1) * CHUNK][: SIZE - chunk * CHUNK]
            want[chunk * CHUNK : chunk * CHUNK + len(part)] = part
    volume = cached(Memory(origin), Memory(data), mappings, dirty, version=version, is_clean=is_clean)
    assert volume.was_shut_down == is_clean
    check_blocks(volume, bytes(want))


def test_without_anything_dirty_the_fast_device_is_not_needed():
    origin = content(SIZE)
    data = Fault(Zero(COUNT * CHUNK), bad=[(0, COUNT * CHUNK)])
    check_blocks(cached(Memory(origin), data, {5: 7}, set()), origin, ranges=20)
    with pytest.raises(ReadFailed):
        read(cached(Memory(origin), data, {5: 7}, {5}), 7 * CHUNK, 1)


@pytest.mark.parametrize(
    ("superblock", "error", "message"),
    [
        (cache_superblock(1, 5, chunk=CHUNK, magic=6142003), Corrupt, "no superblock"),
        (cache_superblock(1, 5, chunk=CHUNK, block=1), Corrupt, "no superblock"),
        (cache_superblock(1, 5, chunk=CHUNK, version=0), Unsupported, "newer kernel"),
        (cache_superblock(1, 5, chunk=CHUNK, version=3), Unsupported, "newer kernel"),
        (cache_superblock(1, 5, chunk=CHUNK, features=1), Unsupported, "newer kernel"),
        (cache_superblock(1, 5, chunk=CHUNK, block_size=1), Unsupported, "newer kernel"),
        (cache_superblock(1, (1 << 24) + 1, chunk=CHUNK), Unsupported, "too many chunks"),
        (cache_superblock(1, 5, chunk=1024), Corrupt, "another chunk size"),
        (node(0, []), Corrupt, "wrong checksum"),
        (b"", Corrupt, "past the end"),
    ],
)
def test_a_superblock_that_cannot_be(superblock, error, message):
    with pytest.raises(error, match=message) as caught:
        Cached(Zero(SIZE), metadata(superblock), Zero(CHUNK), CHUNK)
    assert caught.value.offset == 0


def test_what_the_superblock_says():
    made = Cached(Zero(SIZE), metadata(cache_superblock(1, 5, chunk=CHUNK, flags=2)), Zero(5 * CHUNK), CHUNK)
    assert made.needs_check
    assert not made.was_shut_down


def refused(message: str, mappings: dict[int, int], data: Blocks | None = None) -> None:
    volume = cached(Zero(SIZE), data or Zero(COUNT * CHUNK), mappings, set(mappings))
    with pytest.raises(Corrupt, match=message):
        read(volume, 0, SIZE)


def test_mappings_that_cannot_be():
    refused("has a chunk that is not in the volume", {3: 901})
    refused("has a chunk that is not in the volume", {3: (1 << 48) - 1})
    refused("keeps chunk 8 twice", {3: 8, 4: 9, 690: 8})
    refused("chunk 9 of the volume is kept past the end", {3: 8, 690: 9}, Zero(600 * CHUNK))


def test_a_mapping_array_that_is_missing_or_loops():
    for blocks in ([node(1, [(0, 1)], flags=1)], [bytes(BLOCK)], [node(1, [])], [node(1, [(0, 1)])]):
        volume = Cached(Zero(SIZE), metadata(cache_superblock(1, COUNT, chunk=CHUNK), *blocks), Zero(COUNT * CHUNK), CHUNK)
        with pytest.raises(Corrupt):
            read(volume, 0, 1)


def test_an_empty_cache():
    origin = content(SIZE)
    device = metadata(cache_superblock(1, 0, chunk=CHUNK, dirty_root=1), node(1, []))
    check_blocks(Cached(Memory(origin), device, Zero(0), CHUNK), origin, ranges=20)


@pytest.mark.parametrize("seed", range(30))
def test_damage_anywhere_in_the_metadata_is_an_error_or_changes_nothing(seed):
    rng = random.Random(seed)
    origin, data = Memory(content(SIZE, seed=5)), Memory(content(COUNT * CHUNK, seed=6))
    mappings = {place: place for place in range(0, COUNT, 3)}
    sound = cached(origin, data, mappings, set(range(0, COUNT, 6)), version=1 + seed % 2)
    want = read(sound, 0, SIZE)
    damaged = bytearray(sound._store._blocks.content)
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    try:
        got = read(Cached(origin, Memory(bytes(damaged)), data, CHUNK), 0, SIZE)
    except Corrupt:
        return
    assert got == want
