"""ESXi hosts: named by the ``boot.cfg`` of their boot banks. There are two; the one updated last is what the host starts.

Source: VMware, "About the boot.cfg File" (vSphere installation guide); the order by ``bootstate`` and ``updated`` as seen on
disks of ESXi 5 to 8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from mntapi.guests.files import GuestFiles, one_line
from mntapi.guests.finder import readable
from mntapi.guests.types import Candidate, Family, Guest, MountKind, MountPoint
from mntapi.units import KIB

MAX_BOOT = 64 * KIB
"""Bytes of a ``boot.cfg``."""
_INVALID = "3"
"""``bootstate`` of a bank that is not to be started."""


def find(candidates: Sequence[Candidate]) -> Iterator[Guest]:
    """One guest for each disk with boot banks."""
    banks: dict[int | None, list[tuple[Candidate, Mapping[str, str], list[str]]]] = {}
    for candidate, fs in readable(candidates):
        files = GuestFiles(fs, fold=True)
        told = parse_boot(files.text("/boot.cfg", MAX_BOOT) or "")
        if is_bank(told) and any(files.has(name) for name in ("/state.tgz", "/s.v00", "/b.b00", "/jumpstrt.gz")):
            banks.setdefault(candidate.volume.disk, []).append((candidate, told, files.reasons))
    for found in banks.values():
        found.sort(key=lambda bank: _rank(bank[1]), reverse=True)
        yield _guest(found)


def parse_boot(text: str) -> dict[str, str]:
    """``key=value`` lines."""
    return {key: one_line(value) or "" for key, value in re.findall(r"(?m)^(\w{1,32})=(.*)$", text)}


def is_bank(told: Mapping[str, str]) -> bool:
    """Whether the settings are a boot bank's: an installer's have no ``bootstate``."""
    return "bootstate" in told and "build" in told and ("vmware" in told.get("title", "").lower() or "kernel" in told)


def _rank(told: Mapping[str, str]) -> tuple[bool, int]:
    updated = told.get("updated", "")
    return told["bootstate"] != _INVALID, int(updated) if re.fullmatch(r"\d{1,9}", updated) else 0


def _guest(banks: Sequence[tuple[Candidate, Mapping[str, str], list[str]]]) -> Guest:
    """``build`` is ``7.0.3-0.35.19482537``: version, update, build number."""
    candidate, told, reasons = banks[0]
    version, _, rest = told["build"].partition("-")
    numbers = re.match(r"(\d{1,9})\.(\d{1,9})", version)
    mounts = [
        MountPoint(path, MountKind.VOLUME, "", one.volume.id, filesystem=one.signature.kind if one.signature else None)
        for path, (one, _, _) in zip(("/bootbank", "/altbootbank"), banks, strict=False)
    ]
    return Guest(
        family=Family.ESXI,
        volume=candidate.volume.id,
        os_folder="/",
        vendor="VMware",
        product=f"VMware ESXi {version}",
        major=int(numbers[1]) if numbers else None,
        minor=int(numbers[2]) if numbers else None,
        build=rest.rpartition(".")[2] or None,
        mounts=tuple(sorted(mounts, key=lambda mount: mount.path)),
        details={"version": told["build"], **({"alternative": banks[1][1]["build"]} if len(banks) > 1 else {})},
        reasons=tuple(reasons),
    )
