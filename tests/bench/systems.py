"""Disks with a system on them: a Linux out of the tests' golden disks, and a Windows whose registry is as full as a real one's.

Only the registry makes the Windows: nothing else of it is read by any of the programs.
"""

from __future__ import annotations

import lzma
import struct
from pathlib import Path

from contract.hive_builder import build_hive
from contract.windows_builder import TEN, guid_device, sam_tree, software_tree, system_tree
from contract.windows_disks import C_DRIVE, DATA, TWO_PARTITIONS, disk, ntfs
from mntapi.units import MIB

_GOLDEN = Path(__file__).parents[1] / "golden" / "guests-linux"
_LINUX = ("rocky0", "rocky1")
"""The halves of a mirror (MD) that the root is on."""
_PROGRAMS, _SERVICES, _CLASSES, _ZONES = 150, 700, 10_000, 140
_CONFIG = "Windows/System32/config"
_ZONE = (
    struct.pack("<3i", -60, 0, -60) + struct.pack("<8H", 0, 10, 0, 5, 3, 0, 0, 0) + struct.pack("<8H", 0, 3, 0, 5, 2, 0, 0, 0)
)
"""Central European time: an hour before UTC, summer time from the last Sunday of March to that of October."""


def write_linux(folder: Path) -> None:
    """Both disks of a Rocky Linux."""
    folder.mkdir()
    for name in _LINUX:
        (folder / name).write_bytes(lzma.decompress((_GOLDEN / f"{name}.img.xz").read_bytes()))


def linux_disks(folder: Path) -> list[Path]:
    """What ``write_linux`` made, the root's first."""
    return [folder / name for name in _LINUX]


def write_windows(path: Path) -> None:
    """A disk with ``C:`` and ``E:``."""
    hives = {"SOFTWARE": _software(), "SYSTEM": _system(), "SAM": sam_tree()}
    files = {f"{_CONFIG}/{name}": build_hive(tree) for name, tree in hives.items()}
    first, second = ntfs(path.with_name("c"), files), ntfs(path.with_name("e"), {"budget.csv": b"1"}, size=8)
    disk(path, TWO_PARTITIONS, [(first, MIB), (second, 65 * MIB)])


def _software() -> dict[str, object]:
    programs = {
        f"{{program-{number}}}": {"DisplayName": f"Program {number}", "DisplayVersion": f"1.{number}", "Publisher": "Ann"}
        for number in range(_PROGRAMS)
    }
    zones = {f"Zone {number}": {"TZI": _ZONE, "Std": f"Zone {number}"} for number in range(_ZONES)}
    zones["W. Europe Standard Time"] = {"TZI": _ZONE, "Display": "Berlin", "Std": "W. Europe", "Dlt": "W. Europe, summer"}
    classes = {
        f"{{{number:08x}-0000-0000-0000-000000000000}}": {"@": f"Class {number}", "InprocServer32": {"@": "C:\\Windows\\x.dll"}}
        for number in range(_CLASSES)
    }
    tree = software_tree({**TEN, "Time Zones": zones}, Windows={"CurrentVersion": {"Uninstall": programs}})
    return {**tree, "Classes": {"CLSID": classes}}


def _system() -> dict[str, object]:
    keyboards = {"Keyboard Layout": {"DosKeybCodes": {"00000407": "gr"}}}  # without them dissect finds no time zone
    tree = system_tree({"C": guid_device(C_DRIVE), "E": guid_device(DATA)}, control=keyboards)
    services = tree["ControlSet001"]["Services"]
    services["Spooler"]["Type"] = 0x10  # and no bit more, or dissect does not know what kind of service it is
    services |= {
        f"service{number}": {"Type": 0x10 if number % 3 else 1, "DisplayName": f"Service {number}", "ImagePath": "C:\\x.exe"}
        for number in range(_SERVICES)
    }
    return tree
