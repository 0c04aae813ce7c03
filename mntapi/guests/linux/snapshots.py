"""Earlier states that a guest keeps of its own folders: Snapper's and Timeshift's.

Source: snapper(8) and its ``doc/`` on ``info.xml``; Timeshift's ``info.json`` (``src/Core/Snapshot.vala``). Its XML is looked
through for the few elements that matter; nothing in it is expanded.
"""

from __future__ import annotations

import calendar
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mntapi.guests.files import GuestFiles, one_line
from mntapi.guests.linux.mounts import normal
from mntapi.guests.linux.release import parse_variables
from mntapi.guests.subvolumes import Catalog, name_of
from mntapi.guests.types import Candidate, MountKind, MountPoint, PointInTime
from mntapi.types import FileKind, FileSystem
from mntapi.units import KIB

MAX_SNAPSHOTS = 4096
"""Snapshots of one kind that are looked at, over all folders and volumes; that there are more is a reason."""
MAX_INFO = 64 * KIB
"""Bytes of the description of one."""
_Found = TypeVar("_Found")
_SECOND = 1_000_000_000
_ELEMENT = re.compile(r"<(date|description|type)>([^<]{0,4096})</\1>")
_DATE = re.compile(r"(\d{4})-([01]\d)-([0-3]\d) ([0-2]\d):([0-5]\d):([0-6]\d)")
_TIMESHIFT = "/timeshift/snapshots"


@dataclass(frozen=True, slots=True)
class Info:
    """What is recorded of one."""

    time_ns: int | None
    description: str | None


def snapper(
    files: GuestFiles, etc: str, mounts: Sequence[MountPoint], catalogs: Mapping[str, Catalog]
) -> Iterator[PointInTime]:
    """Those of each folder that Snapper looks after: the root, and what its settings name.

    Args:
        files: the guest's tree.
        etc: its folder of settings.
        mounts: its mount points, their subvolumes by path.
        catalogs: the subvolumes of volumes, by volume.
    """
    live = {(mount.volume, mount.subvolume, mount.folder) for mount in mounts}
    paths = {"/"}
    for entry in files.names(f"{etc}/snapper/configs", 256):
        variables = parse_variables(files.text(f"{etc}/snapper/configs/{entry.name}", MAX_INFO) or "")
        if variables.get("SUBVOLUME", "").startswith("/"):
            paths.add(normal(variables["SUBVOLUME"]))
    for path, place in first_ones(_numbered(files, sorted(paths)), "Snapper", files.reasons):
        text = files.text(f"{place}/info.xml", MAX_INFO)
        node = files.node(f"{place}/snapshot")
        if text is not None and node is not None and node.kind is FileKind.DIRECTORY:
            point = _point(path, f"{place}/snapshot", mounts, catalogs, _parse_info(text))
            if point is not None and (point.volume, point.subvolume, point.folder) not in live:  # SUSE's root is one itself
                yield point


@dataclass(frozen=True, slots=True)
class Kept:
    """A copy that Timeshift keeps. ``uuid`` is that of the file system it is a copy of."""

    uuid: str | None
    point: PointInTime


def timeshift(opened: Iterable[tuple[Candidate, FileSystem]], reasons: list[str]) -> list[Kept]:
    """Those on all volumes of the set, whatever they are copies of; ``reasons`` gets why there may be more."""
    found = []
    for candidate, files, name in first_ones(_dated(opened), "Timeshift", reasons):
        text = files.text(f"{_TIMESHIFT}/{name}/info.json", MAX_INFO)
        folder = f"{_TIMESHIFT}/{name}/localhost"
        if text is not None and files.has(folder):
            told = parse_json(text)
            point = PointInTime("/", candidate.volume.id, folder, None, told.info.time_ns, told.info.description)
            found.append(Kept(told.uuid, point))
    return found


def first_ones(found: Iterable[_Found], maker: str, reasons: list[str]) -> Iterator[_Found]:
    """The first ``MAX_SNAPSHOTS``; ``reasons`` gets a line if there are more."""
    for count, one in enumerate(found):
        if count == MAX_SNAPSHOTS:
            reasons.append(f"more than {MAX_SNAPSHOTS} snapshots of {maker}: the others are not listed beside the live files")
            return
        yield one


def _numbered(files: GuestFiles, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What Snapper looks after, and the folder of each of its snapshots."""
    for path in paths:
        folder = normal(f"{path}/.snapshots")
        yield from ((path, f"{folder}/{entry.name}") for entry in files.names(folder) if entry.name.isdecimal())


def _dated(opened: Iterable[tuple[Candidate, FileSystem]]) -> Iterator[tuple[Candidate, GuestFiles, str]]:
    for candidate, fs in opened:
        files = GuestFiles(fs)
        yield from ((candidate, files, entry.name) for entry in files.names(_TIMESHIFT))


def _point(
    path: str, place: str, mounts: Sequence[MountPoint], catalogs: Mapping[str, Catalog], info: Info
) -> PointInTime | None:
    """Where the folder at ``place`` is on its volume: below the mount point that is nearest above it."""
    above = [mount for mount in mounts if mount.path == "/" or f"{place}/".startswith(f"{mount.path}/")]
    nearest = max(above, key=lambda mount: len(mount.path))
    if nearest.kind is not MountKind.VOLUME or nearest.volume is None or (nearest.subvolume or "").startswith("id:"):
        return None
    inside = place.removeprefix(nearest.path if nearest.path != "/" else "")
    folder = normal(f"{nearest.subvolume or ''}/{nearest.folder}/{inside}")
    catalog = catalogs.get(nearest.volume)
    if catalog is None:
        return PointInTime(path, nearest.volume, folder, None, info.time_ns, info.description)
    one, folder = catalog.split(folder)
    time_ns = info.time_ns if one is None or info.time_ns is not None or folder != "/" else one.created_ns
    return PointInTime(path, nearest.volume, folder, name_of(one) if one else None, time_ns, info.description)


def _parse_info(text: str) -> Info:
    found = {match[1]: html.unescape(match[2]) for match in _ELEMENT.finditer(text)}
    return Info(_utc(found.get("date", "")), one_line(found.get("description", "")))


def _utc(text: str) -> int | None:
    """``2026-11-01 02:00:00``, in UTC."""
    match = _DATE.fullmatch(text.strip())
    if match is None:
        return None
    try:
        return calendar.timegm(tuple(int(number) for number in match.groups())) * _SECOND
    except ValueError:  # no such month
        return None


@dataclass(frozen=True, slots=True)
class Told:
    """Timeshift's description of a copy. ``uuid`` is that of the file system it is a copy of."""

    uuid: str | None
    info: Info


def parse_json(text: str) -> Told:
    """An ``info.json``; nothing is told by what is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    told = {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
    created = told.get("created", "")
    time_ns = int(created) * _SECOND if re.fullmatch(r"[0-9]{1,10}", created) else None
    return Told(told.get("sys-uuid"), Info(time_ns, one_line(told.get("comments", ""))))


def described(points: Sequence[PointInTime]) -> dict[str, str]:
    """For ``Guest.details``."""
    return {"snapshots": str(len(points))} if points else {}
