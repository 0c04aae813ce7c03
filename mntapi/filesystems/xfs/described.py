"""Self-describing metadata of version 5: each block says what it is, where, whose, and has a checksum.

Source: Linux Documentation/filesystems/xfs/xfs-self-describing-metadata.rst; fs/xfs/libxfs/xfs_format.h
``struct xfs_btree_block_lhdr``, ``struct xfs_dsymlink_hdr``; fs/xfs/libxfs/xfs_da_format.h.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from mntapi.blocks import Cache
from mntapi.crc32c import crc32c
from mntapi.errors import Corrupt
from mntapi.filesystems.xfs.superblock import Superblock
from mntapi.units import SECTOR

CHECKSUM = "checksum"
"""``reason`` of an error that is a wrong checksum: the bytes were sound when they were written."""
_U32 = struct.Struct("<I")
_U64 = struct.Struct(">Q")


class Header(NamedTuple):
    """Where in a kind of block the fields are that describe it."""

    checksum: int
    place: int
    uuid: int
    owner: int


EXTENT_TREE = Header(checksum=64, place=24, uuid=40, owner=56)
DIRECTORY = Header(checksum=4, place=8, uuid=24, owner=40)
ATTRIBUTES = Header(checksum=12, place=16, uuid=32, owner=48)
REMOTE = Header(checksum=12, place=40, uuid=16, owner=32)
"""Targets of links and values of attributes that lie in blocks of their own."""


class Metadata:
    """Reads what is no file's content. Thread-safe as ``volume`` is, which it borrows."""

    def __init__(self, volume: Cache, superblock: Superblock) -> None:
        self.volume = volume
        self._sb = superblock

    def read(self, at: int, length: int) -> bytes:
        """``length`` bytes at byte ``at`` of the volume. Raises Corrupt where the volume ends before."""
        if at + length > self.volume.size:
            raise Corrupt("the file system goes past the end of its volume", offset=at, expected=f"at most {self.volume.size}")
        return self.volume.read(at, length)

    def verify(self, raw: bytes, at: int, header: Header, owner: int) -> None:
        """Raise Corrupt unless the block ``raw``, which is byte ``at`` of the volume, was written there for ``owner``."""
        found = checksum_of(raw, header.checksum)
        stored = _U32.unpack_from(raw, header.checksum)[0]
        if found != stored:
            raise Corrupt("a wrong checksum", offset=at, expected=f"{stored:#010x}", found=f"{found:#010x}", reason=CHECKSUM)
        uuid = raw[header.uuid : header.uuid + 16]
        if uuid != self._sb.uuid:
            raise Corrupt("a block of another file system", offset=at, expected=self._sb.uuid.hex(), found=uuid.hex())
        place = _U64.unpack_from(raw, header.place)[0]
        if place != at // SECTOR:
            raise Corrupt("a block written for another place", offset=at, expected=at // SECTOR, found=place)
        whose = _U64.unpack_from(raw, header.owner)[0]
        if whose != owner:
            raise Corrupt("a block of another inode", offset=at, expected=owner, found=whose)


def checksum_of(raw: bytes, checksum_at: int) -> int:
    """The CRC-32C of ``raw``, with zeros where the checksum itself is kept."""
    return crc32c(raw[:checksum_at] + bytes(4) + raw[checksum_at + 4 :])
