"""Android guests: named by the ``build.prop`` of their system volume.

Source: Android Open Source Project, "Build properties" (``build/make/tools/buildinfo.sh``), "Partition layouts".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mntapi.guests.files import GuestFiles, one_line
from mntapi.guests.finder import readable
from mntapi.guests.types import Candidate, Family, Guest, MountKind, MountPoint
from mntapi.units import KIB

MAX_PROPERTIES = 512 * KIB
"""Bytes of a ``build.prop``."""
_PLACES = (("/system/build.prop", "/", "/system"), ("/build.prop", "/system", "/"))
"""The file, where its volume is mounted, and the folder with the system: since Android 10 the volume is the root."""
_ARCHITECTURES = {"arm64-v8a": "aarch64", "armeabi-v7a": "arm", "armeabi": "arm", "x86": "x86", "x86_64": "x86_64"}


def find(candidates: Sequence[Candidate]) -> Iterator[Guest]:
    """Every volume with the properties of a build and the framework beside them."""
    for candidate, fs in readable(candidates):
        files = GuestFiles(fs)
        for path, place, folder in _PLACES:
            if files.has(path) and files.has(f"{folder}/framework"):
                yield _guest(candidate, files, path, place, folder)
                break


def parse_properties(text: str) -> dict[str, str]:
    """``key=value`` lines; the first of a key counts, as for read-only properties."""
    found: dict[str, str] = {}
    for key, value in re.findall(r"(?m)^[ \t]*([\w.\-]{1,92})[ \t]*=(.*)$", text):
        found.setdefault(key, one_line(value) or "")
    return found


def _guest(candidate: Candidate, files: GuestFiles, path: str, place: str, folder: str) -> Guest:
    told = parse_properties(files.text(path, MAX_PROPERTIES) or "")
    version = told.get("ro.build.version.release") or told.get("ro.system.build.version.release", "")
    numbers = re.match(r"(\d{1,9})(?:\.(\d{1,9}))?", version)
    details = {"model": told.get("ro.product.model") or told.get("ro.product.system.model", ""), "version": version}
    signature = candidate.signature
    return Guest(
        family=Family.ANDROID,
        volume=candidate.volume.id,
        os_folder=folder,
        vendor=told.get("ro.product.manufacturer") or told.get("ro.product.system.manufacturer") or None,
        product=f"Android {version}".strip(),
        major=int(numbers[1]) if numbers else None,
        minor=int(numbers[2]) if numbers and numbers[2] else None,
        build=told.get("ro.build.display.id") or told.get("ro.build.id") or None,
        architecture=_ARCHITECTURES.get(told.get("ro.product.cpu.abi", "")),
        mounts=(
            MountPoint(place, MountKind.VOLUME, "", candidate.volume.id, filesystem=signature.kind if signature else None),
        ),
        details={key: value for key, value in details.items() if value},
        reasons=tuple(files.reasons),
    )
