"""The oracle of the probe tests: ``blkid -p`` of util-linux on the same file. Other test modules import it from here."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from mntapi.blocks import HostFile
from mntapi.filesystems.probe import probe
from mntapi.types import Signature

SHARED = Path(__file__).parents[2].parent / "shared"
needs_blkid = pytest.mark.skipif(shutil.which("blkid") is None, reason="blkid (util-linux) is not installed")


class Answer(NamedTuple):
    """What both sides say: kind, label, UUID."""

    kind: str | None
    label: str | None = None
    uuid: str | None = None


def parse_udev(output: bytes) -> Answer:
    r"""The answer in ``blkid -p -o udev``; its ``_ENC`` values spell unusual bytes as ``\xNN``."""
    values = {}
    for line in output.splitlines():
        key, _, value = line.partition(b"=")
        raw = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), value)
        values[key.decode()] = raw.decode("utf-8", "replace")
    return Answer(values.get("ID_FS_TYPE"), values.get("ID_FS_LABEL_ENC"), values.get("ID_FS_UUID_ENC"))


def blkid(path: Path) -> Answer:
    """What the installed blkid says of a file."""
    done = subprocess.run(["blkid", "-p", "-o", "udev", str(path)], capture_output=True, check=False)
    assert done.returncode in (0, 2), f"blkid: {done.returncode} {done.stderr.decode()}"  # 2 is: nothing found
    return parse_udev(done.stdout)


def signature(path: Path) -> Signature | None:
    """What the probe says of a file."""
    blocks = HostFile.open(str(path))
    try:
        return probe(blocks)
    finally:
        blocks.close()


def ours(path: Path) -> Answer:
    """The part of it that blkid says too."""
    found = signature(path)
    return Answer(found.kind, found.label, found.uuid) if found else Answer(None)


def run(*command: str | Path) -> None:
    """A mkfs program; its output is shown when it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout.decode()}{done.stderr.decode()}"


def blank(path: Path, size: int) -> Path:
    """A sparse file of ``size`` bytes."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


@needs_blkid
def test_the_oracle_speaks_the_dialect_we_parse(tmp_path: Path) -> None:
    path = blank(tmp_path / "swap", 1 << 20)
    assert blkid(path) == Answer(None)
    run("mkswap", "-q", "-L", "a b\x07ö", "-U", "01234567-89ab-cdef-0123-456789abcdef", path)
    assert blkid(path) == Answer("swap", "a b\x07ö", "01234567-89ab-cdef-0123-456789abcdef")
