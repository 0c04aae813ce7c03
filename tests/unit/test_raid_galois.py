"""Sums of products of whole columns, with ISA-L and without it. Oracle: the definitions, byte by byte."""

from __future__ import annotations

import random
from functools import reduce
from operator import xor

import pytest

from mntapi import galois
from mntapi.errors import Invalid
from mntapi.galois import isal

LENGTHS = (1, 31, 32, 63, 64, 65, 1023, isal.WORTH_IT, isal.WORTH_IT + 1, 4096, 20_001)
FACTORS = (1, 2, 3, 0x1D, 255, 1, 128, 77, 76)


@pytest.fixture(params=["ISA-L", "Python"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "Python":
        monkeypatch.setattr(isal, "library", lambda: None)
    elif isal.library() is None:
        pytest.skip("libisal2 is not installed")
    return request.param


def columns_of(count: int, length: int) -> list[memoryview]:
    """Each begins at an odd address."""
    return [memoryview(bytearray(b"x" + random.Random(length + at).randbytes(length)))[1:] for at in range(count)]


def combined(factors: tuple[int, ...], columns: list[memoryview]) -> bytes:
    """Into the middle of a buffer, around which nothing may be written."""
    length = len(columns[0])
    room = bytearray(b"x" * (length + 5))
    galois.combine(factors, columns, memoryview(room)[3 : length + 3])
    assert room[:3] == b"xxx" and room[length + 3 :] == b"xx"
    return bytes(room[3 : length + 3])


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_sums(library: str, count: int) -> None:
    for length in LENGTHS:
        columns = columns_of(count, length)
        want = bytes(reduce(xor, column) for column in zip(*columns, strict=True))
        assert combined((1,) * count, columns) == want


@pytest.mark.parametrize("count", [1, 2, 9])
def test_sums_of_products(library: str, count: int) -> None:
    for length in LENGTHS:
        columns, factors = columns_of(count, length), FACTORS[-count:]
        tables = [[_product(byte, factor) for byte in range(256)] for factor in factors]
        summands = ([table[byte] for byte in column] for table, column in zip(tables, columns, strict=True))
        assert combined(factors, columns) == bytes(reduce(xor, column) for column in zip(*summands, strict=True))


def test_as_many_columns_as_the_largest_array_has(library: str) -> None:
    """ISA-L's manual names no limit, but its matrices have at most 255 rows."""
    columns = columns_of(383, 1500)
    number = reduce(xor, (int.from_bytes(column, "little") for column in columns))
    assert combined((1,) * 383, columns) == number.to_bytes(1500, "little")


def test_columns_that_do_not_fit() -> None:
    one, two = memoryview(bytearray(2048)), memoryview(bytearray(2049))
    for factors, columns in (((1,), []), ((), []), ((1, 1), [one]), ((1, 1), [one, two]), ((1,), [two])):
        with pytest.raises(Invalid, match="columns"):
            galois.combine(factors, columns, memoryview(bytearray(2048)))


def test_numbers() -> None:
    for first in (1, 2, 29, 142, 255):
        assert galois.product(first, galois.inverse(first)) == 1
        for second in (1, 3, 255):
            assert galois.product(first, second) == _product(first, second)


def _product(first: int, second: int) -> int:
    """Multiplication of polynomials over GF(2), then the remainder by 0x11d."""
    product = reduce(xor, (first << bit for bit in range(8) if second >> bit & 1), 0)
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= 0x11D << (bit - 8)
    return product
