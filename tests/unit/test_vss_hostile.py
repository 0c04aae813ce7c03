"""Shadow copies whose metadata lie: broken chains, loops, impossible sizes. The volume itself always stays listed."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from pathlib import Path

import pytest

from contract.vss_builder import BLOCK, CATALOG, SIZE, Copy
from contract.vss_builder import Volume as Made
from mntapi.blocks import Fault, HostFile, read
from mntapi.errors import Corrupt, MntapiError, ReadFailed, Unsupported
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.volumes import vss
from mntapi.volumes.vss import scheme
from mntapi.volumes.vss import store as store_module
from mntapi.volumes.vss.structures import HEADER_AT, parse_block, parse_header

STORE = 128
"""Block of the store of the made copy: header, descriptors, ranges, bitmap, previous bitmap."""


@pytest.fixture
def find(tmp_path: Path):
    """Writes bytes to a file, and finds the copies on it; a fault is put between if one is given."""
    opened: list[HostFile] = []

    def copies(image: bytes | bytearray, *, bad: tuple[int, int] | None = None) -> list[Volume]:
        path = tmp_path / f"volume{len(opened)}"
        path.write_bytes(image)
        opened.append(HostFile.open(str(path)))
        blocks: Blocks = Fault(opened[-1], bad=[bad]) if bad else opened[-1]
        base = Volume(id="part:1", name="disk0p1", kind="partition", blocks=blocks)
        assert vss.claims(base)
        return list(vss.volumes([base]))

    yield copies
    for each in opened:
        each.close()


def made(*changes: tuple[int, bytes], copy: Copy | None = None) -> bytearray:
    """A volume with one copy, and bytes put at byte offsets."""
    image = Made(copies=[copy or Copy(1, STORE, [(1, 0, 150, 0, 0)], previous=frozenset())]).image()
    for at, content in changes:
        image[at : at + len(content)] = content
    return image


def test_no_copies() -> None:
    assert parse_header(bytes(512)) is None
    assert parse_header(b"") is None
    image = made()
    header = bytearray(image[HEADER_AT : HEADER_AT + 512])
    header[20] = 2
    assert parse_header(bytes(header)) is None, "another record type"


@pytest.mark.parametrize(
    "change",
    [(3, b"ReFS    "), (HEADER_AT, b"x"), (HEADER_AT + 48, bytes(8))],
    ids=["no NTFS", "no header", "no catalog"],
)
def test_what_is_not_claimed(change: tuple[int, bytes], tmp_path: Path) -> None:
    (tmp_path / "volume").write_bytes(made(change))
    blocks = HostFile.open(str(tmp_path / "volume"))
    assert not vss.claims(Volume(id="x", name="x", kind="partition", blocks=blocks))
    blocks.close()


def test_a_header_that_vanishes(tmp_path: Path) -> None:
    """The disk changed between two looks."""
    (tmp_path / "volume").write_bytes(bytes(SIZE))
    blocks = HostFile.open(str(tmp_path / "volume"))
    with pytest.raises(Corrupt, match="no longer there"):
        list(vss.volumes([Volume(id="x", name="x", kind="partition", blocks=blocks)]))
    blocks.close()


NEXT = 40
_CATALOG_AT = CATALOG * BLOCK


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((_CATALOG_AT, b"x"), "no block of a shadow copy"),
        ((_CATALOG_AT + 20, b"\3"), "another block than the chain says"),
        ((_CATALOG_AT + 32, b"\1"), "another block than the chain says"),
        ((HEADER_AT + 48, struct.pack("<Q", 1 << 60)), "no block of a shadow copy"),
    ],
)
def test_a_damaged_catalog(find, change: tuple[int, bytes], said: str) -> None:
    """The volume comes back as it was, with a note."""
    (base,) = find(made(change))
    assert (base.id, base.state, base.reason) == ("part:1", VolumeState.OK, None)
    assert said in base.details["vss"]


def test_a_catalog_that_goes_in_circles(find) -> None:
    """What stood in front of the loop is listed."""
    base, copy = find(made((_CATALOG_AT + NEXT, struct.pack("<Q", _CATALOG_AT))))
    assert "goes in circles" in base.details["vss"]
    assert (copy.kind, copy.state) == ("vss", VolumeState.OK)


def test_a_catalog_without_end(find, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheme, "MAX_CATALOG_BLOCKS", 1)
    base, copy = find(made((_CATALOG_AT + NEXT, struct.pack("<Q", 9 * BLOCK))))
    assert "more than 1 blocks" in base.details["vss"]
    assert copy.kind == "vss"


def test_an_unreadable_catalog(find) -> None:
    (base,) = find(made(), bad=(_CATALOG_AT, 512))
    assert "injected fault" in base.details["vss"]


def test_an_unreadable_header_of_the_store(find) -> None:
    """Only what it says is missing."""
    (copy,) = find(made(), bad=(STORE * BLOCK, 512))
    assert "injected fault" in copy.details["note"]
    assert read(copy.blocks, BLOCK, 512)


def _descriptor(*fields: int) -> tuple[int, bytes]:
    return (STORE + 1) * BLOCK + 128, struct.pack("<3Q2I", *fields)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (((STORE + 1) * BLOCK, b"x"), Corrupt),
        (((STORE + 1) * BLOCK + NEXT, struct.pack("<Q", (STORE + 1) * BLOCK)), Corrupt),
        (((STORE + 1) * BLOCK + NEXT, struct.pack("<Q", (STORE + 3) * BLOCK)), Corrupt),
        (((STORE + 3) * BLOCK, b"x"), Corrupt),
        (((STORE + 4) * BLOCK, b"x"), Corrupt),
        (_descriptor(1, 0, BLOCK, 0, 0), Corrupt),
        (_descriptor(0, 0, BLOCK + 512, 0, 0), Corrupt),
        (_descriptor(0, 7, 0, 1, 0), Corrupt),
    ],
    ids=["list", "loop", "list in bitmap", "bitmap", "previous bitmap", "original", "stored", "forward"],
)
def test_a_damaged_store(find, change: tuple[int, bytes], error: type[MntapiError]) -> None:
    """Every read of the copy is an error, the same each time; never what is there now."""
    (copy,) = find(made(change))
    assert copy.state is VolumeState.OK, "not known before it is read"
    for _ in range(2):
        with pytest.raises(error) as caught:
            read(copy.blocks, 0, 1)
        assert caught.value.offset is not None
    with pytest.raises(error):
        list(copy.blocks.extents(0, 1))


def test_a_store_that_cannot_be_read_now(find, tmp_path: Path) -> None:
    """A failing disk is asked again the next time, unlike a damaged store."""
    (copy,) = find(made(), bad=((STORE + 1) * BLOCK, 512))
    for _ in range(2):
        with pytest.raises(ReadFailed):
            read(copy.blocks, 0, 1)


def test_stores_that_share_metadata(find) -> None:
    """A hundred copies of one long list would be read a hundred times."""
    one, two = Copy(1, STORE), Copy(2, STORE)
    first, second = find(Made(copies=(one, two)).image())
    assert read(second.blocks, 0, 1)
    with pytest.raises(Corrupt, match="two stores share a block of metadata"):
        read(first.blocks, 0, 1)


def test_a_list_without_end(find, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_DESCRIPTORS", 508)
    (copy,) = find(made(((STORE + 1) * BLOCK + NEXT, struct.pack("<Q", (STORE + 5) * BLOCK))))
    with pytest.raises(Unsupported, match="more than 1 blocks"):
        read(copy.blocks, 0, 1)


@pytest.mark.parametrize("size", [0, 1, SIZE - 1, SIZE, 1 << 63])
def test_sizes(find, size: int) -> None:
    """A copy has at most the size of its volume, and costs no more than that."""
    begin = time.process_time()
    (copy,) = find(made(copy=Copy(1, STORE, size=size)))
    assert copy.size == min(size, SIZE)
    if copy.size:
        assert len(read(copy.blocks, copy.size - 1, 1)) == 1
    assert time.process_time() - begin < 2


def test_times(find) -> None:
    (copy,) = find(made(copy=Copy(1, STORE, created=(1 << 64) - 1)))
    assert copy.name == "disk0p1@filetime-18446744073709551615"


def test_a_machine_named_to_harm(find) -> None:
    name = "A\n\x1b[2J/".encode("utf-16-le")
    change = (STORE * BLOCK + 128 + 64, struct.pack("<H", len(name)) + name)
    (copy,) = find(made(change))
    assert copy.details["machine"] == "A[2J/"


def test_volumes_cut_off_anywhere(find) -> None:
    """Never a hang, a crash or bytes that are not there."""
    image = made()
    for length in (HEADER_AT + 512, _CATALOG_AT + 1, _CATALOG_AT + BLOCK, STORE * BLOCK, (STORE + 1) * BLOCK + 200, SIZE - 1):
        for volume in find(image[:length]):
            if volume.kind == "vss" and volume.size:
                try:
                    read(volume.blocks, 0, min(volume.size, 1 << 20))
                except MntapiError as error:
                    assert error.offset is not None


def test_a_block_cut_off() -> None:
    with pytest.raises(Corrupt, match="no block of a shadow copy"):
        parse_block(b"", 2, 0)


@pytest.mark.parametrize("flags", [0, 1, 2], ids=["saved", "moved", "overlays"])
def test_a_store_of_many_blocks_takes_little_memory(flags: int) -> None:
    """In arrays: a dictionary of as many takes more than 200 bytes for each."""
    count = 50_000
    descriptors = [(block * BLOCK, (block + count) * BLOCK, (block + count) * BLOCK, flags, 5) for block in range(count)]
    random.Random(1).shuffle(descriptors)
    tracemalloc.start()
    try:
        log = store_module._replay(iter(descriptors))
        last = store_module._last_of_each(log.blocks, log.targets)
        order = store_module._by_block(log.overlaid)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(last) + len(order) == count
    assert peak < (230 if flags == 1 else 130) * count


def test_nothing_of_a_store_but_its_header_is_read_before_it_is_needed(find) -> None:
    """A disk is listed without its tables; a bad sector in one is met by who reads that copy."""
    (copy,) = find(made(), bad=((STORE + 1) * BLOCK, 512))
    assert copy.state is VolumeState.OK and "machine" in copy.details
    with pytest.raises(ReadFailed):
        read(copy.blocks, 0, 1)
