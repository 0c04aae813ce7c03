"""Members of the RAIDs that a mainboard's BIOS or a host adapter makes: metadata in the last sectors of a whole disk.

Sources: SNIA Common RAID Disk Data Format 2.0 section 4.2 (DDF); for the rest the layouts that dmraid and libblkid of
util-linux read (observed, no specification published).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source


def by_magic(source: Source, base: int) -> Found | None:
    """Kinds whose magic is long or far off enough to be believed alone; nothing in them names the array."""
    return Found()


@dataclass(frozen=True, slots=True)
class DdfHeader:
    """The first fields of a DDF header."""

    signature: bytes
    guid: bytes
    revision: bytes
    primary_lba: int


def ddf(source: Source, base: int) -> Found | None:
    """A DDF anchor; if it names a primary header, that must be there too."""
    raw = source.read(base, 104)
    order = ">" if raw[:4] == b"\xde\x11\xde\x11" else "<"
    header = DdfHeader(*struct.unpack(f"{order}4s4x24s8s56xQ", raw))
    if not header.revision[:2].isdigit():
        return None
    if header.primary_lba and not source.has(header.primary_lba * 512, header.signature):
        return None
    return Found(uuid=values.text(header.guid))


def via(source: Source, base: int) -> Found | None:
    """VIA: version 0-2 and the sum of the first 50 bytes in the byte after them."""
    raw = source.read(base, 51)
    return Found() if raw[2] <= 2 and sum(raw[:50]) & 0xFF == raw[50] else None


def silicon(source: Source, base: int) -> Found | None:
    """Silicon Image Medley: disk number below 8 and a 16-bit sum over everything before it that gives zero."""
    raw = source.read(base, 0x140)
    total = sum(struct.unpack("<160H", raw))
    return Found() if raw[0x116] < 8 and total & 0xFFFF == 0 else None


def adaptec(source: Source, base: int) -> Found | None:
    """Adaptec HostRAID: a second magic, ``DPTM``, in the same sector."""
    return Found() if source.has(base + 0x100, b"DPTM") else None


def jmicron(source: Source, base: int) -> Found | None:
    """JMicron: the 64 16-bit words of the structure add up to 0 or 1 (as dmraid checks; no sample was seen)."""
    return Found() if sum(struct.unpack("<64H", source.read(base, 128))) & 0xFFFF in (0, 1) else None
