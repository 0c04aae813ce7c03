"""The C library ISA-L, where the host has it: sums of products in GF(256) with the processor's vector instructions.

Without it Python's own integers do the same, at a hundredth of the speed: they are packed and unpacked digit by digit.

Source: ``erasure_code.h`` of ISA-L 2.30: ``ec_encode_data`` takes vectors of any length and alignment, as many as there are,
in the field of RAID 6 (0x11d). ``xor_gen`` is faster by half, but only on aligned vectors, and a reader's need not be so.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import mntapi.isal
from mntapi.units import KIB

if TYPE_CHECKING:
    import ctypes

WORTH_IT = KIB
"""Bytes from which on a call pays."""
_TABLE = 32
"""Bytes of a factor's table."""
_MAX_TABLES = 256
"""Rows of factors whose tables are kept; one has a factor for each member of an array."""


class Library:
    """ISA-L's functions for parity."""

    def __init__(self, loaded: ctypes.CDLL) -> None:
        import ctypes

        integer, pointer = ctypes.c_int, ctypes.c_char_p
        self._init, self._encode = loaded.ec_init_tables, loaded.ec_encode_data
        self._init.argtypes = (integer, integer, pointer, ctypes.c_void_p)
        self._encode.argtypes = (integer, integer, integer, pointer, pointer, pointer)
        self._init.restype = self._encode.restype = None
        self._address, self._at, self._room = ctypes.addressof, ctypes.c_char.from_buffer, ctypes.create_string_buffer
        self._tables = lru_cache(_MAX_TABLES)(self._make_tables)

    def combine(self, factors: tuple[int, ...], columns: Sequence[memoryview], total: memoryview) -> None:
        """The sum of the columns, each times its factor, into ``total``, which overlaps none of them.

        There are as many columns as factors. All are writable, and as long as ``total``, which is not empty.
        """
        address, at = self._address, self._at
        count = len(columns)
        sources = struct.pack(f"{count}P", *[address(at(column)) for column in columns])
        self._encode(len(total), count, 1, self._tables(factors), sources, struct.pack("P", address(at(total))))

    def _make_tables(self, factors: tuple[int, ...]) -> bytes:
        """A row of factors in the library's own form."""
        tables = self._room(_TABLE * len(factors))
        self._init(len(factors), 1, bytes(factors), tables)
        return tables.raw


@lru_cache(maxsize=1)
def library() -> Library | None:
    """The library; None where there is none."""
    loaded = mntapi.isal.library()
    return None if loaded is None else Library(loaded)
