"""What a copy gives a file besides its contents: owner, extended attributes, permissions, times.

Everything goes through the folder's descriptor and follows no link, as all of ``restore``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from mntapi.types import FileKind, Node

_OWN = "user.mntapi."
"""Attributes by which a mount of ours tells what it knows of a file; a guest that was copied from such a mount has them."""


def set_metadata(node: Node, folder_fd: int, name: str, *, owner: bool, attributes: Mapping[str, bytes]) -> list[str]:
    """Make the entry ``name`` look like ``node``. Returns what the host refused of it, each with why.

    Set-user-ID bits are given only with the owner, or they would lend the caller's own rights.
    """
    refused = dict(_set_attributes(node, folder_fd, name, owner=owner, attributes=attributes))
    mode = node.mode & (0o7777 if owner and "owner" not in refused else 0o777)
    if node.kind is not FileKind.SYMLINK:
        refused |= _try("permissions", partial(os.chmod, name, mode, dir_fd=folder_fd))
    times = node.atime_ns, node.mtime_ns
    refused |= _try("times", partial(os.utime, name, ns=times, dir_fd=folder_fd, follow_symlinks=False))
    return [f"{what} ({why})" for what, why in refused.items()]


def _set_attributes(
    node: Node, folder_fd: int, name: str, *, owner: bool, attributes: Mapping[str, bytes]
) -> Iterator[tuple[str, str]]:
    """The owner first: a change of it takes capabilities away. Permissions come later: they may forbid setting attributes."""
    if owner:
        give = partial(os.chown, name, node.uid, node.gid, dir_fd=folder_fd, follow_symlinks=False)
        yield from _try("owner", give).items()
    place = f"/proc/self/fd/{folder_fd}/{name}"  # the calls take no descriptor of a folder; its last step is not followed
    for attribute, content in attributes.items():
        if not attribute.startswith(_OWN):
            yield from _try(attribute, partial(os.setxattr, place, attribute, content, follow_symlinks=False)).items()


def _try(what: str, change: Callable[[], None]) -> dict[str, str]:
    """Empty, or why the host refused ``what``."""
    try:
        change()
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {what: "the destination's file system has none of that kind"}
        return {what: os.strerror(error.errno) if error.errno else str(error)}
    except (ValueError, OverflowError) as error:  # NUL in a name, a time of the year 10^11: both are the guest's
        return {what: str(error)}
    return {}
