"""Thin volumes made by the kernel: every byte as it read them, every mapping as thin_dump tells it."""

from __future__ import annotations

import pytest

from contract.blocks_contract import check_blocks
from contract.lvm_targets import FACTS, check_group, device, digest, thin_mappings, volume_facts
from mntapi.blocks import read
from mntapi.types import Blocks, ExtentKind
from mntapi.volumes.lvm.thin import ThinPool

VOLUMES = ["vgt/base", "vgt/snap1", "vgt/snap2", "vgt/empty", "vgt/coarse", "vgt/coarsesnap"]


def pool(name: str) -> ThinPool:
    return ThinPool(device(f"vgt-{name}_tmeta"), device(f"vgt-{name}_tdata"), int(volume_facts(f"vgt/{name}")["chunk_size"]))


def thin(name: str, origin: Blocks | None = None) -> Blocks:
    facts = volume_facts(name)
    return pool(facts["pool_lv"]).volume(int(facts["thin_id"]), int(facts["lv_size"]), origin)


def dumped(name: str) -> dict[int, int]:
    """Chunk of the volume -> chunk of the pool, by thin_dump."""
    facts = volume_facts(name)
    return thin_mappings(f"vgt-{facts['pool_lv']}_tmeta")[int(facts["thin_id"])]


def by_the_dump(name: str) -> bytes:
    facts = volume_facts(name)
    data, chunk = device(f"vgt-{facts['pool_lv']}_tdata"), int(volume_facts(f"vgt/{facts['pool_lv']}")["chunk_size"])
    made = bytearray(int(facts["lv_size"]))
    for index, place in dumped(name).items():
        made[index * chunk : (index + 1) * chunk] = read(data, place * chunk, chunk)
    return bytes(made)


@pytest.mark.parametrize("name", VOLUMES)
def test_a_volume_is_what_the_kernel_read(name):
    volume = thin(name)
    assert digest(volume) == FACTS["sha256"][name]
    check_blocks(volume, by_the_dump(name), ranges=500)


@pytest.mark.parametrize("name", VOLUMES)
def test_what_no_mapping_has_is_a_hole(name):
    chunk = int(volume_facts(f"vgt/{volume_facts(name)['pool_lv']}")["chunk_size"])
    volume, mapped = thin(name), dumped(name)
    for index in range(-(-volume.size // chunk)):
        length = min(chunk, volume.size - index * chunk)
        kinds = {extent.kind for extent in volume.extents(index * chunk, length)}
        if index not in mapped:
            assert kinds == {ExtentKind.ZERO}


def test_the_trees_are_deeper_than_a_leaf():
    """Else the test above would prove little."""
    assert max(len(mapping) for mapping in thin_mappings("vgt-pool64_tmeta").values()) > 252


def test_an_external_origin_shows_where_nothing_was_written_and_zeros_after_its_end():
    origin = device("vgt-ext-real" if "vgt-ext-real" in FACTS["tables"] else "vgt-ext")
    assert digest(origin) == FACTS["sha256"]["vgt/ext"]
    volume = thin("vgt/fromext", origin)
    assert volume.size == origin.size + (2 << 20)
    assert digest(volume) == FACTS["sha256"]["vgt/fromext"]


def test_a_volume_of_a_tebibyte():
    volume = thin("vgt/huge")
    assert volume.size == 1 << 40
    pieces = [name.split(":") for name in FACTS["sha256"] if name.startswith("vgt/huge:")]
    assert len(pieces) == 3
    for name, offset, length in pieces:
        assert digest(volume, int(offset), int(length)) == FACTS["sha256"][f"{name}:{offset}:{length}"]
    chunks = sorted(dumped("vgt/huge"))
    data = [extent for extent in volume.extents(0, volume.size) if extent.kind is ExtentKind.DATA]
    assert {extent.offset >> 16 for extent in data} <= set(chunks)


def test_what_the_superblock_says():
    line = next(line for line in FACTS["dumps"]["vgt-pool64_tmeta"] if line.startswith("<superblock"))
    assert f'transaction="{pool("pool64").transaction}"' in line
    assert not pool("pool64").needs_check


def test_through_the_public_api():
    check_group("vgt")
