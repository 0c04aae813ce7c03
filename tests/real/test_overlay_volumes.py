"""Volumes of several parts, made writable by an overlay: the kernel and mke2fs write, foreign programs judge.

Oracles: e2fsck and debugfs on what QEMU decrypts; SHA-256 of the originals before and after.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from contract.luks_maker import PASSPHRASE, needs_cryptsetup
from contract.make_disk import run
from contract.writable_sets import digest, golden, luks1, needs_qemu, of_qemu, qemu_img
from mntapi.units import MIB
from real.conftest import Mntapi

pytestmark = pytest.mark.root

CONTENT = os.urandom(150_000)


def named(paths: list[Path]) -> list[object]:
    """The arguments that name a set."""
    return [paths[0], *(argument for path in paths[1:] for argument in ("-d", path))]


def written_by_the_kernel(mntapi: Mntapi, set_: list[Path], volumes: dict[str, int], target: Path) -> list[Path]:
    """Make ext4 on each volume, mount it, write a file, and commit: the new disks."""
    before = [digest(path) for path in set_]
    overlay = target.parent / "overlay"
    said = mntapi("mount", *named(set_), target, "--layout", "blocks", "--overlay", overlay).stderr
    for volume in volumes:
        assert f"{volume}: stays read-only" not in said
        run("mke2fs", "-qF", "-t", "ext4", "-b", "1024", "-O", "^has_journal", "-m", "0", target / "volumes" / volume)
    mntapi("umount", target)
    mntapi("mount", *named(set_), target, "--via", "kernel", "--overlay", overlay)
    for volume, size in volumes.items():
        (target / volume / "file").write_bytes(CONTENT[:size])
        (target / volume / "folder").mkdir()
    mntapi("umount", target)
    assert [digest(path) for path in set_] == before
    folder = target.parent / "new"
    folder.mkdir()
    for index in range(len(set_)):
        mntapi("overlay", "commit", f"{overlay}.disk{index}", "--to", folder / f"disk{index}.img", "-q")
    return sorted(folder.iterdir())


def are_whole(mntapi: Mntapi, disks: list[Path], volumes: dict[str, int], target: Path) -> None:
    """Read without overlay, and checked by e2fsck."""
    mntapi("mount", *named(disks), target, "--layout", "blocks")
    for volume, size in volumes.items():
        file = target / "volumes" / volume
        run("e2fsck", "-fn", file)
        run("debugfs", "-R", f"dump /file {target.parent}/file", file)
        assert (target.parent / "file").read_bytes() == CONTENT[:size], volume
    mntapi("umount", target)


def test_lvm(mntapi: Mntapi, target: Path, tmp_path: Path) -> None:
    """Segments on three disks, stripes over two, RAID of copies and of parity."""
    volumes = {"plain-linear": 150_000, "plain-stripe5": 150_000, "raid--set-r10": 100_000, "raid--set-r5ls": 100_000}
    disks = written_by_the_kernel(mntapi, golden("lvm", "disk?.img.xz", tmp_path), volumes, target)
    are_whole(mntapi, disks, volumes, target)


def test_md(mntapi: Mntapi, target: Path, tmp_path: Path) -> None:
    volumes = {"md-r0-default": 150_000, "md-r1-12": 150_000, "md-r10-f2-3": 100_000, "md-r5-default": 150_000}
    disks = written_by_the_kernel(mntapi, golden("md", "disk?.img.xz", tmp_path), volumes, target)
    are_whole(mntapi, disks, volumes, target)
    del volumes["md-r0-default"]
    are_whole(mntapi, disks[1:], volumes, target)


def test_why_some_stay_read_only(mntapi: Mntapi, target: Path, tmp_path: Path) -> None:
    disks = golden("lvm", "disk?.img.xz", tmp_path)
    said = mntapi("mount", *named(disks[1:]), target, "--layout", "blocks", "--overlay", "memory").stderr
    mntapi("umount", target)
    assert "plain-linear: stays read-only: PV u1ifo6-VkFQ-Rg89-XbqY-Ch7O-Y3a8-gVgexM is missing" in said
    said = mntapi("mount", *named(disks[1:]), target, "--layout", "blocks", "--overlay", "memory", "--volume", "raid--set-r1")
    assert "raid--set-r1: stays read-only: degraded: PV " in said.stderr
    with pytest.raises(OSError, match="Read-only"):
        (target / "volumes/raid--set-r1").open("r+b")
    mntapi("umount", target)


@needs_cryptsetup
@needs_qemu
@pytest.mark.parametrize("cipher", ["aes-xts-plain64", "aes-cbc-essiv:sha256"])
def test_luks(mntapi: Mntapi, target: Path, tmp_path: Path, cipher: str) -> None:
    """ext4 with a journal, in LUKS1. QEMU decrypts what came of it."""
    disk, key, plain = tmp_path / "disk.img", tmp_path / "key", tmp_path / "plain"
    plain.write_bytes(bytes(16 * MIB))
    run("mke2fs", "-qF", "-t", "ext4", plain)
    luks1(disk, cipher, plain.read_bytes())
    key.write_bytes(PASSPHRASE)
    before, overlay = digest(disk), tmp_path / "overlay"
    arguments = ("mount", disk, target, "--key", f"*:{key}", "--overlay", overlay)
    mntapi(*arguments, "--via", "kernel")
    (folder,) = target.iterdir()
    for number in range(40):
        (folder / str(number)).write_bytes(CONTENT[number:])
    for number in range(0, 40, 2):
        (folder / str(number)).unlink()
    trim = subprocess.run(["fstrim", folder], capture_output=True, text=True, check=False)
    assert trim.returncode == 0 or "not supported" in trim.stderr
    run("sync", "-f", folder)
    (folder / "last").write_bytes(CONTENT)
    mntapi("umount", target)
    mntapi(*arguments, "--layout", "blocks")
    (volume,) = (target / "volumes").iterdir()
    run("e2fsck", "-fn", volume)
    mntapi("umount", target)
    assert digest(disk) == before
    mntapi("overlay", "commit", overlay, "--to", tmp_path / "new.img", "-q")
    qemu_img("convert", "--image-opts", of_qemu(tmp_path / "new.img"), "-O", "raw", tmp_path / "read")
    run("e2fsck", "-fn", tmp_path / "read")
    for name, want in (("last", CONTENT), ("39", CONTENT[39:])):
        run("debugfs", "-R", f"dump /{name} {tmp_path}/file", tmp_path / "read")
        assert (tmp_path / "file").read_bytes() == want


@needs_cryptsetup
def test_a_loop_device_over_luks(mntapi: Mntapi, target: Path, tmp_path: Path) -> None:
    """It is told that nothing can be discarded there, and writes zeros instead."""
    disk, key = tmp_path / "disk.img", tmp_path / "key"
    luks1(disk, "aes-xts-plain64", b"\xff" * (4 * MIB))
    key.write_bytes(PASSPHRASE)
    mntapi("mount", disk, target, "--key", f"*:{key}", "--overlay", "memory", "--layout", "blocks")
    (volume,) = (target / "volumes").iterdir()
    device = run("losetup", "--find", "--show", volume).strip()
    try:
        subprocess.run(["blkdiscard", "-o", "0", "-l", "65536", device], capture_output=True, check=False)
        run("blkdiscard", "-z", "-o", str(MIB), "-l", str(MIB), device)
    finally:
        run("losetup", "--detach", device)
    assert volume.read_bytes() == b"\xff" * MIB + bytes(MIB) + b"\xff" * (2 * MIB)
    mntapi("umount", target)
