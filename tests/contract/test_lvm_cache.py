"""Cached volumes made by the kernel: dirty, shut down or killed, both metadata versions, a cache volume for all in one.

cache_dump tells which chunk of the origin is where. What it tells of dirty chunks is wrong for metadata version 2 (0.9.0 calls
none dirty), so that is taken from the kernel's own count.
"""

from __future__ import annotations

import pytest

from contract.blocks_contract import check_blocks
from contract.lvm_targets import FACTS, cache_mappings, check_group, device, digest
from mntapi.blocks import Fault, read
from mntapi.errors import ReadFailed
from mntapi.types import Blocks
from mntapi.volumes.lvm.cache import Cached

CHUNK = 32768
POOLED = ["clean1", "clean2", "killed1", "killed2", "through"]
ALL = [*POOLED, "vol"]


def part(name: str, which: str) -> str:
    """The name of its device for ``meta`` or ``data``."""
    return f"vgc-{name}pool_cpool_c{which}" if name in POOLED else f"vgc-fast_cvol-c{which}"


def origin_of(name: str) -> Blocks:
    return device(f"vgc-{name}_corig")


def cached(name: str, data: Blocks | None = None) -> Cached:
    return Cached(origin_of(name), device(part(name, "meta")), data or device(part(name, "data")), CHUNK)


def mappings(name: str) -> dict[int, int]:
    """Chunk of the origin -> chunk of the cache, by cache_dump."""
    return {chunk: place for place, chunk, _ in cache_mappings(part(name, "meta"))}


def counts(name: str) -> tuple[int, int]:
    """Chunks in the cache, and dirty ones, by the kernel just before it was shut down or killed (``dmsetup status``)."""
    status = next(line for line in FACTS["status"] if line.startswith(f"{name}: ")).split()
    return int(status[7].split("/")[0]), int(status[14])


@pytest.mark.parametrize("name", ALL)
def test_a_volume_is_what_the_kernel_read(name):
    volume, data = cached(name), device(part(name, "data"))
    assert digest(volume) == FACTS["sha256"][f"vgc/{name}"]
    want = bytearray(read(origin_of(name), 0, volume.size))
    for chunk, place in mappings(name).items():
        want[chunk * CHUNK : (chunk + 1) * CHUNK] = read(data, place * CHUNK, CHUNK)
    check_blocks(volume, bytes(want), ranges=500)


@pytest.mark.parametrize("name", ["clean1", "clean2", "killed1", "killed2", "vol"])
def test_the_origin_alone_would_be_wrong(name):
    assert digest(origin_of(name)) != FACTS["sha256"][f"vgc/{name}"]


@pytest.mark.parametrize("name", ALL)
def test_the_fast_device_is_read_for_what_the_kernel_counts_as_dirty_or_for_all_after_a_kill(name):
    data = device(part(name, "data"))
    volume = cached(name, Fault(data, bad=[(0, data.size)]))
    assert volume.was_shut_down == name.startswith("clean")
    assert not volume.needs_check
    mapped, dirty = counts(name)
    assert len(mappings(name)) == mapped
    assert sum(not is_readable(volume, at) for at in range(0, volume.size, CHUNK)) == (
        dirty if volume.was_shut_down else mapped
    )
    assert 0 < dirty < mapped or name == "through"


def is_readable(blocks: Blocks, offset: int) -> bool:
    try:
        read(blocks, offset, 512)
    except ReadFailed:
        return False
    return True


def test_through_the_public_api():
    check_group("vgc")
