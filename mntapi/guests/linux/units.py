"""systemd's mount units: those that a guest starts.

Source: systemd.mount(5), systemd.unit(5) (load path, ``[Install]``, ``.wants``), systemd.syntax(7); systemd-escape(1). Drop-ins
(``home.mount.d``) and specifiers but ``%%`` are not looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mntapi.guests.files import GuestFiles
from mntapi.guests.linux.fstab import Mounting, split_options
from mntapi.units import KIB

MAX_UNIT = 64 * KIB
"""Bytes of a unit."""
MAX_UNITS = 256
"""Mount units that are looked at, and names in one folder of what is wanted."""
MAX_FOLDERS = 128
"""Folders ``.wants`` and ``.requires`` that are looked into."""
_NULL = "/dev/null"
_OWN = "/etc/systemd/system"
_VENDOR = ("/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_CODE = re.compile(r"\\x([0-9a-fA-F]{2})")


@dataclass(frozen=True, slots=True)
class Units:
    """``own`` are the administrator's and come before fstab, ``vendor``'s after it; ``masked`` are paths never mounted."""

    own: tuple[Mounting, ...] = ()
    vendor: tuple[Mounting, ...] = ()
    masked: frozenset[str] = frozenset()


def find_units(files: GuestFiles) -> Units:
    """The mount units that are wanted by anything at all, and the masks."""
    own: list[Mounting] = []
    vendor: list[Mounting] = []
    masked = set()
    for entry in files.names(_OWN):
        if entry.name.endswith(".mount") and files.link(f"{_OWN}/{entry.name}") == _NULL:
            masked.add(path_of(entry.name.removesuffix(".mount")))
    for name in sorted(_wanted(files))[:MAX_UNITS]:
        for folder in (_OWN, *_VENDOR):
            text = files.text(f"{folder}/{name}", MAX_UNIT)
            if text is not None:
                mounting = parse_unit(text, f"{folder}/{name}")
                if mounting is not None and mounting.target not in masked:
                    (own if folder == _OWN else vendor).append(mounting)
                break
    return Units(tuple(own), tuple(vendor), frozenset(masked))


def parse_unit(text: str, origin: str) -> Mounting | None:
    """The unit's ``[Mount]`` section; None if that does not say what goes where."""
    section = ""
    settings: dict[str, str] = {}
    for line in re.sub(r"\\\r?\n", " ", text).split("\n"):
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section == "[Mount]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            settings[key.strip()] = _plain(value.strip())
    if not settings.get("What") or not settings.get("Where", "").startswith("/"):
        return None
    options = split_options(settings.get("Options", ""))
    return Mounting(settings["What"], settings["Where"], settings.get("Type") or "auto", options, origin)


def path_of(name: str) -> str:
    """The path that a unit's name stands for: ``home-a\\x2db`` is ``/home/a-b``."""
    if name == "-":
        return "/"
    raw = _CODE.sub(lambda code: chr(int(code[1], 16)), name.replace("-", "/"))
    return "/" + raw.encode("latin-1", "replace").decode("utf-8", "surrogateescape")


def _plain(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return value.replace("%%", "%")


def _wanted(files: GuestFiles) -> set[str]:
    """The names of mount units in the folders ``*.wants`` and ``*.requires``; an automount stands for its mount."""
    found = set()
    bases = (_OWN, *_VENDOR)
    folders = [
        f"{base}/{one.name}" for base in bases for one in files.names(base) if one.name.endswith((".wants", ".requires"))
    ]
    for folder in folders[:MAX_FOLDERS]:
        for unit in files.names(folder, MAX_UNITS):
            stem, _, kind = unit.name.rpartition(".")
            if kind in ("mount", "automount"):
                found.add(f"{stem}.mount")
    return found
