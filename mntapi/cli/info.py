"""``mntapi info SET``: what the disks are, and what is on them."""

from __future__ import annotations

from typing import Any

import click

from mntapi.cli.arguments import SetArguments, json_option, takes_set
from mntapi.cli.output import emit, emit_json, escape, table
from mntapi.session.diskset import Content, DiskSet
from mntapi.types import Image, Volume, VolumeState
from mntapi.units import format_size


@click.command("info", short_help="Disks with their chains, volumes with file system and state.")
@takes_set
@click.option("-v", "--verbose", is_flag=True, help="Also what the format says of each disk: geometry, UUIDs, hashes.")
@json_option
def command(disks: SetArguments, verbose: bool, as_json: bool) -> None:
    """Show the disks of SET with their chains, and every volume with its file system and state."""
    with disks.open() as disk_set:
        if as_json:
            emit_json(describe(disk_set))
        else:
            _page(disk_set, verbose)


def describe(disk_set: DiskSet) -> dict[str, list[dict[str, Any]]]:
    """The set as plain values: the JSON of ``info``. Bytes are integers; ``disk`` is an index into ``disks``."""
    return {
        "disks": [_describe_disk(disk) for disk in disk_set.disks],
        "volumes": [_describe_volume(volume, disk_set.content(volume)) for volume in disk_set.volumes],
    }


def _describe_disk(disk: Image) -> dict[str, Any]:
    chain = [{"file": link.file, "format": link.format, "cid": link.cid, "parent_cid": link.parent_cid} for link in disk.chain]
    return {
        "path": disk.path,
        "format": disk.format,
        "virtual_size": disk.blocks.size,
        "chain": chain,
        "details": dict(disk.details),
    }


def _describe_volume(volume: Volume, content: Content) -> dict[str, Any]:
    signature = content.signature
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
        "state": content.state.value,
        "reason": content.reason,
    }


def _page(disk_set: DiskSet, verbose: bool) -> None:
    rows = [("DISK", "FORMAT", "SIZE", "FILE")]
    for index, disk in enumerate(disk_set.disks):
        rows.append((f"disk{index}", disk.format, format_size(disk.blocks.size), escape(disk.path)))
        rows.extend(("", link.format, "", f"on {escape(link.file)}") for link in disk.chain[1:])
        if verbose:
            rows.extend(("", "", "", f"{escape(name)}: {escape(value)}") for name, value in disk.details.items())
    for line in table(rows, right=(2,)):
        emit(line)
    emit()
    for line in table(
        [_VOLUME_HEADER, *(_volume_row(volume, disk_set.content(volume)) for volume in disk_set.volumes)], right=(2, 3)
    ):
        emit(line)
    reasons = [(volume, disk_set.content(volume)) for volume in disk_set.volumes if disk_set.content(volume).reason]
    if reasons:
        emit()
    for volume, content in reasons:
        emit(f"{volume.name}  {content.state.value}: {escape(content.reason or '')}")


_VOLUME_HEADER = ("VOLUME", "KIND", "START", "SIZE", "FILE SYSTEM", "LABEL", "UUID", "STATE")


def _volume_row(volume: Volume, content: Content) -> tuple[str, ...]:
    signature = content.signature
    return (
        volume.name,
        volume.kind,
        "-" if volume.offset is None else format_size(volume.offset),
        format_size(volume.size),
        signature.kind if signature else "-",
        escape(signature.label or "-") if signature else "-",
        escape(signature.uuid or "-") if signature else "-",
        content.state.value if content.state is not VolumeState.OK else "ok",
    )
