"""Installed packages, from the databases of dpkg, RPM (all three kinds), apk, pacman, Portage and Slackware's pkgtools.

Source: dpkg-query(1) and deb-control(5) for ``status``; apk-tools' ``doc/apk.5``, "installed database"; alpm-files and
``desc`` of pacman; Portage's ``/var/db/pkg``; pkgtools' ``/var/log/packages``. RPM: ``rpm.py``, ``rpm_ndb.py``, ``rpm_bdb.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from mntapi.errors import MntapiError, Unsupported
from mntapi.guests.files import MAX_VALUE, TOO_LARGE, exists, find, listdir, one_line, open_file, read_text
from mntapi.guests.linux.rpm import MAX_DATABASE, parse_header, rpm_packages
from mntapi.guests.linux.rpm_bdb import bdb_headers
from mntapi.guests.linux.rpm_ndb import ndb_headers
from mntapi.guests.types import Application
from mntapi.types import Blocks, FileKind, FileSystem
from mntapi.units import MIB, format_size

MAX_STATUS = 16 * MIB
"""Bytes of dpkg's or apk's list; 3000 packages take 3 MiB."""
MAX_PACKAGES = 65_536
"""Packages of one database."""
MAX_OLDER_DATABASE = 512 * MIB
"""Bytes of RPM's older databases, which are read in a second; 1000 packages of CentOS 7 take 90 MiB."""
PACKAGE = "package"


def find_packages(fs: FileSystem) -> list[Application]:
    """All installed packages, sorted by name.

    Raises:
        Unsupported: a database is too large, or of a kind that is not read.
        Corrupt: it contradicts its format.
        MntapiError: it cannot be read.
    """
    found: list[Application] = []
    for path, read in _DATABASES:
        if exists(fs, path):
            found += read(fs, path)
    if len(found) > MAX_PACKAGES:
        raise Unsupported("too many packages", expected=f"at most {MAX_PACKAGES}", found=len(found))
    return sorted(set(found), key=lambda one: (one.name, one.version or ""))


def parse_dpkg(text: str) -> Iterator[Application]:
    """The stanzas of dpkg's ``status`` whose package is installed, whatever state it is wanted in."""
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"(?m)^(Package|Version|Status|Maintainer):[ \t]*(.*)$", stanza))
        state = fields.get("Status", "").split()
        if fields.get("Package") and (not state or state[-1] in _UNPACKED):
            yield _package(fields["Package"], fields.get("Version"), fields.get("Maintainer"))


_UNPACKED = ("installed", "half-configured", "triggers-awaited", "triggers-pending", "unpacked")
"""States in which a package's files are all there."""


def parse_apk(text: str) -> Iterator[Application]:
    """The records of apk's database: ``P:`` the name, ``V:`` the version, ``m:`` who maintains it."""
    for record in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"(?m)^([PVm]):(.*)$", record))
        if fields.get("P"):
            yield _package(fields["P"], fields.get("V"), fields.get("m"))


def _dpkg(fs: FileSystem, path: str) -> Iterator[Application]:
    return parse_dpkg(read_text(fs, path, MAX_STATUS))


def _dpkg_parts(fs: FileSystem, path: str) -> Iterator[Application]:
    """Images without dpkg keep a file for each package."""
    for entry in listdir(fs, path):
        if entry.node.kind is FileKind.FILE and not entry.name.endswith(".md5sums"):
            yield from parse_dpkg(read_text(fs, f"{path}/{entry.name}", MIB))


def _apk(fs: FileSystem, path: str) -> Iterator[Application]:
    return parse_apk(read_text(fs, path, MAX_STATUS))


def _pacman(fs: FileSystem, path: str) -> Iterator[Application]:
    """A folder for each: name, version and release with dashes between them, of which only the name has any of its own."""
    for entry in listdir(fs, path, MAX_PACKAGES):
        match = re.fullmatch(r"(.+)-([^-]+-[^-]+)", entry.name)
        if match and entry.node.kind is FileKind.DIRECTORY:
            yield _package(match[1], match[2])


def _portage(fs: FileSystem, path: str) -> Iterator[Application]:
    for category in listdir(fs, path):
        if category.node.kind is FileKind.DIRECTORY:
            for entry in listdir(fs, f"{path}/{category.name}"):
                match = re.fullmatch(r"(.+?)-(\d[^-]*(?:-r\d+)?)", entry.name)
                if match:
                    yield _package(f"{category.name}/{match[1]}", match[2])


def _slackware(fs: FileSystem, path: str) -> Iterator[Application]:
    """A file for each: name, version, architecture, build."""
    for entry in listdir(fs, path, MAX_PACKAGES):
        match = re.fullmatch(r"(.+)-([^-]+)-[^-]+-[^-]+", entry.name)
        if match and entry.node.kind is FileKind.FILE:
            yield _package(match[1], match[2])


def _rpm(fs: FileSystem, path: str) -> Iterator[Application]:
    newer = f"{path}-wal"
    if exists(fs, newer) and find(fs, newer).size:
        raise Unsupported("the newest packages are in the database's log", path=newer, reason="rpm-wal")
    content = open_file(fs, path)
    try:
        _check_size(content, MAX_DATABASE, path)
        database = bytearray(content.size)
        content.readinto(0, memoryview(database))
    except MntapiError as error:
        raise error.located(path=path) from error.__cause__
    finally:
        content.close()
    return rpm_packages(database, path)


def _check_size(content: Blocks, limit: int, path: str) -> None:
    if content.size > limit:
        found = format_size(content.size)
        raise Unsupported("is too large", path=path, expected=f"at most {format_size(limit)}", found=found, reason=TOO_LARGE)


def _older_rpm(fs: FileSystem, path: str) -> Iterator[Application]:
    """Databases of the two kinds that were before SQLite; one may be left of before the system was converted."""
    folder, _, name = path.rpartition("/")
    if any(exists(fs, f"{folder}/{newer}") for newer in ("rpmdb.sqlite", "Packages.db") if newer != name):
        return
    content = open_file(fs, path)
    try:
        _check_size(content, MAX_OLDER_DATABASE, path)
        for number, header in (ndb_headers if name == "Packages.db" else bdb_headers)(content, path):
            found = parse_header(header, f"{path}, package {number}")
            if found is not None:
                yield found
    except MntapiError as error:
        raise error.located(path=path) from error.__cause__
    finally:
        content.close()


_Reader = Callable[[FileSystem, str], Iterator[Application]]
_DATABASES: tuple[tuple[str, _Reader], ...] = (
    ("/var/lib/dpkg/status", _dpkg),
    ("/var/lib/dpkg/status.d", _dpkg_parts),
    ("/usr/lib/sysimage/rpm/rpmdb.sqlite", _rpm),
    ("/usr/lib/sysimage/rpm/Packages.db", _older_rpm),
    ("/usr/share/rpm/rpmdb.sqlite", _rpm),
    ("/usr/share/rpm/Packages", _older_rpm),
    ("/var/lib/rpm/rpmdb.sqlite", _rpm),
    ("/var/lib/rpm/Packages.db", _older_rpm),
    ("/var/lib/rpm/Packages", _older_rpm),
    ("/usr/lib/apk/db/installed", _apk),
    ("/lib/apk/db/installed", _apk),
    ("/var/lib/pacman/local", _pacman),
    ("/var/db/pkg", _portage),
    ("/var/lib/pkgtools/packages", _slackware),
    ("/var/log/packages", _slackware),
)
"""Where the databases are. One that is reached by two names is listed once: what it says is the same."""


def _package(name: str, version: str | None, publisher: str | None = None) -> Application:
    return Application(one_line(name) or name[:MAX_VALUE], one_line(version or ""), one_line(publisher or ""), PACKAGE)
