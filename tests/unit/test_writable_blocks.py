"""Volumes to be written. Oracles: a bytearray; for what the members of an array hold afterwards, the slow model of RAID
(``contract.raid_model``); for ciphertext, the package cryptography, one sector at a time."""

from __future__ import annotations

import random
import threading

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from contract.raid_model import PICTURES, RAID10_PICTURES, Memory, content, parity_members, picture_rows, raid10_members
from contract.writable_contract import check_writable, over
from mntapi.blocks import Concat, Fault, Missing, Slice, Zero, read
from mntapi.blocks.memory_overlay import BLOCK, MemoryOverlay, NoSpace, Room
from mntapi.blocks.turns import Turns
from mntapi.blocks.writable import Unwritable, WritableSlice, writable
from mntapi.crypto import gcrypt
from mntapi.crypto.sectors import sector_cipher
from mntapi.errors import Invalid, ReadFailed, Unsupported
from mntapi.types import Blocks, WritableBlocks
from mntapi.volumes.luks.blocks import Decrypted
from mntapi.volumes.raid import Mirrored, ParityArray, ParityLayout, Raid10, Striped

CHUNK = 4096


class Watched(MemoryOverlay):
    """Counts what is flushed."""

    flushes = 0

    def flush(self) -> None:
        super().flush()
        self.flushes += 1


def test_an_overlay_is_written_itself() -> None:
    overlay = MemoryOverlay(Memory(bytes(1000)))
    assert writable(overlay) is overlay


def test_slices() -> None:
    data = content(400_000)
    original = Memory(data)
    overlay = MemoryOverlay(original)
    shown = Slice(Slice(overlay, 1000, 300_000), 24, 200_000, sector_size=4096)
    made = writable(shown)
    assert isinstance(made, WritableSlice)
    after = check_writable(made, shown)
    assert read(overlay, 0, overlay.size) == data[:1024] + after + data[201_024:]
    assert original.content == data


def test_concatenations() -> None:
    first, second = (Watched(Memory(content(150_000, seed=seed))) for seed in (1, 2))
    parts = [Slice(first, 512, 70_000), Slice(second, 0, 0), Slice(second, 100, 100_001), Slice(first, 80_000, 30_000)]
    shown = Concat(parts)
    made = writable(shown)
    after = check_writable(made, shown)
    assert read(first, 512, 70_000) + read(second, 100, 100_001) + read(first, 80_000, 30_000) == after
    assert (first.flushes, second.flushes) == (1, 1)  # once each, however many parts lie on it
    made.close()
    assert read(made, 0, 10) == after[:10]  # it borrows


@pytest.mark.parametrize(
    ("count", "chunk", "size"), [(1, 512, 50_000), (2, 65536, 655_360), (3, 1000, 200_001), (5, 4096, 99_999)]
)
def test_stripes(count: int, chunk: int, size: int) -> None:
    members = over([Memory(content(-(-size // (chunk * count)) * chunk, seed=seed, holes=1)) for seed in range(count)])
    shown = Striped(members, chunk, size)
    after = check_writable(writable(shown), shown)
    pieces = [after[at : at + chunk] for at in range(0, size, chunk)]
    for index, member in enumerate(members):
        stored = b"".join(pieces[index::count])
        assert read(member, 0, len(stored)) == stored


def test_discarding_stripes_gives_up_whole_blocks() -> None:
    """Though no chunk is as large as a block of the overlays."""
    members = over([Memory(content(4 * BLOCK, seed=seed)) for seed in range(2)])
    made = writable(Striped(members, 4096, 8 * BLOCK))
    made.discard(BLOCK, 6 * BLOCK)
    assert [extent.kind.value for extent in made.extents(0, made.size)] == ["data", "zero", "data"]
    assert read(made, 2 * BLOCK, 4 * BLOCK) == bytes(4 * BLOCK)


def test_mirrors() -> None:
    data = content(300_000)
    members = over([Memory(data), Memory(data + b"more"), Memory(b"x" * 777 + data)])
    shown = Mirrored([members[0], members[1], Slice(members[2], 777, len(data))], len(data))
    after = check_writable(writable(shown), shown)
    for member, start in zip(members, (0, 0, 777), strict=True):
        assert read(member, start, len(data)) == after


def test_discarded_copies_stay_alike() -> None:
    """Overlays forget blocks of 64 KiB, which are other bytes of each copy; what is then zeroed must be so in all."""
    data = content(4 * BLOCK)
    members = over([Memory(data + bytes(5000)), Memory(bytes(5000) + data)])
    copies = [Slice(members[0], 0, len(data)), Slice(members[1], 5000, len(data))]
    made = writable(Mirrored(copies, len(data)))
    made.discard(1000, 3 * BLOCK)
    for copy in copies:
        assert read(copy, 0, len(data)) == data[:1000] + bytes(3 * BLOCK) + data[1000 + 3 * BLOCK :]


def test_writers_of_one_place_leave_copies_alike() -> None:
    """One writes between another's two copies, if it is let."""

    class First(MemoryOverlay):
        def write(self, offset: int, content: memoryview) -> None:
            super().write(offset, content)
            if bytes(content) == b"one":
                other.start()
                other.join(0.1)

    members = [First(Memory(bytes(4096))), MemoryOverlay(Memory(bytes(4096)))]
    shown = Mirrored(members, 4096)
    one, two = writable(shown), writable(shown)  # each volume on an array has its own
    other = threading.Thread(target=two.write, args=(0, memoryview(b"two")))
    one.write(0, memoryview(b"one"))
    other.join(20)
    assert read(members[0], 0, 3) == read(members[1], 0, 3) == b"two"


@pytest.mark.parametrize(("geometry", "picture"), RAID10_PICTURES.items())
def test_raid10(geometry: tuple[int, int, int, bool], picture: str) -> None:
    _, near, far, is_offset = geometry
    rows = picture_rows(picture)
    size = (max(int(cell) for row in rows for cell in row) + 1) * CHUNK
    data = content(size)
    members = over([Memory(member) for member in raid10_members(picture, data, CHUNK)])
    shown = Raid10(members, CHUNK, size, near, far, is_offset)
    after = check_writable(writable(shown), shown, writes=40)
    for member, stored in zip(members, raid10_members(picture, after, CHUNK), strict=True):
        assert read(member, 0, len(stored)) == stored


@pytest.mark.parametrize("layout", PICTURES)
def test_parity(layout: str) -> None:
    """What the members hold is right, parity too; so anyone of them may fail afterwards."""
    rows = picture_rows(PICTURES[layout])
    width = sum(cell not in "PQ" for cell in rows[0])
    data = content(512 * width * (len(rows) + 2))
    members = over([Memory(member) for member in parity_members(layout, data, 512)])
    shown = ParityArray(members, 512, len(data), ParityLayout(layout))
    after = check_writable(writable(shown), shown, writes=30)
    for member, stored in zip(members, parity_members(layout, after, 512), strict=True):
        assert read(member, 0, member.size) == stored
    without_one = [None, *members[1:]]
    assert read(ParityArray(without_one, 512, len(data), ParityLayout(layout)), 0, len(data)) == after


def test_parity_that_was_wrong_is_right_where_it_was_written() -> None:
    data = content(6 * CHUNK)
    stored = parity_members("parity-last", data[: 3 * CHUNK] + data[3 * CHUNK :], CHUNK)
    members = over([*map(Memory, stored[:3]), Memory(bytes(2 * CHUNK))])
    made = writable(ParityArray(members, CHUNK, len(data), ParityLayout.PARITY_N))
    made.write(CHUNK + 100, memoryview(data)[CHUNK + 100 : CHUNK + 200])
    assert read(members[3], 0, 2 * CHUNK) == bytes(100) + stored[3][100:200] + bytes(2 * CHUNK - 200)


def test_a_bad_sector_beside_what_is_written() -> None:
    """The rest of its stripe is computed, and parity of that."""
    data = content(6 * CHUNK)
    stored = parity_members("parity-last", data, CHUNK)
    bad = Fault(Memory(stored[0]), bad=[(512, 512)])
    members = [MemoryOverlay(bad), *over([Memory(one) for one in stored[1:]])]
    made = writable(ParityArray(members, CHUNK, len(data), ParityLayout.PARITY_N))
    made.write(CHUNK + 500, memoryview(b"new" * 10))
    want = bytearray(data)
    want[CHUNK + 500 : CHUNK + 530] = b"new" * 10
    assert read(made, 0, len(data)) == want
    assert read(members[3], 0, 2 * CHUNK) == parity_members("parity-last", bytes(want), CHUNK)[3]


def by_the_sector(mode: type, key: bytes, plain: bytes, unit: int, first: int) -> bytes:
    sectors = ((plain[at : at + unit], modes_vector(first + at // 512)) for at in range(0, len(plain), unit))
    return b"".join(Cipher(algorithms.AES(key), mode(vector)).encryptor().update(sector) for sector, vector in sectors)


def modes_vector(number: int) -> bytes:
    return number.to_bytes(16, "little")


@pytest.mark.parametrize("engine", ["libgcrypt", "cryptography"])
@pytest.mark.parametrize(("name", "mode"), [("aes-xts-plain64", modes.XTS), ("aes-cbc-plain64", modes.CBC)])
@pytest.mark.parametrize("unit", [512, 4096])
def test_encryption(monkeypatch: pytest.MonkeyPatch, engine: str, name: str, mode: type, unit: int) -> None:
    if engine == "cryptography":
        monkeypatch.setattr(gcrypt, "library", lambda: None)
    elif gcrypt.library() is None:
        pytest.skip("libgcrypt is not installed")
    key, first, plain = random.Random(3).randbytes(32), 16, content(32 * 4096)
    stored = Memory(by_the_sector(mode, key, plain, unit, first))
    overlay = MemoryOverlay(stored)
    shown = Decrypted(overlay, sector_cipher(name, key, sector_size=unit), unit=unit, first_sector=first)
    made = writable(shown)
    after = check_writable(made, shown, writes=60)
    assert read(overlay, 0, overlay.size) == by_the_sector(mode, key, after, unit, first)
    shown.close()
    with pytest.raises(Invalid, match="closed"):
        made.write(0, memoryview(bytes(unit)))
    assert read(overlay, 0, overlay.size) == by_the_sector(mode, key, after, unit, first)


def test_more_than_is_encrypted_at_once() -> None:
    key, plain = bytes(range(32)), content(3 << 20)
    overlay = MemoryOverlay(Memory(bytes(3 << 20)))
    made = writable(Decrypted(overlay, sector_cipher("aes-xts-plain64", key), unit=512))
    made.write(5, memoryview(plain)[5:])
    assert read(overlay, 512, 3 * 2**20 - 512) == by_the_sector(modes.XTS, key, plain, 512, 0)[512:]


def test_no_encryption() -> None:
    overlay = MemoryOverlay(Memory(content(10_000)))
    shown = Decrypted(overlay, sector_cipher("cipher_null-ecb", b""), unit=1)
    after = check_writable(writable(shown), shown, writes=20)
    assert read(overlay, 0, overlay.size) == after


def test_all_of_it_on_top_of_each_other() -> None:
    """A partition in a volume of two extents in LUKS on RAID 5 over mirrors and stripes."""
    disks = [Watched(Memory(content(1 << 18, seed=seed))) for seed in range(4)]
    mirror = Mirrored([Slice(disks[0], 1024, 1 << 17), Slice(disks[1], 2048, 1 << 17)], 1 << 17)
    disks[1].write(2048, memoryview(read(disks[0], 1024, 1 << 17)))
    stripes = Striped([Slice(disks[2], 512, 1 << 16), Slice(disks[3], 4096, 1 << 16)], 4096, 1 << 17)
    array = ParityArray([mirror, stripes, Slice(disks[2], 1 << 17, 1 << 17)], 8192, 1 << 18, ParityLayout.LEFT_SYMMETRIC)
    clear = Decrypted(array, sector_cipher("aes-xts-plain64", bytes(range(64))), unit=512)
    volume = Concat([Slice(clear, 100_352, 60_000), Slice(clear, 0, 90_000)])
    shown = Slice(volume, 1000, 140_000)
    check_writable(writable(shown), shown, writes=40)
    assert [disk.flushes for disk in disks] == [1, 1, 1, 1]
    assert read(disks[0], 1024, 1 << 17) == read(disks[1], 2048, 1 << 17)


def refused(blocks: Blocks) -> str:
    with pytest.raises(Unsupported) as caught:
        writable(blocks)
    assert caught.value.reason == "read-only"
    return str(caught.value)


def test_what_is_not_written() -> None:
    overlay = MemoryOverlay(Memory(bytes(8192)))
    half = Slice(overlay, 0, 4096)
    assert refused(Memory(b"an original")) == "there is no writer for volumes of this kind"
    assert refused(Slice(Memory(bytes(10)), 1, 2)) == "there is no writer for volumes of this kind"
    assert refused(Concat([half, Missing(4096, "PV x is missing")])) == "PV x is missing"
    assert "stored nowhere" in refused(Concat([half, Zero(512)]))
    assert refused(Striped([half, Missing(4096, "disk b is missing")], 512, 8192)) == "disk b is missing"
    assert "member 1 is missing" in refused(Mirrored([half, None], 4096))
    assert "no writer" in refused(Mirrored([half, Memory(bytes(4096))], 4096))
    assert "member 0 is missing" in refused(Raid10([None, half], 512, 4096, 2, 1, False))
    assert "member 0, 2 is missing" in refused(ParityArray([None, half, None], 512, 8192, ParityLayout.RAID4))
    assert "no writer" in refused(Decrypted(Memory(bytes(512)), sector_cipher("cipher_null-ecb", b""), unit=1))


def test_what_must_not_be_written() -> None:
    overlay = MemoryOverlay(Memory(b"x" * 8192))
    shown = Unwritable(overlay, "snapshots were taken of it")
    assert not isinstance(shown, WritableBlocks)
    assert read(shown, 5, 100) == b"x" * 100 and shown.size == 8192 and len(list(shown.extents(0, 8192))) == 1
    assert refused(Slice(shown, 512, 512)) == "snapshots were taken of it"
    shown.close()
    with pytest.raises(Invalid, match="closed"):
        read(overlay, 0, 1)


def test_a_copy_that_cannot_be_written_raises() -> None:
    data = content(4 * BLOCK)
    for full in (0, 1):
        rooms = [Room(BLOCK if index == full else 100 * BLOCK) for index in range(2)]
        members = [MemoryOverlay(Memory(data), room) for room in rooms]
        made = writable(Mirrored(members, len(data)))
        made.write(0, memoryview(b"fits"))
        with pytest.raises(NoSpace):
            made.write(BLOCK, memoryview(b"does not"))
        assert read(made, 0, 4) == b"fits"


def test_what_cannot_be_read_cannot_be_completed() -> None:
    stored = Fault(Memory(bytes(8192)), bad=[(512, 512)])
    made = writable(Decrypted(MemoryOverlay(stored), sector_cipher("aes-xts-plain64", bytes(range(32))), unit=512))
    with pytest.raises(ReadFailed):
        made.write(600, memoryview(b"part of the sector"))


def test_reading_again_after_a_write() -> None:
    """A reader that was overtaken by a writer reads again; it waits for one that is under way."""
    turns, seen = Turns(), []

    def overtaken() -> None:
        seen.append(len(seen))
        if len(seen) == 1:
            with turns.writing():
                pass

    turns.read(overtaken)
    assert seen == [0, 1]
    turns.read(seen.append, 2)
    assert seen == [0, 1, 2]
    with turns.writing():
        waiting = threading.Thread(target=turns.read, args=(seen.append, 3))
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive() and seen == [0, 1, 2]
    waiting.join(20)
    assert seen == [0, 1, 2, 3]


def test_a_write_that_fails_gives_its_turn_back() -> None:
    turns = Turns()
    with pytest.raises(ReadFailed), turns.writing():
        raise ReadFailed("no")
    seen: list[int] = []
    turns.read(seen.append, 1)
    assert seen == [1]
