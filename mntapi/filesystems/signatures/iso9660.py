"""ISO 9660 with Joliet, and High Sierra before it. Source: ECMA-119 section 8; Joliet Specification 1.0."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source

_SECTOR = 2048
_DESCRIPTOR_LIMIT = 16
_PRIMARY, _SUPPLEMENTARY, _END = 1, 2, 255


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A primary or supplementary volume descriptor. Dates are 16 digits; the byte behind each is its time zone."""

    kind: int
    volume_id: bytes
    escapes: bytes
    created: bytes
    modified: bytes

    def is_joliet(self) -> bool:
        """Whether it says that its names are UCS-2."""
        return self.kind == _SUPPLEMENTARY and self.escapes[:3] in (b"%/@", b"%/C", b"%/E")


_ISO = struct.Struct("B39x32s16x32s693x17s17s")
_HIGH_SIERRA = struct.Struct("B39x32s16x32s662x16s16s")


def iso9660(source: Source, base: int) -> Found | None:
    """The label is Joliet's, lengthened by the primary descriptor's where one is the start of the other."""
    primary = joliet = None
    for at in range(base, base + _DESCRIPTOR_LIMIT * _SECTOR, _SECTOR):
        raw = source.detail(at, _ISO.size)
        if len(raw) < _ISO.size or raw[0] == _END:
            break
        descriptor = Descriptor(*_ISO.unpack(raw))
        if primary is None and descriptor.kind == _PRIMARY:
            primary = descriptor
        elif joliet is None and descriptor.is_joliet():
            joliet = descriptor
    if primary is None:
        return None
    uuid = _uuid(primary.modified) or _uuid(primary.created)
    label = _joliet_label(joliet.volume_id, primary.volume_id) if joliet else values.text(primary.volume_id)
    return Found(label, uuid)


def high_sierra(source: Source, base: int) -> Found | None:
    """The format before the standard: each descriptor has 8 bytes in front, and dates have no time zone."""
    descriptor = Descriptor(*_HIGH_SIERRA.unpack(source.read(base + 8, _HIGH_SIERRA.size)))
    if descriptor.kind != _PRIMARY:
        return None
    return Found(values.text(descriptor.volume_id), _uuid(descriptor.modified + b"\0") or _uuid(descriptor.created + b"\0"))


def _uuid(date: bytes) -> str | None:
    """``YYYY-MM-DD-hh-mm-ss-cc``; None if the date is not set: all digits zero in zone zero, or all bytes."""
    digits, zone = date[:16], date[16]
    if not any(digits) or (digits == b"0" * 16 and zone == 0):
        return None
    letters = digits.decode("ascii", "replace")
    return values.text("-".join((letters[:4], *(letters[at : at + 2] for at in range(4, 16, 2)))).encode())


def _joliet_label(joliet: bytes, plain: bytes) -> str | None:
    """Joliet has room for 16 characters of any script, the primary descriptor for 32 capitals and ``_`` for what it lacks."""
    wide = joliet.decode("utf-16-be", "replace")
    narrow = plain.decode("latin-1")
    merged = [_same(letter, other) for letter, other in zip(wide, narrow, strict=False)]
    label = wide if None in merged else "".join(str(letter) for letter in merged) + narrow[len(merged) :]
    return values.text(label.encode("utf-8"))


def _same(wide: str, narrow: str) -> str | None:
    """The better of two spellings of one character, None if they are different characters."""
    if narrow == "_":
        return wide
    if wide == "_":
        return narrow
    if wide.upper() != narrow.upper():
        return None
    return wide if narrow.isupper() else narrow
