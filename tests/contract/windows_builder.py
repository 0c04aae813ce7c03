"""Windows systems made by hand: the values that the registries of real ones have, in hives by ``hive_builder``."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from uuid import UUID

from contract.hive_builder import Tree, build_hive

SHUTDOWN = 133_400_000_000_000_000
"""2023-09-24T23:33:20Z, 100 ns since 1601."""
SHUTDOWN_NS = (SHUTDOWN - 116_444_736_000_000_000) * 100
MACHINE = (111, 222, 333)
SID = "S-1-5-21-111-222-333"
CD_ROM = "\\??\\SCSI#CdRom&Ven_VBOX&Prod_CD-ROM#4&8f5d389&0&010000#{53f5630d-b6bf-11d0-94f2-00a0c91efb8b}"

TEN = {
    "ProductName": "Windows 10 Pro",
    "EditionID": "Professional",
    "CurrentVersion": "6.3",
    "CurrentMajorVersionNumber": 10,
    "CurrentMinorVersionNumber": 0,
    "CurrentBuild": "19045",
    "CurrentBuildNumber": "19045",
    "UBR": 3693,
    "DisplayVersion": "22H2",
    "ReleaseId": "2009",
    "InstallationType": "Client",
    "InstallDate": 1_600_000_000,
    "SystemRoot": "C:\\Windows",
}


def mbr_device(signature: int, offset: int) -> bytes:
    return struct.pack("<IQ", signature, offset)


def guid_device(guid: str, *, big_endian: bool = False) -> bytes:
    return b"DMIO:ID:" + (UUID(guid).bytes if big_endian else UUID(guid).bytes_le)


def other_device(text: str) -> bytes:
    return text.encode("utf-16-le")


def software_tree(version: Mapping[str, object] | None = None, **more: Tree) -> Tree:
    """``more`` are keys in ``Microsoft``, by name with ``_`` for a space."""
    nt = {
        **(TEN if version is None else version),
        "ProfileList": {
            "S-1-5-18": {"ProfileImagePath": "%systemroot%\\system32\\config\\systemprofile"},
            f"{SID}-1001": {"ProfileImagePath": "%SystemDrive%\\Users\\ann"},
            "S-1-5-21-9-8-7-1104": {"ProfileImagePath": "C:\\Users\\bob.EXAMPLE"},
        },
    }
    return {
        "Microsoft": {
            "Windows NT": {"CurrentVersion": nt},
            "Cryptography": {"MachineGuid": "01234567-89ab-cdef-0123-456789abcdef"},
            **{name.replace("_", " "): tree for name, tree in more.items()},
        }
    }


def system_tree(devices: Mapping[str, bytes] | None = None, *, current: int = 1, control: Tree | None = None) -> Tree:
    """``devices`` by drive letter or value name; ``control`` are more keys of ``Control``."""
    named = {f"\\DosDevices\\{name}:" if len(name) == 1 else name: raw for name, raw in (devices or {}).items()}
    return {
        "Select": {"Current": current, "Default": current, "LastKnownGood": 2},
        "MountedDevices": named,
        f"ControlSet{current:03d}": {
            "Control": {
                "ComputerName": {"ComputerName": {"ComputerName": "ANNS-PC"}},
                "ProductOptions": {"ProductType": "WinNT"},
                "TimeZoneInformation": {"TimeZoneKeyName": "W. Europe Standard Time", "StandardName": "@tzres.dll,-322"},
                "Windows": {"ShutdownTime": struct.pack("<Q", SHUTDOWN)},
                "Session Manager": {"Environment": {"PROCESSOR_ARCHITECTURE": "AMD64"}},
                **(control or {}),
            },
            "Services": {
                "Tcpip": {"Type": 1, "Parameters": {"Hostname": "anns-pc", "NV Hostname": "renamed", "Domain": "example.org"}},
                "Spooler": {
                    "Type": 0x110,
                    "DisplayName": "@%systemroot%\\system32\\spoolsv.exe,-1",
                    "ImagePath": "spoolsv.exe",
                },
                "web": {"Type": 0x10, "DisplayName": "Web Server", "ImagePath": '"C:\\web\\httpd.exe" -k'},
                "strange": {"DisplayName": "has no type"},
            },
        },
    }


def sam_tree(names: Mapping[str, int] | None = None) -> Tree:
    """Accounts by name with their numbers, beside values that nobody should read."""
    users = {"Administrator": 500, "ann": 1001} if names is None else names
    return {
        "SAM": {
            "Domains": {
                "Account": {
                    "V": bytes(40) + struct.pack("<3I", *MACHINE),
                    "Users": {
                        "000003E9": {"F": b"\xff" * 80, "V": b"\xff" * 400},
                        "Names": {name: {"@": (number, b"")} for name, number in users.items()},
                    },
                }
            }
        }
    }


def windows_files(
    system: Tree | bytes, software: Tree | bytes | None = None, *, folder: str = "Windows", sam: Tree | bytes | None = None
) -> dict[str, object]:
    """The top folder of a volume with that system."""
    trees = {
        "SYSTEM": system,
        "SOFTWARE": software_tree() if software is None else software,
        "SAM": sam_tree() if sam is None else sam,
    }
    config = {name: tree if isinstance(tree, bytes) else build_hive(tree) for name, tree in trees.items()}
    return {folder: {"System32": {"config": config}}}
