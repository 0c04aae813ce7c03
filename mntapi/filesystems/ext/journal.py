"""The journal of ext3 and ext4 (jbd2): what its blocks say. ``recovery`` follows the transactions through it.

All numbers in it are big-endian, unlike those of the file system around it.

Source: Linux Documentation/filesystems/ext4/journal.rst; include/linux/jbd2.h.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mntapi.crc32c import crc32c_raw
from mntapi.errors import Corrupt, Unsupported

MAGIC = 0xC03B3998
SUPERBLOCK_SIZE = 1024
MAX_SEQUENCE = 1 << 32
"""Transaction numbers start again at 0 after this many."""
COMPAT_CHECKSUM = 0x1
"""A commit has the CRC-32 of all blocks of its transaction."""
CRC32_TYPE, CRC32_SIZE = 1, 4
CRC32C_TYPE = 4
_SUPERBLOCK = struct.Struct(">9I2I4x16s16xB3xI")
_HEADER = struct.Struct(">3I")
_COMMIT = struct.Struct(">12x2B2xI28xQ")
_TAG3 = struct.Struct(">4I")
_TAG = struct.Struct(">I2H")
_WORD = struct.Struct(">I")
_LONG = struct.Struct(">Q")
_ESCAPED, _SAME_UUID, _LAST = 0x1, 0x2, 0x8
_UUID_SIZE = 16
_TAIL = 4
_UNUSED_V2 = 2
"""Bytes at the end of each tag with ``CSUM_V2`` (``journal_tag_bytes``): room for a checksum that is stored elsewhere."""
_CHECKSUM_AT = 16
"""Byte of the checksum in a commit block."""
_DEFAULT_FAST_BLOCKS = 256
_FAST_HEAD = struct.Struct("<2H2I")
"""Little-endian: fast commits are ext4's own."""
_FAST_HEAD_TAG = 0x09


class Kind(enum.IntEnum):
    """What a block of the journal's own is."""

    DESCRIPTOR = 1
    COMMIT = 2
    SUPERBLOCK_V1 = 3
    SUPERBLOCK_V2 = 4
    REVOKE = 5


class Incompat(enum.IntFlag):
    """Features that a reader must know."""

    REVOKE = 0x1
    BIT64 = 0x2
    ASYNC_COMMIT = 0x4
    CSUM_V2 = 0x8
    CSUM_V3 = 0x10
    FAST_COMMIT = 0x20


KNOWN = sum(int(flag) for flag in Incompat)
_CHECKED = Incompat.CSUM_V2 | Incompat.CSUM_V3


@dataclass(frozen=True, slots=True)
class JournalSuperblock:
    """Where the log is. Places and lengths in blocks of the journal."""

    block_size: int
    first: int
    last: int
    """The first block that is not the log's. One is left free, then come the fast commits, where there are any."""
    sequence: int
    start: int
    """Where the oldest transaction that counts begins; 0 if there is none."""
    compat: int
    incompat: Incompat
    seed: int
    """What every checksum begins with."""

    @property
    def is_checked(self) -> bool:
        """Whether each block has a checksum (CRC-32C)."""
        return bool(self.incompat & _CHECKED)


def parse_superblock(raw: bytes, blocks: int) -> JournalSuperblock:
    """The superblock at the start of the journal.

    Args:
        raw: ``SUPERBLOCK_SIZE`` bytes.
        blocks: that the journal's file has room for, of the file system's block size.

    Raises:
        Corrupt: it is none, or contradicts itself.
        Unsupported: a feature that is not known.
    """
    magic, kind, _, block_size, length, first, sequence, start, _, *rest = _SUPERBLOCK.unpack_from(raw)
    if magic != MAGIC or kind not in (Kind.SUPERBLOCK_V1, Kind.SUPERBLOCK_V2):
        raise Corrupt("the journal has no superblock", expected=hex(MAGIC), found=hex(magic))
    compat, incompat, uuid, checksum_type, fast = rest if kind == Kind.SUPERBLOCK_V2 else (0, 0, b"", 0, 0)
    if incompat & ~KNOWN:
        raise Unsupported("the journal has features that are not known", found=hex(incompat & ~KNOWN), reason="journal-feature")
    flags = Incompat(incompat)
    if flags & _CHECKED and checksum_type != CRC32C_TYPE:
        raise Unsupported(
            "the journal has checksums of a kind that is not known", found=checksum_type, reason="journal-feature"
        )
    last = length - ((fast or _DEFAULT_FAST_BLOCKS) if flags & Incompat.FAST_COMMIT else 0)
    if not 0 < first < last <= length <= blocks or (start and not first <= start < last):
        raise Corrupt(
            "the journal's superblock is impossible", expected=f"at most {blocks} blocks", found=(first, start, length)
        )
    return JournalSuperblock(block_size, first, last, sequence, start, compat, flags, crc32c_raw(0xFFFFFFFF, uuid))


class Tag(NamedTuple):
    """Where one of the blocks that follow a descriptor belongs."""

    block: int
    is_escaped: bool
    """Its first four bytes are the magic, and were stored as zeros."""
    checksum: int
    """Low 16 bits of it with ``CSUM_V2``, all 32 with ``CSUM_V3``; 0 without."""


def parse_header(raw: bytes) -> tuple[int, int] | None:
    """Kind and transaction of a block of the journal's own; None if it is none."""
    magic, kind, sequence = _HEADER.unpack_from(raw)
    return (kind, sequence) if magic == MAGIC else None


def parse_tags(raw: bytes, superblock: JournalSuperblock) -> Iterator[Tag]:
    """The tags of a descriptor block."""
    end = len(raw) - (_TAIL if superblock.is_checked else 0)
    is_wide = bool(superblock.incompat & Incompat.BIT64)
    is_third = bool(superblock.incompat & Incompat.CSUM_V3)
    size = _TAG3.size if is_third else _TAG.size + (_WORD.size if is_wide else 0)
    if superblock.incompat & Incompat.CSUM_V2:
        size += _UNUSED_V2
    at, flags = _HEADER.size, 0
    while at + size <= end and not flags & _LAST:
        if is_third:
            low, flags, high, checksum = _TAG3.unpack_from(raw, at)
        else:
            low, checksum, flags = _TAG.unpack_from(raw, at)
            high = _WORD.unpack_from(raw, at + _TAG.size)[0] if is_wide else 0
        yield Tag(low | (high << 32 if is_wide else 0), bool(flags & _ESCAPED), checksum)
        at += size + (0 if flags & _SAME_UUID else _UUID_SIZE)


def parse_revoked(raw: bytes, superblock: JournalSuperblock) -> Iterator[int]:
    """The blocks of the file system of which no older copy counts.

    Raises:
        Corrupt: there are more than fit.
    """
    end = _WORD.unpack_from(raw, _HEADER.size)[0]
    most = len(raw) - (_TAIL if superblock.is_checked else 0)
    if end > most:
        raise Corrupt("a block of revocations goes past its end", expected=f"at most {most} bytes", found=end)
    number = _LONG if superblock.incompat & Incompat.BIT64 else _WORD
    for at in range(_HEADER.size + _WORD.size, end - number.size + 1, number.size):
        yield number.unpack_from(raw, at)[0]


class Commit(NamedTuple):
    """The end of a transaction. ``checksum`` is of all its blocks, None where it was not used."""

    time: int
    """Seconds since 1970, by the guest's clock."""
    checksum: int | None


def parse_commit(raw: bytes) -> Commit:
    """The commit block in ``raw``. ``Commit.checksum`` means something with ``COMPAT_CHECKSUM`` only."""
    kind, size, checksum, seconds = _COMMIT.unpack_from(raw)
    return Commit(seconds, None if (kind, size, checksum) == (0, 0, 0) else checksum)


def is_sound(raw: bytes, superblock: JournalSuperblock, kind: int) -> bool:
    """Whether the checksum of a descriptor, revoke or commit block is right; True where there are none."""
    if not superblock.is_checked:
        return True
    at = _CHECKSUM_AT if kind == Kind.COMMIT else len(raw) - _TAIL
    blank = raw[:at] + bytes(_TAIL) + raw[at + _TAIL :]
    return crc32c_raw(superblock.seed, blank) == int.from_bytes(raw[at : at + _TAIL], "big")


def is_sound_copy(raw: bytes, superblock: JournalSuperblock, sequence: int, checksum: int) -> bool:
    """Whether the checksum that the tag of transaction ``sequence`` has for this block is right."""
    if not superblock.is_checked:
        return True
    found = crc32c_raw(crc32c_raw(superblock.seed, _WORD.pack(sequence)), raw)
    return checksum == (found if superblock.incompat & Incompat.CSUM_V3 else found & 0xFFFF)


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class TransactionChecksum:
    """The CRC-32 over the descriptors and copies of a transaction: zlib's, with the bits of each byte in the other order."""

    def __init__(self) -> None:
        self._state = 0

    def add(self, raw: bytes) -> None:
        """One more block."""
        self._state = zlib.crc32(raw.translate(_MIRRORED), self._state)

    @property
    def value(self) -> int:
        """As the commit block has it."""
        return int(f"{self._state ^ 0xFFFFFFFF:032b}"[::-1], 2)


def has_fast_commits(raw: bytes, sequence: int) -> bool:
    """Whether the first block of the fast commits holds changes on top of all transactions before ``sequence``."""
    tag, _, _, transaction = _FAST_HEAD.unpack_from(raw)
    return (tag, transaction) == (_FAST_HEAD_TAG, sequence)
