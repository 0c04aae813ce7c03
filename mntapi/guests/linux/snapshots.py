"""Earlier states that a guest keeps of its own folders: Snapper's and Timeshift's.

Source: snapper(8) and its ``doc/`` on ``info.xml``; Timeshift's ``info.json`` (``src/Core/Snapshot.vala``). Its XML is looked
through for the few elements that matter; nothing in it is expanded.
"""

from __future__ import annotations

import calendar
import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from mntapi.guests.files import GuestFiles, one_line
from mntapi.guests.linux.mounts import normal
from mntapi.guests.linux.release import parse_variables
from mntapi.guests.types import Candidate, MountKind, MountPoint, PointInTime
from mntapi.types import FileKind, FileSystem
from mntapi.units import KIB

MAX_SNAPSHOTS = 1024
"""Snapshots of one kind that are looked at, over all folders and volumes."""
MAX_INFO = 64 * KIB
"""Bytes of the description of one."""
_SECOND = 1_000_000_000
_ELEMENT = re.compile(r"<(date|description|type)>([^<]{0,4096})</\1>")
_DATE = re.compile(r"(\d{4})-([01]\d)-([0-3]\d) ([0-2]\d):([0-5]\d):([0-6]\d)")
_TIMESHIFT = "/timeshift/snapshots"


@dataclass(frozen=True, slots=True)
class _Info:
    time_ns: int | None
    description: str | None


def snapper(files: GuestFiles, etc: str, mounts: Sequence[MountPoint]) -> Iterator[PointInTime]:
    """Those of each folder that Snapper looks after: the root, and what its settings name."""
    paths = {"/"}
    for entry in files.names(f"{etc}/snapper/configs", 256):
        variables = parse_variables(files.text(f"{etc}/snapper/configs/{entry.name}", MAX_INFO) or "")
        if variables.get("SUBVOLUME", "").startswith("/"):
            paths.add(normal(variables["SUBVOLUME"]))
    for path, place in islice(_numbered(files, sorted(paths)), MAX_SNAPSHOTS):
        text = files.text(f"{place}/info.xml", MAX_INFO)
        node = files.node(f"{place}/snapshot")
        if text is not None and node is not None and node.kind is FileKind.DIRECTORY:
            yield from _point(path, f"{place}/snapshot", mounts, _parse_info(text))


@dataclass(frozen=True, slots=True)
class Kept:
    """A copy that Timeshift keeps. ``uuid`` is that of the file system it is a copy of."""

    uuid: str | None
    point: PointInTime


def timeshift(opened: Iterable[tuple[Candidate, FileSystem]]) -> list[Kept]:
    """Those on all volumes of the set, whatever they are copies of."""
    found = []
    for candidate, files, name in islice(_dated(opened), MAX_SNAPSHOTS):
        text = files.text(f"{_TIMESHIFT}/{name}/info.json", MAX_INFO)
        folder = f"{_TIMESHIFT}/{name}/localhost"
        if text is not None and files.has(folder):
            told = _parse_json(text)
            created = told.get("created", "")
            time_ns = int(created) * _SECOND if re.fullmatch(r"\d{1,10}", created) else None
            point = PointInTime("/", candidate.volume.id, folder, None, time_ns, one_line(told.get("comments", "")))
            found.append(Kept(told.get("sys-uuid"), point))
    return found


def _numbered(files: GuestFiles, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What Snapper looks after, and the folder of each of its snapshots."""
    for path in paths:
        folder = normal(f"{path}/.snapshots")
        yield from ((path, f"{folder}/{entry.name}") for entry in files.names(folder) if entry.name.isdecimal())


def _dated(opened: Iterable[tuple[Candidate, FileSystem]]) -> Iterator[tuple[Candidate, GuestFiles, str]]:
    for candidate, fs in opened:
        files = GuestFiles(fs)
        yield from ((candidate, files, entry.name) for entry in files.names(_TIMESHIFT))


def _point(path: str, place: str, mounts: Sequence[MountPoint], info: _Info) -> Iterator[PointInTime]:
    """Where the folder at ``place`` is on its volume: below the mount point that is nearest above it."""
    above = [mount for mount in mounts if mount.path == "/" or f"{place}/".startswith(f"{mount.path}/")]
    nearest = max(above, key=lambda mount: len(mount.path))
    if nearest.kind is not MountKind.VOLUME or nearest.volume is None or (nearest.subvolume or "").startswith("id:"):
        return
    inside = place.removeprefix(nearest.path if nearest.path != "/" else "")
    folder = normal(f"{nearest.folder}/{inside}")
    subvolume = None
    if nearest.subvolume is not None:
        subvolume, folder = normal(f"{nearest.subvolume}{folder}").lstrip("/"), "/"
    yield PointInTime(path, nearest.volume, folder, subvolume, info.time_ns, info.description)


def _parse_info(text: str) -> _Info:
    found = {match[1]: html.unescape(match[2]) for match in _ELEMENT.finditer(text)}
    return _Info(_utc(found.get("date", "")), one_line(found.get("description", "")))


def _utc(text: str) -> int | None:
    """``2026-11-01 02:00:00``, in UTC."""
    match = _DATE.fullmatch(text.strip())
    if match is None:
        return None
    try:
        return calendar.timegm(tuple(int(number) for number in match.groups())) * _SECOND
    except ValueError:  # no such month
        return None


def _parse_json(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def described(points: Sequence[PointInTime]) -> dict[str, str]:
    """For ``Guest.details``."""
    return {"snapshots": str(len(points))} if points else {}
