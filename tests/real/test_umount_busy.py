"""A set of which one volume is in use stays whole."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from contract.make_disk import RealDisk
from contract.mounting import need, run
from mntapi.errors import Busy, NotFound
from mntapi.kernel import mount as kernel_mount
from mntapi.kernel.mountinfo import mount_at

pytestmark = pytest.mark.root
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")


@needs_root
def test_asking_whether_a_mount_is_idle_changes_nothing(tmp_path: Path) -> None:
    """However often: the call it is made of unmounts when it is made twice."""
    top = tmp_path / "top"
    top.mkdir()
    run("mount", "-t", "tmpfs", "none", top)
    try:
        for _ in range(3):
            kernel_mount.check_idle(str(top))
        with (top / "file").open("w"), pytest.raises(Busy) as caught:
            kernel_mount.check_idle(str(top))
        assert str(os.getpid()) in str(caught.value)
        kernel_mount.check_idle(str(top))
        assert mount_at(str(top)) is not None
    finally:
        run("umount", top)
    with pytest.raises(NotFound):
        kernel_mount.check_idle(str(top))


@needs_root
def test_a_busy_volume_keeps_the_others_mounted(mntapi, tmp_path: Path, target: Path) -> None:
    need("sfdisk", "mke2fs")
    image = tmp_path / "two.raw"
    image.write_bytes(bytes(24 << 20))
    run("sfdisk", "-q", image, stdin="2048,16384\n18432,16384\n")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("contents")
    for start in (2048, 18432):
        options = f"offset={start * 512}"
        run("mke2fs", "-q", "-F", "-t", "ext4", "-E", options, "-d", tmp_path / "tree", image, "8M")
    mntapi("mount", image, target, "--via", "kernel")
    volumes = [target / "disk0p1", target / "disk0p2"]
    for busy in volumes:
        holder = subprocess.Popen(["sleep", "60"], cwd=busy)
        try:
            for _ in range(3):
                assert "sleep" in mntapi("umount", target, code=5).stderr
                assert [(volume / "file").read_text() for volume in volumes] == ["contents"] * 2
        finally:
            holder.kill()
            holder.wait()
    mntapi("umount", target)
    assert not volumes[0].exists()


def test_who_waits_for_a_worker_that_is_stopped(mntapi, disk: RealDisk, target: Path) -> None:
    """A program on its way to a file has none open, and is not seen as a user."""
    mntapi("mount", disk.vmdk, target, "--layout", "volumes")
    [worker] = mntapi.workers()
    worker.suspend()
    waits = subprocess.Popen(["cat", target / "disk0p1/etc/hostname"], stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(2000):
            if Path(f"/proc/{waits.pid}/wchan").read_text().startswith(("request_wait", "fuse_")):
                break
            time.sleep(0.01)
        said = mntapi("umount", target, code=5).stderr
        assert f"process {worker.pid}, which serves it, is stopped" in said and f"kill -CONT {worker.pid}" in said
        assert "cannot see" not in said
        [told] = mntapi.json("ps")
        assert told["state"] == "impaired" and "stopped" in told["reason"]
    finally:
        worker.resume()
    assert waits.communicate(timeout=60)[0] == "web01\n"
    assert mntapi.json("ps")[0]["state"] == "ready"
    mntapi("umount", target)
