#!/usr/bin/env python3
"""What virt-inspector says of a Windows that the tests make on a disk. Needs: libguestfs-tools, ntfs-3g, and root to mount.

Result: tests/golden/guests-windows/virt-inspector.xml.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RESULT = REPOSITORY / "tests/golden/guests-windows/virt-inspector.xml"
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from contract.windows_disks import inspected_disk  # noqa: E402 (found by the line above)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        disk = inspected_disk(Path(folder))
        asked = ["virt-inspector", "--no-icon", "--format=raw", "-a", str(disk)]
        told = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(told)


main()
