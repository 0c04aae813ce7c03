"""``.vmx``, the configuration of a VMware machine.

``fileName`` of a disk is already the newest link of its chain: when a snapshot is taken, VMware writes the new delta's name
into the configuration. So the disks named here are the machine's present state.

Order: IDE, SCSI, SATA, NVMe, each by bus and unit. That is the order in which the machine's BIOS looks for the disk to boot
from unless ``bios.hddOrder`` says otherwise, so that disk 0 is the one with the boot loader. A setting ``present`` that is
absent counts as yes: to leave out a disk of a machine is worse than to name one too many.

Source: VMware knowledge base 2011654 (device names and boot order); observed on files of Workstation and ESXi.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mntapi.errors import Corrupt, Unsupported
from mntapi.machines.model import Machine, MachineDisk
from mntapi.machines.settings import is_false, parse_settings

ORDER = ("ide", "scsi", "sata", "nvme")

_DEVICE = re.compile(r"((?:ide|scsi|sata|nvme)[0-9]{1,3}:[0-9]{1,3})\.(?:filename|devicetype|present)")
_DISK_TYPES = ("disk", "ata-harddisk", "scsi-harddisk", "rawdisk", "plaindisk")
_NO_FILE = ("", "auto detect", "emptybackingstring")


def parse_vmx(raw: bytes, path: str) -> Machine:
    """The machine of a configuration file.

    Raises:
        Unsupported: it is encrypted, in an unknown encoding, or a disk keeps its changes in a redo log.
        Corrupt: it is not such a file.
    """
    settings = parse_settings(raw, path)
    if not settings.keys() & {"config.version", "virtualhw.version"}:
        raise Corrupt("is no VMware configuration", path=path, expected="config.version", reason="machine")
    if "encryption.keysafe" in settings:
        raise Unsupported("the configuration is encrypted by VMware", path=path, reason="encrypted")
    disks: list[MachineDisk] = []
    left_out: list[str] = []
    for device in sorted(_devices(settings), key=_place):
        reason = _no_disk(settings, device)
        if reason is not None:
            left_out.append(f"{device}: {reason}")
            continue
        if settings.get(f"{device}.redo"):
            raise Unsupported(f"{device} keeps its changes in a redo log", path=path, found=settings[f"{device}.redo"],
                              reason="redo-log")  # fmt: skip
        disks.append(MachineDisk(settings[f"{device}.filename"], device, len(disks)))
    return Machine("vmx", settings.get("displayname"), tuple(disks), left_out=tuple(left_out))


def _devices(settings: Mapping[str, str]) -> set[str]:
    return {match[1] for match in map(_DEVICE.fullmatch, settings) if match}


def _place(device: str) -> tuple[int, int, int]:
    """Where a device such as ``scsi0:1`` comes in the order."""
    name, unit = device.split(":")
    kind = name.rstrip("0123456789")
    return ORDER.index(kind), int(name[len(kind) :]), int(unit)


def _no_disk(settings: Mapping[str, str], device: str) -> str | None:
    """Why a device is no disk with a file, or None."""
    kind = settings.get(f"{device}.devicetype", "").lower()
    name = settings.get(f"{device}.filename", "")
    shown = f" ({name})" if name else ""
    if is_false(settings, f"{device}.present") or is_false(settings, f"{device.split(':')[0]}.present"):
        return f"not present{shown}"
    if kind not in _DISK_TYPES and (kind or not name.lower().endswith(".vmdk")):
        return f"{kind or 'no disk'}{shown}"
    return "no file" if name.lower() in _NO_FILE else None
