"""Write caches and integrity checksums of LVM, on a disk whose machine lost its power (scripts/images/lvm-layers.sh). The
oracle: the SHA-256 of each volume as the kernel read it before, and again, after its own recovery, from a copy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

import mntapi
from contract.blocks_contract import check_blocks
from contract.writable_sets import GOLDEN, unpack
from mntapi.blocks import HostFile, Slice, Zero, read
from mntapi.session.overlay import why_read_only
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.volumes.lvm import mapping
from mntapi.volumes.lvm.integrity import with_journal
from mntapi.volumes.lvm.writecache import parse_superblock
from mntapi.volumes.scan import find_volumes

FACTS = json.loads((GOLDEN / "lvm-layers" / "facts.json").read_text())
KERNEL: dict[str, dict[str, str | int]] = FACTS["volumes"]
START, PARTITION = 1 << 20, 80 << 20
"""Where the first of three physical volumes is on the disk, and how large each is."""
LIES_ON = {"bitmap": (0, 1), "journal": (0, 1), "five": (0, 1, 2)}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostFile]:
    path = unpack(GOLDEN / "lvm-layers" / "layers.img.xz", tmp_path_factory.mktemp("layers") / "layers.img")
    with closing(HostFile.open(str(path))) as opened:
        yield opened


def volumes(disk: Blocks) -> dict[str, Volume]:
    return {one.name.removeprefix("layers-"): one for one in find_volumes([disk]).volumes if one.kind == "lvm"}


def test_every_byte_is_the_kernels(disk: HostFile) -> None:
    found = volumes(disk)
    assert found.keys() == KERNEL.keys()
    for name, one in found.items():
        content = read(one.blocks, 0, one.size)
        assert (one.state, one.size) == (VolumeState.OK, KERNEL[name]["size"]), name
        assert sha256(content).hexdigest() == KERNEL[name]["sha256"], name
        check_blocks(one.blocks, content, ranges=100)


def test_the_public_interface(disk: HostFile) -> None:
    with mntapi.open_disks(disk.path) as disk_set:
        kinds = {one.name: one.details["segments"] for one in disk_set.volumes}
        assert (kinds["layers-wc4096"], kinds["layers-five"]) == ("writecache", "raid5")


def test_what_the_journals_hold(disk: HostFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's journals hold what it had also written in its place: each block of them is that block of the data."""
    images: list[tuple[Blocks, Blocks]] = []

    def noted(data: Blocks, metadata: Blocks) -> Blocks:
        images.append((data, metadata))
        return with_journal(data, metadata)

    monkeypatch.setattr(mapping, "with_journal", noted)
    volumes(disk)
    held = 0
    for data, metadata in images:
        journal = with_journal(Zero(data.size), metadata)
        for at in range(0, data.size, 512):
            block = read(journal, at, 512)
            assert block in (bytes(512), read(data, at, 512))
            held += any(block)
    assert held > 4


def test_none_of_them_is_written(disk: HostFile) -> None:
    for name, one in volumes(disk).items():
        why = why_read_only(one)
        assert why is not None and ("cache would have to be told" if name.startswith("wc") else "checksums") in why


def test_the_write_caches_hold_what_the_origins_lack(disk: HostFile) -> None:
    """The golden disk is of use only if something was committed to them."""
    for size in (4096, 512):
        heads = (read(extent, 0, 32) for _, extent in _extents(disk))
        superblocks = [parse_superblock(head) for head in heads if head.startswith(b"\x21\x93\x48\x23")]
        assert any(one is not None and one.block == size and one.commit > 1 for one in superblocks)


def _extents(disk: HostFile) -> Iterator[tuple[int, Slice]]:
    """The disk in steps of an extent, each with where it begins."""
    return ((at, Slice(disk, at, 64 << 10)) for at in range(START, disk.size - (64 << 10), 64 << 10))


@pytest.mark.parametrize("partition", [0, 1, 2])
def test_without_one_of_the_disks(disk: HostFile, partition: int) -> None:
    """The other image gives everything; what is on that disk alone cannot be read."""
    parts = [Slice(disk, START + index * PARTITION, PARTITION) for index in range(3)]
    assert read(parts[partition], 512, 8) == b"LABELONE"
    del parts[partition]
    found = {one.name.removeprefix("layers-"): one for one in find_volumes(parts).volumes if one.kind == "lvm"}
    for name, one in found.items():
        if name.startswith("wc") and not partition:  # they lie on that disk alone
            assert one.state is VolumeState.INCOMPLETE
            continue
        assert one.state is (
            VolumeState.OK if name.startswith("wc") or partition not in LIES_ON[name] else VolumeState.DEGRADED
        )
        assert sha256(read(one.blocks, 0, one.size)).hexdigest() == KERNEL[name]["sha256"], name


def test_integrity_metadata_that_is_damaged(disk: HostFile, tmp_path: Path) -> None:
    """The image is left out, and the other one gives everything."""
    damaged = unpack(GOLDEN / "lvm-layers" / "layers.img.xz", tmp_path / "damaged.img")
    with damaged.open("r+b") as out:
        out.seek(next(at for at, extent in _extents(disk) if read(extent, 0, 8) == b"integrt\0") + 8)
        out.write(b"\x63")
    with closing(HostFile.open(str(damaged))) as opened:
        one = volumes(opened)["bitmap"]
        assert one.state is VolumeState.DEGRADED and "of a kind that LVM does not make" in (one.reason or "")
        assert sha256(read(one.blocks, 0, one.size)).hexdigest() == KERNEL["bitmap"]["sha256"]
