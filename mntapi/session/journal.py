"""What was made outside this process, written down before it is made: the memory that ``umount`` and ``clean`` work from.

One folder a mount under the run directory, holding ``mount.json``, the worker's log, and for kernel mounts the mount point of
the block files. A lock on the folder's ``lock`` file is held while a mount is being made or taken away; the kernel drops it
when that process dies, which is how ``clean`` tells a mount in the making from a wreck.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mntapi.blocks.file import translate
from mntapi.errors import Busy, Corrupt, Denied, MntapiError, NotFound

RUN_DIR_VARIABLE = "MNTAPI_RUN_DIR"
_RECORD = "mount.json"
_MAX_RECORD = 4 << 20
"""Bytes of a record: a thousand disks of the longest paths there are."""
_LOCK = "lock"


class InHand(Busy):
    """Another process is making or undoing the mount right now."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, told from a later one with the same number by its start time in clock ticks since boot."""

    pid: int
    start_ticks: int


@dataclass(slots=True)
class Record:
    """One mount and what it took. ``steps`` are in the order in which they were made: (kind, target).

    Kinds: ``fuse`` (a FUSE mount at target), ``loops`` (loop devices over files below target), ``skeleton`` (a tmpfs at
    target), ``mount`` (a kernel mount at target).
    """

    id: str
    mountpoint: str
    disks: list[str]
    layout: str
    via: str
    volume: str | None
    created: str
    worker: ProcessId | None = None
    dialer: ProcessId | None = None
    """Makes the worker's connections, where there are disks on servers."""
    steps: list[tuple[str, str]] = field(default_factory=list)
    overlays: list[str] = field(default_factory=list)
    """Files that keep what is written to the disks, one a disk; none where nothing is, or only in memory."""
    ready: bool = False


def source_of(record: Record) -> str:
    """What mountinfo and df show as the source; tells our mounts from others."""
    return f"mntapi:{record.id}:{ascii(os.path.basename(record.disks[0]))[1:-1]}"


def run_dir() -> Path:
    """The run directory, made if there is none: ``/run/mntapi`` for root, else below ``$XDG_RUNTIME_DIR`` or the temp folder.

    Raises:
        Denied: it exists and belongs to somebody else, or others may write to it.
    """
    path = _run_dir_path()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise Denied(
            "is not a folder that only you can write to", path=str(path), hint=f"set {RUN_DIR_VARIABLE} to one that is"
        )
    return path


def _run_dir_path() -> Path:
    chosen = os.environ.get(RUN_DIR_VARIABLE)
    if chosen:
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/run/mntapi")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "mntapi" if runtime else Path(tempfile.gettempdir()) / f"mntapi-{os.geteuid()}"


class Entry:
    """One mount's folder in the run directory, locked for as long as this object is open."""

    def __init__(self, folder: Path, record: Record, lock_fd: int) -> None:
        self.folder = folder
        self.record = record
        self._lock_fd = lock_fd

    def save(self) -> None:
        """Write the record, whole or not at all."""
        draft = self.folder / (_RECORD + ".new")
        with draft.open("w") as out:
            json.dump(asdict(self.record), out)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(self.folder / _RECORD)

    def step(self, kind: str, target: str) -> None:
        """Note what is about to be made."""
        self.record.steps.append((kind, target))
        self.save()

    def remove(self) -> None:
        """Forget the mount: all it took has been given back."""
        shutil.rmtree(self.folder)

    def close(self) -> None:
        """Give the lock back."""
        if self._lock_fd >= 0:
            fd, self._lock_fd = self._lock_fd, -1
            os.close(fd)


@contextmanager
def create(record: Record) -> Iterator[Entry]:
    """A new entry, saved and locked. ``record.id`` is set here."""
    record.id = secrets.token_hex(4)
    folder = run_dir() / record.id
    try:
        folder.mkdir(mode=0o700)
        entry = Entry(folder, record, _lock(folder))
        entry.save()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # nothing was made yet
        raise
    try:
        yield entry
    finally:
        entry.close()


@contextmanager
def exclusive() -> Iterator[None]:
    """No other command begins a mount meanwhile: what is free when looked at is free when it is taken."""
    fd = os.open(run_dir(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def claim(identifier: str) -> Iterator[Entry]:
    """An existing entry, locked.

    Raises:
        InHand: it is being made or taken away by another process.
        NotFound: it is gone.
    """
    folder = run_dir() / identifier
    lock_fd = _lock(folder, flags=os.O_RDWR)  # not made anew: another process may just be removing the folder
    try:
        entry = Entry(folder, load(folder), lock_fd)
    except BaseException:
        os.close(lock_fd)
        raise
    try:
        yield entry
    finally:
        entry.close()


def _lock(folder: Path, *, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    try:
        fd = os.open(folder / _LOCK, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as error:
        raise NotFound("this mount is gone", path=str(folder)) from error
    except OSError as error:
        raise translate(error, str(folder / _LOCK)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise InHand("another mntapi command is at work on this mount", path=str(folder)) from error
    return fd


def load(folder: Path) -> Record:
    """The record in a folder. Raises NotFound if there is none, Corrupt if it cannot be understood."""
    try:
        fields = json.loads(_read(folder / _RECORD))
        worker, dialer = fields.pop("worker"), fields.pop("dialer", None)
        steps = [(str(kind), str(target)) for kind, target in fields.pop("steps")]
        record = Record(**fields, worker=_process(worker), dialer=_process(dialer), steps=steps)
    except FileNotFoundError as error:
        raise NotFound("has no record", path=str(folder)) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        raise Corrupt("is no record of a mount", path=str(folder / _RECORD)) from error
    if not _is_sound(record):
        raise Corrupt("is no record of a mount", path=str(folder / _RECORD))
    return record


def _process(fields: dict[str, int] | None) -> ProcessId | None:
    return ProcessId(**fields) if fields else None


def _read(path: Path) -> bytes:
    """A plain file of reasonable size; anything else could keep the reader waiting, or fill its memory."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("no plain file")
        content = file.read(_MAX_RECORD + 1)
    if len(content) > _MAX_RECORD:
        raise ValueError("too large")
    return content


def _is_sound(record: Record) -> bool:
    """Whether the fields are of the types they should have; JSON does not say."""
    if not (isinstance(record.disks, list) and record.disks and isinstance(record.overlays, list)):
        return False
    texts = (record.id, record.mountpoint, record.layout, record.via, record.created, *record.disks, *record.overlays)
    numbers = [number for one in (record.worker, record.dialer) if one for number in (one.pid, one.start_ticks)]
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(number, int) for number in numbers)
        and isinstance(record.volume, str | None)
        and isinstance(record.ready, bool)
    )


def records() -> list[Record]:
    """All mounts on record, oldest first; folders without a readable record are left to ``wrecks``."""
    found = []
    for folder in _folders():
        try:
            found.append(load(folder))
        except (NotFound, Corrupt):
            continue
    return sorted(found, key=lambda record: (record.created, record.id))


def wrecks() -> list[Path]:
    """Folders whose record was never written or is damaged: nothing was made yet when their process died."""
    found = []
    for folder in _folders():
        try:
            load(folder)
        except (NotFound, Corrupt):
            found.append(folder)
    return found


def _folders() -> list[Path]:
    return sorted(folder for folder in run_dir().iterdir() if folder.is_dir()) if _run_dir_path().is_dir() else []


def remove_wreck(folder: Path) -> None:
    """Remove a folder from ``wrecks``, unless it cannot be locked: a living process may be about to write its record."""
    try:
        lock_fd = _lock(folder)
    except MntapiError:
        return
    try:
        if folder in wrecks():  # it may have got its record meanwhile
            shutil.rmtree(folder)
    finally:
        os.close(lock_fd)
