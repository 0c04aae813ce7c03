"""``mntapi info SET``: the guests, the disks, what lies on them, and what is on that. ``info_page.py`` and ``info_svg.py`` draw
it, ``info_guests.py`` has what is about guests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from mntapi.cli.arguments import SetArguments, json_option, takes_set
from mntapi.cli.info_guests import applications_page, describe_guest, mounted_at, title
from mntapi.cli.info_page import page
from mntapi.cli.info_snapshots import describe_machines, describe_snapshots, snapshots_page
from mntapi.cli.main import OK, PARTIAL, report
from mntapi.cli.output import emit, emit_json, escape
from mntapi.errors import MntapiError
from mntapi.session.diskset import DiskSet
from mntapi.session.snapshots import Holder, snapshots_of
from mntapi.session.stack import Stack
from mntapi.types import Image, Volume


@click.command("info", short_help="The systems, disks with their chains, volumes with file system and state.")
@takes_set
@click.option("-v", "--verbose", is_flag=True, help="Also what formats and volume managers say: UUIDs, geometry, layouts.")
@click.option("--svg", "picture", metavar="OUT.svg", help="Draw the disks to scale into a new file, or '-'.")
@click.option("--apps", is_flag=True, help="Also the programs, packages and services that are installed.")
@json_option
def command(disks: SetArguments, verbose: bool, picture: str | None, apps: bool, as_json: bool) -> int:
    """Show the systems on the disks of SET, what lies on what, and every volume with where it is mounted, its file system,
    free space and state."""
    with disks.open() as disk_set:
        if picture is not None:
            _draw(disk_set, picture)
            return OK
        holders = snapshots_of(disk_set.disks, disks.specs, disks.options)
        code = _unlisted(holders)
        if as_json:
            emit_json(describe(disk_set, holders, apps=apps))
            return code
        for line in (*page(disk_set, verbose=verbose), *snapshots_page(holders, verbose=verbose)):
            emit(line)
        return max(code, _list_applications(disk_set)) if apps else code


def _unlisted(holders: Sequence[Holder]) -> int:
    """Say of which disks the snapshots could not be listed."""
    errors = [holder.error for holder in holders if holder.error is not None]
    for error in errors:
        report(error)
    return PARTIAL if errors else OK


def _list_applications(disk_set: DiskSet) -> int:
    """What is installed on each guest; one that cannot be asked is an error of its own."""
    code = OK
    for guest in disk_set.guests:
        emit()
        emit(f"Installed on {escape(title(guest))}:")
        try:
            for line in applications_page(guest):
                emit(line)
        except MntapiError as error:
            report(error)
            code = PARTIAL
    return code


def _draw(disk_set: DiskSet, target: str) -> None:
    from mntapi.cli.info_svg import draw  # only who wants a picture pays for these
    from mntapi.export.newfile import new_file

    picture = draw(disk_set)
    if target == "-":
        emit(picture)
        return
    with new_file(target, originals=[link.file for disk in disk_set.disks for link in disk.chain]) as out:
        out.write(0, picture.encode() + b"\n")


def describe(disk_set: DiskSet, holders: Sequence[Holder] = (), *, apps: bool = False) -> dict[str, list[dict[str, Any]]]:
    """The set as plain values: the JSON of ``info``. Bytes are integers; ``disk`` is an index into ``disks``.

    ``holders``: the snapshots. ``apps``: also what is installed on the guests.
    """
    snapshots = {holder.disk: describe_snapshots(holder) for holder in holders}
    stack = Stack(disk_set.volumes, disk_set.containers)
    mounted = mounted_at(disk_set, numbered=False)
    return {
        "guests": [describe_guest(guest, apps=apps) for guest in disk_set.guests],
        "machines": describe_machines(holders),
        "disks": [_describe_disk(disk, snapshots.get(index, [])) for index, disk in enumerate(disk_set.disks)],
        "volumes": [_describe_volume(volume, disk_set, stack, mounted) for volume in disk_set.volumes],
    }


def _describe_disk(disk: Image, snapshots: list[dict[str, Any]]) -> dict[str, Any]:
    chain = [{"file": link.file, "format": link.format, "cid": link.cid, "parent_cid": link.parent_cid} for link in disk.chain]
    return {
        "path": disk.path,
        "format": disk.format,
        "virtual_size": disk.blocks.size,
        "chain": chain,
        "details": dict(disk.details),
        "snapshots": snapshots,
    }


def _describe_volume(volume: Volume, disk_set: DiskSet, stack: Stack, mounted: dict[str, list[str]]) -> dict[str, Any]:
    content = disk_set.content(volume)
    signature = content.signature
    capacity = disk_set.capacity(volume)
    return {
        "id": volume.id,
        "name": volume.name,
        "kind": volume.kind,
        "disk": volume.disk,
        "offset": volume.offset,
        "size": volume.size,
        "filesystem": signature.kind if signature else None,
        "label": signature.label if signature else None,
        "uuid": signature.uuid if signature else None,
        "free": capacity.free if capacity else None,
        "mount_points": mounted.get(volume.id, []),
        "state": content.state.value,
        "reason": content.reason,
        "members": list(volume.members),
        "stack": [_describe_container(one) for one in stack.below(volume)],
        "details": dict(volume.details),
    }


def _describe_container(volume: Volume) -> dict[str, Any]:
    """One thing that a volume lies on."""
    return {
        "id": volume.id,
        "name": volume.name,
        "kind": volume.kind,
        "disk": volume.disk,
        "offset": volume.offset,
        "size": volume.size,
        "state": volume.state.value,
        "reason": volume.reason,
        "members": list(volume.members),
        "details": dict(volume.details),
    }
