"""Makes small volumes with shadow copies, from the description of the format. Tests have libvshadow read them as well.

A volume is 256 blocks of 16 KiB, each block of its own content; the first half is what the copies are of, the second half is
room for stores. Block numbers stand for offsets everywhere.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

BLOCK = 16384
BLOCKS = 256
SIZE = BLOCK * BLOCKS
VSS = UUID("3808876b-c176-4e48-b7ae-04046e6cc752").bytes_le
CATALOG = 8
CREATED = 132601471973043090
FORWARDER, OVERLAY, NOT_USED = 1, 2, 4


@dataclass
class Copy:
    """A copy whose store begins at block ``at``. ``descriptors`` are (original, forward or 0, stored or 0, flags, sectors)."""

    number: int
    at: int
    descriptors: Sequence[tuple[int, int, int, int, int]] = ()
    unused: frozenset[int] = frozenset()
    previous: frozenset[int] | None = None
    flags: int = 0x440
    created: int | None = None
    size: int = SIZE
    sequence: int | None = None

    @property
    def guid(self) -> UUID:
        return UUID(int=0x50000000000000000000000000000000 + self.number)

    @property
    def copy_guid(self) -> UUID:
        return UUID(int=0xC0000000000000000000000000000000 + self.number)


@dataclass
class Volume:
    """A volume and what its catalog says. ``stores`` are those that lie on it, ``copies`` those that are of it."""

    number: int = 1
    copies: Sequence[Copy] = ()
    stores: Sequence[Copy] | None = None
    storage: int | None = None
    content: bytearray = field(default_factory=bytearray)

    def image(self) -> bytearray:
        """Its bytes."""
        if not self.content:
            self.content = _content(self.number)
        content = self.content
        stores = self.copies if self.stores is None else self.stores
        storage = self.number if self.storage is None else self.storage
        fields = (VSS, 1, 1, 0x1E00, 0x1E00, 0, CATALOG * BLOCK, 0, volume_guid(self.number), volume_guid(storage), 0)
        content[0x1E00:0x2000] = struct.pack("<16s2I5Q16s16sI", *fields).ljust(512, b"\0")
        guids = dict.fromkeys(copy.guid for copy in (*self.copies, *stores))
        by_guid = [[_copy_entry(copy) for copy in self.copies if copy.guid == guid] for guid in guids]
        places = [[_place_entry(copy) for copy in stores if copy.guid == guid] for guid in guids]
        entries = [entry for pair in zip(by_guid, places, strict=True) for part in pair for entry in part]
        _put(content, CATALOG, 2, b"".join(entries))
        for copy in stores:
            _put_store(content, copy)
        return content

    def block(self, number: int) -> bytes:
        return bytes(self.content[number * BLOCK : (number + 1) * BLOCK])


def volume_guid(number: int) -> bytes:
    return UUID(int=0xA0000000000000000000000000000000 + number).bytes_le


def _content(number: int) -> bytearray:
    content = bytearray(random.Random(number).randbytes(SIZE))
    boot = b"\xeb\x52\x90NTFS    " + struct.pack("<HB", 512, 8)
    boot = boot.ljust(40, b"\0") + struct.pack("<3Qb3xb3xQ", SIZE // 512 - 1, 4, 8, -10, 1, 0x1122334455667788)
    content[:512] = content[-512:] = boot.ljust(510, b"\0") + b"\x55\xaa"  # and its backup, which libvshadow asks for
    return content


def _put(content: bytearray, at: int, record: int, data: bytes, following: int = 0, size: int = 0) -> None:
    header = struct.pack("<16s2I4Q", VSS, 1, record, 0, at * BLOCK, following * BLOCK, size).ljust(128, b"\0")
    content[at * BLOCK : (at + 1) * BLOCK] = (header + data).ljust(BLOCK, b"\0")


def _copy_entry(copy: Copy) -> bytes:
    sequence = copy.number if copy.sequence is None else copy.sequence
    created = CREATED + copy.number * 10**7 if copy.created is None else copy.created
    fields = (2, copy.size, copy.guid.bytes_le, sequence, copy.flags, created)
    return struct.pack("<2Q16s3Q", *fields).ljust(128, b"\0")


def _place_entry(copy: Copy) -> bytes:
    previous = 0 if copy.previous is None else (copy.at + 4) * BLOCK
    fields = (3, (copy.at + 1) * BLOCK, copy.guid.bytes_le, copy.at * BLOCK, (copy.at + 2) * BLOCK, (copy.at + 3) * BLOCK)
    return struct.pack("<2Q16s6Q", *fields, 0, 0, previous).ljust(128, b"\0")


def _put_store(content: bytearray, copy: Copy) -> None:
    """Header, descriptors, ranges, bitmap, previous bitmap: five blocks."""
    machine = "HOST".encode("utf-16-le")
    fields = (bytes(16), copy.copy_guid.bytes_le, UUID(int=7).bytes_le, 9, 1, 0x420009, 0, len(machine))
    information = struct.pack("<16s16s16s4IH", *fields) + machine + struct.pack("<H", len(machine)) + machine
    _put(content, copy.at, 4, information, size=len(information))
    descriptors = [
        struct.pack("<3Q2I", original * BLOCK, forward * BLOCK, stored * BLOCK, flags, sectors)
        for original, forward, stored, flags, sectors in copy.descriptors
    ]
    _put(content, copy.at + 1, 3, b"".join(descriptors))
    _put(content, copy.at + 2, 5, struct.pack("<3Q", copy.at * BLOCK, 0, 64 * BLOCK))
    _put(content, copy.at + 3, 6, _bits(copy.unused))
    if copy.previous is not None:
        _put(content, copy.at + 4, 6, _bits(copy.previous))


def _bits(blocks: frozenset[int]) -> bytes:
    return sum(1 << block for block in blocks).to_bytes(BLOCKS // 8, "little")
