"""Presenting a set in the background.

    mount    worker started -> disks opened -> FUSE mounted -> worker serves -> (kernel: loops, mounts on top)
    undo     the same backwards, from the journal (``teardown.py``); it can be called at any point and called again

Every step is in the journal before it is made, and undoing a step looks at what is really there, so an interrupt between the
two does no harm.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from mntapi.errors import Busy, Denied, Invalid, MntapiError, NotADirectory, NotFound, Unsupported
from mntapi.kernel import fusemount, loop
from mntapi.kernel import mount as kernel_mount
from mntapi.kernel.mountinfo import canonical, mount_at
from mntapi.remote import Url, absolute, is_url
from mntapi.session import journal
from mntapi.session.dialer import Dialer, servers
from mntapi.session.journal import Entry, Record, source_of
from mntapi.session.keys import check_opened, in_vain
from mntapi.session.launch import FoundVolume, Worker, named
from mntapi.session.overlay import MEMORY, OverlayFiles
from mntapi.session.teardown import prune, undo_after, uninterrupted
from mntapi.types import DiskSpec, OpenOptions, VolumeState


@dataclass(frozen=True, slots=True)
class MountRequest:
    """What to present, where and how.

    ``worker`` is the program that serves (the entry point decides which). ``layout``: ``guest`` (files as the guest has them),
    ``volumes`` (files, by volume) or ``blocks`` (disks and volumes as files); None: ``guest``, or ``volumes`` if there is none.
    ``via``: ``user`` (read here, over FUSE) or ``kernel`` (its file systems, over loop devices). ``overlay``: the file that
    keeps what is written (``session/overlay.py``), or ``memory``; None: everything is read-only.
    """

    specs: tuple[DiskSpec, ...]
    mountpoint: str
    worker: tuple[str, ...]
    options: OpenOptions = field(default_factory=OpenOptions)
    layout: str | None = None
    via: str = "user"
    volume: str | None = None
    allow_other: bool = False
    backend: str = "kernel"
    overlay: str | None = None


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
        Invalid, Unsupported: ``overlay`` and something else of the request exclude each other.
        MntapiError: what opening the disks, mounting or attaching raised.
    """
    _check_overlay(request)
    prune()
    request = _anywhere(request)
    disks = [Url.parse(spec.path).display if is_url(spec.path) else os.path.abspath(spec.path) for spec in request.specs]
    created = datetime.now(UTC).isoformat(timespec="seconds")
    record = Record("", "", disks, request.layout or "volumes", request.via, request.volume, created)
    overlay = OverlayFiles(request.overlay) if request.overlay not in (None, MEMORY) else request.overlay
    with ExitStack() as resources:
        with journal.exclusive():
            record.mountpoint = _free_mountpoint(request.mountpoint)
            _check_overlay_is_elsewhere(request, record.mountpoint)
            entry = resources.enter_context(journal.create(record))
        try:
            return _make(entry, request, overlay)
        except BaseException as error:
            with uninterrupted():
                undo_after(error, entry)
                if isinstance(overlay, OverlayFiles):
                    overlay.take_back()
            raise


def _anywhere(request: MountRequest) -> MountRequest:
    """The request with URLs that mean the same in processes that run elsewhere."""
    specs = tuple(replace(spec, path=absolute(spec.path)) if is_url(spec.path) else spec for spec in request.specs)
    parent = request.options.parent
    if parent is not None and is_url(parent):
        parent = absolute(parent)
    return replace(request, specs=specs, options=replace(request.options, parent=parent))


def _check_overlay(request: MountRequest) -> None:
    if request.overlay is None:
        return
    if request.layout != "blocks" and request.via == "user":
        raise Invalid("files of the volumes cannot be written in user space", hint="add --layout blocks, or --via kernel")
    if request.backend != "kernel":
        raise Unsupported("only --fuse-backend kernel can write")
    if request.overlay != MEMORY and (request.options.parent or any(spec.snapshot for spec in request.specs)):
        what = "an overlay in a file names its original, but cannot say which snapshot or parent was chosen"
        raise Unsupported(what, hint="--overlay memory, or name the disk of the snapshot itself")


def _check_overlay_is_elsewhere(request: MountRequest, target: str) -> None:
    """Raise Invalid for a file that the mount itself would hide."""
    if request.overlay in (None, MEMORY):
        return
    folder = os.path.realpath(os.path.dirname(os.path.abspath(request.overlay or "")))
    if os.path.commonpath([folder, target]) == target:
        raise Invalid(
            "the overlay would be hidden by the mount", path=request.overlay, hint="name a file outside of the folder"
        )


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
    if in_use or any(record.mountpoint == target for record in journal.records()):
        raise Busy("something is mounted here already", path=path, hint=f"mntapi umount {path}, or choose another folder")
    if names:
        raise Denied("is not empty, and mounting here would hide what is in it", path=path, hint="choose an empty folder")
    return target


def _make(entry: Entry, request: MountRequest, overlay: OverlayFiles | str | None) -> Mounted:
    record = entry.record
    worker = Worker.start(request.worker, entry.folder / "worker.log")
    try:
        record.worker = worker.id
        entry.save()
        with _dialer(entry, request) as lines:
            guests = request.layout in (None, "guest") and request.via == "user" and request.volume is None
            volumes = worker.open(request.specs, request.options, request.backend, overlay, lines, guests=guests)
        check_opened(request.options.keys, volumes)
        record.overlays = overlay.paths if isinstance(overlay, OverlayFiles) else []
        entry.save()
        present = _present_by_kernel if request.via == "kernel" else _present_by_fuse
        changed = overlay.notes if isinstance(overlay, OverlayFiles) else []
        said = [*changed, *in_vain(request.options.keys)]
        notes = [*said, *present(entry, request, worker, volumes), *_not_written(request, volumes)]
    finally:
        worker.close()
    record.ready = True
    entry.save()
    return Mounted(record, worker, tuple(notes))


def _not_written(request: MountRequest, volumes: Sequence[FoundVolume]) -> list[str]:
    """What an overlay does not reach."""
    if request.overlay is None:
        return []
    wanted = [one for one in volumes if request.volume in (None, one.name, one.id)]
    return [f"{one.name}: stays read-only: {one.read_only}" for one in wanted if one.read_only]


@contextmanager
def _dialer(entry: Entry, request: MountRequest) -> Iterator[list[int]]:
    """Lines to a dialer that serves this set, none where no disk is on a server. It ends with whoever holds them."""
    permitted = servers(named(request.specs, request.options), allow_outside=request.options.allow_outside)
    if permitted is None:
        yield []
        return
    dialer = Dialer.start(entry.folder / "dialer.log")
    try:
        entry.record.dialer = dialer.id
        entry.save()
        dialer.permit(permitted)
        yield dialer.lines
    finally:
        dialer.close()


def _present_by_fuse(entry: Entry, request: MountRequest, worker: Worker, volumes: Sequence[FoundVolume]) -> list[str]:
    target = entry.record.mountpoint
    entry.record.layout = _mount_fuse(entry, request, worker, target, layout=request.layout, allow_other=request.allow_other)
    shown = [one for one in volumes if request.volume in (None, one.name, one.id)]
    if request.layout == "blocks":
        shown = [one for one in shown if one.state == VolumeState.ENCRYPTED or not one.size]
    return [f"{one.name}: {one.reason}" for one in shown if one.reason]


_OPEN_TO_OTHERS = "a kernel mount lets other users of this host in, by the guest's permissions"


def _present_by_kernel(entry: Entry, request: MountRequest, worker: Worker, volumes: Sequence[FoundVolume]) -> list[str]:
    if request.layout not in (None, "volumes"):
        raise Unsupported("the kernel mounts volumes, each in a folder of its own", hint="leave out --layout or --via kernel")
    blocks = entry.folder / "blocks"
    blocks.mkdir()
    _mount_fuse(entry, request, worker, str(blocks), layout="blocks", allow_other=False)
    entry.step("loops", str(blocks))
    if request.volume:
        volume = next(one for one in volumes if request.volume in (one.name, one.id))
        notes = _mount_volume(entry, blocks, volume, entry.record.mountpoint, writing=request.overlay is not None)
        return [*notes, *([] if request.allow_other else [_OPEN_TO_OTHERS])]
    shown = [one for one in volumes if one.filesystem != "swap"]
    mode = 0o755 if request.allow_other else 0o700
    return _mount_volumes(entry, blocks, shown, writing=request.overlay is not None, mode=mode)


def _mount_fuse(
    entry: Entry, request: MountRequest, worker: Worker, target: str, *, layout: str | None, allow_other: bool
) -> str:
    """Mount it and have it served; the layout that the worker took where none is given."""
    entry.step("fuse", target)
    fd = fusemount.open_fuse_and_mount(
        target,
        fsname=source_of(entry.record),
        allow_other=allow_other,
        default_permissions=allow_other,
        read_only=request.overlay is None,
    )
    try:
        served = worker.serve(fd, layout=layout, volume=request.volume, backend=request.backend)
    finally:
        os.close(fd)
    fusemount.read_ahead(target)
    return served


def _mount_volumes(entry: Entry, blocks: Path, volumes: Sequence[FoundVolume], *, writing: bool, mode: int) -> list[str]:
    """Each volume in a folder of its own; of those that the kernel cannot mount there is a link that says so, and no folder."""
    target = entry.record.mountpoint
    entry.step("skeleton", target)
    kernel_mount.mount_skeleton(target, [one.name for one in volumes], source=source_of(entry.record), mode=mode)
    notes, refusals = [], dict[str, MntapiError]()
    for volume in volumes:
        try:
            notes += _mount_volume(entry, blocks, volume, os.path.join(target, volume.name), writing=writing)
        except MntapiError as error:
            refusals[volume.name] = error
    told = [f"{name}: {error}" for name, error in refusals.items()]
    if len(refusals) == len(volumes):
        raise Unsupported("the kernel can mount none of the volumes: " + "; ".join(told), hint="leave out --via kernel")
    kernel_mount.mark_not_mounted(target, {name: error.what for name, error in refusals.items()})
    return told + notes


def _mount_volume(entry: Entry, blocks: Path, volume: FoundVolume, target: str, *, writing: bool) -> list[str]:
    """Mount it, for writing where that was asked for and is possible; a note where it was asked for and is not."""
    if volume.state == VolumeState.ENCRYPTED:
        raise Denied(f"is locked: {volume.reason}", hint=f"--key {volume.name}:FILE")
    if volume.filesystem is None:
        raise Unsupported(volume.reason or "holds no file system")
    file = blocks / "volumes" / volume.name
    read_only = volume.read_only is not None
    with loop.attach(str(file), read_only=read_only, autoclear=True, sector_size=volume.sector_size) as device:
        entry.step("mount", target)
        mounted = kernel_mount.mount_kernel_filesystem(device.path, target, volume.filesystem, read_only=read_only)
    notes = [f"{volume.name}: is mounted read-only"] if writing and not read_only and mounted.read_only else []
    if volume.dirty and mounted.read_only:
        notes.append(
            f"{volume.name}: {volume.dirty}: a read-only kernel mount leaves it so; --overlay memory lets the kernel replay it"
        )
    return notes
