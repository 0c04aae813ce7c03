"""Folders: records in pieces of 512 bytes, none of which a record ever leaves.

Source: FreeBSD sys/ufs/ufs/dir.h ``struct direct``, ``DIRBLKSIZ``; sys/ufs/ufs/ufs_lookup.c ``ufs_dirbadentry``. Before 4.4BSD
the length of the name had the two bytes in which its type and length are now.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mntapi.blocks import read_clipped
from mntapi.errors import Corrupt, MntapiError, ReadFailed
from mntapi.filesystems.names import Listed, presentable
from mntapi.types import Blocks, ExtentKind, FileKind

PIECE = 512
MAX_BAD_PIECES = 1024
"""Pieces of one folder that may be damaged before the rest is given up."""
_HEADER = "IH2B"
_HEADER_SIZE = 8
_WHITEOUT = 1
"""The inode number of an entry that only hides what a union mount has below."""
_KINDS = {
    1: FileKind.FIFO,
    2: FileKind.CHAR_DEVICE,
    4: FileKind.DIRECTORY,
    6: FileKind.BLOCK_DEVICE,
    8: FileKind.FILE,
    10: FileKind.SYMLINK,
    12: FileKind.SOCKET,
}


def parse_piece(raw: bytes, at: int, order: str) -> Iterator[Listed]:
    """The used entries of one piece, ``at`` being its byte in the folder, for errors.

    Raises:
        Corrupt: an entry does not fit; those before it were yielded.
    """
    offset = 0
    while offset + _HEADER_SIZE <= len(raw):
        inode, length, kind, name_length = struct.unpack_from(order + _HEADER, raw, offset)
        if order == "<" and kind and not name_length:  # the low byte of an old entry's length
            kind, name_length = 0, kind
        room = len(raw) - offset
        if length < _HEADER_SIZE or length % 4 or length > room or name_length + _HEADER_SIZE > length:
            raise Corrupt(
                "a directory entry does not fit",
                offset=at + offset,
                expected=f"{name_length + _HEADER_SIZE} to {room} bytes",
                found=length,
            )
        name = raw[offset + _HEADER_SIZE : offset + _HEADER_SIZE + name_length]
        if inode > _WHITEOUT and name not in (b".", b".."):
            yield Listed(presentable(name), inode, _KINDS.get(kind, FileKind.FILE))
        offset += length


def list_folder(content: Blocks, order: str) -> Iterator[Listed]:
    """The names of a folder, piece by piece; after the last readable one the first error is raised."""
    errors: list[MntapiError] = []
    for extent in content.extents(0, content.size):
        if extent.kind is ExtentKind.ZERO:
            errors.append(Corrupt("a folder with a hole", expected="directory entries", found=f"a hole at {extent.offset}"))
            continue
        for offset in range(extent.offset, extent.end, PIECE):
            try:
                yield from parse_piece(read_clipped(content, offset, PIECE), offset, order)
            except (Corrupt, ReadFailed) as error:
                errors.append(error)
                if len(errors) >= MAX_BAD_PIECES:
                    raise errors[0] from None
    if errors:
        raise errors[0]
