"""``mntapi find SET [PATH]``: every file below a folder that fits."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import islice

import click

from mntapi.cli.arguments import SetArguments, json_option, takes_set
from mntapi.cli.listing import as_object
from mntapi.cli.main import OK, PARTIAL
from mntapi.cli.output import emit, emit_json, shown
from mntapi.cli.walk import Walker
from mntapi.escaping import quoted
from mntapi.session.paths import parts_of, resolve
from mntapi.session.tree import open_tree
from mntapi.types import Entry, FileKind, FileSystem, Node
from mntapi.units import parse_size

_TYPES = {
    "f": FileKind.FILE,
    "d": FileKind.DIRECTORY,
    "l": FileKind.SYMLINK,
    "p": FileKind.FIFO,
    "s": FileKind.SOCKET,
    "c": FileKind.CHAR_DEVICE,
    "b": FileKind.BLOCK_DEVICE,
}
Test = Callable[[Entry], bool]
Hit = tuple[str, Entry]
"""A path, and what is there."""
_LINES = 256


class _Size(click.ParamType[Test]):
    """``+10M`` more than, ``-4k`` less than, ``512`` exactly."""

    name = "size"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Test:
        try:
            bound = parse_size(value.lstrip("+-"))
        except ValueError:
            self.fail(f"{quoted(value)} is not a size such as +10M, -4k or 512", param, ctx)
        if value.startswith("+"):
            return lambda entry: entry.node.size > bound
        if value.startswith("-"):
            return lambda entry: entry.node.size < bound
        return lambda entry: entry.node.size == bound


class _Newer(click.ParamType[Test]):
    """A date, a time, or a file of this host whose time is meant."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Test:
        try:
            moment = datetime.fromisoformat(value)
            bound = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000_000)
        except ValueError:
            if not os.path.exists(value):
                self.fail(f"{quoted(value)} is neither a time such as 2026-11-01T02:00 (UTC) nor a file here", param, ctx)
            bound = os.stat(value).st_mtime_ns
        return lambda entry: entry.node.mtime_ns > bound


@click.command("find", short_help="Search by name, type, size and time.")
@takes_set
@click.argument("path", default="/")
@click.option(
    "--name",
    "names",
    metavar="GLOB",
    multiple=True,
    help="The name matches this pattern, in any case where the guest or the file system (NTFS, FAT) takes no notice of it.",
)
@click.option("--iname", "inames", metavar="GLOB", multiple=True, help="--name, in any case everywhere.")
@click.option(
    "--type", "types", multiple=True, type=click.Choice(list(_TYPES)), help="File, directory, link, pipe, socket, device."
)
@click.option("--size", "sizes", metavar="[+-]SIZE", multiple=True, type=_Size(), help="Larger (+), smaller (-) or exact size.")
@click.option(
    "--newer", metavar="TIME|FILE", type=_Newer(), help="Changed after this time (UTC), or after this file of the host."
)
@json_option
def command(
    disks: SetArguments,
    path: str,
    names: tuple[str, ...],
    inames: tuple[str, ...],
    types: tuple[str, ...],
    sizes: tuple[Test, ...],
    newer: Test | None,
    as_json: bool,
) -> int:
    """Print the path of every file below PATH that passes all tests; of several names, one is enough. Earlier states are
    searched only where PATH is in one.
    """
    tests: list[Test] = [*sizes, *([newer] if newer else [])]
    if types:
        kinds = {_TYPES[letter] for letter in types}
        tests.append(lambda entry: entry.node.kind in kinds)
    with disks.reading() as disk_set:
        tree = open_tree(disk_set, snapshots=False)
        if names or inames:
            tests.append(_named(names, inames, tree.folds_names))
        walker = Walker(tree)
        found = _candidates(tree, walker, path)
        for test in tests:
            found = _passing(test, found)
        if as_json:
            emit_json([as_object(tree, place, entry.name, entry.node) for place, entry in found])
        else:
            _print(place for place, _ in found)
    return PARTIAL if walker.failed else OK


def _named(names: Sequence[str], inames: Sequence[str], folds: Callable[[Node], bool]) -> Test:
    """Whether a name is one of these; ``folds`` says where upper and lower case are one for ``names`` too."""
    folded, everywhere = [one.lower() for one in names], [one.lower() for one in inames]

    def test(entry: Entry) -> bool:
        if any(fnmatchcase(entry.name, pattern) for pattern in names):
            return True
        name = entry.name.lower()
        if any(fnmatchcase(name, pattern) for pattern in everywhere):
            return True
        return any(fnmatchcase(name, pattern) for pattern in folded) and folds(entry.node)

    return test


def _candidates(tree: FileSystem, walker: Walker, path: str) -> Iterator[Hit]:
    """Everything below a folder; a PATH that is no folder is the only candidate."""
    node = resolve(tree, path, follow_last=True)
    names = parts_of(path, tree)
    top = "/" + "/".join(names)
    return walker.below(top, node) if node.kind is FileKind.DIRECTORY else iter([(top, Entry(names[-1], node))])


def _passing(test: Test, hits: Iterator[Hit]) -> Iterator[Hit]:
    return (hit for hit in hits if test(hit[1]))


def _print(paths: Iterator[str]) -> None:
    """One line each: at once on a terminal, elsewhere many with one call, which takes a third of the time."""
    if sys.stdout.isatty():
        for path in paths:
            emit(shown(path))
    while lines := list(islice(paths, _LINES)):
        emit("\n".join(lines))
