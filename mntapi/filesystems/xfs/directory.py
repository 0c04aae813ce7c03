"""Folders: names in the inode, or in directory blocks, of which one holds its index too and the others have it elsewhere.

The index (leaf, node and free blocks, 32 GiB and more into the folder) is not read: each name is in a data block, and who
looks one up here has read them all.

Source: XFS Algorithms & Data Structures, chapter "Directories"; Linux fs/xfs/libxfs/xfs_da_format.h;
fs/xfs/libxfs/xfs_dir2_data.c ``__xfs_dir3_data_check``; fs/xfs/libxfs/xfs_dir2_sf.c ``xfs_dir2_sf_verify``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mntapi.errors import Corrupt, MntapiError, ReadFailed
from mntapi.filesystems.kinds import KIND_OF_ENTRY
from mntapi.filesystems.names import Listed, presentable
from mntapi.filesystems.xfs.described import DIRECTORY
from mntapi.filesystems.xfs.extents import Mapped
from mntapi.filesystems.xfs.inode import Fork
from mntapi.types import FileKind
from mntapi.units import align_down, align_up

INDEX_AT = 1 << 35
"""Byte of a folder where its index begins (``XFS_DIR2_LEAF_OFFSET``)."""
MAX_BAD_BLOCKS = 1024
"""Blocks of one folder that may be damaged before the rest is given up."""
_HEADS = {b"XD2B": 16, b"XD2D": 16, b"XDB3": 64, b"XDD3": 64}
"""Bytes before the first entry, by magic number."""
_WITH_INDEX = (b"XD2B", b"XDB3")
_DESCRIBED = (b"XDB3", b"XDD3")
_FREE = 0xFFFF
_ENTRY = struct.Struct(">QB")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_SHORT_HEAD = struct.Struct(">2B")


def list_short(fork: Fork, size: int, *, has_kinds: bool) -> Iterator[Listed]:
    """The names of a folder of ``size`` bytes in its inode.

    Raises:
        Corrupt: an entry does not fit; those before it were yielded.
    """
    raw = fork.raw[:size]
    if size > len(fork.raw) or size < _SHORT_HEAD.size:
        raise Corrupt("a folder that does not fit into its inode", offset=fork.at, expected=len(fork.raw), found=size)
    count, wide = _SHORT_HEAD.unpack_from(raw)
    width = 8 if wide else 4
    offset = _SHORT_HEAD.size + width
    for _ in range(count):
        length = raw[offset] if offset < len(raw) else 0
        inode_at = offset + 3 + length + has_kinds
        if not length or inode_at + width > len(raw):
            raise Corrupt("a directory entry does not fit", offset=fork.at + offset, expected=f"{len(raw)} bytes", found=length)
        inode = int.from_bytes(raw[inode_at : inode_at + width], "big")
        kind = KIND_OF_ENTRY.get(raw[inode_at - 1]) if has_kinds else None
        yield Listed(presentable(raw[offset + 3 : offset + 3 + length]), inode, kind or FileKind.FILE)
        offset = inode_at + width


def parse_block(raw: bytes, at: int, *, has_kinds: bool) -> Iterator[Listed]:
    """The used entries of a directory block, which is byte ``at`` of the volume.

    Raises:
        Corrupt: an entry does not fit; those before it were yielded.
    """
    offset, end = _bounds(raw, at)
    while offset < end:
        if _U16.unpack_from(raw, offset)[0] == _FREE:
            length = _U16.unpack_from(raw, offset + 2)[0]
            if length < 8 or length % 8 or length > end - offset:
                raise Corrupt("free space does not fit", offset=at + offset, expected=f"8 to {end - offset}", found=length)
            offset += length
            continue
        inode, name_length = _ENTRY.unpack_from(raw, offset) if offset + _ENTRY.size <= end else (0, 0)
        length = (_ENTRY.size + name_length + has_kinds + 2 + 7) & ~7
        if not name_length or length > end - offset:
            raise Corrupt("a directory entry does not fit", offset=at + offset, expected=f"{end - offset} bytes", found=length)
        if _U16.unpack_from(raw, offset + length - 2)[0] != offset:
            raise Corrupt("a directory entry without its tag", offset=at + offset, expected=offset)
        name_end = offset + _ENTRY.size + name_length
        name = raw[offset + _ENTRY.size : name_end]
        if name not in (b".", b".."):
            kind = KIND_OF_ENTRY.get(raw[name_end]) if has_kinds else None
            yield Listed(presentable(name), inode, kind or FileKind.FILE)
        offset += length


def _bounds(raw: bytes, at: int) -> tuple[int, int]:
    """The bytes of a directory block from its header to its index."""
    magic = raw[:4]
    head = _HEADS.get(magic)
    if head is None:
        raise Corrupt("no directory block", offset=at, expected="XD2B, XD2D, XDB3 or XDD3", found=magic.hex())
    if magic not in _WITH_INDEX:
        return head, len(raw)
    count = _U32.unpack_from(raw, len(raw) - 8)[0]
    if count > (len(raw) - head - 8) // 8:
        raise Corrupt("a directory block with an impossible index", offset=at + len(raw) - 8, found=count)
    return head, len(raw) - 8 - 8 * count


def list_blocks(content: Mapped, block_size: int, *, is_described: bool, has_kinds: bool) -> Iterator[Listed]:
    """The names of a folder, block by block; after the last readable one the first error is raised.

    Args:
        content: the folder's bytes up to ``INDEX_AT``.
        block_size: of directory blocks.
        is_described: whether blocks tell what they are (version 5).
        has_kinds: whether entries tell the kind of their file.
    """
    errors: list[MntapiError] = []
    for offset in _block_offsets(content, block_size):
        try:
            raw, at = content.read(offset, block_size)
            if (raw[:4] in _DESCRIBED) is not is_described:
                raise Corrupt("no directory block of this version", offset=at, found=raw[:4].hex())
            if is_described:
                content.metadata.verify(raw, at, DIRECTORY, content.owner)
            yield from parse_block(raw, at, has_kinds=has_kinds)
        except (Corrupt, ReadFailed) as error:
            errors.append(error)
            if len(errors) >= MAX_BAD_BLOCKS:
                break
    if errors:
        raise errors[0]


def _block_offsets(content: Mapped, block_size: int) -> Iterator[int]:
    """Where directory blocks begin. Holes are where blocks became empty and were given back.

    Raises:
        Corrupt: they are more than the volume has room for.
    """
    offset = past = stored = 0
    for length, source in content.runs.pieces(0, content.runs.size):
        if source is not None:
            stored += length
            if stored > content.metadata.volume.size:
                raise Corrupt("a folder larger than its volume", offset=source, expected=content.metadata.volume.size)
            first = max(past, align_down(offset, block_size))
            past = align_up(offset + length, block_size)
            yield from range(first, past, block_size)
        offset += length
