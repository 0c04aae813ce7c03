"""Devices of ZFS pools. Source: Sun "ZFS On-Disk Specification" 2006, sections 1.2 and 1.3; XDR: RFC 4506."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source
from mntapi.units import KIB

_NVLIST_AT, _NVLIST_SIZE = 16 * KIB, 112 * KIB
_PAIR_LIMIT = 256
_UINT64, _STRING = 8, 9


def label(source: Source, base: int) -> Found | None:
    """One of the four labels: a list of names and values that has at least the pool's GUID and a state.

    The UUID is the GUID as a decimal number. Spares and cache devices have no pool of their own and are not told.
    """
    pairs = dict(_pairs(source.read(base + _NVLIST_AT, _NVLIST_SIZE)))
    guid, name = pairs.get("pool_guid"), pairs.get("name")
    if not isinstance(guid, int) or not guid or "state" not in pairs:
        return None
    return Found(values.text(name) if isinstance(name, bytes) else None, str(guid))


def _pairs(raw: bytes) -> Iterator[tuple[str, int | bytes]]:
    """The numbers and strings at the top of an XDR nvlist; lists inside it are skipped. Each pair is at least 24 bytes."""
    at = 12
    for _ in range(_PAIR_LIMIT):
        if at + 24 > len(raw):
            return
        size, _decoded, name_length = struct.unpack_from(">III", raw, at)
        value_at = at + 12 + -(-name_length // 4) * 4
        if size < 24 or at + size > len(raw) or value_at + 12 > at + size:
            return
        name = raw[at + 12 : at + 12 + name_length].decode("ascii", "replace")
        kind, _count, length = struct.unpack_from(">III", raw, value_at)
        if kind == _UINT64 and value_at + 16 <= at + size:
            yield name, int.from_bytes(raw[value_at + 8 : value_at + 16], "big")
        elif kind == _STRING and value_at + 12 + length <= at + size:
            yield name, raw[value_at + 12 : value_at + 12 + length]
        at += size
