"""The header of LUKS2: two copies, each a binary part of 4096 bytes and JSON, with a checksum over both.

Source: LUKS2 On-Disk Format Specification 1.1.1, sections 2 (header) and 3 (JSON).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mntapi.crypto.derivation import is_equal
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.types import Blocks
from mntapi.volumes.luks import metadata
from mntapi.volumes.luks.header import Header, Place, known_uuid
from mntapi.volumes.luks.places import HEAD as BINARY_LENGTH
from mntapi.volumes.luks.places import MAGIC, SECOND_MAGIC, SIZES

_BINARY = struct.Struct(">6sHQQ48s32s64s40s48sQ184x64s")
_CHECKSUM_AT = 448
_CHECKSUMS = {"sha1": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64}


@dataclass(frozen=True, slots=True)
class Binary:
    """The binary part of a copy; sizes and offsets in bytes."""

    size: int
    sequence: int
    label: str
    checksum_name: str
    uuid: str
    offset: int
    checksum: bytes


def parse_binary(raw: bytes, offset: int) -> Binary:
    """The binary part that lies at ``offset``. Raises Corrupt or Unsupported."""
    if len(raw) < BINARY_LENGTH:
        raise Corrupt("is too short for a LUKS2 header", offset=offset, expected=f"{BINARY_LENGTH} bytes", found=len(raw))
    magic, version, size, sequence, label, checksum_name, _, uuid, _, place, checksum = _BINARY.unpack_from(raw)
    wanted = SECOND_MAGIC if offset else MAGIC
    if magic != wanted:
        raise Corrupt("is no LUKS2 header", offset=offset, expected=wanted.hex(), found=magic.hex())
    if version != 2:
        raise Unsupported("LUKS of this version is not read", offset=offset + 6, found=f"version {version}", reason="encrypted")
    if size not in SIZES:
        raise Corrupt("the header's size is not possible", offset=offset + 8, expected=f"{SIZES[0]} .. {SIZES[-1]}", found=size)
    if place != offset:
        raise Corrupt("the header says that it lies elsewhere", offset=offset + 256, expected=offset, found=place)
    return Binary(size, sequence, _word(label), _word(checksum_name), _word(uuid), offset, checksum)


def _word(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def read_luks2(place: Place) -> Header:
    """The newest copy that is whole. Raises Corrupt, Unsupported, or what reading raises, if none is."""
    headers: list[tuple[int, Header]] = []
    trouble: list[MntapiError] = []
    for offset in _offsets(place):
        try:
            headers.append(_read_copy(place, offset))
        except MntapiError as error:
            trouble.append(error)
        if offset and headers:
            break
    if not headers:
        raise trouble[0]
    newest = max(headers, key=lambda found: found[0])[1]
    return replace(newest, note=f"a copy of the header is spoilt, the other was taken: {trouble[0]}") if trouble else newest


def has_second_copy(blocks: Blocks) -> bool:
    """Whether there is a second copy, as a whole. Raises what reading raises."""
    place = Place(blocks)
    for offset in SIZES:
        if place.read_clipped(offset, len(SECOND_MAGIC)) == SECOND_MAGIC:
            try:
                _read_copy(place, offset)
            except (Corrupt, Unsupported):
                continue
            return True
    return False


def _offsets(place: Place) -> Iterator[int]:
    """Where copies are: the first, the second where that says, and if it cannot be believed wherever there could be one."""
    yield 0
    told = 0
    try:
        told = parse_binary(place.read_clipped(0, BINARY_LENGTH), 0).size
        yield told
    except MntapiError:
        told = 0  # the first copy's own reading says why
    yield from (at for at in SIZES if at != told and place.read_clipped(at, len(SECOND_MAGIC)) == SECOND_MAGIC)


def _read_copy(place: Place, offset: int) -> tuple[int, Header]:
    binary = parse_binary(place.read_clipped(offset, BINARY_LENGTH), offset)
    raw = bytearray(place.read(offset, binary.size))
    raw[_CHECKSUM_AT : _CHECKSUM_AT + len(binary.checksum)] = bytes(len(binary.checksum))
    size = _CHECKSUMS.get(binary.checksum_name)
    if size is None:
        what = "the checksum of the header is of an unknown kind"
        raise Unsupported(what, offset=offset + 72, found=ascii(binary.checksum_name), reason="checksum")
    expected, found = binary.checksum[:size], hashlib.new(binary.checksum_name, raw).digest()
    if not is_equal(found, expected):
        raise Corrupt("the checksum of the header is wrong", offset=offset, expected=expected.hex(), found=found.hex())
    try:
        fields = _parse_json(bytes(raw[BINARY_LENGTH:]))
        header = metadata.parse(fields)
    except MntapiError as error:
        error.offset = offset + BINARY_LENGTH if error.offset is None else error.offset
        raise
    return binary.sequence, replace(header, uuid=known_uuid(binary.uuid), label=binary.label)


def _parse_json(raw: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(raw.split(b"\0", 1)[0])
    except (ValueError, RecursionError) as error:
        raise Corrupt("the metadata of the header is no JSON", found=str(error)[:100]) from None
    if not isinstance(fields, dict):
        raise Corrupt("the metadata of the header is no JSON object", found=type(fields).__name__)
    return fields
