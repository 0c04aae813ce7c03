"""``mntapi versions SET PATH``: the live file and all that snapshots have of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from mntapi.cli.arguments import SetArguments, json_option, takes_set
from mntapi.cli.main import OK, PARTIAL
from mntapi.cli.output import complain, emit, emit_json, escape, shown, table, time_text
from mntapi.session.guest_tree import assemble
from mntapi.session.versions import Version, versions_of

_DIFFERS = {True: "differs", False: "same", None: "?"}


@click.command("versions", short_help="List every version of a file that snapshots have.")
@takes_set
@click.argument("path")
@json_option
def command(disks: SetArguments, path: str, as_json: bool) -> int:
    """List the versions of the file PATH, the live one and those in snapshots (VSS, LVM, snapper, Timeshift).

    Told are the snapshot's time, size, time of the last change, SHA-256, and whether the contents differ from those of the
    next version, which is older.

    mntapi cat and cp take the path that is shown: /home/@2026-11-01T02:00:00Z/ann/budget.ods.
    """
    with disks.reading() as disk_set:
        found = versions_of(assemble(disk_set, disk_set.guests), path)
    if as_json:
        emit_json([_as_object(found, place) for place in range(len(found))])
    else:
        for line in table([_HEADER, *(_row(found, place) for place in range(len(found)))], right=(1,)):
            emit(line)
        for one in found:
            if one.reason and not one.is_gone:
                complain(f"error: {one.path}: {one.reason}")
    return PARTIAL if any(one.reason and not one.is_gone for one in found) else OK


_HEADER = ("VERSION", "SIZE", "CHANGED", "SHA-256", "NEXT", "PATH")


def _row(found: Sequence[Version], place: int) -> tuple[str, ...]:
    one = found[place]
    differs = _DIFFERS[one.differs(found[place + 1])] if place + 1 < len(found) else ""
    if one.node is None:
        return escape(one.label), "", "", "no such file" if one.is_gone else "cannot be read", differs, ""
    return escape(one.label), str(one.node.size), time_text(one.node.mtime_ns), one.sha256 or "-", differs, shown(one.path)


def _as_object(found: Sequence[Version], place: int) -> dict[str, Any]:
    one = found[place]
    return {
        "version": one.label,
        "path": one.path,
        "time_ns": one.time_ns,
        "exists": one.node is not None,
        "size": one.node.size if one.node else None,
        "mtime_ns": one.node.mtime_ns if one.node else None,
        "sha256": one.sha256,
        "differs_from_next": one.differs(found[place + 1]) if place + 1 < len(found) else None,
        "reason": one.reason,
    }
