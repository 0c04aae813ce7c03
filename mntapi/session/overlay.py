"""Places to write over the disks of a set: both sides of how a worker comes to have them.

``--overlay FILE``: a set of one disk keeps its changes in FILE; of several, in ``FILE.disk0``, ``FILE.disk1`` ... in the order
of the disks. ``--overlay memory``: they are gone with the mount.

The command opens the files for its worker (``OverlayFiles``); the worker asks for each (``overlays_from``) and lays it over the
original. Always true: the command opens no file for writing but one that it made, that is empty, or that has our mark in its
header; and never one that it gave to the worker as an original, by whatever name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from mntapi.blocks import HostFile, Missing, read_clipped
from mntapi.blocks.memory_overlay import MemoryOverlay, Room
from mntapi.blocks.writable import Unwritable, writable
from mntapi.errors import Busy, Corrupt, Denied, Failed, Invalid, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.images.opener import DirectOpener
from mntapi.images.qcow2.create import backing_name, create_overlay, note_in, open_overlay
from mntapi.images.qcow2.header import MAGIC, parse_header
from mntapi.images.qcow2.overlay import CLUSTER
from mntapi.kernel.storage import punch_hole
from mntapi.keys import Keys
from mntapi.session.channel import Channel, Message, pack_error, unpack_error
from mntapi.session.diskset import DiskSet
from mntapi.session.fingerprints import FileState, OpenedFiles, check_unchanged, pack, served_states, state_from
from mntapi.session.overlay_file import has_our_mark, lock_shared
from mntapi.session.witness import Witness
from mntapi.types import Blocks, Image, OpenOptions, Volume, VolumeState, WritableBlocks
from mntapi.volumes.scan import find_volumes

MEMORY = "memory"
MAX_DISKS = 256
"""Disks of a set that may be written."""

_SHADOW = "a shadow copy is not written; it is read from the disks below the overlays"

_NAME_ANOTHER = "name a new file; mntapi makes it"

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


def _check_all_known(disk: Image, witness: Witness) -> None:
    """Raise Unsupported for a chain of which a file is named by none below the top: its changes would go unnoticed."""
    below = {path for path, _ in witness.below(disk.chain[0].file)}
    for link in disk.chain:
        if witness.get(link.file) is not None and link.file not in below:
            raise Unsupported(
                f"is named by the machine's file and not by {disk.path}: an overlay file cannot remember its state",
                path=link.file,
                hint="use --overlay memory, or open the disk by itself with --parent or --allow-outside",
            )


def overlays_from(channel: Channel, count: int, witness: Witness) -> OverlayOf:
    """Overlays in files that the other side of ``channel`` opens, for a set of ``count`` disks that ``witness`` opened."""

    def overlay_of(index: int, disk: Image) -> WritableBlocks:
        top = disk.chain[0].file
        _check_all_known(disk, witness)
        asked: Message = {"op": "overlay", "disk": index, "of": count, "original": disk.path, "top": top}
        channel.send({**asked, "served": served_states(witness, top)})
        message, fds = channel.receive()
        if message.get("op") == "error":
            raise unpack_error(message)
        if len(fds) != 1:
            raise Corrupt("a file was promised and did not come", path=disk.path)
        path, note = str(message["path"]), message["note"]
        try:
            if message["is_new"]:
                return create_overlay(fds[0], path, disk, note=note.encode("ascii"), punch=punch_hole)
            return open_overlay(fds[0], path, disk, note=note and note.encode("ascii"), punch=punch_hole)
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
        self.notes: list[str] = []
        """What to say of them, one line each: which are taken although their original changed, or were empty."""
        self._is_begun = False

    def answer(self, channel: Channel, message: Message, originals: OriginalsOpener) -> None:
        """Open the file that ``message`` asks for and send its descriptor, or the error."""
        try:
            path = self._name(message.get("disk"), message.get("of"))
            if not self._is_begun:
                self._check_whole(int(message["of"]))
                self._is_begun = True
            state = _states(message, originals)
            fd, is_new = self._open(path, originals)
        except MntapiError as error:
            channel.send(pack_error(error))
            return
        try:
            if is_new and path not in self._made:
                self.notes.append(f"{path} was empty: a new overlay begins in it")
            is_noted = not is_new and not self._is_changed(path, fd, str(message.get("original")), state, originals)
            note = None if is_noted else pack([one for _, one in state])
            self.paths.append(path)
            answer = {"op": "overlay", "path": path, "is_new": is_new, "note": note and note.decode("ascii")}
            channel.send(answer, [fd])
        except MntapiError as error:
            channel.send(pack_error(error))
        finally:
            os.close(fd)

    def _is_changed(
        self, path: str, fd: int, original: str, state: Sequence[tuple[str, FileState]], originals: OriginalsOpener
    ) -> bool:
        """Whether the original is not what it was, and is taken all the same. Raises Corrupt where it is not taken."""
        head = os.pread(fd, CLUSTER, 0)
        if parse_header(head).backing_name != backing_name(path, original):
            return False  # an overlay of another disk, as the worker is about to say
        try:
            check_unchanged(path, note_in(head)[1], state)
        except Corrupt as error:
            if not originals.takes_changed:
                raise
            self.notes.append(f"taken as it is now: {error}")
            return True
        return False

    def _name(self, index: object, count: object) -> str:
        if not isinstance(index, int) or not isinstance(count, int) or not 0 <= index < count <= MAX_DISKS:
            raise Corrupt("the worker asks for the overlay of a disk there cannot be", expected=f"at most {MAX_DISKS} disks")
        return self._path if count == 1 else f"{self._path}.disk{index}"

    def _check_whole(self, count: int) -> None:
        """Raise NotFound if one of the files of a set is lost, Invalid if they are those of another set.

        A set of which one disk has lost its changes is one that never was. Asked before the first of them is made.
        """
        names = [self._name(index, count) for index in range(count)]
        lost = [name for name in names if not _has_content(name)]
        if lost and len(lost) < count:
            what = "this overlay of the set is not there or empty, and others are there"
            there = next(name for name in names if name not in lost)
            raise NotFound(what, path=lost[0], hint=f"bring it back; to begin anew, name another file, or delete {there}")
        others = [f"{self._path}.disk{0 if count == 1 else count}", *([] if count == 1 else [self._path])]
        for other in filter(_has_content, others):
            what = f"is an overlay of a set with another number of disks than {count}"
            raise Invalid(what, path=other, hint=f"name all disks of that set, or {_NAME_ANOTHER}")

    def _open(self, path: str, originals: OriginalsOpener) -> tuple[int, bool]:
        """A descriptor for reading and writing, and whether the file is empty."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return _open_ours(path, originals)
        except OSError as error:
            raise _not_opened(error, path) from error
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
        self.opened = OpenedFiles()
        self.takes_changed = options is not None and options.ignore_cid
        """Whether an overlay may lie over an original that changed: it is a child like others."""

    def open(self, name: str, *, relative_to: str | None = None) -> HostFile:
        """As there.

        Raises also Busy: it is an overlay that a mount writes. While it is open here, as an original, none can begin to.
        """
        file = super().open(name, relative_to=relative_to)
        if read_clipped(file, 0, len(MAGIC)) == MAGIC and has_our_mark(file) and not lock_shared(file):
            file.close()
            hint = "mntapi ps shows by which; unmount that first"
            raise Busy("is an overlay that a mount writes", path=file.path, hint=hint, reason="overlay-in-use")
        self.opened.add(file, relative_to)
        return file

    def is_original(self, fd: int) -> bool:
        """Whether this file was opened here."""
        return self.opened.has(fd)


def _states(message: Message, originals: OriginalsOpener) -> list[tuple[str, FileState]]:
    """Path and state of each file of the disk that the worker asks for an overlay of; of those on servers it says them.

    Raises: as ``OpenedFiles.states``, and Corrupt.
    """
    served = message.get("served")
    if not isinstance(served, list) or not all(isinstance(one, list) and len(one) == 2 for one in served):
        raise Corrupt("the worker does not say in which state the files on servers are")
    states = list(originals.opened.states(str(message.get("top"))))
    return [*states, *((str(url), state_from(state)) for url, state in served)]


def _has_content(path: str) -> bool:
    """Whether there is something at ``path``, and no empty file."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _not_opened(error, path) from error
    return not stat.S_ISREG(status.st_mode) or status.st_size > 0


def _open_ours(path: str, originals: OriginalsOpener) -> tuple[int, bool]:
    """A file that is there: looked at through a descriptor for reading before that very file is opened for writing."""
    try:
        file = HostFile.open(path)
    except (Unsupported, ReadFailed) as error:
        raise Invalid(f"is no file that can hold an overlay: {error.what}", path=path, hint=_NAME_ANOTHER) from error
    try:
        looked_at = file.fileno()
        if originals.is_original(looked_at):
            raise Denied("an original is never written", path=path, hint=_NAME_ANOTHER, reason="original")
        if not stat.S_ISREG(os.fstat(looked_at).st_mode) or (file.size and not has_our_mark(file)):
            what = "is not an overlay that mntapi made: other files are never written"
            raise Denied(what, path=path, hint=_NAME_ANOTHER, reason="original")
        try:
            return os.open(f"/proc/self/fd/{looked_at}", os.O_RDWR | os.O_CLOEXEC), file.size == 0
        except OSError as error:
            raise _not_opened(error, path) from error
    finally:
        file.close()


def _not_opened(error: OSError, path: str) -> MntapiError:
    """Why a file cannot be made, or not be written."""
    hint = "name a file elsewhere, or --overlay memory"
    if error.errno == errno.ENOENT:
        return NotFound("there is no such folder for the overlay", path=path, hint=f"mkdir -p {os.path.dirname(path)}")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return Denied(f"the overlay cannot be written: {os.strerror(error.errno)}", path=path, hint=hint)
    failed = Failed(f"the overlay cannot be written: {os.strerror(error.errno or errno.EIO)}", path=path, hint=hint)
    failed.errno = error.errno or errno.EIO
    return failed


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
