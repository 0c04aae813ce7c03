"""Places to write over the disks of a set: both sides of how a worker comes to have them.

``--overlay FILE``: a set of one disk keeps its changes in FILE; of several, in ``FILE.disk0``, ``FILE.disk1`` ... in the order
of the disks. ``--overlay memory``: they are gone with the mount.

The command opens the files for its worker (``OverlayFiles``); the worker asks for each (``overlays_from``) and lays it over the
original. Always true: the command opens no file for writing but one that it made, that is empty, or that has our mark in its
header; and never one that it gave to the worker as an original, by whatever name.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from mntapi.blocks import HostFile, Missing, read_clipped
from mntapi.blocks.file import translate
from mntapi.blocks.memory_overlay import MemoryOverlay, Room
from mntapi.blocks.writable import Unwritable, writable
from mntapi.errors import Busy, Corrupt, Denied, Invalid, MntapiError, Unsupported
from mntapi.images.opener import DirectOpener
from mntapi.images.qcow2.create import create_overlay, open_overlay
from mntapi.images.qcow2.header import parse_header
from mntapi.images.qcow2.overlay import CLUSTER
from mntapi.kernel.storage import punch_hole
from mntapi.keys import Keys
from mntapi.session.channel import Channel, Message, pack_error, unpack_error
from mntapi.session.diskset import DiskSet
from mntapi.types import Blocks, Image, OpenOptions, Volume, VolumeState, WritableBlocks
from mntapi.volumes.scan import find_volumes

MEMORY = "memory"
MAX_DISKS = 256
"""Disks of a set that may be written."""

_SHADOW = "a shadow copy is not written; it is read from the disks below the overlays"

OverlayOf = Callable[[int, Image], WritableBlocks]
"""(index of the disk, the original): the same disk, to be written. It owns the original's blocks."""


def with_overlays(disk_set: DiskSet, overlay_of: OverlayOf, keys: Keys | None = None) -> DiskSet:
    """The same disks with a place to write over each, and the volumes on them now. Owns ``disk_set``, also on an error.

    Shadow copies are those of the disks as given: they share blocks with a volume that may be written now.

    Raises what ``overlay_of`` raises.
    """
    with ExitStack() as undo:
        undo.callback(disk_set.close)
        disks = []
        for index, disk in enumerate(disk_set.disks):
            overlay = overlay_of(index, disk)
            undo.callback(overlay.close)
            disks.append(replace(disk, blocks=overlay))
        found = find_volumes(disks, keys=keys)
        volumes = [_unchanged(volume, disk_set) if volume.kind == "vss" else volume for volume in found.volumes]
        return DiskSet(disks, found._replace(volumes=volumes), undo.pop_all())


def _unchanged(shadow: Volume, originals: DiskSet) -> Volume:
    """A shadow copy that stays as it is whatever is written. One that the originals do not show (locked, or made on the
    overlay) is read only if nothing that it lies on can be written."""
    from mntapi.volumes.vss.snapshot import Snapshot  # few sets have any

    base = shadow.details["base"]
    for volume in originals.volumes:
        if (volume.id, volume.details.get("base")) == (shadow.id, base):
            return replace(volume, name=shadow.name, blocks=Unwritable(volume.blocks, _SHADOW))
    if not isinstance(shadow.blocks, Snapshot) or not any(map(_is_writable, shadow.blocks.sources)):
        return shadow
    why = f"is a shadow copy of {base}, which may be written, and would change with it"
    return replace(shadow, blocks=Missing(shadow.size, why), state=VolumeState.UNSUPPORTED, reason=why)


def _is_writable(blocks: Blocks) -> bool:
    try:
        writable(blocks)
    except Unsupported:
        return False
    return True


def volume_blocks(volume: Volume) -> Blocks:
    """The volume's blocks; ``WritableBlocks`` where everything that it lies on can be written."""
    try:
        return writable(volume.blocks)
    except Unsupported:
        return volume.blocks


def why_read_only(volume: Volume) -> str | None:
    """Why a volume of a set with overlays cannot be written, None if it can."""
    try:
        writable(volume.blocks)
    except Unsupported as error:
        return str(error)
    return None


def overlays_in_memory() -> OverlayOf:
    """Overlays that share the memory there is for them."""
    room = Room()
    return lambda _index, disk: MemoryOverlay(disk.blocks, room)


def overlays_from(channel: Channel, count: int) -> OverlayOf:
    """Overlays in files that the other side of ``channel`` opens, for a set of ``count`` disks."""

    def overlay_of(index: int, disk: Image) -> WritableBlocks:
        channel.send({"op": "overlay", "disk": index, "of": count})
        message, fds = channel.receive()
        if message.get("op") == "error":
            raise unpack_error(message)
        if len(fds) != 1:
            raise Corrupt("a file was promised and did not come", path=disk.path)
        make = create_overlay if message["is_new"] else open_overlay
        try:
            return make(fds[0], str(message["path"]), disk, punch=punch_hole)
        except BaseException:
            os.close(fds[0])
            raise

    return overlay_of


class OverlayFiles:
    """The command's side: makes the files, or opens those that are there."""

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)
        self._made: dict[str, tuple[int, int]] = {}
        self.paths: list[str] = []
        """Those that were given to the worker."""

    def answer(self, channel: Channel, message: Message, originals: OriginalsOpener) -> None:
        """Open the file that ``message`` asks for and send its descriptor, or the error."""
        try:
            path = self._name(message.get("disk"), message.get("of"))
            fd, is_new = self._open(path, originals)
        except MntapiError as error:
            channel.send(pack_error(error))
            return
        try:
            self.paths.append(path)
            channel.send({"op": "overlay", "path": path, "is_new": is_new}, [fd])
        finally:
            os.close(fd)

    def _name(self, index: object, count: object) -> str:
        if not isinstance(index, int) or not isinstance(count, int) or not 0 <= index < count <= MAX_DISKS:
            raise Corrupt("the worker asks for the overlay of a disk there cannot be", expected=f"at most {MAX_DISKS} disks")
        return self._path if count == 1 else f"{self._path}.disk{index}"

    def _open(self, path: str, originals: OriginalsOpener) -> tuple[int, bool]:
        """A descriptor for reading and writing, and whether the file is empty."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return _open_ours(path, originals)
        except OSError as error:
            raise translate(error, path) from error
        self._made[path] = _identity(fd)
        _sync_folder(path)
        return fd, True

    def take_back(self) -> None:
        """Remove the files that were made here: the mount that they were for did not come about."""
        for path, identity in self._made.items():
            try:
                found = os.lstat(path)
            except FileNotFoundError:
                continue
            if (found.st_dev, found.st_ino) == identity:
                os.unlink(path)
        self._made.clear()


class OriginalsOpener(DirectOpener):
    """Opens originals, read-only as ever, and knows them again."""

    def __init__(self, options: OpenOptions | None = None) -> None:
        super().__init__(options)
        self._known: set[tuple[int, int]] = set()

    def open(self, name: str, *, relative_to: str | None = None) -> HostFile:
        file = super().open(name, relative_to=relative_to)
        self._known.add(_identity(file.fileno()))
        return file

    def is_original(self, fd: int) -> bool:
        """Whether this file was opened here."""
        return _identity(fd) in self._known


def _open_ours(path: str, originals: OriginalsOpener) -> tuple[int, bool]:
    """A file that is there: looked at through a descriptor for reading before that very file is opened for writing."""
    file = HostFile.open(path)
    try:
        looked_at = file.fileno()
        if originals.is_original(looked_at):
            raise Denied("an original is never written", path=path, reason="original")
        if not stat.S_ISREG(os.fstat(looked_at).st_mode) or (file.size and not has_our_mark(file)):
            hint = "name a new file; mntapi makes it"
            raise Denied(
                "is not an overlay that mntapi made: other files are never written", path=path, hint=hint, reason="original"
            )
        try:
            return os.open(f"/proc/self/fd/{looked_at}", os.O_RDWR | os.O_CLOEXEC), file.size == 0
        except OSError as error:
            raise translate(error, path) from error
    finally:
        file.close()


def has_our_mark(file: Blocks) -> bool:
    """Whether the file is a QCOW2 overlay that mntapi made."""
    head = read_clipped(file, 0, CLUSTER)
    try:
        return parse_header(head).extensions.is_overlay
    except MntapiError:
        return False  # not even QCOW2


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _sync_folder(path: str) -> None:
    """Let the new name reach the medium: what is flushed to a file without a name is lost."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@dataclass(frozen=True, slots=True)
class OverlayInfo:
    """What the file of an overlay says of itself; sizes in bytes."""

    path: str
    original: str
    """As QEMU finds it: relative to the overlay's folder, or absolute."""
    original_format: str | None
    size: int
    """Of the disk, whole 512-byte sectors."""
    stored: int
    """What the file takes on its file system."""
    in_use: bool


@contextmanager
def closed_overlay(path: str) -> Iterator[OverlayInfo]:
    """An overlay that nobody writes, and nobody can begin to write meanwhile.

    Raises:
        Busy: a mount writes it.
        Invalid: it is no overlay that mntapi made.
        NotFound, Denied: as the system says.
    """
    with _opened(path) as (file, info):
        if info.in_use:
            hint = "mntapi ps lists the mounts; mntapi umount ends one"
            raise Busy("the overlay is in use by a mount", path=file.path, hint=hint, reason="overlay-in-use")
        yield info


def overlay_info(path: str) -> OverlayInfo:
    """What there is to say of an overlay, in use or not. Raises Invalid, NotFound, Denied as ``closed_overlay``."""
    with _opened(path) as (_file, info):
        return info


@contextmanager
def _opened(path: str) -> Iterator[tuple[HostFile, OverlayInfo]]:
    """The file, with a shared lock on it unless somebody writes it."""
    file = HostFile.open(os.path.realpath(path))
    try:
        if not has_our_mark(file):
            raise Invalid("is no overlay that mntapi made", path=file.path, hint="mntapi info tells what it is")
        header = parse_header(read_clipped(file, 0, CLUSTER))
        name, format_ = header.backing_name or "", header.extensions.backing_format
        stored = os.fstat(file.fileno()).st_blocks * 512
        yield file, OverlayInfo(file.path, name, format_, header.size, stored, not _lock_shared(file))
    finally:
        file.close()


def _lock_shared(file: HostFile) -> bool:
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
