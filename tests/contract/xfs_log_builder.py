"""Logs of XFS built by hand: one record more in the log of an image, with whatever in it; and images to put it in."""

from __future__ import annotations

import struct
from pathlib import Path

from contract.filesystem_contract import walk
from contract.mounting import need
from contract.xfs_images import SMALL, made, sealed
from mntapi.crc32c import crc32c
from mntapi.filesystems.probe import probe
from mntapi.filesystems.runs import Memory
from mntapi.filesystems.xfs.filesystem import XfsFileSystem, open_filesystem
from mntapi.filesystems.xfs.items import Kind
from mntapi.filesystems.xfs.log import Log
from mntapi.filesystems.xfs.superblock import Superblock, find_superblock
from mntapi.units import MIB

START, COMMIT, CONTINUED, CONTINUES, END = 0x1, 0x2, 0x4, 0x8, 0x10
SIZE = 20 * MIB
"""Bytes of an image: little more than there must be."""
CORE, NEW = "2H2BH3I2H8s3Q2Q2IH2BI2HI", "3QI12s2Q16s"
"""An inode of version 3 with large times, without the list of removed inodes and the checksum, which are between the two."""
OLD_CORE = "2H2BH3I2H6sH6I2Q2IH2BI2HI"
MODE, VERSION, FORM, FLUSHED, FORK = 1, 2, 3, 11, 19
"""Numbers of a core, by their place in it."""
CORE_ONLY, DATA, EXTENTS, TREE, DEVICE, ATTRIBUTE_EXTENTS, OWNER = 0x1, 0x2, 0x4, 0x8, 0x10, 0x80, 0x200
MAPPED = struct.pack("<QQQII", 131, 5, 0, 1, 1)
"""An announced change of the map of inode 131."""
HEAD = struct.pack("<4s3I", b"NART", 42, 7, 1)
"""Of a transaction."""


def operation(content: bytes = b"", flags: int = 0, *, number: int = 7, client: int = 0x69) -> bytes:
    """A region with its header."""
    return struct.pack(">2I2B2x", number, len(content), client, flags) + content


def item(kind: int, *regions: bytes, count: int | None = None) -> list[bytes]:
    """The regions of an item; the first is given without its first four bytes."""
    return [struct.pack("<2H", kind, len(regions) if count is None else count) + regions[0], *regions[1:]]


def transaction(*items: list[bytes], number: int = 7) -> list[bytes]:
    """The operations of a whole one."""
    regions = [HEAD, *[region for regions in items for region in regions]]
    body = [operation(region, number=number) for region in regions]
    return [operation(flags=START, number=number), *body, operation(flags=COMMIT, number=number)]


class Image:
    """An empty file system by mkfs.xfs, in memory; ``log`` is where its log begins, in bytes."""

    def __init__(self, path: Path, *options: str) -> None:
        need("mkfs.xfs")
        self.raw = bytearray(made(path, SIZE, *SMALL, *options).read_bytes())
        path.unlink()
        self.superblock: Superblock = find_superblock(Memory(bytes(self.raw[:4096])))
        self.log = self.superblock.block_at(self.superblock.log_start) or 0
        self.next = 2
        """The sector of the log behind what mkfs.xfs left there."""

    def append(
        self, operations: list[bytes], *, tail: int | None = None, count: int | None = None, **fields: int | bytes
    ) -> int:
        """One record more; its sector. The oldest that counts is in the sector ``tail``, or it is this one. ``count``: of
        operations, where they are given in one piece. ``fields``: as in ``record``."""
        sector, content = self.next, b"".join(operations)
        raw = record(
            content,
            lsn=1 << 32 | sector,
            tail=1 << 32 | (sector if tail is None else tail),
            operations=len(operations) if count is None else count,
            **{"uuid": self.superblock.volume_uuid, **fields},
        )
        at = self.log + sector * 512
        self.raw[at : at + len(raw)] = raw
        self.next += len(raw) // 512
        return sector

    def superblock_changed(self, at: int, value: bytes) -> None:
        """Change bytes of the superblock."""
        self.raw[at : at + len(value)] = value
        if self.superblock.version == 5:
            sealed(self.raw, 0, self.superblock.sector_size, 224)

    def records(self) -> int:
        """How many records count."""
        return len(Log(Memory(bytes(self.raw)), self.superblock).records())


def record(
    content: bytes,
    *,
    lsn: int,
    tail: int,
    operations: int,
    uuid: bytes,
    version: int = 2,
    size: int = 32768,
    form: int = 1,
    checksum: int | None = None,
    length: int | None = None,
    head_size: int = 328,
) -> bytes:
    """A record of one header sector, its first bytes stamped with the round as the kernel does."""
    body = bytearray(content.ljust(-(-len(content) // 512) * 512, b"\0"))
    stamps = bytearray(256)
    for index in range(len(body) // 512):
        stamps[4 * index : 4 * index + 4] = body[512 * index : 512 * index + 4]
        body[512 * index : 512 * index + 4] = struct.pack(">I", lsn >> 32)
    said = len(body) if length is None else length
    head = struct.pack(">4s3I2Q", b"\xfe\xed\xba\xbe", lsn >> 32, version, said, lsn, tail)
    rest = struct.pack(">2I", 0, operations) + stamps + struct.pack(">I16sI", form, uuid, size)
    found = crc32c((head + bytes(4) + rest).ljust(head_size, b"\0") + body)
    return (head + struct.pack("<I", found if checksum is None else checksum) + rest).ljust(512, b"\0") + body


def opened(image: Image) -> XfsFileSystem:
    volume = Memory(bytes(image.raw))
    signature = probe(volume)
    assert signature is not None and signature.dirty
    return open_filesystem(volume, signature)


def why(image: Image) -> str:
    """Why the log was not replayed. What lies on the volume has to be readable all the same."""
    fs = opened(image)
    assert walk(fs) == {}
    return fs.unreplayed or ""


def root_at(image: Image) -> int:
    return image.superblock.inode_at(image.superblock.root)


def inode_item(
    image: Image,
    core: bytes,
    *forks: bytes,
    fields: int = CORE_ONLY,
    device: int = 0,
    at: int | None = None,
    offset: int | None = None,
) -> list[bytes]:
    """A change of the root folder, or of the inode at byte ``at`` of the volume."""
    at = root_at(image) if at is None else at
    sector = at // 16384 * 32
    where = struct.pack("<qii", sector, 32, at - sector * 512 if offset is None else offset)
    first = struct.pack("<IHHIQI12x", fields, 0, 0, 0, image.superblock.root, device) + where
    return item(Kind.INODE, first, core, *forks)


def core_of(image: Image, *, at: int | None = None, changed: dict[int, int] | None = None) -> bytes:
    """The inode as it is there, in the log's byte order; ``changed``: numbers of its core by their place."""
    at = root_at(image) if at is None else at
    is_new = image.superblock.version == 5
    layout = CORE if is_new else OLD_CORE
    numbers = list(struct.unpack_from(">" + layout, image.raw, at))
    for place, number in (changed or {}).items():
        numbers[place] = number
    core = struct.pack("<" + layout, *numbers)
    return core + bytes(8) + struct.pack("<" + NEW, *struct.unpack_from(">" + NEW, image.raw, at + 104)) if is_new else core


def buffer_item(sector: int, sectors: int, pieces: dict[int, bytes], flags: int = 0) -> list[bytes]:
    """Chunks of 128 bytes by their number; those that lie side by side are one region."""
    regions: list[bytes] = []
    last = -2
    for index, content in sorted(pieces.items()):
        if index == last + 1:
            regions[-1] += content
        else:
            regions.append(content)
        last = index
    chunks = sum(1 << index for index in pieces)
    words = max(1, -(-chunks.bit_length() // 32))
    first = struct.pack("<2HqI", flags, sectors, sector, words) + chunks.to_bytes(4 * words, "little")
    return item(Kind.BUFFER, first, *regions)


def root_of_tree(level: int, *pointers: int, count: int | None = None) -> bytes:
    """The root of a tree of extents as it is in memory: with the header of a block."""
    said = len(pointers) if count is None else count
    head = struct.pack(">4s2H", b"BMA3", level, said).ljust(72, b"\0")
    return head + struct.pack(f">{2 * len(pointers)}Q", *range(len(pointers)), *pointers)
