"""Shadow copies, block for block: against libvshadow on volumes made by ``vss_builder``, against what files in a public sample
of Windows Server's copies are known to hold, and where libvshadow is known to be wrong or to differ, against the rule."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import mntapi
from contract.blocks_contract import check_blocks
from contract.vss_builder import BLOCK, BLOCKS, FORWARDER, NOT_USED, OVERLAY, SIZE, Copy
from contract.vss_builder import Volume as Made
from mntapi.blocks import HostFile, read
from mntapi.errors import Corrupt
from mntapi.types import ExtentKind, Volume, VolumeState
from mntapi.volumes import vss

SHARED = Path(__file__).parents[3] / "shared" / "images"
SAMPLE = SHARED / "dfir_ntfs" / "test_data" / "vss_3_volstor.tar.gz"
TRUTH = SHARED / "TRUTH"
NTFS_AT = (2048 * 512, 4196352 * 512)


@pytest.fixture
def copies(tmp_path: Path):
    """Writes made volumes to files, and finds the copies on them."""
    opened: list[HostFile] = []

    def find(*made: Made) -> list[Volume]:
        bases = []
        for volume in made:
            path = tmp_path / f"volume{volume.number}"
            path.write_bytes(volume.image())
            opened.append(HostFile.open(str(path)))
            name = f"disk{len(bases)}p1"
            bases.append(Volume(id=f"part:{volume.number}", name=name, kind="partition", blocks=opened[-1], disk=len(bases)))
            assert vss.claims(bases[-1])
        return list(vss.volumes(bases))

    yield find
    for each in opened:
        each.close()


def some_copies(rng: random.Random) -> list[Copy]:
    """One to three copies with saved, moved and half saved blocks. Not: blocks moved back home, blocks not in use where a block
    was moved to, overlays of a block in two places, and blocks not in use in older copies; see the tests of the rules."""
    found = []
    count = rng.randrange(1, 4)
    for number in range(1, count + 1):
        at = 88 + 40 * number
        room = rng.sample(range(at + 6, at + 40), 34)
        overlays: dict[int, int] = {}
        targets = set()
        descriptors = []
        for _ in range(rng.randrange(25)):
            block, kind = rng.randrange(48), rng.random()
            if kind < 0.55:
                descriptors.append((block, 0, room.pop(), 0, 0))
            elif kind < 0.75:
                stored = overlays.setdefault(block, room[-1])
                room = [each for each in room if each != stored]
                descriptors.append((block, 0, stored, OVERLAY, rng.getrandbits(32)))
            elif kind < 0.95:
                target = rng.randrange(64, 120)
                targets.add(target)
                descriptors.append((block, target, 0, FORWARDER, 0))
            else:
                descriptors.append((block, 0, room.pop(), NOT_USED, 0))
        moved = [(target, 0, room.pop(), 0, 0) for target in rng.sample(sorted(targets), len(targets) // 3)]
        previous = frozenset(rng.sample(range(128), 90)) if number > 1 else None
        unused = frozenset(rng.sample(range(128), 40)) - targets if number == count else frozenset[int]()
        found.append(Copy(number, at, descriptors + moved, unused=unused, previous=previous))
    return found


@pytest.mark.parametrize("seed", range(30))
def test_as_libvshadow(seed: int, copies, tmp_path: Path) -> None:
    pyvshadow = pytest.importorskip("pyvshadow", reason="libvshadow-python is not installed")
    made = Made(copies=some_copies(random.Random(seed)))
    found = copies(made)
    oracle = pyvshadow.volume()
    oracle.open(str(tmp_path / "volume1"))
    assert len(found) == oracle.number_of_stores == len(made.copies)
    for volume, copy, store in zip(found, made.copies, oracle.stores, strict=True):
        assert volume.details["copy"] == store.copy_identifier == str(copy.copy_guid)
        assert volume.id == f"vss:{store.identifier}"
        assert volume.size == store.volume_size == SIZE
        assert read(volume.blocks, 0, SIZE) == store.read_buffer_at_offset(SIZE, 0)
    check_blocks(found[0].blocks, read(found[0].blocks, 0, SIZE), ranges=100)
    oracle.close()


def block_of(volume: Volume, number: int) -> bytes:
    return read(volume.blocks, number * BLOCK, BLOCK)


def test_names_and_what_is_known(copies) -> None:
    first, second, third = (Copy(number, 88 + 40 * number, created=when) for number, when in ((1, None), (2, 5), (3, 6)))
    one, two, three = copies(Made(copies=(first, second, third)))
    assert one.name == "disk0p1@2021-03-13T22:13:18Z"
    assert (two.name, three.name) == ("disk0p1@1601-01-01T00:00:00.0000005Z", "disk0p1@1601-01-01T00:00:00.0000006Z")
    assert (one.kind, one.members, one.disk, one.state) == ("vss", (), None, VolumeState.OK)
    assert one.details["created"] == "2021-03-13T22:13:18.3043090Z"
    assert (one.details["base"], one.details["machine"]) == ("part:1", "HOST")
    assert not vss.claims(one), "copies of copies"


@pytest.mark.parametrize("previous", [None, frozenset({5, 6, 20})])
def test_blocks_not_in_use(copies, previous: frozenset[int] | None) -> None:
    """Zeros in every copy (libvshadow: only in the newest), unless a newer copy has the block, or the one before used it."""
    old = Copy(1, 128, unused=frozenset({5, 6, 7}))
    new = Copy(2, 168, [(6, 0, 180, 0, 0)], unused=frozenset({5, 7, 20}), previous=previous)
    made = Made(copies=(old, new))
    first, second = copies(made)
    assert (block_of(first, 5), block_of(first, 6)) == (bytes(BLOCK), made.block(180))
    assert block_of(first, 7) == bytes(BLOCK)
    assert block_of(first, 20) == made.block(20)
    assert (block_of(second, 5), block_of(second, 20)) == (bytes(BLOCK), bytes(BLOCK))
    assert block_of(second, 7) == (bytes(BLOCK) if previous is None else made.block(7))
    kinds = [extent.kind for extent in second.blocks.extents(5 * BLOCK, BLOCK)]
    assert kinds == [ExtentKind.ZERO]


def test_blocks_not_in_use_before_windows_8(copies) -> None:
    """Without the flag they read as what is there now (libvshadow: zeros)."""
    made = Made(copies=[Copy(1, 128, unused=frozenset({5}), flags=0x40)])
    (volume,) = copies(made)
    assert block_of(volume, 5) == made.block(5)


def test_a_block_that_was_moved(copies) -> None:
    """It is where it was moved to, also where that was not in use; saved there later, it is in the store; moved on, there."""
    descriptors = [(1, 11, 0, FORWARDER, 0), (2, 12, 0, FORWARDER, 0), (12, 0, 150, 0, 0), (3, 13, 0, FORWARDER, 0)]
    descriptors += [(13, 14, 0, FORWARDER, 0)]
    made = Made(copies=[Copy(1, 128, descriptors, unused=frozenset({11, 12, 13, 14}))])
    (volume,) = copies(made)
    assert [block_of(volume, number) for number in (1, 2, 3)] == [made.block(11), made.block(150), made.block(14)]
    assert block_of(volume, 12) == bytes(BLOCK), "not in use when the copy was made"


def test_a_block_that_was_moved_and_saved_by_a_newer_copy(copies) -> None:
    old = Copy(1, 128, [(1, 11, 0, FORWARDER, 0), (2, 12, 0, FORWARDER, 0)])
    new = Copy(2, 168, [(11, 0, 190, 0, 0), (12, 22, 0, FORWARDER, 0)])
    newest = Copy(3, 208, [(22, 0, 230, 0, 0)])
    made = Made(copies=(old, new, newest))
    volume, _, _ = copies(made)
    assert [block_of(volume, number) for number in (1, 2)] == [made.block(190), made.block(230)]


def test_a_block_that_was_moved_back(copies) -> None:
    """It is at home again (libvshadow: still where it was in between). Moved to where it was, nothing changes."""
    descriptors = [(1, 11, 0, FORWARDER, 0), (11, 1, 0, FORWARDER, 0), (2, 0, 150, 0, 0), (2, 2, 0, FORWARDER, 0)]
    made = Made(copies=[Copy(1, 128, descriptors)])
    (volume,) = copies(made)
    assert [block_of(volume, number) for number in (1, 2)] == [made.block(1), made.block(150)]


def test_overlays(copies) -> None:
    """Half saved blocks: sector by sector over what is below, each from its own place, and only for their own copy."""
    own = Copy(1, 128, [(1, 0, 140, OVERLAY, 0b0011), (1, 0, 141, OVERLAY, 0b0110), (2, 0, 142, OVERLAY, 1 << 31)])
    newer = Copy(2, 168, [(2, 0, 180, 0, 0), (3, 0, 181, OVERLAY, 0xFFFFFFFF)])
    made = Made(copies=(own, newer))
    volume, _ = copies(made)
    now, first, second = made.block(1), made.block(140), made.block(141)
    assert block_of(volume, 1) == first[:512] + second[512:1536] + now[1536:]
    assert block_of(volume, 2) == made.block(180)[:-512] + made.block(142)[-512:]
    assert block_of(volume, 3) == made.block(3)
    assert read(volume.blocks, BLOCK + 300, 1000) == (first[:512] + second[512:1536])[300:1300]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_store_on_another_volume(copies, order: tuple[int, int]) -> None:
    """Saved blocks are read from there, moved and unchanged ones here."""
    stored = [Copy(1, 128, [(1, 0, 150, 0, 0), (2, 12, 0, FORWARDER, 0), (3, 0, 151, OVERLAY, 1)])]
    base, storage = Made(number=1, copies=stored, stores=(), storage=2), Made(number=2, stores=stored)
    (volume,) = copies(*[(base, storage)[index] for index in order])
    assert volume.state is VolumeState.OK
    assert [block_of(volume, number) for number in (1, 2, 4)] == [storage.block(150), base.block(12), base.block(4)]
    assert block_of(volume, 3) == storage.block(151)[:512] + base.block(3)[512:]
    check_blocks(volume.blocks, read(volume.blocks, 0, SIZE), ranges=50)


def test_a_store_on_a_volume_that_is_not_there(copies) -> None:
    """Named, and every copy older than it is as incomplete: its blocks may be there."""
    one, two, three = Copy(1, 128), Copy(2, 168), Copy(3, 208)
    base = Made(number=1, copies=(one, two, three), stores=(one, three), storage=2)
    first, second, third = copies(base)
    assert [volume.state for volume in (first, second, third)] == [
        VolumeState.INCOMPLETE,
        VolumeState.INCOMPLETE,
        VolumeState.OK,
    ]
    assert second.reason is not None
    assert "the volume a0000000-0000-0000-0000-000000000002, which is not in the set" in second.reason
    assert second.details["missing"] == "a0000000-0000-0000-0000-000000000002"
    with pytest.raises(mntapi.MntapiError, match="not in the set"):
        read(second.blocks, 0, 512)


def test_the_same_volume_twice(copies, tmp_path: Path) -> None:
    """A copied disk: each copy is listed, and says which volume it is of."""
    (one,) = copies(Made(copies=[Copy(1, 128)]))
    again = HostFile.open(str(tmp_path / "volume1"))
    bases = [Volume(id=f"part:{n}", name=f"disk{n}p1", kind="partition", blocks=again, disk=n) for n in (1, 2)]
    first, second = vss.volumes(bases)
    assert (first.id, second.id) == (one.id, f"{one.id}@part:2")
    again.close()


def test_a_volume_that_shrank(copies) -> None:
    (volume,) = copies(Made(copies=[Copy(1, 128, size=SIZE + BLOCK)]))
    assert (volume.state, volume.size) == (VolumeState.INCOMPLETE, SIZE)
    assert volume.reason == f"the volume was larger then: {BLOCK} bytes are missing"


def test_a_block_past_the_end(copies) -> None:
    """The rest of the copy reads."""
    (volume,) = copies(Made(copies=[Copy(1, 128, [(1, 0, BLOCKS, 0, 0)])]))
    assert read(volume.blocks, 0, BLOCK)
    with pytest.raises(Corrupt, match="past the end of the volume"):
        read(volume.blocks, BLOCK, 512)
    assert [extent.length for extent in volume.blocks.extents(0, SIZE)] == [SIZE]


# The sample: two copies of one volume, whose stores are on another.


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not SAMPLE.is_file():
        pytest.skip("the shared images are not here")
    folder = tmp_path_factory.mktemp("vss")
    with tarfile.open(SAMPLE) as archive:
        archive.extractall(folder, filter="data")
    yield folder / "vss_3_volstor.raw"
    shutil.rmtree(folder)


def test_the_sample(sample: Path) -> None:
    """test.txt held 52,272 times 1, then 2, now 3 (the sample's own test cases). Through the public interface."""
    with mntapi.open_disks(str(sample)) as disks:
        assert [volume.name for volume in disks.volumes] == [
            "disk0p1",
            "disk0p2",
            "disk0p2@2021-03-13T22:13:17Z",
            "disk0p2@2021-03-13T22:13:30Z",
        ]
        _, now, first, second = disks.volumes
        for volume, letter in ((first, b"1"), (second, b"2"), (now, b"3")):
            tree = disks.filesystem(volume)
            node = tree.lookup(tree.root, "test.txt")
            assert read(tree.open(node), 0, node.size) == letter * 52272
        assert first.details["machine"] == "WIN-BJQQCVN4IUD"
        # A file that did not change reads in each copy as it does now.
        wanted = sha256_of("dfir_vss_3_lba4196352.tsv", "/System Volume Information/WPSettings.dat")
        for volume in (first, second, now):
            tree = disks.filesystem(volume)
            folder = tree.lookup(tree.root, "System Volume Information")
            node = tree.lookup(folder, "WPSettings.dat")
            assert hashlib.sha256(read(tree.open(node), 0, node.size)).hexdigest() == wanted


def test_the_sample_on_two_disks(sample: Path, tmp_path: Path) -> None:
    """The volume on one disk, its storage on another, given in either order; and the volume alone."""
    names = [tmp_path / "storage.raw", tmp_path / "volume.raw"]
    for name, at, size in zip(names, NTFS_AT, (1 << 31, 3218079744), strict=True):
        _cut_out(sample, at, size, name)
    for given in (names, names[::-1]):
        with mntapi.open_disks(*map(str, given)) as disks:
            found = [volume for volume in disks.volumes if volume.kind == "vss"]
            letters = [read(volume.blocks, 261856 * 4096, 52272) for volume in found]
            assert letters == [b"1" * 52272, b"2" * 52272]
    with mntapi.open_disks(str(names[1])) as disks:
        base, *found = disks.volumes
    assert (base.state, [volume.state for volume in found]) == (VolumeState.OK, [VolumeState.INCOMPLETE] * 2)
    assert all("9b2ae240-8461-11eb-90f8-806e6f6e6963" in str(volume.reason) for volume in found)


def sha256_of(table: str, path: str) -> str:
    rows = (line.split("\t") for line in (TRUTH / table).read_text().splitlines())
    return next(row[3] for row in rows if row[0] == path)


def _cut_out(source: Path, at: int, size: int, target: Path) -> None:
    """A part of a sparse file, as a sparse file."""
    with source.open("rb") as inside, target.open("wb") as out:
        out.truncate(size)
        data = at
        while data < at + size:
            try:
                data = os.lseek(inside.fileno(), data, os.SEEK_DATA)
            except OSError:
                break
            hole = min(os.lseek(inside.fileno(), data, os.SEEK_HOLE), at + size)
            for place in range(data, hole, 1 << 20):
                os.pwrite(out.fileno(), os.pread(inside.fileno(), min(1 << 20, hole - place), place), place - at)
            data = max(data, hole)
