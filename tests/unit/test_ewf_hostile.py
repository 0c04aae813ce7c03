"""EWF images that are damaged, incomplete, of another kind, or that lie. The right bytes are checked in ``test_containers``."""

from __future__ import annotations

import hashlib
import shutil
import struct
from pathlib import Path

import pytest

from contract.blocks_contract import check_blocks
from contract.container_support import IMAGES, content, make_content, open_with, refused
from contract.ewf_builder import CHUNK, Segment, errors, image, table, volume
from contract.make_disk import need, run
from mntapi.blocks import read
from mntapi.errors import Corrupt, Invalid, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.images import ewf
from mntapi.images.ewf import sections

SIZE = 10 * CHUNK + 1024
CONTENT = make_content(1 << 21)[:SIZE]
SAMPLE = IMAGES / "dfvfs" / "test_data"


@pytest.mark.parametrize("packed", [False, True])
def test_our_builder_makes_what_others_read(packed: bool, tmp_path: Path) -> None:
    """Oracle: ewfexport."""
    need("ewfexport")
    path = image(CONTENT, packed=packed).write(tmp_path / "x.E01")
    run("ewfexport", "-u", "-q", "-t", tmp_path / "out", "-f", "raw", path)
    assert (tmp_path / "out.raw").read_bytes() == CONTENT
    opened = open_with("ewf", path)
    check_blocks(opened.blocks, CONTENT, ranges=50)
    opened.blocks.close()


@pytest.mark.parametrize("packed", [False, True])
def test_a_flipped_bit_raises_for_its_chunk_only(packed: bool, tmp_path: Path) -> None:
    """libewf answers such a chunk with zeros, and no error."""
    segment = Segment()
    segment.section("volume", volume(SIZE))
    places = segment.chunks(CONTENT, packed=packed)
    segment.section("done")
    segment.raw[places[3] + 40] ^= 1
    opened = open_with("ewf", segment.write(tmp_path / "x.E01"))
    for index in range(11):
        start, length = index * CHUNK, min(CHUNK, SIZE - index * CHUNK)
        if index == 3:
            with pytest.raises(Corrupt) as caught:
                read(opened.blocks, start + 100, 1)
            assert caught.value.reason == "chunk" and caught.value.offset == places[3]
        else:
            assert read(opened.blocks, start, length) == CONTENT[start : start + length]
    opened.blocks.close()


def test_every_flipped_bit_of_a_real_image(tmp_path: Path) -> None:
    if not SAMPLE.exists():
        pytest.skip("../shared/images is absent")
    whole = (SAMPLE / "ext2.E01").read_bytes()
    for at in range(0, len(whole), 97):
        raw = bytearray(whole)
        raw[at] ^= 0x20
        (tmp_path / "x.E01").write_bytes(raw)
        try:
            found = hashlib.md5(content(open_with("ewf", tmp_path / "x.E01"))).hexdigest()
        except MntapiError as error:
            assert error.path
        else:
            assert found == "196066add11fb71c4c49cf1bb50d6d24"


def test_sectors_that_were_never_read_raise(tmp_path: Path) -> None:
    segment = Segment()
    segment.section("volume", volume(SIZE))
    segment.chunks(CONTENT)
    segment.section("error2", errors([(64 * 2 + 5, 3), (64 * 2 + 8, 60), (64 * 7, 1), (64 * 2, 1)]))
    segment.section("done")
    opened = open_with("ewf", segment.write(tmp_path / "x.E01"))
    bad = []
    for index in range(11):
        try:
            assert read(opened.blocks, index * CHUNK, 512) == CONTENT[index * CHUNK : index * CHUNK + 512]
        except ReadFailed as error:
            assert error.reason == "acquisition-error"
            bad.append(index)
    assert bad == [2, 3, 7]
    opened.blocks.close()


# --- segments ---


def in_segments(folder: Path, *, name: str = "x.E01") -> list[Path]:
    first = Segment()
    first.section("volume", volume(SIZE))
    first.chunks(CONTENT[: 4 * CHUNK])
    first.section("next")
    second = Segment(2)
    second.section("data", volume(SIZE))
    second.chunks(CONTENT[4 * CHUNK : 7 * CHUNK])
    second.section("next")
    third = Segment(3)
    third.chunks(CONTENT[7 * CHUNK :])
    third.section("done")
    names = [name, name.replace("01", "02"), name.replace("01", "03")]
    return [segment.write(folder / one) for segment, one in zip((first, second, third), names, strict=True)]


@pytest.mark.parametrize("name", ["x.E01", "x.e01", "x.s01", "a.b.E01"])
def test_segments(name: str, tmp_path: Path) -> None:
    paths = in_segments(tmp_path, name=name)
    opened = open_with("ewf", paths[0])
    assert [link.file for link in opened.chain] == [str(path) for path in paths]
    assert content(opened) == CONTENT


@pytest.mark.parametrize(("number", "name"), [(1, "x.E02"), (2, "x.E03")])
def test_a_missing_segment_is_named(number: int, name: str, tmp_path: Path) -> None:
    in_segments(tmp_path)[number].unlink()
    assert name in str(refused("ewf", tmp_path / "x.E01", NotFound, "segment-missing"))


def test_a_missing_segment_of_a_real_image(tmp_path: Path) -> None:
    if not SAMPLE.exists():
        pytest.skip("../shared/images is absent")
    shutil.copy(SAMPLE / "ext2.split.E01", tmp_path)
    assert "ext2.split.E02" in str(refused("ewf", tmp_path / "ext2.split.E01", NotFound, "segment-missing"))


def test_a_later_segment_alone(tmp_path: Path) -> None:
    assert ".E01" in str(refused("ewf", in_segments(tmp_path)[1], Unsupported, "segment").hint)


def test_a_segment_under_another_number(tmp_path: Path) -> None:
    paths = in_segments(tmp_path)
    shutil.copy(paths[2], paths[1])
    assert refused("ewf", paths[0], Corrupt, "segment").path == str(paths[1])


def test_a_segment_that_is_something_else(tmp_path: Path) -> None:
    paths = in_segments(tmp_path)
    paths[1].write_bytes(b"hello")
    assert refused("ewf", paths[0], Corrupt, "signature").path == str(paths[1])


def test_a_segment_of_another_image(tmp_path: Path) -> None:
    paths = in_segments(tmp_path)
    other = Segment(2)
    other.section("data", volume(SIZE + CHUNK))
    other.section("next")
    other.write(paths[1])
    refused("ewf", paths[0], Corrupt, "set")


def test_a_first_segment_with_another_name(tmp_path: Path) -> None:
    refused("ewf", in_segments(tmp_path, name="x01.img")[0], Unsupported, "segment")


def test_more_segments_than_there_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ewf, "MAX_SEGMENTS", 2)
    refused("ewf", in_segments(tmp_path)[0], Unsupported, "segments")


@pytest.mark.parametrize(
    ("number", "suffix"),
    [(2, "E02"), (99, "E99"), (100, "EAA"), (125, "EAZ"), (126, "EBA"), (775, "EZZ"), (776, "FAA")],
)
def test_names_of_segments(number: int, suffix: str) -> None:
    """Oracle: the table of extensions in libewf's documentation."""
    assert ewf.segment_suffix(number, "E") == suffix
    assert ewf.segment_suffix(number, "e") == suffix.lower()


def test_after_the_last_name() -> None:
    with pytest.raises(Invalid):
        ewf.segment_suffix(100 + 26 * 26 * 22, "E")


# --- cut off ---


def test_cut_off_everywhere(tmp_path: Path) -> None:
    whole = bytes(image(CONTENT).raw)
    path = tmp_path / "x.E01"
    for end in range(0, len(whole), 1531):
        path.write_bytes(whole[:end])
        try:
            assert content(open_with("ewf", path)) == CONTENT
            assert end > len(whole) - 76, "only the last section is missing, and it is empty"
        except MntapiError as error:
            assert error.path == str(path)


def test_what_was_before_the_cut_is_readable(tmp_path: Path) -> None:
    segment = Segment()
    segment.section("volume", volume(SIZE))
    segment.chunks(CONTENT[: 6 * CHUNK])
    segment.chunks(CONTENT[6 * CHUNK :])
    segment.section("done")
    del segment.raw[-1000:]
    path = segment.write(tmp_path / "x.E01")
    opened = open_with("ewf", path)
    assert opened.blocks.size == SIZE
    assert read(opened.blocks, 0, 6 * CHUNK) == CONTENT[: 6 * CHUNK]
    with pytest.raises(Corrupt) as caught:
        read(opened.blocks, SIZE - 1, 1)
    assert caught.value.reason == "truncated" and caught.value.offset == len(segment.raw)
    opened.blocks.close()


# --- sections that lie ---


def changed(folder: Path, *parts: tuple[str, bytes]) -> Path:
    segment = Segment()
    for kind, body in parts:
        segment.section(kind, body)
    segment.section("done")
    return segment.write(folder / "x.E01")


GOOD = ("volume", volume(SIZE))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "volume"),
        ([("volume", b"short")], "volume"),
        ([("volume", volume(SIZE, chunks=1))], "volume"),
        ([("volume", volume(SIZE, sector=511))], "volume"),
        ([("volume", volume(0))], "volume"),
        ([("volume", volume(1 << 40, per_chunk=1 << 22))], "volume"),
        ([("volume", volume(SIZE)[:-1] + b"x")], "checksum"),
        ([GOOD], "table"),
        ([GOOD, ("table", b"x")], "table"),
        ([GOOD, ("table", bytes(24))], "checksum"),
        ([GOOD, ("table", table([0] * 3, 0)[:30])], "table"),
        ([GOOD, ("table", bytes(24)), ("table", bytes(24))], "checksum"),
        ([GOOD, ("table", bytes(24)), ("table", table([5], 0))], "checksum"),
        ([GOOD, ("table", bytes(24)), ("table2", bytes(24))], "checksum"),
        ([GOOD, ("error2", b"x")], "errors"),
        ([("error2", errors([]))], "errors"),
        ([GOOD, ("error2", errors([(0, 1)] * 9)[:530])], "errors"),
        ([GOOD, ("error2", bytes(524))], "checksum"),
    ],
)
def test_sections_that_contradict(parts: list[tuple[str, bytes]], reason: str, tmp_path: Path) -> None:
    assert refused("ewf", changed(tmp_path, *parts), Corrupt, reason).path == str(tmp_path / "x.E01")


def test_a_size_and_an_offset_that_disagree(tmp_path: Path) -> None:
    """Two readers would see two images: libewf's documentation calls it a dual image."""
    segment = Segment()
    segment.section("volume", volume(SIZE), size=200)
    refused("ewf", segment.write(tmp_path / "x.E01"), Corrupt, "section-size")


@pytest.mark.parametrize("following", [0, 13, 50])
def test_sections_that_go_back(following: int, tmp_path: Path) -> None:
    segment = Segment()
    segment.section("header", b"x", following=following)
    refused("ewf", segment.write(tmp_path / "x.E01"), Corrupt, "section-size")


def test_too_many_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ewf, "MAX_SECTIONS", 3)
    refused("ewf", changed(tmp_path, *[("header", b"")] * 5), Corrupt, "sections")


@pytest.mark.parametrize("where", ["header", "entries"])
def test_a_damaged_table_is_read_from_its_copy(where: str, tmp_path: Path) -> None:
    segment = image(CONTENT)
    begin = segment.raw.index(b"table\0") + 76
    segment.raw[begin + (0 if where == "header" else 30)] ^= 1
    assert content(open_with("ewf", segment.write(tmp_path / "x.E01"))) == CONTENT


def test_a_damaged_table_without_a_copy(tmp_path: Path) -> None:
    segment = image(CONTENT, copy=False)
    begin = segment.raw.index(b"table\0") + 76
    segment.raw[begin + 30] ^= 1
    opened = open_with("ewf", segment.write(tmp_path / "x.E01"))
    with pytest.raises(Corrupt) as caught:
        read(opened.blocks, 0, 1)
    assert caught.value.reason == "checksum"
    opened.blocks.close()


def test_a_copy_that_is_another_table(tmp_path: Path) -> None:
    segment = Segment()
    segment.section("table2", table([1], 0))
    segment.section("volume", volume(SIZE))
    segment.chunks(CONTENT, copy=False)
    segment.section("table2", table([1], 0))
    segment.section("done")
    assert content(open_with("ewf", segment.write(tmp_path / "x.E01"))) == CONTENT


@pytest.mark.parametrize(
    ("entries", "kind", "reason"),
    [
        ([1 << 30] * 11, Corrupt, "table"),
        ([5000, 4000] + [5000] * 9, Unsupported, "offset-overflow"),
        ([100 + 200_000 * number for number in range(11)], Corrupt, "table"),
        ([100 + 10 * number for number in range(11)], Corrupt, "chunk"),
        ([100 + 10 * number | 1 << 31 for number in range(11)], Corrupt, "chunk"),
    ],
)
def test_entries_that_lie(entries: list[int], kind: type[MntapiError], reason: str, tmp_path: Path) -> None:
    segment = Segment()
    segment.section("volume", volume(SIZE))
    segment.section("sectors", bytes(2000))
    segment.section("table", table(entries, 0))
    segment.section("done")
    opened = open_with("ewf", segment.write(tmp_path / "x.E01"))
    with pytest.raises(kind) as caught:
        read(opened.blocks, 0, 1)
    assert caught.value.reason == reason
    opened.blocks.close()


def test_too_few_chunks_in_a_cut_table(tmp_path: Path) -> None:
    chunks = ewf.Chunks(sections.Volume(2, CHUNK, 512, 128), [], [], "x", None)
    with pytest.raises(Corrupt, match="no table"):
        chunks.unpack(0)


@pytest.mark.parametrize("packed", [False, True])
def test_a_chunk_that_holds_too_little(packed: bool, tmp_path: Path) -> None:
    segment = Segment()
    segment.section("volume", volume(2 * CHUNK))
    begin = segment.chunks(CONTENT[: CHUNK // 2] * 2, packed=packed, chunk=CHUNK // 2)
    segment.section("done")
    assert len(begin) == 2
    opened = open_with("ewf", segment.write(tmp_path / "x.E01"))
    with pytest.raises(Corrupt, match="does not hold"):
        read(opened.blocks, 0, 1)
    opened.blocks.close()


def test_a_chunk_that_unpacks_to_more_than_a_chunk(tmp_path: Path) -> None:
    segment = Segment()
    segment.section("volume", volume(2 * CHUNK))
    segment.chunks(bytes(2 << 20), chunk=1 << 20)
    segment.section("done")
    opened = open_with("ewf", segment.write(tmp_path / "x.E01"))
    with pytest.raises(Corrupt, match="does not hold"):
        read(opened.blocks, 0, 1)
    opened.blocks.close()


def test_damaged_hashes_harm_nothing(tmp_path: Path) -> None:
    for body in (b"", bytes(36), bytes(80)):
        segment = Segment()
        segment.section("volume", volume(SIZE))
        segment.chunks(CONTENT)
        segment.section("hash" if len(body) < 80 else "digest", body)
        segment.section("done")
        opened = open_with("ewf", segment.write(tmp_path / "x.E01"))
        assert opened.blocks.hashes == {}  # type: ignore[attr-defined]
        assert content(opened) == CONTENT


@pytest.mark.parametrize(
    ("magic", "reason"),
    [(b"LVF\x09\x0d\x0a\xff\x00", "ewf-logical"), (b"LEF2\x0d\x0a\x81\x00", "ewf-logical"), (b"EVF2\x0d\x0a\x81\x00", "ewf-2")],
)
def test_other_kinds(magic: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(magic + bytes(100))
    refused("ewf", tmp_path / "x", Unsupported, reason)


def test_nothing_at_all(tmp_path: Path) -> None:
    for raw in (b"", b"EVF", struct.pack("<8sBHH", sections.SIGNATURE, 1, 1, 0)):
        (tmp_path / "x").write_bytes(raw)
        refused("ewf", tmp_path / "x", Corrupt, "truncated" if len(raw) == 13 else "signature")
