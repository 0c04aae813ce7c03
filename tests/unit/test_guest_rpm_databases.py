"""RPM's older databases: Berkeley DB as its own tools write it and rpm reads it, NDB by its description; and hostile ones."""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
import subprocess
from pathlib import Path

import pytest

from contract.memory_filesystem import Memory, MemoryFileSystem
from contract.mounting import need
from contract.rpm_builder import PAGE, chain, hash_page, key, meta, ndb, off_page, overflow
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.guests.linux import rpm_bdb, rpm_ndb
from mntapi.guests.linux.packages import find_packages
from mntapi.guests.linux.rpm import parse_header
from mntapi.guests.linux.rpm_bdb import bdb_headers
from mntapi.guests.linux.rpm_ndb import ndb_headers

HEADERS = {1: b"a header", 2: b"x" * 100, 7: bytes(range(256)) * 8}


def named(name: str) -> bytes:
    """A header with no more than a name."""
    return struct.pack(">6I", 1, len(name) + 1, 1000, 6, 0, 1) + name.encode() + b"\0"


def bdb(order: str = "<", kind: int = 13) -> bytes:
    """``HEADERS``, the longest of them on pages of its own, and the number that RPM keeps at 0."""
    pages = chain(HEADERS[7], 3, order)
    items = [key(0, order), b"\1" + struct.pack(f"{order}I", 8), key(1, order), b"\1" + HEADERS[1]]
    more = [key(7, order), off_page(3, len(HEADERS[7]), order), key(2, order), b"\1" + HEADERS[2]]
    tables = [hash_page(items, order=order, kind=kind), hash_page(more, order=order, kind=kind)]
    return b"".join([meta(2 + len(pages), order=order), *tables, *pages])


def read_bdb(raw: bytes) -> dict[int, bytes]:
    return dict(bdb_headers(Memory(raw), "/Packages"))


def read_ndb(raw: bytes) -> dict[int, bytes]:
    return dict(ndb_headers(Memory(bytes(raw)), "/Packages.db"))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [2, 13])
def test_a_hash_table_in_either_byte_order(order: str, kind: int) -> None:
    assert read_bdb(bdb(order, kind)) == HEADERS


def test_slots_and_blobs() -> None:
    assert read_ndb(ndb(HEADERS)) == HEADERS
    assert read_ndb(ndb({}, pages=2)) == {}


def made_by_rpm(folder: Path) -> dict[int, bytes]:
    """Headers out of a database that rpm made: of a package, and of one with many files."""
    need("rpm", "rpmbuild")
    spec = folder / "tiny.spec"
    spec.write_text(
        "Name: tiny\nVersion: 1.2\nRelease: 3\nEpoch: 4\nSummary: s\nLicense: none\nVendor: Some One\nBuildArch: noarch\n"
        "%description\n%package big\nSummary: s\n%description big\n%install\nmkdir -p %{buildroot}/big\n"
        "for i in $(seq 300); do > %{buildroot}/big/a_long_file_name_$i; done\n%files\n%files big\n/big\n"
    )
    macros = ["--define", f"_topdir {folder}", "--define", f"_dbpath {folder}/db"]
    subprocess.run(["rpmbuild", "--quiet", "-bb", *macros[:2], spec], check=True, capture_output=True)
    packages = sorted((folder / "RPMS").rglob("*.rpm"))
    subprocess.run(["rpm", *macros, "--justdb", "--nodeps", "-i", *packages], check=True, capture_output=True)
    with sqlite3.connect(folder / "db" / "rpmdb.sqlite") as connection:
        return dict(connection.execute("SELECT hnum, blob FROM Packages"))


@pytest.mark.parametrize("byte_order", [1234, 4321])
def test_what_berkeley_db_wrote_as_rpm_lists_it(tmp_path: Path, byte_order: int) -> None:
    headers = made_by_rpm(tmp_path)
    tool = next(filter(None, map(shutil.which, ("db5.3_load", "db_load"))), None)
    if tool is None:
        pytest.skip("needs Berkeley DB's db_load")
    order = "little" if byte_order == 1234 else "big"
    pairs = {number.to_bytes(4, order): header for number, header in {0: b"\3\0\0\0", **headers}.items()}
    lines = [f" {part.hex()}\n" for pair in pairs.items() for part in pair]
    text = f"VERSION=3\nformat=bytevalue\ntype=hash\ndb_lorder={byte_order}\nHEADER=END\n{''.join(lines)}DATA=END\n"
    path = tmp_path / "old" / "Packages"
    path.parent.mkdir()
    subprocess.run([tool, path], input=text, text=True, check=True)
    assert read_bdb(path.read_bytes()) == headers
    fs = MemoryFileSystem({"var": {"lib": {"rpm": {"Packages": path.read_bytes()}}}})
    found = {f"{one.name} {one.version} {one.publisher}" for one in find_packages(fs)}
    assert found == {"tiny 4:1.2-3 Some One", "tiny-big 4:1.2-3 Some One"}
    if byte_order == 1234:  # rpm reads its own byte order only
        query = ["-qa", "--dbpath", path.parent, "--qf", "%{NAME} %{EPOCH}:%{VERSION}-%{RELEASE} %{VENDOR}\n"]
        told = subprocess.run(["rpm", "--define", "_db_backend bdb_ro", *query], capture_output=True, text=True, check=True)
        assert set(told.stdout.splitlines()) == found


def test_what_is_left_of_an_older_database_does_not_count() -> None:
    both = {"Packages": bdb(), "Packages.db": bytes(ndb({3: named("new")}))}
    fs = MemoryFileSystem({"var": {"lib": {"rpm": both}}})
    assert [one.name for one in find_packages(fs)] == ["new"]


@pytest.mark.parametrize("name", ["Packages", "Packages.db"])
def test_errors_name_the_file(name: str) -> None:
    fs = MemoryFileSystem({"var": {"lib": {"rpm": {name: b"x" * 600}}}})
    with pytest.raises(Corrupt, match=f"^/var/lib/rpm/{name}: no "):
        find_packages(fs)


@pytest.mark.parametrize("name", ["Packages", "Packages.db"])
def test_a_database_that_is_too_large(name: str) -> None:
    huge = Memory(bdb())
    huge.size = 1 << 42
    with pytest.raises(Unsupported, match=f"^/var/lib/rpm/{name}: is too large"):
        find_packages(MemoryFileSystem({"var": {"lib": {"rpm": {name: huge}}}}))


def test_many_numbers_that_are_no_packages_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpm_bdb, "MAX_HEADERS", 10)
    pages = [hash_page([key(0), b"\1x"] * 6)] * 2
    with pytest.raises(Unsupported, match="too many packages"):
        read_bdb(b"".join([meta(2), *pages]))


def test_keys_are_no_packages_and_damaged_headers_are_told() -> None:
    fs = MemoryFileSystem({"usr": {"lib": {"sysimage": {"rpm": {"Packages.db": bytes(ndb({1: named("gpg-pubkey")}))}}}}})
    assert find_packages(fs) == []
    with pytest.raises(Corrupt, match="an RPM header"):
        parse_header(HEADERS[1], "")


def patched(raw: bytes, offset: int, layout: str, *values: object) -> bytes:
    changed = bytearray(raw)
    struct.pack_into(layout, changed, offset, *values)
    return bytes(changed)


NDB = bytes(ndb(HEADERS))


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"RpmP", "no RPM database"),
        (patched(NDB, 0, "<4s", b"RpmQ"), "no RPM database"),
        (bytes(ndb({}))[:4000], "cut off"),
        (patched(NDB, 32, "<4s", b"slot"), "a slot"),
        (patched(NDB, 40, "<I", 1 << 31), "outside"),
        (patched(NDB, 44, "<I", 1), "outside"),
        (patched(NDB, 4096, "<4s", b"BlbX"), "is damaged"),
        (patched(NDB, 4100, "<I", 9), "is damaged"),
        (patched(NDB, 4108, "<I", 1 << 20), "is damaged"),
        (patched(NDB, 4112, "<I", 9), "the checksum of package 1"),
        (patched(NDB, 32, "<" + "4s3I" * 200, *(b"Slot", 1, 256, 3) * 200), "share their space"),
    ],
)
def test_slots_that_make_no_sense(raw: bytes, what: str) -> None:
    with pytest.raises(Corrupt, match=what) as caught:
        read_ndb(raw)
    assert caught.value.path == "/Packages.db"


def test_more_than_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for raw in (patched(NDB, 4, "<I", 1), patched(NDB, 12, "<I", 1 << 30)):
        with pytest.raises(Unsupported, match="of this kind"):
            read_ndb(raw)
    for module in (rpm_ndb, rpm_bdb):
        monkeypatch.setattr(module, "MAX_HEADER", 64)
    with pytest.raises(Unsupported, match="a package is too large"):
        read_ndb(NDB)
    with pytest.raises(Unsupported, match="a package is too large"):
        read_bdb(bdb())
    monkeypatch.setattr(rpm_bdb, "MAX_HEADERS", 0)
    with pytest.raises(Unsupported, match="too many packages"):
        read_bdb(bdb())
    monkeypatch.setattr(rpm_bdb, "MAX_PAGES", 1)
    with pytest.raises(Unsupported, match="too many pages"):
        read_bdb(bdb())
    for raw in (meta(0, version=7), meta(0, encryption=1), patched(meta(0), 26, "B", 1)):
        with pytest.raises(Unsupported, match="of this kind"):
            read_bdb(raw)


LONG = off_page(2, 600)


def table(*items: bytes, after: tuple[bytes, ...] = ()) -> bytes:
    return b"".join([meta(1 + len(after)), hash_page(items), *after])


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (meta(0)[:400], "no hash table"),
        (meta(0, kind=9), "first page"),
        (patched(meta(0), 20, "<I", 1000), "first page"),
        (table(key(1)), "a key without a value"),
        (table(b"\1abc", b"\1x"), "a key that is no number"),
        (table(b"\3abcd", b"\1x"), "a key that is no number"),
        (table(key(1), b"\2x"), "does not store"),
        (table(key(1), LONG[:-1]), "does not store"),
        (table(key(1), LONG), "a page outside"),
        (table(key(1), LONG, after=(overflow(b"x" * 400, 2), overflow(b"y", 0))), "a chain of pages"),
        (table(key(1), LONG, after=(overflow(b"", 0),)), "a chain of pages"),
        (table(key(1), LONG, after=(overflow(b"x" * 9, 0, kind=5),)), "a chain of pages"),
        (table(key(1), off_page(2, 5), after=(overflow(b"x" * 9, 0),)), "a chain of pages"),
        (table(key(1), off_page(2, 600), after=(overflow(b"x", 2),)), "a chain of pages"),
        (patched(table(key(1), b"\1x"), PAGE + 20, "<H", 300), "more items"),
        (patched(table(key(1), b"\1x"), PAGE + 26, "<2H", 400, 450), "overlap"),
    ],
)
def test_tables_that_make_no_sense(raw: bytes, what: str) -> None:
    with pytest.raises(Corrupt, match=what) as caught:
        read_bdb(raw)
    assert caught.value.path == "/Packages" and caught.value.offset is not None


def test_any_byte_may_be_another() -> None:
    """Whatever is changed: the headers, or an error of ours."""
    numbers = random.Random(4)
    for raw, reader in ((bdb(), read_bdb), (NDB, read_ndb)):
        for _ in range(400):
            changed = bytearray(raw)
            for _ in range(numbers.randrange(1, 4)):
                changed[numbers.choice((numbers.randrange(len(raw)), numbers.randrange(64)))] = numbers.randrange(256)
            try:
                assert sum(map(len, reader(bytes(changed)).values())) <= len(raw)
            except MntapiError as error:
                assert error.path is not None
