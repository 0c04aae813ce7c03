"""Extended attributes: in the inode, in one leaf, or in leaves below a tree, their values beside them or in their own blocks;
with the names and values the kernel shows to root.

Source: XFS Algorithms & Data Structures, chapter "Extended Attributes"; Linux fs/xfs/libxfs/xfs_da_format.h;
fs/xfs/xfs_xattr.c ``xfs_xattr_put_listent``; fs/xfs/libxfs/xfs_attr_remote.c; fs/xfs/xfs_acl.c ``xfs_acl_from_disk``;
include/uapi/linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.xfs.described import ATTRIBUTES, REMOTE
from mntapi.filesystems.xfs.extents import Mapped
from mntapi.filesystems.xfs.inode import Fork
from mntapi.units import MIB, align_up

MAX_VALUE = 1 << 16
"""Bytes of one value (``XATTR_SIZE_MAX``)."""
MAX_LEAVES = 4096
"""Leaves of one inode's attributes."""
MAX_BYTES = 16 * MIB
"""Of all attributes of an inode, each counted with ``_OVERHEAD`` more. Linux lists 64 KiB of names at most."""
_OVERHEAD = 128
_LOCAL, _ROOT, _SECURE, _PARENT, _INCOMPLETE = 0x1, 0x2, 0x4, 0x8, 0x80
_ACLS = {b"SGI_ACL_FILE": "system.posix_acl_access", b"SGI_ACL_DEFAULT": "system.posix_acl_default"}
_SHORT_HEAD = struct.Struct(">HBx")
_INFO = struct.Struct(">I4xH")
_COUNT = struct.Struct(">2H")
_LEAF_ENTRY = struct.Struct(">4xHBx")
_LOCAL_HEAD = struct.Struct(">HB")
_REMOTE_HEAD = struct.Struct(">IIB")
_VALUE_HEAD = struct.Struct(">4s2I")
_VALUE_HEAD_SIZE = 56
_ACL_ENTRY = struct.Struct(">2IH2x")
_KERNEL_ACL_ENTRY = struct.Struct("<2HI")
_NAMED = (0x02, 0x08)
"""Tags of ACL entries with a user's or group's number."""


class Layout(NamedTuple):
    """The differences between the versions. Sizes in bytes."""

    leaf: int
    """Magic number."""
    node: int
    """Magic number."""
    counts_at: int
    leaf_head: int
    node_head: int


_LAYOUTS = {
    4: Layout(leaf=0xFBEE, node=0xFEBE, counts_at=12, leaf_head=32, node_head=16),
    5: Layout(leaf=0x3BEE, node=0x3EBE, counts_at=56, leaf_head=80, node_head=64),
}


class Attribute(NamedTuple):
    """One attribute as it is stored."""

    flags: int
    name: bytes
    value: bytes


def in_inode(fork: Fork) -> Iterator[Attribute]:
    """The attributes in an inode's own fork.

    Raises:
        Corrupt: one does not fit.
    """
    raw = fork.raw
    size, count = _SHORT_HEAD.unpack_from(raw) if len(raw) >= _SHORT_HEAD.size else (0, 0)
    if not _SHORT_HEAD.size <= size <= len(raw):
        raise Corrupt("attributes that do not fit into their inode", offset=fork.at, expected=len(raw), found=size)
    offset = _SHORT_HEAD.size
    for _ in range(count):
        name_size, value_size, flags = raw[offset : offset + 3] if offset + 3 <= size else (0, 0, 0)
        start = offset + 3 + name_size
        if not name_size or start + value_size > size:
            raise Corrupt("an extended attribute is cut off", offset=fork.at + offset, expected=f"{size} bytes")
        yield Attribute(flags, raw[offset + 3 : start], raw[start : start + value_size])
        offset = start + value_size


class AttributeBlocks:
    """The attributes of an inode that has blocks for them."""

    def __init__(self, content: Mapped, block_size: int, version: int) -> None:
        self._content = content
        self._block_size = block_size
        self._is_described = version == 5
        self._layout = _LAYOUTS[version]

    def attributes(self) -> Iterator[Attribute]:
        """All of them, leaf by leaf.

        Raises:
            Corrupt: a block is damaged, or leads back to one seen before.
            Unsupported: they are more than ``MAX_BYTES``.
        """
        if not self._content.runs.size:
            return
        block, seen, left = self._first_leaf(), set[int](), MAX_BYTES
        while True:
            raw, at = self._block(block)
            after, magic = _INFO.unpack_from(raw)
            if magic != self._layout.leaf:
                raise Corrupt("no leaf of attributes", offset=at, expected=hex(self._layout.leaf), found=hex(magic))
            for attribute in self._leaf(raw, at):
                left -= len(attribute.name) + len(attribute.value) + _OVERHEAD
                if left < 0:
                    raise Unsupported(
                        "too many extended attributes",
                        offset=at,
                        expected=f"at most {MAX_BYTES} bytes",
                        reason="too-many-attributes",
                    )
                yield attribute
            seen.add(block)
            if not after:
                return
            if after in seen or len(seen) >= MAX_LEAVES:
                raise Corrupt("leaves of attributes in a circle", offset=at, found=after)
            block = int(after)

    def _first_leaf(self) -> int:
        """The leftmost leaf's number: that of the fork's first block, unless that is a node."""
        block, above = 0, 1 << 16
        while True:
            raw, at = self._block(block)
            if _INFO.unpack_from(raw)[1] != self._layout.node:
                return block
            count, level = _COUNT.unpack_from(raw, self._layout.counts_at)
            if not count or not 1 <= level < above:
                raise Corrupt("an impossible node of attributes", offset=at, found=f"level {level}, {count} entries")
            above = level
            (block,) = struct.unpack_from(">I", raw, self._layout.node_head + 4)

    def _block(self, number: int) -> tuple[bytes, int]:
        raw, at = self._content.read(number * self._block_size, self._block_size)
        if self._is_described:
            self._content.metadata.verify(raw, at, ATTRIBUTES, self._content.owner)
        return raw, at

    def _leaf(self, raw: bytes, at: int) -> Iterator[Attribute]:
        count = _COUNT.unpack_from(raw, self._layout.counts_at)[0]
        head = self._layout.leaf_head
        if count > (len(raw) - head) // _LEAF_ENTRY.size:
            raise Corrupt("a leaf of attributes is overfull", offset=at, found=count)
        for offset in range(head, head + count * _LEAF_ENTRY.size, _LEAF_ENTRY.size):
            place, flags = _LEAF_ENTRY.unpack_from(raw, offset)
            if not flags & _INCOMPLETE:
                yield self._entry(raw, place, flags, at)

    def _entry(self, raw: bytes, place: int, flags: int, at: int) -> Attribute:
        head = _LOCAL_HEAD if flags & _LOCAL else _REMOTE_HEAD
        start = place + head.size
        if start > len(raw):
            raise Corrupt("an extended attribute lies outside its block", offset=at, found=place)
        block, size, name_size = head.unpack_from(raw, place) if head is _REMOTE_HEAD else (0, *head.unpack_from(raw, place))
        value_at = start + name_size
        end = value_at + size if flags & _LOCAL else value_at
        if not name_size or end > len(raw):
            raise Corrupt("an extended attribute lies outside its block", offset=at + place, found=end)
        value = raw[value_at:end] if flags & _LOCAL else self._value(block, size, at + place)
        return Attribute(flags, raw[start:value_at], value)

    def _value(self, block: int, size: int, at: int) -> bytes:
        """A value of ``size`` bytes in blocks of its own; the entry that says so is byte ``at`` of the volume."""
        if size > MAX_VALUE:
            raise Corrupt("the value of an extended attribute is too long", offset=at, expected=MAX_VALUE, found=size)
        if not self._is_described:
            length = align_up(size, self._block_size)
            return self._content.read(block * self._block_size, length).raw[:size] if size else b""
        value = b""
        while len(value) < size:
            value += self._described_value(block, len(value), size)
            block += 1
        return value

    def _described_value(self, block: int, done: int, size: int) -> bytes:
        """What one block holds of a value of ``size`` bytes, whose first ``done`` are in those before it: as many as fit."""
        raw, at = self._content.read(block * self._block_size, self._block_size)
        magic, offset, length = _VALUE_HEAD.unpack_from(raw)
        if magic != b"XARM":
            raise Corrupt("no value of an extended attribute", offset=at, expected="XARM", found=magic.hex())
        self._content.metadata.verify(raw, at, REMOTE, self._content.owner)
        wanted = min(size - done, self._block_size - _VALUE_HEAD_SIZE)
        if (offset, length) != (done, wanted):
            raise Corrupt(
                "another part of a value",
                offset=at,
                expected=f"{wanted} bytes at {done}",
                found=f"{length} bytes at {offset}",
            )
        return raw[_VALUE_HEAD_SIZE : _VALUE_HEAD_SIZE + length]


def shown(attributes: Iterator[Attribute]) -> Iterator[tuple[str, bytes]]:
    """Names with the kernel's prefixes, and values. An ACL is shown twice: as one, and as the attribute it is kept in."""
    for flags, name, value in attributes:
        if flags & (_INCOMPLETE | _PARENT):
            continue
        if flags & _ROOT and name in _ACLS:
            yield _ACLS[name], kernel_acl(value)
        prefix = "trusted." if flags & _ROOT else "security." if flags & _SECURE else "user."
        yield prefix + os.fsdecode(name), value


def kernel_acl(stored: bytes) -> bytes:
    """A POSIX ACL as getxattr(2) gives it, from XFS's own form.

    Raises:
        Corrupt: it is not as long as it says.
    """
    count = int.from_bytes(stored[:4], "big")
    if len(stored) < 4 + count * _ACL_ENTRY.size:
        raise Corrupt("an access control list is cut off", expected=f"{count} entries", found=f"{len(stored)} bytes")
    result = struct.pack("<I", 2)
    for tag, who, permissions in _ACL_ENTRY.iter_unpack(stored[4 : 4 + count * _ACL_ENTRY.size]):
        result += _KERNEL_ACL_ENTRY.pack(tag & 0xFFFF, permissions, who if tag in _NAMED else 0xFFFFFFFF)
    return result
