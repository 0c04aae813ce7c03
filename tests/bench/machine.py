"""What the figures were measured on: they mean nothing without it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from typing import Any

_VERSIONS = (
    ("fio", "--version"),
    ("qemu-storage-daemon", "--version"),
    ("vmdkmount", "-V"),
    ("nbdfuse", "--version"),
    ("bindfs", "--version"),
    ("ntfs-3g", "--version"),
    ("fls", "-V"),
    ("virt-filesystems", "--version"),
)
"""Programs and how each tells its version."""
_VERSION = re.compile(r"\d+(\.\d+)+|\b\d{8}\b")


def describe() -> dict[str, Any]:
    """Processor, memory in bytes, kernel, load, and the versions of the programs that are installed."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {program: version(program, option) for program, option in _VERSIONS},
    }


def _cpu_model() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def version(program: str, option: str) -> str | None:
    """The first thing in a program's own words that looks like a version; None if it is not installed."""
    if shutil.which(program) is None:
        return None
    done = subprocess.run([program, option], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    found = _VERSION.search(done.stdout + done.stderr)
    return found.group() if found else "of unknown version"


def sentence(machine: dict[str, Any]) -> str:
    """The same in three lines to read."""
    programs = ", ".join(f"{name} {text or 'not installed'}" for name, text in machine["versions"].items())
    trips = machine["round_trips"]
    kept_awake = [race for race, cost in trips.items() if cost["awake"] < cost["asleep"]]
    return (
        f"{machine['cpu']}, {machine['cores']} processors, {machine['memory'] / 2**30:.0f} GiB, Linux {machine['kernel']}, "
        f"Python {machine['python']}, load before {machine['load']}\n{programs}\n"
        f"Processors kept awake during: {', '.join(kept_awake) or 'nothing, it would have made them slower'}"
    )
