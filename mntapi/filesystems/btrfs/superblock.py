"""The superblock: where the trees begin, and which features a reader must know.

Source: btrfs documentation, "On-disk Format", section "Superblock"; fs/btrfs/disk-io.c ``btrfs_validate_super``.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from mntapi.blocks import read
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.filesystems.btrfs.checksums import ALGORITHMS, Algorithm
from mntapi.filesystems.btrfs.pointer import HIGHEST, MAX_LEVEL, Pointer
from mntapi.types import Blocks
from mntapi.units import GIB, KIB, MIB

PLACES = (64 * KIB, 64 * MIB, 256 * GIB)
"""Bytes on a device; the second and third are copies."""
SIZE = 4 * KIB
MAGIC = b"_BHRfS_M"
ROOT_TREE, CHUNK_TREE, LOG = 1, 3, HIGHEST - 6
"""Owners of nodes."""
MAX_NODE = 64 * KIB
CHECKSUM_ROOM = 32
"""Bytes kept for a checksum at the start of superblocks and nodes, however long it is; it covers all that follows."""
CHUNKS_AT = 811
MAX_CHUNKS = 2048
"""Bytes of chunk items in the superblock."""
_FIELDS = struct.Struct("<32x 16s 2Q 8s 4Q 8x 4Q 2I 8x I 4Q H 3B 2Q 50x 16s 16x 256s 16x 16s")
_FEATURES_AT = 188
_HISTORY = slice(72, 96)
"""Generation, and where root tree and chunk tree are."""


class Incompat(enum.IntFlag):
    """Features that a reader must know."""

    MIXED_BACKREF = 0x1
    DEFAULT_SUBVOL = 0x2
    MIXED_GROUPS = 0x4
    COMPRESS_LZO = 0x8
    COMPRESS_ZSTD = 0x10
    BIG_METADATA = 0x20
    EXTENDED_IREF = 0x40
    RAID56 = 0x80
    SKINNY_METADATA = 0x100
    NO_HOLES = 0x200
    METADATA_UUID = 0x400
    RAID1C34 = 0x800
    ZONED = 0x1000
    EXTENT_TREE_V2 = 0x2000
    RAID_STRIPE_TREE = 0x4000
    SIMPLE_QUOTA = 0x10000
    REMAP_TREE = 0x20000


KNOWN = sum(int(flag) for flag in Incompat)
UNREADABLE = Incompat.ZONED | Incompat.EXTENT_TREE_V2 | Incompat.RAID_STRIPE_TREE | Incompat.REMAP_TREE
"""They change where things are. The RAID features do not: what counts is the profile of each chunk."""


@dataclass(frozen=True, slots=True)
class Superblock:
    """What a reader needs of it; sizes in bytes. ``at``: its own byte on the volume; ``start``: that of its device.

    ``history`` is the same on all devices that have seen the same commits: where the trees are.
    """

    at: int
    start: int
    node_uuid: bytes
    """The file system UUID that tree nodes carry; the public one can be changed without writing them all."""
    generation: int
    root: Pointer
    chunk_root: Pointer
    log_root: Pointer | None
    """The tree of log trees, written by the transaction that was under way; None if nothing was synced since the commit."""
    total: int
    used: int
    sector_size: int
    node_size: int
    device: int
    device_uuid: bytes
    device_size: int
    device_count: int
    checksum: Algorithm
    chunks: bytes
    """The chunks that the chunk tree itself lies in: keys and chunk items, one after the other."""
    history: bytes


def read_superblock(volume: Blocks, start: int = 0) -> Superblock:
    """The first superblock of a device, or, where that is damaged, the newest sound copy.

    Args:
        volume: what the device is on.
        start: the device's first byte there.

    Raises:
        Corrupt, ReadFailed: there is none; says what is wrong with the first.
        Unsupported: it has a feature that this version does not know.
    """
    if volume.size - start < PLACES[0] + SIZE:
        raise Corrupt("too small for a btrfs superblock", expected=f"{PLACES[0] + SIZE} bytes", found=volume.size - start)
    sound: list[tuple[int, int, bytes]] = []
    failures: list[MntapiError] = []
    for place in PLACES:
        if start + place + SIZE > volume.size:
            break
        try:
            raw = read(volume, start + place, SIZE)
            sound.append((verified_generation(raw, place, start), -place, raw))
        except MntapiError as error:
            failures.append(error)
        if place == PLACES[0] and sound:
            break
    if not sound:
        raise failures[0]
    _, place, raw = max(sound)
    return parse_superblock(raw, -place, start)


def verified_generation(raw: bytes, place: int, start: int = 0) -> int:
    """The generation of a superblock that is sound and lies where it says it does.

    Args:
        raw: its ``SIZE`` bytes.
        place: its byte on its device.
        start: the device's byte on the volume, for errors.

    Raises:
        Corrupt: there is none, it is a copy of another one, or its checksum is wrong.
        Unsupported: its checksum is of an unknown kind.
    """
    fields, at = _FIELDS.unpack_from(raw), start + place
    own, magic, generation = fields[1], fields[3], fields[4]
    if magic != MAGIC:
        raise Corrupt("no btrfs superblock", offset=at + 64, expected=MAGIC.hex(), found=magic.hex())
    if own != place:
        raise Corrupt("a btrfs superblock that belongs elsewhere", offset=at + 48, expected=place, found=own)
    checksum = _algorithm(fields[19], at)
    wanted, found = raw[: checksum.size], checksum.of(raw[CHECKSUM_ROOM:])
    if wanted != found:
        raise Corrupt(
            "the checksum of the superblock is wrong", offset=at, expected=wanted.hex(), found=found.hex(), reason="checksum"
        )
    return int(generation)


def parse_superblock(raw: bytes, place: int, start: int = 0) -> Superblock:
    """The superblock from its ``SIZE`` bytes at byte ``place`` of the device that begins at byte ``start`` of the volume.

    Raises:
        Corrupt: its numbers are impossible.
        Unsupported: it has a feature that changes the layout in a way this version does not know.
    """
    fields, at = _FIELDS.unpack_from(raw), start + place
    uuid, _, _, _, generation, root, chunk_root, log_root, total, used, _, device_count = fields[:12]
    sector_size, node_size, chunks_size, chunk_generation, _, _, incompat, checksum = fields[12:20]
    root_level, chunk_level, log_level, device, device_size, device_uuid, _, metadata_uuid = fields[20:]
    if incompat & UNREADABLE or incompat & ~KNOWN:
        raise _unreadable(incompat, at)
    _expect(device_count > 0, "no devices", at + 136, "at least 1", device_count)
    _check_sizes(sector_size, node_size, chunks_size, at)
    levels = (root_level, "root tree"), (chunk_level, "chunk tree"), (log_level, "tree of log trees")
    for index, (level, tree) in enumerate(levels):
        _expect(level <= MAX_LEVEL, f"the {tree} is too high", at + 198 + index, f"at most {MAX_LEVEL}", level)
    return Superblock(
        at=at,
        start=start,
        node_uuid=metadata_uuid if incompat & Incompat.METADATA_UUID else uuid,
        generation=generation,
        root=Pointer(root, root_level, generation, ROOT_TREE, at + 80),
        chunk_root=Pointer(chunk_root, chunk_level, chunk_generation, CHUNK_TREE, at + 88),
        log_root=Pointer(log_root, log_level, generation + 1, LOG, at + 96) if log_root else None,
        total=total,
        used=used,
        sector_size=sector_size,
        node_size=node_size,
        device=device,
        device_uuid=device_uuid,
        device_size=device_size,
        device_count=device_count,
        checksum=_algorithm(checksum, at),
        chunks=raw[CHUNKS_AT : CHUNKS_AT + chunks_size],
        history=raw[_HISTORY],
    )


def _check_sizes(sector_size: int, node_size: int, chunks_size: int, at: int) -> None:
    _expect(_is_size(sector_size, 512, MAX_NODE), "the sector size is impossible", at + 144, "512 to 65536", sector_size)
    _expect(
        _is_size(node_size, sector_size, MAX_NODE) and node_size >= 4 * KIB,
        "the node size is impossible",
        at + 148,
        f"{max(sector_size, 4 * KIB)} to {MAX_NODE}",
        node_size,
    )
    _expect(
        chunks_size <= MAX_CHUNKS,
        "the chunks are more than fit into a superblock",
        at + 160,
        f"at most {MAX_CHUNKS}",
        chunks_size,
    )


def _algorithm(number: int, at: int) -> Algorithm:
    if number not in ALGORITHMS:
        raise Unsupported(
            f"btrfs with checksums of kind {number}",
            offset=at + 196,
            expected=", ".join(f"{kind} ({algorithm.name})" for kind, algorithm in ALGORITHMS.items()),
            reason="btrfs-checksum",
        )
    return ALGORITHMS[number]


def _is_size(size: int, least: int, most: int) -> bool:
    return least <= size <= most and size & (size - 1) == 0


def _expect(right: bool, what: str, at: int, expected: str, found: object) -> None:
    if not right:
        raise Corrupt(what, offset=at, expected=expected, found=found)


def _unreadable(incompat: int, at: int) -> Unsupported:
    bits = incompat & (int(UNREADABLE) | ~KNOWN)
    names = [flag.name.lower().replace("_", "-") for flag in Incompat if flag & bits and flag.name]
    names += [hex(bits & ~KNOWN)] if bits & ~KNOWN else []
    return Unsupported(f"btrfs with the feature {', '.join(names)}", offset=at + _FEATURES_AT, reason="btrfs-feature")
