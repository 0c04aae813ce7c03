"""Containers in a confined process, which may neither open files nor import: what a worker is."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from contract.container_support import make_content
from contract.ewf_builder import image

CONTENT = make_content(2 << 20)[: 10 * 32768]
SCRIPT = """
import hashlib, importlib, json, sys
from mntapi.blocks import HostFile, read
from mntapi.errors import NotFound
from mntapi.images import raw
from mntapi.images.compressed import gz
from mntapi.images.formats import Chain
from mntapi.kernel.sandbox import confine
from mntapi.types import OpenOptions

class Closed:
    def open(self, name, *, relative_to=None):
        raise NotFound("no such file", path=name)

gz.SMALL = int(sys.argv[1])
jobs = [(importlib.import_module("mntapi.images." + module), HostFile.open(path)) for module, path in json.loads(sys.argv[2])]
confine(memory_limit=256 << 20)
for module, file in jobs:
    opened = module.open_image(file, Chain(Closed(), OpenOptions()))
    print(hashlib.sha256(read(opened.blocks, 0, opened.blocks.size)).hexdigest())
    opened.blocks.close()
"""


@pytest.mark.parametrize("small", [0, 1 << 30])
def test_confined(small: int, tmp_path: Path) -> None:
    files = {
        "compressed.gz": gzip.compress(CONTENT, 1),
        "compressed.xz": lzma.compress(CONTENT, preset=0),
        "compressed.zst": zstandard.compress(CONTENT),
        "ewf": bytes(image(CONTENT).raw),
        "split": CONTENT,
    }
    jobs = []
    for number, (module, raw) in enumerate(files.items()):
        (tmp_path / f"x{number}.img").write_bytes(raw)
        jobs.append((module, str(tmp_path / f"x{number}.img")))
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(small), json.dumps(jobs)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [hashlib.sha256(CONTENT).hexdigest()] * len(jobs)
    assert not (tmp_path / "cache").exists()
