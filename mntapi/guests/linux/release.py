"""Which distribution it is: ``os-release``, and the files that told it before there was one.

Source: os-release(5); lsb_release(1); for each older file the ``*-release`` or ``base-files`` package of its distribution.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from mntapi.guests.files import GuestFiles, one_line
from mntapi.units import KIB

MAX_RELEASE = 64 * KIB
"""Bytes of an os-release or any of its ancestors."""
MAX_VARIABLES = 256
"""Assignments that are read."""
_VARIABLE = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_VERSION = re.compile(r"\d+(?:[._]\d+)*")
_NUMBER = re.compile(r"(\d{1,9})(?:[._](\d{1,9}))?(?:[._](\S{1,60}))?")


@dataclass(frozen=True, slots=True)
class Release:
    """What a guest says it is. ``origin`` is the file that says so."""

    origin: str
    name: str | None = None
    id: str | None = None
    product: str | None = None
    version: str | None = None
    vendor: str | None = None
    edition: str | None = None
    build: str | None = None
    details: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def major(self) -> int | None:
        """The first number of the version."""
        return self._number(1)

    @property
    def minor(self) -> int | None:
        """The second."""
        return self._number(2)

    def _number(self, which: int) -> int | None:
        match = _NUMBER.match(self.version or "")
        return int(match[which]) if match and match[which] else None


def parse_variables(text: str) -> dict[str, str]:
    """Shell assignments, quoted as a shell has it; what is no assignment is left out. Source: os-release(5)."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        match = _VARIABLE.fullmatch(line.rstrip("\r"))
        if match is None or len(found) == MAX_VARIABLES:
            continue
        value = one_line(_unquoted(match[2]))
        if value is not None:
            found[match[1]] = value
    return found


def find_release(files: GuestFiles, etc: str = "/etc") -> Release | None:
    """What the first of the files says that there is.

    Args:
        files: the guest.
        etc: its folder of settings.
    """
    for path in (f"{etc}/os-release", "/usr/lib/os-release", "/usr/share/os-release", f"{etc}/initrd-release"):
        text = files.text(path, MAX_RELEASE)
        if text is not None and (variables := parse_variables(text)):
            return _more_exact(files, _from_os_release(path, variables), etc)
    for found in _ancestors(files, etc):
        return found
    return None


def parse_line(line: str, origin: str) -> Release:
    """``Red Hat Enterprise Linux Server release 6.10 (Santiago)`` and its like: a name, a number, a code name."""
    match = _VERSION.search(line)
    name = re.sub(r"(?i)\s+(?:release|version)?\s*$", "", line[: match.start()]) if match else line
    return Release(origin, name or None, None, line, match[0] if match else None, vendor_of(name))


VENDORS = (
    ("Red Hat", "Red Hat"),
    ("Fedora", "Fedora Project"),
    ("CentOS", "CentOS Project"),
    ("Rocky", "Rocky Enterprise Software Foundation"),
    ("AlmaLinux", "AlmaLinux OS Foundation"),
    ("Oracle", "Oracle"),
    ("Amazon", "Amazon"),
    ("Ubuntu", "Canonical"),
    ("Debian", "Debian Project"),
    ("openSUSE", "openSUSE Project"),
    ("SUSE", "SUSE"),
    ("SLE", "SUSE"),
    ("Alpine", "Alpine Linux"),
    ("Arch", "Arch Linux"),
    ("Gentoo", "Gentoo Foundation"),
    ("Slackware", "Slackware Linux"),
    ("NixOS", "NixOS Foundation"),
    ("VMware Photon", "VMware"),
)
"""How the names of distributions begin, and whose they are."""


def vendor_of(name: str | None) -> str | None:
    """Who makes the distribution of that name."""
    return next((vendor for start, vendor in VENDORS if (name or "").lower().startswith(start.lower())), None)


def _unquoted(value: str) -> str:
    if len(value) > 16 * KIB:
        return ""
    try:
        return " ".join(shlex.split(value))
    except ValueError:  # a quotation mark without its other half
        return value.strip("\"' \t")


def _from_os_release(path: str, variables: Mapping[str, str]) -> Release:
    name = variables.get("NAME")
    version = variables.get("VERSION_ID")
    text = variables.get("PRETTY_NAME") or " ".join(filter(None, (name, variables.get("VERSION") or version)))
    kept = ("ID", "ID_LIKE", "VERSION_CODENAME", "IMAGE_ID", "IMAGE_VERSION", "SUPPORT_END", "OSTREE_VERSION")
    return Release(
        origin=path,
        name=name,
        id=variables.get("ID"),
        product=text or None,
        version=version,
        vendor=variables.get("VENDOR_NAME") or vendor_of(name),
        edition=variables.get("VARIANT"),
        build=variables.get("BUILD_ID") or variables.get("IMAGE_VERSION"),
        details={key.lower().replace("_", "-"): variables[key] for key in kept if key in variables},
    )


_EXACT = {"debian": "debian_version", "raspbian": "debian_version", "centos": "centos-release", "alpine": "alpine-release"}
"""Files that tell the point release where os-release does not."""


def _more_exact(files: GuestFiles, release: Release, etc: str) -> Release:
    path = _EXACT.get(release.id or "")
    line = files.line(f"{etc}/{path}", MAX_RELEASE) if path else None
    match = _VERSION.search(line or "")
    if match is None or release.version is None or not match[0].startswith(release.version + "."):
        return release
    return replace(release, version=match[0], build=release.build or _third(match[0]))


def _third(version: str) -> str | None:
    match = _NUMBER.match(version)
    return match[3] if match else None


_LINES = (
    "oracle-release",
    "rocky-release",
    "almalinux-release",
    "centos-release",
    "fedora-release",
    "redhat-release",
    "mandriva-release",
    "mandrake-release",
    "mageia-release",
    "SuSE-release",
    "gentoo-release",
    "slackware-version",
    "system-release",
    "vine-release",
    "turbolinux-release",
    "UnitedLinux-release",
)
"""Files whose first line is the product. Oracle's before Red Hat's, which it has too."""
_BARE = {"alpine-release": ("Alpine Linux", "alpine"), "debian_version": ("Debian GNU/Linux", "debian")}
"""Files that hold the version alone, and whose it is."""
_EMPTY = {"arch-release": ("Arch Linux", "arch")}
"""Files that are there, and that is all they say."""


def _ancestors(files: GuestFiles, etc: str) -> Iterator[Release]:
    """In the order in which they are to be believed; Ubuntu has Debian's file too, so lsb-release is first."""
    text = files.text(f"{etc}/lsb-release", MAX_RELEASE)
    variables = parse_variables(text or "")
    if "DISTRIB_ID" in variables:
        yield _from_lsb(f"{etc}/lsb-release", variables)
    for name in _LINES:
        text = files.text(f"{etc}/{name}", MAX_RELEASE)
        if text is not None and (line := one_line(text)):
            found = parse_line(line, f"{etc}/{name}")
            yield _suse(found, text) if name == "SuSE-release" else found
    for name, (product, identifier) in _BARE.items():
        version = files.line(f"{etc}/{name}", MAX_RELEASE)
        if version:
            yield Release(f"{etc}/{name}", product, identifier, f"{product} {version}", version, vendor_of(product))
    for name, (product, identifier) in _EMPTY.items():
        if files.has(f"{etc}/{name}"):
            yield Release(f"{etc}/{name}", product, identifier, product, None, vendor_of(product))


def _from_lsb(path: str, variables: Mapping[str, str]) -> Release:
    name, version = variables["DISTRIB_ID"], variables.get("DISTRIB_RELEASE")
    product = variables.get("DISTRIB_DESCRIPTION") or " ".join(filter(None, (name, version)))
    return Release(path, name, name.lower(), product, version, vendor_of(name))


def _suse(release: Release, text: str) -> Release:
    """``VERSION = 11`` and ``PATCHLEVEL = 4`` follow the line."""
    settings = dict(re.findall(r"(?m)^(VERSION|PATCHLEVEL)\s*=\s*([\w.]{1,20})", text))
    version = ".".join(settings[key] for key in ("VERSION", "PATCHLEVEL") if settings.get(key))
    return replace(release, version=version or release.version)
