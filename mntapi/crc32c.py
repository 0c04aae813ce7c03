"""CRC-32C (Castagnoli): the checksum of VHDX, of the device-mapper's metadata, of XFS, btrfs and others.

Python has CRC-32 only. ISA-L does it where the host has that. Elsewhere a loop over bytes does 8 MB/s, too slow for a log of
some megabytes: so the data is cut into columns, ``bytes.translate`` looks up one byte of every column at once, and the columns'
checksums are then joined: up to 100 MB/s. One block alone has too few columns for that; the columns of many blocks do as well
as those of a long one, so whoever has many asks for theirs together.

Source: RFC 3720, appendix B.4 (polynomial and test vectors); Mark Adler's ``crc32_combine`` in zlib for the joining.
"""

from __future__ import annotations

from functools import cache

from mntapi.isal import library

_POLYNOMIAL = 0x82F63B78
_ROWS = 128
"""Bytes in a column: with more of them long data is a little faster, and a block of some KiB much slower."""
_WORTH_IT = 16
"""Bytes from which on a call of the library pays."""


def crc32c(data: bytes) -> int:
    """The CRC-32C of ``data``."""
    return crc32c_raw(0xFFFFFFFF, data) ^ 0xFFFFFFFF


def crc32c_raw(state: int, data: bytes) -> int:
    """The same without its first and last inversion, as formats that begin with a seed of their own use it."""
    loaded = library() if len(data) >= _WORTH_IT else None
    if loaded is not None:
        return int(loaded.crc32_iscsi(bytes(data), len(data), state))
    columns = len(data) // _ROWS
    if columns > 1:
        state = _join(state, _columns(data, columns))
        data = data[columns * _ROWS :]
    table = _table()
    for byte in data:
        state = table[(state ^ byte) & 0xFF] ^ state >> 8
    return state


def crc32c_each(data: bytes, size: int) -> tuple[int, ...]:
    """The CRC-32C of each ``size`` bytes of ``data``, whose length is a multiple of that."""
    per_piece, rest = divmod(size, _ROWS)
    if rest or library() is not None:
        return tuple(crc32c(data[at : at + size]) for at in range(0, len(data), size))
    columns = _columns(data, len(data) // _ROWS)
    return tuple(_join(0xFFFFFFFF, columns[at : at + per_piece]) ^ 0xFFFFFFFF for at in range(0, len(columns), per_piece))


@cache
def _table() -> tuple[int, ...]:
    """What each byte value does to the state."""
    table = []
    for state in range(256):
        for _ in range(8):
            state = state >> 1 ^ (_POLYNOMIAL if state & 1 else 0)
        table.append(state)
    return tuple(table)


@cache
def _planes() -> tuple[bytes, ...]:
    """``_table`` as four translation tables, one for each byte of the state, lowest first."""
    return tuple(bytes(value >> shift & 0xFF for value in _table()) for shift in (0, 8, 16, 24))


def _columns(data: bytes, columns: int, states: tuple[int, int, int, int] = (0, 0, 0, 0)) -> tuple[int, ...]:
    """The state of each column of ``_ROWS`` bytes. ``states`` is what they start from: byte planes, as below."""
    low, second, third, high = states  # plane k holds byte k of every column's state, as one long number
    planes = _planes()
    for row in range(_ROWS):
        index = (low ^ int.from_bytes(data[row : columns * _ROWS : _ROWS], "little")).to_bytes(columns, "little")
        steps = [int.from_bytes(index.translate(plane), "little") for plane in planes]
        low, second, third, high = second ^ steps[0], third ^ steps[1], high ^ steps[2], steps[3]
    parts = (plane.to_bytes(columns, "little") for plane in (low, second, third, high))
    return tuple(int.from_bytes(state, "little") for state in zip(*parts, strict=True))


@cache
def _skip() -> tuple[tuple[int, ...], ...]:
    """What ``_ROWS`` zero bytes make of a state: one table for each of its bytes, to be joined by exclusive or."""
    start = [(byte << shift) for shift in (0, 8, 16, 24) for byte in range(256)]
    planes = tuple(int.from_bytes(bytes(state >> shift & 0xFF for state in start), "little") for shift in (0, 8, 16, 24))
    end = _columns(bytes(_ROWS * len(start)), len(start), (planes[0], planes[1], planes[2], planes[3]))
    return tuple(end[at : at + 256] for at in range(0, 1024, 256))


def _join(state: int, columns: tuple[int, ...]) -> int:
    first, second, third, fourth = _skip()
    for column in columns:
        moved = first[state & 0xFF] ^ second[state >> 8 & 0xFF] ^ third[state >> 16 & 0xFF] ^ fourth[state >> 24]
        state = moved ^ column
    return state
