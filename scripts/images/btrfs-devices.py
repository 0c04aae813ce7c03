#!/usr/bin/env python3
"""File systems of btrfs over several devices, made and read by this machine's kernel.

Needs, as root: btrfs-progs, a kernel with btrfs, as many free loop devices as a set has devices. Result in
tests/golden/btrfs-devices: a sparse tar archive of the devices of each set, and in facts.json the files that the kernel showed
on them, with their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

RESULT = Path(__file__).resolve().parents[2] / "tests/golden/btrfs-devices"
MIB = 1 << 20
SECTOR = 4096
SETS: dict[str, tuple[int, Sequence[str]]] = {
    "raid0": (2, ("-d", "raid0", "-m", "raid0")),
    "raid10": (4, ("-d", "raid10", "-m", "raid10")),
    "raid1c3": (3, ("-d", "raid1c3", "-m", "raid1c3", "--csum", "sha256")),
    "raid5": (3, ("-d", "raid5", "-m", "raid5")),
    "raid6": (4, ("-d", "raid6", "-m", "raid6", "--csum", "xxhash")),
    "mixed": (3, ("-d", "single", "-m", "raid1")),
    "old": (2, ("-d", "raid1", "-m", "raid1")),
    "log": (2, ("-d", "raid1", "-m", "raid1")),
    "folders": (2, ("-d", "raid1", "-m", "raid1")),
}
"""Number of devices, and how they are made."""


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def mounted(paths: Sequence[Path], options: str = "rw") -> Iterator[Path]:
    """The devices mounted together."""
    with ExitStack() as undo:
        devices = []
        for path in paths:
            devices.append(run("losetup", "--find", "--show", path).strip())
            undo.callback(run, "losetup", "--detach", devices[-1])
        top = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        run("mount", "-t", "btrfs", "-o", ",".join([options, *(f"device={device}" for device in devices)]), devices[0], top)
        undo.callback(run, "umount", top)
        yield top


def pattern(name: str, size: int) -> bytes:
    """Content that packs well, and is different in every sector."""
    lines = (f"{name} {number} ".encode() for number in range(-(-size // SECTOR)))
    return b"".join(line.ljust(SECTOR, b".") for line in lines)[:size]


def fill(top: Path) -> None:
    (top / "folder" / "deep").mkdir(parents=True)
    for number in range(40):
        (top / "folder" / f"small{number:02}").write_bytes(pattern(f"small{number}", number * 97))
    (top / "folder" / "deep" / "large").write_bytes(pattern("large", 1_300_001))
    (top / "sparse").write_bytes(b"begin")
    os.truncate(top / "sparse", 5 * MIB)
    (top / "link").symlink_to("folder/deep/large")
    (top / "plain").touch()
    run("chattr", "+C", top / "plain")
    (top / "plain").write_bytes(pattern("plain", 700_000))
    run("btrfs", "property", "set", top / "sparse", "compression", "zstd")
    run("btrfs", "subvolume", "create", top / "home")
    (top / "home" / "packed").touch()
    run("btrfs", "property", "set", top / "home" / "packed", "compression", "zlib")
    (top / "home" / "packed").write_bytes(pattern("packed", 400_000))
    os.sync()


def convert(paths: Sequence[Path]) -> None:
    """Chunks of several profiles: a balance converts one at a time, and what is not filled yet stays as it was."""
    with mounted(paths) as top:
        run("fallocate", "-l", 30 * MIB, top / "room")
        (top / "later").write_bytes(pattern("later", 500_000))
        os.sync()
        run("btrfs", "balance", "start", "-dconvert=raid1,limit=1", top)
        os.unlink(top / "room")
        (top / "last").write_bytes(pattern("last", 300_000))


def leave_behind(paths: Sequence[Path]) -> None:
    """Changes that only the first device has seen."""
    with mounted(paths[:1], "degraded") as top:
        (top / "folder" / "deep" / "large").write_bytes(pattern("LARGE", 1_200_000))
        with (top / "plain").open("r+b") as file:
            file.write(pattern("PLAIN", 100_000))
        os.unlink(top / "folder" / "small07")


def synced(path: Path, mode: str, change: Callable[[BinaryIO], object]) -> None:
    with path.open(mode) as file:
        change(cast(BinaryIO, file))
        file.flush()
        os.fsync(file.fileno())


def log(paths: Sequence[Path]) -> None:
    """The devices as they are while files were synced one by one, and no commit came since."""
    while_mounted(paths, log_files)


def log_folders(paths: Sequence[Path]) -> None:
    """The same, and a name has changed."""
    while_mounted(paths, rename_and_sync)


def while_mounted(paths: Sequence[Path], change: Callable[[Path], None]) -> None:
    copies = [path.with_suffix(".copy") for path in paths]
    with mounted(paths, "commit=3000") as top:
        change(top)
        for path, copy in zip(paths, copies, strict=True):
            run("cp", "--sparse=always", path, copy)
    for path, copy in zip(paths, copies, strict=True):
        copy.rename(path)


def rename_and_sync(top: Path) -> None:
    os.rename(top / "folder" / "small01", top / "folder" / "renamed")
    synced(top / "folder" / "renamed", "ab", lambda file: file.write(b"more"))


def log_files(top: Path) -> None:
    folder = top / "folder"
    synced(folder / "deep" / "large", "r+b", lambda file: (file.seek(100_000), file.write(pattern("LARGE", 50_000))))
    synced(folder / "deep" / "large", "ab", lambda file: file.write(pattern("more", 70_001)))
    synced(folder / "small30", "r+b", lambda file: file.truncate(1000))
    synced(folder / "small02", "ab", lambda file: file.write(b"a little more"))
    synced(top / "plain", "r+b", lambda file: file.write(pattern("PLAIN", 9000)))
    synced(top / "home" / "packed", "r+b", lambda file: (file.seek(200_000), file.write(pattern("PACKED", 5000))))
    synced(top / "home" / "new", "wb", lambda file: file.write(pattern("new", 20_000)))
    synced(folder / "new and small", "wb", lambda file: file.write(b"new"))
    synced(top / "sparse", "r+b", lambda file: (file.seek(MIB), file.write(pattern("island", 5000))))
    os.setxattr(folder / "small03", "user.new", b"value")
    synced(folder / "small03", "r+b", lambda file: file.write(b"x"))
    with (folder / "small04").open("r+b") as file:
        file.write(b"this was not synced")


THEN: dict[str, Callable[[Sequence[Path]], None]] = {"mixed": convert, "old": leave_behind, "log": log, "folders": log_folders}
"""What is done after that."""


def listing(top: Path) -> dict[str, str]:
    """Files by their paths: SHA-256 of the content, or where a link leads."""
    return {
        str(path.relative_to(top)): os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(top.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def told(path: Path) -> list[int]:
    """What a log may change of a file: size, bytes on disk, links, modification and change time."""
    status = path.lstat()
    return [status.st_size, status.st_blocks * 512, status.st_nlink, status.st_mtime_ns, status.st_ctime_ns]


def make(folder: Path, name: str) -> dict[str, object]:
    count, options = SETS[name]
    paths = [folder / f"{name}-{number}.img" for number in range(1, count + 1)]
    for number, path in enumerate(paths):
        with path.open("wb") as out:
            out.truncate((126 + 8 * number) * MIB)
    run("mkfs.btrfs", "-q", "-L", name, *options, *paths)
    with mounted(paths) as top:
        fill(top)
    if name in THEN:
        THEN[name](paths)
    run("tar", "--sparse", "-C", folder, "-cJf", RESULT / f"{name}.tar.xz", *(path.name for path in paths))
    with mounted(paths[:1] if name == "old" else paths, "degraded") as top:  # for writing: that is what replays a log
        files = listing(top)
        status = {path: told(top / path) for path in files if name == "log"}
        profiles = run("btrfs", "--format", "json", "filesystem", "df", top)
    spread = sorted({f"{one['bg-type']} {one['bg-profile']}" for one in json.loads(profiles)["filesystem-df"]})
    return {"files": files, "status": status, "profiles": spread, "devices": [path.name for path in paths]}


def main() -> None:
    RESULT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        facts = {one: make(Path(name), one) for one in SETS}
    (RESULT / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
