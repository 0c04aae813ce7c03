"""Copies of a disk: whether one may stand for the other."""

from __future__ import annotations

import pytest

from mntapi.blocks import Fault, Zero, whole
from mntapi.blocks.memory_overlay import MemoryOverlay
from mntapi.types import Blocks, ExtentKind
from mntapi.units import GIB, KIB, MIB
from mntapi.volumes import copies
from mntapi.volumes.copies import why_not_alike


def made(size: int, *places: int, content: bytes = b"stored!!" * 1024) -> MemoryOverlay:
    """Zeros, and that content in some places."""
    overlay = MemoryOverlay(Zero(size))
    for place in places:
        overlay.write(place, memoryview(content))
    return overlay


@pytest.mark.parametrize("size", [0, 1, 512, 5 * KIB, 130 * KIB, 3 * MIB, 64 * GIB])
def test_copies_that_hold_the_same(size: int) -> None:
    assert why_not_alike(Zero(size), Zero(size)) is None
    if size >= 64 * KIB:
        assert why_not_alike(made(size, 7, size - 9000), made(size, 7, size - 9000)) is None


def test_one_byte_anywhere() -> None:
    size = 3 * MIB
    for place in (0, 1, 128 * KIB, 1_234_567, 2 * MIB, size - 1):
        assert why_not_alike(made(size), made(size, place, content=b"?")) == "differ"
        assert why_not_alike(made(size, place, content=b"?"), made(size)) == "differ"


def test_one_change_on_a_large_disk() -> None:
    """Between all places that a sample takes."""
    for place in range(10 * GIB + 4 * MIB, 10 * GIB + 404 * MIB, 100 * MIB):
        assert why_not_alike(made(64 * GIB), made(64 * GIB, place)) == "differ"


def test_zeros_that_are_stored_are_zeros() -> None:
    assert why_not_alike(made(GIB), made(GIB, 5 * MIB, content=bytes(MIB))) is None


def test_sizes() -> None:
    assert why_not_alike(Zero(512), Zero(1024)) == "differ"


def test_too_much_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tells then that they are the same, though they are: they are treated like copies that differ."""
    assert why_not_alike(Stored(Zero(GIB)), Stored(Zero(GIB))) == "hold more than 256 MiB, too much to compare"
    monkeypatch.setattr(copies, "LIMIT", 128 * KIB)
    assert why_not_alike(made(GIB, 0, 70000), made(GIB, 70000, 0)) is None
    assert why_not_alike(made(GIB, 0, MIB), made(GIB, 0, 2 * MIB)) == "hold more than 256 MiB, too much to compare"
    assert why_not_alike(made(GIB, 0, MIB), made(GIB, 5, MIB)) == "differ"


def test_what_cannot_be_read_is_not_alike() -> None:
    stored = made(GIB, 5 * MIB)
    for pair in ((stored, Fault(stored, bad=[(5 * MIB, 1)])), (Fault(stored, bad=[(0, 1)]), stored)):
        assert str(why_not_alike(*pair)).startswith("cannot be compared (cannot be read: injected fault")


class Stored(Fault):
    """Blocks that do not know what of them is zeros."""

    def extents(self, offset: int, length: int):
        return whole(offset, length, ExtentKind.DATA)


def test_the_order_does_not_matter() -> None:
    one: Blocks = Stored(made(3 * MIB, 2 * MIB))
    assert why_not_alike(one, made(3 * MIB, 2 * MIB)) is None and why_not_alike(made(3 * MIB, 2 * MIB), one) is None
