"""What the probe must never do: raise anything but our errors, read much, or let a bad sector hide a signature."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mntapi.blocks import Fault, HostFile, Slice, check_range, whole
from mntapi.errors import ReadFailed
from mntapi.filesystems.probe import probe
from mntapi.filesystems.signatures.source import CutOff, Source
from mntapi.filesystems.signatures.table import SIGNATURES, Magic
from mntapi.types import Extent, ExtentKind, Signature
from unit.test_probe_crafted import CASES, Case, crafted
from unit.test_probe_mkfs import made
from unit.test_probe_oracle import blank

MIB = 1 << 20


class Sparse:
    """``size`` bytes of zeros with some bytes at some offsets; counts what is read of it."""

    def __init__(self, size: int, parts: tuple[tuple[int, bytes], ...] = ()) -> None:
        self.size = size
        self.sector_size = 512
        self.parts = tuple((offset if offset >= 0 else size + offset, raw) for offset, raw in parts)
        self.reads: list[tuple[int, int]] = []

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        self.reads.append((offset, len(buffer)))
        buffer[:] = bytes(len(buffer))
        for at, raw in self.parts:
            start, end = max(at, offset), min(at + len(raw), offset + len(buffer))
            if start < end:
                buffer[start - offset : end - offset] = raw[start - at : end - at]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return whole(offset, length, ExtentKind.DATA)

    def close(self) -> None:
        """Nothing to release."""


def blocks_of(case: Case) -> Sparse:
    return Sparse(case.size, case.parts)


@cache
def seeds() -> tuple[tuple[int, tuple[tuple[int, bytes], ...]], ...]:
    """Sizes and contents to mutate: every crafted case, and a magic of every row with zeros around it."""
    bare = []
    for row in SIGNATURES:
        for magic in row.magics[:4]:
            size = max(row.min_size, 4 * MIB)
            place = magic.place(size)
            if place is not None:
                bare.append((size, ((place + magic.within, magic.value),)))
    return (*((case.size, case.parts) for case in CASES), *bare)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutations_of_crafted_volumes(data: st.DataObject) -> None:
    """Bytes changed, the volume cut at any place: yes, no, or one of our errors, and never much reading."""
    size, parts = data.draw(st.sampled_from(seeds()))
    offset, raw = data.draw(st.sampled_from(parts))
    reach = max(0, offset + len(raw) + 700 if offset >= 0 else -offset)
    start = data.draw(st.integers(0, reach))
    noise = data.draw(st.binary(min_size=1, max_size=64))
    cut = data.draw(st.one_of(st.just(size), st.integers(0, size)))
    at = (max(0, offset - 350) if offset >= 0 else size + offset) + start % 1200
    blocks = Sparse(cut, (*((place if place >= 0 else size + place, value) for place, value in parts), (at, noise)))
    found = probe(blocks)
    assert found is None or isinstance(found, Signature)
    assert sum(length for _, length in blocks.reads) <= 2 * MIB


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=512), st.integers(0, 2**31))
def test_noise_behind_every_magic(noise: bytes, seed: int) -> None:
    """Every number a superblock can hold, at once: the structures are filled with random bytes."""
    rng = random.Random(seed)
    size, parts = rng.choice(seeds())
    offset = parts[0][0]
    filled = rng.randbytes(4096) if len(noise) < 8 else noise
    probe(Sparse(size, ((max(0, (offset if offset >= 0 else size + offset) - 64), filled), *parts)))


def test_every_crafted_volume_cut_at_many_sizes() -> None:
    for case in CASES:
        whole_one = blocks_of(case)
        ends = [offset + len(raw) for offset, raw in whole_one.parts]
        for end in ends:
            for cut in (end - 1, end, end + 1, end - len(ends)):
                found = probe(Sparse(max(0, cut), whole_one.parts))
                assert found is None or isinstance(found, Signature), (case.kind, cut)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1024, 1025, 2048, 4096, 4097, 65536])
def test_tiny_volumes(size: int) -> None:
    assert probe(Sparse(size)) is None


def test_an_empty_volume_costs_few_reads() -> None:
    blocks = Sparse(1 << 46)
    assert probe(blocks) is None
    assert len(blocks.reads) <= 30
    assert sum(length for _, length in blocks.reads) < 512 * 1024
    assert sum(length > 4096 for _, length in blocks.reads) == 2


def test_a_usual_file_system_costs_fewer(tmp_path: Path) -> None:
    path = made(tmp_path / "volume", 8 * MIB, ("mkfs.ext4", "-q"))
    blocks = Sparse(8 * MIB, ((0, path.read_bytes()),))
    found = probe(blocks)
    assert found is not None and found.kind == "ext4"
    assert len(blocks.reads) <= 15


def test_a_signature_elsewhere_is_found_past_a_bad_sector(tmp_path: Path) -> None:
    path = made(tmp_path / "volume", 8 * MIB, ("mkfs.ext4", "-q", "-L", "here"))
    blocks = HostFile.open(str(path))
    try:
        for bad in ((512, 512), (128 * 1024, 4096), (8 * MIB - 4096, 4096)):
            found = probe(Fault(blocks, bad=[bad]))
            assert found is not None and (found.kind, found.label) == ("ext4", "here"), bad
    finally:
        blocks.close()


@pytest.mark.parametrize("bad", [(0, 512), (1024, 512), (4 * MIB - 4096, 4096), (MIB, 512), (4 * MIB - 8192, 512)])
def test_a_bad_sector_is_not_unknown(bad: tuple[int, int], tmp_path: Path) -> None:
    """Nothing recognised, and a place where something could have been is unreadable."""
    blocks = HostFile.open(str(blank(tmp_path / "volume", 4 * MIB)))
    try:
        with pytest.raises(ReadFailed) as caught:
            probe(Fault(blocks, bad=[bad]))
    finally:
        blocks.close()
    assert caught.value.offset is not None
    assert bad[0] <= caught.value.offset < bad[0] + bad[1]


def test_a_superblock_that_cannot_be_read_whole_raises() -> None:
    """The magic is in one sector, the rest of the structure in the next."""
    case = next(case for case in CASES if case.kind == "ufs")
    with pytest.raises(ReadFailed):
        probe(Fault(blocks_of(case), bad=[(8192, 512)]))


def test_an_unreadable_label_does_not_hide_the_kind(tmp_path: Path) -> None:
    """FAT16 with its root directory, and NTFS with its $MFT, on bad sectors."""
    fat = made(tmp_path / "fat", 20 * MIB, ("mkfs.vfat", "-F", "16", "-n", "GONE", "-i", "12345678", "-a"))
    raw = fat.read_bytes()
    root = raw.index(b"GONE       \x08")
    found = probe(Fault(Sparse(20 * MIB, ((0, raw),)), bad=[(root, 512)]))
    assert found is not None and (found.kind, found.label, found.uuid) == ("vfat", None, "1234-5678")
    raw = made(tmp_path / "ntfs", 4 * MIB, ("mkfs.ntfs", "-q", "-F", "-Q", "-L", "GONE")).read_bytes()
    mft = int.from_bytes(raw[48:56], "little") * int.from_bytes(raw[11:13], "little") * raw[13]
    found = probe(Fault(Sparse(4 * MIB, ((0, raw),)), bad=[(mft, 4096)]))
    assert found is not None and (found.kind, found.label) == ("ntfs", None)


def test_raid_comes_before_the_file_system_inside() -> None:
    """An unassembled mirror of metadata version 1.0 shows its file system from the first byte on."""
    member = next(case for case in CASES if case.kind == "linux_raid_member" and case.parts[0][0] > MIB)
    ext = ((1024, b"\x10\0\0\0\0\x04\0\0"), (1044, b"\1"), (1056, b"\0\x20\0\0"), (1080, b"\x53\xef"))
    inside = probe(Sparse(member.size, ext))
    assert inside is not None and inside.kind == "ext2"
    outside = probe(Sparse(member.size, (*ext, *member.parts)))
    assert outside is not None and (outside.kind, outside.usage) == ("linux_raid_member", "raid")


def test_a_floppy_is_no_raid_member() -> None:
    member = next(case for case in CASES if case.kind == "lsi_mega_raid_member")
    assert probe(Sparse(1440 * 1024, member.parts)) is None


def test_control_characters_stay_in_the_value() -> None:
    label = b"\x1b[31mred\nline"
    ext = ((1024, b"\x10\0\0\0\0\x04\0\0"), (1024 + 32, b"\0\x20\0\0"), (1024 + 56, b"\x53\xef"), (1024 + 120, label))
    found = probe(Sparse(MIB, ext))
    assert found is not None and found.label == label.decode()


def test_a_part_of_a_disk_is_probed_in_its_own_offsets(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.kind == "linux_raid_member")
    path = crafted(tmp_path / "member", case)
    disk = Sparse(case.size + 3 * MIB, ((MIB, path.read_bytes()),))
    found = probe(Slice(disk, MIB, case.size))
    assert found is not None and found.kind == "linux_raid_member"


def test_source_refuses_absurd_lengths() -> None:
    source = Source(Sparse(4 * MIB))
    for offset, length in ((-1, 4), (0, -1), (0, 4 * MIB), (4 * MIB - 1, 2)):
        with pytest.raises(CutOff):
            source.read(offset, length)
    assert source.detail(4 * MIB - 2, 100) == b"\0\0"
    assert source.detail(5 * MIB, 1) == source.detail(-1, 1) == b""
    assert not source.has(-1, b"\0") and not source.has(4 * MIB, b"\0")


def test_magics_are_where_the_table_says() -> None:
    assert Magic(b"x").place(10) == 0
    assert Magic(b"x", base=20).place(10) is None
    assert Magic(b"x", base=-0x10000, align=0x10000).place(0x3FFFF) == 0x20000
    assert Magic(b"x", base=-0x10000, align=0x10000).place(0x8000) is None


def test_the_table_is_sound() -> None:
    """Each probe function exists, and a magic is never empty."""
    from importlib import import_module

    for row in SIGNATURES:
        module, function = row.probe.split(".")
        assert callable(getattr(import_module(f"mntapi.filesystems.signatures.{module}"), function))
        assert row.magics and all(magic.value for magic in row.magics)
    assert len({row.kind for row in SIGNATURES}) > 70


def test_import_takes_no_family_along() -> None:
    """Import of the probe loads the table only."""
    loaded = "[name for name in sys.modules if name.startswith('mntapi.filesystems.signatures.')]"
    code = f"import sys, mntapi.filesystems.probe; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(["mntapi.filesystems.signatures.source", "mntapi.filesystems.signatures.table"])
