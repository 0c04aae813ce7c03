"""Sums and products of whole columns, with ISA-L and without it. Oracle: the definitions, byte by byte."""

from __future__ import annotations

import random
from functools import reduce
from operator import xor

import pytest

from mntapi.isal import library as find_library
from mntapi.volumes.raid import galois, isal

LENGTHS = (0, 1, 31, 4095, 4096, 4097, 4128, isal.STEP, isal.STEP + 1, 3 * isal.STEP + 12_345)


@pytest.fixture(params=["ISA-L", "Python"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "Python":
        monkeypatch.setattr(galois, "library", lambda: None)
    elif find_library() is None:
        pytest.skip("libisal2 is not installed")
    return request.param


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
def test_sums(library: str, count: int) -> None:
    for length in LENGTHS:
        columns = [random.Random(length + at).randbytes(length) for at in range(count)]
        want = bytes(reduce(xor, column) for column in zip(*columns, strict=True)) if columns else bytes(length)
        assert galois.add(iter(columns), length) == want
        assert galois.add([memoryview(bytearray(b"x" + column))[1:] for column in columns], length) == want


def test_products(library: str) -> None:
    for length in LENGTHS:
        column = random.Random(length).randbytes(length)
        for factor in (1, 2, 3, 0x1D, 255):
            table = [_product(byte, factor) for byte in range(256)]
            assert galois.multiply(column, factor) == bytes(table[byte] for byte in column)


def _product(first: int, second: int) -> int:
    """Multiplication of polynomials over GF(2), then the remainder by 0x11d."""
    product = reduce(xor, (first << bit for bit in range(8) if second >> bit & 1), 0)
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= 0x11D << (bit - 8)
    return product
