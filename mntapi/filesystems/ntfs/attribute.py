"""Streams: the pieces of an attribute over several records, and the runs packed in them.

Source: Linux-NTFS project documentation, "Data Runs", "$ATTRIBUTE_LIST"; fs/ntfs3/run.c ``run_unpack``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mntapi.errors import Corrupt
from mntapi.filesystems.ntfs.record import Attribute
from mntapi.filesystems.runs import RunList

STANDARD_INFORMATION = 0x10
ATTRIBUTE_LIST = 0x20
FILE_NAME = 0x30
DATA = 0x80
INDEX_ROOT = 0x90
INDEX_ALLOCATION = 0xA0
BITMAP = 0xB0
REPARSE_POINT = 0xC0
EXTENDED_ATTRIBUTES = 0xE0

COMPRESSED = 0x00FF
ENCRYPTED = 0x4000
MAX_LIST = 1 << 18
"""Bytes of an attribute list; Windows allows 256 KiB."""
_ENTRY = struct.Struct("<IH2B2QH")
_RECORD_MASK = (1 << 48) - 1


class Stream(NamedTuple):
    """An attribute whole, from all the records that hold a piece of it. Sizes in bytes."""

    name: str
    flags: int
    value: bytes | None
    """The content, where resident."""
    runs: RunList | None
    size: int
    initialised: int
    allocated: int
    compression_unit: int = 0
    """Exponent: clusters compressed together."""

    @property
    def is_compressed(self) -> bool:
        """Whether its clusters hold LZNT1 (a resident value never does)."""
        return self.runs is not None and bool(self.flags & COMPRESSED)


EMPTY = Stream("", 0, b"", None, 0, 0, 0)
"""What a file without any data stream holds."""


def unpack_runs(pieces: Sequence[Attribute], cluster_size: int, volume_size: int) -> RunList:
    """The run list of a stream in clusters.

    Args:
        pieces: its attributes, any order; all of them in clusters.
        cluster_size: bytes.
        volume_size: bytes; a run past it is damage.

    Raises:
        Corrupt: a piece is missing or twice there, or a run is impossible.
    """
    runs = RunList()
    for piece in sorted((piece.runs for piece in pieces if piece.runs), key=lambda runs: runs.lowest_vcn):
        if piece.lowest_vcn * cluster_size != runs.size:
            raise Corrupt(
                "a piece of a stream is missing", expected=f"cluster {runs.size // cluster_size}", found=piece.lowest_vcn
            )
        for length, lcn in _pairs(piece.pairs):
            if lcn is not None and not 0 <= lcn * cluster_size <= volume_size - length * cluster_size:
                raise Corrupt(
                    "a run lies outside the volume", expected=f"at most {volume_size // cluster_size} clusters", found=lcn
                )
            runs.add(length * cluster_size, None if lcn is None else lcn * cluster_size)
    return runs


def _pairs(packed: bytes) -> Iterator[tuple[int, int | None]]:
    """(clusters, first cluster on the volume or None for a sparse run) of each mapping pair."""
    at, lcn = 0, 0
    while at < len(packed) and packed[at]:
        length_size, offset_size = packed[at] & 0xF, packed[at] >> 4
        end = at + 1 + length_size + offset_size
        length = int.from_bytes(packed[at + 1 : at + 1 + length_size], "little", signed=True)
        if not 1 <= length_size <= 8 or offset_size > 8 or end > len(packed) or not 0 < length < 1 << 48:
            raise Corrupt("a mapping pair is impossible", found=packed[at : at + 17].hex())
        if offset_size:
            lcn += int.from_bytes(packed[at + 1 + length_size : end], "little", signed=True)
        yield length, lcn if offset_size else None
        at = end


def parse_list(raw: bytes) -> Iterator[int]:
    """The numbers of the records that an attribute list names, in its order, with repetitions.

    Raises:
        Corrupt: an entry is cut off.
    """
    at = 0
    while at + _ENTRY.size <= len(raw):
        _, length, _, _, _, reference, _ = _ENTRY.unpack_from(raw, at)
        if length < _ENTRY.size:
            raise Corrupt("an entry of an attribute list is cut off", expected=f"at least {_ENTRY.size} bytes", found=length)
        yield reference & _RECORD_MASK
        at += length


def join(pieces: Sequence[Attribute], cluster_size: int, volume_size: int) -> Stream:
    """The stream that ``pieces`` (all of one type and name, at least one) make up. Raises as ``unpack_runs``."""
    first = pieces[0] if len(pieces) == 1 else min(pieces, key=lambda piece: piece.runs.lowest_vcn if piece.runs else 0)
    if first.runs is None:
        size = len(first.value)
        return Stream(first.name, first.flags, first.value, None, size, size, -(-size // 512) * 512)
    runs = unpack_runs(pieces, cluster_size, volume_size)
    head = first.runs
    if runs.size < head.size:
        raise Corrupt("the runs of a stream end before it does", expected=f"{head.size} bytes", found=runs.size)
    return Stream(first.name, first.flags, None, runs, head.size, head.initialised, head.stored, head.compression_unit)
