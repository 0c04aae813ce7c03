#!/usr/bin/env python3
"""Arrays of every kind mdadm makes, on partitions of five disks and on six whole disks, made in libguestfs' virtual machine.

Beside the disks, in facts.json: what mdadm says of each, and the SHA-256 of each as the kernel reads it, degraded too. Needs:
libguestfs-tools, mdadm inside the machine, fdisk, xz-utils. Result: tests/golden/md.
"""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

DISKS = 5
WHOLE = {"whole0": 4 << 20, "whole1": 4 << 20, "imsm0": 32 << 20, "imsm1": 32 << 20, "ddf0": 96 << 20, "ddf1": 96 << 20}
ALIGN = 64 * 1024
SMALL = 1152
"""KiB in most partitions: a MiB of data and what the metadata needs."""

BLOCK = 4096
BLOCKS = 2560


@dataclass(frozen=True)
class Case:
    """An array: what mdadm is told, how large its members are in KiB, which sets of members it is read without."""

    name: str
    options: str
    sizes: tuple[int, ...]
    without: tuple[tuple[int, ...], ...] = ()
    then: str = ""
    """Shell commands after it was filled; $1 ... are the members."""
    wait: bool = True


def near(*layouts: tuple[str, int]) -> list[Case]:
    return [
        Case(f"r10-{layout}-{count}", f"-l10 -e1.2 -p{layout} -c8 --data-offset=64", (SMALL,) * count, ((0,),))
        for layout, count in layouts
    ]


R5 = ("left-asymmetric", "right-asymmetric", "left-symmetric", "right-symmetric", "parity-first", "parity-last")
R6 = (
    *R5,
    "ddf-zero-restart",
    "ddf-N-restart",
    "ddf-N-continue",
    "left-asymmetric-6",
    "right-asymmetric-6",
    "left-symmetric-6",
    "right-symmetric-6",
    "parity-first-6",
)
UNEQUAL = (SMALL, SMALL + 256, SMALL + 704, SMALL + 704)

CASES = [
    Case("linear-12", "-llinear -e1.2 --data-offset=64", (SMALL, SMALL + 320, SMALL)),
    Case("linear-09", "-llinear -e0.90", (SMALL, SMALL + 320, SMALL)),
    Case("r0-12", "-l0 -e1.2 -c4 --data-offset=64", (SMALL,) * 3),
    Case("r0-default", "-l0", (4096,) * 2),
    Case("r0-odd-chunk", "-l0 -e1.2 -c12 --data-offset=64", (SMALL,) * 3),
    Case("r0-original", "-l0 -e1.2 -c16 --layout=original --data-offset=64", UNEQUAL),
    Case("r0-alternate", "-l0 -e1.2 -c16 --layout=alternate --data-offset=64", UNEQUAL),
    Case("r0-unknown", "-l0 -e1.2 -c16 --layout=dangerous --data-offset=64", UNEQUAL),
    Case("r1-09", "-l1 -e0.90", (SMALL,) * 2, ((0,), (1,))),
    Case("r1-11", "-l1 -e1.1 --bitmap=internal", (SMALL + 256,) * 2, ((0,), (1,))),
    Case("r1-12", "-l1 -e1.2 --bitmap=internal", (3072,) * 2, ((0,), (1,))),
    Case("r1-spare", "-l1 -e1.2 -x1 -n2 --data-offset=64", (SMALL,) * 3, ((0,),)),
    Case("r1-three", "-l1 -e1.0", (SMALL,) * 3, ((0, 1),)),
    Case("r4", "-l4 -e1.2 -c4 --data-offset=64", (SMALL,) * 3, ((0,), (1,), (2,))),
    Case("r5-09", "-l5 -e0.90 -c16", (SMALL,) * 3, ((0,), (1,), (2,))),
    Case("r5-default", "-l5", (3072,) * 3, ((1,),)),
    *[Case(f"r5-{layout}", f"-l5 -e1.2 -c4 -p{layout} --data-offset=64", (SMALL,) * 4, ((0,), (3,))) for layout in R5],
    *[
        Case(f"r6-{layout}", f"-l6 -e1.2 -c4 -p{layout} --data-offset=64", (SMALL,) * 5, ((0, 3), (1, 2), (0, 4), (1,)))
        for layout in R6
    ],
    *near(("n2", 3), ("n2", 4), ("n3", 4), ("f2", 3), ("f2", 4), ("f3", 5), ("o2", 3), ("o2", 5), ("o3", 4)),
    Case(
        "stale-r1",
        "-l1 -e1.2 --data-offset=64",
        (SMALL,) * 2,
        then="mdadm /dev/md0 --fail $1; mdadm /dev/md0 --remove $1; fill /dev/md0 900; say changed",
    ),
    Case(
        "stale-r5",
        "-l5 -e1.2 -c4 --data-offset=64",
        (SMALL,) * 4,
        then="mdadm /dev/md0 --fail $3; mdadm /dev/md0 --remove $3; fill /dev/md0 900; say changed",
    ),
    Case(
        "stale-09",
        "-l5 -e0.90 -c16",
        (SMALL,) * 3,
        then="mdadm /dev/md0 --fail $3; mdadm /dev/md0 --remove $3; fill /dev/md0 900; say changed",
    ),
    Case(
        "rebuild-r5",
        "-l5 -e1.2 -c4 -n3 --data-offset=64",
        (SMALL,) * 4,
        then="""mdadm /dev/md0 --fail $2; mdadm /dev/md0 --remove $2; mdadm --zero-superblock $2
            dd if=$SOURCE of=$4 bs=64k seek=1 count=17
            cd /sys/block/md0/md; echo frozen > sync_action; echo 1024 > sync_max; mdadm /dev/md0 --add $4
            echo recover > sync_action; sleep 3; cat sync_completed; echo frozen > sync_action; cd /""",
    ),
    Case(
        "rebuild-r1",
        "-l1 -e1.2 -n2 --data-offset=64",
        (SMALL,) * 3,
        then="""mdadm /dev/md0 --fail $1; mdadm /dev/md0 --remove $1; mdadm --zero-superblock $1
            dd if=$SOURCE of=$3 bs=64k seek=1 count=17
            cd /sys/block/md0/md; echo frozen > sync_action; echo 1024 > sync_max; mdadm /dev/md0 --add $3
            echo recover > sync_action; sleep 3; cat sync_completed; echo frozen > sync_action; cd /""",
    ),
    Case(
        "bad-blocks",
        "-l1 -e1.2 --data-offset=64",
        (SMALL,) * 2,
        then="""cd /sys/block/md0/md; one=dev-$(basename $1)/bad_blocks; two=dev-$(basename $2)/bad_blocks
            echo "256 16" > $one; echo "520 8" > $one; echo "1024 64" > $two; cat dev-*/bad_blocks; cd /
            dd if=/dev/md0 of=/dev/md0 bs=4096 count=1 conv=fsync; mdadm --stop /dev/md0
            dd if=/dev/urandom of=$1 bs=512 seek=256 count=16; dd if=/dev/urandom of=$1 bs=512 seek=520 count=8
            dd if=/dev/urandom of=$2 bs=512 seek=1024 count=64; sync; mdadm --assemble --readonly /dev/md0 $*; say changed""",
    ),
    Case(
        "unclean-r5",
        "-l5 -e1.2 -c4 --data-offset=64",
        (SMALL,) * 3,
        then="""echo 0 > /sys/block/md0/md/safe_mode_delay; fill /dev/md0 900; say changed; i=1
            for part in $*; do dd if=$part of=/tmp/copy$i bs=64k; i=$((i+1)); done
            mdadm --stop /dev/md0; i=1; for part in $*; do dd if=/tmp/copy$i of=$part bs=64k; i=$((i+1)); done; sync""",
    ),
    Case(
        "resync-r6",
        "-l6 -e1.2 -c4 --data-offset=64",
        (SMALL,) * 4,
        then="""mdadm --stop /dev/md0; echo 1 > /sys/module/md_mod/parameters/start_ro
            mdadm --assemble --update=resync /dev/md0 $*; cd /sys/block/md0/md; echo 1024 > sync_max; echo active > array_state
            sleep 3; cat sync_completed; echo frozen > sync_action; say changed; cd /; mdadm --stop /dev/md0
            echo 0 > /sys/module/md_mod/parameters/start_ro""",
    ),
    Case(
        "grown-r5",
        "-l5 -e1.2 -c4 -n3",
        (6144,) * 4,
        then="""mdadm --wait /dev/md0; mdadm /dev/md0 --add $4; timeout 100 mdadm --grow /dev/md0 -n4; mdadm --wait /dev/md0
            sleep 2; fill /dev/md0 900; say changed""",
    ),
    Case(
        "reshape-r5",
        "-l5 -e1.2 -c4 -n3",
        (6144,) * 4,
        then="""mdadm /dev/md0 --add $4; cd /sys/block/md0/md; echo 1 > sync_speed_min; echo 1 > sync_speed_max; cat sync_max
            timeout 100 mdadm --grow /dev/md0 -n4; sleep 2; cat reshape_position sync_action
            echo frozen > sync_action; cd /""",
    ),
    Case("journal-r5", "-l5 -e1.2 -c4 -n3 --write-journal=$4", (SMALL, SMALL, SMALL, 2048)),
    Case("ppl-r5", "-l5 -e1.2 -c4 --consistency-policy=ppl", (3072,) * 3),
]

TOLD = (
    *("Magic", "Version", "Array UUID", "UUID", "Name", "Raid Level", "Raid Devices", "Layout", "New Layout", "Chunk Size"),
    *("Device UUID", "Device Role", "Events", "Feature Map", "Data Offset", "Recovery Offset", "State", "Update Time"),
)
"""Lines of mdadm that are kept."""

FUNCTIONS = r"""
modprobe -a linear raid0 raid1 raid10 raid456
echo 2 > /sys/module/raid0/parameters/default_layout
export IMSM_NO_PLATFORM=1 IMSM_DEVNAME_AS_SERIAL=1
mark() { echo; echo "@@ $*"; }
fill() {
    bytes=$(blockdev --getsize64 $1) || return
    dd if=$SOURCE of=$1 bs=4096 skip=$2 count=$((bytes / 4096)) conv=fsync
}
say() {
    sync; echo 3 > /proc/sys/vm/drop_caches; blockdev --flushbufs /dev/md0
    mark $case sha256 $1 $(blockdev --getsize64 /dev/md0) $(sha256sum < /dev/md0)
    mark $case detail $1; mdadm --detail /dev/md0; mark $case log
}
without() { mdadm --assemble --run --readonly /dev/md0 $2; say without$1; mdadm --stop /dev/md0; }
stop() { mdadm --stop /dev/md0 || { sleep 2; mdadm --stop /dev/md0; }; }
"""


def main() -> None:
    golden = Path(__file__).parents[2] / "tests/golden/md"
    golden.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        disks = make_disks(Path(folder))
        (Path(folder) / "source").write_bytes(b"".join(pattern(number) for number in range(BLOCKS)))
        output = run(Path(folder), disks, script())
        for disk in disks:
            (golden / f"{disk.name}.xz").write_bytes(lzma.compress(disk.read_bytes(), preset=4))
        facts = {"cases": read_facts(output), "partitions": [[case.name, *case.sizes] for case in CASES]}
        (golden / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def pattern(number: int) -> bytes:
    """A block that begins with its number, so that one in the wrong place shows."""
    return b"%08x" % number + bytes(BLOCK - 8)


def make_disks(folder: Path) -> list[Path]:
    """The disks, the first five with a partition for each case."""
    disks = [folder / f"disk{number}.img" for number in range(DISKS)]
    for number, disk in enumerate(disks):
        lines, start = ["label: gpt", f"label-id: 4D440000-0000-4000-8000-00000000000{number}"], 1 << 20
        for index, case in enumerate(CASES, 1):
            if number < len(case.sizes):
                size = case.sizes[number] * 1024
                lines.append(f"{index}: start={start // 512}, size={size // 512}, type=A19D880F-05FC-4D3B-A006-743F0F84911E")
                start += -(-size // ALIGN) * ALIGN
        with disk.open("wb") as out:
            out.truncate(start + (1 << 20))
        subprocess.run(["sfdisk", "-q", "--no-reread", disk], input="\n".join(lines), text=True, check=True)
    for name, size in WHOLE.items():
        disks.append(folder / f"{name}.img")
        with disks[-1].open("wb") as out:
            out.truncate(size)
    return disks


def label(disk: int) -> str:
    """What the machine knows a disk by; its own names (sda, sdb) change from start to start."""
    return f"disk{chr(ord('a') + disk)}"


def device(disk: int, partition: int | None = None) -> str:
    """Its name as a variable of the shell, for a partition followed by the number."""
    return f"${{{label(disk)}}}{partition or ''}"


def script() -> str:
    """What the machine runs: every case on /dev/md0, one after the other."""
    count = DISKS + len(WHOLE) + 1
    lines = [f"{label(number)}=$(readlink -f /dev/disk/guestfs/{label(number)})" for number in range(count)]
    lines += [f"SOURCE={device(count - 1)}", FUNCTIONS]
    for index, case in enumerate(CASES, 1):
        parts = [device(disk, index) for disk in range(len(case.sizes))]
        lines += one_case(case, parts, 16 * index)
    lines += special([device(DISKS + number) for number in range(len(WHOLE))])
    return "\n".join(lines) + "\n"


def one_case(case: Case, parts: list[str], skip: int) -> list[str]:
    options = case.options.replace("$4", parts[3]) if len(parts) > 3 else case.options
    used = next((parts[:count] for count in (2, 3) if f"-n{count}" in options and "-x" not in options), parts)
    counted = options if "-n" in options else f"{options} -n{len(parts)}"
    everything = " ".join(parts)
    return [
        f"case={case.name}; mark {case.name} log; set -- {everything}",
        f"mdadm --create /dev/md0 --run --homehost=golden --name={case.name} {counted} {' '.join(used)}",
        "mdadm --wait /dev/md0",
        f"fill /dev/md0 {skip}; mdadm --wait /dev/md0; say whole",
        case.then,
        "stop",
        *[
            f'without {"".join(map(str, gone))} "{" ".join(part for at, part in enumerate(parts) if at not in gone)}"'
            for gone in case.without
        ],
        *[f"mark {case.name} examine {number}; mdadm --examine {part}" for number, part in enumerate(parts)],
    ]


def special(disks: list[str]) -> list[str]:
    """Whole disks with a partition table inside the array, containers, and arrays of arrays."""
    first, second, imsm0, imsm1, ddf0, ddf1 = disks
    return [
        "case=whole; mark whole log",
        f"mdadm --create /dev/md0 --run --homehost=golden --name=whole -l1 -e1.0 -n2 {first} {second}",
        "mdadm --wait /dev/md0; fill /dev/md0 0",
        "table='label: dos\\nlabel-id: 0x4d440001\\nstart=2048, size=2048\\nstart=4096, size=1024\\n'",
        'printf "$table" | sfdisk --no-reread /dev/md0',
        "say whole",
        f"stop; mark whole examine 0; mdadm --examine {first}; mark whole examine 1; mdadm --examine {second}",
        f"mark imsm log; mdadm --create /dev/md/imsm --run -e imsm -n2 {imsm0} {imsm1}",
        "mdadm --create /dev/md/imsmvol --run -l0 -n2 -z 8192 /dev/md/imsm; mdadm --stop --scan",
        f"mark imsm examine 0; mdadm --examine {imsm0}",
        f"mark ddf log; mdadm --create /dev/md/ddf --run -e ddf -n2 {ddf0} {ddf1}",
        "mdadm --create /dev/md/ddfvol --run -l1 -n2 -z 8192 /dev/md/ddf; mdadm --stop --scan",
        f"mark ddf examine 0; mdadm --examine {ddf0}",
        "mark end; uname -r; mdadm --version",
    ]


def run(folder: Path, disks: list[Path], text: str) -> str:
    """Run a shell script in the machine, with these disks and behind them the source and one for the output."""
    output = folder / "result"
    (folder / "script").write_bytes(text.encode() + b"\n" * (-len(text.encode()) % 512))
    output.write_bytes(bytes(4 << 20))
    drives = [*disks, folder / "source", folder / "script", output]
    adds = [f"add-drive {drive} format:raw label:{label(number)}" for number, drive in enumerate(drives)]
    names = [f"/dev/disk/guestfs/{label(number)}" for number in range(len(drives))]
    command = f"cat {names[-2]} > /tmp/run; sh /tmp/run > /tmp/out 2>&1; dd if=/tmp/out of={names[-1]} conv=fsync"
    commands = "\n".join([*adds, "run", f'-debug sh "{command}"', ""])
    subprocess.run(["guestfish"], input=commands, text=True, check=True)
    return output.read_bytes().rstrip(b"\0").decode()


def read_facts(output: str) -> dict[str, dict[str, object]]:
    """The marked parts of the output, by case."""
    facts: dict[str, dict[str, object]] = {}
    for part in output.split("\n@@ ")[1:]:
        head, _, body = part.partition("\n")
        case, *words = head.split()
        if case == "end":
            facts["end"] = {"versions": body.split("\n")[:3]}
        elif words[0] == "sha256" and len(words) > 3:
            facts.setdefault(case, {})[f"sha256 {words[1]}"] = {"size": int(words[2]), "sha256": words[3]}
        elif words[0] != "log":
            told = [line for line in body.splitlines() if line.strip().split(" : ")[0].strip() in TOLD]
            facts.setdefault(case, {})[" ".join(words)] = "\n".join(told)
        elif "--log" in sys.argv:
            print(f"@@ {case}\n{body}")
    return facts


if __name__ == "__main__":
    main()
