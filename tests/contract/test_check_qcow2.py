"""QCOW2 files damaged on purpose: what is found, and that ``qemu-img check`` finds the same."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.check_support import KIB, Verdict, check, number, patch, qemu_verdict, texts, verdict
from contract.test_check_clean import qemu_io
from contract.vhd_support import needs_qemu, qemu_img
from mntapi.images.checking import counts, qcow2, qcow2_refcounts
from mntapi.images.checking.fault import Severity

CLUSTER = 64 * KIB
COPIED = 1 << 63
ERROR, LEAK = Verdict(True, False), Verdict(False, True)

pytestmark = needs_qemu


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Eight clusters of data in a disk of 32, and a snapshot of the first four of them."""
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, 32 * CLUSTER)
    qemu_io(path, f"write -P 1 0 {4 * CLUSTER}")
    qemu_img("snapshot", "-c", "one", path)
    qemu_io(path, f"write -P 2 {4 * CLUSTER} {4 * CLUSTER}")
    assert texts(path) == [] and not any(qemu_verdict(path, "qcow2"))
    return path


def l1(path: Path) -> int:
    return number(path, 40, ">Q")


def l2(path: Path) -> int:
    return number(path, l1(path), ">Q") & ~COPIED


def snapshots(path: Path) -> int:
    return number(path, 64, ">Q")


def refcount_block(path: Path) -> int:
    return number(path, number(path, 48, ">Q"), ">Q")


def entry(path: Path, index: int) -> int:
    return number(path, l2(path) + 8 * index, ">Q")


Damage = Callable[[Path], list[tuple[int, bytes]]]

DAMAGES: dict[str, tuple[Damage, Verdict, str]] = {
    "two entries name one cluster": (
        lambda path: [(l2(path) + 8 * 5, u64(entry(path, 4)))],
        ERROR,
        "refcount 1, and 2 references",
    ),
    "an entry is lost": (lambda path: [(l2(path) + 8 * 5, u64(0))], LEAK, "leak: the cluster has refcount 1, and 0 references"),
    "an entry of a shared cluster is lost": (lambda path: [(l2(path), u64(0))], LEAK, "refcount 2, and 1 references"),
    "an entry names a table": (lambda path: [(l2(path) + 8 * 5, u64(l1(path) | COPIED))], ERROR, "lies over a table"),
    "an entry is outside": (lambda path: [(l2(path) + 8 * 9, u64(1 << 40 | COPIED))], ERROR, "clusters are outside the file"),
    "an entry is between clusters": (lambda path: [(l2(path) + 8 * 5, u64(entry(path, 5) + 512))], ERROR, "cluster boundary"),
    "an entry has reserved bits": (lambda path: [(l2(path) + 8 * 5, u64(entry(path, 5) | 2))], ERROR, "reserved bits"),
    "an entry lacks the copied flag": (
        lambda path: [(l2(path) + 8 * 5, u64(entry(path, 5) & ~COPIED))],
        ERROR,
        "on: the entry lacks the copied flag",
    ),
    "a shared entry has the copied flag": (
        lambda path: [(l2(path), u64(entry(path, 0) | COPIED))],
        ERROR,
        "the entry has the copied flag",
    ),
    "a compressed entry is outside": (
        lambda path: [(l2(path) + 8 * 9, u64(1 << 62 | 1 << 40))],
        ERROR,
        "a compressed cluster is outside the file: 512 bytes at 1099511627776",
    ),
    "an L1 entry is lost": (lambda path: [(l1(path), u64(0))], LEAK, "leak: 5 clusters from here on"),
    "an L1 entry has reserved bits": (lambda path: [(l1(path), u64(l2(path) | 1))], ERROR, "an L1 entry is bad"),
    "an L1 entry is outside": (
        lambda path: [(l1(path), u64(1 << 40))],
        ERROR,
        "an L2 table is outside the file: 1099511627776",
    ),
    "an L1 entry names a table": (
        lambda path: [(l1(path), u64(refcount_block(path) | COPIED))],
        ERROR,
        "an L2 table lies over",
    ),
    "the L1 table is over the header": (lambda path: [(40, u64(0))], ERROR, "an L1 table lies over another structure"),
    "the L1 table is outside": (lambda path: [(40, u64(1 << 30))], ERROR, "an L1 table is outside the file"),
    "a refcount is too low": (
        lambda path: [(refcount_block(path), b"\0\0")],
        ERROR,
        "refcount 0, and 1 references (at byte 0)",
    ),
    "a refcount is too high": (
        lambda path: [(refcount_block(path), b"\0\7")],
        LEAK,
        "refcount 7, and 1 references (at byte 0)",
    ),
    "a refcount block is between clusters": (
        lambda path: [(number(path, 48, ">Q"), u64(refcount_block(path) + 512))],
        ERROR,
        "a refcount block is not at a cluster boundary",
    ),
    "a refcount block is outside": (
        lambda path: [(number(path, 48, ">Q"), u64(1 << 40))],
        ERROR,
        "a refcount block is outside the file",
    ),
    "a refcount block is used twice": (
        lambda path: [(number(path, 48, ">Q") + 8, u64(refcount_block(path)))],
        ERROR,
        "a refcount block is used twice",
    ),
    "the refcount table is too large": (
        lambda path: [(56, b"\0\1\0\0")],
        ERROR,
        "the refcount table is outside the file or too",
    ),
    "the refcount table is outside": (
        lambda path: [(48, u64(1 << 40))],
        ERROR,
        "the refcount table is outside the file: 65536",
    ),
    "refcounts are too wide": (lambda path: [(96, b"\0\0\0\7")], ERROR, "the width of reference counts is impossible: 2^7"),
    "the snapshot's L1 table is outside": (
        lambda path: [(snapshots(path), u64(1 << 40))],
        ERROR,
        "an L1 table is outside the file",
    ),
    "the snapshot's L1 table is between clusters": (
        lambda path: [(snapshots(path), u64(l1(path) + 8))],
        ERROR,
        "an L1 table is not at a cluster boundary",
    ),
    "the snapshot table is outside": (lambda path: [(64, u64(1 << 40))], ERROR, "the snapshot table goes past its end"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage(path: Path, name: str) -> None:
    damage, expected, text = DAMAGES[name]
    patch(path, *damage(path))
    found = check(path)
    assert any(text in str(fault) for fault in found), found
    ours, qemu = verdict(found), qemu_verdict(path, "qcow2")
    assert ours.errors == qemu.errors == expected.errors
    if not expected.errors:
        assert ours.leaks == qemu.leaks == expected.leaks


def test_clusters_past_the_end_are_one_fault(path: Path) -> None:
    """A file cut in the middle of a cluster: what is there of it is read, so only those behind it are outside."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 2 * CLUSTER - 512)
    found = check(path)
    assert [fault.what for fault in found if fault.severity is Severity.ERROR] == [
        f"clusters are outside the file: up to {size}, the file ends at {size - 2 * CLUSTER - 512}"
    ]
    assert qemu_verdict(path, "qcow2").errors


def test_an_l2_table_used_twice(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, "8M")
    qemu_io(path, "write -P 1 0 64k", "write -P 2 4M 64k")
    patch(path, (l1(path) + 16, u64(number(path, l1(path), ">Q"))))
    assert any("an L2 table is used twice" in text for text in texts(path))
    assert qemu_verdict(path, "qcow2").errors


def test_extended_entries(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "extended_l2=on", path, "4M")
    qemu_io(path, "write -P 1 0 4k", "write -P 1 1M 128k")
    assert texts(path) == []
    patch(path, (l2(path) + 8, u64(1 << 32 | 1)))
    assert any("a bitmap of subclusters contradicts its entry" in text for text in texts(path))
    assert qemu_verdict(path, "qcow2").errors


@pytest.mark.parametrize("options", ["refcount_bits=1", "refcount_bits=4", "refcount_bits=8", "refcount_bits=64"])
def test_refcounts_of_every_width(tmp_path: Path, options: str) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, "4M")
    qemu_io(path, "write -P 1 0 128k")
    patch(path, (refcount_block(path), bytes(8)))
    assert any("refcount 0, and 1 references (at byte 0)" in text for text in texts(path))
    assert qemu_verdict(path, "qcow2").errors


def test_a_disk_that_was_not_closed_is_a_note(path: Path) -> None:
    patch(path, (79, b"\1"))
    (fault,) = check(path)
    assert fault.severity is Severity.NOTE and "not closed by its last writer" in fault.what


@pytest.fixture
def bitmap(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "4M")
    qemu_img("bitmap", "--add", path, "nightly")
    qemu_io(path, "write -P 1 0 64k")
    assert texts(path) == []
    return path


def extension(path: Path) -> int:
    """Where the bitmaps extension is."""
    return path.read_bytes()[:CLUSTER].index(struct.pack(">II", 0x23852875, 24))


BITMAP_DAMAGES: dict[str, tuple[Damage, str]] = {
    "its length": (lambda path: [(extension(path) + 4, struct.pack(">I", 8))], "the bitmaps extension has a wrong length"),
    "the directory's place": (lambda path: [(extension(path) + 24, u64(1 << 40))], "the directory of bitmaps is outside"),
    "the number of bitmaps": (lambda path: [(extension(path) + 8, b"\0\0\0\7")], "the directory of bitmaps ends too early"),
    "a table's place": (lambda path: [(number(path, extension(path) + 24, ">Q"), u64(1 << 40))], "a bitmap table is outside"),
}


@pytest.mark.parametrize("name", BITMAP_DAMAGES)
def test_damaged_bitmaps(bitmap: Path, name: str) -> None:
    """qemu does not open such a disk. Nothing is called a leak then: it may be the bitmaps'."""
    damage, text = BITMAP_DAMAGES[name]
    patch(bitmap, *damage(bitmap))
    found = check(bitmap)
    assert any(text in fault.what for fault in found), found
    assert verdict(found) == ERROR
    assert qemu_verdict(bitmap, "qcow2").errors


def test_bitmaps_that_are_out_of_date_are_leaks(bitmap: Path) -> None:
    patch(bitmap, (95, b"\0"))
    assert verdict(check(bitmap)) == LEAK == qemu_verdict(bitmap, "qcow2")


def test_bitmaps_announced_and_not_there(path: Path) -> None:
    patch(path, (95, b"\1"))
    assert texts(path) == [] and not any(qemu_verdict(path, "qcow2"))


def test_clusters_of_a_bitmap_are_in_use(bitmap: Path) -> None:
    table = number(bitmap, number(bitmap, extension(bitmap) + 24, ">Q"), ">Q")
    free = -(-bitmap.stat().st_size // CLUSTER) * CLUSTER
    patch(bitmap, (table, u64(free)), (free, bytes(CLUSTER)))
    assert any("refcount 0, and 1 references" in text for text in texts(bitmap))
    assert qemu_verdict(bitmap, "qcow2").errors


def test_a_data_file_that_is_too_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "data_file=outside.data", path, "4M")
    qemu_io(path, "write -P 1 0 1M")
    assert texts(path) == []
    with (tmp_path / "outside.data").open("r+b") as file:
        file.truncate(512 * KIB)
    assert any("clusters are outside the file: up to 1048576, the file ends at 524288" in text for text in texts(path))


def test_limits_are_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(qcow2, "MAX_L1_BYTES", 8)
        assert any("L1 tables are too large" in text for text in texts(path))
    with monkeypatch.context() as patched:
        patched.setattr(counts, "MAX_PAGES", 0)
        assert any("its reference counts were not compared" in text for text in texts(path))
    with monkeypatch.context() as patched:
        patched.setattr(qcow2_refcounts, "MAX_TABLE", 512)
        assert any("the refcount table is outside the file or too large" in text for text in texts(path))


def test_a_table_that_cannot_be_read_is_a_fault(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mntapi.blocks import Fault as Unreadable
    from mntapi.images.checking import check_disk
    from mntapi.images.opener import DirectOpener
    from mntapi.types import DiskSpec, FileBlocks

    class Damaged(DirectOpener):
        def open(self, name: str, *, relative_to: str | None = None) -> FileBlocks:  # type: ignore[override]
            file = super().open(name, relative_to=relative_to)
            bad = Unreadable(file, bad=[(l2(path), 512)])
            bad.path = file.path  # type: ignore[attr-defined]
            return bad  # type: ignore[return-value]

    found = list(check_disk(DiskSpec(str(path)), Damaged()))
    assert any("injected fault" in fault.what and fault.offset == l2(path) for fault in found), found
