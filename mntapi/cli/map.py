"""``mntapi map SET``: where a disk has data, and where it is only holes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from mntapi.blocks import merged
from mntapi.cli.arguments import SetArguments, json_option, takes_set
from mntapi.cli.output import emit
from mntapi.cli.selection import disk_at, disk_index_option
from mntapi.session.diskset import DiskSet
from mntapi.types import Extent, ExtentKind

_ROW = "{:<6}  {:>18}  {:>18}  {}"


@click.command("map", short_help="Extents of the disks: data and holes.")
@takes_set
@disk_index_option
@json_option
def command(disks: SetArguments, disk_index: int | None, as_json: bool) -> None:
    """Show the extents of every disk of SET, with all its chain: in bytes, ascending, without gaps.

    With --json as 'qemu-img map --output=json' has them, each with its disk: "disk", "start",
    "length", "zero", "data". Not told: which link of the chain has the bytes ("depth",
    "present") and where in its file they are ("offset"). Data is what is stored, and may be
    zeros too; "zero" is true where nothing is stored.
    """
    with disks.open() as disk_set:
        indexes = range(len(disk_set.disks)) if disk_index is None else (disk_index,)
        extents = ((index, extent) for index in indexes for extent in _extents(disk_set, index))
        if as_json:
            _print_json(extents)
        else:
            _print_rows(extents)


def _extents(disk_set: DiskSet, index: int) -> Iterator[Extent]:
    blocks = disk_at(disk_set, index).blocks
    return merged(blocks.extents(0, blocks.size))


def _print_json(extents: Iterator[tuple[int, Extent]]) -> None:
    """One extent a line, as they are found: a large disk has millions."""
    opening = "["
    for disk, (start, length, kind) in extents:
        is_data = kind is ExtentKind.DATA
        one = {"disk": disk, "start": start, "length": length, "zero": not is_data, "data": is_data}
        emit(f"{opening} {json.dumps(one)}")
        opening = ","
    emit("]" if opening == "," else "[]")


def _print_rows(extents: Iterator[tuple[int, Extent]]) -> None:
    emit(_ROW.format("DISK", "START", "LENGTH", "KIND"))
    for disk, (start, length, kind) in extents:
        emit(_ROW.format(f"disk{disk}", start, length, kind.value))
