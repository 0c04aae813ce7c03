"""What a command says, and ends with, when a server does not do what it should. The servers are real sockets of ours."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.http_fake import FakeWeb, Handler
from contract.make_disk import RealDisk
from mntapi.cli.main import AWAY, CORRUPT, DENIED, NOT_FOUND
from mntapi.remote.patience import PATIENCE_VARIABLE
from real.conftest import Mntapi
from real.network_servers import listen_tcp

DAMAGE = "another backup"
"""A word of the hint that goes with damage."""


@pytest.fixture
def web(disk: RealDisk, mntapi: Mntapi) -> Iterator[FakeWeb]:
    mntapi.environment[PATIENCE_VARIABLE] = "0"
    server = FakeWeb(disk.vmdk.read_bytes())
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (400, AWAY, "does not serve this"),
        (401, DENIED, "USER:PASSWORD"),
        (403, DENIED, "signature"),
        (404, NOT_FOUND, "URL right"),
        (416, AWAY, "may be empty"),
        (429, AWAY, "later"),
        (500, AWAY, "later"),
        (503, AWAY, "later"),
    ],
)
def test_a_status_that_means_no(mntapi: Mntapi, web: FakeWeb, status: int, code: int, hint: str) -> None:
    web.always = lambda handler, *_: handler.answer(status, b"")
    said = mntapi("info", web.url(), code=code).stderr
    assert f"status {status}" in said and hint in said.splitlines()[-1]


@pytest.mark.parametrize("scheme", ["http", "nbd"])
@pytest.mark.parametrize("verb", ["info", "ls", "convert"])
def test_nobody_listens(mntapi: Mntapi, tmp_path: Path, scheme: str, verb: str) -> None:
    mntapi.environment[PATIENCE_VARIABLE] = "0"
    more = [tmp_path / "out", "--format", "raw"] if verb == "convert" else []
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        said = mntapi(verb, f"{scheme}://127.0.0.1:{sock.getsockname()[1]}/disk", *more, code=AWAY).stderr
    assert "refused" in said and "is the server running" in said and DAMAGE not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("url", ["http://nobody.invalid/disk", "nbd://nobody.invalid/disk", "nbd+unix:///disk?socket=absent"])
def test_a_server_that_there_is_not(mntapi: Mntapi, url: str) -> None:
    """Whether a name server says so or there is none (RFC 6761: no host is called ``.invalid``)."""
    mntapi.environment[PATIENCE_VARIABLE] = "0"
    said = mntapi("info", url, code=AWAY).stderr
    assert "nobody.invalid" in said or "there is no socket" in said
    assert DAMAGE not in said and "mntapi info shows" not in said


@pytest.mark.parametrize("scheme", ["http", "nbd"])
def test_another_kind_of_server(mntapi: Mntapi, scheme: str) -> None:
    with listen_tcp() as sock:
        client = mntapi.start("info", f"{scheme}://127.0.0.1:{sock.getsockname()[1]}/disk", stderr=-1, text=True)
        connection, _ = sock.accept()
        with connection:
            connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
            said = client.communicate(timeout=60)[1]
    assert client.returncode == AWAY and "Something else answers there" in said


def test_a_server_that_does_not_keep_to_its_protocol(mntapi: Mntapi, web: FakeWeb) -> None:
    """The bytes contradict their format, and it is not the disk's."""
    web.always = lambda handler, *_: handler.answer(206, b"x", {"Content-Range": "bytes 7-7/9"})
    said = mntapi("info", web.url(), code=CORRUPT).stderr
    assert DAMAGE not in said and "does not keep to its protocol" in said


def test_redirects_that_lead_nowhere(mntapi: Mntapi, web: FakeWeb) -> None:
    for location in ("/again", "http://h:x/"):
        web.always = lambda handler, *_, location=location: handler.answer(302, b"", {"Location": location})
        assert "the web server redirects" in mntapi("info", web.url(), code=AWAY).stderr


def test_a_server_that_hangs_up(mntapi: Mntapi) -> None:
    with listen_tcp() as sock:
        client = mntapi.start("info", f"nbds://127.0.0.1:{sock.getsockname()[1]}", stderr=-1, text=True)
        connection, _ = sock.accept()
        connection.close()
        assert DAMAGE not in client.communicate(timeout=60)[1] and client.returncode == AWAY


def test_a_server_that_goes_away_meanwhile(mntapi: Mntapi, web: FakeWeb, tmp_path: Path) -> None:
    mntapi("info", web.url())
    web.faults = [Handler.well] * (len(web.requests) - 1)  # not quite as many as opening takes
    web.always = lambda handler, *_: handler.answer(503, b"")
    said = mntapi("convert", web.url(), tmp_path / "out", "--format", "raw", code=AWAY).stderr
    assert "status 503" in said and "at byte" in said and DAMAGE not in said
    assert list(tmp_path.glob("out*")) == [] and list(tmp_path.glob(".mntapi*")) == []


@pytest.mark.root
def test_mounting_what_nobody_serves(mntapi: Mntapi, web: FakeWeb, target: Path) -> None:
    web.always = lambda handler, *_: handler.answer(503, b"")
    said = mntapi("mount", web.url(), target, code=AWAY).stderr
    assert "status 503" in said and DAMAGE not in said


def test_hints_name_no_option_that_the_verb_lacks(mntapi: Mntapi, disk: RealDisk, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.touch()
    assert "--overwrite" not in mntapi("info", disk.vmdk, "--svg", there, code=DENIED).stderr
    assert "--overwrite" in mntapi("convert", disk.vmdk, there, "--format", "raw", code=DENIED).stderr
