"""``mntapi doctor`` and the libraries of C that mntapi can do without: what they are for, and the package that has them."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from click.testing import CliRunner

from mntapi.cli import doctor
from mntapi.session import host
from mntapi.session.host import Finding

PACKAGES = {"ISA-L": "libisal2", "libgcrypt": "libgcrypt20", "libxxhash": "libxxhash0"}


def libraries(monkeypatch: pytest.MonkeyPatch, *, installed: bool) -> dict[str, Finding]:
    found = object() if installed else None
    monkeypatch.setattr(host.isal, "library", lambda: found)
    monkeypatch.setattr(host.gcrypt, "library", lambda: found)
    monkeypatch.setattr(host, "has_libxxhash", lambda: installed)
    return {finding.topic: finding for finding in host.examine() if finding.topic in PACKAGES}


def test_a_host_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = libraries(monkeypatch, installed=True)
    assert list(found) == list(PACKAGES)
    assert all(finding.ok and finding.remedy is None and "speed" in finding.text for finding in found.values())


def test_a_host_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """It works all the same: nothing is marked as missing."""
    found = libraries(monkeypatch, installed=False)
    assert {name: finding.remedy for name, finding in found.items()} == {
        name: f"apt-get install {package}" for name, package in PACKAGES.items()
    }
    assert all(finding.ok is None and "not installed" in finding.text for finding in found.values())


def test_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries(monkeypatch, installed=False)
    monkeypatch.setattr(doctor, "examine", host._libraries)
    page = CliRunner().invoke(doctor.command).stdout
    places = [page.index(name) for name in PACKAGES] + [page.index(f"apt-get install {one}") for one in PACKAGES.values()]
    assert all(one < other for one, other in pairwise(places))
    told = json.loads(CliRunner().invoke(doctor.command, ["--json"]).stdout)
    assert [one["topic"] for one in told] == list(PACKAGES)
