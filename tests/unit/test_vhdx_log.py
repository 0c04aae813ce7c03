"""The log of a VHDX: which entries count, and what the file looks like with them applied. Oracle: qemu-img check -r all."""

from __future__ import annotations

import random
import struct
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract import vhdx_builder as vhdx
from contract.blocks_contract import check_blocks, check_closed
from contract.vhd_support import known_formats, needs_qemu, opened, qemu_img, raw_of
from contract.vhdx_builder import KIB, MIB, Disk, log_entry, ring
from mntapi.blocks import HostFile, read
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.images.vhdx import log as vhdx_log
from mntapi.images.vhdx import read_structure
from mntapi.images.vhdx.replay import Replayed
from mntapi.types import ExtentKind

__all__ = ["known_formats"]

GUID = uuid.UUID(int=0x1234)
SIZE = 8 * MIB
BAT_PAGE = vhdx.BAT_AT
FILE_SIZE = vhdx.BLOCKS_AT + 4 * MIB


def bat(*entries: int) -> bytes:
    """A page of the block table."""
    return struct.pack(f"<{len(entries)}Q", *entries).ljust(4 * KIB, b"\0")


def at_block(number: int) -> int:
    """The entry of a block that is stored as the ``number``-th of the file."""
    return vhdx.BLOCKS_AT + number * MIB | vhdx.FULL


BEFORE = bat(at_block(0), at_block(1))
PAGES = [bat(at_block(number % 4), at_block((number + 1) % 4), vhdx.ZERO, at_block((number + 2) % 4)) for number in range(8)]


def write_disk(path: Path, pieces: list[tuple[int, bytes]], *, log_length: int = MIB, guid: uuid.UUID | None = GUID) -> None:
    """A disk of which four blocks are stored, two of them in the table, with a log made of ``pieces``."""
    rng = random.Random(4)
    disk = Disk(SIZE, log_guid=guid, log=ring(pieces, log_length))
    disk.states = dict.fromkeys(range(2), vhdx.FULL)
    disk.contents = {index: rng.randbytes(MIB) for index in range(2)}
    disk.write(path)
    with path.open("r+b") as file:
        file.seek(vhdx.BLOCKS_AT + 2 * MIB)
        file.write(rng.randbytes(2 * MIB))


def page(content: bytes) -> list[tuple[int, bytes | int]]:
    """The writes of an entry that replaces the first page of the block table."""
    return [(BAT_PAGE, content)]


def entry(sequence: int, tail: int, writes: list[tuple[int, bytes | int]], *, last: int = FILE_SIZE) -> bytes:
    return log_entry(GUID, sequence, tail, writes, flushed=FILE_SIZE, last=last)


def torn(content: bytes) -> bytes:
    """An entry whose last sector was not written."""
    return content[: -4 * KIB] + bytes(4 * KIB)


OLD = 64 * KIB
CASES: dict[str, tuple[list[tuple[int, bytes]], bytes]] = {
    "one": ([(0, entry(1, 0, page(PAGES[1])))], PAGES[1]),
    "no descriptors": ([(0, entry(1, 0, []))], BEFORE),
    "two in order": ([(0, entry(1, 0, page(PAGES[1]))), (8 * KIB, entry(2, 0, page(PAGES[2])))], PAGES[2]),
    "two and a torn one": (
        [
            (0, entry(5, 0, page(PAGES[1]))),
            (8 * KIB, entry(6, 0, page(PAGES[2]))),
            (16 * KIB, torn(entry(7, 0, page(PAGES[3])))),
        ],
        PAGES[2],
    ),
    "in the middle": ([(512 * KIB, entry(9, 512 * KIB, page(PAGES[4])))], PAGES[4]),
    "around the end": (
        [
            (MIB - 12 * KIB, entry(20, MIB - 12 * KIB, page(PAGES[1]))),
            (MIB - 4 * KIB, entry(21, MIB - 12 * KIB, page(PAGES[5]))),
        ],
        PAGES[5],
    ),
    "an older sequence": (
        [(0, entry(8, 0, page(PAGES[1]))), (OLD, entry(3, OLD, page(PAGES[6])))],
        PAGES[1],
    ),
    "an older sequence in front": (
        [(0, entry(3, 0, page(PAGES[6]))), (OLD, entry(8, OLD, page(PAGES[1])))],
        PAGES[1],
    ),
    "a newer one that is incomplete": (
        [(0, entry(8, 0, page(PAGES[1]))), (OLD, entry(30, 128 * KIB, page(PAGES[6])))],
        PAGES[1],
    ),
    "a gap in the sequence": (
        [(0, entry(8, 0, page(PAGES[1]))), (8 * KIB, entry(10, 8 * KIB, page(PAGES[2])))],
        PAGES[2],
    ),
    "entries before the tail are done with": (
        [(0, entry(4, 0, [(BAT_PAGE + 8 * KIB, PAGES[1])])), (8 * KIB, entry(5, 8 * KIB, page(PAGES[2])))],
        PAGES[2],
    ),
    "of another log": (
        [(0, entry(1, 0, page(PAGES[1]))), (8 * KIB, log_entry(uuid.UUID(int=9), 2, 0, page(PAGES[2])))],
        PAGES[1],
    ),
    "zeros": ([(0, entry(1, 0, [(BAT_PAGE, 64 * KIB)]))], bat()),
    "zeros, then data": ([(0, entry(1, 0, [(BAT_PAGE - 4 * KIB, 64 * KIB), *page(PAGES[3])]))], PAGES[3]),
    "data, then zeros": ([(0, entry(1, 0, [*page(PAGES[3]), (BAT_PAGE - 4 * KIB, 64 * KIB)]))], bat()),
    "many descriptors": (
        [(0, entry(1, 0, [*((BAT_PAGE + (1 + number) * 4 * KIB, 4 * KIB) for number in range(150)), *page(PAGES[4])]))],
        PAGES[4],
    ),
    "sequence numbers of more than 32 bits": ([(0, entry(0x7_0000_0003, 0, page(PAGES[2])))], PAGES[2]),
}


@pytest.mark.parametrize("name", CASES)
def test_replayed(tmp_path: Path, name: str) -> None:
    pieces, expected = CASES[name]
    path = tmp_path / "dirty.vhdx"
    write_disk(path, pieces)
    before = path.read_bytes()
    file = HostFile.open(str(path))
    replayed, structure = read_structure(file)
    assert structure.log
    assert read(replayed, BAT_PAGE, 4 * KIB) == expected
    replayed.close()
    assert path.read_bytes() == before


QEMU_DIFFERS = {
    "entries before the tail are done with",  # qemu 7.2 starts where the sequence numbers do, not at the tail
    "a newer one that is incomplete",  # and does not ask whether the tail is in the sequence
    "many descriptors",  # and refuses what needs a second sector of descriptors
}


@needs_qemu
@pytest.mark.parametrize("name", [name for name in CASES if name not in QEMU_DIFFERS])
def test_as_qemu_repairs_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / "dirty.vhdx"
    write_disk(path, CASES[name][0])
    with opened(path) as image:
        ours = read(image.blocks, 0, SIZE)
        check_blocks(image.blocks, ours, ranges=20)
    qemu_img("check", "-q", "-r", "all", "-f", "vhdx", path)
    assert ours == raw_of(path, "vhdx")


def test_an_empty_log_is_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "clean.vhdx"
    write_disk(path, CASES["one"][0], guid=None)
    file = HostFile.open(str(path))
    blocks, structure = read_structure(file)
    assert structure.log == ()
    assert blocks is file
    file.close()


def test_a_file_that_the_log_makes_longer(tmp_path: Path) -> None:
    path = tmp_path / "dirty.vhdx"
    beyond = bat(vhdx.BLOCKS_AT + 6 * MIB | vhdx.FULL)
    data = random.Random(1).randbytes(4 * KIB)
    writes: list[tuple[int, bytes | int]] = [*page(beyond), (vhdx.BLOCKS_AT + 6 * MIB, data)]
    write_disk(path, [(0, entry(1, 0, writes, last=vhdx.BLOCKS_AT + 7 * MIB))])
    with opened(path) as image:
        assert read(image.blocks, 0, MIB) == data + bytes(MIB - 4 * KIB)
        kinds = [(one.length, one.kind) for one in image.blocks.extents(0, SIZE)]
        assert kinds == [(4 * KIB, ExtentKind.DATA), (SIZE - 4 * KIB, ExtentKind.ZERO)]


def test_the_replayed_file_keeps_the_contract(tmp_path: Path) -> None:
    path = tmp_path / "dirty.vhdx"
    rng = random.Random(3)
    patches: list[tuple[int, bytes | int]] = [
        (vhdx.BLOCKS_AT + 12 * KIB, rng.randbytes(4 * KIB)),
        (vhdx.BLOCKS_AT + 40 * KIB, 64 * KIB),
        (vhdx.BLOCKS_AT + 48 * KIB, rng.randbytes(4 * KIB)),
        (FILE_SIZE - 4 * KIB, 12 * KIB),
        (FILE_SIZE + 8 * KIB, rng.randbytes(4 * KIB)),
    ]
    write_disk(path, [(0, entry(1, 0, patches, last=FILE_SIZE + MIB))])
    content = bytearray(path.read_bytes().ljust(FILE_SIZE + MIB, b"\0"))
    for at, what in patches:
        new = bytes(what) if isinstance(what, int) else what
        content[at : at + len(new)] = new
    blocks, _ = read_structure(HostFile.open(str(path)))
    assert isinstance(blocks, Replayed)
    check_blocks(blocks, bytes(content), ranges=500)
    check_closed(blocks)


def refused(path: Path) -> MntapiError:
    with pytest.raises(MntapiError) as caught, opened(path):
        pytest.fail("opened")
    assert caught.value.path == str(path)
    return caught.value


INVALID = {
    "nothing": b"",
    "torn": torn(entry(1, 0, page(PAGES[1]))),
    "checksum": entry(1, 0, page(PAGES[1]))[:-100] + b"?" * 100,
    "sequence number 0": entry(0, 0, page(PAGES[1])),
    "of another log": log_entry(uuid.UUID(int=9), 1, 0, page(PAGES[1])),
    "tail outside": entry(1, 2 * MIB, page(PAGES[1])),
    "crooked tail": entry(1, 100, page(PAGES[1])),
    "tail that is no entry": entry(2, 8 * KIB, page(PAGES[1])),
    "crooked offset": entry(1, 0, [(BAT_PAGE + 1, PAGES[1])]),
    "crooked length": entry(1, 0, [(BAT_PAGE, 4097)]),
}


def altered(changes: list[tuple[int, bytes]]) -> bytes:
    """An entry with some bytes changed, and its checksum right again."""
    content = bytearray(entry(1, 0, page(PAGES[1])))
    for at, new in changes:
        content[at : at + len(new)] = new
    return vhdx.seal(content)


ALTERED = {
    "length not whole sectors": [(8, struct.pack("<I", 4097))],
    "length 0": [(8, struct.pack("<I", 0))],
    "longer than the log": [(8, struct.pack("<I", 2 * MIB))],
    "more descriptors than fit": [(24, struct.pack("<I", 2**32 - 1))],
    "a descriptor of no kind": [(64, b"none")],
    "a descriptor of another entry": [(64 + 24, struct.pack("<Q", 7))],
    "a data sector of another entry": [(8 * KIB - 4, struct.pack("<I", 7))],
    "no data sector": [(4 * KIB, b"none")],
    "a data sector too many": [(24, struct.pack("<I", 0))],
    "a data sector too few": [(24, struct.pack("<I", 2)), (96, entry(1, 0, page(PAGES[1]))[64:96])],
}


@pytest.mark.parametrize("content", [*INVALID.values(), *map(altered, ALTERED.values())], ids=[*INVALID, *ALTERED])
def test_without_a_complete_sequence_the_file_is_corrupt(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dirty.vhdx"
    write_disk(path, [(0, content)])
    error = refused(path)
    assert isinstance(error, Corrupt)
    assert "no complete sequence" in str(error)


def test_a_file_cut_off_after_its_log_was_written(tmp_path: Path) -> None:
    path = tmp_path / "dirty.vhdx"
    write_disk(path, [(0, log_entry(GUID, 1, 0, page(PAGES[1]), flushed=FILE_SIZE + MIB))])
    assert "cut off" in str(refused(path))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((0, MIB), "place is impossible"),
        ((MIB + 4096, MIB), "place is impossible"),
        ((MIB, 4096), "place is impossible"),
        ((MIB, 0), "place is impossible"),
        ((2**62, MIB), "log is outside"),
        ((MIB, 4095 * MIB), "log is outside"),
    ],
)
def test_logs_in_wrong_places(tmp_path: Path, place: tuple[int, int], message: str) -> None:
    path = tmp_path / "dirty.vhdx"
    write_disk(path, CASES["one"][0])
    with path.open("r+b") as file:
        file.seek(64 * KIB)
        file.write(vhdx.header(9, uuid.uuid4(), GUID, log=place))
    error = refused(path)
    assert isinstance(error, Corrupt)
    assert message in str(error)


def test_a_log_too_long_to_read(tmp_path: Path) -> None:
    path = tmp_path / "dirty.vhdx"
    write_disk(path, CASES["one"][0])
    with path.open("r+b") as file:
        file.seek(64 * KIB)
        file.write(vhdx.header(9, uuid.uuid4(), GUID, log=(MIB, 1024 * MIB)))
        file.truncate(1026 * MIB)
    error = refused(path)
    assert isinstance(error, Unsupported)
    assert "too long" in str(error)


def test_entries_that_overlap(tmp_path: Path) -> None:
    # Every sector starts an entry as long as the log: 256 times the log to be checked.
    path = tmp_path / "dirty.vhdx"
    content = bytearray(MIB)
    for at in range(0, MIB, 4 * KIB):
        struct.pack_into("<4sIIIQII16sQQ", content, at, b"loge", 0, MIB, 0, 1, 0, 0, GUID.bytes_le, 0, 0)
    write_disk(path, [(0, bytes(content))])
    assert "overlap" in str(refused(path))


def test_more_descriptors_than_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhdx_log, "MAX_DESCRIPTORS", 100)
    path = tmp_path / "dirty.vhdx"
    write_disk(path, CASES["many descriptors"][0])
    assert "too many descriptors" in str(refused(path))


def test_more_steps_than_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhdx_log, "MAX_STEPS", 1)
    path = tmp_path / "dirty.vhdx"
    write_disk(path, CASES["two in order"][0])
    assert "overlap" in str(refused(path))


def test_a_log_that_is_all_entries(tmp_path: Path) -> None:
    # 256 entries of one sector, the newest of which points at itself, at the oldest, or in a circle.
    path = tmp_path / "dirty.vhdx"
    for tail in (0, MIB - 4 * KIB):
        pieces = [(number * 4 * KIB, entry(1 + number, tail, [(BAT_PAGE, 4 * KIB)])) for number in range(256)]
        write_disk(path, pieces)
        with opened(path) as image:
            assert read(image.blocks, 0, 512) == bytes(512)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "dirty.vhdx"
    name = data.draw(st.sampled_from(sorted(CASES)))
    pieces = []
    for at, content in CASES[name][0]:
        altered_piece = bytearray(content)
        for place in data.draw(st.lists(st.integers(8, 160), max_size=3)):
            altered_piece[place] = data.draw(st.sampled_from((0, 1, 0x7F, 0xFF)))
        pieces.append((at, vhdx.seal(altered_piece)))
    write_disk(path, pieces)
    try:
        with opened(path) as image:
            for at in range(0, SIZE, MIB):
                try:
                    read(image.blocks, at, 4096)
                except MntapiError as error:
                    assert error.path, error
    except MntapiError as error:
        assert error.path, error
