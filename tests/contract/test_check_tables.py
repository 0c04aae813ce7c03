"""VHD, VHDX, VDI, QED, Parallels and Bochs damaged on purpose; where ``qemu-img check`` looks too, it finds the same."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from contract import vhd_builder
from contract.check_support import KIB, MIB, Verdict, check, number, patch, qemu_verdict, texts, verdict
from contract.test_check_clean import qemu_io
from contract.test_small_formats import bochs
from contract.vhd_support import needs_qemu, qemu_img
from contract.vhdx_builder import BAT_AT, METADATA_AT, Disk, log_entry, region_table, ring
from contract.vhdx_builder import header as vhdx_header
from mntapi.images.checking import occupied
from mntapi.images.checking.fault import Severity

Damage = Callable[[Path], list[tuple[int, bytes]]]
ERROR, LEAK, FINE = Verdict(True, False), Verdict(False, True), Verdict(False, False)


def assert_fault(path: Path, text: str, expected: Verdict) -> None:
    found = check(path)
    assert any(text in str(fault) for fault in found), found
    assert verdict(found) == expected


# VHD: qemu-img has no check of it

VHD_ID = uuid.UUID(int=7)


def vhd(folder: Path) -> Path:
    path = folder / "disk.vhd"
    blocks = {0: (set(range(128)), b"a" * 65536), 2: ({1, 5}, b"b" * 65536)}
    vhd_builder.write_sparse(path, 4 * 65536, blocks, unique_id=VHD_ID)
    assert texts(path) == []
    return path


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def sealed_header(path: Path, **changes: int) -> list[tuple[int, bytes]]:
    fields = {"table_at": 1536, "count": 4, "block_size": 65536} | changes
    return [(512, vhd_builder.header(**fields))]


VHD_DAMAGES: dict[str, tuple[Damage, str]] = {
    "the footer": (lambda path: [(path.stat().st_size - 512 + 100, b"x")], "the checksum of the footer is wrong"),
    "the copy of the footer": (lambda path: [(100, b"x")], "the checksum of the footer is wrong"),
    "another footer": (
        lambda path: [(0, vhd_builder.footer(3, 4 * 65536, uuid.UUID(int=8)))],
        "the two footers say different things (at byte 0)",
    ),
    "the header": (lambda path: [(600, b"x")], "the checksum of the dynamic disk header is wrong"),
    "no header": (lambda path: [(512, b"x")], "has no dynamic disk header"),
    "two entries name one block": (
        lambda path: [(1536 + 4, u32(number(path, 1536, ">I")))],
        "block 1, at 2048, lies over another block or a table (at byte 1540)",
    ),
    "an entry is outside": (lambda path: [(1536 + 4, u32(1 << 20))], "block 1 is outside the file: it ends at 536936960"),
    "an entry names the footer": (lambda path: [(1536 + 4, u32(0))], "block 1 is in sector 0"),
    "an entry names the header": (lambda path: [(1536 + 4, u32(1))], "block 1, at 512, lies over another block or a table"),
    "the table is outside": (lambda path: sealed_header(path, table_at=1 << 40), "the block table is outside the file"),
    "the table is over the header": (lambda path: sealed_header(path, table_at=1024), "the block table lies over another"),
    "the table is too short": (lambda path: sealed_header(path, count=3), "the block table has 3 entries, the disk 4 blocks"),
}


@pytest.mark.parametrize("name", VHD_DAMAGES)
def test_vhd(tmp_path: Path, name: str) -> None:
    damage, text = VHD_DAMAGES[name]
    path = vhd(tmp_path)
    patch(path, *damage(path))
    assert_fault(path, text, ERROR)


def test_a_vhd_without_any_footer(tmp_path: Path) -> None:
    path = vhd(tmp_path)
    patch(path, (0, bytes(512)), (path.stat().st_size - 512, bytes(512)))
    assert_fault(path, "has the name of a vhd file and not its signature", ERROR)


@needs_qemu
def test_a_fixed_vhd(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    qemu_img("create", "-q", "-f", "vpc", "-o", "subformat=fixed,force_size=on", path, "1M")
    patch(path, (MIB + 84, b"\1"))
    assert_fault(path, "the checksum of the footer is wrong", ERROR)


def test_a_saved_machine_is_a_note(tmp_path: Path) -> None:
    path = vhd(tmp_path)
    footer = bytearray(path.read_bytes()[-512:])
    footer[84] = 1
    sealed = vhd_builder.seal(footer, 64)
    patch(path, (0, sealed), (path.stat().st_size - 512, sealed))
    assert_fault(path, "note: the machine was saved, not shut down", FINE)


def test_a_footer_of_511_bytes(tmp_path: Path) -> None:
    path = vhd(tmp_path)
    content = path.read_bytes()[:-1]
    path.write_bytes(content)
    assert texts(path) == []
    patch(path, (len(content) - 511 + 100, b"x"))
    assert_fault(path, "the checksum of the footer is wrong", ERROR)


def test_an_overflowing_map_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupied, "MAX_PAGES", 0)
    assert_fault(_vhd_unchecked(tmp_path), "note: the file is too scattered", FINE)


def _vhd_unchecked(folder: Path) -> Path:
    path = folder / "disk.vhd"
    vhd_builder.write_sparse(path, 65536, {0: (set(range(128)), b"a" * 65536)}, unique_id=VHD_ID)
    return path


# VHDX


def vhdx(folder: Path, **changes: object) -> Path:
    path = folder / "disk.vhdx"
    fields: dict[str, object] = {"states": {0: 6, 1: 2, 2: 6}, "contents": {0: b"a" * MIB, 2: b"b" * MIB}} | changes
    Disk(5 * MIB, **fields).write(path)  # type: ignore[arg-type]
    return path


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


VHDX_DAMAGES: dict[str, tuple[Damage, str, bool]] = {
    "the first header": (lambda path: [(64 * KIB + 200, b"x")], "this copy of the header is damaged (at byte 65536)", False),
    "the second header": (lambda path: [(128 * KIB, b"x")], "this copy of the header is damaged (at byte 131072)", False),
    "both headers": (lambda path: [(64 * KIB, b"x"), (128 * KIB, b"x")], "both headers are damaged", True),
    "the first region table": (lambda path: [(192 * KIB + 9, b"x")], "this copy of the region table is damaged", True),
    "the second region table": (lambda path: [(256 * KIB + 9, b"x")], "(at byte 262144)", False),
    "two region tables": (
        lambda path: [(256 * KIB, region_table([*Disk(MIB).regions, (uuid.UUID(int=5), 9 * MIB, MIB, 0)]))],
        "the two region tables say different things",
        False,
    ),
    "the metadata": (lambda path: [(METADATA_AT, b"x")], "has no metadata table", True),
    "two entries name one block": (
        lambda path: [(BAT_AT + 8, u64(4 * MIB | 6))],
        "lies over another block or a table",
        False,
    ),
    "an entry is outside": (lambda path: [(BAT_AT + 24, u64(90 * MIB | 6))], "block 3 is outside the file: it ends at", True),
    "an entry names the log": (lambda path: [(BAT_AT + 24, u64(MIB | 6))], "block 3, at 1048576, lies over", True),
    "an impossible state": (
        lambda path: [(BAT_AT + 24, u64(4))],
        "entry 3 of the block table has an impossible state 4",
        False,
    ),
    "a part of a disk without a parent": (lambda path: [(BAT_AT, u64(4 * MIB | 7))], "impossible state 7", False),
}


@needs_qemu
@pytest.mark.parametrize("name", VHDX_DAMAGES)
def test_vhdx(tmp_path: Path, name: str) -> None:
    """qemu-img looks at block places only, and at what keeps it from opening."""
    damage, text, qemu_too = VHDX_DAMAGES[name]
    path = vhdx(tmp_path)
    assert texts(path) == []
    patch(path, *damage(path))
    assert_fault(path, text, ERROR)
    if name != "the first region table":
        assert qemu_verdict(path, "vhdx").errors or not qemu_too


def test_vhdx_regions(tmp_path: Path) -> None:
    regions = Disk(MIB).regions
    bat, metadata = regions
    assert_fault(vhdx(tmp_path, regions=[(bat[0], bat[1], MIB + 4096, 1), metadata]), "is not a multiple of 1 MiB", ERROR)
    assert_fault(vhdx(tmp_path, regions=[(bat[0], bat[1], 2 * MIB, 1), metadata]), "lies over another block or a table", ERROR)
    assert_fault(
        vhdx(tmp_path, regions=[(bat[0], MIB, MIB, 1), metadata]), "the block table lies over another structure", ERROR
    )
    assert_fault(vhdx(tmp_path, regions=[(bat[0], bat[1], 0, 1), metadata]), "the block table is too short: 0 bytes", ERROR)


def test_vhdx_log(tmp_path: Path) -> None:
    guid = uuid.uuid4()
    entry = log_entry(guid, 1, 0, [(BAT_AT, bytes(4096))], flushed=4 * MIB, last=4 * MIB)
    path = vhdx(tmp_path, log_guid=guid, log=ring([(0, entry)]))
    assert_fault(path, "note: was not closed: its log has 1 entries", FINE)
    patch(path, (MIB + 100, b"x"))
    assert_fault(path, "the log is not empty, and has no complete sequence", ERROR)


def test_vhdx_sector_bitmaps(tmp_path: Path) -> None:
    keys = {"parent_linkage": "{0}", "relative_path": "gone.vhdx"}
    path = vhdx(tmp_path, parent=keys, states={0: 7}, contents={0: b"a" * MIB}, stored={0: {1}})
    assert_fault(path, "its parent is missing", ERROR)
    patch(path, (BAT_AT + 8 * 4096, u64(4 * MIB | 6)))
    assert_fault(path, "block 4096, at 4194304, lies over", ERROR)
    patch(path, (BAT_AT + 8 * 4096, u64(4 * MIB | 7)))
    assert_fault(path, "entry 4096 of the block table has an impossible state 7", ERROR)


def test_vhdx_of_no_bytes(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    Disk(0).write(path)
    assert texts(path) == []


def test_vhdx_header_of_another_version(tmp_path: Path) -> None:
    path = vhdx(tmp_path)
    patch(path, (64 * KIB, vhdx_header(9, uuid.UUID(int=1), version=2)))
    assert_fault(path, "a VHDX of an unknown version", ERROR)


# VDI, QED, Parallels


def made(folder: Path, kind: str, options: str) -> Path:
    path = folder / f"disk.{kind}"
    qemu_img("create", "-q", "-f", kind, *(["-o", options] if options else []), path, "16M")
    qemu_io(path, "write -P 1 0 1M", "write -P 2 3M 1M", "write -P 3 8M 64k")
    assert texts(path) == [] and qemu_verdict(path, kind) == FINE
    return path


def l32(value: int) -> bytes:
    return struct.pack("<I", value)


VDI_DAMAGES: dict[str, tuple[Damage, str, bool]] = {
    "two entries name one block": (lambda path: [(512 + 4 * 3, l32(0))], "block 3, at 0, lies over another block", True),
    "an entry is outside": (lambda path: [(512 + 4 * 3, l32(9))], "block 3 is outside the file: it ends at 10486784", False),
    "an entry is outside by far": (lambda path: [(512 + 4 * 3, l32(99))], "block 3 is outside the file", True),
    "an entry is lost": (
        lambda path: [(512 + 4 * 3, l32(2**32 - 1))],
        "the header counts 3 blocks in use, the block table 2",
        True,
    ),
    "blocks are counted wrong": (lambda path: [(0x184, l32(7))], "the header counts 7 blocks in use, the block table 3", True),
    "the table is over the data": (
        lambda path: [(0x158, l32(512))],
        "the block table, 512 to 576, lies over the data at 512",
        False,
    ),
    "the table is outside": (lambda path: [(0x154, l32(1 << 30))], "lies over the data at 1024 or outside", True),
    "the version": (lambda path: [(0x44, l32(9 << 16))], "a VDI of an unknown version or kind", True),
}


@needs_qemu
@pytest.mark.parametrize("name", VDI_DAMAGES)
def test_vdi(tmp_path: Path, name: str) -> None:
    damage, text, qemu_too = VDI_DAMAGES[name]
    path = made(tmp_path, "vdi", "")
    patch(path, *damage(path))
    assert_fault(path, text, ERROR)
    assert qemu_verdict(path, "vdi").errors or not qemu_too


@needs_qemu
def test_vdi_zeros(tmp_path: Path) -> None:
    path = made(tmp_path, "vdi", "")
    patch(path, (512 + 4 * 3, l32(2**32 - 2)), (0x184, l32(2)))
    assert texts(path) == []


def first_table(path: Path) -> int:
    return number(path, 40, "<Q")


def second_table(path: Path) -> int:
    return number(path, first_table(path), "<Q")


QED_DAMAGES: dict[str, tuple[Damage, str, Verdict]] = {
    "two entries name one cluster": (
        lambda path: [(second_table(path) + 8, u64(number(path, second_table(path), "<Q")))],
        "cluster 1, at 327680, lies over another cluster or a table",
        ERROR,
    ),
    "an entry names a table": (
        lambda path: [(second_table(path) + 8 * 99, u64(first_table(path)))],
        "cluster 99, at 65536, lies over another cluster or a table",
        ERROR,
    ),
    "an entry is between clusters": (
        lambda path: [(second_table(path) + 8 * 99, u64(4096))],
        "cluster 99, at 4096, is not at a cluster boundary",
        ERROR,
    ),
    "an entry is outside": (
        lambda path: [(second_table(path) + 8 * 99, u64(1 << 40))],
        "cluster 99, at 1099511627776, is outside the file",
        ERROR,
    ),
    "an entry is lost": (lambda path: [(second_table(path), u64(0))], "leak: 1 clusters belong to nothing", LEAK),
    "a table is lost": (lambda path: [(first_table(path), u64(0))], "leak: 37 clusters belong to nothing", LEAK),
    "a table is used twice": (
        lambda path: [(first_table(path) + 8, u64(second_table(path)))],
        "lies over another cluster or a table",
        ERROR,
    ),
    "the first table is over the header": (lambda path: [(40, u64(0))], "the first table lies over another cluster", ERROR),
    "the first table is outside": (lambda path: [(40, u64(1 << 40))], "the first table is outside the file", ERROR),
    "the header is outside": (lambda path: [(12, l32(1 << 20))], "the header is outside the file: 68719476736 bytes", ERROR),
}


@needs_qemu
@pytest.mark.parametrize("name", QED_DAMAGES)
def test_qed(tmp_path: Path, name: str) -> None:
    damage, text, expected = QED_DAMAGES[name]
    path = made(tmp_path, "qed", "")
    patch(path, *damage(path))
    found = check(path)
    assert any(text in str(fault) for fault in found), found
    assert verdict(found).errors == expected.errors
    if expected == LEAK:
        assert verdict(found) == LEAK == qemu_verdict(path, "qed")
    elif name not in ("the first table is over the header", "the header is outside"):
        assert qemu_verdict(path, "qed").errors


@needs_qemu
def test_qed_notes_and_zeros(tmp_path: Path) -> None:
    path = made(tmp_path, "qed", "")
    patch(path, (16, b"\2"), (second_table(path) + 8 * 99, u64(1)))
    (fault,) = check(path)
    assert fault.severity is Severity.NOTE and "was not closed" in fault.what


PARALLELS_DAMAGES: dict[str, tuple[Damage, str, Verdict]] = {
    "two entries name one block": (
        lambda path: [(64 + 4, l32(number(path, 64, "<I")))],
        "lies over another block or a table",
        ERROR,
    ),
    "an entry is outside": (lambda path: [(64 + 4, l32(99))], "block 1 is outside the file: it ends at 104857600", ERROR),
    "the table is outside": (lambda path: [(32, l32(1 << 28))], "the block table is outside the file", ERROR),
    "an entry is lost": (lambda path: [(64 + 4 * 8, l32(0))], "leak: 1048576 bytes behind the last block", LEAK),
    "not closed": (lambda path: [(44, l32(0x746F6E59))], "note: was not closed by its last writer", FINE),
}


@needs_qemu
@pytest.mark.parametrize("name", PARALLELS_DAMAGES)
def test_parallels(tmp_path: Path, name: str) -> None:
    damage, text, expected = PARALLELS_DAMAGES[name]
    path = made(tmp_path, "parallels", "")
    patch(path, *damage(path))
    found = check(path)
    assert any(text in str(fault) for fault in found), found
    assert verdict(found).errors == expected.errors
    if name in ("an entry is outside", "an entry is lost"):
        qemu = qemu_verdict(path, "parallels")
        assert qemu.errors == expected.errors and qemu.leaks == verdict(found).leaks


# Bochs

BOCHS_DAMAGES: dict[str, tuple[tuple[int, bytes], str]] = {
    "two entries name one extent": ((512 + 4, l32(0)), "block 2, at 0, lies over another block"),
    "an entry is outside": ((512 + 4, l32(3)), "extent 1 is outside the file: it ends at 18960"),
    "the catalog is outside": ((72, l32(1 << 20)), "the catalog is outside the file: 1048576 entries"),
}


@pytest.mark.parametrize("name", BOCHS_DAMAGES)
def test_bochs(tmp_path: Path, name: str) -> None:
    change, text = BOCHS_DAMAGES[name]
    path = tmp_path / "disk.bochs"
    path.write_bytes(bochs())
    assert texts(path) == []
    patch(path, change)
    assert_fault(path, text, ERROR)
