#!/usr/bin/env python3
"""What virt-inspector says of the systems on btrfs and XFS that the tests make by themselves (tests/contract/guest_layouts.py).

Needs: root, loop devices, btrfs-progs, xfsprogs, lvm2, virt-inspector. Takes five minutes under software emulation. Result:
tests/golden/guests-layouts/facts.json; no disk is kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from contract.guest_layouts import Machine, make_fedora, make_mint, make_rocky, make_suse  # noqa: E402

MACHINES: dict[str, Callable[[Path], Machine]] = {
    "suse": make_suse, "fedora": make_fedora, "mint": make_mint, "rocky": make_rocky,
}  # fmt: skip
TAGS = ("name", "arch", "distro", "product_name", "major_version", "minor_version", "hostname")


def told(disk: Path) -> dict[str, object]:
    command = ["virt-inspector", "--format=raw", "-a", str(disk), "--no-icon", "--no-applications"]
    xml = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    systems = []
    for one in ElementTree.fromstring(xml).iterfind("operatingsystem"):
        facts: dict[str, object] = {tag: one.findtext(tag) for tag in TAGS}
        facts["mountpoints"] = {place.text: place.get("dev") for place in one.iterfind("mountpoints/mountpoint")}
        systems.append(facts)
    return {"systems": systems}


def main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in MACHINES.items():
            found[name] = told(make(Path(folder)).disk)
    golden = REPOSITORY / "tests" / "golden" / "guests-layouts"
    golden.mkdir(exist_ok=True)
    (golden / "facts.json").write_text(json.dumps(found, indent=1) + "\n")


main()
