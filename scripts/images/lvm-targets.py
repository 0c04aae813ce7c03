#!/usr/bin/env python3
"""Thin pools, snapshots and caches of LVM, made by the kernel: tests/golden/lvm-targets/*.img.xz and facts.json.

Everything happens in one start of libguestfs' small VM (``guest/lvm-targets``), which is then killed, so that a cache stays
dirty and a merge half done. Needs libguestfs-tools, linux-image-amd64, thin-provisioning-tools. Takes some minutes.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/lvm-targets"
DISKS = {"sda": "thin", "sdb": "snapshots", "sdc": "caches"}
SIZES = {"thin": 128 << 20, "snapshots": 96 << 20, "caches": 128 << 20}
Tables = dict[str, list[list[str]]]
"""``dmsetup table`` by device: first sector, sectors, target, and its arguments."""
PATTERN_BLOCKS = 16384
"""Blocks of 4 KiB that begin with their number."""


def main() -> None:
    """Build all. The folder stays when something went wrong, with the VM's log in it."""
    folder = Path(tempfile.mkdtemp(prefix="lvm-targets-"))
    print("working in", folder, file=sys.stderr)
    make_disks(folder)
    run_vm(folder)
    results = read_results(folder / "results.img")
    (folder / "log").write_bytes(results["log"])
    GOLDEN.mkdir(parents=True, exist_ok=True)
    facts = collect(folder, results)
    (GOLDEN / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    for disk in SIZES:
        compress(folder / f"{disk}.img", GOLDEN / f"{disk}.img.xz")
    shutil.rmtree(folder)


def make_disks(folder: Path) -> None:
    """Empty disks, the pattern, room for the results, and the script as a disk."""
    for disk, size in {**SIZES, "results": 4 << 20}.items():
        (folder / f"{disk}.img").write_bytes(b"")
        os.truncate(folder / f"{disk}.img", size)
    with (folder / "pattern.img").open("wb") as pattern:
        for number in range(PATTERN_BLOCKS):
            pattern.write(f"{number:015d}\n".encode().ljust(4096, b"\0"))
    script = (Path(__file__).parent / "guest/lvm-targets").read_bytes()
    (folder / "script.img").write_bytes(script.ljust(1 << 20, b"\n"))


def run_vm(folder: Path) -> None:
    """One start; the VM is killed at the end, as a power cut would."""
    drives = [f"{folder}/{disk}.img" for disk in (*SIZES, "pattern", "results", "script")]
    arguments = [part for drive in drives for part in ("-a", drive)]
    commands = 'run\ndebug sh "cat /dev/sdf > /tmp/script; bash /tmp/script; true"\nkill-subprocess\n'
    settings = {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
    environment = {**os.environ, **settings}
    command = ["nice", "-n", "5", "guestfish", "--format=raw", *arguments]
    subprocess.run(command, input=commands, text=True, env=environment, check=False, start_new_session=True)


def read_results(image: Path) -> dict[str, bytes]:
    """The files of the tar that the VM wrote onto a disk."""
    with tarfile.open(fileobj=io.BytesIO(image.read_bytes())) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        return {member.name.removeprefix("./"): archive.extractfile(member).read() for member in members}


def collect(folder: Path, results: dict[str, bytes]) -> dict[str, object]:
    """What the kernel and the tools say: SHA-256 of each volume, device tables, listings, and dumps of the metadata."""
    tables = {**parse_tables(results["tables-active"].decode()), **parse_tables(results["tables-end"].decode())}
    listed = map(str.split, results["numbers"].decode().splitlines())
    numbers = {f"{major}:{minor}": name for major, minor, name in listed}
    sums = dict(reversed(line.split()) for line in results["sha256"].decode().splitlines())
    return {
        "sha256": sums,
        "tables": tables,
        "numbers": {
            f"{major}:{minor}": name for major, minor, name in map(str.split, results["numbers"].decode().splitlines())
        },
        "lvs": json.loads(results["lvs.json"])["report"][0]["lv"],
        "status": results["status"].decode().splitlines(),
        "kernel": results["kernel"].decode().strip(),
        "surprises": results.get("surprises", b"").decode().splitlines(),
        "dumps": {name: dump(folder, tables, numbers, name) for name in tables if name.endswith(("_tmeta", "cmeta"))},
    }


def parse_tables(text: str) -> Tables:
    """``dmsetup table``: the lines of each device, the disks by their names."""
    tables: Tables = {}
    majors = {"8:0": "thin", "8:16": "snapshots", "8:32": "caches"}
    for line in text.splitlines():
        name, _, rest = line.partition(": ")
        tables.setdefault(name, []).append([majors.get(word, word) for word in rest.split()])
    return tables


def dump(folder: Path, tables: Tables, numbers: dict[str, str], name: str) -> list[str]:
    """thin_dump or cache_dump of a metadata device, as lines; the error it gave if there are none."""
    path = folder / "metadata"
    path.write_bytes(content(folder, tables, numbers, name))
    tool = "thin_dump" if name.endswith("_tmeta") else "cache_dump"
    done = subprocess.run([tool, str(path)], capture_output=True, text=True, check=False)
    return [line.strip() for line in (done.stdout or done.stderr).splitlines() if "hint" not in line]


def content(folder: Path, tables: Tables, numbers: dict[str, str], name: str) -> bytes:
    """The bytes of a device of linear pieces, or of a disk."""
    if name not in tables:
        return (folder / f"{name}.img").read_bytes()
    made = b""
    for _, sectors, _, where, start in tables[name]:
        made += content(folder, tables, numbers, numbers.get(where, where))[int(start) * 512 :][: int(sectors) * 512]
    return made


def compress(image: Path, target: Path) -> None:
    """One xz file."""
    target.write_bytes(lzma.compress(image.read_bytes(), preset=6))
    print(target.name, target.stat().st_size, file=sys.stderr)


if __name__ == "__main__":
    main()
