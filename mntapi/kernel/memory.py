"""How much memory there is."""

from __future__ import annotations

import re

from mntapi.units import KIB

_AVAILABLE = re.compile(rb"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)


def available_memory() -> int | None:
    """Bytes that a program can take without others being swapped out; None if the system does not tell. Source: proc(5)."""
    try:
        with open("/proc/meminfo", "rb") as file:
            found = _AVAILABLE.search(file.read())
    except OSError:
        return None
    return int(found[1]) * KIB if found else None
