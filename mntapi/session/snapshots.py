"""The snapshots that ``DiskSpec.snapshot`` can choose: those inside a QCOW2, and those of a machine whose file tells of them.

Listing them opens those files once more, which only who wants the list pays for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from mntapi.blocks import read_clipped
from mntapi.errors import MntapiError
from mntapi.images.formats import HEAD
from mntapi.machines import Machine, is_machine, read_machine
from mntapi.remote import is_url
from mntapi.remote.urls import Url
from mntapi.session.sets import opener_for
from mntapi.types import DiskSpec, Image, Opener, OpenOptions

MAX_LISTED = 1000
"""Snapshots of one disk or machine that are listed; a QCOW2 may have 65536."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A snapshot. What its file does not tell is None; ``vm_state_size`` is in bytes."""

    id: str
    name: str
    time_ns: int | None = None
    """Nanoseconds since 1970 UTC."""
    size: int | None = None
    """Bytes of the disk at that time."""
    vm_state_size: int | None = None
    parent: str | None = None
    """The id of the snapshot before."""
    description: str | None = None
    is_current: bool = False
    """Whether the present state builds on it."""


@dataclass(frozen=True, slots=True)
class Holder:
    """What has snapshots: the disk with that index, or the machine of the file ``path``. ``error``: why they are not all."""

    path: str
    disk: int | None
    snapshots: tuple[Listed, ...]
    error: MntapiError | None = None
    kind: str | None = None
    name: str | None = None
    """Of a machine."""


def snapshots_of(disks: Sequence[Image], specs: Sequence[DiskSpec], options: OpenOptions) -> tuple[Holder, ...]:
    """What of an open set has snapshots: each disk that can have some, and each machine file.

    Args:
        disks: the disks of the set.
        specs: what the user named.
        options: with which it was opened.
    """
    opener = opener_for(specs, options)
    given = {Url.parse(spec.path).display: spec.path for spec in specs if is_url(spec.path)}
    machines = [_machine(spec, opener) for spec in specs if spec.format is None and not is_url(spec.path)]
    inside = [
        _inside(index, disk.chain[0].file, given.get(disk.chain[0].file, disk.chain[0].file), opener)
        for index, disk in enumerate(disks)
        if disk.chain[0].format == "qcow2"
    ]
    return (*filter(None, machines), *inside)


def _inside(index: int, path: str, name: str, opener: Opener) -> Holder:
    """The internal snapshots of a QCOW2, as far as its table can be read."""
    from mntapi.images.qcow2.image import read_header  # imported where there is a QCOW2
    from mntapi.images.qcow2.snapshots import read_snapshots

    found: list[Listed] = []
    error: MntapiError | None = None
    try:
        file = opener.open(name)
        try:
            for one in islice(read_snapshots(file, read_header(file)), MAX_LISTED):
                found.append(Listed(one.id, one.name, one.time_ns, one.size, one.vm_state_size))
        finally:
            file.close()
    except MntapiError as trouble:
        error = trouble
    return Holder(path, index, tuple(found), error)


def _machine(spec: DiskSpec, opener: Opener) -> Holder | None:
    """The snapshots of a machine; None for a file that is a disk."""
    try:
        file = opener.open(spec.path)
        try:
            machine = read_machine(file, opener) if is_machine(read_clipped(file, 0, HEAD), file.path) else None
        finally:
            file.close()
    except MntapiError as error:
        return Holder(spec.path, None, (), error)
    if machine is None:
        return None
    return Holder(file.path, None, tuple(islice(_listed(machine), MAX_LISTED)), kind=machine.kind, name=machine.name)


def _listed(machine: Machine) -> Iterator[Listed]:
    for one in machine.snapshots:
        parent = None if one.parent is None else str(one.parent)
        yield Listed(
            id=str(one.uid),
            name=one.name,
            time_ns=one.created_ns,
            parent=parent,
            description=one.description,
            is_current=one.is_current,
        )
