"""What the headers of both versions come down to, and where they are read from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mntapi.blocks import read, read_clipped
from mntapi.crypto.keyslot import Digest, KeySlot
from mntapi.crypto.luks1 import HEADER_LENGTH, parse_luks1
from mntapi.errors import Corrupt
from mntapi.keys import Secret
from mntapi.types import Blocks
from mntapi.units import SECTOR

_UUID = re.compile(r"[0-9A-Za-z-]{1,40}")


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the volume: ``length`` bytes (None: to its end) at ``offset``, and how they are encrypted.

    ``first_sector`` is the number of its first 512 bytes for the cipher.
    """

    offset: int
    length: int | None
    encryption: str
    sector_size: int = SECTOR
    first_sector: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header. ``slots`` are those of the segments' master key, the ones to try first in front."""

    version: int
    uuid: str
    segments: tuple[Segment, ...]
    slots: tuple[KeySlot, ...]
    digest: Digest | None
    """None only where the volume cannot be read, whatever the key."""
    key_size: int
    label: str = ""
    note: str | None = None
    """What is wrong with it, and does no harm."""
    unsupported: str | None = None
    """Why the volume cannot be read, whatever the key."""
    details: Mapping[str, str] = field(default_factory=dict)


class Place:
    """The bytes that a header is in: a volume, or the contents of a file."""

    def __init__(self, source: Blocks | Secret) -> None:
        self._source = source
        self.size = source.size if not isinstance(source, Secret) else len(source.view())

    def read(self, offset: int, length: int) -> bytes:
        """Bytes that must be there. Raises Corrupt if they are not, or what reading raises."""
        if offset + length > self.size:
            raise Corrupt(
                "the header goes past the end", offset=offset, expected=f"{length} bytes", found=max(0, self.size - offset)
            )
        if isinstance(self._source, Secret):
            return bytes(self._source.view()[offset : offset + length])
        return read(self._source, offset, length)

    def read_clipped(self, offset: int, length: int) -> bytes:
        """As many of them as there are."""
        if isinstance(self._source, Secret):
            return bytes(self._source.view()[offset : offset + length])
        return read_clipped(self._source, offset, length)


def known_uuid(text: str) -> str:
    """The UUID, or nothing if it is not one that could be part of an id."""
    return text.lower() if _UUID.fullmatch(text) else ""


def read_luks1(place: Place) -> Header:
    """The header of version 1. Raises Corrupt, Unsupported, or what reading raises."""
    luks = parse_luks1(place.read_clipped(0, HEADER_LENGTH))
    segment = Segment(luks.payload_offset, None, luks.cipher)
    return Header(1, known_uuid(luks.uuid), (segment,), luks.slots, luks.digest, luks.key_size)
