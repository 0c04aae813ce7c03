"""Parity arithmetic: what a member held is a sum of others, each times a factor. By ISA-L where it is installed, else by
Python: sums are XOR of long integers, products a table look-up for every byte.

The field is GF(256) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11d) and the generator 2.
Source: H. Peter Anvin, "The mathematics of RAID-6", 2004-2011, sections 1 to 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from mntapi.errors import Invalid
from mntapi.galois import isal

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

_LOGARITHMS = {power: exponent for exponent, power in enumerate(POWERS)}


def inverse(factor: int) -> int:
    """One divided by ``factor``, which is not 0."""
    return POWERS[-_LOGARITHMS[factor] % ORDER]


def product(first: int, second: int) -> int:
    """Of two numbers that are not 0."""
    return POWERS[(_LOGARITHMS[first] + _LOGARITHMS[second]) % ORDER]


@cache
def _table(factor: int) -> bytes:
    """The products of every byte and ``factor``; at most 256 tables of 256 bytes are ever kept."""
    return bytes([0] + [product(byte, factor) for byte in range(1, 256)])


def combine(factors: tuple[int, ...], columns: Sequence[memoryview], total: memoryview) -> None:
    """The sum of the columns, each times its factor, into ``total``.

    Args:
        factors: none is 0.
        columns: at least one, as many as factors, each as long as ``total``; writable, though they are only read.
        total: overlaps none of them.

    Raises:
        Invalid: their number or a length is wrong.
    """
    length = len(total)
    if len(factors) != len(columns) or {*map(len, columns)} != {length}:
        raise Invalid("columns of different lengths, or not one for each factor")
    library = isal.library() if length >= isal.WORTH_IT else None
    if library is not None:
        library.combine(factors, columns, total)
        return
    number = 0
    for factor, column in zip(factors, columns, strict=True):
        number ^= int.from_bytes(column if factor == 1 else bytes(column).translate(_table(factor)), "little")
    total[:] = number.to_bytes(length, "little")
