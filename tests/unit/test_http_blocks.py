"""Disks on a web server that behaves, misbehaves, or changes its mind. Oracle: the bytes it serves."""

from __future__ import annotations

import random
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contract.blocks_contract import check_blocks, check_closed
from contract.http_fake import FakeWeb, Fault, Handler
from mntapi.blocks import read
from mntapi.errors import Corrupt, Denied, Invalid, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.remote.dial import dial
from mntapi.remote.http import HttpBlocks
from mntapi.remote.http_cache import BlockCache
from mntapi.remote.opener import open_remote
from mntapi.remote.urls import Endpoint
from mntapi.remote.wire import tls_context
from mntapi.types import Extent, ExtentKind
from mntapi.units import MIB

CONTENT = random.Random(5).randbytes(3 * MIB + 12345)


@pytest.fixture
def web() -> Iterator[FakeWeb]:
    server = FakeWeb(CONTENT)
    yield server
    server.stop()


def open_web(web: FakeWeb, **options: object) -> HttpBlocks:
    return HttpBlocks.open(web.url(), **{"timeout_s": 10.0, "backoff_s": 0.0, "patience": 0.0, **options})


def asked(web: FakeWeb) -> list[str]:
    return [headers["Range"] for _, headers in web.requests]


def test_contract(web: FakeWeb) -> None:
    blocks = open_web(web)
    check_blocks(blocks, CONTENT, ranges=100)
    assert web.connections <= 4
    assert all(headers.get("If-Range") == '"v1"' for _, headers in web.requests[1:])
    check_closed(blocks)


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}, {"Last-Modified": "Wed, 01 May 2024 10:00:00 GMT"}])
def test_contract_with_fewer_validators(web: FakeWeb, headers: dict[str, str]) -> None:
    web.headers = headers
    check_blocks(open_web(web), CONTENT, ranges=10)


def test_contract_over_connections_that_do_not_last(web: FakeWeb) -> None:
    def once(handler: Handler, content: bytes, start: int, end: int) -> None:
        handler.part(content, start, end, {"Connection": "close"})
        handler.close_connection = True

    web.always = once
    check_blocks(open_web(web), CONTENT, ranges=10)


def test_contract_with_chunked_answers(web: FakeWeb) -> None:
    def chunked(handler: Handler, content: bytes, start: int, end: int) -> None:
        handler.part(b"", 0, 0, {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"} | CHUNKED)
        for at in range(start, end, 300_000):
            piece = content[at : min(at + 300_000, end)]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    web.always = chunked
    blocks = open_web(web)
    check_blocks(blocks, CONTENT, ranges=10)
    assert web.connections <= 4


CHUNKED = {"Transfer-Encoding": "chunked", "Content-Length": ""}


def test_contract_with_less_than_was_asked(web: FakeWeb) -> None:
    web.always = lambda handler, content, start, end: handler.part(content, start, min(end, start + 300_000))
    check_blocks(open_web(web), CONTENT, ranges=10)


def test_small_reads_share_a_block_and_large_ones_bypass_it(web: FakeWeb) -> None:
    blocks = open_web(web)
    for offset in range(0, 100_000, 4096):
        assert read(blocks, offset, 4096) == CONTENT[offset : offset + 4096]
    assert read(blocks, 100, 2 * MIB) == CONTENT[100 : 100 + 2 * MIB]
    assert asked(web) == ["bytes=0-0", f"bytes=0-{MIB - 1}", f"bytes=100-{100 + 2 * MIB - 1}"]


def test_a_large_read_is_cut_into_requests(web: FakeWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mntapi.remote.http.MAX_REQUEST", MIB)
    assert read(open_web(web), 5, 3 * MIB) == CONTENT[5 : 5 + 3 * MIB]
    assert len(web.requests) == 4


def test_one_connection_serves_one_after_the_other(web: FakeWeb) -> None:
    blocks = open_web(web)
    for block in range(3):
        read(blocks, block * MIB, 10)
    assert web.connections == 1


def test_extents(web: FakeWeb) -> None:
    assert list(open_web(web).extents(100, 1000)) == [Extent(100, 1000, ExtentKind.DATA)]


def test_an_empty_file(web: FakeWeb) -> None:
    web.content = b""
    blocks = open_web(web)
    assert (blocks.size, read(blocks, 0, 0)) == (0, b"")
    blocks.close()


# --- opening ---


def status(code: int) -> Fault:
    return lambda handler, *_: handler.answer(code, b"sorry")


def location(target: str, code: int = 302) -> Fault:
    return lambda handler, *_: handler.answer(code, b"", {"Location": target})


def whole(handler: Handler, content: bytes, start: int, end: int) -> None:
    handler.answer(200, content)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (whole, Unsupported, "whole files only"),
        (status(401), Denied, "user and a password"),
        (status(403), Denied, "forbids"),
        (status(404), NotFound, "no such file"),
        (status(400), ReadFailed, "status 400"),
        (status(503), ReadFailed, "status 503"),
        (location("/again"), ReadFailed, "on and on"),
        (location("ftp://127.0.0.1/disk"), Unsupported, "'ftp'"),
        (location("nbd://127.0.0.1/disk"), Denied, "from http to nbd"),
        (lambda handler, *_: handler.answer(302, b""), ReadFailed, "where to"),
        (location("http://h:x/"), ReadFailed, "to what is no URL"),
        (lambda handler, *_: handler.raw(b"SSH-2.0-x\r\n"), ReadFailed, "not HTTP"),
        (
            lambda handler, *_: handler.raw(b"HTTP/1.1 206 x\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"),
            Corrupt,
            "not HTTP|more than",
        ),
        (lambda handler, *_: handler.raw(b"HTTP/1.1 206 x\r\n" + b"X: y\r\n" * 101 + b"\r\n"), ReadFailed, "not HTTP"),
        (lambda handler, *_: handler.raw(b"HTTP/1.1 100 x\r\n\r\n" * 4000), Corrupt, "more than"),
        (lambda handler, *_: handler.raw(b""), ReadFailed, "closed the connection"),
        (lambda handler, *_: handler.raw(b"HTTP/1.1 206 x\r\nContent-Range: bytes 0-0/10"), ReadFailed, "cut off"),
    ],
)
def test_what_is_no_disk(web: FakeWeb, fault: Fault, error: type[MntapiError], words: str) -> None:
    web.always = fault
    with pytest.raises(error, match=words) as caught:
        open_web(web)
    assert caught.value.path is not None
    assert str(caught.value).isprintable()


def test_no_disk_at_all(web: FakeWeb) -> None:
    with pytest.raises(Invalid, match="web server"):
        HttpBlocks.open("nbd://127.0.0.1/disk")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ReadFailed, match="Connection refused") as caught:
            HttpBlocks.open(f"http://127.0.0.1:{sock.getsockname()[1]}/disk", patience=0)
    assert caught.value.reason == "unreachable"


def test_redirects_are_followed_and_remembered(web: FakeWeb) -> None:
    web.faults = [location("/two", code) for code in (301, 302, 303, 307)] + [location(web.url("/five#fragment"), 308)]
    blocks = open_web(web)
    assert read(blocks, 10, 10) == CONTENT[10:20]
    assert [path for path, _ in web.requests][-3:] == ["/two", "/five", "/five"]
    assert blocks.path == web.url()


def test_a_password_is_sent_and_not_shown(web: FakeWeb) -> None:
    """Not to another server either, though the first one sends us there."""
    other = FakeWeb(CONTENT)
    try:
        web.faults = [location(other.url("/there"))]
        blocks = HttpBlocks.open(web.url("/disk?sig=hush", user="user:hu%73h@"))
        assert read(blocks, 0, 4) == CONTENT[:4]
        assert web.requests[0][0] == "/disk?sig=hush"
        assert web.requests[0][1]["Authorization"] == "Basic dXNlcjpodXNo"
        assert not any("Authorization" in headers for _, headers in other.requests)
        assert blocks.path == web.url("/disk?sig=***")
        other.always = status(500)
        with pytest.raises(ReadFailed) as caught:
            HttpBlocks.open(other.url("/x?sig=hush", user="user:hush@"), patience=0)
        assert "hush" not in str(caught.value)
    finally:
        other.stop()


# --- reading ---


def drop(handler: Handler, *_: object) -> None:
    handler.raw(b"")


def cut(handler: Handler, content: bytes, start: int, end: int) -> None:
    """All the headers, half of the body."""
    handler.part(content[: (start + end) // 2], start, end, {"Content-Length": str(end - start), **_range(content, start, end)})
    handler.close_connection = True


def cut_chunk(handler: Handler, content: bytes, start: int, end: int) -> None:
    handler.part(b"", 0, 0, _range(content, start, end) | CHUNKED)
    handler.raw(b"fffff\r\n")


def _range(content: bytes, start: int, end: int) -> dict[str, str]:
    return {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}


PASSING = {"drop": drop, "500": status(500), "503": status(503), "429": status(429), "cut": cut, "cut chunk": cut_chunk}


@pytest.mark.parametrize("name", PASSING)
def test_faults_that_pass(web: FakeWeb, name: str) -> None:
    web.faults = [PASSING[name]]
    blocks = open_web(web, backoff_s=0.001, patience=60)
    web.faults = [PASSING[name]] * 4
    assert read(blocks, MIB, MIB) == CONTENT[MIB : 2 * MIB]
    web.faults = [PASSING[name]] * 4
    assert read(blocks, 5, 10) == CONTENT[5:15]


@pytest.mark.parametrize("name", PASSING)
def test_faults_that_stay(web: FakeWeb, name: str) -> None:
    """The read fails with its place, and others are right afterwards."""
    blocks = open_web(web)
    web.faults = [PASSING[name]] * 2
    with pytest.raises(ReadFailed) as caught:
        read(blocks, 2 * MIB + 100, 10)
    assert (caught.value.path, caught.value.offset) == (web.url(), 2 * MIB)
    assert read(blocks, 2 * MIB + 100, 10) == CONTENT[2 * MIB + 100 :][:10]


def test_nothing_in_time(web: FakeWeb) -> None:
    blocks = open_web(web, timeout_s=0.05)
    release = threading.Event()
    web.always = lambda handler, *_: release.wait(10) and handler.raw(b"")
    with pytest.raises(ReadFailed, match="within") as caught:
        read(blocks, 0, 10)
    release.set()
    assert caught.value.reason == "timeout"


def changes(web: FakeWeb) -> dict[str, Fault | None]:
    return {
        "whole": whole,
        "404": status(404),
        "412": status(412),
        "416": status(416),
        "redirect": location("/login"),
        "etag": lambda handler, content, start, end: handler.part(content, start, end, {"ETag": '"v2"'}),
        "date": lambda handler, content, start, end: handler.part(content, start, end, {"Last-Modified": "now"}),
        "size": lambda handler, content, start, end: handler.part(content + b"x", start, end),
    }


@pytest.mark.parametrize("name", ["whole", "404", "412", "416", "redirect", "etag", "date", "size"])
def test_a_file_that_changes(web: FakeWeb, name: str) -> None:
    """Once seen, nothing is read any more: not from the server, and not from the cache of what was."""
    blocks = open_web(web)
    assert read(blocks, 0, 10) == CONTENT[:10]
    web.faults = [changes(web)[name]]
    with pytest.raises(ReadFailed, match="changed") as caught:
        read(blocks, MIB, 10)
    assert (caught.value.reason, caught.value.path, caught.value.offset) == ("changed", web.url(), MIB)
    for offset, length in ((0, 10), (MIB, 10), (0, 2 * MIB)):
        with pytest.raises(ReadFailed, match="changed"):
            read(blocks, offset, length)
    assert len(web.requests) == 3


def test_a_file_that_is_replaced(web: FakeWeb) -> None:
    """By a server that keeps to the rules: If-Range makes it send the new file whole."""
    blocks = open_web(web)
    web.headers = {"ETag": '"v2"'}
    web.content = CONTENT[::-1]
    with pytest.raises(ReadFailed, match="changed"):
        read(blocks, 0, 10)


def wrong(headers: dict[str, str]) -> Fault:
    return lambda handler, content, start, end: handler.part(content, start, end, headers)


WRONG: dict[str, tuple[Fault, type[MntapiError]]] = {
    "another range": (lambda handler, content, start, end: handler.part(content, start + 1, end), Corrupt),
    "more": (lambda handler, content, start, end: handler.part(content, start, end + 1), Corrupt),
    "no range": (wrong({"Content-Range": ""}), Corrupt),
    "no size": (wrong({"Content-Range": f"bytes 0-{MIB - 1}/*"}), Corrupt),
    "length": (wrong({"Content-Length": "5"}), Corrupt),
    "encoded": (wrong({"Content-Encoding": "gzip"}), Unsupported),
    "multipart": (wrong({"Content-Range": "", "Content-Type": "multipart/byteranges; boundary=x"}), Corrupt),
    "longer chunks": (
        lambda handler, content, start, end: (
            handler.part(b"", 0, 0, _range(content, start, end) | CHUNKED),
            handler.raw(b"%x\r\n%s\r\n1\r\nx\r\n0\r\n\r\n" % (end - start, content[start:end])),
        )[1],
        Corrupt,
    ),
    "no chunks": (
        lambda handler, content, start, end: (
            handler.part(b"", 0, 0, _range(content, start, end) | CHUNKED),
            handler.raw(b"zz\r\n"),
        )[1],
        ReadFailed,
    ),
    "endless chunk size": (
        lambda handler, content, start, end: (
            handler.part(b"", 0, 0, _range(content, start, end) | CHUNKED),
            handler.raw(b"0" * 70_000),
        )[1],
        Corrupt,
    ),
    "crumbs": (lambda handler, content, start, end: handler.part(content, start, start + 1), Corrupt),
    "forbidden": (status(403), Denied),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_an_error_and_the_next_read_is_right(web: FakeWeb, name: str) -> None:
    blocks = open_web(web)
    fault, error = WRONG[name]
    web.always = fault
    with pytest.raises(error) as caught:
        read(blocks, 3, 10)
    assert caught.value.path == web.url()
    assert caught.value.offset is not None
    web.always = None
    assert read(blocks, 3, 10) == CONTENT[3:13]


# --- connections made elsewhere ---


def test_a_process_that_may_not_connect(web: FakeWeb) -> None:
    """It reads over what it has; when the server hangs up that is an I/O error with a hint, not a missing file."""
    allowed = [2]

    def connect(endpoint: Endpoint) -> socket.socket:
        if not allowed[0]:
            raise Denied("connecting is not permitted here", hint="a hint")
        allowed[0] -= 1
        return dial(endpoint)

    blocks = open_web(web, connect=connect)
    check_blocks(blocks, CONTENT, ranges=20)
    web.always = drop
    blocks._cache.clear()
    for _ in range(3):
        with pytest.raises(ReadFailed) as caught:
            read(blocks, 0, 10)
    assert caught.value.what.startswith("cannot be connected to again: connecting is not permitted")
    assert caught.value.hint == "a hint"


# --- the cache ---


def test_a_block_is_fetched_once_however_many_wait() -> None:
    loaded: list[int] = []
    entered, release = threading.Event(), threading.Event()

    def load(index: int) -> bytes:
        loaded.append(index)
        entered.set()
        release.wait(10)
        return bytes([index])

    cache = BlockCache(load, 2)
    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(cache.block, 7) for _ in range(8)]
        entered.wait(10)
        release.set()
        assert {one.result(10) for one in waiting} == {b"\7"}
    assert loaded == [7]


def test_the_least_recently_used_block_goes_first() -> None:
    loaded: list[int] = []

    def load(index: int) -> bytes:
        loaded.append(index)
        return bytes([index])

    cache = BlockCache(load, 2)
    for index in (1, 2, 1, 3, 1, 2):
        assert cache.block(index) == bytes([index])
    assert loaded == [1, 2, 3, 2]


def test_a_failure_is_for_all_who_wait_and_not_kept() -> None:
    entered, release = threading.Event(), threading.Event()
    fails = [True]

    def load(index: int) -> bytes:
        entered.set()
        release.wait(10)
        if fails:
            raise ReadFailed("no")
        return b"x"

    cache = BlockCache(load, 2)
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(cache.block, 0)
        entered.wait(10)
        others = [threads.submit(cache.block, 0) for _ in range(3)]
        release.set()
        for one in (first, *others):
            assert isinstance(one.exception(10), ReadFailed)
    fails.clear()
    assert cache.block(0) == b"x"


# --- https ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def secure(certificate: tuple[Path, Path]) -> Iterator[FakeWeb]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = FakeWeb(CONTENT[:MIB], context)
    yield server
    server.stop()


@pytest.fixture
def trusted(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    tls_context.cache_clear()
    yield
    tls_context.cache_clear()


@pytest.mark.usefixtures("trusted")
def test_https(secure: FakeWeb) -> None:
    blocks = open_remote(secure.url())
    check_blocks(blocks, CONTENT[:MIB], ranges=20)
    assert secure.requests[0][1]["Host"] == f"localhost:{secure.port}"
    check_closed(blocks)


def test_a_certificate_nobody_vouches_for(secure: FakeWeb) -> None:
    tls_context.cache_clear()
    with pytest.raises(Denied, match="certificate is not accepted") as caught:
        HttpBlocks.open(secure.url(), patience=0)
    assert caught.value.reason == "tls"
    assert not secure.requests


@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_another_host(secure: FakeWeb) -> None:
    with pytest.raises(Denied, match="certificate is not accepted"):
        HttpBlocks.open(secure.url().replace("localhost", "127.0.0.1"), patience=0)


@pytest.mark.usefixtures("trusted")
def test_https_to_http_is_refused_and_the_other_way_is_not(secure: FakeWeb, web: FakeWeb) -> None:
    secure.faults = [location(web.url())]
    with pytest.raises(Denied, match="from https to http") as caught:
        HttpBlocks.open(secure.url())
    assert caught.value.reason == "redirect"
    web.faults = [location(secure.url())]
    assert read(HttpBlocks.open(web.url()), 0, 10) == CONTENT[:10]


def test_encryption_with_who_does_not_speak_it(web: FakeWeb) -> None:
    with pytest.raises(ReadFailed, match="encryption cannot be agreed on") as caught:
        HttpBlocks.open(web.url().replace("http:", "https:"), patience=0, timeout_s=5)
    assert caught.value.reason == "tls"


def test_authorities_are_loaded_before_they_are_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From a folder of them, which OpenSSL would read only when a certificate is checked."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    paths = ssl.get_default_verify_paths()
    if paths.cafile is not None or paths.capath is None:
        pytest.skip("this system has no folder of certificate authorities")
    tls_context.cache_clear()
    assert len(tls_context().get_ca_certs()) > 10
    tls_context.cache_clear()
