"""The descriptor: the text that says what a disk is made of. Bytes in, ``Descriptor`` out; nothing is opened here."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mntapi.errors import Corrupt, Unsupported
from mntapi.units import MIB, SECTOR

MAX_DESCRIPTOR = 1 * MIB
"""Bytes of a descriptor; real ones have a few hundred."""
MAX_SECTORS = 1 << 41
"""Sectors of a disk: 1 PiB, sixteen times what VMware allows."""
NO_PARENT = "ffffffff"

_ENCODING = re.compile(rb'^[ \t]*(?:ddb\.)?encoding[ \t]*=[ \t]*"?([^"\r\n]*)', re.IGNORECASE | re.MULTILINE)
_CODECS = re.compile(
    r"utf-?8|us-ascii|ascii|windows-\d+|cp-?\d+|gbk|gb2312|gb18030|big5|shift[_-]jis|euc-(jp|kr)|iso-?8859-\d+|koi8-[ru]", re.I
)
"""Encodings we decode; the list is closed because Python's also has ones that are not character sets."""
_EXTENT = re.compile(
    r'(RW|RDONLY|NOACCESS)\s+(\d{1,18})\s+([A-Za-z]+)(?:\s+"([^"]+)"(?:\s+(\d{1,18})(?:\s.*)?)?)?', re.IGNORECASE
)
_ACCESS = re.compile(r"(RW|RDONLY|NOACCESS)\b", re.IGNORECASE)
_SETTING = re.compile(r'([\w.:-]+)\s*=\s*(?:"([^"]*)"?|(.*))')


@dataclass(frozen=True, slots=True)
class ExtentLine:
    """A line such as ``RW 4192256 SPARSE "disk-s001.vmdk"``. ``start`` is the byte in the file where a flat extent begins."""

    access: str
    sectors: int
    kind: str
    name: str | None
    start: int = 0

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.sectors * SECTOR


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a descriptor says. Content IDs are eight lower-case hexadecimal digits; ``settings`` has its keys in lower case."""

    create_type: str
    cid: str | None
    parent_cid: str | None
    parent_hint: str | None
    extents: tuple[ExtentLine, ...]
    settings: Mapping[str, str]

    @property
    def has_parent(self) -> bool:
        """Whether it is a delta: it names a parent, or at least has the content ID of one."""
        return self.parent_hint is not None or self.parent_cid not in (None, NO_PARENT)


def parse(raw: bytes, path: str) -> Descriptor:
    """Parse a descriptor; what follows the first NUL is padding.

    Raises:
        Corrupt: a line is damaged, no extent is described, or the text is cut off.
        Unsupported: it is in an encoding we do not know, or the disk is encrypted.

    Source: Virtual Disk Format 5.0, "The Descriptor File"; change tracking and encodings: libvmdk's format notes.
    """
    raw = raw.split(b"\0", 1)[0]
    if len(raw) > MAX_DESCRIPTOR:
        raise Corrupt("the descriptor is too long", path=path, expected=f"at most {MAX_DESCRIPTOR} bytes", found=len(raw))
    settings: dict[str, str] = {}
    extents: list[ExtentLine] = []
    for number, line in enumerate(_decoded(raw, path).removeprefix("\ufeff").split("\n"), 1):
        line = line.strip()
        if _ACCESS.match(line):
            extents.append(_extent(line, number, path))
        elif setting := _SETTING.match(line):
            settings.setdefault(setting[1].lower(), (setting[2] if setting[2] is not None else setting[3]).strip())
    _check_whole(raw, settings, path)
    _check_readable(settings, path)
    extents = [extent for extent in extents if extent.sectors]
    if not extents:
        raise Corrupt("the descriptor describes no extent", path=path, reason="descriptor-damaged")
    if sum(extent.sectors for extent in extents) > MAX_SECTORS:
        raise Corrupt("the extents are larger than any disk", path=path, expected=f"at most {MAX_SECTORS} sectors")
    return Descriptor(
        create_type=settings.get("createtype", ""),
        cid=_content_id(settings.get("cid"), path),
        parent_cid=_content_id(settings.get("parentcid"), path),
        parent_hint=settings.get("parentfilenamehint") or None,
        extents=tuple(extents),
        settings=settings,
    )


def _decoded(raw: bytes, path: str) -> str:
    """The text; bytes that the encoding does not have are kept as surrogates, as ``os.fsdecode`` does with file names."""
    if raw.isascii():
        return raw.decode("ascii")
    match = _ENCODING.search(raw)
    name = match[1].decode("ascii", "replace").strip() if match else "UTF-8"
    codec = re.sub(r"windows-", "cp", name, flags=re.IGNORECASE)
    try:
        if not _CODECS.fullmatch(name):
            raise LookupError
        codecs.lookup(codec)
    except LookupError as error:
        raise Unsupported(f"the descriptor's encoding {name!a} is not known", path=path, reason="encoding") from error
    return raw.decode(codec, "surrogateescape")


def _extent(line: str, number: int, path: str) -> ExtentLine:
    match = _EXTENT.fullmatch(line)
    if match is None:
        raise Corrupt(
            f"line {number} of the descriptor is no extent", path=path, found=ascii(line[:80]), reason="descriptor-damaged"
        )
    access, sectors, kind, name, start = match.groups()
    if int(start or 0) > MAX_SECTORS:
        raise Corrupt("an extent starts where no disk goes", path=path, expected=f"at most {MAX_SECTORS} sectors", found=start)
    return ExtentLine(access.upper(), int(sectors), kind.upper(), name, int(start or 0) * SECTOR)


def _content_id(text: str | None, path: str) -> str | None:
    if text is None:
        return None
    if not re.fullmatch(r"(?:0x)?[0-9a-fA-F]{1,8}", text):
        raise Corrupt("a content ID is damaged", path=path, expected="a 32-bit hexadecimal number", found=ascii(text[:40]))
    return f"{int(text, 16):08x}"


def _check_whole(raw: bytes, settings: Mapping[str, str], path: str) -> None:
    """Every writer ends with the disk database. Without it, a text that stops inside a line has lost its end, and of a split
    disk nothing tells how many extents were lost; other descriptors may be somebody's own handwriting.
    """
    if any(key.startswith("ddb.") for key in settings):
        return
    if not raw.endswith(b"\n") or "gbmaxextent" in settings.get("createtype", "").lower():
        raise Corrupt("the descriptor is cut off", path=path, offset=len(raw), expected="a disk database", reason="truncated")


def _check_readable(settings: Mapping[str, str], path: str) -> None:
    """Encrypted disks have plain descriptors (observed: vSphere's I/O filter ``vmwarevmcrypt``), and data that looks valid."""
    if "crypt" in settings.get("ddb.iofilters", "").lower() or "encryption.keysafe" in settings:
        raise Unsupported("the disk is encrypted by VMware", path=path, reason="encrypted")
