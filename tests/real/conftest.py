"""Fixtures of the tests with real mounts: a disk, a run directory of their own, and the proof that nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from contract.make_disk import RealDisk, make_disk

ROOT = os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "root" in item.keywords and not ROOT:
            item.add_marker(pytest.mark.skip(reason="needs root and /dev/fuse"))


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> RealDisk:
    return make_disk(tmp_path_factory.mktemp("disk"))


class Mntapi:
    """The command, as a user runs it, with a run directory of its own."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        state = str(run_dir.with_name(f"{run_dir.name}-state"))
        self.environment = {**os.environ, "MNTAPI_RUN_DIR": str(run_dir), "MNTAPI_STATE_DIR": state}
        self.argv = [sys.executable, "-m", "mntapi.cli.entry"]

    def start(self, *arguments: object, **options: object) -> subprocess.Popen:
        return subprocess.Popen([*self.argv, *map(str, arguments)], env=self.environment, **options)

    def __call__(self, *arguments: object, code: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [*self.argv, *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=120,
        )
        assert done.returncode == code, (arguments, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: object, code: int = 0) -> object:
        return json.loads(self(*arguments, "--json", code=code).stdout)

    def workers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            is_worker = "mntapi_fuse.worker" in (process.info["cmdline"] or [])
            if is_worker and process.status() != psutil.STATUS_ZOMBIE and self._is_ours(process):
                found.append(process)
        return found

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("MNTAPI_RUN_DIR") == str(self.run_dir)
        except psutil.NoSuchProcess:
            return False


def mounts_below(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]


def loops_below(folder: Path) -> list[str]:
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if path.read_text().startswith(str(folder)):
                found.append(path.parts[3])
        except OSError:
            continue  # detached between the two looks
    return found


@pytest.fixture
def mntapi(tmp_path: Path) -> Iterator[Mntapi]:
    """The command; afterwards no mount, loop device, worker or run folder may be left."""
    command = Mntapi(tmp_path / "run")
    yield command
    mounts, loops, workers = mounts_below(tmp_path), loops_below(tmp_path), command.workers()
    left = sorted(path.name for path in command.run_dir.iterdir()) if command.run_dir.is_dir() else []
    command_line = [*command.argv, "clean"]
    for worker in workers:
        worker.kill()
    subprocess.run(command_line, env=command.environment, capture_output=True, timeout=60)
    assert (mounts, loops, workers, left) == ([], [], [], [])


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


@pytest.fixture
def mounted(mntapi: Mntapi, target: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a set on ``target`` and unmounts it after the test."""

    def mount(*arguments: object) -> Path:
        mntapi("mount", *arguments, target)
        return target

    yield mount
    mntapi("umount", target)
