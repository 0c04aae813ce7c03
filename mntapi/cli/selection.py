"""What verbs take in common: which disk of the SET, and what is to be said of volumes that are locked."""

from __future__ import annotations

from collections.abc import Sequence

import click

from mntapi.cli.output import complain
from mntapi.errors import MntapiError, NotFound
from mntapi.session.diskset import DiskSet
from mntapi.types import DiskSpec, Image, OpenOptions, Volume, VolumeState

_MAX_NAMED = 8
"""Volumes that are named; the others are counted."""

disk_index_option = click.option(
    "--disk-index", metavar="N", type=click.IntRange(min=0), help="Only the disk that info shows as diskN."
)


def disk_at(disk_set: DiskSet, index: int) -> Image:
    """The disk with that index. Raises NotFound with those there are."""
    if index >= len(disk_set.disks):
        there = ", ".join(f"{number} ({disk.path})" for number, disk in enumerate(disk_set.disks))
        raise NotFound(f"no disk {index} in this set", hint=f"disks: {there}")
    return disk_set.disks[index]


def tell_overruled(specs: Sequence[DiskSpec], options: OpenOptions) -> None:
    """Name the parents that only ``--parent`` and ``--ignore-cid`` make those of their children on standard error."""
    if options.parent is None and not options.ignore_cid:
        return
    from mntapi.session.overruled import overruled

    try:
        for line in overruled(specs, options):
            complain(f"note: {line}")
    except MntapiError:
        return  # the verb meets the same error, and says it in its own way


def tell_locked(disk_set: DiskSet) -> None:
    """Name the encrypted volumes that no key opened on standard error, and how to open them."""
    locked = [volume.name for volume in disk_set.volumes if volume.state is VolumeState.ENCRYPTED]
    if locked:
        more = f" and {len(locked) - _MAX_NAMED} more" if len(locked) > _MAX_NAMED else ""
        names = ", ".join(locked[:_MAX_NAMED]) + more
        is_one = len(locked) == 1
        how = f"--key {locked[0]}:FILE opens it" if is_one else "--key VOLUME:FILE opens one"
        complain(f"note: {names} {'is' if is_one else 'are'} encrypted and locked: {how}")


def tell_unreplayed(disk_set: DiskSet) -> None:
    """Name the volumes that were read as they lie although their newest changes are elsewhere on standard error, each once."""
    dirty = list(disk_set.unreplayed().items())
    for name, reason in dirty[:_MAX_NAMED]:
        complain(f"note: {name} is dirty: {reason}")
    if len(dirty) > _MAX_NAMED:
        complain(f"note: {len(dirty) - _MAX_NAMED} more volumes are dirty; mntapi info shows all")


def tell_ciphertext(volume: Volume) -> None:
    """Say on standard error what a copy of a volume will be that no key opened."""
    if volume.state is VolumeState.ENCRYPTED:
        complain(f"note: {volume.name} is locked: what is written is the encrypted volume, ciphertext that needs its key")
