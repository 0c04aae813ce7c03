"""``mntapi cat SET PATH``: a file's bytes on standard output."""

from __future__ import annotations

import os
import sys

import click

from mntapi.cli.arguments import SetArguments, takes_set
from mntapi.errors import IsADirectory, Unsupported
from mntapi.session.paths import resolve
from mntapi.session.tree import open_tree
from mntapi.types import Blocks, FileKind, FileSystem
from mntapi.units import MIB


@click.command("cat", short_help="Write a file to standard output.")
@takes_set
@click.argument("path")
def command(disks: SetArguments, path: str) -> None:
    """Write the contents of the file PATH to standard output."""
    with disks.reading() as disk_set:
        content = _open_file(open_tree(disk_set), path)
        try:
            _write_all(content, sys.stdout.fileno())
        finally:
            content.close()


def _open_file(tree: FileSystem, path: str) -> Blocks:
    node = resolve(tree, path, follow_last=True)
    if node.kind is FileKind.DIRECTORY:
        raise IsADirectory("is a folder", path=path, hint="mntapi ls shows what is in it, mntapi cp -r copies it")
    if node.kind is not FileKind.FILE:
        raise Unsupported(f"is a {node.kind.value}, which has no contents", path=path)
    return tree.open(node)


def _write_all(content: Blocks, fd: int) -> None:
    buffer = memoryview(bytearray(min(MIB, max(1, content.size))))
    for offset in range(0, content.size, MIB):
        chunk = buffer[: min(MIB, content.size - offset)]
        content.readinto(offset, chunk)
        while chunk:
            chunk = chunk[os.write(fd, chunk) :]
