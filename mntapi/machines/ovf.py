"""``.ovf``, the descriptor of an exported machine.

Order: by the controller a disk is attached to, as in ``vmx.py``, then by its address there; where the descriptor does not say
that of all disks, in the order of the hardware section; where there is none, in the order of the disk section.

A file may be cut into chunks of ``chunkSize`` bytes, ``href.000000000`` and so on; all of them have ``size`` bytes.

Source: DMTF DSP0243, OVF 2.1.1, sections 7.1 (References), 9.1 (DiskSection), 8 (VirtualHardwareSection); DMTF DSP0004 CIM
schema, CIM_ResourceAllocationSettingData.ResourceType (5 IDE, 6 SCSI, 17 disk drive, 20 other storage, 31 logical disk).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from mntapi.errors import Corrupt, Unsupported
from mntapi.machines.model import Chunks, Machine, MachineDisk
from mntapi.machines.vmx import ORDER
from mntapi.machines.xml import children, parse_xml, text

_DISK_ITEMS = ("17", "31")
_SIZE = re.compile("[1-9][0-9]{0,18}")
_RESOURCE = re.compile(r"(?:ovf:)?/?(disk|file)/(.+)")


class _Drive(NamedTuple):
    """A disk drive of the hardware section: its name, what backs it, and its place if that is told."""

    name: str
    resource: str
    place: tuple[int, int, int] | None


def parse_ovf(raw: bytes, path: str) -> Machine:
    """The machine of a descriptor.

    Raises:
        Unsupported: it has several machines, or a disk somewhere else, or one that is compressed in chunks.
        Corrupt: it refers to what it does not have.
    """
    root = parse_xml(raw, path)
    if root.tag != "Envelope":
        raise Corrupt("is no OVF descriptor", path=path, expected="Envelope", found=root.tag, reason="machine")
    systems = list(root.iter("VirtualSystem"))
    if len(systems) > 1:
        names = ", ".join(system.get("id", "?") for system in systems[:8])
        raise Unsupported(f"describes {len(systems)} machines: {names}", path=path, reason="several-machines")
    files = {one.get("id", ""): one for references in children(root, "References") for one in children(references, "File")}
    disks = {one.get("diskId", ""): one for section in children(root, "DiskSection") for one in children(section, "Disk")}
    drives = list(_drives(systems[0])) if systems else []
    found: list[MachineDisk] = []
    left_out: list[str] = []
    for drive in _ordered(drives) or [_Drive(key, f"/disk/{key}", None) for key in disks]:
        file = _file(drive.resource, disks, files, path)
        if file is None:
            left_out.append(f"{drive.name}: no file")
            continue
        found.append(MachineDisk(_name_of(file, path), drive.name, len(found), chunks=_chunks(file, path)))
    used = {drive.resource.rpartition("/")[2] for drive in drives}
    left_out += [f"{key}: not attached" for key in disks if drives and key not in used]
    return Machine("ovf", _name(systems[0]) if systems else None, tuple(found), left_out=tuple(left_out))


def _name(system: Element) -> str | None:
    return text(system, "Name") or system.get("id")


def _drives(system: Element) -> Iterator[_Drive]:
    items = [item for section in children(system, "VirtualHardwareSection") for item in section if item.tag.endswith("Item")]
    controllers = {text(item, "InstanceID"): item for item in items if text(item, "ResourceType") in ("5", "6", "20")}
    for item in items:
        if text(item, "ResourceType") not in _DISK_ITEMS:
            continue
        place = _place(item, controllers.get(text(item, "Parent")))
        name = f"{ORDER[place[0]]}{place[1]}:{place[2]}" if place else text(item, "ElementName") or "disk"
        yield _Drive(name, text(item, "HostResource") or "", place)


def _place(item: Element, controller: Element | None) -> tuple[int, int, int] | None:
    """The place of a drive in the order of ``vmx.py``; None if it is not told."""
    unit = text(item, "AddressOnParent") or ""
    if controller is None or not re.fullmatch("[0-9]{1,4}", unit):
        return None
    subtype = (text(controller, "ResourceSubType") or "").lower()
    kind = {"5": "ide", "6": "scsi"}.get(text(controller, "ResourceType") or "", "nvme" if "nvme" in subtype else "sata")
    bus = text(controller, "Address") or text(controller, "BusNumber") or "0"
    return (ORDER.index(kind), int(bus), int(unit)) if re.fullmatch("[0-9]{1,4}", bus) else None


def _ordered(drives: list[_Drive]) -> list[_Drive]:
    places = [drive.place for drive in drives]
    if None in places or len(set(places)) < len(places):
        return drives
    return sorted(drives, key=lambda drive: drive.place or (0, 0, 0))


def _file(resource: str, disks: Mapping[str, Element], files: Mapping[str, Element], path: str) -> Element | None:
    """The file behind a drive; None for a disk that is empty until the machine is deployed."""
    if not resource:
        return None
    match = _RESOURCE.fullmatch(resource)
    if match is None:
        raise Unsupported("a drive is backed by something that is not a file", path=path, found=resource, reason="backing")
    reference: str | None = match[2]
    if match[1] == "disk":
        disk = disks.get(match[2])
        if disk is None:
            raise Corrupt("a drive refers to a disk that is not described", path=path, found=match[2], reason="machine")
        reference = disk.get("fileRef")
    if reference is None:
        return None
    file = files.get(reference)
    if file is None or not file.get("href"):
        raise Corrupt("a disk refers to a file that is not listed", path=path, found=reference, reason="machine")
    return file


def _name_of(file: Element, path: str) -> str:
    href = file.get("href", "")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", href):
        raise Unsupported("a disk is somewhere else", path=path, found=href, hint="fetch it first", reason="remote")
    return unquote(href)


def _chunks(file: Element, path: str) -> Chunks | None:
    """How the file is cut, None if it is not."""
    size, total = file.get("chunkSize"), file.get("size")
    if not size:
        return None
    if (file.get("compression") or "identity") != "identity":  # the size is that of the bytes before
        raise Unsupported("a disk is compressed and cut into chunks", path=path, found=file.get("href"),
                          hint="join the chunks with cat, and unpack them", reason="chunks")  # fmt: skip
    if not _SIZE.fullmatch(size) or (total and not _SIZE.fullmatch(total)):
        raise Corrupt("the size of a disk's chunks makes no sense", path=path, found=f"{size} of {total}", reason="machine")
    return Chunks(int(size), int(total) if total else None)
