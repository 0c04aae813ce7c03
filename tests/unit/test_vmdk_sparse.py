"""Sparse extents of VMDK that are damaged or strange: headers, tables, streams."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from contract.vmdk_builder import (
    GRAIN,
    SECTOR,
    build_cowd,
    build_sesparse,
    build_stream,
    content,
    convert,
    hosted_header,
    needs_qemu,
    open_vmdk,
    padded,
    write_descriptor,
)
from mntapi.blocks import Fault, HostFile, read
from mntapi.errors import Corrupt, Invalid, MntapiError, ReadFailed, Unsupported
from mntapi.images.formats import open_image
from mntapi.images.opener import DirectOpener
from mntapi.images.vmdk import headers
from mntapi.images.vmdk.disk import Disk
from mntapi.images.vmdk.grains import Span, joined
from mntapi.images.vmdk.recent import Recent
from mntapi.images.vmdk.runs import ZEROS, Single
from mntapi.images.vmdk.stream import Inflated
from mntapi.types import DiskSpec, FileBlocks

DATA = content(1 << 20, stored=1)


class FaultyFile(Fault):
    """A host file with unreadable bytes."""

    def __init__(self, file: HostFile, bad: list[tuple[int, int]]) -> None:
        super().__init__(file, bad=bad)
        self.path = file.path


class FaultyOpener:
    def __init__(self, bad: list[tuple[int, int]]) -> None:
        self._bad = bad

    def open(self, name: str, *, relative_to: str | None = None) -> FileBlocks:
        return FaultyFile(DirectOpener().open(name, relative_to=relative_to), self._bad)


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def number(path: Path, offset: int, size: int = 4) -> int:
    return int.from_bytes(path.read_bytes()[offset : offset + size], "little")


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(DATA)
    return convert(raw, tmp_path / "disk.vmdk", "monolithicSparse")


HEADER_FAULTS: list[tuple[dict[str, object], type[MntapiError], int]] = [
    ({"newlines": b"\n \n\n"}, Corrupt, 73),
    ({"newlines": b"\r\n \r"}, Corrupt, 73),
    ({"version": 0}, Unsupported, 4),
    ({"version": 4}, Unsupported, 4),
    ({"algorithm": 2}, Unsupported, 77),
    ({"flags": 3 | 1 << 16}, Corrupt, 77),
    ({"size": (1 << 50) + 512}, Corrupt, 12),
    ({"grain": 0}, Corrupt, 20),
    ({"grain": 100}, Corrupt, 20),
    ({"grain": 4}, Corrupt, 20),
    ({"grain": 1 << 19}, Corrupt, 20),
    ({"grain": 1 << 14, "algorithm": 1}, Corrupt, 20),
    ({"entries": 0}, Corrupt, 44),
    ({"entries": 500}, Corrupt, 44),
    ({"entries": 1 << 17}, Corrupt, 44),
]


@pytest.mark.parametrize(("change", "kind", "offset"), HEADER_FAULTS)
def test_hosted_headers_that_cannot_be(change: dict[str, object], kind: type[MntapiError], offset: int) -> None:
    with pytest.raises(kind) as caught:
        headers.parse_hosted(hosted_header(**{"size": 1 << 20, **change}), "disk", 1000)  # type: ignore[arg-type]
    assert (caught.value.path, caught.value.offset) == ("disk", 1000 + offset)
    assert caught.value.expected is not None and caught.value.found is not None


def test_newlines_are_not_tested_where_the_flag_is_not_set() -> None:
    assert headers.parse_hosted(hosted_header(1 << 20, flags=0, newlines=bytes(4), unclean=1), "disk").size == 1 << 20


def test_headers_cut_off_or_of_another_format() -> None:
    for parse, size in ((headers.parse_hosted, 78), (headers.parse_cowd, 27), (headers.parse_sesparse, 511)):
        with pytest.raises(Corrupt, match="cut off"):
            parse(bytes(size), "disk")
        with pytest.raises(Corrupt, match="not a"):
            parse(bytes(512), "disk")
    with pytest.raises(Corrupt, match="volatile header is damaged"):
        headers.check_volatile(b"", "disk", 512)


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ((2, 3, 100, 1, 4, 1), Unsupported, "unknown version"),
        ((1, 3, 100, 3, 4, 1), Corrupt, "grain size"),
        ((1, 3, 5000, 1, 4, 1), Corrupt, "directory is too small"),
    ],
)
def test_cowd_headers_that_cannot_be(fields: tuple[int, ...], kind: type[MntapiError], words: str) -> None:
    with pytest.raises(kind, match=words):
        headers.parse_cowd(struct.pack("<4s6I", b"COWD", *fields), "disk")


def sesparse_disk(folder: Path, **options: object) -> Path:
    build_sesparse(folder / "s.vmdk", DATA, **options)  # type: ignore[arg-type]
    return write_descriptor(folder / "disk.vmdk", [f'RW {len(DATA) // SECTOR} SESPARSE "s.vmdk"'])


@pytest.mark.parametrize(("word", "value"), [(1, 0x200000002), (3, 16), (4, 32), (5, 1), (9, 1)])
def test_sesparse_of_unknown_kinds(word: int, value: int, tmp_path: Path) -> None:
    path = sesparse_disk(tmp_path)
    patch(tmp_path / "s.vmdk", word * 8, struct.pack("<Q", value))
    with pytest.raises(Unsupported, match="unknown kind"):
        open_vmdk(path)


def test_sesparse_with_a_journal_to_replay(tmp_path: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        open_vmdk(sesparse_disk(tmp_path, replay=1))
    assert (caught.value.reason, caught.value.offset) == ("sesparse-journal", 512 + 24)


def test_sesparse_tables_that_cannot_be(tmp_path: Path) -> None:
    path = sesparse_disk(tmp_path)
    extent = tmp_path / "s.vmdk"
    tables = 66 * SECTOR
    for index, entry in enumerate((0x4 << 60, 0x1, 0x3FFF << 48 | 0xFFFFFFFFFFFF)):
        patch(extent, tables + index * 8, struct.pack("<Q", entry))
    image = open_vmdk(path)
    for index, reason in enumerate(("entry-undefined", "entry-undefined", "truncated")):
        with pytest.raises(Corrupt) as caught:
            read(image.blocks, index * 4096, 4096)
        assert caught.value.reason == reason
    assert read(image.blocks, 3 * 4096, 4096) == DATA[3 * 4096 : 4 * 4096]
    image.blocks.close()
    patch(extent, 2 * SECTOR, struct.pack("<Q", 0x30000000 << 32))
    image = open_vmdk(path)
    with pytest.raises(Corrupt, match="a grain table lies outside"):
        read(image.blocks, 0, 1)
    image.blocks.close()
    patch(extent, 17 * 8, struct.pack("<Q", 0))
    with pytest.raises(Corrupt, match="directory is too small"):
        open_vmdk(path)


@needs_qemu
def test_redundant_directory_when_the_first_is_outside(sparse: Path) -> None:
    patch(sparse, 56, struct.pack("<Q", 1 << 40))
    image = open_vmdk(sparse)
    assert read(image.blocks, 0, len(DATA)) == DATA
    image.blocks.close()
    patch(sparse, 48, struct.pack("<Q", 1 << 41))
    with pytest.raises(Corrupt, match="the grain directory lies outside the file") as caught:
        open_vmdk(sparse)
    assert caught.value.offset == 1 << 49 and "bytes" in str(caught.value.found)


@needs_qemu
def test_redundant_table_when_the_first_is_outside(sparse: Path) -> None:
    directory, redundant = number(sparse, 56) * SECTOR, number(sparse, 48) * SECTOR
    patch(sparse, directory, b"\xff\xff\xff\xff")
    image = open_vmdk(sparse)
    assert read(image.blocks, 0, len(DATA)) == DATA
    image.blocks.close()
    patch(sparse, redundant, b"\0\0\0\0")
    image = open_vmdk(sparse)
    with pytest.raises(Corrupt) as caught:
        read(image.blocks, 0, 1)
    assert (caught.value.offset, caught.value.reason, caught.value.found) == (directory, "table-outside", "0xffffffff")
    image.blocks.close()


@needs_qemu
def test_redundant_table_when_the_first_cannot_be_read(sparse: Path) -> None:
    table = number(sparse, number(sparse, 56) * SECTOR) * SECTOR
    second = number(sparse, number(sparse, 48) * SECTOR) * SECTOR
    image = open_image(DiskSpec(str(sparse)), FaultyOpener([(table, 512)]))
    assert read(image.blocks, 0, len(DATA)) == DATA
    image.blocks.close()
    image = open_image(DiskSpec(str(sparse)), FaultyOpener([(table, 512), (second, 512)]))
    with pytest.raises(ReadFailed):
        read(image.blocks, 0, 1)
    image.blocks.close()


def test_an_unreadable_table_costs_only_its_own_grains(tmp_path: Path) -> None:
    """Two tables in one window: the one that can be read is read."""
    size = 4096 * SECTOR * 2
    data = content(size, stored=1)
    build_cowd(tmp_path / "c.vmdk", data)
    path = write_descriptor(
        tmp_path / "disk.vmdk", [f'RW {size // SECTOR - 1} VMFSSPARSE "c.vmdk"', 'RW 9 VMFSSPARSE "c.vmdk"']
    )
    second = number(tmp_path / "c.vmdk", 2048 + 4) * SECTOR
    image = open_image(DiskSpec(str(path)), FaultyOpener([(second, 512)]))
    assert read(image.blocks, size - SECTOR, 9 * SECTOR) == data[: 9 * SECTOR]
    with pytest.raises(ReadFailed):
        read(image.blocks, size - 2 * SECTOR, SECTOR)
    image.blocks.close()


@needs_qemu
def test_one_grain_outside_the_file(sparse: Path) -> None:
    for directory in (48, 56):
        table = number(sparse, number(sparse, directory) * SECTOR) * SECTOR
        patch(sparse, table + 4 * 3, struct.pack("<I", 0xFFFFFF00))
        patch(sparse, table + 4 * 5, struct.pack("<I", 1))
    image = open_vmdk(sparse)
    for index in range(len(DATA) // GRAIN):
        if index == 3:
            with pytest.raises(Corrupt) as caught:
                read(image.blocks, index * GRAIN + 100, 1)
            assert (caught.value.path, caught.value.offset) == (str(sparse), 0xFFFFFF00 * SECTOR + 100)
        elif index == 5:
            with pytest.raises(Corrupt, match="entry that cannot be"):
                read(image.blocks, index * GRAIN, GRAIN)
        else:
            assert read(image.blocks, index * GRAIN, GRAIN) == DATA[index * GRAIN : (index + 1) * GRAIN]
    assert sum(extent.length for extent in image.blocks.extents(0, image.blocks.size)) == image.blocks.size
    image.blocks.close()


@needs_qemu
def test_descriptor_and_header_must_agree(sparse: Path, tmp_path: Path) -> None:
    raw = sparse.read_bytes()
    at = raw.index(b"RW 2048 ")
    patch(sparse, at, b"RW 1048 ")
    with pytest.raises(Corrupt, match="descriptor and header disagree"):
        open_vmdk(sparse)
    patch(sparse, at, b"RW 2047 ")
    image = open_vmdk(sparse)
    assert read(image.blocks, 0, image.blocks.size) == DATA[: 2047 * SECTOR]
    image.blocks.close()
    path = write_descriptor(tmp_path / "outer.vmdk", ['RW 2049 SPARSE "disk.vmdk"'])
    with pytest.raises(Corrupt, match="smaller than its descriptor says"):
        open_vmdk(path)


@needs_qemu
def test_embedded_descriptors_that_cannot_be(sparse: Path) -> None:
    patch(sparse, 36, struct.pack("<Q", 4096))
    with pytest.raises(Corrupt, match="too long"):
        open_vmdk(sparse)
    patch(sparse, 28, struct.pack("<QQ", 1 << 50, 20))
    with pytest.raises(Corrupt, match="descriptor lies outside"):
        open_vmdk(sparse)
    patch(sparse, 28, struct.pack("<QQ", 0, 0))
    with pytest.raises(Unsupported) as caught:
        open_vmdk(sparse)
    assert caught.value.reason == "extent-alone"


def test_header_without_capacity_takes_the_extents_of_its_descriptor(tmp_path: Path) -> None:
    (tmp_path / "flat").write_bytes(DATA)
    text = write_descriptor(tmp_path / "text", ['RW 2048 FLAT "flat" 0']).read_bytes()
    (tmp_path / "disk.vmdk").write_bytes(hosted_header(0, descriptor=1, descriptor_size=20) + padded(text, 20 * SECTOR))
    image = open_vmdk(tmp_path / "disk.vmdk")
    assert read(image.blocks, 0, len(DATA)) == DATA
    image.blocks.close()


def find_marker(path: Path, sector: int) -> int:
    """Where the marker of the grain for that sector is."""
    position = 128 * SECTOR
    while True:
        value, size = struct.unpack("<QI", path.read_bytes()[position : position + 12])
        if value == sector:
            return position
        position += -(-(12 + size) // SECTOR) * SECTOR


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path, at: patch(path, at, struct.pack("<Q", 999)), "another grain's marker"),
        (lambda path, at: patch(path, at + 8, struct.pack("<I", 1 << 30)), "another grain's marker"),
        (lambda path, at: patch(path, at + 8, struct.pack("<I", 50)), "not of its size"),
        (lambda path, at: patch(path, at + 12, b"\xff\xff"), "cannot be inflated"),
        (lambda path, at: patch(path, at + 8, struct.pack("<I", 300) + zlib.compress(bytes(1 << 22))[:300]), "not of its size"),
        (lambda path, at: patch(path, at + 8, struct.pack("<I", 13) + zlib.compress(b"short")), "not of its size"),
    ],
)
def test_a_damaged_grain_of_a_stream(damage: Callable[[Path, int], None], words: str, tmp_path: Path) -> None:
    path = build_stream(tmp_path / "stream.vmdk", DATA)
    position = find_marker(path, 2 * 128)
    damage(path, position)
    image = open_vmdk(path)
    with pytest.raises(Corrupt, match=words) as caught:
        read(image.blocks, 2 * GRAIN, 10)
    assert (caught.value.path, caught.value.offset, caught.value.reason) == (str(path), position, "grain-damaged")
    assert read(image.blocks, 0, 2 * GRAIN) == DATA[: 2 * GRAIN]
    assert read(image.blocks, 3 * GRAIN, GRAIN) == DATA[3 * GRAIN : 4 * GRAIN]
    image.blocks.close()


def test_a_grain_of_a_stream_outside_the_file(tmp_path: Path) -> None:
    path = build_stream(tmp_path / "stream.vmdk", DATA)
    raw = path.read_bytes()
    footer = len(raw) - 2 * SECTOR
    directory = struct.unpack_from("<Q", raw, footer + 56)[0] * SECTOR
    table = struct.unpack_from("<I", raw, directory)[0] * SECTOR
    patch(path, table + 4, struct.pack("<I", 0xFFFFFFFF))
    image = open_vmdk(path)
    with pytest.raises(Corrupt, match="lies outside the file"):
        read(image.blocks, GRAIN, 1)
    image.blocks.close()


def test_inflating_a_grain_that_the_map_does_not_have(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")

    class Nothing:
        def spans(self, first: int, last: int):
            yield Span(first, last - first, None)

    file = HostFile.open(str(tmp_path / "file"))
    source = Inflated(file, Nothing(), size=GRAIN, grain_size=GRAIN, markers=True)
    with pytest.raises(Corrupt, match="is not there"):
        source.readinto(0, memoryview(bytearray(1)))
    file.close()


def test_a_stream_cut_off_between_its_grains(tmp_path: Path) -> None:
    """What was copied is read; what was not must not look like zeros, even where it was a hole."""
    data = DATA[: 8 * GRAIN] + bytes(4 * GRAIN) + DATA[: 4 * GRAIN]
    path = build_stream(tmp_path / "stream.vmdk", data)
    cut = find_marker(path, 12 * 128)
    os.truncate(path, cut + 700)
    image = open_vmdk(path)
    assert read(image.blocks, 0, 8 * GRAIN) == data[: 8 * GRAIN]
    for index in range(8, 16):
        with pytest.raises(Corrupt, match="the stream ends before") as caught:
            read(image.blocks, index * GRAIN, GRAIN)
        assert (caught.value.reason, caught.value.offset) == ("truncated", cut)
    image.blocks.close()


@pytest.mark.parametrize("sector", [5, 128 * 3, 128 * 5000])
def test_a_stream_without_footer_whose_markers_contradict_each_other(sector: int, tmp_path: Path) -> None:
    path = build_stream(tmp_path / "stream.vmdk", DATA)
    os.truncate(path, path.stat().st_size - SECTOR)
    patch(path, find_marker(path, 6 * 128), struct.pack("<Q", sector))
    image = open_vmdk(path)
    good = 5 if sector == 128 * 3 else 6  # either of the two that are out of order may lie
    assert read(image.blocks, 0, good * GRAIN) == DATA[: good * GRAIN]
    with pytest.raises(Corrupt, match="the stream ends before"):
        read(image.blocks, good * GRAIN, 1)
    image.blocks.close()


def test_directory_at_the_end_of_a_file_that_is_no_stream(tmp_path: Path) -> None:
    text = write_descriptor(tmp_path / "text", ['RW 2048 SPARSE "disk.vmdk"']).read_bytes()
    header = hosted_header(len(DATA), descriptor=1, descriptor_size=20, directory=(1 << 64) - 1)
    for rest in (b"", bytes(20 * SECTOR)):
        (tmp_path / "disk.vmdk").write_bytes(header + padded(text, 20 * SECTOR) + rest)
        with pytest.raises(Corrupt, match="the footer is missing"):
            open_vmdk(tmp_path / "disk.vmdk")
    write_descriptor(tmp_path / "outer.vmdk", ['RW 2048 SPARSE "tiny.vmdk"'])
    (tmp_path / "tiny.vmdk").write_bytes(header)
    with pytest.raises(Corrupt, match="the footer is missing"):
        open_vmdk(tmp_path / "outer.vmdk")


def test_closed_disks_say_so() -> None:
    disk = Disk(Single(ZEROS, 0, 1 << 20), "disk", ExitStack())
    assert read(disk, 0, 1) == b"\0"
    disk.close()
    for attempt in (lambda: read(disk, 0, 1), lambda: list(disk.extents(0, 1))):
        with pytest.raises(Invalid, match="is closed"):
            attempt()


def test_joined() -> None:
    assert list(joined([0, 0, 1, 1, -1, 8, 16, 24, 32, 8, 0], 8)) == [
        (0, 2, 0),
        (2, 2, 1),
        (4, 1, -1),
        (5, 4, 8),
        (9, 1, 8),
        (10, 1, 0),
    ]


def test_recent_keeps_what_is_used_and_stays_small() -> None:
    recent: Recent[str] = Recent(10)
    for key in range(100):
        recent.put(key, str(key), 1)
        assert recent.get(0) == "0", "what is asked for again is kept"
    assert recent.get(99) == "99" and recent.get(50) is None
    assert sum(recent.get(key) is not None for key in range(100)) <= 20
    recent.clear()
    assert recent.get(99) is None
