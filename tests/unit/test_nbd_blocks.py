"""The NBD client against a server that keeps the protocol, breaks it, or breaks down. Oracle: the bytes it serves."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from contract.blocks_contract import check_blocks, check_closed
from contract.nbd_fake import (
    URL,
    FakeNbd,
    chunk,
    data_chunk,
    error_chunk,
    hole_chunk,
    option_reply,
    simple,
    status_chunk,
)
from mntapi.blocks import read
from mntapi.errors import Corrupt, Denied, Invalid, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.remote import nbd_protocol as nbd
from mntapi.remote.dial import ConnectionLost
from mntapi.remote.nbd import NbdBlocks
from mntapi.remote.urls import Endpoint
from mntapi.types import Extent, ExtentKind

DATA, ZERO = ExtentKind.DATA, ExtentKind.ZERO
NO_CHUNK_KIND = 77


@pytest.fixture
def server() -> Iterator[FakeNbd]:
    fake = FakeNbd()
    yield fake
    fake.stop()


def open_fake(server: FakeNbd, **options: object) -> NbdBlocks:
    return NbdBlocks.open(URL, connect=server.connect, **{"timeout_s": 10.0, "backoff_s": 0.0, "patience": 0.0, **options})


@pytest.mark.parametrize("structured", [True, False], ids=["structured", "simple"])
@pytest.mark.parametrize("sizes", [None, (1, 512, 0xFFFFFFFF), (4096, 4096, 8192)], ids=["untold", "free", "4k"])
def test_contract(server: FakeNbd, structured: bool, sizes: tuple[int, int, int] | None) -> None:
    server.structured, server.block_sizes = structured, sizes
    blocks = open_fake(server)
    check_blocks(blocks, server.content, ranges=60)
    check_closed(blocks)
    minimum, maximum = (sizes[0], sizes[2]) if sizes else (512, 1 << 25)
    for command, offset, length in server.requests:
        assert command in (nbd.CMD_READ, nbd.CMD_BLOCK_STATUS, nbd.CMD_DISC)
        assert offset % minimum == length % minimum == 0
        assert length <= maximum or command == nbd.CMD_BLOCK_STATUS


def test_one_connection_where_the_server_allows_for_one(server: FakeNbd) -> None:
    server.flags = 1
    check_blocks(open_fake(server), server.content, ranges=30)
    assert server.connections == 1


def test_a_server_that_takes_only_two_of_four_connections(server: FakeNbd) -> None:
    lock = threading.Lock()

    def connect(endpoint: Endpoint) -> socket.socket:
        with lock:
            if server.connections == 2:
                raise ReadFailed("no more")
            return server.connect(endpoint)

    blocks = NbdBlocks.open(URL, connect=connect, timeout_s=10)
    check_blocks(blocks, server.content, ranges=60)
    assert server.connections == 2


@pytest.mark.parametrize("zeroes", [0, nbd.NO_ZEROES])
@pytest.mark.parametrize("fixed", [0, nbd.FIXED_NEWSTYLE])
def test_servers_without_go(server: FakeNbd, fixed: int, zeroes: int) -> None:
    server.go = False
    server.handshake_flags = fixed | zeroes
    server.structured = bool(fixed)
    assert read(open_fake(server), 100, 5000) == server.content[100:5100]


def test_holes_are_zeros(server: FakeNbd) -> None:
    """A reply in pieces, in any order."""

    def pieces(sock: socket.socket, cookie: int, offset: int, length: int) -> None:
        half = length // 2
        sock.sendall(
            data_chunk(cookie, offset + half, server.content[offset + half : offset + length], done=False)
            + hole_chunk(cookie, offset, half, done=False)
            + chunk(cookie, 0)
        )

    server.on_read = pieces
    assert read(open_fake(server), 512, 1024) == bytes(512) + server.content[1024:1536]


# --- the handshake ---


def refuse(number: int, text: bytes = b"no \x1b[0m") -> dict[int, list[tuple[int, bytes]]]:
    return {nbd.OPT_GO: [(nbd.REP_ERROR + number, text)]}


def info(data: bytes) -> dict[int, list[tuple[int, bytes]]]:
    return {nbd.OPT_GO: [(nbd.REP_INFO, data), (nbd.REP_ACK, b"")]}


@pytest.mark.parametrize(
    ("replies", "error", "words"),
    [
        (refuse(6), NotFound, "no export 'disk'"),
        (refuse(2), Denied, "does not give"),
        (refuse(5), Denied, "demands encryption"),
        (refuse(7), ConnectionLost, "shutting down"),
        (refuse(8), ReadFailed, "error 8"),
        ({nbd.OPT_STRUCTURED_REPLY: [(nbd.REP_ERROR + 5, b"")]}, Denied, "demands encryption"),
        ({nbd.OPT_GO: [(nbd.REP_INFO, bytes(12))] * 65}, Corrupt, "too many replies"),
        ({nbd.OPT_GO: [(nbd.REP_ACK, b"")]}, Corrupt, "how large"),
        (info(bytes(11)), Corrupt, "wrong length"),
        (info(struct.pack(">HQH", 0, 1 << 63, 1)), Corrupt, "impossible"),
    ],
)
def test_the_server_refuses(server: FakeNbd, replies: dict, error: type[MntapiError], words: str) -> None:
    server.replies = replies
    with pytest.raises(error, match=words) as caught:
        open_fake(server)
    assert caught.value.path == URL
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("contexts", "expected"),
    [
        ([(nbd.REP_ACK, b"")], None),
        ([(nbd.REP_META_CONTEXT, b"\0\0\0\1x-other:thing"), (nbd.REP_ACK, b"")], None),
        ([(nbd.REP_ERR_UNSUP, b"")], None),
    ],
)
def test_without_block_status_all_is_data(server: FakeNbd, contexts: list, expected: None) -> None:
    server.replies = {nbd.OPT_SET_META_CONTEXT: contexts}
    assert list(open_fake(server).extents(10, 100)) == [Extent(10, 100, DATA)]
    assert not any(command == nbd.CMD_BLOCK_STATUS for command, _, _ in server.requests)


def serving(raw: bytes, *, hang_up: bool = True) -> Callable[[Endpoint], socket.socket]:
    """A server that says this and hangs up, whatever it is asked."""

    def connect(endpoint: Endpoint) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.sendall(raw)
        if hang_up:
            ours.shutdown(socket.SHUT_WR)
        kept.append(ours)
        return theirs

    kept: list[socket.socket] = []
    return connect


GREETING = b"NBDMAGICIHAVEOPT\0\3"


@pytest.mark.parametrize(
    ("raw", "error", "words"),
    [
        (b"", ReadFailed, "closed the connection"),
        (GREETING, ReadFailed, "closed the connection"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", ReadFailed, "no NBD server"),
        (b"NBDMAGIC" + bytes.fromhex("0000420281861253") + bytes(136), Unsupported, "old style"),
        (b"NBDMAGICIHAVEOPT\0\0", NotFound, "hung up on the export 'disk'"),
        (GREETING + option_reply(9, 1), Corrupt, "not asked"),
        (GREETING + struct.pack(">QIII", 0x3E889045565A9, 8, 1, 1 << 31), Corrupt, "too long"),
    ],
)
def test_a_server_that_is_none(raw: bytes, error: type[MntapiError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        NbdBlocks.open(URL, connect=serving(raw), timeout_s=10)
    assert caught.value.path == URL


def test_a_silent_server_is_not_waited_for_long() -> None:
    for greeting in (b"", b"NBDMAGICIHAVEOPT\0\0"):
        with pytest.raises(ReadFailed, match="within") as caught:
            NbdBlocks.open(URL, connect=serving(greeting, hang_up=False), timeout_s=0.05)
        assert caught.value.reason == "timeout"


def test_encryption_that_is_not_offered(server: FakeNbd) -> None:
    with pytest.raises(Denied, match="does not encrypt"):
        NbdBlocks.open("nbds://fake.example/disk", connect=server.connect, timeout_s=10)
    server.handshake_flags = 0
    with pytest.raises(Unsupported, match="too old"):
        NbdBlocks.open("nbds://fake.example/disk", connect=server.connect, timeout_s=10)


def test_encryption_that_is_promised_and_does_not_come() -> None:
    promise = GREETING + option_reply(nbd.OPT_STARTTLS, nbd.REP_ACK)
    for hang_up, reason in ((False, "timeout"), (True, "tls")):
        with pytest.raises(ReadFailed) as caught:
            NbdBlocks.open("nbds://fake.example/disk", connect=serving(promise, hang_up=hang_up), timeout_s=0.2)
        assert caught.value.reason == reason


def test_clear_text_after_starttls_is_refused() -> None:
    """What an attacker slips in before the encryption must not count after it."""
    injected = GREETING + option_reply(nbd.OPT_STARTTLS, nbd.REP_ACK) + option_reply(nbd.OPT_STRUCTURED_REPLY, nbd.REP_ACK)
    with pytest.raises(Corrupt, match="clear text"):
        NbdBlocks.open("nbds://fake.example/disk", connect=serving(injected), timeout_s=10)


# --- replies ---

Lie = Callable[[int, int, int], bytes]

LIES: dict[str, tuple[Lie, str]] = {
    "magic": (lambda c, o, n: bytes(20), "magic"),
    "cookie": (lambda c, o, n: data_chunk(c + 1, o, bytes(n)), "no request of ours"),
    "simple": (lambda c, o, n: simple(c) + bytes(n), "simple reply"),
    "before": (lambda c, o, n: data_chunk(c, o - 1, bytes(n)), "not of what was asked"),
    "behind": (lambda c, o, n: data_chunk(c, o + 1, bytes(n)), "not of what was asked"),
    "too long": (lambda c, o, n: data_chunk(c, o, bytes(n + 1)), "not of what was asked"),
    "huge": (lambda c, o, n: chunk(c, 1, struct.pack(">Q", o), length=0xFFFFFFFF), "not of what was asked"),
    "empty": (lambda c, o, n: data_chunk(c, o, b""), "empty"),
    "short": (lambda c, o, n: data_chunk(c, o, bytes(n - 1)), "less than was asked"),
    "nothing": (lambda c, o, n: chunk(c, 0), "less than was asked"),
    "gap": (lambda c, o, n: data_chunk(c, o, b"x", done=False) + data_chunk(c, o + 2, bytes(n - 2)), "gap"),
    "overlap": (lambda c, o, n: data_chunk(c, o, b"xy", done=False) + data_chunk(c, o + 1, bytes(n - 1)), "overlap"),
    "hole length": (lambda c, o, n: chunk(c, 2, bytes(11)), "hole"),
    "hole too long": (lambda c, o, n: chunk(c, 2, bytes(13)), "hole"),
    "hole outside": (lambda c, o, n: hole_chunk(c, o + 1, n), "not of what was asked"),
    "hole of nothing": (lambda c, o, n: hole_chunk(c, o, 0), "not of what was asked"),
    "kind": (lambda c, o, n: chunk(c, NO_CHUNK_KIND, b""), "unknown kind"),
    "status": (lambda c, o, n: status_chunk(c, 7, [(n, 0)]), "unknown kind"),
    "none with payload": (lambda c, o, n: chunk(c, 0, b"x"), "not empty"),
    "none not last": (lambda c, o, n: chunk(c, 0, done=False), "not empty"),
    "crumbs": (lambda c, o, n: b"".join(data_chunk(c, o + i, b"x", done=False) for i in range(n)), "too many pieces"),
    "errors": (lambda c, o, n: error_chunk(c, 5, done=False) * 200, "too many pieces"),
    "error elsewhere": (lambda c, o, n: error_chunk(c, 5, b"", o + n), "not asked for"),
    "error cut": (lambda c, o, n: chunk(c, 0x8001, b"\0\0\0\5\0\7abc"), "goes past"),
    "error huge": (lambda c, o, n: chunk(c, 0x8001, length=1 << 31), "too long"),
    "errors beyond all": (lambda c, o, n: chunk(c, 0x8001, b"\0\0\0\5" + bytes(8000), done=False) * 50, "more than"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_corrupt_and_the_next_read_is_right(server: FakeNbd, name: str) -> None:
    """The connection it came over is given up: nothing on it can be trusted any more."""
    lie, words = LIES[name]
    blocks = open_fake(server)
    server.on_read = lambda sock, cookie, offset, length: sock.sendall(lie(cookie, offset, length))
    with pytest.raises(Corrupt, match=words) as caught:
        read(blocks, 1024, 4096)
    assert caught.value.path == URL
    assert caught.value.offset is not None
    server.on_read = server.read
    assert read(blocks, 1024, 4096) == server.content[1024:5120]
    assert server.connections == 2


def test_a_structured_reply_where_none_was_agreed_on(server: FakeNbd) -> None:
    server.structured = False
    blocks = open_fake(server)
    server.on_read = lambda sock, cookie, offset, length: sock.sendall(data_chunk(cookie, offset, bytes(length)))
    with pytest.raises(Corrupt, match="not agreed on"):
        read(blocks, 0, 512)


ERRORS: dict[str, Lie] = {
    "generic": lambda c, o, n: error_chunk(c, 5, b"bad disk"),
    "at an offset": lambda c, o, n: data_chunk(c, o, bytes(n), done=False) + error_chunk(c, 5, b"bad disk", o + 512),
    "then more data": lambda c, o, n: error_chunk(c, 5, b"bad disk", o + 512, done=False) + data_chunk(c, o, bytes(512)),
    "unknown kind": lambda c, o, n: chunk(c, 0x8123, struct.pack(">IH", 5, 8) + b"bad disk" + bytes(20)),
    "several": lambda c, o, n: error_chunk(c, 5, b"bad disk", done=False) + error_chunk(c, 12),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_the_server(server: FakeNbd, name: str) -> None:
    """It fails that read only, and the connection stays."""
    blocks = open_fake(server)
    server.on_read = lambda sock, cookie, offset, length: sock.sendall(ERRORS[name](cookie, offset, length))
    with pytest.raises(ReadFailed, match="Input/output error: bad disk") as caught:
        read(blocks, 1024, 4096)
    assert caught.value.offset == (1536 if name in ("at an offset", "then more data") else 1024)
    server.on_read = server.read
    assert read(blocks, 1024, 4096) == server.content[1024:5120]
    assert server.connections == 1


@pytest.mark.parametrize("structured", [True, False])
def test_a_simple_error(server: FakeNbd, structured: bool) -> None:
    server.structured = structured
    blocks = open_fake(server)
    server.on_read = lambda sock, cookie, offset, length: sock.sendall(simple(cookie, 5))
    with pytest.raises(ReadFailed, match="Input/output error"):
        read(blocks, 0, 512)
    server.on_read = server.read
    assert read(blocks, 0, 512) == server.content[:512]
    assert server.connections == 1


# --- block status ---


def statuses(server: FakeNbd, answer: Lie) -> NbdBlocks:
    server.on_status = lambda sock, cookie, offset, length: sock.sendall(answer(cookie, offset, length))
    return open_fake(server)


def test_extents_are_merged_clipped_and_zero_only_when_said_so(server: FakeNbd) -> None:
    """0 data, 1 hole of unknown content, 2 zeros that are allocated, 3 both; the last goes past what was asked."""
    blocks = statuses(server, lambda c, o, n: status_chunk(c, 7, [(512, 0), (512, 1), (512, 2), (1024, 3), (1 << 20, 0)]))
    assert list(blocks.extents(0, 8192)) == [Extent(0, 1024, DATA), Extent(1024, 1536, ZERO), Extent(2560, 5632, DATA)]
    assert list(blocks.extents(0, 1500)) == [Extent(0, 1024, DATA), Extent(1024, 476, ZERO)]
    assert list(blocks.extents(1000, 1)) == [Extent(1000, 1, DATA)]


def test_short_answers_are_asked_on(server: FakeNbd) -> None:
    kinds = itertools.cycle((0, 3))
    blocks = statuses(server, lambda c, o, n: status_chunk(c, 7, [(min(n, 16384), next(kinds))]))
    assert [extent[:2] for extent in blocks.extents(0, 65536)] == [(0, 16384), (16384, 16384), (32768, 16384), (49152, 16384)]


def test_a_large_range_is_split(server: FakeNbd) -> None:
    server.size = 10 << 40
    blocks = statuses(server, lambda c, o, n: status_chunk(c, 7, [(n, 3)]))
    assert list(blocks.extents(1, (10 << 40) - 1)) == [Extent(1, (10 << 40) - 1, ZERO)]
    asked = [(offset, length) for command, offset, length in server.requests if command == nbd.CMD_BLOCK_STATUS]
    assert all(offset % 512 == length % 512 == 0 and offset + length <= server.size for offset, length in asked)


def test_a_server_that_cannot_tell_has_data(server: FakeNbd) -> None:
    blocks = statuses(server, lambda c, o, n: error_chunk(c, 5, b"cannot tell"))
    assert list(blocks.extents(100, 10000)) == [Extent(100, 10000, DATA)]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda c, o, n: status_chunk(c, 8, [(n, 3)]), "context"),
        (lambda c, o, n: status_chunk(c, 7, [(0, 3)]), "no bytes"),
        (lambda c, o, n: status_chunk(c, 7, []), "wrong length"),
        (lambda c, o, n: chunk(c, 5, length=nbd.MAX_BLOCK_STATUS + 8), "too long"),
        (lambda c, o, n: status_chunk(c, 7, [(n, 3)], done=False) + status_chunk(c, 7, [(n, 0)]), "does not belong"),
        (lambda c, o, n: data_chunk(c, o, bytes(512)), "does not belong"),
        (lambda c, o, n: chunk(c, 0), "without a block status"),
        (lambda c, o, n: status_chunk(c, 7, [(1, 0)]), "too small pieces"),
    ],
)
def test_a_lie_about_the_block_status(server: FakeNbd, answer: Lie, words: str) -> None:
    server.block_sizes = (1, 512, 0xFFFFFFFF)
    with pytest.raises(Corrupt, match=words) as caught:
        list(statuses(server, answer).extents(512, 8192))
    assert caught.value.path == URL
    assert caught.value.offset is not None


def test_a_last_block_that_is_cut_off(server: FakeNbd) -> None:
    """Blocks of 4096 in an export of 65636 bytes: the last 100 cannot be asked for, by the rules."""
    server.content += bytes(100)
    server.size += 100
    server.block_sizes = (4096, 4096, 1 << 20)
    blocks = statuses(server, lambda c, o, n: status_chunk(c, 7, [(n, 3)]))
    assert read(blocks, 65535, 1) == b"\xff"
    with pytest.raises(ReadFailed, match="cut off") as caught:
        read(blocks, 65500, 100)
    assert (caught.value.offset, caught.value.reason) == (65536, "nbd-block-size")
    assert list(blocks.extents(0, 65636)) == [Extent(0, 65536, ZERO), Extent(65536, 100, DATA)]
    assert all(offset + length <= 65536 for _, offset, length in server.requests)


# --- connections that break ---


def test_a_broken_connection_is_replaced(server: FakeNbd) -> None:
    blocks = open_fake(server, connections=3)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda number: read(blocks, number, 512), range(9)))
    server.hang_up()
    for offset in range(0, 4096, 512):
        assert read(blocks, offset, 512) == server.content[offset : offset + 512]
    blocks.close()


def test_a_connection_that_breaks_in_a_reply(server: FakeNbd) -> None:
    def half(sock: socket.socket, cookie: int, offset: int, length: int) -> None:
        server.on_read = server.read
        sock.sendall(data_chunk(cookie, offset, b"w" * length)[: length // 2])
        sock.shutdown(socket.SHUT_RDWR)

    blocks = open_fake(server)
    server.on_read = half
    assert read(blocks, 0, 8192) == server.content[:8192]
    assert server.connections == 2


def test_a_server_that_breaks_always(server: FakeNbd) -> None:
    blocks = open_fake(server)
    server.on_read = lambda sock, *_: sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ReadFailed, match="closed the connection") as caught:
        read(blocks, 512, 512)
    assert (caught.value.path, caught.value.offset, caught.value.reason) == (URL, 512, "dropped")
    assert server.connections == 2


def test_a_read_that_takes_too_long(server: FakeNbd) -> None:
    blocks = open_fake(server, timeout_s=0.1)
    server.on_read = lambda *_: None
    with pytest.raises(ReadFailed, match="within") as caught:
        read(blocks, 0, 512)
    assert caught.value.reason == "timeout"


def test_a_server_that_is_away_for_a_while(server: FakeNbd) -> None:
    away: list[MntapiError] = []

    def connect(endpoint: Endpoint) -> socket.socket:
        if away:
            raise away[0]
        return server.connect(endpoint)

    blocks = NbdBlocks.open(URL, connect=connect, patience=0)
    server.hang_up()
    away.append(ReadFailed("there is no host 'fake.example'"))
    with pytest.raises(ReadFailed, match="cannot be connected to again: there is no host") as caught:
        read(blocks, 0, 512)  # EIO: a disk in use is not a missing file
    assert caught.value.reason == "unreachable"
    away.clear()
    assert read(blocks, 0, 512) == server.content[:512]


def test_a_read_waits_for_a_server_that_comes_back(server: FakeNbd) -> None:
    refusals = [ReadFailed("there is no socket")] * 5

    def connect(endpoint: Endpoint) -> socket.socket:
        if refusals and server.connections:
            raise refusals.pop()
        return server.connect(endpoint)

    blocks = NbdBlocks.open(URL, connect=connect, backoff_s=0.001, patience=60)
    server.hang_up()
    assert read(blocks, 0, 512) == server.content[:512]
    assert not refusals


@pytest.mark.parametrize("structured", [True, False])
def test_a_server_that_says_that_it_shuts_down(server: FakeNbd, structured: bool) -> None:
    """It is taken for gone, and the next one is asked."""

    def shuts_down(sock: socket.socket, cookie: int, offset: int, length: int) -> None:
        server.on_read = server.read
        sock.sendall(error_chunk(cookie, 108) if structured else simple(cookie, 108))

    server.structured = structured
    blocks = open_fake(server)
    server.on_read = shuts_down
    assert read(blocks, 0, 512) == server.content[:512]
    assert server.connections == 2


def test_an_export_that_is_another_one_after_reconnecting(server: FakeNbd) -> None:
    blocks = open_fake(server)
    server.hang_up()
    server.size -= 512
    with pytest.raises(ReadFailed, match="changed") as caught:
        read(blocks, 0, 512)
    assert caught.value.reason == "changed"


def test_other_urls_are_refused() -> None:
    with pytest.raises(Invalid, match="no NBD URL"):
        NbdBlocks.open("http://fake.example/disk")
