"""The footer, the header of a dynamic disk, and parent locators: bytes in, checked values out. All numbers are big-endian."""

from __future__ import annotations

import enum
import struct
import uuid
from dataclasses import dataclass
from urllib.parse import unquote

from mntapi.errors import Corrupt, Unsupported
from mntapi.units import MIB, SECTOR

FOOTER_SIZE = 512
OLD_FOOTER_SIZE = 511
"""Virtual PC before 2004 wrote footers one byte shorter; that byte is reserved."""
HEADER_SIZE = 1024
MAX_BLOCK_SIZE = 256 * MIB
"""Hyper-V writes 2 MiB, or 512 KiB on request; the limit bounds what one sector bitmap can ask us to hold."""
MAX_LOCATOR = 4096
"""Bytes of a parent's name that are believed."""
_VERSION_MAJOR = 1

_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB")
_HEADER = struct.Struct(">8sQQIIII16sII512s")
_LOCATOR = struct.Struct(">4sIIIQ")
_LOCATORS_AT = 576
_LOCATOR_COUNT = 8

_CHS_CREATORS = (b"vpc ", b"vs  ", b"qemu")
"""Programs whose guests see cylinders * heads * sectors, which is a little less than the size field. qemu (block/vpc.c) lists
the others instead (``win ``, ``d2v``, ``qem2``, ``tap``, ``CTXS``) and takes every program it does not know for one of these;
but newer writers (``vbox``, Azure's ``wa``) count bytes, and a disk cut short loses data where one too long loses none."""
_MAX_CHS_SECTORS = 65535 * 16 * 255
"""The largest geometry; it says nothing about the size but that the disk is at least that large."""


class DiskType(enum.IntEnum):
    """What kind of file it is."""

    FIXED = 2
    DYNAMIC = 3
    DIFFERENCING = 4


@dataclass(frozen=True, slots=True)
class Footer:
    """The footer, at the end of every VHD; dynamic and differencing ones have a copy at the start."""

    kind: DiskType
    header_offset: int
    current_size: int
    cylinders: int
    heads: int
    sectors_per_track: int
    creator: bytes
    unique_id: uuid.UUID

    @property
    def disk_size(self) -> int:
        """Bytes of the disk as its guest saw it: the size field, or what the geometry says for programs that go by that."""
        sectors = self.cylinders * self.heads * self.sectors_per_track
        if self.creator in _CHS_CREATORS and 0 < sectors < _MAX_CHS_SECTORS:
            return sectors * SECTOR
        return self.current_size


@dataclass(frozen=True, slots=True)
class Locator:
    """Where one name of the parent is stored: ``code`` says how it is written, ``offset`` and ``length`` count bytes."""

    code: bytes
    length: int
    offset: int

    @property
    def is_relative(self) -> bool:
        """Whether the name is relative to the child's folder."""
        return self.code in (b"W2ru", b"Wi2r", b"MacX")

    @property
    def is_absolute(self) -> bool:
        """Whether it is a path of the machine that made the child. What is neither, only a Macintosh can follow."""
        return self.code in (b"W2ku", b"Wi2k")

    def name(self, content: bytes) -> str:
        """The name in the ``length`` bytes at ``offset``, of a locator that is relative or absolute."""
        if self.code == b"MacX":  # a file URL; XenServer writes file://./parent.vhd
            return unquote(content.decode("utf-8", "replace").split("\0")[0].removeprefix("file://"))
        if self.code in (b"W2ru", b"W2ku"):
            # Windows writes little-endian although the format is big-endian; a name starts with an ASCII character.
            order = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
            return content.decode(order, "replace").split("\0")[0]
        return content.decode("cp1252", "replace").split("\0")[0]


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a dynamic or differencing disk."""

    table_offset: int
    table_count: int
    block_size: int
    parent_id: uuid.UUID
    parent_name: str
    locators: tuple[Locator, ...]


def parse_footer(content: bytes, *, path: str, offset: int) -> Footer:
    """The footer in 512 bytes (or 511, of old Virtual PC).

    Raises:
        Corrupt: cookie or checksum is wrong.
        Unsupported: a version or kind of disk that the specification does not have.

    Source: specification, "Hard Disk Footer Format".
    """
    content = content.ljust(FOOTER_SIZE, b"\0")
    fields = _FOOTER.unpack_from(content)
    cookie, _, version, header_offset, _, creator, _, _, _, current_size, cylinders, heads, sectors, kind, *_ = fields
    if cookie != b"conectix":
        raise Corrupt("has no VHD footer", path=path, offset=offset, expected=b"conectix", found=cookie, reason="footer")
    _verify_checksum(content, _CHECKSUM_IN_FOOTER, "footer", path=path, offset=offset)
    _verify_version(version, path=path, offset=offset + 12)
    if kind not in iter(DiskType):
        raise Unsupported("a VHD of an unknown kind", path=path, offset=offset + 60, expected="2, 3 or 4", found=kind)
    return Footer(DiskType(kind), header_offset, current_size, cylinders, heads, sectors, creator, uuid.UUID(bytes=fields[15]))


def parse_header(content: bytes, *, path: str, offset: int) -> Header:
    """The dynamic disk header in 1024 bytes.

    Raises:
        Corrupt: cookie, checksum, or block size is wrong.
        Unsupported: the version is not 1.

    Source: specification, "Dynamic Disk Header Format".
    """
    cookie, _, table_offset, version, count, block_size, _, parent_id, _, _, name = _HEADER.unpack_from(content)
    if cookie != b"cxsparse":
        raise Corrupt(
            "has no dynamic disk header", path=path, offset=offset, expected=b"cxsparse", found=cookie, reason="header"
        )
    _verify_checksum(content, _CHECKSUM_IN_HEADER, "dynamic disk header", path=path, offset=offset)
    _verify_version(version, path=path, offset=offset + 24)
    if block_size & (block_size - 1) or not SECTOR <= block_size <= MAX_BLOCK_SIZE:
        raise Corrupt(
            "the block size is impossible",
            path=path,
            offset=offset + 32,
            expected=f"a power of two, {SECTOR} to {MAX_BLOCK_SIZE}",
            found=block_size,
            reason="header",
        )
    parent_name = name.decode("utf-16-be", "replace").split("\0")[0]
    locators = tuple(_parse_locators(content))
    return Header(table_offset, count, block_size, uuid.UUID(bytes=parent_id), parent_name, locators)


def _parse_locators(content: bytes) -> list[Locator]:
    """Those in use. Their "data space" is not read: some writers count it in bytes, others in sectors."""
    found = []
    for number in range(_LOCATOR_COUNT):
        code, _, length, _, offset = _LOCATOR.unpack_from(content, _LOCATORS_AT + number * _LOCATOR.size)
        if code != b"\0\0\0\0":
            found.append(Locator(code, length, offset))
    return found


_CHECKSUM_IN_FOOTER = 64
_CHECKSUM_IN_HEADER = 36


def _verify_checksum(content: bytes, at: int, what: str, *, path: str, offset: int) -> None:
    stored = int.from_bytes(content[at : at + 4], "big")
    computed = ~(sum(content) - sum(content[at : at + 4])) & 0xFFFFFFFF
    if stored != computed:
        raise Corrupt(
            f"the checksum of the {what} is wrong",
            path=path,
            offset=offset + at,
            expected=f"{computed:#010x}",
            found=f"{stored:#010x}",
            reason="checksum",
        )


def _verify_version(version: int, *, path: str, offset: int) -> None:
    if version >> 16 != _VERSION_MAJOR:
        raise Unsupported(
            "a VHD version that is not 1",
            path=path,
            offset=offset,
            found=f"{version >> 16}.{version & 0xFFFF}",
            reason="version",
        )
