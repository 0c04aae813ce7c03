"""OVA: a tar with an OVF descriptor and the disks it describes, read in place.

A disk inside may name other members of the same tar and nothing else; member names are keys, never paths of this host.
With one disk the OVA is that disk. With several it is a machine: ``read_archive`` tells what there is, ``Archive.file`` gives
the descriptor, and ``open_disk`` opens one of them.

Source: DMTF DSP0243, OVF 2.1.1, section 7.4 (OVA); POSIX.1-2017 pax, "ustar Interchange Format" and "pax Header Block";
GNU tar manual, "Basic Tar Format" (long names, base-256 sizes).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mntapi.blocks import Slice, read
from mntapi.errors import Corrupt, Denied, NotFound, Unsupported
from mntapi.images.formats import RAW, Chain, detect
from mntapi.images.inside import Inside, depth_of, open_inside
from mntapi.images.names import is_chunk
from mntapi.types import FileBlocks, Image
from mntapi.units import KIB

FORMAT = "ova"
BLOCK = 512
MAX_MEMBERS = 4096
"""Entries of the tar; an OVA has a handful."""
MAX_EXTENSION = 64 * KIB
"""Bytes of a long name or a pax header."""

_FILES = (b"0", b"\0", b"7")
_GLOBAL, _PAX, _LONG_NAME, _LONG_LINK, _SPARSE = b"g", b"x", b"L", b"K", b"S"
_PLAIN_DISK = re.compile(r".+\.(img|raw|dd)", re.IGNORECASE | re.DOTALL)
_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ")


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of the tar: its bytes are at ``offset``. ``is_sparse``: they are a packed form nothing here reads."""

    name: str
    offset: int
    size: int
    is_sparse: bool = False


@dataclass(frozen=True, slots=True)
class Archive:
    """The regular files of an OVA by name, in the order of the tar. ``disks`` are those that hold a disk."""

    container: FileBlocks
    members: Mapping[str, Member]
    disks: tuple[str, ...]

    @property
    def descriptor(self) -> str | None:
        """The name of the OVF descriptor."""
        return next((name for name in self.members if name.lower().endswith(".ovf")), None)

    def file(self, name: str) -> Inside:
        """A member as a file. Closing it leaves the OVA open.

        Raises:
            NotFound: there is no such member.
            Corrupt: it goes past the end of the OVA.
            Unsupported: it is stored sparsely.
        """
        return _member_file(self.container, self.members, name)


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """Open the one disk of an OVA.

    Raises:
        Unsupported: it holds several disks, or none.
        Corrupt: the tar is damaged.
    """
    archive = read_archive(file)
    if len(archive.disks) > 1:
        raise Unsupported(
            f"holds {len(archive.disks)} disks: {', '.join(archive.disks[:8])}", path=file.path, reason="several-disks"
        )
    if not archive.disks:
        raise Unsupported("is a tar without a disk in it", path=file.path, reason="no-disk")
    return open_disk(file, archive.disks[0], chain)


def open_disk(file: FileBlocks, name: str, chain: Chain) -> Image:
    """Open one disk of an OVA; the image owns ``file``. On an error the caller closes it.

    Raises:
        NotFound: there is no such member.
        MntapiError: it cannot be opened.
    """
    members = read_members(file)
    content = _member_file(file, members, name)
    owner = Inside(content.blocks, content.path, content.depth, file.close)
    return open_inside(owner, file, FORMAT, Chain(_TarOpener(file, members), chain.options, chain.above))


def read_archive(file: FileBlocks) -> Archive:
    """What is in an OVA. Raises Corrupt as ``read_members`` does, and Unsupported where a disk is cut into chunks."""
    members = read_members(file)
    return Archive(file, members, tuple(_disks(file, members)))


def _disks(file: FileBlocks, members: Mapping[str, Member]) -> list[str]:
    """By content; plain disks, which have no mark, by name, and only where nothing else is a disk."""
    cut = next(filter(is_chunk, members), None)
    if cut is not None:
        hint = "unpack it with tar, and open the .ovf"
        raise Unsupported(f"holds a disk that is cut into chunks: {cut!a}", path=file.path, hint=hint, reason="chunks")
    found = []
    for name, one in members.items():
        length = min(one.size, file.size - one.offset)
        if length > 0 and not one.is_sparse and detect(Slice(file, one.offset, length)) is not RAW:
            found.append(name)
    return found or [name for name, one in members.items() if one.size and _PLAIN_DISK.fullmatch(name)]


def _member_file(file: FileBlocks, members: Mapping[str, Member], name: str) -> Inside:
    member = members.get(name)
    if member is None:
        raise NotFound("has no such member", path=f"{file.path}:{name}")
    path = f"{file.path}:{name}"
    if member.is_sparse:
        raise Unsupported("is stored as a sparse member", path=path, hint="unpack the OVA with tar", reason="sparse-member")
    if member.offset + member.size > file.size:
        raise Corrupt(
            f"the member {name!a} is cut off",
            path=file.path,
            offset=file.size,
            expected=f"{member.offset + member.size} bytes",
            reason="truncated",
        )
    return Inside(Slice(file, member.offset, member.size), path, depth_of(file) + 1)


@dataclass(frozen=True, slots=True)
class _TarOpener:
    """Opens members that another member names; there is nothing else it could open."""

    container: FileBlocks
    members: Mapping[str, Member]

    def open(self, name: str, *, relative_to: str | None = None) -> Inside:
        """See ``mntapi.types.Opener``."""
        prefix = self.container.path + ":"
        here = (relative_to or "").removeprefix(prefix)
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), name))
        if posixpath.isabs(target) or target.split("/")[0] == "..":
            raise Denied(f"names the file {name!a}, which is outside the OVA", path=relative_to, reason="outside")
        return _member_file(self.container, self.members, target)


def read_members(file: FileBlocks) -> dict[str, Member]:
    """The regular files of a tar by name, ``./`` left out. Reads headers only.

    Raises:
        Corrupt: a header is damaged or cut off, two members have one name, or there are too many.
    """
    members: dict[str, Member] = {}
    for count, member in enumerate(_walk(file)):
        if count >= MAX_MEMBERS:
            raise Corrupt("the tar has too many members", path=file.path, expected=f"at most {MAX_MEMBERS}", reason="tar")
        if member.name in members:
            raise _damaged(file, member.offset, f"there are two members {member.name!a}")
        members[member.name] = member
    return members


def _walk(file: FileBlocks) -> Iterator[Member]:
    position, name, records = 0, None, dict[str, str]()
    for _ in range(8 * MAX_MEMBERS):
        if position >= file.size:
            return  # without the two empty blocks at the end; a last member that is cut off raises when it is opened
        header = _header(file, position)
        if header is None:
            return
        data, kind = position + BLOCK, header[156:157]
        size = _number(file, header, position) if "size" not in records else int(records["size"])
        if kind in (_PAX, _LONG_NAME, _LONG_LINK, _GLOBAL):
            content = _extension(file, data, size)
            if kind == _LONG_NAME:
                name = _text(content.rstrip(b"\0"))
            elif kind == _PAX:
                records = _pax(file, content, data)
            position = data + _padded(size)
            continue
        if kind in _FILES or kind == _SPARSE:
            sparse = kind == _SPARSE or any(key.startswith("GNU.sparse.") for key in records)
            yield Member(posixpath.normpath(records.get("path") or name or _name(header)), data, size, sparse)
        position = data + (_padded(size) if kind in (*_FILES, _SPARSE) else 0)
        name, records = None, {}
    raise _damaged(file, position, f"there are more than {8 * MAX_MEMBERS} headers")


def _header(file: FileBlocks, position: int) -> bytes | None:
    """The header at ``position``; None at the end of the tar."""
    if position + BLOCK > file.size:
        raise Corrupt("the tar is cut off", path=file.path, offset=position, reason="truncated")
    header = read(file, position, BLOCK)
    if not any(header):
        return None
    told = header[148:156].strip(b" \0")
    actual = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if not re.fullmatch(rb"[0-7]{1,7}", told) or int(told, 8) != actual:
        raise Corrupt(
            "a header of the tar is damaged",
            path=file.path,
            offset=position,
            expected=f"checksum {actual:o}",
            found=ascii(told),
            reason="tar",
        )
    return header


def _number(file: FileBlocks, header: bytes, position: int) -> int:
    """The size: octal digits, or a binary number where the first byte has its high bit set (GNU)."""
    field = header[124:136]
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise _damaged(file, position + 124, f"the size is {digits!a}")
    return int(digits or b"0", 8)


def _extension(file: FileBlocks, data: int, size: int) -> bytes:
    if size > MAX_EXTENSION or data + size > file.size:
        raise _damaged(file, data, f"a long name or pax header of {size} bytes")
    return read(file, data, size)


def _pax(file: FileBlocks, content: bytes, offset: int) -> dict[str, str]:
    """Records of the form ``LENGTH KEY=VALUE\\n``, the length counting all of it."""
    records: dict[str, str] = {}
    position = 0
    while position < len(content) and content[position]:
        match = _RECORD.match(content, position)
        end = position + int(match[1]) if match else 0
        key, equals, value = content[match.end() if match else 0 : end - 1].partition(b"=")
        if match is None or end > len(content) or end <= match.end() or not equals or content[end - 1 : end] != b"\n":
            raise _damaged(file, offset + position, "a pax record is damaged")
        records[_text(key)] = _text(value)
        position = end
    if not re.fullmatch(r"[0-9]{1,19}", records.get("size", "0")):
        raise _damaged(file, offset, f"the size is {records['size']!a}")
    return records


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _damaged(file: FileBlocks, offset: int, what: str) -> Corrupt:
    return Corrupt("the tar is damaged", path=file.path, offset=offset, found=what, reason="tar")
