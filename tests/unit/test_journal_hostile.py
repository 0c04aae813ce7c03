"""A run directory in which something went wrong: nothing in it may keep ``ps`` or ``clean`` waiting, or end them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mntapi.cli.ps import _as_object, _row
from mntapi.errors import Busy, Corrupt, Unsupported
from mntapi.session import journal, teardown
from mntapi.session.journal import Record


@pytest.fixture(autouse=True)
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(journal.RUN_DIR_VARIABLE, str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)
    return tmp_path / "run"


def record_of(**changed: object) -> dict[str, object]:
    fields: dict[str, object] = {"id": "odd", "mountpoint": "/mnt/a", "disks": ["/d/a.vmdk"], "layout": "volumes"}
    return {**fields, "via": "user", "volume": None, "created": "2026-11-22", "worker": None, "steps": [], **changed}


def write(folder: Path, **changed: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "mount.json").write_text(json.dumps(record_of(**changed)))
    return folder


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def _link(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, _sparse, _link], ids=["fifo", "folder", "1 GiB", "link to a device"])
def test_what_is_no_plain_file_is_no_record(run_dir: Path, make: Callable[[Path], None]) -> None:
    (run_dir / "odd").mkdir()
    make(run_dir / "odd" / "mount.json")
    with pytest.raises(Corrupt):
        journal.load(run_dir / "odd")
    assert teardown.statuses() == []
    assert teardown.clean().errors == []
    assert not (run_dir / "odd").exists()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "\udcff",
        json.dumps(record_of(disks=[])),
        json.dumps(record_of(disks=7)),
        json.dumps(record_of(disks=[None])),
        json.dumps(record_of(overlays=None)),
        json.dumps(record_of(mountpoint=None)),
        json.dumps(record_of(worker={"pid": "1", "start_ticks": 2})),
        json.dumps(record_of(worker=7)),
        json.dumps(record_of(steps=[7])),
        json.dumps(record_of(volume=7)),
        json.dumps(record_of(ready="yes")),
    ],
)
def test_records_of_the_wrong_shape(run_dir: Path, text: str) -> None:
    (run_dir / "odd").mkdir()
    (run_dir / "odd" / "mount.json").write_bytes(os.fsencode(text))
    with pytest.raises(Corrupt):
        journal.load(run_dir / "odd")
    assert teardown.statuses() == []


def test_a_lock_that_is_no_file_keeps_nobody_waiting(run_dir: Path) -> None:
    folder = write(run_dir / "odd")
    os.mkfifo(folder / "lock")
    with journal.claim("odd"), pytest.raises(Busy), journal.claim("odd"):
        pass
    (folder / "lock").unlink()
    (folder / "lock").symlink_to("/dev/null")
    assert [status.state for status in teardown.statuses()] == ["dead"]
    assert [record.id for record, _ in teardown.clean().errors] == ["odd"]
    (folder / "mount.json").unlink()
    assert teardown.clean().errors == [] and folder.exists()


def test_a_step_of_another_version_is_left_alone_and_said(run_dir: Path) -> None:
    folder = write(run_dir / "odd", steps=[["fuse", "/nowhere"], ["dm", "/dev/mapper/x"]])
    (folder / "lock").touch()
    assert teardown.prune() == []
    assert [status.state for status in teardown.statuses()] == ["dead"]
    [(record, error)] = teardown.clean().errors
    assert record.id == "odd" and isinstance(error, Unsupported) and "'dm'" in str(error) and error.hint
    with pytest.raises(Unsupported):
        teardown.unmount("odd")
    assert folder.exists()


def test_ps_stays_readable_with_many_disks() -> None:
    disks = [f"/very/long/folder/of/machines/web01-disk{index}.vmdk" for index in range(64)]
    record = Record("id", "/mnt", disks, "volumes", "user", None, "2026-11-22T10:00:00+00:00")
    row = _row(teardown.Status(record, "ready", None, None))
    assert row[-1] == f"{disks[0]}, {disks[1]} and 62 more"
    assert _as_object(teardown.Status(record, "ready", None, None))["disks"] == disks
    record.disks = disks[:2]
    assert _row(teardown.Status(record, "ready", None, None))[-1] == ", ".join(disks[:2])
