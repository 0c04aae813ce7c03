"""What a command says, and ends with, when a server does not do what it should. The servers are real sockets of ours."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.http_fake import FakeWeb, Handler
from contract.make_disk import RealDisk
from mntapi.cli.main import AWAY, CORRUPT, DENIED, NOT_FOUND
from mntapi.remote.retry import PATIENCE_VARIABLE
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
        (416, CORRUPT, DAMAGE),
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
