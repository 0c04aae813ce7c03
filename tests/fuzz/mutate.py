"""Damage, by dice: a few numbers, ranges or the end of a file are changed, and the checksums that guard them made right again.

A third of the changes goes where headers and footers are, a third to all that is not the guest's, a third to where numbers
are. Without the right checksums nothing behind a header would ever be reached.
"""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from contract.vhd_builder import seal as vhd_seal
from contract.vhdx_builder import seal as vhdx_seal

SECTOR = 512
_NUMBERS = (0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, 1 << 62)
_NUMBERS += ((1 << 63) - 1, 1 << 63, (1 << 64) - 1)


@dataclass(frozen=True)
class Damage:
    """What to write where, in this order, and the size to cut the file to."""

    writes: tuple[tuple[int, bytes], ...]
    size: int | None = None


@dataclass
class Target:
    """A file as it was, and where it is worth damaging."""

    path: Path
    content: bytes = field(repr=False)
    structures: list[int] = field(repr=False)
    """Sectors that are not the guest's, by offset."""
    rest: list[int] = field(repr=False)

    @classmethod
    def of(cls, path: Path, guests: set[bytes]) -> Target:
        """``guests`` are the sectors of the disks inside."""
        content = path.read_bytes()
        used = [at for at in range(0, len(content), SECTOR) if content[at : at + SECTOR].strip(b"\0\xff")]
        own = [at for at in used if content[at : at + SECTOR] not in guests]
        plain = [at for at in used if len(zlib.compress(content[at : at + SECTOR], 1)) < 300]
        return cls(path, content, own or used or [0], plain or used or [0])


def damage(target: Target, dice: random.Random) -> Damage:
    """One way to damage it."""
    content = bytearray(target.content)
    places: list[tuple[int, int]] = []
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 5, 9))):
        at, new = _change(target, content, dice)
        new = new[: max(0, len(content) - at)]
        content[at : at + len(new)] = new
        places.append((at, len(new)))
    if dice.random() < 0.7:
        places += repair(content)
    writes = tuple((at, bytes(content[at : at + length])) for at, length in places)
    size = dice.randrange(len(content)) if dice.random() < 0.05 else None
    return Damage(writes, size)


def _change(target: Target, content: bytearray, dice: random.Random) -> tuple[int, bytes]:
    sector = dice.choice(dice.choice((target.structures[:8] + target.structures[-4:], target.structures, target.rest)))
    kind = dice.random()
    if kind < 0.1:
        other = dice.choice(target.structures)
        return sector, bytes(content[other : other + SECTOR])
    if kind < 0.15:
        return sector, bytes([dice.choice((0, 0xFF))]) * dice.choice((16, SECTOR, 4096))
    used = [at for at in range(sector, min(sector + SECTOR, len(content))) if content[at]] or [sector]
    at = dice.choice(used)
    if kind < 0.45:
        return at, bytes([dice.choice((0, 0xFF, content[at] ^ 1 << dice.randrange(8), dice.randrange(256)))])
    width = dice.choice((2, 4, 4, 8))
    at -= at % width if dice.random() < 0.8 else 0
    order = dice.choice(("little", "big"))
    old = int.from_bytes(content[at : at + width], order)  # type: ignore[arg-type]
    size = len(content)
    number = dice.choice((*_NUMBERS, old + 1, old - 1, old * 2, old // 2, size, size // SECTOR, dice.getrandbits(64), at))
    return at, (number % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]


def repair(content: bytearray) -> list[tuple[int, int]]:
    """Make right the checksums of what is there: (offset, length) of what was written."""
    done: list[tuple[int, int]] = []

    def put(at: int, new: bytes) -> None:
        content[at : at + len(new)] = new
        done.append((at, len(new)))

    if content[:8] == b"vhdxfile":
        for at, length in ((64 << 10, 4096), (128 << 10, 4096), (192 << 10, 65536), (256 << 10, 65536)):
            put(at, vhdx_seal(content[at : at + length]))
        if content[1 << 20 : (1 << 20) + 4] == b"loge":
            length = min(1 << 16, struct.unpack_from("<I", content, (1 << 20) + 8)[0])
            if length >= 4096:
                put(1 << 20, vhdx_seal(content[1 << 20 : (1 << 20) + length]))
    if content[-512:-504] == b"conectix":
        put(len(content) - SECTOR, vhd_seal(content[-SECTOR:], 64))
        if content[:8] == b"conectix":
            put(0, vhd_seal(content[:SECTOR], 64))
            put(SECTOR, vhd_seal(content[SECTOR : SECTOR + 1024], 36))
    if content[SECTOR : SECTOR + 8] == b"EFI PART":
        entries = zlib.crc32(bytes(content[2 * SECTOR : 2 * SECTOR + 128 * 128]))
        struct.pack_into("<I", content, SECTOR + 88, entries)
        struct.pack_into("<I", content, SECTOR + 16, 0)
        struct.pack_into("<I", content, SECTOR + 16, zlib.crc32(bytes(content[SECTOR : SECTOR + 92])))
        done.append((SECTOR, 92))
    return done
