"""Guests with the SYSTEM hive of a real Windows: what they say against what regipy reads in the same hive.

By hand the same systems were put on disks and compared with dissect.target 3.25: host name, time zone, processor, drive letters
and services are the same; it has no name for types of services such as 0x110 and 0xe0, which here are services, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from contract.guest_volumes import candidate, of_kind
from contract.hive_listing import sample_hives
from contract.windows_builder import windows_files
from mntapi.guests import windows
from mntapi.guests.types import Guest, MountKind

PARTITION = "gpt:09931f21-7faf-44a9-81d8-1e73c14b9eaf"
NETWORK = "\\Services\\Tcpip\\Parameters"


def systems() -> dict[str, bytes]:
    return {path: raw for path, raw in sample_hives() if raw[48:112].startswith("SYSTEM".encode("utf-16-le"))}


@pytest.fixture(params=systems() or [""])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Guest, Any]:
    """The guest, and the hive as regipy opens it."""
    registry = pytest.importorskip("regipy.registry")
    if not request.param:
        pytest.skip("the sample hives are not here")
    raw = systems()[request.param]
    (tmp_path / "SYSTEM").write_bytes(raw)
    (guest,) = windows.find([candidate(of_kind(windows_files(raw), "ntfs"), PARTITION, fs_kind="ntfs")])
    return guest, registry.RegistryHive(str(tmp_path / "SYSTEM"))


def value(hive: Any, key: str, name: str) -> Any:
    return hive.get_key(f"\\ControlSet001{key}").get_value(name)


def test_what_the_system_is_called_and_where_it_is(pair: tuple[Guest, Any]) -> None:
    guest, hive = pair
    assert guest.hostname == next(filter(None, (value(hive, NETWORK, one) for one in ("Hostname", "HostName", "NV Hostname"))))
    computer = value(hive, "\\Control\\ComputerName\\ComputerName", "ComputerName")
    assert guest.details.get("computer-name", guest.hostname) == computer
    assert guest.timezone == value(hive, "\\Control\\TimeZoneInformation", "TimeZoneKeyName").partition("\0")[0]
    assert value(hive, "\\Control\\Session Manager\\Environment", "PROCESSOR_ARCHITECTURE") == "AMD64"
    assert guest.architecture == "x86_64"
    filetime = int.from_bytes(value(hive, "\\Control\\Windows", "ShutdownTime"), "little")
    assert guest.last_shutdown_ns == (filetime - 116_444_736_000_000_000) * 100


def test_drive_letters(pair: tuple[Guest, Any]) -> None:
    """None of these disks is here, so that they are missing, all but the system's own."""
    guest, hive = pair
    devices = {one.name: one.value for one in hive.get_key("\\MountedDevices").iter_values()}
    letters = {name[12:14] + "\\" for name in devices if name.startswith("\\DosDevices\\")}
    assert {mount.path for mount in guest.mounts} == letters
    assert {mount.path for mount in guest.mounts if mount.kind is MountKind.VOLUME} == {"C:\\"}


def test_services(pair: tuple[Guest, Any]) -> None:
    guest, hive = pair
    wanted = set()
    for key in hive.get_key("\\ControlSet001\\Services").iter_subkeys():
        values = {one.name: one.value for one in key.iter_values()}
        if isinstance(values.get("Type"), int) and values["Type"] & 0x30:
            shown = values.get("DisplayName", "@")
            wanted.add(key.name if shown.startswith("@") else shown)
    found = {one.name for one in guest.applications() if one.kind == "service"}
    assert found == wanted
    assert len(found) > 100
