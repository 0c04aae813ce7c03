"""Where LUKS headers are, and what they begin with.

Source: LUKS On-Disk Format Specification 1.2.3, section 2; LUKS2 On-Disk Format Specification 1.1.0, section 2.
"""

from __future__ import annotations

import zlib

from mntapi.types import Volume
from mntapi.units import KIB, SECTOR

MAGIC = b"LUKS\xba\xbe"
HEAD = 4096
"""Bytes of the binary part of a LUKS2 header; that of LUKS1 is shorter."""
SECOND_MAGIC = b"SKUL\xba\xbe"
ROAMING = "*"
"""What a header is asked for by that is for whichever volume it fits."""
_UUID = slice(168, 208)
"""Where both versions have it."""
_COMPRESSED = 7 * SECTOR // 8
"""Bytes that a sector of anything but ciphertext can be compressed to. (Random bytes never get shorter.)"""
_BOOT = b"\x55\xaa"
_TABLES = ("gpt", "mbr")
SIZES = tuple((16 * KIB) << step for step in range(9))
"""Bytes that one copy of a LUKS2 header may have, 16 KiB to 4 MiB; the second lies behind the first."""


def known_as(volume: Volume) -> tuple[str, ...]:
    """What a person may call the volume: its id, its name, and of a partition the PARTUUID alone."""
    table, _, partition = volume.id.partition(":")
    return (volume.id, volume.name, *((partition,) if table in _TABLES else ()))


def names_of(header: bytes | bytearray) -> tuple[str, ...]:
    """What a person may call what a header is of: its UUID, and the id and name of the volume inside."""
    uuid = bytes(header[_UUID]).split(b"\0", 1)[0].decode("ascii", "replace").lower()
    return (uuid, f"luks:{uuid}", f"luks-{uuid[:8]}") if uuid else ()


def has_structure(content: bytes) -> bool:
    """Whether any sector is not random: what was decrypted with the right key has such, and ciphertext has none."""
    return any(len(zlib.compress(content[at : at + SECTOR], 1)) <= _COMPRESSED for at in range(0, len(content), SECTOR))


def is_noise(content: bytes) -> bool:
    """Whether the start of a volume may be ciphertext: there is something, nothing that was written is other than random, and
    it is no boot sector, the code behind which may be compressed."""
    if content[SECTOR - len(_BOOT) : SECTOR] == _BOOT:
        return False
    sectors = [sector for at in range(0, len(content), SECTOR) if any(sector := content[at : at + SECTOR])]
    return bool(sectors) and not has_structure(b"".join(sectors))
