#!/usr/bin/env python3
"""What the volumes of libldm's sample disks hold: put together by ldmtool and device-mapper in libguestfs' machine.

The disks themselves are among the shared samples (images/libldm beside the repository), not in it. Needs: libguestfs-tools and
ldmtool, here and in the machine. Result: tests/golden/ldm/facts.json with ldmtool's description and the SHA-256 of each volume.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLES = REPOSITORY.parent / "shared/images/libldm/ldm-2003r2.tar.xz"
RESULT = REPOSITORY / "tests/golden/ldm/facts.json"
SUMS = "for one in /dev/mapper/ldm_vol_*; do sha256sum $one; done; dmsetup table; true"


def main() -> None:
    if not SAMPLES.is_file():
        sys.exit(f"{SAMPLES} is not there")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(SAMPLES) as archive:
            archive.extractall(folder, filter="data")
        disks = sorted(Path(folder).glob("*.img"))
        group = json.loads(ldmtool(disks)[0])[0]
        _, description = ldmtool(disks, f"show diskgroup {group}")
        names = json.loads(description)["volumes"]
        answers = ldmtool(disks, *(f"show volume {group} {name}" for name in names))[1:]
        sums, tables = kernel_says(disks)
    volumes = {volume["name"]: {**volume, "sha256": sums[volume["name"]]} for volume in map(json.loads, answers)}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    facts = {"group": group, "disks": json.loads(description)["disks"], "volumes": volumes, "dmsetup": tables}
    RESULT.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def ldmtool(disks: list[Path], *commands: str) -> list[str]:
    """What ldmtool answers to ``scan`` and each of the commands."""
    script = "\n".join([f"scan {' '.join(map(str, disks))}", *commands])
    done = subprocess.run(["ldmtool"], input=script, capture_output=True, text=True, check=True)
    return [answer.partition("\n")[2] for answer in done.stdout.split("ldm> ")[1:] if answer.strip()]


def kernel_says(disks: list[Path]) -> tuple[dict[str, str], list[str]]:
    """The SHA-256 of each volume by its name, and device-mapper's tables."""
    command = ["guestfish", "--ro", *(part for disk in disks for part in ("-a", str(disk)))]
    script = f'run\nldmtool-create-all\n-debug sh "{SUMS}"\n'
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=True)
    output = done.stdout + done.stderr
    sums = {name: digest for digest, name in re.findall(r"([0-9a-f]{64})  /dev/mapper/ldm_vol_\S*_(\S+)", output)}
    return sums, re.findall(r"ldm_vol_\S+: .*", output)


if __name__ == "__main__":
    main()
