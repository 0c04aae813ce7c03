"""Programs that present a disk as a file or a volume as a folder: ours and the peers, each up for as long as its ``with``."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.commands import MNTAPI, Failure, output

_START_TIMEOUT_S = 30.0
_POLL_S = 0.01
_PIECE = 4096


@dataclass(frozen=True, slots=True)
class Server:
    """What is presented, and the process that serves it; ``pid`` 0 where that is the kernel or nobody asks."""

    path: Path
    pid: int = 0


@contextmanager
def mntapi(disk: Path, folder: Path, *, layout: str, more: Sequence[Path] = ()) -> Iterator[Server]:
    """``mntapi mount``."""
    folder.mkdir()
    others = [argument for one in more for argument in ("-d", one)]
    try:
        mounted = json.loads(output(MNTAPI, "mount", "--json", "--layout", layout, disk, folder, *others))
        yield Server(folder, mounted["pid"])
    finally:
        if is_mounted(folder):
            output(MNTAPI, "umount", folder)
        folder.rmdir()


@contextmanager
def qemu_storage_daemon(disk: Path, file: Path, *, driver: str = "vmdk", writable: bool = False) -> Iterator[Server]:
    """QEMU's block layer and its FUSE export."""
    command = [
        "qemu-storage-daemon",
        "--blockdev", f"driver=file,node-name=file,filename={disk},read-only={_on(not writable)}",
        "--blockdev", f"driver={driver},node-name=disk,file=file,read-only={_on(not writable)}",
        "--export", f"type=fuse,id=export,node-name=disk,mountpoint={file},writable={_on(writable)}",
    ]  # fmt: skip
    file.touch()
    with _served(command, file) as pid:
        yield Server(file, pid)


def _on(flag: bool) -> str:
    return "on" if flag else "off"


@contextmanager
def nbdfuse(disk: Path, file: Path, *, driver: str = "vmdk") -> Iterator[Server]:
    """qemu-nbd, its socket presented by nbdfuse."""
    file.touch()
    qemu_nbd = ["qemu-nbd", "--read-only", "--shared=8", "-f", driver, str(disk)]
    with _served(["nbdfuse", "--readonly", str(file), "[", *qemu_nbd, "]"], file) as pid:
        yield Server(file, pid)


@contextmanager
def vmdkmount(disk: Path, folder: Path) -> Iterator[Server]:
    """libvmdk."""
    folder.mkdir()
    with _served(["vmdkmount", str(disk), str(folder)], folder):
        yield Server(folder / "vmdk1")


@contextmanager
def bindfs(raw: Path, folder: Path) -> Iterator[Server]:
    """A passthrough in C on libfuse: nothing is parsed, so this is what FUSE on this host can do."""
    folder.mkdir()
    with _served(["bindfs", "-f", "-r", "--no-allow-other", str(raw.parent), str(folder)], folder) as pid:
        yield Server(folder / raw.name, pid)


@contextmanager
def ntfs_3g(volume: Path, folder: Path, *, writable: bool = False) -> Iterator[Server]:
    """NTFS-3G on a raw volume."""
    folder.mkdir()
    with _served(["ntfs-3g", "-o", "rw" if writable else "ro", str(volume), str(folder)], folder):
        yield Server(folder)


@contextmanager
def kernel(volume: Path, folder: Path, *, kind: str, writable: bool = False) -> Iterator[Server]:
    """The kernel's file system over a loop device on a raw volume."""
    folder.mkdir()
    output("mount", "-t", kind, "-o", "rw,loop" if writable else "ro,loop", volume, folder)
    try:
        yield Server(folder)
    finally:
        output("umount", folder)
        folder.rmdir()


@contextmanager
def _served(command: Sequence[str], target: Path) -> Iterator[int]:
    """Run a server, in the foreground or not, while ``target`` is its mount; removes ``target`` in the end."""
    log = target.with_name(target.name + ".log")
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        if not _is_mounted_soon(target, process):
            last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it mounts nothing and says nothing"]
            raise Failure(f"{command[0]}: {last[0]}")
        yield process.pid
    finally:
        if is_mounted(target):
            output("umount", target)
        process.terminate()
        process.wait()
        log.unlink()
        target.unlink() if target.is_file() else target.rmdir()


def _is_mounted_soon(target: Path, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not is_mounted(target):
        if process.poll() or time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def is_mounted(target: Path) -> bool:
    """Whether something is mounted there. Source: proc_pid_mountinfo(5), field 5."""
    with open("/proc/self/mountinfo") as mounts:
        return any(line.split()[4] == str(target) for line in mounts)


def same_bytes(path: Path, original: Path) -> None:
    """Raise Failure if a served file differs from what it was made from, in size or in one of some places."""
    with path.open("rb") as served, original.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if os.fstat(served.fileno()).st_size != size:
            raise Failure(f"serves {os.fstat(served.fileno()).st_size} bytes, not {size}")
        for offset in range(0, size, max(_PIECE, size // 64)):
            if os.pread(served.fileno(), _PIECE, offset) != os.pread(file.fileno(), _PIECE, offset):
                raise Failure(f"serves other bytes than were written, at offset {offset}")
