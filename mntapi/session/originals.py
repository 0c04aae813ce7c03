"""Which original an overlay is of, remembered where neither an image nor another user can forge it.

An overlay names its original in its header, and the header of a file that comes from elsewhere may name anything. So whoever
reads an overlay follows a name that leads out of its folder only if told to. But an overlay that ``mntapi mount`` made of a
disk the user named needs no second permission: the command notes that in an extended attribute of the file.

Whoever owns the file, or the file system it is on, can set its attributes. So the note is a code (HMAC, RFC 2104) over what it
says, with a key that only the user has: 32 random bytes in the file ``key`` of a folder that outlives a boot.

Always true: what is noted was opened as a disk of the set by the command itself, whatever the worker wrote into the header, and
by the same user; a copy of the file does not have the note, as that counts for one inode only; no key, no note.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from mntapi.blocks import HostFile, read_clipped
from mntapi.errors import MntapiError
from mntapi.images.qcow2.header import parse_header
from mntapi.images.qcow2.overlay import CLUSTER
from mntapi.remote import Url, is_url
from mntapi.session.overlay import OriginalsOpener
from mntapi.session.sets import opener_for
from mntapi.types import DiskSpec, FileBlocks, Opener, OpenOptions

ATTRIBUTE = "user.mntapi.original"
STATE_DIR_VARIABLE = "MNTAPI_STATE_DIR"
KEY_SIZE = 32
"""Bytes of the key and of the code: as many as SHA-256 gives."""


def remember(overlays: Sequence[str], originals: OriginalsOpener, named: Iterable[str]) -> None:
    """Note in each overlay which original it is of, where the file system can keep that.

    Args:
        overlays: paths of files that a worker has just made overlays of, symbolic links resolved.
        originals: what opened the files of the set.
        named: the disks as the user gave them, of which those that are URLs count.
    """
    urls = {Url.parse(name).display for name in named if is_url(name)}
    key = _key(make=True) if overlays else None
    if key is None:
        return
    for path in overlays:
        try:
            with _opened(path) as file:
                says = _header(file)
                if says.name in urls or (not is_url(says.name) and _is_one_of(originals, says.place)):
                    os.setxattr(file.fileno(), ATTRIBUTE, _code(key, file, says))
        except (MntapiError, OSError):
            continue  # not noted: it then needs what an overlay from elsewhere needs


def remembered(path: str) -> str | None:
    """The original that was noted for the overlay at ``path``, a path or URL; None if none was, or its header says another.

    Raises:
        MntapiError: it is no overlay, or cannot be read.
    """
    key = _key()
    if key is None:
        return None
    try:
        with _opened(os.path.realpath(path)) as file:
            says = _header(file)
            is_noted = hmac.compare_digest(os.getxattr(file.fileno(), ATTRIBUTE), _code(key, file, says))
    except OSError:
        return None  # no such attribute, or a file system without any
    return says.place if is_noted else None


class OriginalAt:
    """An ``Opener`` for an overlay, whose original is where the user said or a mount found it."""

    def __init__(self, inner: Opener, overlay: str, place: str | None) -> None:
        self._inner = inner
        self._overlay = overlay
        self._place = place

    def open(self, name: str, *, relative_to: str | None = None) -> FileBlocks:
        """See ``mntapi.types.Opener``."""
        if relative_to == self._overlay and self._place:
            return self._inner.open(self._place)
        return self._inner.open(name, relative_to=relative_to)


def opener_of(overlay: str, options: OpenOptions) -> OriginalAt:
    """What opens an overlay by its path, and its original: where ``options.parent`` says, or where a mount found it.

    Raises: as ``remembered``.
    """
    place = options.parent or remembered(overlay)
    specs = [DiskSpec(overlay), *([DiskSpec(place)] if place else [])]
    return OriginalAt(opener_for(specs, options), overlay, place)


class _Says(NamedTuple):
    """What an overlay's header says of its original."""

    name: str
    format: str
    place: str
    """The name as a path that means the same elsewhere, symbolic links resolved: none that is put there later is followed."""


@contextmanager
def _opened(path: str) -> Iterator[HostFile]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        yield HostFile.adopt(fd, path)
    finally:
        os.close(fd)


def _header(file: HostFile) -> _Says:
    header = parse_header(read_clipped(file, 0, CLUSTER))
    name = header.backing_name or ""
    place = name if is_url(name) else os.path.realpath(os.path.join(os.path.dirname(file.path), name))
    return _Says(name, header.extensions.backing_format or "", place)


def _code(key: bytes, file: HostFile, says: _Says) -> bytes:
    """The device is not in it: its number may be another after a boot."""
    note = f"{os.fstat(file.fileno()).st_ino}\0{says.format}\0{says.place}"
    return hmac.digest(key, os.fsencode(note), "sha256")


def _is_one_of(originals: OriginalsOpener, path: str) -> bool:
    """Whether a path is a file that was opened as an original. The worker chose the path: it is looked at, not opened."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return originals.is_original(fd)
    finally:
        os.close(fd)


def _key(*, make: bool = False) -> bytes | None:
    """The user's key, made first if asked for; None if there is none, or somebody else may have put it there or read it."""
    folder = _state_dir()
    try:
        if make:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_own(folder.lstat(), stat.S_IFDIR, 0o022):
            return None
        if make and not (folder / "key").exists():
            _make_key(folder / "key")
        with _opened(str(folder / "key")) as file:
            is_own = _is_own(os.fstat(file.fileno()), stat.S_IFREG, 0o077)
            return read_clipped(file, 0, KEY_SIZE) if is_own and file.size == KEY_SIZE else None
    except (MntapiError, OSError):
        return None


def _state_dir() -> Path:
    """``/var/lib/mntapi`` for root, whose environment may come from somebody else; else in ``$XDG_STATE_HOME``."""
    chosen = os.environ.get(STATE_DIR_VARIABLE)
    if chosen:
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/mntapi")
    base = os.environ.get("XDG_STATE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.local/state")) / "mntapi"


def _is_own(status: os.stat_result, kind: int, forbidden: int) -> bool:
    return stat.S_IFMT(status.st_mode) == kind and status.st_uid == os.geteuid() and not status.st_mode & forbidden


def _make_key(path: Path) -> None:
    """Whole or not at all, and never over one that is there: another command may be making it as well."""
    with tempfile.NamedTemporaryFile(dir=path.parent) as draft:
        draft.write(secrets.token_bytes(KEY_SIZE))
        draft.flush()
        os.fsync(draft.fileno())
        with suppress(FileExistsError):
            os.link(draft.name, path)
