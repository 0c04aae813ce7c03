"""Hives made by hand: every kind of list and value against regipy, and everything a hostile one may say."""

import struct

import pytest

from contract.hive_builder import BINS, Builder, build_hive
from contract.memory_filesystem import Memory
from contract.regf_oracle import check_hive
from mntapi.blocks import Fault
from mntapi.errors import Corrupt, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.guests.windows.regf import Hive
from mntapi.guests.windows.regf.hive import TOO_LARGE

MANY = {f"key {number:04}": {"n": number} for number in range(300)}
TREE = {
    "Select": {"Current": 1, "Default": 2},
    "texts": {
        "@": "the default",
        "expand": (2, "%SystemRoot%\\x\0".encode("utf-16-le")),
        "multi": ["one", "two"],
        "none": (0, b""),
        "qword": (11, struct.pack("<Q", 1 << 40)),
        "big endian": (5, b"\0\0\1\2"),
        "inline": b"abc",
        "empty": b"",
        "16344": b"x" * 16344,
        "16345": bytes(range(256)) * 63 + b"y" * 217,
        "50000": b"z" * 50000,
    },
    "K\xe9y": {"\u041a\u043b\u044e\u0447": {"\u0437\u043d\u0430\u0447": "\u0434\u0430", "v\xe4lue": "1"}},
    "many": MANY,
}


def hive_of(raw, logs=()):
    return Hive.open(Memory(raw), [Memory(log) for log in logs], path="SYSTEM")


@pytest.mark.parametrize("lists", [b"lh", b"lf", b"li"])
@pytest.mark.parametrize("per_leaf", [0, 7])
def test_every_key_and_value_as_regipy_reads_them(tmp_path, lists, per_leaf):
    pytest.importorskip("regipy")
    raw = build_hive(TREE, lists=lists, per_leaf=per_leaf)
    (tmp_path / "hive").write_bytes(raw)
    assert check_hive(hive_of(raw), tmp_path / "hive") == (306, 315)
    hive = hive_of(raw)
    assert hive.key("MANY\\KEY 0123").value("N").number() == 123
    assert hive.key("k\xc9Y\\\u043a\u043b\u042e\u0447").value("\u0417\u043d\u0430\u0447").text() == "\u0434\u0430"


def test_hives_of_windows_2000_have_no_big_data():
    raw = build_hive({"a": {"b": b"db" * 10000}}, lists=b"lf", minor=3)
    assert hive_of(raw).key("a").value("b").data() == b"db" * 10000


def test_values_by_type():
    key = hive_of(build_hive(TREE)).key("texts")
    assert key.value("").text() == "the default"
    assert key.value("EXPAND").text() == "%SystemRoot%\\x"
    assert key.value("multi").texts() == ["one", "two"]
    assert key.value("qword").number() == 1 << 40
    assert key.value("big endian").number() == 258
    assert key.value("inline").data() == b"abc"
    assert key.value("empty").data() == key.value("none").data() == b""


@pytest.mark.parametrize("reading", ["text", "texts", "number"])
def test_a_value_of_another_type_is_damage(reading):
    value = hive_of(build_hive({"a": {"b": b"1234"}})).key("a").value("b")
    with pytest.raises(Corrupt, match="not what it should be"):
        getattr(value, reading)()


def test_a_number_of_another_length_is_damage():
    with pytest.raises(Corrupt, match="a number"):
        hive_of(build_hive({"a": {"b": (4, b"12")}})).key("a").value("b").number()


def test_what_is_not_there():
    hive = hive_of(build_hive(TREE))
    with pytest.raises(NotFound, match="'nothing'"):
        hive.key("Select\\nothing")
    with pytest.raises(NotFound, match="'nothing'"):
        hive.key("Select").value("nothing")
    with pytest.raises(NotFound):
        hive.key("many\\key 0000").value("")


def test_a_value_longer_than_asked_for_is_refused():
    with pytest.raises(Unsupported) as caught:
        hive_of(build_hive(TREE)).key("texts").value("50000").data(limit=49999)
    assert caught.value.reason == TOO_LARGE


class Damaged:
    """A hive with words of its cells overwritten, by what the cells are."""

    def __init__(self, tree, **options):
        self.builder = Builder(**options)
        self.raw = bytearray(self.builder.hive(tree))

    def put(self, cell, offset, content, size=4):
        """Into the content of a cell."""
        at = BINS + cell + 4 + offset
        self.raw[at : at + size] = content.to_bytes(size, "little") if isinstance(content, int) else content
        return self

    @property
    def hive(self):
        return hive_of(bytes(self.raw))

    def cell_at(self, cell, offset):
        return struct.unpack_from("<I", self.raw, BINS + cell + 4 + offset)[0]


SMALL = {"a": {"b": {"c": {}}, "value": b"12345678", "big": b"x" * 40000}}


def test_a_circle_of_keys_ends():
    damaged = Damaged(SMALL)
    keys, lists = damaged.builder.keys, damaged.builder.subkey_lists
    hive = damaged.put(lists["a\\b"], 4, keys["a"]).hive
    child = next(hive.key("a\\b").subkeys())
    assert child.name == "a"
    with pytest.raises(NotFound):
        hive.key("a\\b\\c")


def test_an_index_root_in_an_index_root_is_damage():
    damaged = Damaged({"a": {str(number): {} for number in range(4)}}, per_leaf=2)
    root = damaged.builder.subkey_lists["a"]
    with pytest.raises(Corrupt, match="no list of keys"):
        list(damaged.put(root, 4, root).hive.key("a").subkeys())


def test_lists_that_repeat_themselves_have_more_keys_than_the_key_says():
    damaged = Damaged({"a": {str(number): {} for number in range(6)}}, per_leaf=2)
    root = damaged.builder.subkey_lists["a"]
    damaged.put(root, 8, damaged.cell_at(root, 4)).put(root, 12, damaged.cell_at(root, 4)).put(damaged.builder.keys["a"], 20, 5)
    with pytest.raises(Corrupt, match="more keys than it says"):
        list(damaged.hive.key("a").subkeys())


@pytest.mark.parametrize(
    ("cell", "offset", "content", "text"),
    [
        ("key", 20, 0xFFFFFFFF, "more keys than the hive can hold"),
        ("key", 36, 0xFFFFFFFF, "more values than the hive can hold"),
        ("key", 36, 100, "outside the hive"),
        ("key", 28, 0xFFFFFFF8, "outside the hive"),
        ("key", 28, 3, "outside the hive"),
        ("key", 28, 0, "outside the hive"),
        ("key", 40, 0x7FFFFFF8, "outside the hive"),
        ("key", -4, 1 << 20, "not in use"),
        ("key", -4, 0, "size of a cell is impossible"),
        ("key", -4, -(1 << 30) & 0xFFFFFFFF, "size of a cell is impossible"),
        ("key", -4, -4 & 0xFFFFFFFF, "size of a cell is impossible"),
        ("key", 0, 0x6B73, "no key"),
        ("key", 72, 0xFFFF, "name is longer than its cell"),
        ("value", 2, 0xFFFF, "name is longer than its cell"),
        ("value", 0, 0x6B73, "no value"),
        ("value", 4, 9000, "data of a value are cut off"),
        ("value", 8, 0xFFFFFFF0, "outside the hive"),
    ],
)
def test_what_cells_may_say(cell, offset, content, text):
    damaged = Damaged(SMALL)
    builder = damaged.builder
    places = {"key": builder.keys["a"], "value": builder.values["a\\value"]}
    hive = damaged.put(places[cell], offset, content, 2 if content in (0x6B73, 0xFFFF) else 4).hive
    with pytest.raises(Corrupt, match=text) as caught:
        key = hive.key("a")
        assert [child.name for child in key.subkeys()]
        for value in key.values():
            value.data()
    assert caught.value.path == "SYSTEM"
    assert caught.value.offset >= BINS


def test_values_in_front_of_where_their_list_is_cut_off_are_read():
    damaged = Damaged({"a": {"value": b"12345678"}})
    key = damaged.put(damaged.builder.keys["a"], 36, 100).hive.key("a")
    assert key.value("value").data() == b"12345678"
    with pytest.raises(Corrupt, match="list of cells is cut off"):
        key.value("another")


def test_data_of_4_gib_are_refused():
    damaged = Damaged(SMALL)
    hive = damaged.put(damaged.builder.values["a\\value"], 4, 0x7FFFFFFF).hive
    with pytest.raises(Unsupported, match="too long"):
        hive.key("a").value("value").data()


def test_long_data_in_a_cell_without_pieces_are_read_from_there():
    damaged = Damaged({"a": {"value": b"x" * 12000, "next": b"y" * 12000}})
    value = damaged.builder.values["a\\value"]
    cell = damaged.cell_at(value, 8)
    damaged.put(value, 4, 20000).put(cell, -4, -(20008) & 0xFFFFFFFF)
    assert damaged.hive.key("a").value("value").data()[:12000] == b"x" * 12000


def test_pieces_that_are_too_short_or_too_few():
    damaged = Damaged(SMALL)
    record = damaged.cell_at(damaged.builder.values["a\\big"], 8)
    pieces = damaged.cell_at(record, 4)
    with pytest.raises(Corrupt, match="cut off"):
        damaged.put(pieces, 4, damaged.builder.keys["a"]).hive.key("a").value("big").data()
    with pytest.raises(Corrupt, match="pieces of a value are too few"):
        damaged.put(record, 2, 1, 2).hive.key("a").value("big").data()


def test_a_hive_gives_only_so_much():
    hive = Hive.open(Memory(build_hive({"many": MANY})), path="SYSTEM", limit=100_000)
    with pytest.raises(Unsupported) as caught:
        list(hive.key("many").subkeys())
    assert caught.value.reason == TOO_LARGE


def test_a_hive_that_is_cut_off_is_read_as_far_as_it_goes():
    hive = hive_of(build_hive({"a": {"b": b"x" * 9000}})[:8192])
    assert hive.root.name == "ROOT"
    with pytest.raises(Corrupt, match="cut off") as caught:
        hive.key("a")
    assert caught.value.offset == 8192


def test_a_bad_sector_is_told_and_the_rest_is_read():
    raw = build_hive({"a": {"b": b"x" * 9000}, "z": {"far": b"y" * 200000}})
    hive = Hive.open(Fault(Memory(raw), bad=[(BINS + 65536, 512)]), path="SYSTEM")
    assert hive.key("a").value("b").data() == b"x" * 9000
    with pytest.raises(ReadFailed):
        hive.key("z").value("far").data()


def test_names_may_be_anything():
    tree = {"a\x1b[31m": {"\x07": "\x1b]0;x\x07"}, "\ud800x": {"y": "\udc00"}}
    hive = hive_of(build_hive(tree))
    names = [key.name for key in hive.root.subkeys()]
    assert "a\x1b[31m" in names
    assert all(name.encode("utf-8", "surrogateescape") for name in names)


def test_no_hive_at_all():
    for raw in (b"", b"MZ" + bytes(5000), bytes(8192)):
        with pytest.raises(MntapiError, match="no registry hive") as caught:
            hive_of(raw)
        assert caught.value.path == "SYSTEM"
