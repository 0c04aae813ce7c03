"""All that a user can ask of a disk, within bounds: open it, check it, list what is in it, read some of everything."""

from __future__ import annotations

import itertools
from pathlib import Path

from mntapi.blocks import read
from mntapi.errors import MntapiError
from mntapi.session.checks import check_set
from mntapi.session.diskset import DiskSet, open_disks
from mntapi.types import Blocks, DiskSpec, FileKind, FileSystem, Node

MAX_EXTENTS = 2000
MAX_NODES = 100
MAX_FAULTS = 200
CHUNK = 64 << 10


def exercise(path: Path) -> None:
    """Do it all. What raises MntapiError is fine, and so is the next thing; any other exception is a defect."""
    for attempt in (_open, _check):
        try:
            attempt(path)
        except MntapiError as error:
            str(error)


def _check(path: Path) -> None:
    for disk in check_set([DiskSpec(str(path))]):
        for fault in itertools.islice(disk.faults, MAX_FAULTS):
            str(fault)


def _open(path: Path) -> None:
    with open_disks(str(path)) as disks:
        for image in disks.disks:
            read_some(image.blocks)
        for volume in disks.volumes[:16]:
            disks.content(volume)
            read_some(volume.blocks)
            _walk_volume(disks, volume.name)


def read_some(blocks: Blocks) -> None:
    """The extents, and a few reads: the first and last bytes, the middle, and where extents begin."""
    places = [0, blocks.size // 3, max(0, blocks.size - CHUNK)]
    try:
        for extent in itertools.islice(blocks.extents(0, blocks.size), MAX_EXTENTS):
            if len(places) < 12:
                places.append(extent.offset)
    except MntapiError as error:
        str(error)
    for place in places:
        try:
            read(blocks, place, max(0, min(CHUNK, blocks.size - place)))
        except MntapiError as error:
            str(error)


def _walk_volume(disks: DiskSet, name: str) -> None:
    try:
        filesystem = disks.filesystem(disks.volume(name))
        filesystem.capacity()
        _walk(filesystem)
    except MntapiError as error:
        str(error)


def _walk(filesystem: FileSystem) -> None:
    todo, seen = [filesystem.root], {filesystem.root.inode}
    while todo and len(seen) < MAX_NODES:
        directory = todo.pop()
        try:
            for entry in itertools.islice(filesystem.scan(directory), MAX_NODES):
                _look(filesystem, entry.node)
                if entry.node.kind is FileKind.DIRECTORY and entry.node.inode not in seen:
                    todo.append(entry.node)
                seen.add(entry.node.inode)
        except MntapiError as error:
            str(error)


def _look(filesystem: FileSystem, node: Node) -> None:
    try:
        filesystem.xattrs(node)
        if node.kind is FileKind.SYMLINK:
            filesystem.readlink(node)
        elif node.kind is FileKind.FILE:
            contents = filesystem.open(node)
            try:
                read(contents, 0, min(CHUNK, contents.size))
            finally:
                contents.close()
    except MntapiError as error:
        str(error)
