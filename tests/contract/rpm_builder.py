"""RPM's older databases by hand: NDB, and hash tables of Berkeley DB, of headers by number."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from zlib import adler32

PAGE = 512


def ndb(headers: Mapping[int, bytes], *, version: int = 0, pages: int = 1) -> bytearray:
    """``Packages.db``: a page of slots, then the blobs."""
    slots, blobs = b"", b""
    for number, header in headers.items():
        size = -(-(16 + len(header) + 12) // 16) * 16
        body = (struct.pack("<4s3I", b"BlbS", number, 1, len(header)) + header).ljust(size - 12, b"\0")
        slots += struct.pack("<4s3I", b"Slot", number, (4096 * pages + len(blobs)) // 16, size // 16)
        blobs += body + struct.pack("<2I4s", adler32(body), len(header), b"BlbE")
    table = struct.pack("<4s4I12x", b"RpmP", version, 1, pages, len(headers) + 1) + slots
    table += struct.pack("<4s12x", b"Slot") * ((4096 * pages - len(table)) // 16)
    return bytearray(table + blobs)


def meta(last: int, *, order: str = "<", version: int = 9, size: int = PAGE, kind: int = 8, encryption: int = 0) -> bytes:
    """The first page."""
    raw = struct.pack(f"{order}12xIII2B6xI", 0x061561, version, size, encryption, kind, last)
    return raw.ljust(size, b"\0")


def hash_page(items: Sequence[bytes], *, order: str = "<", kind: int = 13) -> bytes:
    """A page of the table: keys and values in turn, each with its type in front."""
    places, body = [], b""
    for item in items:
        body = item + body
        places.append(PAGE - len(body))
    head = struct.pack(f"{order}16xI2HxB", 0, len(items), places[-1] if places else PAGE, kind)
    return (head + struct.pack(f"{order}{len(places)}H", *places)).ljust(PAGE - len(body), b"\0") + body


def key(number: int, order: str = "<") -> bytes:
    return b"\1" + struct.pack(f"{order}I", number)


def off_page(page: int, length: int, order: str = "<") -> bytes:
    return struct.pack(f"{order}B3xII", 3, page, length)


def overflow(content: bytes, following: int, *, order: str = "<", kind: int = 7) -> bytes:
    """A page of a long value."""
    return (struct.pack(f"{order}16xI2HxB", following, 1, len(content), kind) + content).ljust(PAGE, b"\0")


def chain(content: bytes, first: int, order: str = "<") -> list[bytes]:
    """The pages of a long value, the first of which is page ``first``."""
    room = PAGE - 26
    pieces = [content[at : at + room] for at in range(0, len(content), room)]
    last = len(pieces) - 1
    return [overflow(piece, 0 if at == last else first + at + 1, order=order) for at, piece in enumerate(pieces)]
