"""What ``mntapi info`` says of guests: the head of its page, and their part of the JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mntapi.cli.output import escape, table, time_text
from mntapi.errors import MntapiError
from mntapi.guests.types import Application, Guest, MountKind, MountPoint, PointInTime
from mntapi.session.diskset import DiskSet

_MAX_REASONS = 5
_MAX_PATHS = 3
_WARNINGS = {
    "hibernated": "it was hibernated, not shut down: what it had not written yet is in its memory image",
    "pending-reboot": "a restart is due: what was installed or renamed last may not be in place",
}
"""Details of a guest that whoever restores from it should know."""


def heading(disk_set: DiskSet, *, verbose: bool) -> Iterator[str]:
    """The lines about every guest; none where there is none. Text from the guest is escaped."""
    guests = disk_set.guests
    names = {volume.id: volume.name for volume in (*disk_set.containers, *disk_set.volumes)}
    for number, guest in enumerate(guests):
        first = f"guest{number}  " if len(guests) > 1 else ""
        yield f"{first}{escape(title(guest))}"
        yield from (f"       {line}" for line in _lines(guest, names, verbose=verbose))
        yield ""


def title(guest: Guest) -> str:
    """``Debian GNU/Linux 12 (bookworm), x86_64, host web01``; of Windows also the service pack."""
    build = f"build {guest.build}" if guest.build and guest.build not in (guest.product or "") else None
    host = f"host {guest.hostname}" if guest.hostname else None
    said = (guest.product or guest.family.value, guest.details.get("service-pack"), build, guest.architecture, host)
    return ", ".join(part for part in said if part)


def mounted_at(disk_set: DiskSet, *, numbered: bool = True) -> dict[str, list[str]]:
    """Where the guests mount each volume, by its id; ``numbered``: with ``guest1:`` in front where there are several."""
    found: dict[str, list[str]] = {}
    for number, guest in enumerate(disk_set.guests):
        first = f"guest{number}:" if numbered and len(disk_set.guests) > 1 else ""
        for mount in guest.mounts:
            paths = found.setdefault(mount.volume or "", [])
            if mount.kind is MountKind.VOLUME and first + mount.path not in paths:
                paths.append(first + mount.path)
    return found


def short(paths: Sequence[str]) -> str:
    """The first paths, and how many more there are; escaped."""
    more = len(paths) - _MAX_PATHS
    return ", ".join(map(escape, paths[:_MAX_PATHS])) + (f" and {more} more" if more > 0 else "")


def applications_page(guest: Guest) -> list[str]:
    """What is installed, as a table. Raises MntapiError."""
    rows = [
        (escape(one.name), escape(one.version or ""), escape(one.publisher or ""), one.kind) for one in _applications(guest)
    ]
    return table([("NAME", "VERSION", "PUBLISHER", "KIND"), *rows])


def describe_guest(guest: Guest, *, apps: bool) -> dict[str, Any]:
    """A guest as plain values; times are nanoseconds since 1970 UTC. ``applications`` only where they are asked for."""
    reasons = list(guest.reasons)
    found: dict[str, Any] = {
        "family": guest.family.value,
        "volume": guest.volume,
        "os_folder": guest.os_folder,
        "vendor": guest.vendor,
        "product": guest.product,
        "edition": guest.edition,
        "major": guest.major,
        "minor": guest.minor,
        "build": guest.build,
        "architecture": guest.architecture,
        "hostname": guest.hostname,
        "machine_id": guest.machine_id,
        "timezone": guest.timezone,
        "installed_ns": guest.installed_ns,
        "last_boot_ns": guest.last_boot_ns,
        "last_shutdown_ns": guest.last_shutdown_ns,
        "mounts": [_describe_mount(mount) for mount in guest.mounts],
        "users": [{"name": user.name, "uid": user.uid, "home": user.home} for user in guest.users],
        "snapshots": [_describe_point(point) for point in guest.snapshots],
        "details": dict(guest.details),
        "reasons": reasons,
    }
    if apps:
        try:
            found["applications"] = [_describe_application(one) for one in _applications(guest)]
        except MntapiError as error:
            reasons.append(f"applications: {error}")
            found["applications"] = None
    return found


def _lines(guest: Guest, names: dict[str, str], *, verbose: bool) -> Iterator[str]:
    times = (("installed", guest.installed_ns), ("started", guest.last_boot_ns), ("shut down", guest.last_shutdown_ns))
    told = [f"{word} {time_text(time_ns)}Z" for word, time_ns in times if time_ns is not None]
    told += [f"time zone {escape(guest.timezone)}"] if guest.timezone else []
    if told:
        yield ", ".join(told)
    folder = "" if guest.os_folder == "/" else f"in {escape(guest.os_folder)} "
    yield f"{folder}on {escape(names.get(guest.volume, guest.volume))}"
    yield from (f"{word}: {escape(guest.details[word])}; {why}" for word, why in _WARNINGS.items() if word in guest.details)
    yield from _not_shown(guest, verbose=verbose)
    if guest.snapshots:
        states = "1 earlier state" if len(guest.snapshots) == 1 else f"{len(guest.snapshots)} earlier states"
        yield f"{states} beside the live files, as @TIME: mntapi ls shows them, mntapi versions those of one file"
    reasons = guest.reasons if verbose else guest.reasons[:_MAX_REASONS]
    yield from (f"note: {escape(reason)}" for reason in reasons)
    if len(reasons) < len(guest.reasons):
        yield f"note: {len(guest.reasons) - len(reasons)} more; -v shows all"
    if verbose:
        yield from _all_of(guest)


def _not_shown(guest: Guest, *, verbose: bool) -> Iterator[str]:
    """Mount points whose files are not on the disks: those that are missed, then those that are not."""
    from mntapi.session.guest_tree import advice_for, is_medium  # not needed where there is no guest

    missing = [mount for mount in guest.mounts if mount.kind is MountKind.MISSING and not is_medium(mount)]
    network = [mount for mount in guest.mounts if mount.kind is MountKind.NETWORK]
    media = [mount for mount in guest.mounts if is_medium(mount)]
    for mounts, word in ((missing, "missing"), (network, "network"), (media, "on demand or removable")):
        shown = mounts if verbose else mounts[:_MAX_REASONS]
        for mount in shown:
            why = f" ({escape(mount.reason)})" if mount.reason else ""
            advice = advice_for(mount) if mounts is missing else None
            yield f"{escape(mount.path)}  {word}: {escape(mount.source)}{why}{f'; {escape(advice)}' if advice else ''}"
        if len(shown) < len(mounts):
            yield f"{len(mounts) - len(shown)} more mount points are {word}; -v shows all"


def _all_of(guest: Guest) -> Iterator[str]:
    """What -v adds."""
    said = {
        "edition": guest.edition or "",
        "machine id": guest.machine_id or "",
        "users": ", ".join(user.name for user in guest.users),
        **guest.details,
    }
    yield from (f"{escape(name)}: {escape(value)}" for name, value in said.items() if value)
    for mount in guest.mounts:
        if mount.kind in (MountKind.VOLUME, MountKind.BIND, MountKind.VIRTUAL):
            why = f"  ({escape(mount.reason)})" if mount.reason else ""
            yield f"{escape(mount.path)}  {escape(mount.source)}{why}"


def _applications(guest: Guest) -> list[Application]:
    return sorted(guest.applications(), key=lambda one: (one.kind, one.name.casefold()))


def _describe_mount(mount: MountPoint) -> dict[str, Any]:
    return {
        "path": mount.path,
        "kind": mount.kind.value,
        "source": mount.source,
        "volume": mount.volume,
        "subvolume": mount.subvolume,
        "folder": mount.folder,
        "filesystem": mount.filesystem,
        "options": list(mount.options),
        "reason": mount.reason,
    }


def _describe_point(point: PointInTime) -> dict[str, Any]:
    return {
        "path": point.path,
        "volume": point.volume,
        "subvolume": point.subvolume,
        "folder": point.folder,
        "time_ns": point.time_ns,
        "description": point.description,
    }


def _describe_application(one: Application) -> dict[str, Any]:
    return {"name": one.name, "version": one.version, "publisher": one.publisher, "kind": one.kind}
