"""Which original an overlay is of, remembered where no image can write it.

An overlay names its original in its header, and the header of a file that comes from elsewhere may name anything. So whoever
reads an overlay follows a name that leads out of its folder only if told to. But an overlay that ``mntapi mount`` made of a
disk the user named needs no second permission: the command notes that name in an extended attribute of the file.

Always true: what is noted was opened as a disk of the set by the command itself, whatever the worker wrote into the header; a
copy of the file does not have the note, as that counts for one inode only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from mntapi.blocks import HostFile
from mntapi.errors import MntapiError
from mntapi.remote import Url, is_url
from mntapi.session.overlay import OriginalsOpener, overlay_info
from mntapi.session.sets import opener_for
from mntapi.types import DiskSpec, FileBlocks, Opener, OpenOptions

ATTRIBUTE = "user.mntapi.original"


def remember(overlays: Iterable[str], originals: OriginalsOpener, named: Iterable[str]) -> None:
    """Note in each overlay which original it is of, where the file system can keep that.

    Args:
        overlays: paths of files that a worker has just made overlays of.
        originals: what opened the files of the set.
        named: the disks as the user gave them, of which those that are URLs count.
    """
    urls = {Url.parse(name).display for name in named if is_url(name)}
    for path in overlays:
        try:
            name = overlay_info(path).original
            if name in urls or (not is_url(name) and _is_one_of(originals, _place(path, name))):
                os.setxattr(path, ATTRIBUTE, _note(path, name))
        except (MntapiError, OSError):
            continue  # not noted: it then needs what an overlay from elsewhere needs


def remembered(path: str) -> str | None:
    """The original that was noted for the overlay at ``path``, a path or URL; None if none was, or its header says another.

    Raises: as ``overlay_info``.
    """
    name = overlay_info(path).original
    try:
        is_noted = os.getxattr(path, ATTRIBUTE) == _note(path, name)
    except OSError:
        return None  # no such attribute, or a file system without any
    return _place(path, name) if is_noted else None


class OriginalAt:
    """An ``Opener`` for which what one overlay names is at a place that the user named."""

    def __init__(self, inner: Opener, overlay: str, place: str) -> None:
        self._inner = inner
        self._overlay = overlay
        self._place = place

    def open(self, name: str, *, relative_to: str | None = None) -> FileBlocks:
        """See ``mntapi.types.Opener``."""
        if relative_to == self._overlay:
            return self._inner.open(self._place)
        return self._inner.open(name, relative_to=relative_to)


def opener_of(overlay: str, options: OpenOptions) -> Opener:
    """What opens an overlay by its path, and its original: where ``options.parent`` says, or where a mount found it.

    Raises: as ``overlay_info``.
    """
    place = options.parent or remembered(overlay)
    specs = [DiskSpec(overlay), *([DiskSpec(place)] if place else [])]
    opener = opener_for(specs, options)
    return OriginalAt(opener, overlay, place) if place else opener


def _place(path: str, name: str) -> str:
    """A name in an overlay as a path that means the same elsewhere."""
    return name if is_url(name) else os.path.join(os.path.dirname(os.path.realpath(path)), name)


def _note(path: str, name: str) -> bytes:
    return f"{os.stat(path).st_ino} ".encode() + os.fsencode(name)


def _is_one_of(originals: OriginalsOpener, path: str) -> bool:
    file = HostFile.open(path)
    try:
        return originals.is_original(file.fileno())
    finally:
        file.close()
