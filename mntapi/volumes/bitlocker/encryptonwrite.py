"""The encrypt-on-write structures (Windows 10 and later): which chunks of a volume are encrypted already. Pure parsers.

A header names the bitmaps; each bitmap is for one region of the volume and has two records, written in turn, the one with the
higher sequence number being the newer. A set bit is an encrypted chunk, in the form the disk has now. Beside each bitmap lies a
log for the chunk that is being converted, which this does not replay.

Source: observed on 2 images (one decrypted, one in the middle of being decrypted, where chunks in front of the border hold
plain text); checksums are CRC-32 of the structure with the field zeroed, right in all 40 structures there.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from mntapi.errors import Corrupt, Unsupported

MAX_HEADER = 65536
MAX_BITMAP = 1 << 20
"""Bytes in a header, and in a bitmap with its records: one seen has 1,536 for 256 MiB of volume."""
MAX_RUNS = 65536
"""Changes between encrypted and plain in one volume. A conversion goes through each region in order, so each has about one."""

_HEADER = struct.Struct("<8s2H7I2Q")
_HEADER_CRC = 36
_BITMAP = struct.Struct("<10sH2I3Q4I")
_BITMAP_CRC = 56
BITMAP_HEADER = _BITMAP.size
_RECORD = struct.Struct("<10sH2IQ2I")
_RECORD_CRC = 32


@dataclass(frozen=True, slots=True)
class Header:
    """Where the bitmaps are; sizes and offsets in bytes."""

    size: int
    chunk_size: int
    log_size: int
    bitmaps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bitmap:
    """One region of the volume. Bit n of ``bits`` is set where chunk n is encrypted; None where both records are damaged."""

    size: int
    start: int
    length: int
    log: int
    bits: int | None
    bit_count: int
    is_touched: bool
    """Whether its flags are set, as they are while a conversion is under way."""


def parse_header(content: bytes, at: int) -> Header:
    """The header that was read at byte ``at`` of the volume.

    Raises:
        Corrupt: it is none, or damaged.
    """
    if len(content) < _HEADER.size or not content.startswith(b"FVE-EOW\0"):
        raise Corrupt("bitlocker: no encrypt-on-write header", offset=at, found=content[:8], reason="fve-eow")
    _, header_size, size, _, _, chunk_size, log_size, _, _, crc, _, _ = _HEADER.unpack_from(content)
    if not _HEADER.size <= header_size <= size <= len(content) or chunk_size == 0 or chunk_size % 4096:
        raise Corrupt("bitlocker: an encrypt-on-write header of impossible sizes", offset=at, reason="fve-eow")
    _check(content[:size], _HEADER_CRC, crc, at)
    count = (size - header_size) // 8
    return Header(size, chunk_size, log_size, struct.unpack_from(f"<{count}Q", content, header_size))


def bitmap_size(content: bytes, at: int) -> int:
    """Bytes that the bitmap at byte ``at`` has, from its first ``BITMAP_HEADER`` bytes. Raises as ``parse_bitmap``."""
    if len(content) < _BITMAP.size or not content.startswith(b"FVE-EOWBM\0"):
        raise Corrupt("bitlocker: no encrypt-on-write bitmap", offset=at, found=content[:10], reason="fve-eow")
    size: int = _BITMAP.unpack_from(content)[2]
    if not _BITMAP.size <= size <= MAX_BITMAP:
        raise Corrupt("bitlocker: an encrypt-on-write bitmap of impossible size", offset=at, found=size, reason="fve-eow")
    return size


def parse_bitmap(content: bytes, at: int) -> Bitmap:
    """The bitmap that was read at byte ``at`` of the volume, with its records.

    Raises:
        Corrupt: it is none, or damaged.
    """
    size = bitmap_size(content, at)
    _, _, _, _, start, length, log, first, second, _, crc = _BITMAP.unpack_from(content)
    if not _BITMAP.size <= first <= second <= size <= len(content):
        raise Corrupt("bitlocker: an encrypt-on-write bitmap is cut off", offset=at, found=len(content), reason="fve-eow")
    _check(content[:first], _BITMAP_CRC, crc, at)
    records = [record for place in (first, second) for record in _record(content[place:size])]
    _, bits, bit_count, flags = max(records, key=lambda record: record[0], default=(0, None, 0, 0))
    return Bitmap(size, start, length, log, bits, bit_count, is_touched=bool(flags))


def _record(content: bytes) -> Iterator[tuple[int, int | None, int, int]]:
    """The record's sequence number, bits, count of bits and flags; nothing where it is damaged: the other one is older."""
    if len(content) < _RECORD.size or not content.startswith(b"FVE-EOWBR\0"):
        return
    _, header_size, size, bit_count, sequence, flags, crc = _RECORD.unpack_from(content)
    if not _RECORD.size <= header_size <= size <= len(content) or bit_count > 8 * (size - header_size):
        return
    if _sum(content[:size], _RECORD_CRC) == crc:
        yield sequence, int.from_bytes(content[header_size:size], "little") & ((1 << bit_count) - 1), bit_count, flags


def runs(bitmap: Bitmap, chunk_size: int) -> Iterator[tuple[int, int, bool | None]]:
    """The region cut where its chunks change: (start, end, whether encrypted) in bytes; None: not known.

    Raises:
        Unsupported: it changes too often.
    """
    end = bitmap.start + bitmap.length
    if bitmap.bits is None or bitmap.bit_count * chunk_size < bitmap.length:
        yield bitmap.start, end, None
        return
    changes = bitmap.bits ^ ((bitmap.bits << 1) & ((1 << bitmap.bit_count) - 1))
    if changes.bit_count() > MAX_RUNS:
        raise Unsupported(f"bitlocker: a bitmap that changes more than {MAX_RUNS} times", offset=bitmap.start, reason="fve-eow")
    start, is_encrypted = bitmap.start, False
    for chunk in _set_bits(changes):
        border = min(end, bitmap.start + chunk * chunk_size)
        if border > start:
            yield start, border, is_encrypted
        start, is_encrypted = border, not is_encrypted
    if end > start:
        yield start, end, is_encrypted


def _set_bits(value: int) -> Iterator[int]:
    """The numbers of the bits that are set, ascending."""
    for byte, content in enumerate(value.to_bytes((value.bit_length() + 7) // 8, "little")):
        for bit in range(8) if content else ():
            if content >> bit & 1:
                yield byte * 8 + bit


def _sum(content: bytes, field: int) -> int:
    return zlib.crc32(content[field + 4 :], zlib.crc32(bytes(4), zlib.crc32(content[:field])))


def _check(content: bytes, field: int, wanted: int, at: int) -> None:
    found = _sum(content, field)
    if found != wanted:
        raise Corrupt(
            "bitlocker: the CRC of an encrypt-on-write structure is wrong",
            offset=at,
            expected=f"{wanted:08x}",
            found=f"{found:08x}",
            reason="fve-crc",
        )
