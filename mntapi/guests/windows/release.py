"""Which Windows it is.

Source: the names of the values are those that every Windows shows; at which build Windows 11 begins is in Microsoft's
"Windows 11 release information"; ``ProductType`` and ``ProductSuite``, which had the edition before Vista, are in Microsoft's
documentation of ``OSVERSIONINFOEX`` under the names of its constants.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mntapi.guests.windows.registry import Registry

VERSION = "Microsoft\\Windows NT\\CurrentVersion"
FIRST_ELEVEN = 22000
"""Build of the first Windows 11, which goes on calling itself Windows 10."""

_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")
_SERVER_SUITES = {
    "DataCenter": "Datacenter",
    "Enterprise": "Enterprise",
    "Blade": "Web",
    "Small Business": "Small Business",
    "Small Business(Restricted)": "Small Business",
}
_PRODUCT_TYPES = {"winnt": "workstation", "servernt": "server", "lanmannt": "domain controller"}
_ARCHITECTURES = {"amd64": "x86_64", "x86": "x86", "arm64": "aarch64", "arm": "armv7l", "ia64": "ia64"}


@dataclass(frozen=True, slots=True)
class Release:
    """What the system says it is; ``details`` in the words of ``Guest.details``."""

    product: str | None
    edition: str | None
    major: int | None
    minor: int | None
    build: str | None
    details: dict[str, str] = field(default_factory=dict)


def release(software: Registry, system: Registry, control_set: str) -> Release:
    """Product, edition and version."""
    number = software.text(VERSION, "CurrentBuildNumber") or software.text(VERSION, "CurrentBuild")
    major, minor = _major_minor(software)
    return Release(
        product=_product(software, number),
        edition=software.text(VERSION, "EditionID") or _early_edition(system, control_set, major),
        major=major,
        minor=minor,
        build=_build(software, number),
        details=_details(software, system, control_set),
    )


def architecture(system: Registry, control_set: str) -> str | None:
    """What it was built for, as ``uname -m`` says it."""
    found = system.text(f"{control_set}\\Control\\Session Manager\\Environment", "PROCESSOR_ARCHITECTURE")
    return None if found is None else _ARCHITECTURES.get(found.lower(), found.lower())


def _product(software: Registry, number: str | None) -> str | None:
    product = software.text(VERSION, "ProductName")
    if product is None or number is None or not number.isdecimal() or int(number) < FIRST_ELEVEN:
        return product
    return re.sub(r"^Windows 10\b", "Windows 11", product)


def _major_minor(software: Registry) -> tuple[int | None, int | None]:
    """From Windows 10 on they are numbers; ``CurrentVersion`` has said 6.3 ever since 8.1."""
    major, minor = software.number(VERSION, "CurrentMajorVersionNumber"), software.number(VERSION, "CurrentMinorVersionNumber")
    if major is not None:
        return major, minor
    match = _VERSION.match(software.text(VERSION, "CurrentVersion") or "")
    return (int(match[1]), int(match[2])) if match else (None, None)


def _build(software: Registry, number: str | None) -> str | None:
    revision = software.number(VERSION, "UBR")
    return number if number is None or revision is None else f"{number}.{revision}"


def _early_edition(system: Registry, control_set: str, major: int | None) -> str | None:
    """The edition of 2000, XP and Server 2003, which have no ``EditionID``."""
    options = f"{control_set}\\Control\\ProductOptions"
    kind, suites = system.text(options, "ProductType"), system.texts(options, "ProductSuite")
    if major != 5 or kind is None:
        return None
    if kind.lower() == "winnt":
        return "Home" if "Personal" in suites else "Professional"
    return next((edition for suite, edition in _SERVER_SUITES.items() if suite in suites), "Standard")


def _details(software: Registry, system: Registry, control_set: str) -> dict[str, str]:
    kind = system.text(f"{control_set}\\Control\\ProductOptions", "ProductType")
    found = {
        "release": software.text(VERSION, "DisplayVersion") or software.text(VERSION, "ReleaseId"),
        "service-pack": software.text(VERSION, "CSDVersion"),
        "installation-type": software.text(VERSION, "InstallationType"),
        "product-type": None if kind is None else _PRODUCT_TYPES.get(kind.lower()),
    }
    return {name: text for name, text in found.items() if text}
