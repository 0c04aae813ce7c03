"""Presenting a set in the background.

    mount    worker started -> disks opened -> FUSE mounted -> worker serves -> (kernel: loops, mounts on top)
    undo     the same backwards, from the journal (``teardown.py``); it can be called at any point and called again

Every step is in the journal before it is made, and undoing a step looks at what is really there, so an interrupt between the
two does no harm.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from mntapi.errors import Busy, Denied, MntapiError, NotADirectory, NotFound, Unsupported
from mntapi.kernel import fusemount, loop
from mntapi.kernel import mount as kernel_mount
from mntapi.kernel.mountinfo import canonical, mount_at
from mntapi.session import journal
from mntapi.session.journal import Entry, Record, source_of
from mntapi.session.launch import FoundVolume, Worker
from mntapi.session.teardown import prune, undo_after, uninterrupted
from mntapi.types import DiskSpec, OpenOptions


@dataclass(frozen=True, slots=True)
class MountRequest:
    """What to present, where and how.

    ``worker`` is the program that serves (the entry point decides which). ``layout``: ``volumes`` (files) or ``blocks``
    (disks and volumes as files). ``via``: ``user`` (read here, over FUSE) or ``kernel`` (its file systems, over loop devices).
    """

    specs: tuple[DiskSpec, ...]
    mountpoint: str
    worker: tuple[str, ...]
    options: OpenOptions = field(default_factory=OpenOptions)
    layout: str = "volumes"
    via: str = "user"
    volume: str | None = None
    allow_other: bool = False
    backend: str = "kernel"


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount that serves. ``notes``: what could not be presented, and why, one line each."""

    record: Record
    worker: Worker
    notes: tuple[str, ...]


def mount(request: MountRequest) -> Mounted:
    """Present a set; returns when it can be used. On any error, and on an interrupt, everything made is undone first.

    Raises:
        NotFound, NotADirectory, Busy, Denied: the mount point is not one, or not free.
        MntapiError: what opening the disks, mounting or attaching raised.
    """
    target = _free_mountpoint(request.mountpoint)
    prune()
    disks = [os.path.abspath(spec.path) for spec in request.specs]
    created = datetime.now(UTC).isoformat(timespec="seconds")
    record = Record("", target, disks, request.layout, request.via, request.volume, created)
    with journal.create(record) as entry:
        try:
            return _make(entry, request)
        except BaseException as error:
            with uninterrupted():
                undo_after(error, entry)
            raise


def _free_mountpoint(path: str) -> str:
    target = canonical(path)
    try:
        in_use = mount_at(target) is not None
        names = [] if in_use else os.listdir(target)
    except FileNotFoundError as error:
        raise NotFound("no such folder to mount on", path=path, hint=f"mkdir -p {path}") from error
    except NotADirectoryError as error:
        raise NotADirectory("is not a folder", path=path) from error
    except PermissionError as error:
        raise Denied("permission denied", path=path) from error
    if in_use:
        raise Busy("something is mounted here already", path=path, hint=f"mntapi umount {path}, or choose another folder")
    if names:
        raise Denied("is not empty, and mounting here would hide what is in it", path=path, hint="choose an empty folder")
    return target


def _make(entry: Entry, request: MountRequest) -> Mounted:
    record = entry.record
    worker = Worker.start(request.worker, entry.folder / "worker.log")
    try:
        record.worker = worker.id
        entry.save()
        volumes = worker.open(request.specs, request.options, request.backend)
        present = _present_by_kernel if request.via == "kernel" else _present_by_fuse
        notes = present(entry, request, worker, volumes)
    finally:
        worker.close()
    record.ready = True
    entry.save()
    return Mounted(record, worker, tuple(notes))


def _present_by_fuse(entry: Entry, request: MountRequest, worker: Worker, volumes: Sequence[FoundVolume]) -> list[str]:
    _mount_fuse(entry, request, worker, entry.record.mountpoint, layout=request.layout, allow_other=request.allow_other)
    if request.layout == "blocks" or request.volume:
        return []
    return [f"{one.name}: {one.reason}" for one in volumes if one.reason]


def _present_by_kernel(entry: Entry, request: MountRequest, worker: Worker, volumes: Sequence[FoundVolume]) -> list[str]:
    if request.layout != "volumes":
        raise Unsupported("the kernel mounts volumes; block files need no kernel mount", hint="leave out --via kernel")
    blocks = entry.folder / "blocks"
    blocks.mkdir()
    _mount_fuse(entry, request, worker, str(blocks), layout="blocks", allow_other=False)
    entry.step("loops", str(blocks))
    if request.volume:
        volume = next(one for one in volumes if request.volume in (one.name, one.id))
        _mount_volume(entry, blocks, volume, entry.record.mountpoint)
        return []
    return _mount_volumes(entry, blocks, [one for one in volumes if one.filesystem != "swap"])


def _mount_fuse(entry: Entry, request: MountRequest, worker: Worker, target: str, *, layout: str, allow_other: bool) -> None:
    entry.step("fuse", target)
    fd = fusemount.open_fuse_and_mount(
        target, fsname=source_of(entry.record), allow_other=allow_other, default_permissions=allow_other
    )
    try:
        worker.serve(fd, layout=layout, volume=request.volume, backend=request.backend)
    finally:
        os.close(fd)
    fusemount.read_ahead(target)


def _mount_volumes(entry: Entry, blocks: Path, volumes: Sequence[FoundVolume]) -> list[str]:
    """Each volume in a folder of its own; those that the kernel cannot mount are told and left out."""
    target = entry.record.mountpoint
    entry.step("skeleton", target)
    kernel_mount.mount_skeleton(target, [one.name for one in volumes], source=source_of(entry.record))
    notes = []
    for volume in volumes:
        try:
            _mount_volume(entry, blocks, volume, os.path.join(target, volume.name))
        except MntapiError as error:
            notes.append(f"{volume.name}: {error}")
    if len(notes) == len(volumes):
        raise Unsupported("the kernel can mount none of the volumes: " + "; ".join(notes), hint="leave out --via kernel")
    return notes


def _mount_volume(entry: Entry, blocks: Path, volume: FoundVolume, target: str) -> None:
    if volume.filesystem is None:
        raise Unsupported(volume.reason or "holds no file system")
    file = blocks / "volumes" / volume.name
    with loop.attach(str(file), read_only=True, autoclear=True, sector_size=volume.sector_size) as device:
        entry.step("mount", target)
        kernel_mount.mount_kernel_filesystem(device.path, target, volume.filesystem)
