"""What a mount's processes say of themselves in their logs, and what ``ps`` makes of it.

The logs are those of the real processes: ``logging`` as they set it up, a real dialer, the handlers of a real writer.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from mntapi import health
from mntapi.blocks.memory_overlay import MemoryOverlay, Room
from mntapi.blocks.zero import Zero
from mntapi.cli import ps
from mntapi.errors import Corrupt, ReadFailed
from mntapi.health import MAX_CHANGES, Health
from mntapi.remote.dial import ConnectionLost
from mntapi.remote.retry import Retries
from mntapi.session.health import impairments
from mntapi.session.journal import RUN_DIR_VARIABLE, Record
from mntapi.session.teardown import Status
from mntapi.units import MIB
from mntapi_fuse import protocol
from mntapi_fuse.blockfs import BlockFs
from mntapi_fuse.failures import Failures
from mntapi_fuse.operations import ROOT
from mntapi_fuse.protocol import Opcode
from mntapi_fuse.writing import Writer


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path))
    (tmp_path / "1234").mkdir()
    return Record("1234", "/mnt", ["/disk"], "blocks", "user", None, "2026-11-22T20:00:00+00:00", overlays=["/o.qcow2"])


@pytest.fixture
def worker_log(record: Record, tmp_path: Path) -> Iterator[Path]:
    """The log as ``worker.main`` sets it up."""
    path = tmp_path / "1234/worker.log"
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    health.log.addHandler(handler)
    yield path
    health.log.removeHandler(handler)
    handler.close()


def test_it_fails_and_works_again(record: Record, worker_log: Path) -> None:
    assert impairments(record) == []
    one, other = Health("one"), Health("other", calm=3)
    one.worked()
    one.failed("no\nroom \x1b[31m")
    one.failed("no room, once more")
    other.failed("away")
    assert impairments(record) == [r"no\nroom \x1b[31m", "away"]
    one.worked()
    for _ in range(2):
        other.worked()
    assert impairments(record) == ["away"]
    other.failed("away again")
    for _ in range(3):
        assert impairments(record) == ["away"]
        other.worked()
    assert impairments(record) == []
    assert len(worker_log.read_text().splitlines()) == 4


def test_what_fails_all_the_time_does_not_fill_the_log(record: Record, worker_log: Path) -> None:
    one = Health("one")
    for _ in range(2 * MAX_CHANGES):
        one.failed("no room")
        one.worked()
    assert len(worker_log.read_text().splitlines()) == 2 * MAX_CHANGES - 1
    assert impairments(record) == ["no room"]


def test_logs_of_others(record: Record, tmp_path: Path) -> None:
    """Only the end is looked at, only lines of ours count, and nothing but a plain file is waited for."""
    log, line = tmp_path / "1234/worker.log", b"2026-11-22 20:00:00,123 WARNING mntapi.health: one: away\n"
    log.write_bytes(b"\xff\n" + line + b"y" * (100 << 10) + b"\n")
    assert impairments(record) == []
    log.write_bytes(b"one: away\n" + line.replace(b"WARNING", b"INFO") + b"x" * (100 << 10) + b"\n" + line)
    assert impairments(record) == ["away"]
    log.unlink()
    os.mkfifo(log)
    assert impairments(record) == []
    log.unlink()
    log.symlink_to("/dev/zero")
    assert impairments(record) == []
    log.unlink()
    log.mkdir()
    assert impairments(record) == []


def request(opcode: Opcode, body: bytes) -> memoryview:
    return memoryview(bytes(protocol.HEADER.size) + body)


def test_a_full_overlay(record: Record, worker_log: Path) -> None:
    overlay = MemoryOverlay(Zero(MIB), Room(3 * 65536))
    tree = BlockFs({"disks": {"disk0": overlay}})
    writer, node = Writer(tree), tree.lookup(ROOT + 1, b"disk0").number
    reply = memoryview(bytearray(4096))

    def write(offset: int) -> None:
        body = protocol.WRITE_IN.pack(0, offset, 4) + b"data"
        writer.handlers[Opcode.WRITE](node, request(Opcode.WRITE, body), reply)

    for number in range(3):
        write(number * 65536)
    assert impairments(record) == []
    with pytest.raises(Exception, match="full") as caught:
        write(3 * 65536)
    assert getattr(caught.value, "errno", 0) == errno.ENOSPC
    [told] = impairments(record)
    assert told.startswith("writes fail: ") and "full" in told
    for _ in range(63):
        write(5)  # what has its room already
    assert impairments(record) == [told]
    writer.handlers[Opcode.FSYNC](node, request(Opcode.FSYNC, b""), reply)
    assert impairments(record) == []


def test_a_server_that_is_away(record: Record, worker_log: Path) -> None:
    """From the read on that gave up, until one has an answer; what the server says of a bad sector is no trouble with it."""
    one, two = (Retries(patience_s=0, backoff_s=0, name=f"nbd://nas/{name}") for name in "xy")

    def ask(error: ReadFailed | None, retries: Retries = one) -> None:
        def answer(_: bool) -> None:
            if error:
                raise error

        with suppress(ReadFailed):
            retries.run(answer)

    ask(ReadFailed("cannot read this sector", reason="server-error"))
    assert impairments(record) == []
    ask(ConnectionLost("did not answer", reason="timeout"))
    ask(ConnectionLost("hung up", reason="dropped"), two)
    assert impairments(record) == ["reads fail: nbd://nas/x: did not answer", "reads fail: nbd://nas/y: hung up"]
    ask(None, two)
    ask(ReadFailed("cannot read this sector", reason="server-error"))
    assert impairments(record) == ["reads fail: nbd://nas/x: did not answer"]
    ask(None)
    assert impairments(record) == []
    ask(ReadFailed("the file changed", reason="changed"))
    assert impairments(record) == ["reads fail: nbd://nas/x: the file changed"]


def test_what_a_server_will_give_later_is_not_remembered() -> None:
    failures = Failures()
    failures.failed(5, ReadFailed("did not answer", path="nbd://nas/x", reason="timeout"), 0, 4096)
    failures.failed(6, Corrupt("is damaged"))
    assert failures.reason(5) is None and failures.reason(6) == "damaged"


def test_ps_tells(record: Record, worker_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(state: str, reason: str | None = None) -> str:
        monkeypatch.setattr(ps, "prune", list)
        monkeypatch.setattr(ps, "statuses", lambda: [Status(record, state, None, reason)])
        return CliRunner().invoke(ps.command, []).output

    assert "ready" in told("ready") and "/disk, written to /o.qcow2" in told("ready")
    Health("one").failed("no room")
    assert "1234 is impaired: no room" in told("ready") and "ready" not in told("ready")
    assert "1234 is impaired: stopped; no room" in told("impaired", "stopped")
    assert "no room" not in told("dead") + told("starting")
    worker_log.write_bytes(worker_log.read_bytes().replace(b"no room", b"no \x1b[31mroom"))
    assert "\x1b" not in told("ready")
