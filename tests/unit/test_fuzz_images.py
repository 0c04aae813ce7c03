"""Damaged disks of every format, through everything a user can ask of them: an error of ours or an answer, and nothing else.

A fixed number of examples, the same each time; ``MNTAPI_FUZZ_SECONDS=600`` goes on for that long instead, with others each
time. ``scripts/fuzz`` is the same loop, and repeats what fails here: the message has its options.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mntapi.images.formats import FORMATS

TESTS = Path(__file__).parents[1]
EXAMPLES = 12
"""Of each disk; a few hundredths of a second each."""
CPU_S = 25
"""Seconds of processor time after which the rest is left out."""
LONGER_S = float(os.environ.get("MNTAPI_FUZZ_SECONDS", 0))
NEEDS = {"ewf": "ewfacquirestream", "zstd": "zstd"} | dict.fromkeys(("qcow2", "vdi", "qed", "parallels"), "qemu-img")


def test_damaged_disks(tmp_path: Path) -> None:
    folder = tmp_path / "fuzz"
    asked = ["--examples", EXAMPLES, "--seconds", CPU_S, "--seed", 1]
    if LONGER_S:
        asked = ["--examples", 0, "--seconds", LONGER_S, "--seed", time.time_ns()]
    command = [sys.executable, "-m", "fuzz.loop", "--folder", folder, *asked]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    done = subprocess.run(
        [str(one) for one in command], env=environment, capture_output=True, text=True, timeout=300 + 20 * LONGER_S
    )
    current = folder / "current"
    last = current.read_text() if current.exists() else "none"
    assert done.returncode == 0, f"exit code {done.returncode}, last example: {last}\n{done.stdout}\n{done.stderr[-4000:]}"
    seen = set(done.stdout.partition("formats: ")[2].partition("\n")[0].split())
    missing = {format_.name for format_ in FORMATS} - seen
    assert all(name in NEEDS and shutil.which(NEEDS[name]) is None for name in missing), f"no disk to damage of: {missing}"
