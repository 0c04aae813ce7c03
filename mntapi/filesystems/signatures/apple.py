"""HFS, HFS+ and APFS. Sources: Apple "Inside Macintosh: Files" chapter 2; Apple Technical Note TN1150; "Apple File System
Reference", section "Container".
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source

_NAMESPACE = bytes.fromhex("b3e20f39f29211d697a400306543ecac")
"""The name space that Apple hashes a volume's identifier in."""
_UNMOUNTED = 0x100
_JOURNALED = 0x2000


def _uuid(identifier: bytes) -> str | None:
    """The 8 bytes in Finder's information as a version 3 UUID (RFC 9562)."""
    if not any(identifier):
        return None
    digest = bytearray(hashlib.md5(_NAMESPACE + identifier, usedforsecurity=False).digest())
    digest[6] = 0x30 | digest[6] & 0x0F
    digest[8] = 0x80 | digest[8] & 0x3F
    return values.uuid(bytes(digest))


@dataclass(frozen=True, slots=True)
class MasterBlock:
    """The Master Directory Block of HFS. ``block_size`` is bytes, ``first_block`` is in sectors of 512."""

    signature: bytes
    attributes: int
    block_count: int
    block_size: int
    first_block: int
    label: bytes
    identifier: bytes
    embedded: bytes
    embedded_start: int

    def is_sane(self) -> bool:
        """Whether there are blocks, of whole sectors."""
        return self.block_count > 0 and self.block_size > 0 and self.block_size % 512 == 0 and 1 <= self.label[0] <= 27


_MASTER = struct.Struct(">2s8xH6xHI4xH6x28s52x8s2sH")


def hfs(source: Source, base: int) -> Found | None:
    """HFS that does not wrap an HFS+."""
    block = MasterBlock(*_MASTER.unpack(source.read(base, _MASTER.size)))
    if block.embedded in (b"H+", b"HX") or not block.is_sane():
        return None
    dirty = None if block.attributes & _UNMOUNTED else "not unmounted cleanly"
    return Found(values.text(block.label[1 : 1 + block.label[0]]), _uuid(block.identifier), dirty)


@dataclass(frozen=True, slots=True)
class VolumeHeader:
    """The volume header of HFS+, and the extents of its catalog file (start and count in turn, in blocks)."""

    signature: bytes
    version: int
    attributes: int
    block_size: int
    block_count: int
    identifier: bytes
    catalog: tuple[int, ...]

    @classmethod
    def parse(cls, raw: bytes) -> VolumeHeader:
        signature, version, attributes, block_size, block_count, identifier, *catalog = _HEADER.unpack(raw)
        return cls(signature, version, attributes, block_size, block_count, identifier, tuple(catalog))

    def is_sane(self) -> bool:
        """Whether it is HFS+ (version 4) or HFSX (5) with possible sizes."""
        if (self.signature, self.version) not in ((b"H+", 4), (b"HX", 5)):
            return False
        return values.is_power_of_two(self.block_size) and self.block_size >= 512 and self.block_count > 0

    @property
    def dirty(self) -> str | None:
        """Why the newest changes may be missing."""
        if self.attributes & _UNMOUNTED:
            return None
        return "journal not replayed" if self.attributes & _JOURNALED else "not unmounted cleanly"


_HEADER = struct.Struct(">2sHI32xII56x8s176x16I")


def hfsplus(source: Source, base: int) -> Found | None:
    """HFS+ or HFSX, bare or wrapped in an HFS; the label is the name of the root folder."""
    start = 0
    if source.has(base, b"BD"):
        block = MasterBlock(*_MASTER.unpack(source.read(base, _MASTER.size)))
        start = block.first_block * 512 + block.embedded_start * block.block_size
        if block.embedded not in (b"H+", b"HX") or not block.is_sane():
            return None
    header = VolumeHeader.parse(source.read(start + base, _HEADER.size))
    return Found(_root_name(source, start, header), _uuid(header.identifier), header.dirty) if header.is_sane() else None


def _root_name(source: Source, start: int, header: VolumeHeader) -> str | None:
    """The first key of the catalog's first leaf: parent 1, and the volume's name in UTF-16."""
    leaf_record = source.detail(start + header.catalog[0] * header.block_size, 34)
    if len(leaf_record) < 34:
        return None
    first_leaf, node_size = struct.unpack_from(">10xI4xH", leaf_record, 14)
    offset = _catalog_offset(header, first_leaf * node_size)
    if offset is None:
        return None
    node = source.detail(start + offset, min(node_size, 14 + 8 + 510))
    if len(node) < 22:
        return None
    kind, records, parent, length = struct.unpack_from(">8xBxH4xIH", node)
    if kind != 0xFF or not records or parent != 1 or length > 255:
        return None
    return values.utf16(node[22 : 22 + 2 * length], "be")


def _catalog_offset(header: VolumeHeader, position: int) -> int | None:
    """Where in the volume a byte of the catalog file lies, if one of its first eight extents has it."""
    for first, count in zip(header.catalog[::2], header.catalog[1::2], strict=True):
        if position < count * header.block_size:
            return first * header.block_size + position
        position -= count * header.block_size
    return None


@dataclass(frozen=True, slots=True)
class ContainerSuper:
    """``nx_superblock_t`` behind its ``obj_phys_t``."""

    checksum: int
    kind: int
    subtype: int
    block_size: int
    uuid: bytes


_CONTAINER = struct.Struct("<Q16xH2xI4xI32x16s")


def apfs(source: Source, base: int) -> Found | None:
    """An APFS container; the volumes inside have names of their own."""
    raw = source.read(base, 4096)
    superblock = ContainerSuper(*_CONTAINER.unpack_from(raw))
    if (superblock.kind, superblock.subtype, superblock.block_size) != (1, 0, 4096) or _fletcher64(
        raw[8:]
    ) != superblock.checksum:
        return None
    return Found(uuid=values.uuid(superblock.uuid))


def _fletcher64(raw: bytes) -> int:
    """Apple's Fletcher-64 over 32-bit words, with the two check words that make the whole block add up to zero."""
    low = high = 0
    for (word,) in struct.iter_unpack("<I", raw):
        low += word
        high += low
    first = ~((low + high) % 0xFFFFFFFF) & 0xFFFFFFFF
    second = ~((low + first) % 0xFFFFFFFF) & 0xFFFFFFFF
    return second << 32 | first
