"""Real disks for tests, made without root by the mkfs programs and qemu-img."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from mntapi.units import MIB

TOOLS = ("mke2fs", "mkntfs", "ntfscp", "sfdisk", "qemu-img")
_LAYOUT = "label: gpt\nsize=32MiB, type=linux, name=root\nsize=24MiB, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, name=data\n"


def need(*programs: str) -> None:
    """Skip the test unless all these programs are installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def run(*arguments: object, **options: object) -> str:
    """A program's output; it must succeed."""
    done = subprocess.run([str(one) for one in arguments], check=True, capture_output=True, text=True, **options)
    return done.stdout


def create_encrypted(*arguments: object) -> None:
    """``qemu-img create`` with LUKS. It cannot always measure the processor time that its key derivation takes: then again."""
    for _ in range(30):
        done = subprocess.run(["qemu-img", "create", *map(str, arguments)], capture_output=True, text=True)
        if "accurate CPU usage" not in done.stderr:
            assert done.returncode == 0, done.stderr
            return
    pytest.skip("qemu-img cannot measure processor time on this machine")


@dataclass(frozen=True)
class RealDisk:
    """A disk, the same bytes raw, and what its ext4 volume was made from."""

    vmdk: Path
    raw: Path
    files: Path
    budget: bytes


def make_disk(folder: Path) -> RealDisk:
    """``web01.vmdk``: disk0p1 is ext4 labelled root, disk0p2 is NTFS labelled data with ``budget.csv``."""
    need(*TOOLS)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    files = _files(folder / "files")
    raw, ext4, ntfs = folder / "disk.raw", folder / "ext4", folder / "ntfs"
    for path, size in ((raw, 64), (ext4, 32), (ntfs, 24)):
        with path.open("wb") as out:
            out.truncate(size * MIB)
    run("sfdisk", "--quiet", raw, input=_LAYOUT)
    run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-U", "6a1ab6b2-6fb5-4f0b-9c62-9a6a9f5b1d0a", "-d", files, ext4)
    run("mkntfs", "-qFQ", "-L", "data", ntfs)
    budget = random.Random(5).randbytes(3_000_001)
    (folder / "budget.csv").write_bytes(budget)
    run("ntfscp", "-qf", ntfs, folder / "budget.csv", "budget.csv")
    for part, offset in ((ext4, 1), (ntfs, 33)):
        run("dd", f"if={part}", f"of={raw}", "bs=1M", f"seek={offset}", "conv=notrunc,sparse", "status=none")
    run("qemu-img", "convert", "-O", "vmdk", raw, folder / "web01.vmdk")
    return RealDisk(folder / "web01.vmdk", raw, files, budget)


def _files(top: Path) -> Path:
    (top / "etc").mkdir(parents=True)
    (top / "deep/er/still").mkdir(parents=True)
    (top / "etc/hostname").write_text("web01\n")
    (top / "etc/os-release").symlink_to("../usr/lib/os-release")
    (top / "usr/lib").mkdir(parents=True)
    (top / "usr/lib/os-release").write_text("NAME=Debian\n")
    (top / "deep/er/still/data.bin").write_bytes(random.Random(6).randbytes(2_500_000))
    (top / "empty").touch()
    (top / "new\nline").write_text("odd name")
    (top / "x\x1b[31mred").write_text("escape")
    with (top / "sparse").open("wb") as out:
        out.truncate(20 * MIB)
        out.seek(10 * MIB)
        out.write(b"island")
    os.chmod(top / "etc/hostname", 0o640)
    os.utime(top / "etc/hostname", ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    return top
