"""Thin pools: superblocks that cannot be, mappings against a model, external origins, joined reads, and hostile trees."""

from __future__ import annotations

import random

import pytest

from contract.blocks_contract import check_blocks
from contract.lvm_persistent import BLOCK, metadata, node, thin_superblock, tree
from contract.raid_model import Memory, content
from mntapi.blocks import Fault, Zero, read
from mntapi.errors import Corrupt, MntapiError, ReadFailed, Unsupported
from mntapi.types import Blocks, ExtentKind
from mntapi.volumes.lvm.thin import ThinPool

CHUNK = 4096


def pool(mappings: dict[int, dict[int, int]], data: Blocks, *, chunk: int = CHUNK, fanout: int = 5) -> ThinPool:
    """A pool: device number -> chunk of the volume -> chunk of the data; every mapping with a time of its own."""
    blocks: list[bytes] = []
    roots = []
    for number, mapping in sorted(mappings.items()):
        pairs = [(index, place << 24 | index & 0xFFF) for index, place in sorted(mapping.items())]
        root, some = tree(1 + len(blocks), pairs, fanout)
        blocks += some
        roots.append((number, root))
    root, some = tree(1 + len(blocks), roots, fanout)
    return ThinPool(metadata(thin_superblock(root, chunk=chunk), *blocks, *some), data, chunk)


def model(mapping: dict[int, int], data: bytes, size: int, origin: bytes = b"") -> bytes:
    made = bytearray(origin[:size].ljust(size, b"\0"))
    for index, place in mapping.items():
        part = data[place * CHUNK : (place + 1) * CHUNK][: max(0, size - index * CHUNK)]
        made[index * CHUNK : index * CHUNK + len(part)] = part
    return bytes(made)


@pytest.mark.parametrize("origin_size", [None, 0, 3 * CHUNK + 512, 40 * CHUNK])
def test_mappings_at_random_against_a_model(origin_size):
    rng = random.Random(7)
    data = content(32 * CHUNK, seed=3)
    origin = b"" if origin_size is None else content(origin_size, seed=4)
    for size in (1024, 20 * CHUNK, 29 * CHUNK + 512):
        mapping = {index: rng.randrange(32) for index in rng.sample(range(35), 17)}
        volume = pool({1: {}, 9: mapping}, Memory(data)).volume(9, size, None if origin_size is None else Memory(origin))
        check_blocks(volume, model(mapping, data, size, origin), ranges=60)


def test_neighbours_on_the_data_device_are_one_read_and_what_is_unmapped_is_zero():
    data = Memory(content(64 * CHUNK))
    volume = pool({1: {index: index + 10 for index in range(4, 20)}}, data).volume(1, 40 * CHUNK)
    assert read(volume, 4 * CHUNK + 5, 16 * CHUNK - 9) == data.content[14 * CHUNK + 5 : 30 * CHUNK - 4]
    assert data.reads == 1
    found = [(extent.offset, extent.length, extent.kind) for extent in volume.extents(0, volume.size)]
    assert found == [
        (0, 4 * CHUNK, ExtentKind.ZERO),
        (4 * CHUNK, 16 * CHUNK, ExtentKind.DATA),
        (20 * CHUNK, 20 * CHUNK, ExtentKind.ZERO),
    ]


def test_a_volume_of_an_exabyte_costs_what_is_mapped():
    size = 1 << 60
    volume = pool({3: {0: 1, size // CHUNK - 1: 2}}, Memory(content(4 * CHUNK))).volume(3, size)
    assert [extent.kind for extent in volume.extents(0, size)] == [ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.DATA]
    assert read(volume, size - 8, 8) == content(4 * CHUNK)[3 * CHUNK - 8 : 3 * CHUNK]


@pytest.mark.parametrize(
    ("superblock", "error", "message"),
    [
        (thin_superblock(1, magic=1), Corrupt, "no superblock"),
        (thin_superblock(1, block=1), Corrupt, "no superblock"),
        (thin_superblock(1, version=3), Unsupported, "newer kernel"),
        (thin_superblock(1, features=4), Unsupported, "newer kernel"),
        (thin_superblock(1, block_size=16), Unsupported, "newer kernel"),
        (thin_superblock(1, chunk=8192), Corrupt, "another chunk size"),
        (node(0, []), Corrupt, "wrong checksum"),
        (bytes(BLOCK), Corrupt, "wrong checksum"),
        (b"", Corrupt, "past the end"),
    ],
)
def test_a_superblock_that_cannot_be(superblock, error, message):
    with pytest.raises(error, match=message) as caught:
        ThinPool(metadata(superblock), Zero(CHUNK), CHUNK)
    assert caught.value.offset == 0


def test_what_the_superblock_says():
    made = ThinPool(metadata(thin_superblock(1, chunk=CHUNK, flags=1, transaction=77)), Zero(0), CHUNK)
    assert (made.needs_check, made.transaction) == (True, 77)
    assert not ThinPool(metadata(thin_superblock(1, chunk=CHUNK, version=1)), Zero(0), CHUNK).needs_check


def test_a_chunk_of_no_bytes():
    with pytest.raises(Corrupt, match="another chunk size"):
        ThinPool(metadata(thin_superblock(1, chunk=0)), Zero(0), 0)


def test_a_volume_the_pool_does_not_have():
    with pytest.raises(Corrupt, match="no volume 2"):
        pool({1: {}, 3: {}}, Zero(0)).volume(2, CHUNK)


def test_a_mapping_past_the_end_of_the_data_spoils_only_itself():
    data = content(4 * CHUNK + 512)
    volume = pool({1: {0: 1, 1: 4, 2: (1 << 40) - 1, 3: 2}}, Memory(data)).volume(1, 4 * CHUNK)
    for chunk in (1, 2):
        with pytest.raises(Corrupt, match=f"chunk {chunk} of the volume is kept past the end"):
            read(volume, chunk * CHUNK, CHUNK)
    assert read(volume, 3 * CHUNK, CHUNK) == data[2 * CHUNK : 3 * CHUNK]


def test_a_damaged_leaf_spoils_only_its_own_range():
    data = content(40 * CHUNK)
    mapping = {index: 39 - index for index in range(40)}
    pairs = [(index, place << 24) for index, place in mapping.items()]
    root, blocks = tree(2, pairs, 10)
    top = node(1, [(1, root)])
    device = Fault(metadata(thin_superblock(1, chunk=CHUNK), top, *blocks), bad=[(3 * BLOCK, 1)])
    volume = ThinPool(device, Memory(data), CHUNK).volume(1, 40 * CHUNK)
    want = model(mapping, data, 40 * CHUNK)
    assert read(volume, 0, 10 * CHUNK) == want[: 10 * CHUNK]
    with pytest.raises(ReadFailed):
        read(volume, 10 * CHUNK, 1)
    assert read(volume, 20 * CHUNK, 20 * CHUNK) == want[20 * CHUNK :]


@pytest.mark.parametrize("seed", range(40))
def test_damage_anywhere_in_the_metadata_is_an_error_or_changes_nothing(seed):
    rng = random.Random(seed)
    data = content(16 * CHUNK)
    mapping = {index: rng.randrange(16) for index in range(0, 30, 2)}
    root, blocks = tree(2, [(index, place << 24) for index, place in mapping.items()], 4)
    whole = bytearray(b"".join([thin_superblock(1, chunk=CHUNK), node(1, [(1, root)]), *blocks]))
    whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    try:
        made = read(ThinPool(Memory(bytes(whole)), Memory(data), CHUNK).volume(1, 30 * CHUNK), 0, 30 * CHUNK)
    except MntapiError as error:
        assert isinstance(error, Corrupt)
    else:
        assert made == model(mapping, data, 30 * CHUNK)
