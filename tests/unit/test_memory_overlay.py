"""Changes in memory over blocks that are never written; the oracle is a byte array that gets the same changes."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from contract.blocks_contract import check_blocks, check_closed
from contract.memory_filesystem import Memory
from mntapi.blocks import Concat, Fault, Zero, read
from mntapi.blocks.memory_overlay import BLOCK, MemoryOverlay, NoSpace, Room
from mntapi.blocks.writable import WritableSlice, zero_out
from mntapi.errors import Invalid, ReadFailed
from mntapi.types import Blocks, Extent, ExtentKind, WritableBlocks

CONTENT = random.Random(1).randbytes(3 * BLOCK) + bytes(4 * BLOCK) + random.Random(2).randbytes(2 * BLOCK + 777)


def original() -> Blocks:
    return Concat([Memory(CONTENT[: 3 * BLOCK]), Zero(4 * BLOCK), Memory(CONTENT[7 * BLOCK :])])


def kinds(blocks: Blocks) -> list[tuple[float, ExtentKind]]:
    return [(extent.offset / BLOCK, extent.kind) for extent in blocks.extents(0, blocks.size)]


def test_before_anything_is_written() -> None:
    overlay = MemoryOverlay(original())
    assert isinstance(overlay, WritableBlocks) and not isinstance(original(), WritableBlocks)
    check_blocks(overlay, CONTENT)
    check_closed(overlay)


def test_writes_and_discards() -> None:
    overlay, shadow, rng = MemoryOverlay(original()), bytearray(CONTENT), random.Random(3)
    for round_ in range(120):
        length = min(len(shadow), rng.choice((1, 512, 4097, BLOCK, BLOCK + 1, 3 * BLOCK)))
        offset = rng.choice((rng.randrange(len(shadow) - length + 1), len(shadow) - length))
        if rng.random() < 0.7:
            content = rng.randbytes(length)
            overlay.write(offset, memoryview(content))
            shadow[offset : offset + length] = content
        elif rng.random() < 0.5:
            zero_out(overlay, offset, length)
            shadow[offset : offset + length] = bytes(length)
        else:
            overlay.discard(offset, length)
            first, last = -(-offset // BLOCK) * BLOCK, offset + length
            last = last if last == len(shadow) else last // BLOCK * BLOCK
            shadow[first:last] = bytes(max(0, last - first))
        if round_ % 20 == 0:
            check_blocks(overlay, bytes(shadow), ranges=40)
    overlay.flush()
    check_blocks(overlay, bytes(shadow))
    assert read(original(), 0, len(CONTENT)) == CONTENT


def test_what_is_written_is_the_overlays_own() -> None:
    overlay, buffer = MemoryOverlay(original()), bytearray(b"x" * 100)
    overlay.write(5, memoryview(buffer))
    buffer[:] = b"y" * 100  # the server's buffer holds the next request by now
    assert read(overlay, 5, 100) == b"x" * 100


def test_extents() -> None:
    data, zero = ExtentKind.DATA, ExtentKind.ZERO
    overlay = MemoryOverlay(original())
    assert kinds(overlay) == [(0, data), (3, zero), (7, data)]
    overlay.write(4 * BLOCK + 9, memoryview(b"x"))
    overlay.discard(BLOCK - 1, BLOCK + 2)  # one whole block
    assert kinds(overlay) == [(0, data), (1, zero), (2, data), (3, zero), (4, data), (5, zero), (7, data)]


def test_discarding_holes_of_the_original_costs_nothing() -> None:
    room = Room(1000)
    overlay = MemoryOverlay(Zero(62 << 40), room)
    overlay.discard(0, 62 << 40)
    room.take(1000)
    assert kinds(overlay) == [(0, ExtentKind.ZERO)]


def test_when_it_is_full_it_says_so_and_what_was_written_stays() -> None:
    room = Room(2 * BLOCK)
    one, other = MemoryOverlay(original(), room), MemoryOverlay(original(), room)
    one.write(0, memoryview(b"a" * BLOCK))
    other.write(5, memoryview(b"b"))
    with pytest.raises(NoSpace, match="full") as raised:
        one.write(2 * BLOCK, memoryview(b"c"))
    assert raised.value.errno == errno.ENOSPC and "--overlay" in str(raised.value.hint)
    assert read(one, 2 * BLOCK, 4) == CONTENT[2 * BLOCK : 2 * BLOCK + 4]
    one.write(7, memoryview(b"again"))
    assert read(one, 6, 7) == b"aagaina" and read(other, 5, 1) == b"b"
    with pytest.raises(NoSpace):
        one.discard(2 * BLOCK, BLOCK)
    one.discard(0, BLOCK)  # gives back more than it takes
    one.discard(2 * BLOCK, BLOCK)
    other.close()
    one.write(0, memoryview(b"d" * BLOCK))
    assert read(one, BLOCK - 1, 2) == b"d" + CONTENT[BLOCK : BLOCK + 1]


def test_an_original_that_cannot_be_read_is_an_error_and_can_be_overwritten() -> None:
    overlay = MemoryOverlay(Fault(original(), bad=[(0, 512)]))
    with pytest.raises(ReadFailed):
        overlay.write(1000, memoryview(b"x"))  # the rest of the block would have to be known
    overlay.write(0, memoryview(bytes(BLOCK)))
    assert read(overlay, 0, 512) == bytes(512)


@pytest.mark.parametrize(("offset", "length"), [(-1, 2), (len(CONTENT), 1), (len(CONTENT) - 1, 2)])
def test_what_is_not_inside(offset: int, length: int) -> None:
    whole = MemoryOverlay(original())
    for blocks in (whole, WritableSlice(whole, 0, whole.size)):
        with pytest.raises(Invalid):
            blocks.write(offset, memoryview(bytes(length)))
        with pytest.raises(Invalid):
            blocks.discard(offset, length)
        with pytest.raises(Invalid):
            zero_out(blocks, offset, length)


def test_closed() -> None:
    overlay = MemoryOverlay(original())
    overlay.write(0, memoryview(b"x"))
    check_closed(overlay)
    for call in (overlay.flush, lambda: overlay.write(0, memoryview(b"x")), lambda: list(overlay.extents(0, 9))):
        with pytest.raises(Invalid, match="closed"):
            call()


def test_a_part_and_the_whole_are_views_of_one() -> None:
    whole = MemoryOverlay(original())
    part = WritableSlice(whole, BLOCK + 512, 5 * BLOCK, sector_size=4096)
    assert (part.size, part.sector_size, isinstance(part, WritableBlocks)) == (5 * BLOCK, 4096, True)
    part.write(0, memoryview(b"part"))
    whole.write(BLOCK + 516, memoryview(b"whole"))
    part.flush()
    assert read(part, 0, 9) == read(whole, BLOCK + 512, 9) == b"partwhole"
    zero_out(part, 1, 3 * BLOCK)
    shadow = bytearray(CONTENT)
    shadow[BLOCK + 512 : BLOCK + 521] = b"partwhole"
    shadow[BLOCK + 513 : 4 * BLOCK + 513] = bytes(3 * BLOCK)
    check_blocks(whole, bytes(shadow), ranges=40)
    check_blocks(part, bytes(shadow[BLOCK + 512 : 6 * BLOCK + 512]), ranges=40)
    part.close()
    assert read(whole, 0, 1)


def test_zeros_where_a_discard_does_nothing() -> None:
    class Stubborn(MemoryOverlay):
        def discard(self, offset: int, length: int) -> None:
            return

    overlay = Stubborn(original())
    zero_out(overlay, 7, 2 * BLOCK)
    assert read(overlay, 0, 3 * BLOCK) == CONTENT[:7] + bytes(2 * BLOCK) + CONTENT[2 * BLOCK + 7 : 3 * BLOCK]


def test_many_writers_and_readers() -> None:
    overlay = MemoryOverlay(Zero(16 * BLOCK))

    def work(number: int) -> bool:
        mine = bytes([number + 1]) * 5000
        for at in range(number * 5000, overlay.size - 5000, 16 * 5000):
            overlay.write(at, memoryview(mine))
            if read(overlay, at, 5000) != mine or not list(overlay.extents(0, overlay.size)):
                return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))
    for at in range(0, overlay.size - 5000, 5000):
        assert read(overlay, at, 5000) == bytes([at // 5000 % 16 + 1]) * 5000 or at // 80000 == (overlay.size - 5000) // 80000


def test_extents_of_the_original_may_be_lazy() -> None:
    class Lazy(Memory):
        def extents(self, offset: int, length: int) -> Iterator[Extent]:
            for at in range(offset, offset + length, 100):
                yield Extent(at, min(100, offset + length - at), ExtentKind.DATA)

    overlay = MemoryOverlay(Lazy(CONTENT))
    overlay.discard(0, overlay.size)
    check_blocks(overlay, bytes(len(CONTENT)), ranges=20)
    assert kinds(overlay) == [(0, ExtentKind.ZERO)]
