"""RPM's own database ``Packages.db`` (SUSE): a table of slots, and for each package a blob with its header.

Source: rpm's lib/backend/ndb/rpmpkg.c, whose names are used: the header and slots at the start, pages of 4096 bytes, blobs in
blocks of 16 bytes. Checksums of blobs are compared, as RPM itself does only when told to.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple
from zlib import adler32

from mntapi.blocks import Cache, read
from mntapi.errors import Corrupt, Unsupported
from mntapi.guests.linux.rpm import MAX_HEADER, MAX_HEADERS
from mntapi.types import Blocks

_HEADER = struct.Struct("<4s4I12x")
_SLOT = struct.Struct("<4s3I")
_BLOB = struct.Struct("<4s3I")
_TAIL = struct.Struct("<2I4s")
_PAGE = 4096
_BLOCK = 16
_MAX_PAGES = MAX_HEADERS // (_PAGE // _SLOT.size)


class _Place(NamedTuple):
    """Where a package is: ``offset`` and ``length`` in bytes of the file."""

    number: int
    offset: int
    length: int


def ndb_headers(content: Blocks, path: str) -> Iterator[tuple[int, bytes]]:
    """Every package's number and header.

    Raises:
        Corrupt: no such database, or its numbers contradict one another.
        Unsupported: another version, or more packages than ``MAX_HEADERS``.
        MntapiError: it cannot be read.
    """
    file = Cache(content)
    left = content.size
    for place in _places(file, path):
        left -= place.length
        if left < 0:
            raise Corrupt("packages that share their space", path=path, offset=place.offset, reason="rpm-database")
        yield place.number, _blob(file, place, path)


def _places(file: Blocks, path: str) -> Iterator[_Place]:
    if file.size < _HEADER.size:
        raise Corrupt("no RPM database", path=path, offset=0, found=f"{file.size} bytes", reason="rpm-database")
    magic, version, _, pages, _ = _HEADER.unpack(read(file, 0, _HEADER.size))
    if magic != b"RpmP":
        raise Corrupt(
            "no RPM database", path=path, offset=0, expected="52 70 6d 50", found=magic.hex(" "), reason="rpm-database"
        )
    if version or pages > _MAX_PAGES:
        found = f"version {version}, {pages} pages of slots"
        raise Unsupported("an RPM database of this kind", path=path, offset=4, found=found, reason="rpm-database")
    for offset in range(_HEADER.size, pages * _PAGE, _SLOT.size):
        if offset + _SLOT.size > file.size:
            raise Corrupt("an RPM database that is cut off", path=path, offset=file.size, reason="rpm-database")
        magic, number, block, count = _SLOT.unpack(read(file, offset, _SLOT.size))
        if magic != b"Slot":
            raise Corrupt("a slot of an RPM database is damaged", path=path, offset=offset, reason="rpm-database")
        if number and block:
            yield _Place(number, block * _BLOCK, count * _BLOCK)


def _blob(file: Blocks, place: _Place, path: str) -> bytes:
    _, offset, length = place
    if length < _BLOB.size + _TAIL.size or offset + length > file.size:
        raise Corrupt(
            "a package outside its RPM database", path=path, offset=offset, expected=f"in {file.size} bytes", found=length
        )
    if length > MAX_HEADER:
        raise Unsupported("a package is too large", path=path, offset=offset, expected=f"at most {MAX_HEADER}", found=length)
    raw = read(file, offset, length)
    magic, number, _, size = _BLOB.unpack_from(raw)
    end = length - _TAIL.size
    checksum, again, last = _TAIL.unpack_from(raw, end)
    if (magic, number, last, again) != (b"BlbS", place.number, b"BlbE", size) or size > end - _BLOB.size:
        raise Corrupt(f"package {place.number} of an RPM database is damaged", path=path, offset=offset, reason="rpm-database")
    if adler32(raw[:end]) != checksum:
        raise Corrupt(f"the checksum of package {place.number} is wrong", path=path, offset=offset + end, reason="rpm-database")
    return raw[_BLOB.size : _BLOB.size + size]
