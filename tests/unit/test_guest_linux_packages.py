"""Databases of packages: against dpkg-query and rpm where they are installed, and hostile ones."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import subprocess
from pathlib import Path

import pytest

from contract.memory_filesystem import Memory, MemoryFileSystem
from mntapi.errors import Corrupt, ReadFailed, Unsupported
from mntapi.guests.linux import packages, rpm
from mntapi.guests.linux.packages import find_packages, parse_apk, parse_dpkg
from mntapi.guests.linux.rpm import parse_header, rpm_packages
from mntapi.guests.types import Application
from mntapi.units import GIB

STATUS = """\
Package: base-files
Status: install ok installed
Maintainer: Ann <a@example.org>
Version: 12.4
Description: x
 Package: not-one

Package: removed
Status: deinstall ok config-files
Version: 1

Package: half
Status: install ok half-configured
Version: 1:2-3
"""


def names(found: object) -> list[tuple[str, str | None]]:
    return [(one.name, one.version) for one in found]  # type: ignore[attr-defined]


def test_dpkg() -> None:
    assert list(parse_dpkg(STATUS)) == [
        Application("base-files", "12.4", "Ann <a@example.org>", "package"),
        Application("half", "1:2-3", None, "package"),
    ]


def test_dpkg_as_dpkg_query_has_it() -> None:
    status = Path("/var/lib/dpkg/status")
    if shutil.which("dpkg-query") is None or not status.exists():
        pytest.skip("needs dpkg-query")
    command = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"]
    told = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    wanted = {tuple(line.split(" ")[1:]) for line in told if line.startswith("installed ")}
    fs = MemoryFileSystem({"var": {"lib": {"dpkg": {"status": status.read_bytes()}}}})
    assert set(names(find_packages(fs))) == wanted


def test_apk() -> None:
    text = "C:Q1=\nP:musl\nV:1.2-r4\nm:Timo <t@example.org>\nF:lib\n\nP:busybox\nV:1.36\n\nV:9\n"
    assert list(parse_apk(text)) == [
        Application("musl", "1.2-r4", "Timo <t@example.org>", "package"),
        Application("busybox", "1.36", None, "package"),
    ]


def test_databases_that_are_folders() -> None:
    fs = MemoryFileSystem(
        {
            "var": {
                "lib": {
                    "pacman": {"local": {"ALPM_DB_VERSION": b"9", "gcc-libs-13.2.1-3": {"desc": b""}, "bash-5.2-1": {}}},
                    "pkgtools": {"packages": {"aaa_base-15.0-x86_64-3": b"", "xz-5.2.5-x86_64-1_slack": b"", "README": b""}},
                    "dpkg": {"status.d": {"base": b"Package: base\nVersion: 1\n", "base.md5sums": b"Package: no\n", "d": {}}},
                },
                "db": {"pkg": {"app-shells": {"bash-5.1_p16-r2": {}, "bash-completion-2.11": {}}, "f": b""}},
            }
        }
    )
    assert names(find_packages(fs)) == [
        ("aaa_base", "15.0"),
        ("app-shells/bash", "5.1_p16-r2"),
        ("app-shells/bash-completion", "2.11"),
        ("base", "1"),
        ("bash", "5.2-1"),
        ("gcc-libs", "13.2.1-3"),
        ("xz", "5.2.5"),
    ]


def test_too_much_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Huge(Memory):
        def __init__(self) -> None:
            super().__init__(b"")
            self.size = 4 * GIB

    with pytest.raises(Unsupported, match="too large"):
        find_packages(MemoryFileSystem({"var": {"lib": {"dpkg": {"status": Huge()}}}}))
    monkeypatch.setattr(packages, "MAX_PACKAGES", 1)
    with pytest.raises(Unsupported, match="too many packages"):
        find_packages(MemoryFileSystem({"var": {"lib": {"dpkg": {"status": STATUS.encode()}}}}))


def in_rpm(**files: object) -> MemoryFileSystem:
    return MemoryFileSystem({"var": {"lib": {"rpm": {name.replace("_", "."): content for name, content in files.items()}}}})


def test_a_database_with_a_log_is_not_taken_for_the_newest() -> None:
    fs = MemoryFileSystem({"var": {"lib": {"rpm": {"rpmdb.sqlite": database(b""), "rpmdb.sqlite-wal": b"x"}}}})
    with pytest.raises(Unsupported, match="newest"):
        find_packages(fs)


def test_a_database_is_too_large_or_cannot_be_read() -> None:
    class Failing(Memory):
        def readinto(self, offset: int, buffer: memoryview) -> None:
            raise ReadFailed("cannot be read", offset=0)

    huge = Failing(b"")
    huge.size = 4 * GIB
    with pytest.raises(Unsupported, match=r"/var/lib/rpm/rpmdb\.sqlite: is too large"):
        find_packages(in_rpm(rpmdb_sqlite=huge))
    with pytest.raises(ReadFailed, match=r"/var/lib/rpm/rpmdb\.sqlite: cannot be read"):
        find_packages(in_rpm(rpmdb_sqlite=Failing(b"1234")))


def blob(*tags: tuple[int, int, bytes], count: int | None = None, size: int | None = None) -> bytes:
    """An RPM header: number and type of each tag and its bytes."""
    index, data = b"", b""
    for number, kind, value in tags:
        index += struct.pack(">IIII", number, kind, len(data), 1)
        data += value
    return struct.pack(">II", len(tags) if count is None else count, len(data) if size is None else size) + index + data


NAME, VERSION, RELEASE = (1000, 6, b"bash\0"), (1001, 6, b"5.1\0"), (1002, 6, b"9.el9\0")
EPOCH, VENDOR = (1003, 4, b"\0\0\0\2"), (1011, 6, b"Ex\xc3\xa4mple\0")


def test_headers() -> None:
    assert parse_header(blob(NAME, VERSION, RELEASE), "") == Application("bash", "5.1-9.el9", None, "package")
    found = parse_header(blob(VENDOR, EPOCH, RELEASE, VERSION, NAME), "")
    assert found == Application("bash", "2:5.1-9.el9", "Exämple", "package")
    assert parse_header(blob((1000, 6, b"gpg-pubkey\0")), "") is None


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"\0\0", "cut off"),
        (blob(NAME, count=1 << 31), "larger than its space"),
        (blob(NAME, size=1 << 31), "larger than its space"),
        (blob(VERSION), "without a name"),
        (blob((1000, 6, b"no end")), "a text outside"),
        (blob(NAME, (1003, 4, b"\0")), "a number outside"),
        (blob((1000, 6, b"\0")), "without a name"),
    ],
)
def test_headers_that_make_no_sense(raw: bytes, what: str) -> None:
    with pytest.raises(Corrupt, match=what) as caught:
        parse_header(raw, "/x, package 1")
    assert caught.value.path == "/x, package 1"


def database(
    *headers: object, schema: str = "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)"
) -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute(schema)
    for header in headers:
        connection.execute("INSERT INTO Packages (blob) VALUES (?)", (header,))
    connection.commit()
    raw = connection.serialize()
    connection.close()
    return raw


def test_a_database_of_sqlite_in_write_ahead_mode() -> None:
    raw = bytearray(database(blob(NAME, VERSION), blob((1000, 6, b"gpg-pubkey\0"))))
    raw[18:20] = b"\2\2"
    assert names(rpm_packages(bytearray(raw), "")) == [("bash", "5.1")]


def test_a_database_that_rpm_made(tmp_path: Path) -> None:
    if shutil.which("rpm") is None or shutil.which("rpmbuild") is None:
        pytest.skip("needs rpm and rpmbuild")
    spec = tmp_path / "one.spec"
    spec.write_text(
        "Name: one\nVersion: 1.2\nRelease: 3\nEpoch: 4\nSummary: x\nLicense: x\nVendor: V\nBuildArch: noarch\n"
        "%description\nx\n%files\n"
    )
    macros = ("--define", f"_topdir {tmp_path}", "--define", "_db_backend sqlite", "--dbpath", tmp_path / "db")
    subprocess.run(["rpmbuild", "--quiet", "-bb", *macros[:2], spec], check=True, capture_output=True)
    package = next((tmp_path / "RPMS").rglob("*.rpm"))
    subprocess.run(["rpm", *macros, "--justdb", "--nodeps", "-i", package], check=True, capture_output=True)
    query = ["rpm", *macros, "-qa", "--qf", "%{NAME} %{EPOCH}:%{VERSION}-%{RELEASE} %{VENDOR}\n"]
    told = subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()
    (found,) = rpm_packages(bytearray((tmp_path / "db" / "rpmdb.sqlite").read_bytes()), "")
    assert [found.name, found.version, found.publisher] == told


HOSTILE = {
    "a view without end": "CREATE VIEW Packages AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n) "
    "SELECT x hnum, x blob FROM n",
    "no such table": "CREATE TABLE Other (x)",
    "no such columns": "CREATE TABLE Packages (x)",
}


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE)
def test_a_schema_that_is_not_rpms(schema: str) -> None:
    with pytest.raises(Corrupt, match="SQLite database cannot be read"):
        list(rpm_packages(bytearray(database(schema=schema)), "/rpmdb"))


def test_a_column_that_computes_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpm, "MAX_STEPS", 200_000)
    schema = "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob)"
    raw = database(*[b"x"] * 10, schema=schema)
    monkeypatch.setattr(rpm, "parse_header", lambda blob, path: None)
    many = database(*[b""] * 60_000, schema=schema)
    with pytest.raises(Corrupt, match="interrupted"):
        list(rpm_packages(bytearray(many), "/rpmdb"))
    assert list(rpm_packages(bytearray(raw), "")) == []


def test_what_is_no_database_or_no_header() -> None:
    for raw in (b"", b"SQLite format 3\0", b"x" * 4096):
        with pytest.raises(Corrupt, match="no SQLite database"):
            list(rpm_packages(bytearray(raw), "/rpmdb"))
    with pytest.raises(Corrupt, match="is no header"):
        list(rpm_packages(bytearray(database("text")), "/rpmdb"))


def test_a_spoilt_database_is_an_error_or_gives_what_it_has() -> None:
    """Every eighth byte of the pages turned over, one at a time: nothing but packages or an error comes of it."""
    good = database(blob(NAME, VERSION), blob(NAME, RELEASE))
    for at in range(100, len(good), 97):
        raw = bytearray(good)
        raw[at] ^= 0xFF
        try:
            list(rpm_packages(bytearray(raw), "/rpmdb"))
        except Corrupt as error:
            assert "/rpmdb" in str(error)
