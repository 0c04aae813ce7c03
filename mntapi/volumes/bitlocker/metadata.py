"""The metadata of a BitLocker volume: what protects its keys, how far it is encrypted, where its first sectors are. Pure.

A block is a header, a data set of entries (each with a role, a type and data that may hold entries in turn), and a CRC-32.
There are three copies; a copy whose CRC is wrong is not used.

Source: libyal, BitLocker Drive Encryption (BDE) format, "FVE metadata block"; the meaning of the states, the CRC behind the
data set, and its size in units of 16 bytes since version 2: observed on 19 images.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from mntapi.errors import Corrupt, Unsupported
from mntapi.volumes.bitlocker.boot import SIGNATURE

MAX_BLOCK = 65536
"""Bytes in a metadata block, and in the room reserved for each since Windows 7."""

_HEADER = struct.Struct("<8s4HQ2I3QQ")
_DATA_SET = struct.Struct("<4I16sI2HQ")
_ENTRY = struct.Struct("<4H")
_CHECK = struct.Struct("<2HI")
_RELOCATED = struct.Struct("<Q")
_PROTECTOR = struct.Struct("<16sQ2H")
_EXTERNAL = struct.Struct("<16sQ")
_METHOD = 4
"""Bytes of the method in front of a key; a salt follows it in a stretch key."""
_SALT = 16


METHODS = {
    0x8000: ("AES-CBC 128 with diffuser", 64),
    0x8001: ("AES-CBC 256 with diffuser", 64),
    0x8002: ("AES-CBC 128", 16),
    0x8003: ("AES-CBC 256", 32),
    0x8004: ("AES-XTS 128", 32),
    0x8005: ("AES-XTS 256", 64),
}
"""By number: the name for people, and the bytes of key it has. With a diffuser the second key always begins at byte 32."""


class State(enum.IntEnum):
    """What is being done to the volume."""

    DECRYPTED = 1
    CONVERTING = 2
    """Interrupted: a range of ``state_size`` bytes at ``state_offset`` may be in either form."""
    PAUSED = 3
    ENCRYPTED = 4
    SWITCHING = 5


class Role(enum.IntEnum):
    """What an entry is for; others are passed over."""

    PROPERTY = 0
    VOLUME_MASTER_KEY = 2
    FULL_VOLUME_KEY = 3
    STARTUP_KEY = 6
    DESCRIPTION = 7


class Type(enum.IntEnum):
    """How an entry's data are laid out; others are passed over."""

    KEY = 1
    TEXT = 2
    STRETCH_KEY = 3
    SEALED = 5
    VOLUME_MASTER_KEY = 8
    EXTERNAL_KEY = 9


@dataclass(frozen=True, slots=True)
class Entry:
    """A role, a type and data."""

    role: int
    type: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Protector:
    """One way to the volume master key: the key sealed with another one, which a password, a file or a TPM gives."""

    id: UUID
    protection: int
    properties: tuple[Entry, ...]

    def data(self, kind: Type) -> bytes | None:
        """The data of its first property of that type."""
        return next((entry.data for entry in self.properties if entry.type == kind), None)


@dataclass(frozen=True, slots=True)
class Metadata:
    """One copy of the metadata. Offsets and sizes are bytes, offsets from the start of the volume."""

    version: int
    """1: Vista, 2: later."""
    state: int
    state_offset: int
    """What is in front of it is encrypted, what is behind it is not; 0: no such border."""
    state_size: int
    relocated_sectors: int
    copies: tuple[int, int, int]
    last: int
    """Version 1: the cluster of the mirror of the MFT. Version 2: the offset of the relocated first sectors."""
    identifier: UUID
    method: int
    protectors: tuple[Protector, ...]
    sealed_key: bytes | None
    description: str | None


def parse_metadata(block: bytes, at: int) -> Metadata:
    """A metadata block that was read at byte ``at`` of the volume, cut off at the end of the volume or after ``MAX_BLOCK``.

    Raises:
        Corrupt: it is none, or damaged.
        Unsupported: its version is not known.
    """
    if len(block) < _HEADER.size + _DATA_SET.size or not block.startswith(SIGNATURE):
        raise Corrupt("bitlocker: no metadata block", offset=at, expected=SIGNATURE, found=block[:8], reason="fve-metadata")
    _, size, version, state, _, state_offset, state_size, relocated, *offsets = _HEADER.unpack_from(block)
    if version not in (1, 2):
        raise Unsupported(f"bitlocker: metadata of version {version}", offset=at + 10, reason="fve-version")
    _check_sum(block, size * (16 if version == 2 else 1), at)
    identifier, method, entries = _data_set(block, _HEADER.size, at)
    return Metadata(
        version=version,
        state=state,
        state_offset=state_offset,
        state_size=state_size,
        relocated_sectors=relocated,
        copies=(offsets[0], offsets[1], offsets[2]),
        last=offsets[3],
        identifier=identifier,
        method=method,
        protectors=tuple(_protectors(entries, at)),
        sealed_key=_find(entries, Role.FULL_VOLUME_KEY, Type.SEALED),
        description=_text(_find(entries, Role.DESCRIPTION, Type.TEXT)),
    )


def _check_sum(block: bytes, size: int, at: int) -> None:
    """Raise Corrupt unless the CRC behind the first ``size`` bytes is theirs."""
    if size < _HEADER.size + _DATA_SET.size or size + _CHECK.size > len(block):
        raise Corrupt("bitlocker: metadata of impossible size", offset=at + 8, found=size, reason="fve-metadata")
    wanted = _CHECK.unpack_from(block, size)[2]
    found = zlib.crc32(block[:size])
    if found != wanted:
        raise Corrupt(
            "bitlocker: the CRC of the metadata is wrong",
            offset=at,
            expected=f"{wanted:08x}",
            found=f"{found:08x}",
            reason="fve-crc",
        )


def _data_set(block: bytes, start: int, at: int) -> tuple[UUID, int, tuple[Entry, ...]]:
    """The data set at byte ``start`` of the block: the volume's GUID, the encryption method, the entries."""
    size, _, first, end, guid, _, method, _, _ = _DATA_SET.unpack_from(block, start)
    if not _DATA_SET.size <= first <= end <= size or start + size > len(block):
        raise Corrupt(
            "bitlocker: a data set of impossible size", offset=at + start, found=(first, end, size), reason="fve-metadata"
        )
    return UUID(bytes_le=guid), method, tuple(_entries(block[start + first : start + end], at + start + first))


def _entries(data: bytes, at: int) -> Iterator[Entry]:
    """The entries one after the other in ``data``; fewer bytes than a header has end them.

    Raises:
        Corrupt: one is shorter than its header, or longer than what is left.
    """
    start = 0
    while start + _ENTRY.size <= len(data):
        size, role, kind, _ = _ENTRY.unpack_from(data, start)
        if size < _ENTRY.size or start + size > len(data):
            raise Corrupt("bitlocker: an entry of impossible size", offset=at + start, found=size, reason="fve-entry")
        yield Entry(role, kind, data[start + _ENTRY.size : start + size])
        start += size


def _find(entries: tuple[Entry, ...], role: Role, kind: Type) -> bytes | None:
    return next((entry.data for entry in entries if entry.role == role and entry.type == kind), None)


def _protectors(entries: tuple[Entry, ...], at: int) -> Iterator[Protector]:
    for entry in entries:
        if entry.role == Role.VOLUME_MASTER_KEY and entry.type == Type.VOLUME_MASTER_KEY:
            if len(entry.data) < _PROTECTOR.size:
                raise Corrupt("bitlocker: a protector cut off", offset=at, found=len(entry.data), reason="fve-entry")
            guid, _, _, protection = _PROTECTOR.unpack_from(entry.data)
            yield Protector(UUID(bytes_le=guid), protection, tuple(_entries(entry.data[_PROTECTOR.size :], at)))


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-16-le", "replace").split("\0")[0]


def key_of(data: bytes) -> tuple[int, bytes]:
    """The method and the key in the data of an entry of type KEY."""
    return int.from_bytes(data[:2], "little"), data[_METHOD:]


def salt_of(data: bytes) -> bytes:
    """The salt in the data of an entry of type STRETCH_KEY."""
    return data[_METHOD : _METHOD + _SALT]


def sealed_entry(content: bytes) -> tuple[int, bytes]:
    """The method and the key in what a seal held: one entry of type KEY.

    Raises:
        Corrupt: it holds something else.
    """
    for entry in _entries(content, 0):
        if entry.type == Type.KEY:
            return key_of(entry.data)
    raise Corrupt("bitlocker: a sealed key that is none", found=len(content), reason="fve-entry")


def parse_startup_key(content: bytes) -> tuple[UUID, bytes]:
    """The protector's GUID and the key in a startup key file (.BEK).

    Raises:
        Corrupt: it is no such file.
    """
    if len(content) >= _DATA_SET.size:
        _, _, entries = _data_set(content, 0, 0)
        external = _find(entries, Role.STARTUP_KEY, Type.EXTERNAL_KEY)
        if external is not None and len(external) >= _EXTERNAL.size:
            for entry in _entries(external[_EXTERNAL.size :], 0):
                if entry.type == Type.KEY:
                    return UUID(bytes_le=external[:16]), key_of(entry.data)[1]
    raise Corrupt("not a BitLocker startup key file", found=f"{len(content)} bytes", reason="bek")
