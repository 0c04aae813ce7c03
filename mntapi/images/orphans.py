"""The link of a chain that the user's ``--parent`` is for.

That is the link whose own parent is missing, damaged, or not the disk it was made from, so that no link of a longer chain is
passed over. In a chain that lacks nothing it is the first, which then gets another parent than the one it names.
"""

from __future__ import annotations

from mntapi.errors import Denied, MntapiError, NotFound
from mntapi.types import FileBlocks, Image, Opener

FIRST = ""
"""Stands for the first link that has a parent, which may be inside a container."""
_SAID_OF_CHILD = frozenset({"parent-missing", "parent-mismatch", "cid-mismatch"})
"""Reasons of errors whose path is that of the child."""


class Asking:
    """An ``Opener`` that remembers which file asked for which."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._asked_by: dict[str, str | None] = {}
        self._refused: str | None = None

    def open(self, name: str, *, relative_to: str | None = None) -> FileBlocks:
        """See ``mntapi.types.Opener``."""
        try:
            file = self._opener.open(name, relative_to=relative_to)
        except MntapiError:
            self._refused = relative_to
            raise
        self._asked_by.setdefault(file.path, relative_to)
        return file

    def orphan(self, error: MntapiError) -> str | None:
        """The link that has no parent because of this error; None if it is about the disk itself."""
        if error.reason in _SAID_OF_CHILD:
            return error.path
        if isinstance(error, NotFound | Denied):
            return self._refused
        return self._asked_by.get(error.path or "")


def adoption(image: Image, parent: str, otherwise: Image | MntapiError) -> dict[str, str]:
    """The detail of an image that has the file ``parent`` in its chain because the user said so; none if it has not.

    Args:
        otherwise: what the same disk is without that.
    """
    files = [link.file for link in image.chain]
    if parent not in files[1:]:
        return {}
    index = files.index(parent)
    text = f"{parent} is taken for the parent of {files[index - 1]} as --parent says"
    if isinstance(otherwise, MntapiError):
        return {"parent": f"{text}: {otherwise}"}
    return {"parent": f"{text}, instead of {otherwise.chain[index].file}, which that names"}
