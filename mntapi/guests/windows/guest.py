"""One Windows: found by its hives, asked for all that ``Guest`` has."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from mntapi.guests.files import GuestFiles
from mntapi.guests.types import Candidate, Family, Guest, MountKind, MountPoint
from mntapi.guests.windows.accounts import users
from mntapi.guests.windows.drives import Drives, Places
from mntapi.guests.windows.folders import folder_mounts
from mntapi.guests.windows.programs import programs
from mntapi.guests.windows.registry import Registry, open_registry, unix_ns
from mntapi.guests.windows.release import VERSION, architecture, release
from mntapi.guests.windows.state import hibernation, pending_restart
from mntapi.guests.windows.systems import USUAL_FOLDERS
from mntapi.types import FileSystem

_SYSTEM_ROOT = re.compile(r"([A-Za-z]):\\([^\\]+)\\?")
_NANOSECONDS = 1_000_000_000


def inspect(candidate: Candidate, filesystem: FileSystem, folder: str, places: Places) -> Guest | None:
    """The system in a top folder of a volume; None if it is the copy of one, which says that it was elsewhere."""
    files = GuestFiles(filesystem, fold=True)
    with ExitStack() as resources:
        software = open_registry(files, folder, "SOFTWARE", resources)
        root = _SYSTEM_ROOT.fullmatch(software.text(VERSION, "SystemRoot") or "")
        if folder.lower() not in USUAL_FOLDERS and (root is None or root[2].lower() != folder.lower()):
            return None
        system = open_registry(files, folder, "SYSTEM", resources)
        sam = open_registry(files, folder, "SAM", resources)
        return _Inspection(candidate, folder, root[1] if root else None, places, files, software, system, sam).guest()


class _Inspection:
    """The parts of one system while it is looked at."""

    def __init__(
        self,
        candidate: Candidate,
        folder: str,
        root_letter: str | None,
        places: Places,
        files: GuestFiles,
        software: Registry,
        system: Registry,
        sam: Registry,
    ) -> None:
        self._volume = candidate.volume
        self._folder = folder
        self._root_letter = root_letter
        self._files = files
        self._software, self._system, self._sam = software, system, sam
        self._drives = Drives(system, places)
        self._control_set = self._current_control_set()

    def guest(self) -> Guest:
        """All that is known."""
        software, system, control_set = self._software, self._system, self._control_set
        drive = self._system_drive()
        os_folder = f"{drive}\\{self._folder}"
        found = release(software, system, control_set)
        self._add_dynamic_hints()
        mounts = [*self._drives.mounts, *folder_mounts(self._drives, self._files)]
        environment = {"systemdrive": drive, "systemroot": os_folder, "windir": os_folder}
        hostname, details = self._names()
        guest = Guest(
            family=Family.WINDOWS,
            volume=self._volume.id,
            os_folder=os_folder,
            vendor="Microsoft",
            product=found.product,
            edition=found.edition,
            major=found.major,
            minor=found.minor,
            build=found.build,
            architecture=architecture(system, control_set),
            hostname=hostname,
            machine_id=software.text("Microsoft\\Cryptography", "MachineGuid"),
            timezone=self._timezone(),
            installed_ns=self._installed(),
            last_shutdown_ns=self._last_shutdown(),
            mounts=tuple(sorted(mounts, key=lambda mount: mount.path.lower())),
            users=tuple(users(self._sam, software, environment)),
            details=found.details | details | self._state(),
            applications=partial(programs, self._files.fs, self._folder, control_set),
        )
        return replace(guest, reasons=tuple(self._files.reasons))

    def _current_control_set(self) -> str:
        """The control set that the last boot used."""
        number = self._system.number("Select", "Current")
        if number is None and self._system.is_there:
            self._system.note("does not say which control set is the current one; the first is taken")
        return f"ControlSet{1 if number is None else number:03d}"

    def _system_drive(self) -> str:
        """The letter of the system's own volume, with a colon; empty if none is known.

        ``MountedDevices`` may be about another disk: the guest was copied, and has not run since. Then the letter is the one
        under which it knew itself when it last ran.
        """
        mine, letter = self._drives.of(self._volume.id), self._root_letter
        wanted = self._drives.at(letter) if letter else None
        if wanted is not None and wanted.volume == self._volume.id:
            return wanted.path[:2]
        if mine is not None:
            return mine.path[:2]
        if letter is None:
            return ""
        if wanted is not None:
            self._drives.mounts.remove(wanted)
        reason = "so says SystemRoot; " + ("MountedDevices does not name this volume" if wanted is None else _elsewhere(wanted))
        path = f"{letter.upper()}:\\"
        self._drives.mounts.append(self._drives.of_volume(path, f"{path}{self._folder}", self._volume.id, reason))
        return path[:2]

    def _add_dynamic_hints(self) -> None:
        """Letters that the database of dynamic disks suggests, where ``MountedDevices`` has none."""
        for candidate in self._drives.places.candidates.values():
            volume = candidate.volume
            hint = volume.details.get("drive", "") if volume.kind == "ldm" else ""
            if re.fullmatch(r"[A-Za-z]:\\?", hint) and self._drives.at(hint[0]) is None and self._drives.of(volume.id) is None:
                mount = self._drives.of_volume(
                    f"{hint[0].upper()}:\\", hint, volume.id, "so says the database of the dynamic disks"
                )
                self._drives.mounts.append(mount)

    def _names(self) -> tuple[str | None, dict[str, str]]:
        """The host's name, and what else it is called."""
        system, control_set = self._system, self._control_set
        network = f"{control_set}\\Services\\Tcpip\\Parameters"
        computer = system.text(f"{control_set}\\Control\\ComputerName\\ComputerName", "ComputerName")
        host = system.text(network, "Hostname") or system.text(network, "NV Hostname")
        domain = system.text(network, "Domain") or system.text(network, "NV Domain")
        details = {"domain": domain} if domain else {}
        if computer and computer != host:
            details["computer-name"] = computer
        return host or computer, details

    def _timezone(self) -> str | None:
        """Since Vista a name that does not depend on the language; before that the one that is shown."""
        path = f"{self._control_set}\\Control\\TimeZoneInformation"
        found = self._system.text(path, "TimeZoneKeyName") or self._system.text(path, "StandardName")
        return None if found is None or found.startswith("@") else found

    def _installed(self) -> int | None:
        precise = unix_ns(self._software.number(VERSION, "InstallTime"))
        seconds = self._software.number(VERSION, "InstallDate")
        return precise or (seconds * _NANOSECONDS if seconds else None)

    def _last_shutdown(self) -> int | None:
        raw = self._system.data(f"{self._control_set}\\Control\\Windows", "ShutdownTime")
        return unix_ns(int.from_bytes(raw, "little")) if raw is not None and len(raw) == 8 else None

    def _state(self) -> dict[str, str]:
        system, control_set = self._system, self._control_set
        hives = (self._software, system, self._sam)
        for hive in hives:
            if hive.doubt:
                hive.note(hive.doubt)
        found = {
            "control-set": control_set if system.is_there else None,
            "hibernated": hibernation(self._files, system, control_set),
            "pending-reboot": pending_restart(self._software, system, control_set),
            "registry-logs": ", ".join(
                f"{hive.path.rsplit('/', 1)[-1]}: {hive.applied} replayed" for hive in hives if hive.applied
            ),
        }
        return {name: text for name, text in found.items() if text}


def _elsewhere(mount: MountPoint) -> str:
    if mount.kind is MountKind.VOLUME:
        return f"MountedDevices gives the letter to {mount.volume}"
    return f"MountedDevices gives the letter to what is not in the set: {mount.source}"
