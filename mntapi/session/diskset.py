"""The disks of one machine, open together: their volumes, what is on each, and the files inside."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from mntapi.blocks import Cache, Slice, read_clipped
from mntapi.errors import Corrupt, Invalid, MntapiError, NotFound, Unsupported
from mntapi.filesystems.probe import probe
from mntapi.filesystems.readers import READERS, open_filesystem
from mntapi.guests.types import Guest
from mntapi.remote import is_url
from mntapi.session.sets import open_spec, opener_for
from mntapi.types import (
    Capacity,
    DiskSpec,
    FileSystem,
    Image,
    Opener,
    OpenOptions,
    Replaying,
    Signature,
    Usage,
    Volume,
    VolumeState,
)
from mntapi.units import KIB
from mntapi.volumes.scan import Found, find_volumes


@dataclass(frozen=True, slots=True)
class Content:
    """What is on a volume, and whether this version can read it. ``state`` and ``reason`` cover volume and content."""

    signature: Signature | None
    state: VolumeState
    reason: str | None


_NEAR = 64 * KIB
"""Bytes of a block that is read from a server for a smaller read."""
REPLAYED = "journal replayed in memory"
_EXACT = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "ntfs"})
"""File systems that tell their size exactly and lie within it."""
_READABLE = frozenset({VolumeState.OK, VolumeState.DIRTY, VolumeState.DEGRADED})
_WHOLE = frozenset({VolumeState.OK, VolumeState.DEGRADED})
"""States of a volume whose every byte can be read: what is on it decides then."""


class DiskSet:
    """Open disks and what was found on them. A context manager; leaving it closes every file.

    ``volumes`` are what a user can read; ``containers`` what those lie on (disks, physical volumes, members of an array), a
    member before what it is a member of. Thread-safe. Volumes are found when the set is opened; what is on them when first
    asked for.
    """

    def __init__(self, disks: Sequence[Image], found: Found, resources: ExitStack) -> None:
        self.disks = tuple(disks)
        self.volumes = tuple(found.volumes)
        self.containers = tuple(found.containers)
        self._resources = resources
        self._lock = threading.RLock()
        self._contents: dict[str, Content] = {}
        for volume in (*self.containers, *self.volumes):
            resources.callback(volume.blocks.close)  # those that were decrypted have a key to overwrite
        self._filesystems: dict[str, FileSystem | MntapiError] = {}
        self._guests: tuple[Guest, ...] | None = None

    @property
    def guests(self) -> tuple[Guest, ...]:
        """The systems installed on the volumes, looked for when first asked for. Never raises for what is on disk: trouble is
        among ``Guest.reasons``."""
        with self._lock:
            if self._guests is None:
                from mntapi.session.guests import guests_on  # what only reads a disk need not know how guests are told

                self._guests = guests_on(self.volumes, lambda volume: self.content(volume).signature, self.filesystem)
            return self._guests

    def volume(self, key: str) -> Volume:
        """The volume of that name (``disk0p1``) or id. Raises NotFound with the names there are."""
        for volume in self.volumes:
            if key in (volume.name, volume.id):
                return volume
        names = ", ".join(
            volume.name + (" (locked)" if volume.state is VolumeState.ENCRYPTED else "") for volume in self.volumes
        )
        raise NotFound(f"no volume {key!a}", hint=f"volumes: {names or 'none'}")

    def content(self, volume: Volume) -> Content:
        """What is on a volume. Never raises for what is on disk: trouble is a state with a reason."""
        with self._lock:
            if volume.id not in self._contents:
                content = self._contents[volume.id] = _content(volume)
                if content.signature and content.signature.kind in READERS and content.state in _READABLE:
                    self._contents[volume.id] = self._opened(volume, content)
            return self._contents[volume.id]

    def _opened(self, volume: Volume, content: Content) -> Content:
        """The same after its file system was opened: it may be damaged or of a kind that is not read, or dirty no more."""
        try:
            filesystem = self.filesystem(volume)
        except MntapiError as error:
            state = VolumeState.UNSUPPORTED if isinstance(error, Unsupported) else VolumeState.DAMAGED
            return replace(content, state=state, reason=_joined(str(error), volume.reason))
        missing = _missing(filesystem, volume)
        if missing > 0:
            reason = f"is cut off: the last {missing} bytes of the file system are missing"
            return replace(content, state=VolumeState.DAMAGED, reason=_joined(reason, content.reason))
        if content.state is not VolumeState.DIRTY or not isinstance(filesystem, Replaying):
            return content
        if filesystem.unreplayed is None:
            return replace(content, state=volume.state, reason=_joined(REPLAYED, volume.reason))
        return replace(content, reason=_joined(filesystem.unreplayed, volume.reason))

    def filesystem(self, volume: Volume) -> FileSystem:
        """The reader of the volume's file system, opened once and closed with the set.

        Raises:
            Unsupported: there is none that we read; ``reason`` says why.
            MntapiError: it is damaged; the same error each time.
        """
        with self._lock:
            opened = self._filesystems.get(volume.id)
            if opened is None:
                opened = self._filesystems[volume.id] = self._open_filesystem(volume)
        if isinstance(opened, MntapiError):
            raise opened
        return opened

    def capacity(self, volume: Volume) -> Capacity | None:
        """Size and free space of the volume's file system; None if there is none that we read, or it cannot be told."""
        try:
            return self.filesystem(volume).capacity()
        except MntapiError:
            return None

    def unreplayed(self) -> dict[str, str]:
        """Of the volumes whose files were looked at, those that may lack the newest changes: name to reason."""
        with self._lock:
            looked_at = [
                volume for volume in self.volumes if not isinstance(self._filesystems.get(volume.id), MntapiError | None)
            ]
            found = {volume.name: self._unreplayed(volume) for volume in looked_at}
        return {name: reason for name, reason in found.items() if reason is not None}

    def _unreplayed(self, volume: Volume) -> str | None:
        """Of an open file system; also where the state of the volume says something worse than that it is dirty."""
        content = self.content(volume)
        if content.state is VolumeState.DIRTY:
            return content.reason or ""
        if content.signature is None or not content.signature.dirty:
            return None
        filesystem = self.filesystem(volume)
        return filesystem.unreplayed if isinstance(filesystem, Replaying) else content.signature.dirty

    def _open_filesystem(self, volume: Volume) -> FileSystem | MntapiError:
        content = self.content(volume)
        signature = content.signature
        try:
            if signature is None or signature.usage is not Usage.FILESYSTEM:
                slug = signature.kind if signature else content.state.value
                if content.state is VolumeState.DAMAGED:  # what is on it is not known: that is an I/O error
                    return Corrupt(f"cannot be read: {content.reason or slug}", reason=slug)
                return Unsupported(f"holds no file system: {content.reason or slug}", reason=slug)
            filesystem = open_filesystem(volume.blocks, signature)
        except MntapiError as error:
            return error
        self._resources.callback(filesystem.close)
        return filesystem

    def close(self) -> None:
        """Close the readers, then the disks. Closing twice is fine."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def open_disks(*paths: str | DiskSpec, options: OpenOptions | None = None, opener: Opener | None = None) -> DiskSet:
    """Open the disks of one machine read-only and find their volumes.

    Args:
        paths: each a disk (a path, or a URL: NBD, HTTP), a machine file, or a ``DiskSpec`` that says how to treat it; in any
            order.
        options: how strict to be with chains.
        opener: how files are opened; by path or URL in this process if None.

    Returns:
        A ``DiskSet``: use it in ``with``, or call ``close``.

    Raises:
        Invalid: no disk was named.
        NotFound, Corrupt, Unsupported, Denied, ReadFailed: a disk cannot be opened; the message names the file.
    """
    if not paths:
        raise Invalid("no disk was named")
    options = options or OpenOptions()
    specs = [path if isinstance(path, DiskSpec) else DiskSpec(path) for path in paths]
    opener = opener or opener_for(specs, options)
    with ExitStack() as undo:
        disks = []
        for spec in specs:
            for image in open_spec(spec, opener, options, is_only=len(specs) == 1):
                undo.callback(image.blocks.close)
                disks.append(_with_sector_size(_near(image), spec.sector_size))
        found = find_volumes(disks, keys=options.keys)
        return DiskSet(disks, found, undo.pop_all())


def _near(image: Image) -> Image:
    """The image; one with files on an NBD server has what was read of it in small pieces at hand. Looking for volumes reads
    the same few sectors many times, and each time the way there and back. (Of web servers, blocks are kept anyway.)"""
    if not any(link.file.lower().startswith("nbd") and is_url(link.file) for link in image.chain):
        return image
    return replace(image, blocks=Cache(image.blocks, block_size=_NEAR, bypass=_NEAR))


def _with_sector_size(image: Image, sector_size: int | None) -> Image:
    """The image, its sectors of the size the user says: a raw file does not tell."""
    if sector_size is None:
        return image
    return replace(image, blocks=Slice(image.blocks, 0, image.blocks.size, sector_size=sector_size))


def _content(volume: Volume) -> Content:
    try:
        signature = probe(volume.blocks)
    except MntapiError as error:
        if volume.state not in _WHOLE:
            return Content(None, volume.state, volume.reason)
        return Content(None, VolumeState.DAMAGED, str(error))
    if volume.state not in _WHOLE or (signature is None and volume.state is not VolumeState.OK):
        return Content(signature, volume.state, volume.reason)
    if signature is None:
        return Content(None, VolumeState.UNKNOWN, _first_bytes(volume))
    if signature.usage is Usage.CRYPTO:
        return Content(signature, VolumeState.ENCRYPTED, f"{signature.kind}: needs a key")
    if signature.usage is Usage.RAID and volume.details:  # its manager knows it, and there is no volume of which it is a part
        return Content(signature, volume.state, volume.reason or f"{signature.kind}: no volume lies on it")
    if signature.usage in (Usage.RAID, Usage.OTHER):
        return Content(signature, VolumeState.UNSUPPORTED, f"{signature.kind} is not assembled by this version")
    if signature.usage is Usage.FILESYSTEM and signature.kind not in READERS:
        return Content(
            signature, VolumeState.UNSUPPORTED, f"{signature.kind} has no reader in this version; --via kernel may mount it"
        )
    if signature.dirty:
        return Content(signature, VolumeState.DIRTY, _joined(signature.dirty, volume.reason))
    return Content(signature, volume.state, volume.reason)


def _missing(filesystem: FileSystem, volume: Volume) -> int:
    """Bytes by which a file system is larger than its volume."""
    try:
        return filesystem.capacity().total - volume.size if filesystem.kind in _EXACT else 0
    except MntapiError:
        return 0


def _joined(*reasons: str | None) -> str:
    return "; ".join(filter(None, reasons))


def _first_bytes(volume: Volume) -> str:
    try:
        head = read_clipped(volume.blocks, 0, 16)
    except MntapiError as error:
        return str(error)
    if not head:
        return "is empty: 0 bytes"
    found = "zeros" if not any(head) else head.hex(" ")
    return f"nothing that is known; starts with {found}"
