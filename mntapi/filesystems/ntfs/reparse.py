"""Reparse points: which are links, which are special files, and which mean that the file's bytes are elsewhere.

Source: [MS-FSCC] 2.1.2 Reparse Points; tag values from the Windows SDK's ntifs.h. What Services for Unix ("Interix") and
ntfs-3g keep in plain system files: ntfs-3g include/layout.h ``INTX_FILE``.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from mntapi.errors import Corrupt
from mntapi.types import FileKind

SYMLINK = 0xA000000C
MOUNT_POINT = 0xA0000003
LX_SYMLINK = 0xA000001D
_CLOUD = 0x9000001A
_CLOUD_MASK = 0xFFFF0FFF
_SPECIAL = {
    0x80000023: FileKind.SOCKET,
    0x80000024: FileKind.FIFO,
    0x80000025: FileKind.CHAR_DEVICE,
    0x80000026: FileKind.BLOCK_DEVICE,
}
_REASONS = {
    0x80000017: "wof",
    0x80000013: "dedup",
    0x80000021: "cloud-placeholder",
    0xC0000004: "hsm",
    0x80000006: "hsm",
    0x9000001C: "projected-file",
    0x80000018: "container-layer",
    0x90001018: "container-layer",
    0x8000001B: "app-execution-alias",
}
_HEADER = struct.Struct("<IH2x")
_NAMES = struct.Struct("<4H")
INTERIX_LINK = b"IntxLNK\1"
INTERIX_CHAR = b"IntxCHR\0"
INTERIX_BLOCK = b"IntxBLK\0"
_EXTENDED = struct.Struct("<I2BH")
_DEVICE = struct.Struct("<8s2Q")
MAX_INTERIX = 8 + 2 * 4096
"""Bytes of the largest special file: magic number and a target of 4096 characters."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a reparse point, or an Interix file, makes of its file."""

    kind: FileKind | None = None
    """None: what the file is without it."""
    target: str | None = None
    rdev: int = 0
    reason: str | None = None


def parse_reparse(raw: bytes, extended: bytes = b"") -> Meaning:
    """The reparse point in ``raw``, the value of the attribute; ``extended`` are the file's OS/2 extended attributes.

    Raises:
        Corrupt: it is cut off.
    """
    if len(raw) < _HEADER.size:
        raise Corrupt("a reparse point is cut off", expected=f"at least {_HEADER.size} bytes", found=len(raw))
    tag, length = _HEADER.unpack_from(raw)
    data = raw[_HEADER.size :][:length]
    if tag == SYMLINK:
        return Meaning(FileKind.SYMLINK, _windows_target(data, _NAMES.size + 4))
    if tag == MOUNT_POINT:
        return Meaning(FileKind.SYMLINK, _windows_target(data, _NAMES.size))
    if tag == LX_SYMLINK:
        return Meaning(FileKind.SYMLINK, os.fsdecode(data[4:]))
    if tag in _SPECIAL:
        return Meaning(_SPECIAL[tag], rdev=_wsl_device(extended))
    if tag & _CLOUD_MASK == _CLOUD:
        return Meaning(reason="cloud-placeholder")
    return Meaning(reason=_REASONS.get(tag, f"reparse-{tag:08x}"))


def _windows_target(data: bytes, names_at: int) -> str:
    """The print name, or without one the substitute name, with slashes and without the object manager's prefix."""
    if len(data) < names_at:
        raise Corrupt("a link is cut off", expected=f"at least {names_at} bytes", found=len(data))
    substitute_at, substitute, printed_at, printed = _NAMES.unpack_from(data)
    start, length = (printed_at, printed) if printed else (substitute_at, substitute)
    name = data[names_at + start :][:length]
    if len(name) < length or length % 2:
        raise Corrupt("the target of a link is cut off", expected=f"{length} bytes", found=len(name))
    target = os.fsdecode(name.decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass"))
    return target.removeprefix("\\??\\").replace("\\", "/")


def _wsl_device(extended: bytes) -> int:
    """The device number that Windows's Linux subsystem keeps as ``$LXDEV``, 0 without one."""
    at = 0
    while at + _EXTENDED.size <= len(extended):
        step, _, name_length, length = _EXTENDED.unpack_from(extended, at)
        name_at = at + _EXTENDED.size
        value_at = name_at + name_length + 1
        if extended[name_at : name_at + name_length] == b"$LXDEV" and length == 8 and value_at + 8 <= len(extended):
            major, minor = struct.unpack_from("<2I", extended, value_at)
            return os.makedev(major & 0xFFF, minor & 0xFFFFF)
        if step < _EXTENDED.size:
            break
        at += step
    return 0


def parse_interix(content: bytes) -> Meaning:
    """What a file with the DOS attribute "system" is by its contents; nothing special without one of the magic numbers.

    Empty and one-byte system files, which ntfs-3g takes for pipes and sockets, stay files: Windows has such of its own.
    """
    if content.startswith(INTERIX_LINK) and len(content) % 2 == 0:
        target = content[len(INTERIX_LINK) :].decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass")
        return Meaning(FileKind.SYMLINK, os.fsdecode(target))
    if len(content) == _DEVICE.size and content.startswith((INTERIX_CHAR, INTERIX_BLOCK)):
        magic, major, minor = _DEVICE.unpack(content)
        kind = FileKind.CHAR_DEVICE if magic == INTERIX_CHAR else FileKind.BLOCK_DEVICE
        return Meaning(kind, rdev=os.makedev(major & 0xFFF, minor & 0xFFFFF))
    return Meaning()
