"""Indexes: the names in a folder (``$I30``), the reparse points of a volume (``$R``), in an index's root and in its blocks.

The tree is not walked: every block that the index's bitmap calls used is read in the order on disk, which finds every name once
even where the tree's links are damaged.

Source: Linux-NTFS project documentation, "$INDEX_ROOT", "$INDEX_ALLOCATION", "$FILE_NAME", "$Reparse".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from mntapi.errors import Corrupt

ROOT_HEADER = 16
BLOCK_HEADER = 24
DOS_NAMESPACE = 2
"""An 8.3 name beside a long one."""
_INDEX = struct.Struct("<2I")
_ENTRY = struct.Struct("<Q3H2x")
_FILE_NAME = struct.Struct("<Q48xI")
_REPARSE_KEY = struct.Struct("<IQ")
_LAST = 0x2
_NAME_AT = 66
_DIRECTORY = 0x10000000
"""File attribute that only ``$FILE_NAME`` has."""


T = TypeVar("T")


class IndexEntry(NamedTuple):
    """A name in a folder. ``reference``: record number, and its sequence number in the upper 16 bits."""

    reference: int
    parent: int
    is_directory: bool
    namespace: int
    name: bytes


def utf8(name: bytes) -> bytes:
    """A UTF-16 name as UTF-8. A surrogate without its partner becomes three bytes of its own, as ntfs-3g writes it."""
    return name.decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass")


class ReparseEntry(NamedTuple):
    """A reparse point: its tag, and the file that is one, as in ``IndexEntry``."""

    tag: int
    reference: int


def parse_entries(raw: bytes, header: int, at: int) -> Iterator[IndexEntry]:
    """The names of an index root or block; see ``_entries``."""
    return _entries(raw, header, at, _file_name)


def parse_reparse_entries(raw: bytes, header: int, at: int) -> Iterator[ReparseEntry]:
    """The reparse points of an index root or block; see ``_entries``."""
    return _entries(raw, header, at, _reparse_point)


def _entries(raw: bytes, header: int, at: int, parse: Callable[[bytes, int, int], T]) -> Iterator[T]:
    """What an index root or block has.

    Args:
        raw: the attribute's value, or the block with its fixups applied.
        header: where the index header starts in it, ``ROOT_HEADER`` or ``BLOCK_HEADER``.
        at: byte of ``raw`` in its stream, for errors.
        parse: makes something of a key, the eight bytes in front of it and its place.

    Raises:
        Corrupt: an entry lies outside; those before it were yielded.
    """
    if header + _INDEX.size > len(raw):
        raise Corrupt("an index is cut off", offset=at, expected=f"at least {header + _INDEX.size} bytes", found=len(raw))
    first, length = _INDEX.unpack_from(raw, header)
    offset, end = header + first, min(header + length, len(raw))
    while True:
        if offset + _ENTRY.size > end:
            raise Corrupt("an index has no last entry", offset=at + offset)
        reference, size, key_size, flags = _ENTRY.unpack_from(raw, offset)
        if flags & _LAST:
            return
        if size < _ENTRY.size + key_size or size % 8 or offset + size > end:
            raise Corrupt("an index entry does not fit", offset=at + offset, expected=f"at most {end - offset}", found=size)
        key_at = offset + _ENTRY.size
        yield parse(raw[key_at : key_at + key_size], reference, at + offset)
        offset += size


def _file_name(key: bytes, reference: int, at: int) -> IndexEntry:
    _check_whole(key, at)
    parent, attributes = _FILE_NAME.unpack_from(key)
    return IndexEntry(reference, parent, bool(attributes & _DIRECTORY), key[65], utf8(key[_NAME_AT : _NAME_AT + 2 * key[64]]))


def _reparse_point(key: bytes, _: int, at: int) -> ReparseEntry:
    if len(key) < _REPARSE_KEY.size:
        raise Corrupt("a key of the index of reparse points is cut off", offset=at, found=f"{len(key)} bytes")
    return ReparseEntry(*_REPARSE_KEY.unpack_from(key))


def parse_name(value: bytes) -> tuple[int, bytes]:
    """The folder that a ``$FILE_NAME`` attribute says the file is in, and the name there. Raises Corrupt if cut off."""
    entry = _file_name(value, 0, 0)
    return entry.parent, entry.name


def block_size(root: bytes) -> int:
    """Bytes of an index block, from the value of the index root. Raises Corrupt where that is impossible."""
    if len(root) < ROOT_HEADER:
        raise Corrupt("an index root is cut off", expected=f"at least {ROOT_HEADER} bytes", found=len(root))
    size: int = struct.unpack_from("<I", root, 8)[0]
    if not 512 <= size <= 1 << 16 or size & (size - 1):
        raise Corrupt("the size of an index block is impossible", offset=8, expected="512 to 65536", found=size)
    return size


def _check_whole(key: bytes, at: int) -> None:
    if len(key) < _NAME_AT or len(key) < _NAME_AT + 2 * key[64]:
        raise Corrupt("a file name is cut off", offset=at, found=f"{len(key)} bytes")


def is_link(value: bytes) -> bool:
    """Whether a ``$FILE_NAME`` attribute is a link to the file, and not the 8.3 name of one. Raises Corrupt if cut off."""
    _check_whole(value, 0)
    return value[65] != DOS_NAMESPACE


def used_blocks(bitmap: bytes, count: int) -> Iterator[int]:
    """Numbers of the blocks, below ``count``, that the index's bitmap calls used."""
    for index in range(min(count, 8 * len(bitmap))):
        if bitmap[index >> 3] >> (index & 7) & 1:
            yield index


def fold_case(name: str) -> str:
    """A name as Windows compares it: letter by letter in upper case, never changing the number of letters."""
    if name.isascii():
        return name.upper()
    return "".join(upper if len(upper := letter.upper()) == 1 else letter for letter in name)
