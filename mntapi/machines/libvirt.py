"""The XML of a libvirt domain (``virsh dumpxml``).

Order: that of the XML. ``format`` is what ``<driver type=.../>`` prescribes: libvirt never detects it, and neither may we.

Source: libvirt, "Domain XML format", section "Hard drives, floppy disks, CDROMs".
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

from mntapi.errors import Corrupt, Unsupported
from mntapi.machines.model import Machine, MachineDisk
from mntapi.machines.xml import children, parse_xml, text


def parse_domain(raw: bytes, path: str) -> Machine:
    """The machine of a domain.

    Raises:
        Unsupported: a disk is not a file or block device of this host.
        Corrupt: it is no domain.
    """
    root = parse_xml(raw, path)
    domain = next(root.iter("domain"), None)
    if domain is None or root.tag not in ("domain", "domstatus"):
        raise Corrupt("is no libvirt domain", path=path, expected="domain", found=root.tag, reason="machine")
    disks: list[MachineDisk] = []
    left_out: list[str] = []
    for disk in (one for devices in children(domain, "devices") for one in children(devices, "disk")):
        target = next(children(disk, "target"), None)
        place = (target.get("dev") if target is not None else None) or "?"
        device = disk.get("device", "disk")
        if device not in ("disk", "lun"):
            left_out.append(f"{place}: {device}")
            continue
        disks.append(MachineDisk(_source(disk, place, path), place, len(disks), _format(disk)))
    return Machine("libvirt", text(domain, "name"), tuple(disks), left_out=tuple(left_out))


def _source(disk: Element, place: str, path: str) -> str:
    kind = disk.get("type", "file")
    source = next(children(disk, "source"), None)
    attributes = {} if source is None else source.attrib
    if kind not in ("file", "block"):
        found = " ".join(f"{key}={value}" for key, value in sorted(attributes.items()))
        raise Unsupported(f"the disk {place} is on {kind} storage", path=path, found=found or None, reason=f"libvirt-{kind}")
    name = attributes.get("file" if kind == "file" else "dev")
    if not name:
        raise Corrupt(f"the disk {place} has no source", path=path, reason="machine")
    return name


def _format(disk: Element) -> str | None:
    driver = next(children(disk, "driver"), None)
    return None if driver is None else driver.get("type")
