"""The structures of volume shadow copies. Pure: bytes in, values out; what is read from where is in ``catalog.py`` and
``store.py``.

All blocks have 16 KiB and begin with the same header. Each says where it lies and where the next of its chain does.

Source: libyal, Volume Shadow Snapshot (VSS) format; the meaning of flag 0x400 of a catalog entry: read in the open source of
dfir_ntfs, which was compared with what Windows reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from mntapi.errors import Corrupt

BLOCK = 16384
"""Bytes in a block, of metadata and of data."""
HEADER_AT = 0x1E00
HEADER_SIZE = 512

CATALOG, DESCRIPTORS, STORE, BITMAP = 2, 3, 4, 6
"""Record types of blocks."""
FORWARDER, OVERLAY = 1, 2
"""Flags of a descriptor. All others but "not used" are those of an ordinary one: a whole block that was saved."""

_GUID = UUID("3808876b-c176-4e48-b7ae-04046e6cc752").bytes_le
_VOLUME_HEADER = 1
_HEADER = struct.Struct("<16s2I5Q16s16sI")
_BLOCK_HEADER = struct.Struct("<16s2I3Q")
_CONTENT = 128
"""Bytes of the header of a block; and of an entry in the catalog."""
_COPY = struct.Struct("<2Q16s3Q")
_PLACE = struct.Struct("<2Q16s3Q2Q2Q")
_DESCRIPTOR = struct.Struct("<3Q2I")
_INFORMATION = struct.Struct("<16s16s16s4IH")
_NOT_USED = 4
_ZERO_FILLS = 0x400


@dataclass(frozen=True, slots=True)
class VolumeHeader:
    """Whether a volume has copies, and on which volume their data are."""

    catalog: int
    """Offset in bytes; 0: no copies and none stored for others."""
    volume: UUID
    storage: UUID


@dataclass(frozen=True, slots=True)
class Copy:
    """A shadow copy, from the catalog of the volume it is of."""

    id: UUID
    """Names the store; the other id, which Windows shows, is in the store itself."""
    size: int
    sequence: int
    """Higher is newer."""
    zero_fills: bool
    """Whether blocks that were not in use when it was made read as zeros. They read as what is there now if not."""
    created: int
    """As a FILETIME: units of 100 ns since 1601, UTC."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the store of a copy is, from the catalog of the volume it is on. Offsets in bytes, 0: there is none."""

    id: UUID
    descriptors: int
    header: int
    bitmap: int
    previous_bitmap: int


@dataclass(frozen=True, slots=True)
class Information:
    """What the store says of the copy."""

    copy: UUID
    copy_set: UUID
    attributes: int
    machine: str


Descriptor = tuple[int, int, int, int, int]
"""A block of the volume that was saved, or moved: its offset, where on the volume it was moved to if it is a ``FORWARDER``,
where it is stored, flags, and, if it is an ``OVERLAY``, which sectors of 512 bytes it holds, one a bit. Offsets in bytes. No
class: a store has a million of them."""


def parse_header(content: bytes) -> VolumeHeader | None:
    """The header that a volume has at byte ``HEADER_AT``; None if there is none."""
    if len(content) < _HEADER.size or not content.startswith(_GUID):
        return None
    _, _, record, _, _, _, catalog, _, volume, storage, _ = _HEADER.unpack_from(content)
    return VolumeHeader(catalog, _uuid(volume), _uuid(storage)) if record == _VOLUME_HEADER else None


def parse_block(content: bytes, record: int, at: int) -> tuple[int, bytes]:
    """The offset of the next block of the chain (0: none), and what is in the block that was read at byte ``at``.

    Raises:
        Corrupt: it is no block of that record type, or says it lies elsewhere.
    """
    if len(content) < BLOCK or not content.startswith(_GUID):
        raise Corrupt("vss: no block of a shadow copy", offset=at, expected=_GUID.hex(), found=content[:16].hex(), reason="vss")
    _, _, kind, _, place, following = _BLOCK_HEADER.unpack_from(content)
    if (kind, place) != (record, at):
        raise Corrupt(
            "vss: another block than the chain says", offset=at, expected=(record, at), found=(kind, place), reason="vss"
        )
    return following, content[_CONTENT:BLOCK]


def parse_catalog(content: bytes) -> Iterator[Copy | Place]:
    """The entries in a block of the catalog, whose header was taken off. Those of unknown type are passed over."""
    for start in range(0, len(content) - _CONTENT + 1, _CONTENT):
        kind = int.from_bytes(content[start : start + 8], "little")
        if kind == 2:
            _, size, guid, sequence, flags, created = _COPY.unpack_from(content, start)
            yield Copy(_uuid(guid), size, sequence, bool(flags & _ZERO_FILLS), created)
        elif kind == 3:
            _, descriptors, guid, header, _, bitmap, _, _, previous, _ = _PLACE.unpack_from(content, start)
            yield Place(_uuid(guid), descriptors, header, bitmap, previous)


def parse_descriptors(content: bytes, at: int) -> list[Descriptor]:
    """The descriptors in a block of that list, whose header was taken off; unused ones are left out.

    Raises:
        Corrupt: one is not at the border of a block.
    """
    usable = len(content) - len(content) % _DESCRIPTOR.size
    found: list[Descriptor] = [
        one for one in _DESCRIPTOR.iter_unpack(content[:usable]) if not one[3] & _NOT_USED and (one[2] or one[3])
    ]
    for one in found:
        original, forward, stored, flags, _ = one
        if (original | stored | (forward if flags & FORWARDER else 0)) % BLOCK:
            number = list(_DESCRIPTOR.iter_unpack(content[:usable])).index(one)
            place = at + _CONTENT + number * _DESCRIPTOR.size
            raise Corrupt("vss: a descriptor of half a block", offset=place, found=one, reason="vss")
    return found


def parse_information(content: bytes) -> Information:
    """What is in the first block of a store, whose header was taken off."""
    _, copy, copy_set, _, _, attributes, _, length = _INFORMATION.unpack_from(content)
    machine = content[_INFORMATION.size : _INFORMATION.size + length].decode("utf-16-le", "replace")
    return Information(_uuid(copy), _uuid(copy_set), attributes, machine)


def _uuid(data: bytes) -> UUID:
    return UUID(bytes_le=data)
