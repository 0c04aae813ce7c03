"""Every kind of VMDK cut off at every sector and changed at random: right bytes, or an error of ours, and soon."""

from __future__ import annotations

import os
import resource
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.vmdk_builder import (
    GRAIN,
    SECTOR,
    build_cowd,
    build_sesparse,
    build_stream,
    content,
    convert,
    hosted_header,
    needs_qemu,
    open_vmdk,
    padded,
    write_descriptor,
)
from mntapi.blocks import HostFile, read
from mntapi.errors import Corrupt, MntapiError
from mntapi.images.vmdk.grains import Span
from mntapi.images.vmdk.stream import Inflated
from mntapi.types import ExtentKind, Image

DATA = content(10 * GRAIN + 5 * SECTOR, seed=11, stored=0.6)
SECTORS = len(DATA) // SECTOR

Maker = Callable[[Path], tuple[Path, Path]]


def _by_qemu(subformat: str, suffix: str = "") -> Maker:
    def make(folder: Path) -> tuple[Path, Path]:
        (folder / "raw").write_bytes(DATA)
        path = convert(folder / "raw", folder / "disk.vmdk", subformat)
        return path, folder / f"disk{suffix}.vmdk"

    return make


def _cowd(folder: Path) -> tuple[Path, Path]:
    extent = build_cowd(folder / "d-delta.vmdk", DATA, grain_sectors=8)
    return write_descriptor(folder / "d.vmdk", [f'RW {SECTORS} VMFSSPARSE "d-delta.vmdk"']), extent


def _sesparse(folder: Path) -> tuple[Path, Path]:
    extent = build_sesparse(folder / "d-sesparse.vmdk", DATA)
    return write_descriptor(folder / "d.vmdk", [f'RW {SECTORS} SESPARSE "d-sesparse.vmdk"']), extent


def _stream(folder: Path) -> tuple[Path, Path]:
    path = build_stream(folder / "stream.vmdk", DATA)
    return path, path


KINDS = [
    pytest.param(_by_qemu("monolithicSparse"), marks=needs_qemu, id="monolithicSparse"),
    pytest.param(_by_qemu("monolithicFlat", "-flat"), marks=needs_qemu, id="monolithicFlat"),
    pytest.param(_by_qemu("twoGbMaxExtentSparse", "-s001"), marks=needs_qemu, id="twoGbMaxExtentSparse"),
    pytest.param(_by_qemu("streamOptimized"), marks=needs_qemu, id="streamOptimized"),
    pytest.param(_cowd, id="vmfsSparse"),
    pytest.param(_sesparse, id="seSparse"),
    pytest.param(_stream, id="stream"),
]


def read_grains(image: Image) -> int:
    """Read the disk a grain at a time; how many grains could be read. All of them must be right."""
    good = 0
    for offset in range(0, len(DATA), GRAIN):
        length = min(GRAIN, len(DATA) - offset)
        try:
            assert read(image.blocks, offset, length) == DATA[offset : offset + length]
        except MntapiError as error:
            assert error.path is not None
            assert error.offset is not None
        else:
            good += 1
    for extent in image.blocks.extents(0, image.blocks.size):
        if extent.kind is ExtentKind.ZERO:
            assert not DATA[extent.offset : extent.end].strip(b"\0")
    return good


@pytest.mark.parametrize("make", KINDS)
def test_cut_off_at_every_sector(make: Maker, tmp_path: Path) -> None:
    path, extent = make(tmp_path)
    size = extent.stat().st_size
    last = -(-len(DATA) // GRAIN)
    for length in range(size - size % SECTOR, -1, -SECTOR):
        os.truncate(extent, length)
        try:
            image = open_vmdk(path)
        except MntapiError as error:
            assert error.path is not None
            continue
        if image.format == "vmdk":  # what is left of nothing is no VMDK any more
            good = read_grains(image)
            assert good <= last, "a shorter file cannot have more"
            last = good
        image.blocks.close()


def test_a_descriptor_cut_off_at_every_byte(tmp_path: Path) -> None:
    """It is as long as it was, or an error: never a smaller disk."""
    (tmp_path / "flat").write_bytes(DATA)
    lines = [f'RW {SECTORS // 2} FLAT "flat" 0', f'RW {SECTORS - SECTORS // 2} FLAT "flat" {SECTORS // 2}']
    whole = write_descriptor(tmp_path / "disk.vmdk", lines, create_type="twoGbMaxExtentFlat").read_bytes()
    opened = 0
    for length in range(len(b"# Disk DescriptorFile"), len(whole) + 1):
        (tmp_path / "disk.vmdk").write_bytes(whole[:length])
        try:
            image = open_vmdk(tmp_path / "disk.vmdk")
        except MntapiError:
            continue
        assert image.blocks.size == len(DATA)
        assert read_grains(image)
        image.blocks.close()
        opened += 1
    assert 0 < opened < 40, "only the disk database can be missed"


@pytest.fixture(
    scope="module", params=[_stream, _cowd, _sesparse, _by_qemu("monolithicSparse")], ids=["stream", "cowd", "se", "kdmv"]
)
def specimen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes]:
    path, extent = request.param(tmp_path_factory.mktemp("specimen"))
    return path, extent, extent.read_bytes()


_VALUES = st.sampled_from([0, 1, 2, 3, 7, 8, 0x7F, 0xFF, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, (1 << 64) - 1])
_CHANGES = st.lists(st.tuples(st.integers(0, 1 << 20), st.sampled_from([1, 2, 4, 8]), _VALUES), min_size=1, max_size=4)


@needs_qemu
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=_CHANGES, near=st.booleans())
def test_changed_at_random(specimen: tuple[Path, Path, bytes], changes: list[tuple[int, int, int]], near: bool) -> None:
    path, extent, original = specimen
    damaged = bytearray(original)
    for place, width, value in changes:
        offset = place % (128 if near else len(original) - 8)
        damaged[offset : offset + width] = (value & ((1 << width * 8) - 1)).to_bytes(width, "little")
    extent.write_bytes(damaged)
    try:
        image = open_vmdk(path)
    except MntapiError:
        return
    size = image.blocks.size
    for offset in {0, size // 3, size // 2, max(0, size - 70_000)}:
        try:
            read(image.blocks, offset, min(70_000, size - offset))
        except MntapiError:
            continue
    try:
        for count, _ in enumerate(image.blocks.extents(0, size)):
            if count > 1000:
                break
    except MntapiError as error:
        assert error.path is not None
    image.blocks.close()


def test_a_directory_of_absurd_size_costs_nothing(tmp_path: Path) -> None:
    """A PiB in a file of 64 KiB, and the same in a file that really is that long and has no byte in it."""
    size = 1 << 50
    text = write_descriptor(tmp_path / "text", [f'RW {size // SECTOR} SPARSE "disk.vmdk"']).read_bytes()
    path = tmp_path / "disk.vmdk"
    path.write_bytes(hosted_header(size, grain=8, descriptor=1, descriptor_size=20, directory=21) + padded(text, 127 * SECTOR))
    with pytest.raises(Corrupt, match="grain directory lies outside") as caught:
        open_vmdk(path)
    assert caught.value.offset == 21 * SECTOR
    os.truncate(path, 1 << 32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = open_vmdk(path)
    assert image.blocks.size == size
    assert read(image.blocks, size - 4096, 4096) == bytes(4096)
    assert [extent.kind for extent in image.blocks.extents(size - (1 << 45), 1 << 45)] == [ExtentKind.ZERO]
    image.blocks.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024


class OneGrain:
    """The first grain is in the first sector."""

    def spans(self, first: int, last: int) -> Iterator[Span]:
        yield Span(first, last - first, [0])


def test_a_bomb_is_not_inflated(tmp_path: Path) -> None:
    """A grain of 64 KiB that inflates to 64 MiB."""
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    path = tmp_path / "bomb"
    path.write_bytes(struct.pack("<QI", 0, len(bomb)) + bomb)
    file = HostFile.open(str(path))
    source = Inflated(file, OneGrain(), size=GRAIN, grain_size=GRAIN, markers=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Corrupt, match="not of its size"):
        source.readinto(0, memoryview(bytearray(1)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024
    file.close()
