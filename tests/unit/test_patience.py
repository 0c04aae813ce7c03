"""How long opening a disk on a server takes at most, and that who waits is told. No clock runs here but a fake one."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.http_fake import FakeWeb
from mntapi.errors import Failed, Invalid, ReadFailed
from mntapi.remote import patience
from mntapi.remote.dial import ConnectionLost, dial
from mntapi.remote.http import HttpBlocks
from mntapi.remote.patience import PATIENCE_VARIABLE, told, waiting
from mntapi.remote.retry import Deadline, opened
from mntapi.remote.urls import Endpoint
from mntapi.session.launch import Worker
from mntapi.types import DiskSpec, OpenOptions


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses so far, which are all the time that passes."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: sum(pauses))
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def test_a_server_that_is_silent_is_waited_for_once(slept: list[float]) -> None:
    asked: list[float] = []

    def silent(deadline: Deadline) -> None:
        asked.append(deadline.left(100))
        slept.append(asked[-1])
        raise ConnectionLost("said nothing", reason="timeout")

    with pytest.raises(ConnectionLost, match="said nothing"):
        opened("http://nas/x", silent, patience_s=30, backoff_s=0.25)
    assert asked == [30]


@pytest.mark.parametrize(("patience_s", "pauses"), [(0, []), (1, [0.25, 0.5]), (30, [0.25, 0.5, 1.0])])
def test_one_that_hangs_up_is_asked_again_for_a_moment(slept: list[float], patience_s: float, pauses: list[float]) -> None:
    def hangs_up(deadline: Deadline) -> None:
        raise ConnectionLost("hung up", reason="dropped")

    with pytest.raises(ConnectionLost):
        opened("http://nas/x", hangs_up, patience_s=patience_s, backoff_s=0.25)
    assert slept == pauses


def test_redirects_share_the_time(slept: list[float]) -> None:
    deadline = Deadline(5)
    assert deadline.left(2) == 2
    slept.append(4)
    assert deadline.left(2) == 1
    slept.append(1)
    with pytest.raises(ConnectionLost, match="in time") as caught:
        deadline.left(2)
    assert caught.value.reason == "timeout"


def test_a_stopped_web_server_is_asked_once() -> None:
    web, release = FakeWeb(b"x" * 512), threading.Event()
    web.always = lambda handler, *_: release.wait(10) and handler.raw(b"")
    try:
        with pytest.raises(ReadFailed, match=r"within 0\.05 s"):
            HttpBlocks.open(web.url(), timeout_s=0.05, patience=30)
        assert len(web.requests) <= 1
    finally:
        release.set()
        web.stop()


def test_connecting_heeds_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, "soon")
    with pytest.raises(Invalid, match=PATIENCE_VARIABLE):
        dial(Endpoint("127.0.0.1", 1))


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.event = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        self.event.set()


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Heard]:
    """What is said; whoever waits at all is told at once."""
    handler = _Heard()
    patience.log.addHandler(handler)
    monkeypatch.setattr(patience, "NOTICE_S", 0.0)
    yield handler
    patience.log.removeHandler(handler)


def test_who_waits_is_told_once_for_whom(heard: _Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    with told(waiting("http://nas/x", 30)):
        assert heard.event.wait(30)
    monkeypatch.setattr(patience, "NOTICE_S", 3600.0)
    with told(waiting("http://quick/x", 30)):
        pass
    assert heard.said == ["note: waiting for http://nas/x, at most 30 s"]


def test_the_command_that_waits_for_its_worker_says_so(heard: _Heard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, "7")
    log = tmp_path / "log"
    worker = Worker.start([sys.executable, "-c", "import os, sys; os.read(int(sys.argv[1]), 1 << 16)"], log)
    specs = [DiskSpec(f"http://user:hush@nas/{name}") for name in "abc"]
    try:
        with pytest.raises(Failed):  # it reads what it is to do, and ends
            worker.open([*specs, DiskSpec("/d")], OpenOptions(), "kernel")
    finally:
        worker.close()
        worker.wait()
    with worker._patience(specs, OpenOptions()):
        assert heard.event.wait(30)
    assert heard.said[-1].endswith("at most 7 s: http://nas/a, http://nas/b and 1 more")
    heard.said.clear()
    with worker._patience([DiskSpec("/d")], OpenOptions()):
        assert not heard.said
