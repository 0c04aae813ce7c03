"""Parity arithmetic on whole chunks, by ISA-L where it is installed, else by Python: sums are XOR of long integers, products a
table look-up for every byte.

The field is GF(256) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11d) and the generator 2.
Source: H. Peter Anvin, "The mathematics of RAID-6", 2004-2011, sections 1 to 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from mntapi.isal import library
from mntapi.volumes.raid import isal

_POLYNOMIAL = 0x11D
ORDER = 255
"""Powers of the generator there are, and so the largest number of data disks that can be told apart."""


def _powers() -> tuple[int, ...]:
    powers = [1]
    while len(powers) < ORDER:
        doubled = powers[-1] << 1
        powers.append(doubled ^ _POLYNOMIAL if doubled > ORDER else doubled)
    return tuple(powers)


POWERS = _powers()
"""The generator to the power of the index."""

_adder = isal.Adder()
_LOGARITHMS = {power: exponent for exponent, power in enumerate(POWERS)}


def inverse(factor: int) -> int:
    """One divided by ``factor``, which is not 0."""
    return POWERS[-_LOGARITHMS[factor] % ORDER]


@cache
def _table(factor: int) -> bytes:
    """The products of every byte and ``factor``; at most 256 tables of 256 bytes are ever kept."""
    shift = _LOGARITHMS[factor]
    return bytes([0] + [POWERS[(_LOGARITHMS[byte] + shift) % ORDER] for byte in range(1, 256)])


def multiply(column: bytes, factor: int) -> bytes:
    """Every byte times ``factor``, which is not 0."""
    if factor == 1:
        return column
    loaded = library() if len(column) >= isal.WORTH_IT and len(column) % isal.ALIGNMENT == 0 else None
    return column.translate(_table(factor)) if loaded is None else isal.multiply(loaded, column, factor)


def add(columns: Iterable[bytes | memoryview], length: int) -> bytes:
    """The sum of columns of ``length`` bytes, zeros if there are none."""
    total = bytearray(length)
    add_into(columns, memoryview(total))
    return bytes(total)


def add_into(columns: Iterable[bytes | memoryview], total: memoryview) -> None:
    """The same into ``total``, which may be one of the columns."""
    summands = list(columns)
    loaded = library() if len(total) >= isal.WORTH_IT and len(summands) > 1 else None
    if loaded is not None:
        _adder.add(loaded, summands, total)
        return
    number = 0
    for column in summands:
        number ^= int.from_bytes(column, "little")
    total[:] = number.to_bytes(len(total), "little")


def weighted(columns: Mapping[int, bytes], weights: Mapping[int, int]) -> Iterable[bytes]:
    """Each column times the weight of the same key."""
    return (multiply(column, weights[key]) for key, column in columns.items())
