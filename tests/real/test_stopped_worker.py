"""Taking a mount away whose worker somebody stopped, with changes that may not have reached the overlay."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.make_disk import RealDisk

pytestmark = pytest.mark.root


@pytest.mark.parametrize("how", [("--layout", "blocks"), ("--via", "kernel")], ids=["blocks", "kernel"])
def test_it_keeps_nobody_waiting(mntapi, disk: RealDisk, target: Path, tmp_path: Path, how: tuple[str, str]) -> None:
    mntapi("mount", disk.vmdk, target, *how, "--overlay", tmp_path / "overlay.qcow2")
    [worker] = mntapi.workers()
    worker.suspend()
    try:
        said = mntapi("umount", target, code=5).stderr
        assert f"process {worker.pid}" in said and "stopped" in said and f"kill -CONT {worker.pid}" in said
        assert [one["state"] for one in mntapi.json("ps")] == ["impaired"]
    finally:
        worker.resume()
    mntapi("umount", target)


def test_force_says_what_it_gives_up_once(mntapi, disk: RealDisk, target: Path, tmp_path: Path) -> None:
    mntapi("mount", disk.vmdk, target, "--layout", "blocks", "--overlay", tmp_path / "overlay.qcow2")
    [worker] = mntapi.workers()
    worker.suspend()
    said = mntapi("umount", "--force", target).stderr
    assert said.count("may not be in the overlay") == 1 and "still in use" not in said
