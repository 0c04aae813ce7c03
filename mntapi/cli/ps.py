"""``mntapi ps``: what is mounted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from mntapi.cli.arguments import json_option
from mntapi.cli.output import emit, emit_json, escape, table
from mntapi.session.health import impairments
from mntapi.session.teardown import Status, prune, statuses
from mntapi.units import format_size


@click.command("ps", short_help="What is mounted, by which worker.")
@json_option
def command(as_json: bool) -> None:
    """List the mounts of this user with their workers."""
    prune()
    found = [_with_trouble(status) for status in statuses()]
    if as_json:
        emit_json([_as_object(status) for status in found])
        return
    if not found:
        return
    for line in table([_HEADER, *map(_row, found)], right=(3, 4)):
        emit(line)
    if any(status.state == "dead" for status in found):
        emit("\ndead: the worker or the mount is gone; 'mntapi clean' removes what is left")
    for status in found:
        if status.state == "impaired":
            emit(f"\n{status.record.id} is impaired: {escape(status.reason or '')}")


def _with_trouble(status: Status) -> Status:
    """A mount that is there, and of which something does not work, is not ready."""
    trouble = impairments(status.record) if status.state in ("ready", "impaired") else []
    if not trouble:
        return status
    return replace(status, state="impaired", reason="; ".join([*filter(None, [status.reason]), *trouble]))


_MAX_DISKS = 2
_HEADER = ("ID", "MOUNTED ON", "STATE", "PID", "MEMORY", "SINCE", "VIA", "LAYOUT", "DISKS")


def _row(status: Status) -> tuple[str, ...]:
    record = status.record
    return (
        record.id,
        escape(record.mountpoint),
        status.state,
        str(record.worker.pid) if record.worker else "-",
        "-" if status.memory is None else format_size(status.memory),
        record.created.replace("T", " ").removesuffix("+00:00") + "Z",
        record.via,
        record.volume or record.layout,
        _disks(record.disks) + (f", written to {_disks(record.overlays)}" if record.overlays else ""),
    )


def _disks(disks: list[str]) -> str:
    """The first ones; a line with all of a large machine's would not be read by anyone, and ``--json`` has them."""
    shown = ", ".join(map(escape, disks[:_MAX_DISKS]))
    return shown if len(disks) <= _MAX_DISKS else f"{shown} and {len(disks) - _MAX_DISKS} more"


def _as_object(status: Status) -> dict[str, Any]:
    record = status.record
    return {
        "id": record.id,
        "mountpoint": record.mountpoint,
        "state": status.state,
        "reason": status.reason,
        "pid": record.worker.pid if record.worker else None,
        "memory": status.memory,
        "created": record.created,
        "via": record.via,
        "layout": record.layout,
        "volume": record.volume,
        "disks": record.disks,
        "overlays": record.overlays,
    }
