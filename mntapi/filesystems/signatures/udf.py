"""UDF. Sources: ECMA-167 3rd edition parts 2 and 3; OSTA UDF 2.60 sections 2.1 and 2.2."""

from __future__ import annotations

import string
import struct
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import CutOff, Found, Source

_RECOGNITION_AT = 32768
_RECOGNITION_LIMIT = 64
_DESCRIPTOR_LIMIT = 64
_STANDARD_IDS = (b"BEA01", b"BOOT2", b"CD001", b"CDW02", b"TEA01")
_PRIMARY, _ANCHOR, _LOGICAL, _TERMINATOR = 1, 2, 6, 8
_HEX = frozenset(string.hexdigits.encode())


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A volume descriptor: the tag's identifier and block number, and all bytes."""

    kind: int
    location: int
    raw: bytes


def udf(source: Source, base: int) -> Found | None:
    """UDF with blocks of 512 to 4096 bytes; the label is that of the logical volume, the UUID made from the volume set's."""
    block_size = _block_size(source)
    if block_size is None:
        return None
    length, first = struct.unpack_from("<II", source.read(256 * block_size, 24), 16)
    label = uuid = None
    for block in range(first, first + min(length // block_size, _DESCRIPTOR_LIMIT)):
        descriptor = _descriptor(source.detail(block * block_size, 512))
        if descriptor is None or descriptor.location != block or descriptor.kind in (0, _TERMINATOR):
            break
        if descriptor.kind == _PRIMARY:
            uuid = uuid or _uuid(_utf8(descriptor.raw[72:200]))
        elif descriptor.kind == _LOGICAL:
            label = label or values.text(_utf8(descriptor.raw[84:212]))
    return Found(label, uuid)


def _block_size(source: Source) -> int | None:
    """The size at which a recognition sequence names UDF and block 256 is an anchor; the medium's own size is tried first."""
    for size in dict.fromkeys((source.sector_size, 512, 1024, 2048, 4096)):
        if _is_recognised(source, max(size, 2048)):
            anchor = _descriptor(source.detail(256 * size, 512))
            if anchor is not None and anchor.kind == _ANCHOR and anchor.location == 256:
                return size
    return None


def _is_recognised(source: Source, step: int) -> bool:
    """Whether ``NSR02`` or ``NSR03`` is among the structures from 32 KiB on, which are ``step`` bytes apart."""
    for index in range(_RECOGNITION_LIMIT):
        try:
            name = source.read(_RECOGNITION_AT + index * step, 6)[1:]
        except CutOff:
            return False
        if name in (b"NSR02", b"NSR03"):
            return True
        if name not in _STANDARD_IDS:
            return False
    return False


def _descriptor(raw: bytes) -> Descriptor | None:
    """None if it is cut off."""
    if len(raw) < 512:
        return None
    kind, location = struct.unpack_from("<H10xI", raw)
    return Descriptor(kind, location, raw)


def _utf8(field: bytes) -> bytes:
    """A ``dstring``: a byte that says how wide characters are, the characters, and the length in the last byte."""
    length = max(0, min(field[-1] - 1, len(field) - 2))
    characters = field[1 : 1 + length]
    if field[0] == 8:
        return characters.decode("latin-1").encode()
    if field[0] == 16:
        return characters[: length & ~1].decode("utf-16-be", "replace").encode()
    return b""


def _uuid(volume_set: bytes) -> str | None:
    """16 characters from the first 16 bytes of the volume set identifier, as libblkid makes them.

    All hexadecimal: themselves. Only the first 8 are: those, and the next 4 bytes spelt in hexadecimal. Else: the first
    8 bytes spelt in hexadecimal.
    """
    start = volume_set.partition(b"\0")[0][:16]
    if len(start) < 8:
        return None
    start = start.ljust(16, b"\0")
    digits = next((index for index, byte in enumerate(start) if byte not in _HEX), 16)
    if digits < 8:
        return start[:8].hex()
    text = start.decode("ascii", "replace").lower()
    return text if digits == 16 else text[:8] + start[8:12].hex()
