"""What ``umount`` says where the kernel says no more than EBUSY. What is real about it: tests/real/test_umount_busy.py."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mntapi.errors import Busy
from mntapi.kernel.process import start_time
from mntapi.session import teardown
from mntapi.session.flushing import is_stopped
from mntapi.session.journal import Entry, ProcessId, Record
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


@pytest.mark.parametrize(("refusals", "is_undone"), [(1, True), (3, True), (4, False)])
def test_who_was_only_passing_does_not_keep_a_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int, is_undone: bool
) -> None:
    """``df`` is in every mount for a moment; nobody who stays is waited for longer than that."""
    answers = [Busy("is in use", path=str(tmp_path), reason="in-use")] * refusals

    def undo(entry: Entry, *, force: bool) -> tuple[str, ...]:
        if answers:
            raise answers.pop()
        return ("undone",)

    monkeypatch.setattr(teardown, "undo", undo)
    monkeypatch.setattr(teardown, "_PASSING_S", (0.0, 0.0, 0.0))
    entry = Entry(tmp_path, record_of(os.getpid()), -1)
    if is_undone:
        assert teardown._undo_when_free(entry, False) == ("undone",)
    else:
        with pytest.raises(Busy, match="cannot be seen"):
            teardown._undo_when_free(entry, False)
        assert not answers


def test_somebody_who_is_seen_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def undo(entry: Entry, *, force: bool) -> tuple[str, ...]:
        asked.append(entry)
        raise Busy("is in use: python", path=str(tmp_path), reason="in-use")

    monkeypatch.setattr(teardown, "undo", undo)
    monkeypatch.setattr(teardown.kernel_mount, "holders", lambda path: ("python (1)",))
    with pytest.raises(Busy, match="python"):
        teardown._undo_when_free(Entry(tmp_path, record_of(os.getpid()), -1), False)
    assert len(asked) == 1
