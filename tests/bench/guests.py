"""What is known of a system on a disk, told by a new process, beside dissect's target-query. Who says something else is out.

``target-query`` tells either facts or records in one run, so the users are left out of the facts, and so are the mount points,
for which it has no function: mntapi finds both all the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from bench.commands import MNTAPI, Failure, output, timed
from bench.race import Heat, Race, Racer
from bench.report import Quantity, Role
from bench.systems import linux_disks
from bench.work import Bench, Section

_FUNCTIONS = ("hostname", "version", "timezone", "install_date")
_ZONES = {"W. Europe Standard Time": "Europe/Berlin"}
"""dissect translates what Windows calls a time zone (CLDR, windowsZones.xml)."""

Facts = tuple[str, ...]
"""What both have to say, in the words of dissect."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A command, and what its output says."""

    command: list[str]
    facts: Callable[[str], Facts]


def guests(bench: Bench) -> Iterator[Race[Any]]:
    """A Linux on a mirror of two disks; a Windows, and then what is installed on it."""
    linux, windows = linux_disks(bench.disks.linux()), [bench.disks.windows()]
    query = _query(bench)
    for name, disks in (("Linux", linux), ("Windows", windows)):
        asked = {
            "mntapi": _Asked(_info(disks), _our_facts),
            "dissect": _Asked([query, "-q", "-s", "-d", "|", "-f", ",".join(_FUNCTIONS), _target(disks)], _their_facts),
        }
        yield _race(f"facts about a {name}", asked, disks)
    asked = {
        "mntapi": _Asked([*_info(windows), "--apps"], _our_programs),
        "dissect": _Asked([query, "-q", "-j", "-f", "applications,services", _target(windows)], _their_programs),
    }
    yield _race("programs and services of a Windows", asked, windows)


def _query(bench: Bench) -> str:
    folder = bench.dissect
    return str(folder / "target-query") if folder else "dissect: set MNTAPI_BENCH_DISSECT"


def _info(disks: Sequence[Path]) -> list[str]:
    return [MNTAPI, "info", "--json", str(disks[0]), *(word for disk in disks[1:] for word in ("-d", str(disk)))]


def _target(disks: Sequence[Path]) -> str:
    """Several disks of one machine, as dissect takes them."""
    return "+".join(map(str, disks))


def _race(name: str, asked: dict[str, _Asked], disks: Sequence[Path]) -> Race[Any]:
    wanted: list[Facts] = []
    racers = [
        Racer(who, partial(_checked, one, wanted), (one.command[0],), _role(who), tuple(disks)) for who, one in asked.items()
    ]
    quantities = tuple(Quantity(f"{name}, {what}", "s", higher_is_better=False) for what in ("time", "processor time"))
    return Race(name, racers, [Heat(quantities, _time_and_cpu)])


def _role(name: str) -> Role:
    return Role.OURS if name == "mntapi" else Role.PEER


@contextmanager
def _checked(asked: _Asked, wanted: list[Facts]) -> Iterator[list[str]]:
    """The command, if it says what the first one said."""
    facts = asked.facts(output(*asked.command))
    wanted.append(facts)
    if facts != wanted[0]:
        raise Failure(f"says {sorted(set(facts) - set(wanted[0]))[:4]}, not {sorted(set(wanted[0]) - set(facts))[:4]}")
    if not all(facts):
        raise Failure(f"does not know all facts: {facts}")
    yield asked.command


def _time_and_cpu(command: list[str]) -> Sequence[float]:
    timing = timed(command)
    return timing.wall, timing.cpu


def _our_facts(said: str) -> Facts:
    (guest,) = json.loads(said)["guests"]
    version = guest["product"]
    if guest["family"] == "windows":
        version += f" (NT {guest['major']}.{guest['minor']}) {guest['build']}"
    installed = datetime.fromtimestamp(guest["installed_ns"] // 1_000_000_000, UTC)
    zone = _ZONES.get(guest["timezone"], guest["timezone"])
    return (_host(guest["hostname"]), version, zone, str(installed))


def _their_facts(said: str) -> Facts:
    facts = said.partition("> ")[2].strip().split("|")
    if len(facts) != len(_FUNCTIONS):
        raise Failure(f"dissect says {said!r}")
    host, version, zone, installed = facts
    return (_host(host), version.replace(" release ", " "), zone, installed)


def _host(name: str) -> str:
    """dissect leaves the domain out, and tells what Windows calls the computer in NetBIOS."""
    return name.partition(".")[0].lower()


def _our_programs(said: str) -> Facts:
    (guest,) = json.loads(said)["guests"]
    return tuple(sorted(f"{one['name']} {one['version'] or ''}".strip() for one in guest["applications"]))


def _their_programs(said: str) -> Facts:
    """Without the drivers, which mntapi does not call services."""
    found = []
    for line in said.splitlines():
        record = json.loads(line)
        kind = record.get("_recorddescriptor", [""])[0]
        if kind == "windows/service" and "Driver" not in (record["type"] or "Driver"):
            shown = record["displayname"]
            found.append(record["name"] if shown is None or shown.startswith("@") else shown)
        elif "application" in kind:
            found.append(f"{record['name']} {record['version']}")
    return tuple(sorted(found))


SECTIONS: dict[str, Section] = {"guests": guests}
