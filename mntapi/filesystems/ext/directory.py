"""Directory blocks: a linear list of entries, which a hash tree leaves readable on purpose.

Source: Linux Documentation/filesystems/ext4/directory.rst; fs/ext4/dir.c ``__ext4_check_dir_entry``.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mntapi.blocks import read_clipped
from mntapi.errors import Corrupt, MntapiError, ReadFailed
from mntapi.filesystems.kinds import KIND_OF_ENTRY
from mntapi.filesystems.names import Listed, presentable
from mntapi.types import Blocks, ExtentKind, FileKind

MAX_ENCODED = 189
"""Bytes of an encrypted name whose base64 still fits into a name of 255."""
KEPT = 149
"""Bytes of a longer one that are kept before the hash, as the kernel does (fs/crypto/fname.c)."""
MAX_BAD_BLOCKS = 1024
"""Blocks of one folder that may be damaged before the rest is given up."""
_HEADER = struct.Struct("<IH2B")
_INLINE_HEAD = 4


class Dirent(NamedTuple):
    """A used entry. ``kind`` is None in file systems without the ``filetype`` feature."""

    name: bytes
    inode: int
    kind: FileKind | None


def parse_block(raw: bytes, at: int) -> Iterator[Dirent]:
    """The used entries of one directory block (or of the part of an inode that holds an inline folder).

    Args:
        raw: the whole block.
        at: its byte offset in the folder, for errors.

    Raises:
        Corrupt: an entry does not fit into the block; those before it were yielded.
    """
    offset = 0
    while offset + _HEADER.size <= len(raw):
        inode, length, name_length, kind = _HEADER.unpack_from(raw, offset)
        length = 1 << 16 if length in (0, 0xFFFF) and len(raw) == 1 << 16 else length
        room = len(raw) - offset
        if length < _HEADER.size or length % 4 or length > room or name_length + _HEADER.size > length:
            raise Corrupt(
                "a directory entry does not fit",
                offset=at + offset,
                expected=f"{name_length + _HEADER.size} to {room} bytes",
                found=length,
            )
        if inode:
            start = offset + _HEADER.size
            yield Dirent(raw[start : start + name_length], inode, KIND_OF_ENTRY.get(kind))
        offset += length


def list_inline(head: bytes, tail: bytes, *, at: int, encrypted: bool) -> Iterator[Listed]:
    """The names of a folder inside its inode: ``head`` starts with the parent's number, ``tail`` is an attribute's value."""
    yield from _presented(parse_block(head[_INLINE_HEAD:], at), encrypted)
    yield from _presented(parse_block(tail, at), encrypted)


def list_linear(
    content: Blocks, block_size: int, most: int, check: Callable[[bytes, int], None], *, encrypted: bool
) -> Iterator[Listed]:
    """The names of a folder, block by block; after the last readable one the first error is raised.

    Args:
        content: the folder's own bytes.
        block_size: of the file system.
        most: bytes of blocks a folder may have: those of the volume.
        check: called with each block and its byte in the folder; raises Corrupt where its checksum is wrong.
    """
    errors: list[MntapiError] = []
    for extent in content.extents(0, content.size):
        if extent.kind is ExtentKind.ZERO or extent.end > most:
            errors.append(Corrupt("a folder with a hole", expected="directory blocks", found=f"a hole at {extent.offset}"))
            continue
        for offset in range(extent.offset, extent.end, block_size):
            try:
                raw = read_clipped(content, offset, block_size)
                check(raw, offset)
                yield from _presented(parse_block(raw, offset), encrypted)
            except (Corrupt, ReadFailed) as error:
                errors.append(error)
                if len(errors) >= MAX_BAD_BLOCKS:
                    raise errors[0] from None
    if errors:
        raise errors[0]


def _presented(entries: Iterator[Dirent], encrypted: bool) -> Iterator[Listed]:
    for raw, inode, kind in entries:
        if raw in (b".", b".."):
            continue
        yield Listed(encoded(raw) if encrypted else presentable(raw), inode, kind or FileKind.FILE)


def encoded(ciphertext: bytes) -> str:
    """A name for an encrypted one: URL-safe base64 without padding, a hash in place of the tail where that were too long."""
    if len(ciphertext) > MAX_ENCODED:
        ciphertext = ciphertext[:KEPT] + hashlib.sha256(ciphertext[KEPT:]).digest()
    return base64.urlsafe_b64encode(ciphertext).rstrip(b"=").decode("ascii")
