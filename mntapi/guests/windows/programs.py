"""What is installed: programs that can be uninstalled, and services. Reads much of two hives, so only on request.

Source: Microsoft, "Uninstall Registry Key" and "Database of Installed Services".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from mntapi.guests.files import GuestFiles
from mntapi.guests.types import Application
from mntapi.guests.windows.registry import Registry, open_registry
from mntapi.types import FileSystem
from mntapi.units import MIB

MAX_PROGRAMS = 10_000
MAX_SERVICES = 10_000
MAX_HIVE_READ = 64 * MIB
"""Of each hive: some thousand programs, in two seconds."""
_UNINSTALL = (
    "Microsoft\\Windows\\CurrentVersion\\Uninstall",
    "WOW6432Node\\Microsoft\\Windows\\CurrentVersion\\Uninstall",
)
"""Of programs as wide as the system, and of 32-bit ones on a 64-bit system."""
_PROCESS = 0x30
"""Bits of a service's type: a program, of its own or one that hosts several. The others are drivers."""


def programs(filesystem: FileSystem, folder: str, control_set: str) -> list[Application]:
    """Programs and services of the system in a folder of its volume. What is damaged is left out."""
    files = GuestFiles(filesystem, fold=True)
    with ExitStack() as resources:
        software = open_registry(files, folder, "SOFTWARE", resources, limit=MAX_HIVE_READ)
        system = open_registry(files, folder, "SYSTEM", resources, limit=MAX_HIVE_READ)
        return [*_uninstallable(software), *_services(system, control_set)]


def _uninstallable(software: Registry) -> Iterator[Application]:
    for path in _UNINSTALL:
        for key in software.keys(path, MAX_PROGRAMS):
            name = software.text(key, "DisplayName")
            if name:
                yield Application(
                    name,
                    version=software.text(key, "DisplayVersion"),
                    publisher=software.text(key, "Publisher"),
                    path=software.text(key, "InstallLocation"),
                )


def _services(system: Registry, control_set: str) -> Iterator[Application]:
    """A display name in the resources of a DLL (``@%SystemRoot%\\...,-100``) cannot be told: the key's name stands in."""
    for key in system.keys(f"{control_set}\\Services", MAX_SERVICES):
        kind = system.number(key, "Type")
        if kind is None or not kind & _PROCESS:
            continue
        shown = system.text(key, "DisplayName")
        name = key.name if shown is None or shown.startswith("@") else shown
        yield Application(name, kind="service", path=system.text(key, "ImagePath"))
