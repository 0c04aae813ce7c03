"""Disks with a Windows on them: NTFS made by ntfs-3g, partition tables by sfdisk."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from contract.hive_builder import Tree, build_hive
from contract.mounting import mounted_ntfs, run
from contract.windows_builder import guid_device, sam_tree, software_tree, system_tree
from mntapi.units import MIB

C_DRIVE = "09931f21-7faf-44a9-81d8-1e73c14b9eaf"
DATA = "7c5b25a1-0de4-4e3d-a7f5-7f0a8ad2c0e1"
BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
MOUNT_POINT = 0xA0000003
TWO_PARTITIONS = (
    f"label: gpt\nstart=1MiB, size=64MiB, type={BASIC_DATA}, uuid={C_DRIVE}\n"
    f"start=65MiB, size=8MiB, type={BASIC_DATA}, uuid={DATA}\n"
)


def system_files(system: Tree | bytes, software: Tree | None = None) -> dict[str, bytes]:
    """The hives of a system by their paths."""
    hives = {"SYSTEM": system, "SOFTWARE": software or software_tree(), "SAM": sam_tree()}
    return {
        f"Windows/System32/config/{name}": tree if isinstance(tree, bytes) else build_hive(tree) for name, tree in hives.items()
    }


def link(folder: Path, target: str) -> None:
    """A volume mounted in a folder, as ``mountvol`` makes it: no name to print."""
    folder.mkdir()
    name = target.encode("utf-16-le")
    data = struct.pack("<4H", 0, len(name), len(name) + 2, 0) + name + bytes(4)
    os.setxattr(folder, "system.ntfs_reparse_data", struct.pack("<IHH", MOUNT_POINT, len(data), 0) + data)


def ntfs(path: Path, files: Mapping[str, bytes], size: int = 64, links: Sequence[tuple[str, str]] = ()) -> Path:
    """A volume of NTFS with those files, and volumes mounted in folders."""
    with path.open("wb") as out:
        out.truncate(size * MIB)
    run("mkntfs", "-qFQ", path)
    with mounted_ntfs(path, "rw") as top:
        for name, content in files.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(content)
        for name, target in links:
            link(top / name, target)
    return path


def disk(path: Path, script: str, parts: Sequence[tuple[Path, int]]) -> Path:
    """A disk by sfdisk; ``parts`` are volumes and the bytes at which they begin."""
    with path.open("wb") as out:
        out.truncate(max(offset + part.stat().st_size for part, offset in parts) + 4 * MIB)
    run("sfdisk", "--quiet", path, stdin=script)
    for part, offset in parts:
        run("dd", f"if={part}", f"of={path}", "bs=1M", f"seek={offset // MIB}", "conv=notrunc,sparse", "status=none")
    return path


def inspected_disk(folder: Path) -> Path:
    """The disk that virt-inspector was asked about: two partitions, a program, a service, and a program file so that it sees a
    system."""
    uninstall = {"{program}": {"DisplayName": "Editor", "DisplayVersion": "1.2", "Publisher": "Ann"}}
    system = system_tree({"C": guid_device(C_DRIVE), "E": guid_device(DATA)})
    files = system_files(system, software_tree(Windows={"CurrentVersion": {"Uninstall": uninstall}}))
    first = ntfs(folder / "c", {**files, "Windows/System32/cmd.exe": _program()})
    second = ntfs(folder / "data", {"budget.csv": b"1"}, size=8)
    return disk(folder / "disk", TWO_PARTITIONS, [(first, MIB), (second, 65 * MIB)])


def _program() -> bytes:
    """As much of a PE file as says that it is one for x86-64."""
    raw = bytearray(1024)
    raw[:2] = b"MZ"
    struct.pack_into("<I", raw, 60, 128)
    struct.pack_into("<4sHHIIIHHH", raw, 128, b"PE\0\0", 0x8664, 1, 0, 0, 0, 240, 0x22, 0x20B)
    return bytes(raw)
