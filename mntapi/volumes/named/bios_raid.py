"""Members of RAIDs that mainboards and host adapters make: metadata in the last sectors of a whole disk, one format per maker.

Such a disk begins with the partition table of its array, or with a part of it. So nothing on it is listed: what stands in the
table of one disk of a stripe is on others. Those of Intel and DDF are Linux MD's business.

Source: the layouts that libblkid of util-linux and dmraid read (observed, no specification published).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mntapi.blocks import read_clipped
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.units import SECTOR
from mntapi.volumes.named.kinds import UNREAD, Device, Superblocks, told


class Maker(NamedTuple):
    """One format: ``magic`` at byte ``within`` of the metadata, which begins ``sectors`` before the end of the disk (from its
    start, where negative); ``check`` looks at the first sector of it."""

    who: str
    magic: bytes
    sectors: tuple[int, ...]
    within: int = 0
    check: Callable[[bytes], bool] = lambda sector: True


@dataclass(frozen=True, slots=True)
class Mark:
    """Whose metadata it is."""

    maker: str


def _via(sector: bytes) -> bool:
    return sector[2] <= 2 and sum(sector[:50]) & 0xFF == sector[50]


def _silicon(sector: bytes) -> bool:
    return sector[0x116] < 8 and sum(struct.unpack("<160H", sector[:0x140])) & 0xFFFF == 0


def _adaptec(sector: bytes) -> bool:
    return sector[0x100:0x104] == b"DPTM"


def _jmicron(sector: bytes) -> bool:
    return sum(struct.unpack("<64H", sector[:128])) & 0xFFFF in (0, 1)


MAKERS = (
    Maker("LSI MegaRAID", b"$XIDE$", (1,)),
    Maker("VIA", b"\x55\xaa", (1,), check=_via),
    Maker("Silicon Image Medley", b"\0\0\0\x2f", (1,), 0x60, _silicon),
    Maker("NVIDIA", b"NVIDIA", (2,)),
    Maker("Promise FastTrak", b"Promise Technology, Inc.", (63, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087)),
    Maker("HighPoint 45x", b"\xf3\x16\x78\x5a", (11,)),
    Maker("HighPoint 45x", b"\xfd\x16\x78\x5a", (11,)),
    Maker("HighPoint 37x", b"\xf0\x16\x78\x5a", (-9,), 32),
    Maker("HighPoint 37x", b"\xfd\x16\x78\x5a", (-9,), 32),
    Maker("Adaptec HostRAID", b"\x37\xfc\x4d\x1e", (1,), check=_adaptec),
    Maker("JMicron", b"JM", (1,), check=_jmicron),
)


def _find(blocks: Blocks) -> Mark | None:
    end = blocks.size - blocks.size % SECTOR
    for maker in MAKERS:
        for sectors in maker.sectors:
            place = end - sectors * SECTOR if sectors > 0 else -sectors * SECTOR
            if place < 0:
                continue
            sector = read_clipped(blocks, place, SECTOR)
            if len(sector) == SECTOR and sector.startswith(maker.magic, maker.within) and maker.check(sector):
                return Mark(maker.who)
    return None


def _describe(devices: Sequence[Device[Mark]]) -> Iterator[Volume]:
    for volume, mark in devices:
        reason = f"a member of a RAID of {mark.maker}: {UNREAD}"
        yield told(volume, VolumeState.UNSUPPORTED, reason, {"manager": "bios-raid", "maker": mark.maker})


KIND = Superblocks(_find, _describe, is_on_disks=True)
