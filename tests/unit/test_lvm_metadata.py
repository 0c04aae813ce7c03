"""LVM2's structures, and every way they can be wrong: labels, metadata areas, the language, the description of a group."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from mntapi.blocks import Fault
from mntapi.errors import Corrupt, MntapiError, ReadFailed, Unsupported
from mntapi.volumes.lvm import area as area_module
from mntapi.volumes.lvm import text as text_module
from mntapi.volumes.lvm.area import StoredText, parse_header, read_text
from mntapi.volumes.lvm.group import parse_group
from mntapi.volumes.lvm.label import Area, checksum, dashed, find_label, has_label, parse_label
from mntapi.volumes.lvm.text import parse
from unit.lvm_builder import (
    AREA_AT,
    AREA_SIZE,
    SECTOR,
    Memory,
    area,
    area_header,
    crc,
    disk,
    group_text,
    label,
    linear,
    segment,
    uuid,
    volume,
)

AREA = Area(AREA_AT, AREA_SIZE)


def stored(text: str | bytes) -> StoredText:
    content = text.encode("latin-1") if isinstance(text, str) else text
    return StoredText(content, "disk0", AREA, SECTOR)


def test_checksum() -> None:
    """CRC-32 bit by bit, with LVM's start value."""
    value = 0xF597A6CF
    for byte in b"LABELONE":
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    assert checksum(b"LABELONE") == value


def test_a_label() -> None:
    sector = label("one", 1 << 20, number=1)
    found = parse_label(sector, 1)
    assert (found.uuid, found.device_size, found.is_used) == (uuid("one"), 1 << 20, True)
    assert found.metadata_areas == (Area(AREA_AT, AREA_SIZE),)
    assert found.data_areas == (Area(1 << 20, 0),)
    assert dashed(uuid("one").replace("-", "")) == uuid("one")


@pytest.mark.parametrize("number", range(4))
def test_a_label_in_each_sector(number: int) -> None:
    content = bytes(number * SECTOR) + label("one", 9, number=number, used=False) + bytes(SECTOR * 4)
    found = find_label(Memory(content))
    assert found is not None and found.is_used is False
    assert has_label(content[: 4 * SECTOR])
    assert find_label(Memory(bytes(4 * SECTOR))) is None
    assert find_label(Memory(b"")) is None


def test_a_label_without_extension() -> None:
    """Version 1 of the extension, or none, as the header before 2.02.99 ends with the areas."""
    sector = label("one", 9)
    at = sector.index(struct.pack("<II", 2, 1) + bytes(16))
    body = sector[20:at] + bytes(SECTOR - at)
    assert parse_label(sector[:16] + struct.pack("<I", crc(body)) + body, 1).is_used is None
    full = label("one", 9, areas=[(AREA_AT, AREA_SIZE)] * 24, start=40)
    assert parse_label(full, 1).is_used is None


@pytest.mark.parametrize(
    ("sector", "what", "offset"),
    [
        (b"", "no LVM2 label", 0),
        (bytes(SECTOR), "no LVM2 label", 0),
        (label("one", 9)[:-1] + b"x", "checksum", 16),
        (label("one", 9, number=2), "another sector", 8),
        (label("one", 9, start=500), "outside its sector", 20),
        (label("one", 9, own=b"\xff" * 32), "UUID", 32),
        (label("one", 9, areas=[(AREA_AT, AREA_SIZE)] * 30), "no end", 504),
    ],
)
def test_damaged_labels(sector: bytes, what: str, offset: int) -> None:
    with pytest.raises(Corrupt, match=what) as caught:
        parse_label(sector, 1)
    assert caught.value.offset == offset


def test_a_damaged_label_and_a_good_one() -> None:
    bad, good = label("bad", 9, number=0)[:-1] + b"x", label("good", 9)
    found = find_label(Memory(bad + good + bytes(2 * SECTOR)))
    assert found is not None and found.uuid == uuid("good")
    with pytest.raises(Corrupt, match="checksum"):
        find_label(Memory(bad + bad + bytes(2 * SECTOR)))


def test_a_text_and_one_that_wraps() -> None:
    text = group_text(volume("data", linear(0, 1, "pv0", 0))).encode()
    for at in (SECTOR, AREA_SIZE - 100):
        found = read_text(Memory(bytes(AREA_AT) + area(text, at=at)), AREA, "disk0")
        assert found is not None and found.content == text
    assert found.place(0) == AREA_AT + AREA_SIZE - 100
    assert found.place(99) == AREA_AT + AREA_SIZE - 1
    assert found.place(100) == AREA_AT + SECTOR


def test_areas_without_a_group_or_not_in_use() -> None:
    assert read_text(Memory(bytes(AREA_AT) + area_header().ljust(AREA_SIZE, b"\0")), AREA, "disk0") is None
    assert read_text(Memory(bytes(AREA_AT) + area(b"text", flags=1)), AREA, "disk0") is None


@pytest.mark.parametrize(
    ("content", "error", "what", "offset"),
    [
        (b"", Corrupt, "past the end", AREA_AT),
        (bytes(SECTOR), Corrupt, "header or its checksum", AREA_AT),
        (area_header(magic=b"x" * 16), Corrupt, "header or its checksum", AREA_AT),
        (area_header()[:-1] + b"x", Corrupt, "header or its checksum", AREA_AT),
        (area_header(version=2), Unsupported, "version", AREA_AT + 20),
        (area_header(start=8192), Corrupt, "another place", AREA_AT + 24),
        (area_header(size=SECTOR), Corrupt, "another place", AREA_AT + 24),
        (area_header(size=AREA_SIZE + 1), Corrupt, "another place", AREA_AT + 24),
        (area_header(location=(SECTOR, 1 << 30, 0, 0)), Unsupported, "too much metadata", AREA_AT + 48),
        (area_header(location=(8, 10, 0, 0)), Corrupt, "outside its area", AREA_AT + 40),
        (area_header(location=(AREA_SIZE, 10, 0, 0)), Corrupt, "outside its area", AREA_AT + 40),
        (area_header(location=(SECTOR, AREA_SIZE, 0, 0)), Corrupt, "outside its area", AREA_AT + 40),
        (area_header(location=(SECTOR, 10, 0, 0)), Corrupt, "outside its area", AREA_AT + 40),
        (area_header(location=(SECTOR, 10, 1, 0)).ljust(AREA_SIZE, b"\0"), Corrupt, "checksum", AREA_AT + SECTOR),
    ],
)
def test_damaged_areas(content: bytes, error: type[MntapiError], what: str, offset: int) -> None:
    with pytest.raises(error, match=what) as caught:
        read_text(Memory(bytes(AREA_AT) + content), AREA, "disk0")
    assert (caught.value.path, caught.value.offset) == ("disk0", offset)


def test_a_header_that_is_cut_off() -> None:
    with pytest.raises(Corrupt, match="cut off"):
        parse_header(area_header()[:-1], AREA)


def test_an_area_that_cannot_be_read() -> None:
    blocks = Memory(bytes(AREA_AT) + area(b"text" * 1000))
    with pytest.raises(ReadFailed):
        read_text(Fault(blocks, bad=[(AREA_AT + 1024, 1)]), AREA, "disk0")


def test_the_limit_of_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(AREA_AT) + area(b"x" * 1000)
    monkeypatch.setattr(area_module, "MAX_TEXT", 1000)
    assert read_text(Memory(content), AREA, "disk0") is not None
    monkeypatch.setattr(area_module, "MAX_TEXT", 999)
    with pytest.raises(Unsupported, match="too much metadata"):
        read_text(Memory(content), AREA, "disk0")


def test_the_language() -> None:
    root = parse(
        stored(
            '# comment } \nvg-1 {\n id="a\\"b\\\\c" # comment\n n = -5\t size=00012 half = 0.5\n'
            ' list = [ "x]y", 3,\n# comment ]\n"z#"] empty=[]\n one = "alone"\n inner { deep { x = 1 } }\n}\nlast = 1\n\0\0'
        )
    )
    section = root.inner("vg-1")
    assert section.text("id") == 'a"b\\c'
    assert (section.number("n", least=-9), section.number("size"), section.text("half")) == (-5, 12, "0.5")
    assert section.items("list") == ("x]y", 3, "z#")
    assert section.items("empty") == section.items("absent") == ()
    assert section.words("one") == ("alone",)
    assert section.inner("inner").inner("deep").number("x") == 1
    assert root.number("last") == 1
    assert (section.number("none", 7), section.text("none", "y")) == (7, "y")


@pytest.mark.parametrize(
    ("text", "what", "position"),
    [
        ("vg { x = @ }", "cannot be understood", 4),
        ("vg { x = 1 } }", "closes a section", 13),
        ("vg { x = 1 x = 2 }", "twice", 0),
        ("vg { x = 1 x { } }", "twice", 0),
        ("a { b { x = 1 }", "does not end", 0),
        ('vg { x = "open }', "cannot be understood", 4),
        ("vg { x = [1, 2 }", "cannot be understood", 4),
        ("vg { x = [1, y] }", "the list x", 0),
        ("vg { = 1 }", "cannot be understood", 4),
        ("\xff", "cannot be understood", 0),
    ],
)
def test_what_is_not_of_the_language(text: str, what: str, position: int) -> None:
    with pytest.raises(Corrupt, match=what) as caught:
        parse(stored(text))
    assert caught.value.offset == AREA_AT + SECTOR + position


def test_the_limits_of_the_language(monkeypatch: pytest.MonkeyPatch) -> None:
    depth = text_module.MAX_DEPTH
    parse(stored("a {" * depth + "}" * depth))
    with pytest.raises(Unsupported, match=f"more than {depth} sections"):
        parse(stored("a {" * (depth + 1)))
    monkeypatch.setattr(text_module, "MAX_VALUES", 20)
    parse(stored("a = [" + "1, " * 15 + "]"))
    for text in ("a = [" + "1, " * 25 + "]", "".join(f"a{number} = 1\n" for number in range(25))):
        with pytest.raises(Unsupported, match="more than 20 values"):
            parse(stored(text))


def test_hostile_texts_take_no_time() -> None:
    """What makes a careless expression go back for ever: each is 2 MiB."""
    size = 2 << 20
    texts = ("a = [" + "#" * size, 'a = "' + "\\" * size, " " * size, "a = [" + '"" ' * (size // 3), "a" * size, "#\n" * size)
    for text in texts:
        with pytest.raises((Corrupt, Unsupported)):
            parse(stored(text + "@"))


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda section: section.number("text"), "text is wrong"),
        (lambda section: section.number("number", least=6), "number is wrong"),
        (lambda section: section.number("long"), "long is wrong"),
        (lambda section: section.number("absent"), "absent is wrong.*found nothing"),
        (lambda section: section.text("number"), "number is wrong"),
        (lambda section: section.words("list"), "list is wrong"),
        (lambda section: section.inner("absent"), "has no absent"),
    ],
)
def test_values_that_are_not_what_they_should_be(call, what: str) -> None:
    section = parse(stored(' vg { text = "x" number = 5 list = ["x", 1] long = 123456789012345678901 }')).inner("vg")
    with pytest.raises(Corrupt, match=what) as caught:
        call(section)
    assert caught.value.offset == AREA_AT + SECTOR + 1


def test_a_group() -> None:
    text = group_text(
        volume("data", linear(0, 3, "pv0", 1), linear(3, 2, "pv0", 9), more='tags = ["t1"]'), more='tags = ["a", "b"]\n'
    )
    group = parse_group(stored(text))
    assert (group.name, group.uuid, group.generation, group.extent_size) == ("vg", uuid("groupvg"), 1, 65536)
    assert (group.tags, group.is_exported) == (("a", "b"), False)
    assert (group.physical["pv0"].uuid, group.physical["pv0"].start) == (uuid("one"), 1 << 20)
    data = group.logical["data"]
    assert (data.uuid, data.extent_count, data.tags, data.status) == (uuid("data"), 5, ("t1",), {"READ", "WRITE", "VISIBLE"})
    assert [(one.first, one.count, one.kind) for one in data.segments] == [(0, 3, "striped"), (3, 2, "striped")]


def test_a_group_without_volumes() -> None:
    text = group_text("").replace("logical_volumes {\n}\n", "")
    assert parse_group(stored(text)).logical == {}


def test_what_a_segment_says_behind_its_kind() -> None:
    group = parse_group(stored(group_text(volume("data", segment(0, 1, "cache+METADATA_FORMAT", "")))))
    (only,) = group.logical["data"].segments
    assert (only.kind, only.flags) == ("cache", {"METADATA_FORMAT"})


@pytest.mark.parametrize(
    ("old", "new", "error", "what"),
    [
        ('contents = "Text Format Volume Group"', 'contents = "Other"', Unsupported, "another format"),
        ("version = 1", "version = 2", Corrupt, "version is wrong|another format"),
        ("version = 1", "version = 1 second { }", Unsupported, "another format"),
        ('format = "lvm2"', 'format = "lvm1"', Unsupported, "another format"),
        ("extent_size = 128", "extent_size = 0", Corrupt, "extent_size"),
        ("extent_size = 128", "extent_size = 9007199254740992", Corrupt, "pe_count"),
        ("seqno = 1", "", Corrupt, "seqno"),
        (f'id = "{uuid("groupvg")}"', 'id = "../../etc"', Corrupt, "no UUID"),
        (f'id = "{uuid("one")}"', 'id = "x"', Corrupt, "no UUID"),
        ("pe_start = 2048", "pe_start = -1", Corrupt, "pe_start"),
        ("pe_count = 16", "pe_count = 4294967296", Corrupt, "pe_count"),
        ("physical_volumes", "physical", Corrupt, "has no physical_volumes"),
    ],
)
def test_groups_that_make_no_sense(old: str, new: str, error: type[MntapiError], what: str) -> None:
    text = group_text(volume("data", linear(0, 1, "pv0", 0)))
    assert old in text
    with pytest.raises((error, Unsupported), match=what) as caught:
        parse_group(stored(text.replace(old, new)))
    assert caught.value.offset is not None and caught.value.offset >= AREA_AT + SECTOR


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (volume("bad", linear(1, 1, "pv0", 5)), "does not begin where"),
        (volume("bad", linear(0, 2, "pv0", 5), linear(1, 2, "pv0", 8)), "does not begin where"),
        (volume("bad", linear(0, 2, "pv0", 5), linear(3, 2, "pv0", 8)), "does not begin where"),
        (volume("bad", linear(0, 0, "pv0", 5)), "extent_count"),
        (volume("bad", linear(0, 2**32, "pv0", 5)), "extent_count"),
        (volume("bad", linear(2**32, 1, "pv0", 5)), "start_extent"),
        (volume("bad"), "segment_count"),
        (volume("bad", linear(0, 1, "pv0", 5)).replace("segment_count = 1", "segment_count = 2"), "segment_count"),
        (volume("bad", "start_extent = 0 extent_count = 1"), "type is wrong"),
        (volume("bad", linear(0, 1, "pv0", 5)).replace(uuid("bad"), "no"), "no UUID"),
        (volume("bad", linear(0, 1, "pv0", 5)).replace('"READ"', "1"), "status"),
    ],
)
def test_a_volume_that_makes_no_sense_leaves_the_others(bad: str, what: str) -> None:
    group = parse_group(stored(group_text(bad + volume("good", linear(0, 1, "pv0", 0)))))
    assert set(group.logical) == {"good"}
    error = group.damaged["bad"]
    assert isinstance(error, Corrupt)
    assert what in str(error) or what == error.what.split(":")[0] or all(part in str(error) for part in what.split("|"))
    assert error.path == "disk0" and error.offset is not None


def test_the_newest_generation_of_a_text() -> None:
    text = stored(group_text("", generation=7))
    assert parse_group(text).generation == 7
    assert replace(text, offset=600).place(0) == AREA_AT + 600


def test_a_disk_of_the_builder_is_one() -> None:
    content = disk("one", group_text(""))
    assert find_label(Memory(content)) is not None
