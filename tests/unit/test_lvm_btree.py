"""persistent-data: trees against a dictionary, and every way a block can be wrong."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.lvm_persistent import BLOCK, array_block, metadata, node, seal, tree
from mntapi.blocks import Fault
from mntapi.errors import Corrupt, ReadFailed
from mntapi.volumes.lvm import btree
from mntapi.volumes.lvm.btree import Store, array_values, entries, lookup
from mntapi.volumes.lvm.btree_checksum import checksum

EMPTY = bytes(BLOCK)


def store(*blocks: bytes) -> Store:
    return Store(metadata(*blocks), "test")


def pairs(kept: Store, root: int, first: int = 0, end: int = 1 << 64) -> list[tuple[int, int]]:
    return [pair for found in entries(kept, root, first, end) for pair in found.pairs()]


def test_the_checksum_is_crc32c_without_the_last_inversion():
    """RFC 3720, B.4: CRC-32C of 32 zero bytes is aa 36 91 8a in that order of bytes; of ``123456789`` e3069283."""
    assert checksum(b"123456789", 0) ^ 0xFFFFFFFF == 0xE3069283
    assert checksum(bytes(32), 5) ^ 5 ^ 0xFFFFFFFF == 0x8A9136AA


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.integers(0, 400) | st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1), max_size=60),
    st.integers(2, 9),
    st.lists(st.tuples(st.integers(0, 420), st.integers(0, 1 << 64)), max_size=5),
)
def test_a_tree_holds_what_a_dictionary_does(content, fanout, ranges):
    content = sorted(content.items())
    root, blocks = tree(0, content, fanout)
    kept = store(*blocks)
    assert pairs(kept, root) == content
    for first, end in ranges:
        assert pairs(kept, root, first, end) == [pair for pair in content if first <= pair[0] < end]
        assert lookup(kept, root, first) == dict(content).get(first)


def test_a_walk_reads_only_the_nodes_on_its_way_and_each_once():
    content = [(key * 3, key) for key in range(200 * 200)]
    root, blocks = tree(0, content, 200)
    device = metadata(*blocks)
    kept = Store(device, "test")
    assert lookup(kept, root, 3 * 20_000) == 20_000
    assert device.reads == 2
    assert lookup(kept, root, 3 * 20_000 + 1) is None
    assert device.reads == 2
    assert len(pairs(kept, root, 3 * 190, 3 * 210)) == 20
    assert device.reads == 4


def test_the_nodes_that_are_kept_are_limited(monkeypatch):
    monkeypatch.setattr(btree, "MAX_NODES", 2)
    root, blocks = tree(0, [(key, key) for key in range(100)], 10)
    device = metadata(*blocks)
    kept = Store(device, "test")
    pairs(kept, root)
    pairs(kept, root)
    assert device.reads > 20


def check(message: str, *blocks: bytes, root: int = 0, key: int = 7, offset: int | None = None) -> Corrupt:
    with pytest.raises(Corrupt, match=message) as caught:
        lookup(store(*blocks), root, key)
    if offset is not None:
        assert caught.value.offset == offset
    assert caught.value.reason == "lvm-metadata"
    return caught.value


def test_a_block_past_the_end():
    error = check("a block is past the end", EMPTY, root=1 << 40)
    assert (error.expected, error.found) == ("fewer than 1", 1 << 40)


def test_a_wrong_checksum():
    damaged = bytearray(node(1, [(7, 7)]))
    damaged[4000] ^= 1
    check("a block has a wrong checksum", EMPTY, bytes(damaged), root=1, offset=BLOCK)
    check("a block has a wrong checksum", EMPTY, EMPTY, root=1, offset=BLOCK)
    check("a block has a wrong checksum", array_block(0, [1]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (node(0, [(1, 1)], flags=3), "no node of a tree"),
        (node(0, [(1, 1)], flags=0), "no node of a tree"),
        (node(5, [(1, 1)]), "belongs to another place"),
        (node(0, [(1, 1)], value_size=24), "values of another size"),
        (node(0, [(1, 1)], count=253), "too many entries"),
        (node(0, [(1, 1)], count=1 << 31), "too many entries"),
        (node(0, [(1, 1)], room=255), "too many entries"),
        (node(0, [], flags=1), "has no children"),
        (node(0, [(1, 1), (1, 2)]), "keys out of order"),
        (node(0, [(7, 1), (3, 2)]), "keys out of order"),
    ],
)
def test_a_node_that_cannot_be(content, message):
    check(message, content, offset=0)


def test_a_node_that_is_its_own_child():
    check("too deep, or loops", node(0, [(0, 0)], flags=1))


def test_two_nodes_that_are_each_other_s_child():
    check("too deep, or loops", node(0, [(0, 1)], flags=1), node(1, [(0, 0)], flags=1))


def test_a_child_that_serves_two_places_is_found_where_it_is_wrong():
    shared = (node(0, [(0, 1), (100, 1)], flags=1), node(1, [(5, 5), (50, 50)]))
    assert lookup(store(*shared), 0, 50) == 50
    check("keys that are not its own", *shared, key=200, offset=BLOCK)


def test_a_child_with_keys_of_its_neighbour():
    check("keys that are not its own", node(0, [(0, 1), (100, 2)], flags=1), node(1, [(5, 5), (100, 9)]))


def test_a_bad_sector_is_told_as_such_and_other_nodes_are_read():
    root, blocks = tree(0, [(key, key) for key in range(20)], 10)
    kept = Store(Fault(metadata(*blocks), bad=[(BLOCK, 512)]), "test")
    assert lookup(kept, root, 3) == 3
    with pytest.raises(ReadFailed):
        lookup(kept, root, 13)


def numbers(count: int, *blocks: bytes, root: int = 0) -> list[int]:
    return [value for values in array_values(store(*blocks), root, count) for value in values]


def test_an_array_is_read_in_order_and_cut_to_what_it_holds():
    blocks = [node(0, [(0, 1), (1, 2)]), array_block(1, range(509)), array_block(2, range(509, 700))]
    assert numbers(700, *blocks) == list(range(700))
    assert numbers(600, *blocks) == list(range(600))
    assert numbers(509, *blocks) == list(range(509))
    assert numbers(0, *blocks) == []


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (array_block(2, range(190)), "too few values"),
        (array_block(1, range(191)), "belongs to another place"),
        (array_block(2, range(191), value_size=4), "too many values"),
        (array_block(2, range(191), count=510), "too many values"),
        (array_block(2, range(191), room=510), "too many values"),
        (seal(b"", 1), "wrong checksum"),
    ],
)
def test_a_block_of_an_array_that_cannot_be(second, message):
    with pytest.raises(Corrupt, match=message) as caught:
        numbers(700, node(0, [(0, 1), (1, 2)]), array_block(1, range(509)), second)
    assert caught.value.offset == 2 * BLOCK


def test_an_array_with_a_block_missing():
    first = array_block(1, range(509))
    with pytest.raises(Corrupt, match="an array is too short"):
        numbers(700, node(0, [(0, 1)]), first)
    with pytest.raises(Corrupt, match="a block of an array is missing"):
        numbers(1200, node(0, [(0, 1), (2, 1)]), first)
