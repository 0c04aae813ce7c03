"""Extended attributes, in the inode's tail or in a block of their own, with the names and values the kernel shows.

Source: Linux Documentation/filesystems/ext4/attributes.rst; fs/ext4/acl.h for ACLs on disk;
include/uapi/linux/posix_acl_xattr.h for those of the kernel.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mntapi.errors import Corrupt

MAGIC = 0xEA020000
MAX_ATTRIBUTES = 4096
"""More than fit into a 64 KiB block."""
BLOCK_HEADER = 32
_ENTRY = struct.Struct("<2BH3I")
_U32 = struct.Struct("<I")
_ACL_ENTRY = struct.Struct("<2HI")
_PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
    7: "system.",
    8: "system.richacl",
}
ACL_INDEXES = (2, 3)
SYSTEM_INDEX = 7
INLINE_DATA = b"data"
"""``system.data`` is no attribute but the rest of an inline file."""


class Attribute(NamedTuple):
    """An entry; the value is ``size`` bytes, at ``value_at`` in the same area, or the contents of inode ``value_inode``."""

    namespace: int
    name: bytes
    value_at: int
    size: int
    value_inode: int


def parse_entries(raw: bytes, first: int, base: int, at: int) -> Iterator[Attribute]:
    """The entries from byte ``first`` of ``raw`` on; value offsets count from ``base``; ``raw`` is byte ``at`` of the volume.

    Raises:
        Corrupt: an entry or value lies outside ``raw``.
    """
    offset = first
    for _ in range(MAX_ATTRIBUTES):
        if offset + 4 > len(raw) or raw[offset : offset + 4] == bytes(4):
            return
        if offset + _ENTRY.size > len(raw):
            raise Corrupt("an extended attribute is cut off", offset=at + offset)
        length, index, value_at, inode, size, _ = _ENTRY.unpack_from(raw, offset)
        end = offset + _ENTRY.size + length
        if end > len(raw) or (not inode and size and base + value_at + size > len(raw)):
            raise Corrupt(
                "an extended attribute lies outside its block", offset=at + offset, expected=f"at most {len(raw)} bytes"
            )
        yield Attribute(index, raw[offset + _ENTRY.size : end], base + value_at, size, inode)
        offset = (end + 3) & ~3


def in_inode(body: bytes, at: int) -> Iterator[Attribute]:
    """The attributes in an inode's tail; value offsets count from the start of ``body``. Raises as ``parse_entries``."""
    if len(body) >= 4 and _U32.unpack_from(body)[0] == MAGIC:
        yield from parse_entries(body, 4, 4, at)


def in_block(raw: bytes, at: int) -> Iterator[Attribute]:
    """The attributes in a block of their own. Raises Corrupt without the magic number, and as ``parse_entries``."""
    magic = _U32.unpack_from(raw)[0]
    if magic != MAGIC:
        raise Corrupt("no block of extended attributes", offset=at, expected=hex(MAGIC), found=hex(magic))
    yield from parse_entries(raw, BLOCK_HEADER, 0, at)


def decode(entries: Iterator[Attribute], raw: bytes, inode_content: Callable[[int, int], bytes]) -> Iterator[tuple[str, bytes]]:
    """Names with the kernel's prefixes, and values; ``inode_content(inode, size)`` reads a value that is a file."""
    for entry in entries:
        prefix = _PREFIXES.get(entry.namespace)
        if prefix is None or (entry.namespace == SYSTEM_INDEX and entry.name == INLINE_DATA):
            continue
        if entry.value_inode:
            value = inode_content(entry.value_inode, entry.size)
        else:
            value = raw[entry.value_at : entry.value_at + entry.size]
        yield prefix + os.fsdecode(entry.name), kernel_acl(value) if entry.namespace in ACL_INDEXES else value


def kernel_acl(stored: bytes) -> bytes:
    """A POSIX ACL as getxattr(2) gives it (version 2, every entry with an id) from ext's own form (version 1).

    Raises:
        Corrupt: it is cut off, or of another version.
    """
    if len(stored) < 4 or _U32.unpack_from(stored)[0] != 1:
        raise Corrupt("an access control list of unknown version", expected=1, found=stored[:4].hex())
    result = bytearray(_U32.pack(2))
    offset = 4
    while offset < len(stored):
        if offset + 4 > len(stored):
            raise Corrupt("an access control list is cut off", found=len(stored))
        tag, permissions = struct.unpack_from("<2H", stored, offset)
        named = tag in (0x02, 0x08)
        if named and offset + 8 > len(stored):
            raise Corrupt("an access control list is cut off", found=len(stored))
        who = _U32.unpack_from(stored, offset + 4)[0] if named else 0xFFFFFFFF
        result += _ACL_ENTRY.pack(tag, permissions, who)
        offset += 8 if named else 4
    return bytes(result)
