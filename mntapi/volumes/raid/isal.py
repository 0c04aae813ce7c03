"""XOR and products in GF(256) by ISA-L, where the host has it.

Without it Python's own integers do the same, at a tenth of the speed: they are packed and unpacked digit by digit.

Source: ``raid.h`` and ``erasure_code.h`` of ISA-L 2.30: ``xor_gen`` wants its vectors aligned to 32 bytes, and refuses others;
``gf_vect_mul`` wants a length that is a multiple of 32. Its field is that of RAID 6 (0x11d).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from mntapi import isal
from mntapi.errors import Failed
from mntapi.units import KIB, align_up

if TYPE_CHECKING:
    import ctypes

ALIGNMENT = 32
STEP = 32 * KIB
"""Bytes of each column worked on at a time, so that all of them stay in the processor's cache."""
WORTH_IT = 4 * KIB
"""Bytes from which on a call pays."""


class Adder(threading.local):
    """Adds columns in memory of its own, one for each thread: aligned, and mapped only once."""

    def __init__(self) -> None:
        self._count = 0

    def _prepare(self, count: int) -> None:
        """Room for ``count`` columns and their sum."""
        import ctypes

        self._count = count
        room = bytearray((count + 1) * STEP + ALIGNMENT)
        address = ctypes.addressof(ctypes.c_char.from_buffer(room))
        start = align_up(address, ALIGNMENT) - address
        self._room = memoryview(room)[start : start + (count + 1) * STEP]
        self._places = (ctypes.c_void_p * (count + 1))(*(address + start + at * STEP for at in range(count + 1)))

    def add(self, loaded: ctypes.CDLL, columns: Sequence[bytes | memoryview], total: memoryview) -> None:
        """The sum of at least two columns into ``total``, which is as long as each, and may be one of them."""
        count = len(columns)
        if count != self._count:
            self._prepare(count)
        room = self._room
        for start in range(0, len(total), STEP):
            size = min(STEP, len(total) - start)
            for index, column in enumerate(columns):
                room[index * STEP : index * STEP + size] = column[start : start + size]
            if loaded.xor_gen(count + 1, align_up(size, ALIGNMENT), self._places):
                raise Failed("ISA-L refuses to add columns")
            total[start : start + size] = room[count * STEP : count * STEP + size]


@cache
def _products(factor: int) -> bytes:
    """The table of a factor, in the library's own form."""
    import ctypes

    loaded = isal.library()
    table = ctypes.create_string_buffer(32)
    if loaded is not None:
        loaded.gf_vect_mul_init(factor, table)
    return table.raw


def multiply(loaded: ctypes.CDLL, column: bytes, factor: int) -> bytes:
    """Every byte times ``factor``; the length is a multiple of ``ALIGNMENT``."""
    import ctypes

    product = ctypes.create_string_buffer(len(column))
    if loaded.gf_vect_mul(len(column), _products(factor), column, product):
        raise Failed("ISA-L refuses to multiply a column")
    return product.raw
