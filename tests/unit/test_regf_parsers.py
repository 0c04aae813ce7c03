"""The parsers of hives and logs on their own: checksums, base blocks, cells."""

import struct

import pytest

from contract.hive_builder import base_block
from mntapi.errors import Corrupt, Unsupported
from mntapi.guests.windows.regf import records
from mntapi.guests.windows.regf.base import checksum, parse_base
from mntapi.guests.windows.regf.marvin32 import marvin32

FIRST, SECOND = 0x004FB61A001BDBCC, 0x804FB61A001BDBCC

VECTORS = [
    (FIRST, "", 0x30ED35C100CD3C7D),
    (FIRST, "af", 0x48E73FC77D75DDC1),
    (FIRST, "e70f", 0xB5F6E1FC485DBFF8),
    (FIRST, "37f495", 0xF0B07C789B8CF7E8),
    (FIRST, "8642dc59", 0x7008F2E87E9CF556),
    (FIRST, "153fb79826", 0xE6C08C6DA2AFA997),
    (FIRST, "0932e6246c47", 0x6F04BF1A5EA24060),
    (FIRST, "ab427ea8d10fc7", 0xE11847E4F0678C41),
    (SECOND, "8642dc59", 0x36289D9654FB49F6),
]
"""Seed, input and output, from the tests of .NET's ``Marvin`` (MarvinTests.cs)."""


@pytest.mark.parametrize(("seed", "content", "expected"), VECTORS)
def test_marvin32_is_that_of_dotnet(seed, content, expected):
    assert marvin32(bytes.fromhex(content), seed) == expected


def test_a_base_block_is_parsed():
    base = parse_base(base_block(32, 8192, (5, 4), written=99, minor=3, kind=6, clustering=8))
    assert (base.root, base.bins_size, base.primary_sequence, base.secondary_sequence) == (32, 8192, 5, 4)
    assert (base.written, base.minor, base.file_type, base.sector, base.name) == (99, 3, 6, 4096, "SYSTEM")
    assert base.is_dirty


def test_a_checksum_is_never_zero_or_all_ones():
    assert checksum(bytes(512)) == 1
    assert checksum(b"\xff" * 4 + bytes(508)) == 0xFFFFFFFE


def _repaired(raw):
    return raw[:508] + struct.pack("<I", checksum(raw))


@pytest.mark.parametrize(
    ("raw", "error", "offset"),
    [
        (b"", Corrupt, 0),
        (b"regf" + bytes(100), Corrupt, 0),
        (b"hbin" + base_block(32, 4096, (1, 1))[4:], Corrupt, 0),
        (base_block(32, 4096, (1, 1))[:100] + b"x" + base_block(32, 4096, (1, 1))[101:], Corrupt, 508),
        (base_block(32, 4096, (1, 1), minor=2), Unsupported, 20),
        (base_block(32, 4096, (1, 1), minor=7), Unsupported, 20),
        (base_block(32, 0, (1, 1)), Corrupt, 40),
        (base_block(32, 4095, (1, 1)), Corrupt, 40),
        (base_block(32, (1 << 31) + 4096, (1, 1)), Corrupt, 40),
    ],
)
def test_no_base_block(raw, error, offset):
    with pytest.raises(error) as caught:
        parse_base(raw)
    assert caught.value.offset == offset


def test_a_strange_clustering_factor_means_512():
    assert parse_base(base_block(32, 4096, (1, 1), clustering=77)).sector == 512


@pytest.mark.parametrize(
    ("parse", "raw", "text"),
    [
        (records.parse_node, b"nk" + bytes(10), "no key"),
        (records.parse_node, b"vk" + bytes(80), "no key"),
        (records.parse_value, b"vk", "no value"),
        (records.parse_value, bytes(40), "no value"),
        (records.parse_value, struct.pack("<2sHIIIHH", b"vk", 0, 0x80000005, 0, 4, 0, 0), "do not fit"),
        (records.parse_leaf, b"lh", "cut off"),
        (records.parse_leaf, b"lh\x02\0" + bytes(15), "cut off"),
        (records.parse_leaf, b"li\x02\0" + bytes(7), "cut off"),
        (records.parse_leaf, b"ri\x01\0" + bytes(8), "no list of keys"),
        (records.parse_leaf, b"xx\x01\0" + bytes(8), "no list of keys"),
        (records.parse_index_root, b"ri\xff\xff" + bytes(8), "cut off"),
        (lambda raw: records.parse_offsets(raw, 3), bytes(11), "cut off"),
    ],
)
def test_no_such_cell(parse, raw, text):
    with pytest.raises(Corrupt, match=text) as caught:
        parse(raw)
    assert caught.value.offset is not None


def test_what_is_no_index_root_and_no_big_data():
    assert records.parse_index_root(b"lh\0\0") is None
    assert records.parse_big_data(b"db") is None
    assert records.parse_big_data(bytes(16)) is None


def test_text_can_always_be_stored_as_utf8():
    assert records.utf16(b"a\0\xe4\0x") == "a\xe4"
    lone = records.utf16(b"a\0\x00\xd8")
    assert lone.encode("utf-8", "surrogateescape") == b"a\xed\xa0\x80"
    assert records.utf16("\N{GRINNING FACE}".encode("utf-16-le")) == "\N{GRINNING FACE}"


def test_names_are_compared_letter_by_letter():
    assert records.upper("stra\xdfe") == "STRA\xdfE"
    assert records.name_hash("Select") == records.name_hash("SELECT")
