"""macOS and Mac OS X guests: named, and their volume placed. Theirs are HFS+ (to 10.12); APFS is not read in this version.

Source: Apple's ``SystemVersion.plist`` as on every release since 10.0; property lists by Python's plistlib, XML only, which
expands no entities.
"""

from __future__ import annotations

import plistlib
import re
from collections.abc import Iterator, Sequence
from xml.parsers.expat import ExpatError

from mntapi.guests.files import GuestFiles, one_line
from mntapi.guests.finder import readable
from mntapi.guests.types import Candidate, Family, Guest, MountKind, MountPoint
from mntapi.units import KIB

MAX_PLIST = 64 * KIB
"""Bytes of a property list."""
_VERSION = "/System/Library/CoreServices/SystemVersion.plist"
_SERVER = "/System/Library/CoreServices/ServerVersion.plist"
_SETTINGS = "/Library/Preferences/SystemConfiguration/preferences.plist"


def find(candidates: Sequence[Candidate]) -> Iterator[Guest]:
    """Every volume with a ``SystemVersion.plist`` where a system has it."""
    for candidate, fs in readable(candidates):
        files = GuestFiles(fs)
        if files.has(_VERSION):
            yield _guest(candidate, files)


def _guest(candidate: Candidate, files: GuestFiles) -> Guest:
    told = _strings(_properties(files, _VERSION))
    version = told.get("ProductVersion", "")
    numbers = re.match(r"(\d{1,9})(?:\.(\d{1,9}))?", version)
    signature = candidate.signature
    return Guest(
        family=Family.MACOS,
        volume=candidate.volume.id,
        os_folder="/",
        vendor="Apple",
        product=one_line(" ".join(filter(None, (told.get("ProductName"), version)))),
        edition="Server" if files.has(_SERVER) else None,
        major=int(numbers[1]) if numbers else None,
        minor=int(numbers[2]) if numbers and numbers[2] else None,
        build=told.get("ProductBuildVersion"),
        hostname=_hostname(_properties(files, _SETTINGS)),
        mounts=(MountPoint("/", MountKind.VOLUME, "", candidate.volume.id, filesystem=signature.kind if signature else None),),
        reasons=tuple(files.reasons),
    )


def _properties(files: GuestFiles, path: str) -> dict[str, object]:
    """The property list; nothing where it is not there or cannot be understood, with a reason."""
    content = files.content(path, MAX_PLIST)
    if content is None:
        return {}
    try:
        found = plistlib.loads(content, fmt=plistlib.FMT_XML)
    except (ExpatError, plistlib.InvalidFileException, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        files.reasons.append(f"{path}: no property list in XML: {one_line(str(error))}")
        return {}
    if not isinstance(found, dict):
        files.reasons.append(f"{path}: a property list that is no dictionary")
        return {}
    return found


def _strings(properties: dict[str, object]) -> dict[str, str]:
    return {key: text for key, value in properties.items() if isinstance(value, str) and (text := one_line(value))}


def _hostname(settings: object) -> str | None:
    """The computer's name for the local network, below ``System/Network/HostNames``."""
    for key in ("System", "Network", "HostNames", "LocalHostName"):
        settings = settings.get(key) if isinstance(settings, dict) else None
    return one_line(settings) if isinstance(settings, str) else None
