"""What ``umount`` says where the kernel says no more than EBUSY. What is real about it: tests/real/test_umount_busy.py."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mntapi.errors import Busy
from mntapi.kernel.process import start_time
from mntapi.session.flushing import is_stopped
from mntapi.session.journal import ProcessId, Record
from mntapi.session.teardown import _explained, _state


def record_of(pid: int) -> Record:
    worker = ProcessId(pid, start_time(pid))
    return Record("id", "/mnt", ["disk"], "volumes", "user", None, "2026-01-01T00:00:00+00:00", worker=worker, ready=True)


def test_nobody_is_seen(tmp_path: Path) -> None:
    """Not: another user's process, or a swap file. It may as well be one that waits for an answer."""
    error = Busy("is in use: somebody we cannot see", path=str(tmp_path), reason="in-use")
    explained = _explained(error, record_of(os.getpid()))
    assert f"an answer of process {os.getpid()}" in explained.what and "server" in str(explained.hint)
    assert (explained.path, explained.reason) == (str(tmp_path), "in-use")


def test_what_is_seen_or_is_no_use_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = record_of(os.getpid())
    monkeypatch.chdir(tmp_path)
    seen = Busy("is in use: python", path=str(tmp_path), reason="in-use")
    other = Busy("something else is mounted over it", path=str(tmp_path))
    without_worker = record_of(os.getpid())
    without_worker.worker = None
    assert _explained(seen, mine) is seen and _explained(other, mine) is other and _explained(seen, without_worker) is seen


def test_a_process_that_has_ended() -> None:
    process = subprocess.Popen(["sleep", "60"])
    record = record_of(process.pid)
    assert record.worker is not None and not is_stopped(record.worker)
    process.kill()
    process.wait()
    assert not is_stopped(record.worker)
    assert _state(record) == ("dead", "its worker has ended")
    record = record_of(os.getpid())
    assert _state(record) == ("dead", "nothing of it is mounted any more")
