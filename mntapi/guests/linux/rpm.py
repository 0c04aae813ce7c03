"""RPM's SQLite database: a table ``Packages`` of headers, each a list of tags.

SQLite itself opens the database in memory, without its write-ahead log, trusting nothing of the schema, and stops after a
number of steps: its tables may be made to run for ever.

Source: rpm's lib/rpmtag.h, lib/header.c (``headerImport``), lib/backend/sqlite.c; SQLite file format, section 1.3.3.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing

from mntapi.errors import Corrupt
from mntapi.guests.files import one_line
from mntapi.guests.types import Application
from mntapi.units import MIB

MAX_DATABASE = 128 * MIB
"""Bytes of the database, which is in memory twice; 1500 packages take about 60 MiB."""
MAX_HEADER = 16 * MIB
"""Bytes of one header: some packages have a hundred thousand files."""
MAX_HEADERS = 65_536
"""Packages that are read."""
MAX_TAGS = 65_536
"""Tags of one header."""
MAX_STEPS = 200_000_000
"""Instructions of SQLite's machine for one database."""
_STEP = 100_000
_INTRO = struct.Struct(">II")
_TAG = struct.Struct(">IIII")
_NAME, _VERSION, _RELEASE, _EPOCH, _VENDOR = 1000, 1001, 1002, 1003, 1011
_INT32, _STRING = 4, 6
_WANTED = {_NAME: _STRING, _VERSION: _STRING, _RELEASE: _STRING, _EPOCH: _INT32, _VENDOR: _STRING}
_KEYS = "gpg-pubkey"
"""Not packages: keys that signatures are checked with."""
_JOURNAL_VERSIONS = slice(18, 20)


def rpm_packages(database: bytearray, path: str) -> Iterator[Application]:
    """The packages of a database, which is changed. Raises Corrupt, with its path."""
    if not database.startswith(b"SQLite format 3\0") or len(database) < 512:
        raise Corrupt("no SQLite database", path=path, offset=0, found=bytes(database[:16]).hex(" "))
    database[_JOURNAL_VERSIONS] = b"\1\1"  # a write-ahead log cannot be used with a database in memory
    try:
        with closing(sqlite3.connect(":memory:")) as connection:
            for number, blob in _headers(connection, database):
                found = parse_header(blob, f"{path}, package {number}")
                if found is not None:
                    yield found
    except (sqlite3.Error, OverflowError) as error:
        raise Corrupt(f"the SQLite database cannot be read: {error}", path=path, reason="rpm-database") from None


def parse_header(blob: bytes, path: str) -> Application | None:
    """One package; None if it is a key.

    Raises:
        Corrupt: its numbers contradict one another, or it has no name.
    """
    if len(blob) < _INTRO.size:
        raise Corrupt("an RPM header is cut off", path=path, offset=len(blob))
    count, size = _INTRO.unpack_from(blob)
    start = _INTRO.size + count * _TAG.size
    if count > MAX_TAGS or start + size > len(blob):
        raise Corrupt(
            "an RPM header that is larger than its space", path=path, offset=0, expected=len(blob), found=start + size
        )
    values: dict[int, str] = {}
    for at in range(_INTRO.size, start, _TAG.size):
        tag, kind, offset, _ = _TAG.unpack_from(blob, at)
        if _WANTED.get(tag) == kind:
            values.setdefault(tag, _value(blob, start + offset, kind, path))
    if not values.get(_NAME):
        raise Corrupt("an RPM header without a name", path=path, offset=0)
    if values[_NAME] == _KEYS:
        return None
    version = "-".join(values[tag] for tag in (_VERSION, _RELEASE) if values.get(tag))
    if values.get(_EPOCH, "0") != "0":
        version = f"{values[_EPOCH]}:{version}"
    return Application(values[_NAME], version or None, values.get(_VENDOR) or None, "package")


def _headers(connection: sqlite3.Connection, image: bytearray) -> Iterator[tuple[int, bytes]]:
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_HEADER)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    left = [MAX_STEPS // _STEP]
    connection.set_progress_handler(lambda: _spent(left), _STEP)
    connection.deserialize(image)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    kind = connection.execute("SELECT type FROM sqlite_master WHERE name = 'Packages'").fetchone()
    if kind != ("table",):
        raise sqlite3.DatabaseError("it has no table Packages")
    for number, blob in connection.execute("SELECT hnum, blob FROM Packages LIMIT ?", (MAX_HEADERS,)):
        if not isinstance(blob, bytes):
            raise sqlite3.DatabaseError(f"package {number} is no header")
        yield number, blob


def _spent(left: list[int]) -> int:
    left[0] -= 1
    return int(left[0] < 0)


def _value(blob: bytes, at: int, kind: int, path: str) -> str:
    if kind == _INT32:
        if at + 4 > len(blob):
            raise Corrupt("a number outside its RPM header", path=path, offset=at)
        return str(int.from_bytes(blob[at : at + 4], "big"))
    end = blob.find(b"\0", at)
    if end < 0:
        raise Corrupt("a text outside its RPM header", path=path, offset=at)
    return one_line(blob[at:end].decode("utf-8", "surrogateescape")) or ""
