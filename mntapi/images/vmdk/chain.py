"""Delta chains: finding the parent a child names, and making sure it is the one the child was made from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PureWindowsPath

from mntapi.errors import Corrupt, Denied, NotFound
from mntapi.images.formats import Chain
from mntapi.images.vmdk.descriptor import Descriptor
from mntapi.types import FileBlocks, Image


def open_parent(descriptor: Descriptor, child: FileBlocks, chain: Chain) -> Image:
    """The parent's image; whoever opened it closes it.

    Raises:
        NotFound: it is not where the child says, nor beside the child; child and file are named (``parent-missing``).
        Denied: a relative name leads out of the child's folder, and the parent is not beside the child.
        Corrupt: it is another disk, or the parent was written to since (``cid-mismatch``); the chain loops.
    """
    hint = descriptor.parent_hint
    if hint is None:
        raise Corrupt(
            "the disk has a parent and does not name it",
            path=child.path,
            found=f"parentCID={descriptor.parent_cid}",
            reason="parent-missing",
        )
    parent = _found(hint, child, chain)
    if not chain.options.ignore_cid and parent.chain[0].cid != descriptor.parent_cid:
        parent.blocks.close()
        raise Corrupt(
            f"its parent {parent.path} is not the disk it was made from: the content IDs differ",
            path=child.path,
            expected=f"parentCID {descriptor.parent_cid}",
            found=f"CID {parent.chain[0].cid}",
            hint="the parent was changed after the snapshot; --ignore-cid opens it anyway",
            reason="cid-mismatch",
        )
    return parent


def _found(hint: str, child: FileBlocks, chain: Chain) -> Image:
    """The first of the places where the parent can be opened."""
    first: NotFound | Denied | None = None
    for name in _places(hint, child):
        try:
            return chain.open_parent(name, child, formats=("vmdk",))
        except (NotFound, Denied) as error:
            if not _is_about(error, child):
                raise
            first = first or error
    if isinstance(first, Denied) and not PureWindowsPath(hint).root:
        raise first
    raise NotFound(
        f"its parent {hint!a} is missing, there and beside it",
        path=child.path,
        hint="put the parent beside it, or name it with --parent; --allow-outside follows a path out of its folder",
        reason="parent-missing",
    ) from first


def _places(hint: str, child: FileBlocks) -> Iterator[str]:
    """Where the hint says; the same read as a Windows path; beside the child, since chains get moved.

    The child itself is left out: a linked clone often has its parent's name, and would seem to be a loop.
    """
    yield hint
    windows = PureWindowsPath(hint)
    if "\\" in hint and not windows.anchor:
        yield windows.as_posix()
    if windows.name not in ("", "..", hint, os.path.basename(child.path)):
        yield windows.name


def _is_about(error: NotFound | Denied, child: FileBlocks) -> bool:
    """Whether it says that the parent's own file cannot be opened, rather than something further down the chain."""
    return error.reason is None if isinstance(error, NotFound) else (error.reason, error.path) == ("outside", child.path)
