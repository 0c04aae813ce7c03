"""What the verbs about whole disks take in common: which disk of the SET."""

from __future__ import annotations

import click

from mntapi.errors import NotFound
from mntapi.session.diskset import DiskSet
from mntapi.types import Image

disk_index_option = click.option(
    "--disk-index", metavar="N", type=click.IntRange(min=0), help="Only the disk that info shows as diskN."
)


def disk_at(disk_set: DiskSet, index: int) -> Image:
    """The disk with that index. Raises NotFound with those there are."""
    if index >= len(disk_set.disks):
        there = ", ".join(f"{number} ({disk.path})" for number, disk in enumerate(disk_set.disks))
        raise NotFound(f"no disk {index} in this set", hint=f"disks: {there}")
    return disk_set.disks[index]
