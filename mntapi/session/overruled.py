"""What the files of a set contradict and the user's options accept all the same: told each time, for wrong bytes may follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from mntapi.errors import MntapiError
from mntapi.session.sets import open_spec, opener_for
from mntapi.types import DiskSpec, Image, Link, Opener, OpenOptions


def overruled(specs: Sequence[DiskSpec], options: OpenOptions) -> Iterator[str]:
    """A line for each parent that ``--parent`` named in place of another, and for each that only ``--ignore-cid`` accepts.

    Opens the chains, for nothing else: whoever asks reads no volume. Raises what opening them raises.
    """
    opener = opener_for(specs, options)
    files: set[str] = set()
    for spec in specs:
        try:
            images, ignored = _opened(spec, opener, replace(options, ignore_cid=False), len(specs)), False
        except MntapiError:
            images, ignored = _opened(spec, opener, options, len(specs)), options.ignore_cid
        for image in images:
            files.update(link.file for link in image.chain)
            if "parent" in image.details:
                yield image.details["parent"]
            if ignored:
                yield from (_mismatch(child, parent) for child, parent in pairwise(image.chain) if _is_other(child, parent))
    if options.parent is not None and _path(options.parent, opener) not in files:
        yield f"--parent {options.parent} is not used: no disk of the set lacks its parent"


def _opened(spec: DiskSpec, opener: Opener, options: OpenOptions, count: int) -> list[Image]:
    """The images of one of ``count`` that the user named, closed again."""
    images = []
    for image in open_spec(spec, opener, options, is_only=count == 1):
        image.blocks.close()
        images.append(image)
    return images


def _path(name: str, opener: Opener) -> str:
    file = opener.open(name)
    file.close()
    return file.path


def _is_other(child: Link, parent: Link) -> bool:
    return child.cid is not None and child.parent_cid != parent.cid


def _mismatch(child: Link, parent: Link) -> str:
    return (
        f"{child.file}: its parent {parent.file} is not the disk it was made from, and is taken as --ignore-cid says:"
        f" expected {child.parent_cid or 'none'}, found {parent.cid}"
    )
