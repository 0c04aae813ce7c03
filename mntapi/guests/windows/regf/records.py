"""What cells hold: keys, lists of keys, values. Pure; offsets are those of cells, in bytes from the start of the bins.

Source: "Windows registry file format specification", sections "Key node", "Key value", "Fast leaf" and those beside them.
"""

from __future__ import annotations

import enum
import os
import struct
from dataclasses import dataclass

from mntapi.errors import Corrupt

NODE_SIZE = 76
VALUE_SIZE = 20
MAX_LIST = 4 + 8 * 0xFFFF
"""Bytes of the largest list of keys."""
INLINE = 0x80000000
"""Bit of a value's size: the data, at most 4 bytes, are where its offset would be."""
MAX_SEGMENT = 16344
"""Bytes of one piece of big data; a value is stored in pieces if it is longer."""

_NODE = struct.Struct("<2sHQ4x7I28x2H")
_VALUE = struct.Struct("<2sH3IH2x")
_LIST = struct.Struct("<2sH")
_BIG = struct.Struct("<2sHI")
_COMPRESSED_KEY, _COMPRESSED_VALUE = 0x20, 0x1
_HASH_FACTOR = 37


class ValueKind(enum.IntEnum):
    """Types of values that are decoded; others are bytes."""

    SZ = 1
    EXPAND_SZ = 2
    BINARY = 3
    DWORD = 4
    DWORD_BIG_ENDIAN = 5
    LINK = 6
    MULTI_SZ = 7
    QWORD = 11


@dataclass(frozen=True, slots=True)
class Node:
    """A key. ``written`` counts 100 ns since 1601. ``name_length`` is in bytes: more may be stored than was given."""

    written: int
    parent: int
    subkey_count: int
    subkeys: int
    value_count: int
    values: int
    name_length: int
    is_latin: bool


@dataclass(frozen=True, slots=True)
class Leaf:
    """A list of keys. ``hints``, where there are some, tell without reading a key whether it may have a name."""

    offsets: tuple[int, ...]
    hints: tuple[int, ...]
    kind: bytes


@dataclass(frozen=True, slots=True)
class ValueRecord:
    """A value; ``size`` is in bytes and without the bit ``INLINE``."""

    size: int
    is_inline: bool
    data: int
    kind: int
    name_length: int
    is_latin: bool


def parse_node(raw: bytes) -> Node:
    """A key. Raises Corrupt where it is none."""
    if len(raw) < NODE_SIZE or not raw.startswith(b"nk"):
        raise _not("key", b"nk", raw)
    _, flags, written, parent, count, _, subkeys, _, values, value_list, name_length, _ = _NODE.unpack_from(raw)
    return Node(written, parent, count, subkeys, values, value_list, name_length, bool(flags & _COMPRESSED_KEY))


def parse_value(raw: bytes) -> ValueRecord:
    """A value. Raises Corrupt where it is none."""
    if len(raw) < VALUE_SIZE or not raw.startswith(b"vk"):
        raise _not("value", b"vk", raw)
    _, name_length, size, data, kind, flags = _VALUE.unpack_from(raw)
    is_inline = bool(size & INLINE)
    if is_inline and size & ~INLINE > 4:
        raise Corrupt("a value's data do not fit where they are", offset=4, expected="at most 4", found=size & ~INLINE)
    return ValueRecord(size & ~INLINE, is_inline, data, kind, name_length, bool(flags & _COMPRESSED_VALUE))


def parse_leaf(raw: bytes) -> Leaf:
    """A list of keys (``lf``, ``lh``, ``li``). Raises Corrupt where it is none, or cut off."""
    kind, count = _list_header(raw)
    if kind not in (b"lf", b"lh", b"li"):
        raise _not("list of keys", b"lf", raw)
    step = 1 if kind == b"li" else 2
    words = struct.unpack(f"<{count * step}I", _elements(raw, 4 * count * step))
    return Leaf(words[::step], words[1::2] if step == 2 else (), kind)


def parse_index_root(raw: bytes) -> tuple[int, ...] | None:
    """The lists that make up a long list of keys (``ri``), None if this is no such. Raises Corrupt where it is cut off."""
    kind, count = _list_header(raw)
    return struct.unpack(f"<{count}I", _elements(raw, 4 * count)) if kind == b"ri" else None


def parse_offsets(raw: bytes, count: int) -> tuple[int, ...]:
    """A list of cells without a header. Raises Corrupt where it is cut off."""
    if len(raw) < 4 * count:
        raise Corrupt("a list of cells is cut off", offset=0, expected=f"{4 * count} bytes", found=len(raw))
    return struct.unpack_from(f"<{count}I", raw)


def parse_big_data(raw: bytes) -> tuple[int, int] | None:
    """The number of pieces of big data and the cell with their list; None if this is no such."""
    if len(raw) < _BIG.size or not raw.startswith(b"db"):
        return None
    _, count, offsets = _BIG.unpack_from(raw)
    return count, offsets


def name_hash(name: str) -> int:
    """What ``lh`` lists have beside a key of this name."""
    found = 0
    for (unit,) in struct.iter_unpack("<H", upper(name).encode("utf-16-le", "surrogatepass")):
        found = (found * _HASH_FACTOR + unit) & 0xFFFFFFFF
    return found


def upper(name: str) -> str:
    """A name as Windows compares it: letter by letter in upper case, never changing the number of letters."""
    if name.isascii():
        return name.upper()
    return "".join(above if len(above := letter.upper()) == 1 else letter for letter in name)


def name_text(raw: bytes, *, is_latin: bool) -> str:
    """The name of a key or value."""
    return raw.decode("latin-1") if is_latin else utf16(raw)


def utf16(raw: bytes) -> str:
    """Text; a last odd byte is left out. A surrogate without its partner becomes three bytes that are no UTF-8, as
    ``os.fsdecode`` shows them: it can be printed, stored and compared."""
    text = raw[: len(raw) & ~1].decode("utf-16-le", "surrogatepass")
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsdecode(text.encode("utf-8", "surrogatepass"))
    return text


def _list_header(raw: bytes) -> tuple[bytes, int]:
    if len(raw) < _LIST.size:
        raise Corrupt("a list of keys is cut off", offset=0, expected=f"{_LIST.size} bytes", found=len(raw))
    kind, count = _LIST.unpack_from(raw)
    return kind, count


def _elements(raw: bytes, length: int) -> bytes:
    if len(raw) < _LIST.size + length:
        raise Corrupt("a list of keys is cut off", offset=2, expected=f"{_LIST.size + length} bytes", found=len(raw))
    return raw[_LIST.size :][:length]


def _not(what: str, magic: bytes, raw: bytes) -> Corrupt:
    return Corrupt(f"a cell is no {what}", offset=0, expected=magic.hex(" "), found=raw[:2].hex(" ") or "nothing")
