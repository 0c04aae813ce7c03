"""Where links lead. A target is the guest's own text; here it becomes names in the tree, always inside the link's guest.

Windows: ``C:/x`` (the NTFS reader writes slashes) is a drive of the same guest, ``/x`` the root of the link's own drive,
``Volume{guid}/x`` the volume that is mounted under that name; a share (``//server/share``) is nowhere, and never found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mntapi.session.guest_tree.places import Place, fold

_DRIVE = re.compile(r"([A-Za-z]):(?:/|$)")
_DEVICE = re.compile(r"/*(?:[?.]|\?\?)/")
"""``\\\\?\\``, ``\\\\.\\`` and ``\\??\\``: what follows is a full path."""
_VOLUME = re.compile(r"volume\{[0-9a-f-]{36}\}(?=/|$)", re.IGNORECASE)
_USER_DRIVE = re.compile(r"/*([A-Za-z]):(?=[\\/]|$)")


def names_in(text: str) -> list[str]:
    """The names between slashes; empty ones and ``.`` left out."""
    return [name for name in text.split("/") if name not in ("", ".")]


def drive_path(path: str) -> list[str] | None:
    """The names of a path as a user of Windows writes it: ``C:\\x``, ``/C:/x``, ``c:/x``; None if it is no such path."""
    found = _USER_DRIVE.match(path)
    if found is None:
        return None
    return [found[1].upper() + ":", *names_in(path[found.end() :].replace("\\", "/"))]


def absolute(place: Place, target: str, volumes: Mapping[str, tuple[str, ...]]) -> list[str] | None:
    """The names in the tree of where a target leads that is a full path; None if it is a relative one.

    Args:
        place: what the link is in. A path into its own mount point stays in it, also in a snapshot.
        target: as the guest has it.
        volumes: what Windows mounts as ``volume{guid}``, by that name in lower case.
    """
    if not place.is_windows:
        return _inside(place, names_in(target)) if target.startswith("/") else None
    device = _DEVICE.match(target)
    text = target[device.end() :] if device else target
    drive = _DRIVE.match(text)
    if drive:
        return _inside(place, [drive[1].upper() + ":", *names_in(text[2:])])
    volume = _VOLUME.match(text)
    if volume and volume[0].lower() in volumes:
        return [*volumes[volume[0].lower()], *names_in(text[volume.end() :])]
    if volume or device:
        return [*place.home, *names_in(text)]
    if text.startswith(("//", "UNC/")):
        return [*place.home, "UNC", *names_in(text.removeprefix("UNC"))]
    return _inside(place, [*place.path[:1], *names_in(text)]) if text.startswith("/") else None


def upwards(place: Place, climbed: int) -> list[str]:
    """Names in the tree of the folder that ``climbed`` times ``..`` leads to from the root of a place."""
    top = min(len(place.path), 1 if place.is_windows else 0)
    kept = place.path[: max(top, len(place.path) - climbed)]
    return _inside(place, list(kept))


def _inside(place: Place, names: list[str]) -> list[str]:
    """A full path of the guest as names of the tree."""
    own = len(place.path)
    mine = [fold(name, place.is_windows) for name in place.path]
    if [fold(name, place.is_windows) for name in names[:own]] == mine:
        return [*place.names, *names[own:]]
    return [*place.home, *names]
