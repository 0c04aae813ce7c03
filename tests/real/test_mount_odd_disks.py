"""Mounts of what only a real worker, confined as it is, shows to be a disk that it can open."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.make_disk import RealDisk, run
from contract.test_virtualbox_machines import machine  # noqa: F401 (a fixture)
from contract.vhd_support import needs_qemu

pytestmark = pytest.mark.root


def test_a_block_device(mntapi, disk: RealDisk, target: Path, tmp_path: Path) -> None:
    device = run("losetup", "--find", "--show", "--read-only", disk.raw).strip()
    try:
        for more in ((), ("--overlay", "memory"), ("--overlay", tmp_path / "overlay.qcow2")):
            mntapi("mount", device, target, "--layout", "blocks", *more)
            run("cmp", disk.raw, target / "disks/disk0")
            mntapi("umount", target)
    finally:
        run("losetup", "--detach", device)


@needs_qemu
def test_a_virtualbox_machine_with_a_snapshot(mntapi, machine: tuple[Path, bytes], target: Path) -> None:  # noqa: F811
    """Its base is named by the machine's file only: an overlay file that could not see it change is refused."""
    path, content = machine
    for more in ((), ("--overlay", "memory")):
        mntapi("mount", path, target, "--layout", "blocks", *more)
        with (target / "disks/disk0").open("rb") as file:
            assert file.read(len(content)) == content
        mntapi("umount", target)
    refused = mntapi("mount", path, target, "--layout", "blocks", "--overlay", path.with_name("o.qcow2"), code=7)
    assert "first disk.vdi" in refused.stderr and "--overlay memory" in refused.stderr
    assert not path.with_name("o.qcow2").exists()
