"""Opening files by path, with the rule about which files a disk may name."""

from __future__ import annotations

import os

from mntapi.blocks import HostFile
from mntapi.errors import Denied, Invalid
from mntapi.remote import is_url
from mntapi.remote.urls import redacted
from mntapi.types import OpenOptions


class DirectOpener:
    """Opens files in this process.

    A file that another file names must, after symbolic links are resolved, lie in or below the folder of the file that names
    it, unless ``options.allow_outside``: a descriptor that arrives from elsewhere must not make a proxy read its own secrets.
    """

    def __init__(self, options: OpenOptions | None = None) -> None:
        self._options = options or OpenOptions()

    def open(self, name: str, *, relative_to: str | None = None) -> HostFile:
        """See ``mntapi.types.Opener``. The path of the result is absolute with symbolic links resolved."""
        path = self.resolve(name, relative_to=relative_to)
        file = HostFile.open(path)
        if _moved(file, path):
            file.close()
            raise Denied("changed place while it was being opened", path=path, reason="outside")
        return file

    def resolve(self, name: str, *, relative_to: str | None = None) -> str:
        """The path that ``open`` would open. Raises Denied where the rule forbids it, Invalid for a name no path can have."""
        if is_url(name):
            raise Denied(
                "names a disk on a server",
                path=relative_to,
                found=redacted(name),
                hint="if you trust where this disk came from, name that one with --parent",
                reason="outside",
            )
        if "\0" in name or not name:
            raise Invalid("is not a file name", path=relative_to, found=ascii(name))
        if relative_to is None:
            return os.path.realpath(name)
        folder = os.path.dirname(os.path.realpath(relative_to))
        path = os.path.realpath(os.path.join(folder, name))
        if not self._options.allow_outside and os.path.commonpath([folder, path]) != folder:
            raise Denied(
                f"names the file {name!a}, which is outside its own folder",
                path=relative_to,
                hint="if you trust where this disk came from, repeat with --allow-outside",
                reason="outside",
            )
        return path


def _moved(file: HostFile, path: str) -> bool:
    """Whether what was opened is no longer what the rule was applied to: somebody put a link in its place meanwhile."""
    try:
        return os.readlink(f"/proc/self/fd/{file.fileno()}") != path
    except OSError:
        return False  # no /proc here: the rule was applied to the name, which is all that can be had
