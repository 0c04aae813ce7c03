"""The checksums of ext4's ``metadata_csum``: of inodes, of the blocks of folders and extent trees, of attributes.

Each is a CRC-32C that begins with a seed of the file system, and, for what belongs to an inode, with that inode's number and
generation: so a block in the wrong place is noticed too. Those of the superblock, of group descriptors and bitmaps, which a
reader either cannot do without or does not need, are not compared.

Source: Linux Documentation/filesystems/ext4/checksums.rst; fs/ext4/inode.c ``ext4_inode_csum``, fs/ext4/extents.c
``ext4_extent_block_csum``, fs/ext4/namei.c ``ext4_dirblock_csum``, fs/ext4/xattr.c ``ext4_xattr_block_csum``.
"""

from __future__ import annotations

import struct

from mntapi.crc32c import crc32c_raw
from mntapi.errors import Corrupt

REASON = "checksum"
_LOW_AT, _HIGH_AT = 124, 130
"""Bytes of the halves of an inode's checksum; the second only where the inode's extra fields reach so far."""
_BLANK = bytes(2)
"""What stands in their place when they are computed."""
_GENERATION_AT = 100
_EXTRA_SIZE_AT = 128
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_TREE_HEADER = 12
_TREE_ENTRY = 12
_ATTRIBUTES_AT = 16
_FOLDER_TAIL = 12
_ENTRY = struct.Struct("<IH")
_FOLDER_TAIL_MARK = bytes([0, 0, 0, 0, _FOLDER_TAIL, 0, 0, 0xDE])
"""An entry without a name at the end of a folder's block, in which the checksum is."""


class Checksums:
    """Compares checksums. Every method raises Corrupt, with the byte ``at`` on the volume or in the folder, if one is wrong."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def of_inode(self, raw: bytes, number: int) -> int:
        """What the checksums of everything that belongs to this inode begin with."""
        return crc32c_raw(self._seed, _U32.pack(number) + raw[_GENERATION_AT : _GENERATION_AT + 4])

    def check_inode(self, raw: bytes, number: int, at: int) -> None:
        """The inode itself."""
        low, high = raw[_LOW_AT : _LOW_AT + 2], b""
        blank = raw[:_LOW_AT] + _BLANK + raw[_LOW_AT + 2 :]
        if len(raw) > _EXTRA_SIZE_AT and _EXTRA_SIZE_AT + _U16.unpack_from(raw, _EXTRA_SIZE_AT)[0] >= _HIGH_AT + 2:
            high = raw[_HIGH_AT : _HIGH_AT + 2]
            blank = blank[:_HIGH_AT] + _BLANK + blank[_HIGH_AT + 2 :]
        owner = _U32.pack(number) + raw[_GENERATION_AT : _GENERATION_AT + 4]
        found = crc32c_raw(self._seed, owner + blank)  # at once: every call costs as much as a thousand bytes
        wanted = int.from_bytes(low + high, "little")
        _compare(f"the checksum of inode {number} is wrong", wanted, found if high else found & 0xFFFF, at)

    def check_attributes(self, raw: bytes, block: int, at: int) -> None:
        """A block of extended attributes, which several inodes may share."""
        blank = raw[:_ATTRIBUTES_AT] + bytes(4) + raw[_ATTRIBUTES_AT + 4 :]
        found = crc32c_raw(crc32c_raw(self._seed, _U64.pack(block)), blank)
        wanted = _U32.unpack_from(raw, _ATTRIBUTES_AT)[0]
        _compare("the checksum of a block of extended attributes is wrong", wanted, found, at)


def check_extents(raw: bytes, seed: int, at: int) -> None:
    """A block of an extent tree; ``seed`` is the inode's. What has no room for a checksum is left to the tree's own checks."""
    end = _TREE_HEADER + _TREE_ENTRY * _U16.unpack_from(raw, 4)[0]
    if end + _U32.size <= len(raw):
        found, wanted = crc32c_raw(seed, raw[:end]), _U32.unpack_from(raw, end)[0]
        _compare("the checksum of a block of an extent tree is wrong", wanted, found, at)


def check_folder(raw: bytes, seed: int, at: int) -> None:
    """A block of a folder; ``seed`` is the inode's. Blocks of the hash tree hold no names, and are not asked for theirs."""
    if raw[-_FOLDER_TAIL:-4] == _FOLDER_TAIL_MARK and not _is_hash_tree(raw):
        found, wanted = crc32c_raw(seed, raw[:-_FOLDER_TAIL]), _U32.unpack_from(raw, len(raw) - 4)[0]
        _compare("the checksum of a block of a folder is wrong", wanted, found, at)


def _is_hash_tree(raw: bytes) -> bool:
    """Whether it is one long entry without a file, or begins, as the first block of a hashed folder, with two for ``.`` and
    ``..`` of which the second fills it: what the tree's blocks look like to those who do not know of it."""
    inode, length = _ENTRY.unpack_from(raw)
    if inode:
        length = _ENTRY.unpack_from(raw, length)[1] + length if raw[length + 8 : length + 10] == b".." else 0
    return bool(length) and length % len(raw) == 0


def _compare(what: str, wanted: int, found: int, at: int) -> None:
    if wanted != found:
        raise Corrupt(what, offset=at, expected=f"{wanted:#010x}", found=f"{found:#010x}", reason=REASON)
