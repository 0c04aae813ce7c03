"""``mntapi ls SET [PATH]``: the names in a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import click

from mntapi.cli.arguments import SetArguments, json_option, takes_set
from mntapi.cli.listing import LONG_RIGHT, as_object, long_row
from mntapi.cli.main import OK, PARTIAL
from mntapi.cli.output import emit, emit_json, shown, table
from mntapi.cli.selection import tell_locked
from mntapi.cli.walk import Walker, join
from mntapi.session.paths import parts_of, resolve
from mntapi.session.tree import open_tree
from mntapi.types import Entry, FileKind, FileSystem


@click.command("ls", short_help="List a folder.")
@takes_set
@click.argument("path", default="/")
@click.option("-l", "long", is_flag=True, help="Mode, links, user, group, size and time (UTC) too.")
@click.option("-R", "recursive", is_flag=True, help="And everything below.")
@json_option
def command(disks: SetArguments, path: str, long: bool, recursive: bool, as_json: bool) -> int:
    """List the folder PATH: /etc or C:\\Users as the guest has it, /volumes/disk0p3 on a volume that it does not mount.

    Earlier states are beside the live files: /home/@2026-11-01T02:00:00Z; -R leaves them out. Where there is no guest,
    / lists the volumes, and /disk0p1/etc is a folder on one.
    """
    with disks.reading() as disk_set:
        tree = open_tree(disk_set, snapshots=not recursive)
        walker = Walker(tree)
        folders = _folders(tree, walker, path, recursive)
        if as_json:
            emit_json(
                [as_object(tree, join(folder, name), name, node) for folder, entries in folders for name, node in entries]
            )
        else:
            _print(tree, folders, long, recursive)
        if not parts_of(path, tree):
            tell_locked(disk_set)
    return PARTIAL if walker.failed else OK


def _folders(tree: FileSystem, walker: Walker, path: str, recursive: bool) -> Iterator[tuple[str, list[Entry]]]:
    """Each folder's path with its entries sorted by name; a PATH that is no folder counts as the one entry of its parent."""
    node = resolve(tree, path, follow_last=path.endswith("/"))
    names = parts_of(path, tree)
    if node.kind is not FileKind.DIRECTORY:
        yield "/" + "/".join(names[:-1]), [Entry(names[-1], node)]
        return
    todo = [("/" + "/".join(names), node)]
    while todo:
        folder, node = todo.pop()
        entries = _sorted(walker.folder(folder, node))
        yield folder, entries
        if recursive:
            inner = [(join(folder, name), child) for name, child in entries if child.kind is FileKind.DIRECTORY]
            todo.extend(reversed(inner))


def _sorted(entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: entry.name)


def _print(tree: FileSystem, folders: Iterable[tuple[str, list[Entry]]], long: bool, recursive: bool) -> None:
    for index, (folder, entries) in enumerate(folders):
        if recursive:
            emit(("\n" if index else "") + shown(folder) + ":")
        for line in _lines(tree, entries, long):
            emit(line)


def _lines(tree: FileSystem, entries: list[Entry], long: bool) -> list[str]:
    if not long:
        return [shown(entry.name) for entry in entries]
    rows: list[Any] = [long_row(tree, name, node) for name, node in entries]
    return table(rows, right=LONG_RIGHT) if rows else []
