"""The memory of mounts: whole or absent, locked while in hand, private."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mntapi.errors import Busy, Corrupt, Denied, NotFound
from mntapi.session import journal
from mntapi.session.journal import ProcessId, Record


@pytest.fixture(autouse=True)
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(journal.RUN_DIR_VARIABLE, str(tmp_path / "run"))
    return tmp_path / "run"


def new_record(mountpoint: str = "/mnt/a") -> Record:
    return Record("", mountpoint, ["/d/web01.vmdk"], "volumes", "user", None, "2026-11-22T10:00:00+00:00")


def test_a_record_survives_its_writer(run_dir: Path) -> None:
    with journal.create(new_record()) as entry:
        entry.record.worker = ProcessId(42, 4711)
        entry.step("fuse", "/mnt/a")
    [found] = journal.records()
    assert found == entry.record and found.worker == ProcessId(42, 4711) and found.steps == [("fuse", "/mnt/a")]
    assert run_dir.stat().st_mode & 0o777 == 0o700


def test_an_entry_in_hand_is_busy_and_then_free() -> None:
    with journal.create(new_record()) as entry, pytest.raises(Busy), journal.claim(entry.record.id):
        pass
    with journal.claim(entry.record.id) as again:
        again.remove()
    assert journal.records() == []
    with pytest.raises(NotFound), journal.claim(entry.record.id):
        pass


def test_a_lock_dies_with_its_process() -> None:
    with journal.create(new_record()) as entry:
        identifier = entry.record.id
    child = os.fork()
    if child == 0:
        with journal.claim(identifier):
            os._exit(0)
    os.waitpid(child, 0)
    with journal.claim(identifier):
        assert journal.load(entry.folder).id == identifier


def test_damaged_records_are_wrecks(run_dir: Path) -> None:
    for name, text in (
        ("empty", None),
        ("torn", '{"id": "torn", "mount'),
        ("other", "[]"),
        ("fields", '{"worker": null, "steps": []}'),
    ):
        (run_dir / name).mkdir(parents=True)
        run_dir.chmod(0o700)
        if text is not None:
            (run_dir / name / "mount.json").write_text(text)
    assert journal.records() == []
    assert sorted(folder.name for folder in journal.wrecks()) == ["empty", "fields", "other", "torn"]
    with pytest.raises(Corrupt):
        journal.load(run_dir / "torn")
    for folder in journal.wrecks():
        journal.remove_wreck(folder)
    assert journal.wrecks() == []


def test_a_wreck_that_is_being_written_is_left(run_dir: Path) -> None:
    with journal.create(new_record()) as entry:
        (entry.folder / "mount.json").unlink()
        journal.remove_wreck(entry.folder)
        assert entry.folder.is_dir()
        entry.save()
    journal.remove_wreck(entry.folder)
    assert entry.folder.is_dir()


def test_a_run_dir_others_can_write_to_is_refused(run_dir: Path) -> None:
    run_dir.mkdir()
    run_dir.chmod(0o777)
    with pytest.raises(Denied):
        journal.run_dir()


def test_where_the_run_dir_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(journal.RUN_DIR_VARIABLE)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert journal._run_dir_path() == Path("/run/user/1000/mntapi")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert journal._run_dir_path().name == "mntapi-1000"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert journal._run_dir_path() == Path("/run/mntapi")


def test_the_source_tells_the_mount_and_is_readable() -> None:
    record = Record("3f2a9c1b", "/mnt", ["/d/web 01\n.vmdk"], "volumes", "user", None, "")
    assert journal.source_of(record) == "mntapi:3f2a9c1b:web 01\\n.vmdk"
