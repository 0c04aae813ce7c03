"""``.vbox``, the settings of a VirtualBox machine.

A drive names a medium by UUID, and the machine's own registry says in which file that is. When a snapshot is taken, VirtualBox
puts a differencing medium into the drive and writes the drives of that time into the snapshot, so that the machine's own drives
are its present state. A differencing VDI knows its parent by UUID only: ``Machine.media`` is for finding it.

Order: IDE, SATA, SCSI, as VirtualBox's BIOS looks for disks, then the others; each by its place in the file, port and device.

Source: observed on files of VirtualBox 4 to 7, whose makers document no format; open documentation of VirtualBox
(Main/xml/VirtualBox-settings.xsd; Devices/PC/BIOS/orgs.asm for the order).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple
from xml.etree.ElementTree import Element

from mntapi.errors import Corrupt, Unsupported
from mntapi.machines.model import Machine, MachineDisk, Snapshot
from mntapi.machines.xml import children, parse_xml, text

MAX_SNAPSHOTS = 1024
"""Snapshots of a machine; VirtualBox allows 250 below each other."""
MAX_DEPTH = 2 * 250 + 32
"""Elements inside each other: two for each of the snapshots below each other."""
_KINDS = {
    **dict.fromkeys(("PIIX3", "PIIX4", "ICH6"), "ide"),
    "AHCI": "sata",
    **dict.fromkeys(("LsiLogic", "BusLogic", "LsiLogicSas", "VirtioSCSI"), "scsi"),
    "NVMe": "nvme",
    "USB": "usb",
}
_ORDER = ("ide", "sata", "scsi", "nvme", "usb", "other")
_NUMBER = re.compile("[0-9]{1,4}")
_NO_FILE = ("iscsi",)


class _Drive(NamedTuple):
    """A drive: where it is, what kind of it (``HardDisk``, ``DVD`` ...), and the UUID of the medium in it."""

    place: tuple[int, int, int, int]
    name: str
    kind: str
    medium: str | None


def parse_vbox(raw: bytes, path: str) -> Machine:
    """The machine of a settings file.

    Raises:
        Unsupported: it is encrypted, older than VirtualBox 4.0, or a disk is on an iSCSI server.
        Corrupt: it is no machine, or refers to what it does not have.
    """
    root = parse_xml(raw, path, max_depth=MAX_DEPTH)
    if next(children(root, "MachineEncrypted"), None) is not None:
        raise Unsupported("the machine's settings are encrypted", path=path, reason="encrypted")
    machine = next(children(root, "Machine"), None)
    if root.tag != "VirtualBox" or machine is None:
        raise Corrupt("is no VirtualBox machine", path=path, expected="VirtualBox/Machine", found=root.tag, reason="machine")
    media = _media(machine, path)
    disks, left_out = _disks(machine, media, path)
    known = {f"{{{identity}}}.vdi": disk for identity, disk in media.items()}
    snapshots = tuple(_snapshots(machine, media, path))
    return Machine("vbox", machine.get("name"), disks, snapshots=snapshots, left_out=left_out, media=known)


def _media(machine: Element, path: str) -> Mapping[str, MachineDisk]:
    """The hard disks of the registry by UUID; children are inside their parents."""
    found: dict[str, MachineDisk] = {}
    for registry in children(machine, "MediaRegistry"):
        for disk in (one for disks in children(registry, "HardDisks") for one in disks.iter("HardDisk")):
            identity, location = _identity(disk), disk.get("location")
            if identity is None or not location:
                raise Corrupt("a hard disk of the registry has no UUID or no place", path=path, reason="machine")
            kind = disk.get("format", "").lower()
            if kind in _NO_FILE:
                continue
            # a guest can write any header into a raw disk; into one of another format it cannot
            found[identity] = MachineDisk(location, "", 0, "raw" if kind == "raw" else None)
    return found


def _identity(element: Element | None) -> str | None:
    """The UUID as VirtualBox writes it into file names; None if there is none."""
    return None if element is None else (element.get("uuid") or "").strip().strip("{}").lower() or None


def _disks(owner: Element, media: Mapping[str, MachineDisk], path: str) -> tuple[tuple[MachineDisk, ...], tuple[str, ...]]:
    """The disks of the machine or of a snapshot, and what is none."""
    disks: list[MachineDisk] = []
    left_out: list[str] = []
    for drive in sorted(_drives(owner, path), key=lambda drive: drive.place):
        if drive.kind != "HardDisk" or drive.medium is None:
            left_out.append(f"{drive.name}: {'no medium' if drive.kind == 'HardDisk' else drive.kind}")
        elif drive.medium not in media:
            raise Unsupported(
                f"the disk {drive.name} is not in a file that the machine's registry names",
                path=path,
                found=f"{{{drive.medium}}}",
                hint="it is on an iSCSI server, or registered elsewhere (before VirtualBox 4.0): name its disks instead",
                reason="machine-medium",
            )
        else:
            disks.append(replace(media[drive.medium], controller=drive.name, index=len(disks)))
    return tuple(disks), tuple(left_out)


def _drives(owner: Element, path: str) -> Iterator[_Drive]:
    """All drives; newer files have the controllers inside the hardware, older ones beside it."""
    numbers: Counter[str] = Counter()
    for place in (owner, *children(owner, "Hardware")):
        for controller in (
            one for group in children(place, "StorageControllers") for one in children(group, "StorageController")
        ):
            kind = _KINDS.get(controller.get("type", ""), "other")
            number = numbers[kind]
            numbers[kind] += 1
            for device in children(controller, "AttachedDevice"):
                port, unit = _number(device, "port", path), _number(device, "device", path)
                medium = _identity(next(children(device, "Image"), None))
                where = (_ORDER.index(kind), number, port, unit)
                yield _Drive(where, f"{kind}{number}:{port}:{unit}", device.get("type", "?"), medium)


def _number(device: Element, name: str, path: str) -> int:
    found = device.get(name, "0")
    if not _NUMBER.fullmatch(found):
        raise Corrupt(f"a drive has an impossible {name}", path=path, found=ascii(found[:40]), reason="machine")
    return int(found)


def _snapshots(machine: Element, media: Mapping[str, MachineDisk], path: str) -> Iterator[Snapshot]:
    """All snapshots, each before those that were made after it."""
    current = (machine.get("currentSnapshot") or "").strip().strip("{}").lower()
    todo: list[tuple[Element, str | None]] = [(one, None) for one in children(machine, "Snapshot")]
    for _ in range(MAX_SNAPSHOTS):
        if not todo:
            return
        element, parent = todo.pop()
        identity = _identity(element)
        if identity is None:
            raise Corrupt("a snapshot has no UUID", path=path, reason="machine")
        yield Snapshot(
            uid=identity,
            name=element.get("name", ""),
            parent=parent,
            disks=_disks(element, media, path)[0],
            description=text(element, "Description") or None,
            created_ns=_created(element.get("timeStamp", "")),
            is_current=identity == current,
        )
        later = [one for group in children(element, "Snapshots") for one in children(group, "Snapshot")]
        todo += [(one, identity) for one in reversed(later)]
    raise Corrupt("there are too many snapshots", path=path, expected=f"at most {MAX_SNAPSHOTS}", reason="machine")


def _created(stamp: str) -> int | None:
    """The time is for people to read: one that is damaged is as good as none."""
    try:
        return int(datetime.fromisoformat(stamp).astimezone(UTC).timestamp()) * 10**9  # strptime imports, a worker may not
    except ValueError:
        return None
