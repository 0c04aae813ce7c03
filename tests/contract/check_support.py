"""What the tests of ``mntapi check`` share: checking, damaging, and what qemu-img says of the same file."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

from mntapi.images.checking import Fault, Severity, check_disk
from mntapi.images.opener import DirectOpener
from mntapi.types import DiskSpec, OpenOptions

KIB, MIB = 1 << 10, 1 << 20


def check(path: Path, *, data: bool = False, ignore_cid: bool = False) -> list[Fault]:
    options = OpenOptions(ignore_cid=ignore_cid)
    return list(check_disk(DiskSpec(str(path)), DirectOpener(options), options, data=data))


def texts(path: Path, **options: bool) -> list[str]:
    return [str(fault) for fault in check(path, **options)]


class Verdict(NamedTuple):
    """Whether there are errors, and leaks."""

    errors: bool
    leaks: bool


def verdict(faults: list[Fault]) -> Verdict:
    severities = {fault.severity for fault in faults}
    return Verdict(Severity.ERROR in severities, Severity.LEAK in severities)


def qemu_verdict(path: Path, kind: str) -> Verdict:
    """What ``qemu-img check`` says. A file it cannot open is an error (exit code 1)."""
    done = subprocess.run(["qemu-img", "check", "-f", kind, "--output=json", str(path)], capture_output=True, text=True)
    found = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    return Verdict(done.returncode in (1, 2), found.get("leaks", 0) > 0)


def patch(path: Path, *changes: tuple[int, bytes]) -> None:
    with path.open("r+b") as file:
        for at, content in changes:
            file.seek(at)
            file.write(content)


def number(path: Path, at: int, form: str) -> int:
    """The number at byte ``at``; ``form`` as in ``struct``."""
    with path.open("rb") as file:
        file.seek(at)
        found: int = struct.unpack(form, file.read(struct.calcsize(form)))[0]
    return found
