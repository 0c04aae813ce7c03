"""NBD messages: the examples of the protocol document, each check, and random bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mntapi.errors import Corrupt, MntapiError, ReadFailed, Unsupported
from mntapi.remote import nbd_protocol as nbd
from mntapi.units import MIB


def test_greeting() -> None:
    assert nbd.parse_greeting(b"NBDMAGICIHAVEOPT\0\3") == 3
    assert nbd.client_flags(0xFFFF) == b"\0\0\0\3"
    assert nbd.client_flags(0) == bytes(4)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"HTTP/1.1 400 Bad R", ReadFailed),
        (b"NBDMAGICIHAVEOPS\0\3", ReadFailed),
        (b"NBDMAGIC" + bytes.fromhex("0000420281861253") + b"\0\0", Unsupported),
    ],
)
def test_greeting_of_something_else(raw: bytes, error: type[MntapiError]) -> None:
    with pytest.raises(error):
        nbd.parse_greeting(raw)


def test_requests_are_what_the_document_says() -> None:
    assert (
        nbd.request(nbd.CMD_READ, 0x1122, 0x200, 0x400).hex()
        == "256095130000" + "0000" + f"{0x1122:016x}{0x200:016x}{0x400:08x}"
    )
    assert nbd.option(nbd.OPT_GO, b"xy") == b"IHAVEOPT" + bytes([0, 0, 0, 7, 0, 0, 0, 2]) + b"xy"
    assert nbd.go_data(b"disk") == b"\0\0\0\4disk\0\1\0\3"
    assert nbd.meta_context_data(b"") == b"\0\0\0\0\0\0\0\1\0\0\0\x0fbase:allocation"


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack(">QIII", 1, 7, 1, 0),
        struct.pack(">QIII", 0x3E889045565A9, 8, 1, 0),
        struct.pack(">QIII", 0x3E889045565A9, 7, 1, nbd.MAX_OPTION_REPLY + 1),
    ],
    ids=["magic", "option", "length"],
)
def test_bad_option_replies(raw: bytes) -> None:
    with pytest.raises(Corrupt):
        nbd.parse_option_reply(raw, 7)


def test_export_sizes() -> None:
    assert nbd.parse_export_info(struct.pack(">HQH", 0, 1 << 40, 0x101)) == (1 << 40, 0x101)
    with pytest.raises(Corrupt, match="wrong length"):
        nbd.parse_export_info(bytes(11))
    with pytest.raises(Corrupt, match="impossible"):
        nbd.describe_export(1 << 63, 1, None)
    assert nbd.describe_export(1000, 0x101, None) == nbd.Export(1000, True, nbd.BlockSizes(1, 4 * MIB))
    assert nbd.describe_export(1024, 0x100, None) == nbd.Export(1024, False, nbd.BlockSizes(512, 4 * MIB))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((1, 512, 0xFFFFFFFF), nbd.BlockSizes(1, 4 * MIB)),
        ((4096, 4096, 65536), nbd.BlockSizes(4096, 65536)),
        ((512, 512, 70001), nbd.BlockSizes(512, 69632)),
        ((65536, 65536, 65536), nbd.BlockSizes(65536, 65536)),
    ],
)
def test_block_sizes(sizes: tuple[int, int, int], expected: nbd.BlockSizes) -> None:
    assert nbd.parse_block_sizes(struct.pack(">HIII", 3, *sizes)) == expected


@pytest.mark.parametrize(
    "data", [struct.pack(">HIII", 3, a, b, c) for a, b, c in ((0, 1, 9), (3, 4, 9), (131072, 1, 1 << 30), (512, 512, 511))]
)
def test_impossible_block_sizes(data: bytes) -> None:
    with pytest.raises(Corrupt):
        nbd.parse_block_sizes(data)
    with pytest.raises(Corrupt):
        nbd.parse_block_sizes(data[:-1])


def test_meta_context() -> None:
    assert nbd.parse_meta_context(b"\0\0\0\x05base:allocation") == (5, "base:allocation")
    with pytest.raises(Corrupt):
        nbd.parse_meta_context(b"\0\0\0")


def test_replies() -> None:
    simple = struct.pack(">IIQ", 0x67446698, 5, 9)
    chunk = struct.pack(">IHHQI", 0x668E33EF, 1, 1, 9, 100)
    assert not nbd.is_structured(simple)
    assert nbd.is_structured(chunk[:16])
    assert nbd.parse_simple(simple, 9) == 5
    assert nbd.parse_chunk(chunk, 9) == nbd.Chunk(1, True, 100)
    with pytest.raises(Corrupt, match="magic"):
        nbd.is_structured(bytes(16))
    with pytest.raises(Corrupt, match="no request of ours"):
        nbd.parse_simple(simple, 8)
    with pytest.raises(Corrupt, match="no request of ours"):
        nbd.parse_chunk(chunk, 8)


def test_failures() -> None:
    assert str(nbd.parse_failure(0x8001, struct.pack(">IH", 5, 2) + b"no")) == "the server answered: Input/output error: no"
    failure = nbd.parse_failure(0x8002, struct.pack(">IH", 5, 2) + b"no" + struct.pack(">Q", 4096))
    assert failure.offset == 4096
    assert nbd.failure(99999).what == "the server answered: error 99999"
    for kind, payload in ((0x8001, b"\0\0\0\5\0"), (0x8001, b"\0\0\0\5\0\1"), (0x8002, b"\0\0\0\5\0\0" + bytes(7))):
        with pytest.raises(Corrupt):
            nbd.parse_failure(kind, payload)


def test_a_server_does_not_write_to_our_terminal() -> None:
    assert nbd.printable(b"\x1b[31mred\r\nnext\xff") == "?[31mred??next\N{REPLACEMENT CHARACTER}"
    assert len(nbd.printable(b"x" * 5000)) == 200


def test_block_status() -> None:
    payload = struct.pack(">I6I", 7, 512, 0, 1024, 3, 4096, 1)
    assert list(nbd.parse_block_status(payload, 7)) == [(512, False), (1024, True), (4096, False)]
    for bad in (b"", bytes(4), payload[:-1], payload[:16]):
        with pytest.raises(Corrupt, match="wrong length"):
            nbd.parse_block_status(bad, 7)
    with pytest.raises(Corrupt, match="context"):
        nbd.parse_block_status(payload, 8)
    with pytest.raises(Corrupt, match="no bytes"):
        list(nbd.parse_block_status(struct.pack(">III", 7, 0, 0), 7))


def test_hole() -> None:
    assert nbd.parse_hole(struct.pack(">QI", 4096, 512)) == (4096, 512)
    with pytest.raises(Corrupt):
        nbd.parse_hole(bytes(13))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_random_bytes_are_errors_of_ours_or_values(raw: bytes) -> None:
    parsers = (
        (lambda: nbd.parse_greeting(raw[:18].ljust(18, b"\0"))),
        (lambda: nbd.parse_option_reply(raw[:20].ljust(20, b"\0"), 7)),
        (lambda: nbd.parse_export_info(raw)),
        (lambda: nbd.parse_block_sizes(raw)),
        (lambda: nbd.parse_meta_context(raw)),
        (lambda: nbd.is_structured(raw[:16].ljust(16, b"\0"))),
        (lambda: nbd.parse_failure(0x8001 + len(raw) % 3, raw)),
        (lambda: nbd.parse_hole(raw)),
        (lambda: list(nbd.parse_block_status(raw, 0))),
    )
    for parse in parsers:
        try:
            parse()
        except MntapiError as error:
            assert str(error)
