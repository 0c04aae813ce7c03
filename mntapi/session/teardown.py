"""Taking mounts away again, by the journal: one by one, or all that crashes left behind.

A mount is only ever unmounted when its source says it is ours: the mount point may be somebody else's by now.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mntapi.errors import Busy, MntapiError, NotFound, Unsupported
from mntapi.kernel import fusemount, loop, process
from mntapi.kernel import mount as kernel_mount
from mntapi.kernel.mountinfo import Mount, canonical, mount_at, mounts
from mntapi.session import journal
from mntapi.session.flushing import FLUSH_S, SYNC_S, flush, is_alive, is_on_our_loop, is_stopped
from mntapi.session.journal import Entry, ProcessId, Record, source_of

_WORKER_END_S = 5.0
"""Seconds a worker has to end after its mount is gone, before it is told to."""
_WORKER_KILL_S = 1.0
"""Seconds a worker has to obey SIGTERM when a mount is taken away by force."""
_DIALER_END_S = 1.0
_PASSING_S = (0.1, 0.3, 0.6)
"""Seconds between attempts at a mount that is in use by nobody to be seen: programs that look at every mount, such as ``df``,
are in each for a moment."""
_STILL_IN_USE = "still in use: {}"


def unmount(mountpoint: str, *, force: bool = False) -> tuple[str, ...]:
    """Take a mount away, with its loop devices and its worker.

    Args:
        mountpoint: the folder, or the id that ``ps`` shows.
        force: even if files in it are open; their readers get errors from then on.

    Returns:
        With ``force``: what was given up, and what goes away only with its last user, and who that is, one line each.

    Raises:
        NotFound: nothing of ours is mounted there.
        Busy: it is in use; the error names by whom, or what is known. All of it is still there, unless it came into use while
            it was taken away.
    """
    path = canonical(mountpoint)
    found = [record for record in journal.records() if mountpoint == record.id or path in _places(record)]
    if not found:
        raise NotFound("nothing of mntapi is mounted here", path=mountpoint, hint="mntapi ps lists what is mounted")
    with journal.claim(found[-1].id) as entry, uninterrupted():
        return _undo_when_free(entry, force)


def _undo_when_free(entry: Entry, force: bool) -> tuple[str, ...]:
    """``undo``, once more where somebody came by who is gone already."""
    pauses = iter(_PASSING_S)
    while True:
        try:
            return undo(entry, force=force)
        except Busy as error:
            pause = next(pauses, None) if _may_pass(error, entry.record) else None
            if pause is None:
                raise _explained(error, entry.record) from error
        time.sleep(pause)


def _may_pass(error: Busy, record: Record) -> bool:
    """Whether nobody is seen who uses it, and nothing is known that would last."""
    if error.reason != "in-use" or error.path is None or kernel_mount.holders(error.path):
        return False
    return record.worker is None or not is_stopped(record.worker)


def _explained(error: Busy, record: Record) -> Busy:
    """The same, or what may be behind it: a program whose first request the worker has not answered has no file open yet."""
    if error.reason != "in-use" or error.path is None or record.worker is None:
        return error
    users, pid = kernel_mount.holders(error.path), record.worker.pid
    if is_stopped(record.worker):
        who = "; ".join([*users, f"process {pid}, which serves it, is stopped, and programs may wait for its answers"])
        hint = f"let it go on (kill -CONT {pid}), or use --force"
    elif not users:
        who = f"by whom cannot be seen: who waits for an answer of process {pid}, which serves it, another user, a swap file"
        hint = "a server of its disks that does not answer ends that wait in time; try again, or use --force"
    else:
        return error
    return Busy(f"is in use: {who}", path=error.path, hint=hint, reason=error.reason)


def _places(record: Record) -> set[str]:
    """Where it was mounted, and where it is by now."""
    return {record.mountpoint, *(mounted.target for mounted in _ours(record) if mounted.root == "/")}


def unmount_if_there(identifier: str) -> None:
    """Unmount by id, by force; fine if another command has done it or is doing it. For a command that ends with its mount."""
    try:
        with journal.claim(identifier) as entry, uninterrupted():
            undo(entry, force=True)
    except (NotFound, journal.InHand):
        return


def undo(entry: Entry, *, force: bool) -> tuple[str, ...]:
    """Take back all steps of an entry, last first, and forget it. Raises what stands in the way; then the entry stays.

    Returns what ``unmount`` does.
    """
    record = entry.record
    _check_steps(record)
    if not force:
        _check_idle(record)
    held: list[str] = []
    if force and record.worker:
        for kind, target in reversed(record.steps if record.overlays else []):
            held.extend(flush(record, kind, target, force))
        _end_worker(record.worker, record)
    for kind, target in reversed(record.steps):
        if record.overlays:
            held.extend(flush(record, kind, target, force))
        held.extend(map(_STILL_IN_USE.format, _UNDO[kind](record, target, force)))
    held.extend(map(_STILL_IN_USE.format, _undo_elsewhere(record, force)))
    if record.worker:
        end_s = FLUSH_S if record.overlays else _WORKER_END_S
        process.wait_until_ended(record.worker.pid, record.worker.start_ticks, timeout_s=end_s)
        process.terminate(record.worker.pid, record.worker.start_ticks)
    if record.dialer:  # it ends by itself when the worker has, but for one that is just connecting
        process.wait_until_ended(record.dialer.pid, record.dialer.start_ticks, timeout_s=_DIALER_END_S)
        process.terminate(record.dialer.pid, record.dialer.start_ticks)
    entry.remove()
    return tuple(dict.fromkeys(held))  # of several volumes of one worker the same may be told


def _check_steps(record: Record) -> None:
    """Nothing is undone of what cannot be undone whole.

    Raises:
        Unsupported: a step is of a kind that is not known here: another version of mntapi made it.
    """
    for kind, target in _unknown_steps(record):
        what = f"another version of mntapi made a step of the kind {kind!a} at {target!a}"
        raise Unsupported(what, path=record.mountpoint, hint="take it away with that version", reason="unknown-step")


def _check_idle(record: Record) -> None:
    """Raise Busy if one of several volumes that the kernel mounted is in use, while all of them are still there.

    One that comes into use from here on can still stop the undoing half way; calling again then goes on.
    """
    for kind, target in record.steps:
        mounted = mount_at(target) if kind == "mount" else None
        if mounted and is_on_our_loop(mounted, record):
            kernel_mount.check_idle(target)


def _unknown_steps(record: Record) -> list[tuple[str, str]]:
    return [(kind, target) for kind, target in record.steps if kind not in _UNDO]


def _end_worker(worker: ProcessId, record: Record) -> None:
    """Tell the worker to end, and see that it does. One whose mounts are gone is writing out what it has, which takes time."""
    grace_s = _WORKER_KILL_S
    if record.overlays and not is_stopped(worker):  # which would not hear that it is to end
        grace_s = SYNC_S if any(mount_at(target) for _, target in record.steps) else FLUSH_S
    process.terminate(worker.pid, worker.start_ticks, timeout_s=grace_s)


def undo_after(error: BaseException, entry: Entry) -> None:
    """Undo for the sake of ``error``, which trouble on the way must not hide: that stays in the journal for ``clean``."""
    try:
        undo(entry, force=True)
    except MntapiError as trouble:
        error.add_note(f"undoing it: {trouble}")


def _undo_fuse(record: Record, target: str, force: bool) -> Iterable[str]:
    mounted = mount_at(target)
    if mounted and mounted.kind.startswith("fuse") and mounted.source == source_of(record):
        return fusemount.unmount_fuse(target, force=force)
    return ()


def _undo_skeleton(record: Record, target: str, force: bool) -> Iterable[str]:
    mounted = mount_at(target)
    if mounted and mounted.kind == "tmpfs" and mounted.source == source_of(record):
        return kernel_mount.unmount(target, force=force)
    return ()


def _undo_mount(record: Record, target: str, force: bool) -> Iterable[str]:
    mounted = mount_at(target)
    if mounted and is_on_our_loop(mounted, record):
        return kernel_mount.unmount(target, force=force)
    return ()


def _undo_elsewhere(record: Record, force: bool) -> Iterator[str]:
    """Unmount what is ours and not where it was made: the folder was renamed, or somebody made a bind mount of a part.

    Raises:
        Busy: somebody else's mount lies on top; nobody but its owner can take that away.
    """
    for mounted in reversed(_ours(record)):
        top = mount_at(mounted.target)
        if top is None or top.source != mounted.source:
            raise Busy(
                "something else is mounted over it", path=mounted.target, hint=f"unmount that first: umount {mounted.target}"
            )
        yield from (
            fusemount.unmount_fuse(mounted.target, force=force)
            if _is_fuse(mounted)
            else kernel_mount.unmount(mounted.target, force=force)
        )


def _ours(record: Record) -> list[Mount]:
    """The mounts that carry the record's id, wherever they are, in the order in which they were made."""
    return [mounted for mounted in mounts() if mounted.source == source_of(record)]


def _is_fuse(mounted: Mount) -> bool:
    return mounted.kind.startswith("fuse")


def _undo_loops(record: Record, target: str, force: bool) -> Iterable[str]:
    """Detach. By force, a device that a detached mount still uses is left to the kernel, which ends it with its last user."""
    for device in loop.attached_below(target):
        try:
            loop.detach_if(device.number, device.backing_file, sequence=device.sequence)
        except Busy as error:
            if not (force and device.autoclear):
                raise
            yield f"{error}; it goes away with its last user"


_UNDO: dict[str, Callable[[Record, str, bool], Iterable[str]]] = {
    "fuse": _undo_fuse,
    "skeleton": _undo_skeleton,
    "mount": _undo_mount,
    "loops": _undo_loops,
}


@dataclass(frozen=True, slots=True)
class Status:
    """One line of ``ps``. ``state``: ``ready``, ``starting``, ``impaired`` or ``dead`` (worker or mount is gone).

    ``reason``: why it is not, or not quite, as it should be: one line.
    """

    record: Record
    state: str
    memory: int | None
    reason: str | None


def statuses() -> list[Status]:
    """All mounts on record."""
    return [_status(record) for record in journal.records()]


def _status(record: Record) -> Status:
    state, reason = _state(record)
    return Status(record, state, _memory(record), reason)


def _state(record: Record) -> tuple[str, str | None]:
    """Its state, and the reason."""
    worker, dialer = record.worker, record.dialer
    if not record.ready:
        return ("starting", None) if _in_hand(record) else ("dead", "the command that made it has ended before it was ready")
    if worker is None or not is_alive(worker):
        return "dead", "its worker has ended"
    if not _ours(record):
        return "dead", "nothing of it is mounted any more"
    if is_stopped(worker):
        return "impaired", f"its worker is stopped, and answers nobody: kill -CONT {worker.pid}"
    if dialer is not None and not is_alive(dialer):
        return "impaired", f"its dialer (pid {dialer.pid}) has ended, so lost connections to servers stay lost: mount it again"
    return "ready", None


def _in_hand(record: Record) -> bool:
    """Whether a living process is making or undoing it right now."""
    try:
        with journal.claim(record.id):
            return False
    except journal.InHand:
        return True
    except MntapiError:
        return False


def _memory(record: Record) -> int | None:
    if record.worker is None or not is_alive(record.worker):
        return None
    return process.resident_size(record.worker.pid)


def prune() -> list[Record]:
    """Forget mounts that were ended from outside (umount(8), fusermount3): their worker is gone and nothing is mounted."""
    gone = []
    for status in statuses():
        is_gone = status.state == "dead" and status.memory is None and not _ours(status.record)
        if is_gone and not _unknown_steps(status.record):
            gone.extend(_take_back(status.record))
    return gone


@dataclass(slots=True)
class Cleaned:
    """What ``clean`` did: mounts taken back, and those that resisted, with the reason."""

    records: list[Record] = field(default_factory=list)
    errors: list[tuple[Record, MntapiError]] = field(default_factory=list)


def clean() -> Cleaned:
    """Take back all that crashed commands and workers left: mounts, loop devices, processes, run folders. Live mounts stay."""
    done = Cleaned()
    for status in statuses():
        if status.state != "dead":
            continue
        try:
            done.records.extend(_take_back(status.record))
        except MntapiError as error:
            done.errors.append((status.record, error))
    for folder in journal.wrecks():
        _take_down(folder)
        journal.remove_wreck(folder)
    return done


def _take_down(folder: Path) -> None:
    """Unmount what carries the folder's id, for an entry whose record cannot be read any more."""
    for mounted in reversed(mounts()):
        if mounted.source.startswith(f"mntapi:{folder.name}:"):
            (fusemount.unmount_fuse if _is_fuse(mounted) else kernel_mount.unmount)(mounted.target, force=True)


def _take_back(record: Record) -> list[Record]:
    try:
        with journal.claim(record.id) as entry, uninterrupted():
            undo(entry, force=True)
    except (NotFound, journal.InHand):
        return []  # another command was quicker
    return [record]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """No Ctrl-C in here: what is being undone is undone to the end. It takes seconds at most."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
