"""README's first command, as a user runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from contract.make_disk import TOOLS, need

TOP = Path(__file__).parents[2]


@pytest.mark.root
def test_the_demo(tmp_path: Path) -> None:
    need("dpkg-query", *TOOLS)
    if not (TOP / ".venv/bin/mntapi").exists():
        pytest.skip("the project's own .venv is not here")
    environment = {
        **os.environ,
        "MNTAPI_RUN_DIR": str(tmp_path / "run"),
        "MNTAPI_STATE_DIR": str(tmp_path / "state"),
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run([TOP / "scripts/mntapi", "demo"], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("disk0p1", "ext4", "ntfs", "web01", "Product,Sum", "Nothing is left behind: 0 mounts, 0 workers"):
        assert text in done.stdout
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())
