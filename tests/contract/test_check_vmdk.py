"""VMDK damaged on purpose. ``qemu-img check`` looks for grains outside the file only; there it finds the same."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.check_support import KIB, MIB, check, number, patch, qemu_verdict, texts, verdict
from contract.test_check_clean import qemu_io
from contract.vhd_support import needs_qemu, qemu_img
from contract.vmdk_builder import build_cowd, build_sesparse, build_stream, content, hosted_header, write_descriptor
from mntapi.images.checking import vmdk_sparse

Damage = Callable[[Path], list[tuple[int, bytes]]]
SECTOR = 512


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def directory(path: Path) -> int:
    return number(path, 56, "<Q") * SECTOR


def copy(path: Path) -> int:
    return number(path, 48, "<Q") * SECTOR


def table(path: Path, index: int = 0, *, of: Callable[[Path], int] = directory) -> int:
    return number(path, of(path) + 4 * index, "<I") * SECTOR


def grain(path: Path, index: int) -> int:
    return number(path, table(path) + 4 * index, "<I")


def both(path: Path, index: int, entry: int) -> list[tuple[int, bytes]]:
    """Set an entry in both copies of the first table."""
    return [(table(path, of=of) + 4 * index, u32(entry)) for of in (directory, copy)]


DAMAGES: dict[str, tuple[Damage, str, bool]] = {
    "a grain outside": (lambda path: both(path, 3, 1 << 30), "a grain lies outside the file", True),
    "a grain used twice": (lambda path: both(path, 3, grain(path, 0)), "lies over another", False),
    "a grain over a table": (lambda path: both(path, 3, table(path) // SECTOR), "of the extent lies over a table", False),
    "a grain over the descriptor": (lambda path: both(path, 3, 1), "has an entry that cannot be", False),
    "one copy of a table": (lambda path: [(table(path, of=copy) + 12, u32(0))], "the two copies of grain table 0, at", False),
    "a table outside": (
        lambda path: [(directory(path), u32(1 << 30))],
        "grain table 0 is outside the file (at byte",
        False,
    ),
    "a table used twice": (
        lambda path: [(directory(path) + 4, u32(table(path) // SECTOR))],
        "grain table 1, at",
        False,
    ),
    "a directory outside": (lambda path: [(48, struct.pack("<Q", 1 << 40))], "a grain directory is outside the file", False),
    "a directory over another": (
        lambda path: [(48, struct.pack("<Q", directory(path) // SECTOR))],
        "a grain directory lies over another structure",
        False,
    ),
    "one directory has no table": (
        lambda path: [(copy(path), u32(0))],
        "only one of the two directories has a usable grain table 0",
        False,
    ),
    "the capacity": (lambda path: [(12, struct.pack("<Q", 999999))], "descriptor and header disagree", False),
    "the descriptor": (lambda path: [(SECTOR, b"\xff\xfe")], "describes no extent", False),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", path, "64M")
    qemu_io(path, "write -P 1 0 256k", "write -P 2 40M 256k")
    assert texts(path) == []
    return path


@needs_qemu
@pytest.mark.parametrize("name", DAMAGES)
def test_sparse(path: Path, name: str) -> None:
    damage, text, qemu_too = DAMAGES[name]
    if name == "a grain used twice":
        text = f"the grain for byte {3 * 64 * KIB} of the extent lies over another (at byte {grain(path, 0) * SECTOR})"
    if name == "the descriptor":
        descriptor = path.read_bytes()[SECTOR : 3 * SECTOR].replace(b"RW ", b"xx ")
        patch(path, (SECTOR, descriptor))
    else:
        patch(path, *damage(path))
    found = check(path)
    assert any(text in str(fault) for fault in found), found
    assert verdict(found).errors
    assert qemu_verdict(path, "vmdk").errors or not qemu_too


@needs_qemu
def test_a_disk_that_was_not_closed_is_a_note(path: Path) -> None:
    patch(path, (72, b"\1"))
    (text,) = texts(path)
    assert text == f"{path}: note: was not closed by its last writer (at byte 72)"


@needs_qemu
def test_a_directory_that_is_too_large_is_a_note(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmdk_sparse, "MAX_DIRECTORY", 4)
    assert any("the grain directory is too large: 1 of 2 entries" in text for text in texts(path))


def test_one_table_for_a_petabyte_ends_soon(tmp_path: Path) -> None:
    """Every entry of the directory points to the same table, which would take days to go through."""
    tables = 1 << 18
    size = tables * 512 * 64 * KIB
    at = 1 + tables * 4 // SECTOR
    text = write_descriptor(tmp_path / "text", [f'RW {size // SECTOR} SPARSE "disk.vmdk"']).read_bytes()
    head = hosted_header(size, flags=1, descriptor=at + 4, descriptor_size=20, directory=1)
    path = tmp_path / "disk.vmdk"
    entries = struct.pack("<512I", *[at + 60] * 512)
    path.write_bytes(head + u32(at) * tables + entries + text.ljust(20 * SECTOR, b"\0") + bytes(64 * KIB * 2))
    found = check(path)
    assert len(found) == 10_001 and "there is more wrong than is told" in found[-1].what


# Streams


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    path = build_stream(tmp_path / "disk.vmdk", content(3 * MIB))
    assert texts(path) == []
    return path


def first_marker(path: Path) -> int:
    return 128 * SECTOR


def footer_directory(path: Path) -> int:
    return number(path, path.stat().st_size - 2 * SECTOR + 56, "<Q") * SECTOR


def stream_table(path: Path) -> int:
    return number(path, footer_directory(path), "<I") * SECTOR


def first_entry(path: Path) -> int:
    """Where in the table the first grain's entry is."""
    return stream_table(path) + 4 * (number(path, first_marker(path), "<Q") // 128)


def last_grain(path: Path) -> int:
    entries = struct.unpack("<512I", path.read_bytes()[stream_table(path) : stream_table(path) + 2048])
    return max(entries) * SECTOR


STREAM_DAMAGES: dict[str, tuple[Damage, str]] = {
    "data": (lambda path: [(first_marker(path) + 40, b"\xff\xff\xff\xff")], "cannot be inflated"),
    "a marker's sector": (lambda path: [(first_marker(path), struct.pack("<Q", 128 * 40))], "has another grain's marker"),
    "a marker's size": (lambda path: [(first_marker(path) + 8, u32(1 << 30))], "the marker of a grain is damaged: sector"),
    "a lost entry": (lambda path: [(first_entry(path), u32(0))], "the tables do not have the grain for byte"),
    "an entry outside": (lambda path: [(first_entry(path), u32(1 << 30))], "lies outside the file"),
    "no table": (lambda path: [(footer_directory(path), u32(0))], "the tables do not have the grain for byte"),
    "a table outside": (lambda path: [(footer_directory(path), u32(1 << 30))], "grain table 0 is outside the file"),
    "an unknown marker": (lambda path: [(last_grain(path) + 8, u32(0)), (last_grain(path) + 12, u32(9))], "of unknown kind 9"),
}


@pytest.mark.parametrize("name", STREAM_DAMAGES)
def test_stream(stream: Path, name: str) -> None:
    damage, text = STREAM_DAMAGES[name]
    patch(stream, *damage(stream))
    found = check(stream)
    assert any(text in str(fault) for fault in found), found
    assert verdict(found).errors


def test_a_stream_whose_end_is_lost(stream: Path) -> None:
    with stream.open("r+b") as file:
        file.truncate(stream.stat().st_size - SECTOR)
    assert any("the footer is missing: the stream was cut off" in text for text in texts(stream))


# Other extents


def test_cowd(tmp_path: Path) -> None:
    extent = build_cowd(tmp_path / "disk-delta.vmdk", content(3 * MIB))
    path = write_descriptor(tmp_path / "disk.vmdk", [f'RW {3 * MIB // SECTOR} VMFSSPARSE "disk-delta.vmdk"'])
    assert texts(path) == []
    at = number(extent, 4 * SECTOR, "<I") * SECTOR
    patch(extent, (at + 4, u32(4)))
    assert any("of the extent lies over a table (at byte 2048)" in text for text in texts(path))
    assert texts(extent)[0].startswith(str(extent))


def test_sesparse(tmp_path: Path) -> None:
    extent = build_sesparse(tmp_path / "disk-sesparse.vmdk", content(3 * MIB))
    path = write_descriptor(tmp_path / "disk.vmdk", [f'RW {3 * MIB // SECTOR} SESPARSE "disk-sesparse.vmdk"'])
    assert texts(path) == []
    entries = struct.unpack("<4096Q", extent.read_bytes()[66 * SECTOR : 66 * SECTOR + 32768])
    used = [index for index, entry in enumerate(entries) if entry]
    patch(extent, (66 * SECTOR + 8 * used[1], struct.pack("<Q", entries[used[0]])))
    assert any("of the extent lies over another" in text for text in texts(path))
    patch(extent, (2 * SECTOR + 8, struct.pack("<Q", 5)))
    assert any("grain table 1 is outside the file" in text for text in texts(path)) or texts(path)


def test_descriptors(tmp_path: Path) -> None:
    (tmp_path / "disk-flat.vmdk").write_bytes(bytes(8 * SECTOR))
    (tmp_path / "noise.vmdk").write_bytes(b"noise" * 200)
    flat = 'RW 4 FLAT "disk-flat.vmdk"'
    cases = [
        ([f"{flat} 0", f"{flat} 4"], None),
        ([f"{flat} 0", f"{flat} 3"], "two extents of the descriptor lie over each other here (at byte 1536)"),
        ([f"{flat} 6"], "the extent is cut off: it ends at 5120, the file at 4096"),
        (['RW 4 SPARSE "noise.vmdk"'], "not a sparse extent"),
        (['RW 4 FLAT "gone.vmdk"', 'RW 4 FLAT "gone too.vmdk"'], "its extent 'gone too.vmdk' is missing"),
        (['RW 4 FLAT "../outside.vmdk"'], "outside its own folder"),
        (["RW 4 ZERO", 'NOACCESS 4 FLAT "gone.vmdk"'], None),
    ]
    for extents, expected in cases:
        found = texts(write_descriptor(tmp_path / "disk.vmdk", extents))
        assert found == [] if expected is None else any(expected in text for text in found), found


@needs_qemu
def test_an_extent_of_another_size(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", path, "16M")
    assert texts(path) == []
    patch(tmp_path / "disk-s001.vmdk", (12, struct.pack("<Q", 99999)))
    assert any("descriptor and header disagree: 16777216 bytes, 51199488 bytes" in text for text in texts(path))


def test_a_header_without_grains_and_a_descriptor_with_extents(tmp_path: Path) -> None:
    (tmp_path / "disk-flat.vmdk").write_bytes(bytes(4 * SECTOR))
    text = write_descriptor(tmp_path / "text", ['RW 8 FLAT "disk-flat.vmdk"']).read_bytes()
    head = hosted_header(0, descriptor=1, descriptor_size=20)
    (tmp_path / "disk.vmdk").write_bytes(head + text.ljust(20 * SECTOR, b"\0"))
    assert any("the extent is cut off" in text for text in texts(tmp_path / "disk.vmdk"))
