#!/usr/bin/env python3
"""Devices of managers that are only named, made by their own programs: ZFS pools, DRBD metadata, bcache sets.

Needs, as root: zfs-fuse (started here, on files, and stopped), drbd-utils and a free loop device, bcache-tools, e2fsprogs,
libguestfs-tools. Result: tests/golden/named: the devices (of ZFS the first 512 KiB, where the labels are) and in facts.json
what zdb, drbdmeta and bcache-super-show say of them, and the SHA-256 of what the kernel read through bcache.
"""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

RESULT = Path(__file__).resolve().parents[2] / "tests/golden/named"
MIB = 1 << 20
LABELS = 512 << 10
ZFS_PROGRAM_WAIT_S = 2.0

POOLS = {
    "tank": ("raidz", "tank0", "tank1", "tank2"),
    "wide": ("mirror", "wide0", "wide1", "mirror", "wide2", "wide3"),
    "solo": ("solo0",),
}
DRBD = {"v08": (), "v09": ("1",)}
GENERATION = "8765432187654320:0000000000000000:0000000000000000:0000000000000000"
BCACHE = {
    "clean": ("--wipe-bcache",),
    "dirty": ("--wipe-bcache", "--writeback"),
    "alone": ("--wipe-bcache", "--data-offset", "64"),
}
GUEST = r"""
modprobe bcache
cd /dev/disk/guestfs
for name in clean dirty alone cache; do echo $(realpath $name) > /sys/fs/bcache/register; done
sleep 1
for name in clean dirty alone; do
    device=$(basename $(realpath $name))
    cache=/sys/block/$device/bcache
    [ $name = alone ] || echo SET > $cache/attach
    [ $name = dirty ] && for one in writeback_running sequential_cutoff; do echo 0 > $cache/$one; done
    [ $name = dirty ] && echo writeback > $cache/cache_mode
    disk=/dev/$(basename $(readlink $cache/dev))
    dd if=pattern of=$disk bs=4k oflag=direct conv=notrunc status=none
    echo $name $(sha256sum < $disk | cut -c -64) $(cat $cache/state)
done
sync
for name in clean dirty alone; do echo 1 > /sys/block/$(basename $(realpath $name))/bcache/stop; done
echo 1 > /sys/fs/bcache/SET/stop
sleep 2
"""


def main() -> None:
    RESULT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts = {"zfs": zfs(folder), "drbd": drbd(folder), "bcache": bcache(folder)}
    (RESULT / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


def sized(path: Path, size: int) -> Path:
    with path.open("wb") as out:
        out.truncate(size)
    return path


def keep(path: Path, size: int | None = None) -> None:
    (RESULT / f"{path.stem}.img.xz").write_bytes(lzma.compress(path.read_bytes()[:size]))


def zfs(folder: Path) -> Mapping[str, str]:
    """Pools with zfs-fuse: its labels are those of pool version 23. What ``zdb -l`` says by device."""
    devices: dict[str, Path] = {}
    said: dict[str, str] = {}
    server = subprocess.Popen(["zfs-fuse", "--no-daemon", "--no-kstat-mount"])
    try:
        time.sleep(ZFS_PROGRAM_WAIT_S)
        for pool, words in POOLS.items():
            made = {word: sized(folder / f"{word}.img", 64 * MIB) for word in words if word[-1].isdigit()}
            run("zpool", "create", "-m", "none", pool, *(made.get(word, word) for word in words))
            run("zpool", "export", pool)
            devices |= made
        said = {name: run("zdb", "-l", path).partition("LABEL 1")[0] for name, path in devices.items()}
    finally:
        server.terminate()
        server.wait()
    for path in devices.values():
        keep(path, LABELS)
    return said


def drbd(folder: Path) -> Mapping[str, Mapping[str, str]]:
    """Devices with an ext4 in front of the metadata: as created, and as on a node that is up to date."""
    facts = {}
    for version, arguments in DRBD.items():
        for state, flags in (("new", None), ("current", "1:1:0:0:0:0")):
            path = sized(folder / f"drbd-{version}-{state}.img", 8 * MIB)
            loop = run("losetup", "--find", "--show", path).strip()
            try:
                tool = ("drbdmeta", "--force", "0", version, loop, "internal")
                run(*tool, "create-md", *arguments)
                if flags:
                    node = ("--node-id", "0") if version == "v09" else ()
                    subprocess.run([*tool, "set-gi", *node, f"{GENERATION}:{flags}"], input="yes\n", text=True, check=True)
                said = run(*tool, "dump-md")
                end = next(int(line.split()[-1]) for line in said.splitlines() if line.startswith("# bm_offset"))
                run("mkfs.ext4", "-q", "-F", "-b", "4096", "-L", state, loop, end // 4096)
            finally:
                run("losetup", "-d", loop)
            keep(path)
            facts[path.stem] = {"dump-md": said}
    return facts


def bcache(folder: Path) -> Mapping[str, Mapping[str, str]]:
    """A clean, a dirty and an unattached backing device, and the cache of the first two, after a run in the machine."""
    backing = {name: sized(folder / f"bcache-{name}.img", 6 * MIB) for name in BCACHE}
    for name, path in backing.items():
        run("make-bcache", "-B", *BCACHE[name], path)
    cache = sized(folder / "bcache-cache.img", 72 * MIB)
    run("make-bcache", "-C", "--bucket", "64k", "--block", "4k", cache)
    cache_set = next(line.split()[-1] for line in run("bcache-super-show", cache).splitlines() if line.startswith("cset.uuid"))
    pattern = folder / "pattern.img"
    pattern.write_bytes(b"".join(b"%08d".ljust(4096, b"\0") % number for number in range(1024)))
    script = folder / "guest.sh"
    script.write_bytes(GUEST.replace("SET", cache_set).encode().ljust(64 << 10, b"\0"))
    output = guest({**backing, "cache": cache, "pattern": pattern, "script": script})
    facts = {}
    for name, path in backing.items():
        digest, state = next(line.split(None, 2)[1:] for line in output.splitlines() if line.startswith(f"{name} "))
        facts[path.stem] = {"state": state, "sha256": digest, "super-show": run("bcache-super-show", path)}
        keep(path)
    facts[cache.stem] = {"super-show": run("bcache-super-show", cache)}
    keep(cache)
    return facts


def guest(disks: Mapping[str, Path]) -> str:
    """What the script, one of the disks, prints inside the machine; there the disks are /dev/disk/guestfs/NAME."""
    length = len(disks["script"].read_bytes().rstrip(b"\0"))
    commands = [f"add-drive {path} format:raw label:{name}" for name, path in disks.items()]
    commands += ["run", f'-debug sh "head -c {length} /dev/disk/guestfs/script | sh 2>&1; true"']
    done = subprocess.run(["guestfish"], input="\n".join(commands), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
