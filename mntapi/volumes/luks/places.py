"""Where LUKS headers are, and what they begin with.

Source: LUKS On-Disk Format Specification 1.2.3, section 2; LUKS2 On-Disk Format Specification 1.1.0, section 2.
"""

from __future__ import annotations

from mntapi.types import Volume
from mntapi.units import KIB

MAGIC = b"LUKS\xba\xbe"
HEAD = 4096
"""Bytes of the binary part of a LUKS2 header; that of LUKS1 is shorter."""
SECOND_MAGIC = b"SKUL\xba\xbe"
_TABLES = ("gpt", "mbr")
SIZES = tuple((16 * KIB) << step for step in range(9))
"""Bytes that one copy of a LUKS2 header may have, 16 KiB to 4 MiB; the second lies behind the first."""


def known_as(volume: Volume) -> tuple[str, ...]:
    """What a person may call the volume: its id, its name, and of a partition the PARTUUID alone."""
    table, _, partition = volume.id.partition(":")
    return (volume.id, volume.name, *((partition,) if table in _TABLES else ()))
