"""How the raw fields of a superblock become labels and UUIDs: as libblkid does it, byte for byte.

Control characters stay in a value; who prints it escapes them. Bytes that are no text become U+FFFD.
"""

from __future__ import annotations

_BLANKS = " \t\n\v\f\r"


def text(raw: bytes) -> str | None:
    """A label of bytes: up to the first NUL, without trailing blanks; None if nothing is left."""
    return _trimmed(raw.partition(b"\0")[0].decode("utf-8", "replace"))


def utf16(raw: bytes, order: str) -> str | None:
    """A label in UTF-16 of byte order ``le`` or ``be``, cut and trimmed like ``text``."""
    return _trimmed(raw[: len(raw) & ~1].decode(f"utf-16-{order}", "replace").partition("\0")[0])


def _trimmed(label: str) -> str | None:
    return label.rstrip(_BLANKS) or None


def uuid(raw: bytes) -> str | None:
    """16 bytes in the order they are printed; None if they are all zero (RFC 9562, nil UUID)."""
    if not any(raw):
        return None
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def serial32(raw: bytes) -> str | None:
    """A 4-byte little-endian serial number as DOS prints it: ``1234-ABCD``; None if it is zero."""
    number = int.from_bytes(raw, "little")
    return f"{number >> 16:04X}-{number & 0xFFFF:04X}" if number else None


def is_power_of_two(number: int) -> bool:
    """Whether exactly one bit is set."""
    return number > 0 and number & (number - 1) == 0
