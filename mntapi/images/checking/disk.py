"""Checking a disk: the table of formats, and what is looked at in which order.

First whether the chain opens and every parent is the one its child was made from, then each file of the chain by itself, then,
if asked for, every byte. Where a format keeps checksums of its data, they are always compared, which reads everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from typing import Protocol, cast

from mntapi.errors import MntapiError, Unsupported
from mntapi.images import ova
from mntapi.images.checking.content import content_faults
from mntapi.images.checking.fault import Fault, Severity
from mntapi.images.formats import Chain, detect, named, open_image
from mntapi.types import DiskSpec, FileBlocks, Link, Opener, OpenOptions

CHECKERS = {
    "vmdk": "mntapi.images.checking.vmdk",
    "vhd": "mntapi.images.checking.vhd",
    "vhdx": "mntapi.images.checking.vhdx",
    "qcow2": "mntapi.images.checking.qcow2",
    "vdi": "mntapi.images.checking.vdi",
    "parallels": "mntapi.images.checking.parallels",
    "qed": "mntapi.images.checking.qed",
    "bochs": "mntapi.images.checking.bochs",
    "ewf": "mntapi.images.checking.ewf",
}
"""Format -> module, imported on use. Of formats that are not here, opening reads all the tables there are."""
CHECKSUMMED = frozenset({"ewf", "dmg", "cloop", "gzip", "xz", "zstd"})
"""Formats whose data carries checksums: reading it is what checks them. (VMDK streams do too, and their module reads them.)"""
CONTAINERS = frozenset({"gzip", "xz", "zstd", "split"})
"""Formats with a disk of another format inside, which is looked at as a file is; each is read once more for that."""
MAX_FAULTS = 10_000
"""Faults of one disk that are told."""
_OTHER_PARENT = ("cid-mismatch", "parent-mismatch")


class Checker(Protocol):
    """What a format's module offers."""

    def faults(self, file: FileBlocks, chain: Chain) -> Iterator[Fault]:
        """What is wrong with one file, and with the data files it names; its parents are checked by themselves.

        Raises:
            MntapiError: what is wrong with it leaves nothing more to look at.
        """


def check_disk(
    spec: DiskSpec,
    opener: Opener,
    options: OpenOptions | None = None,
    *,
    data: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Fault]:
    """All faults of a disk and its chain, each once, at most ``MAX_FAULTS`` and a last one that says so.

    Args:
        spec: what the user named.
        opener: how files are opened, and which may be.
        options: how strict to be with the chain.
        data: read every byte, too.
        progress: told how many bytes of how many were read, where all are read.

    Raises:
        NotFound, Denied, ReadFailed: the file itself cannot be opened.
    """
    told: set[tuple[str, int | None, str]] = set()
    for fault in _faults(spec, opener, options or OpenOptions(), data, progress):
        key = (fault.path, fault.offset, fault.what)
        if key in told:
            continue
        if len(told) == MAX_FAULTS:
            yield Fault(fault.path, fault.offset, "there is more wrong than is told: the check ends here")
            return
        told.add(key)
        yield fault


def _faults(
    spec: DiskSpec, opener: Opener, options: OpenOptions, data: bool, progress: Callable[[int, int], None] | None
) -> Iterator[Fault]:
    file = opener.open(spec.path)
    try:
        format_ = named(spec.format) if spec.format else detect(file)
    finally:
        file.close()
    try:
        image = open_image(spec, opener, replace(options, ignore_cid=True))
    except MntapiError as error:
        if format_.name != ova.FORMAT:  # of which nothing but opening looks at the directory
            yield from _chain_faults([Link(file.path, format_.name)], opener, options)
        is_locked = isinstance(error, Unsupported) and error.reason == "encrypted"  # its tables can be checked all the same
        yield Fault.of(error, file.path, Severity.NOTE if is_locked else Severity.ERROR)
        return
    try:
        yield from _parent_faults(image.chain, opener, options)
        yield from _chain_faults(image.chain, opener, options)
        if data or not CHECKSUMMED.isdisjoint(link.format for link in image.chain):
            yield from content_faults(image, progress)
    finally:
        image.blocks.close()


def _chain_faults(chain: Sequence[Link], opener: Opener, options: OpenOptions) -> Iterator[Fault]:
    """The faults of each file by itself; those of what is in a container, of which the chain has links of its own, as well."""
    number = 0
    while number < len(chain):
        if chain[number].format in CONTAINERS:
            container = chain[number]
            yield from _container_faults(container, opener, options)
            number += 1
            while number < len(chain) and _is_checked_with(container, chain[number]):
                number += 1
        elif chain[number].format == ova.FORMAT:  # inside another container: what else is in it may belong to the disk
            what = "the disk inside was opened, and its tables not checked: unpack it for that"
            yield Fault(chain[number].file, None, what, Severity.NOTE)
            return
        else:
            yield from _link_faults(chain[number], opener, options)
            number += 1


def _is_checked_with(container: Link, link: Link) -> bool:
    """Whether a link is what ``_container_faults`` looked at, however far it came."""
    return link.file.startswith(f"{container.file}:") and link.format != ova.FORMAT


def _container_faults(link: Link, opener: Opener, options: OpenOptions) -> Iterator[Fault]:
    """The faults of what is inside."""
    content: FileBlocks = opener.open(link.file)
    format_ = link.format
    inside = Chain(opener, options, contents_only=True)
    try:
        while format_ in CONTAINERS:  # ends: ``open_inside`` allows three
            content = cast(FileBlocks, named(format_).load().open_image(content, inside).blocks)
            format_ = detect(content).name
        yield from _file_faults(content, format_, Chain(opener, options))
    except MntapiError as error:
        yield Fault.of(error, link.file)
    finally:
        content.close()


def _parent_faults(chain: Sequence[Link], opener: Opener, options: OpenOptions) -> Iterator[Fault]:
    """Children whose parent is another disk, or was changed since."""
    for child, parent in pairwise(chain):
        if child.cid is None or child.parent_cid == parent.cid:
            continue
        only_first = options if child is chain[0] else replace(options, parent=None)
        if options.ignore_cid or _is_refused(child, opener, only_first):
            expected = child.parent_cid or "none"
            what = f"its parent {parent.file} is not the disk it was made from: expected {expected}, found {parent.cid}"
            yield Fault(child.file, None, what, Severity.NOTE if options.ignore_cid else Severity.ERROR)


def _is_refused(child: Link, opener: Opener, options: OpenOptions) -> bool:
    """Whether the format says so, too: a child may know its parent by more than one identifier."""
    try:
        open_image(DiskSpec(child.file, format=child.format), opener, options).blocks.close()
    except MntapiError as error:
        return error.reason in _OTHER_PARENT
    return False


def _link_faults(link: Link, opener: Opener, options: OpenOptions) -> Iterator[Fault]:
    """The faults of one file; an error that ends the check of it is the last of them."""
    if link.format not in CHECKERS:
        return
    file = opener.open(link.file)
    try:
        yield from _file_faults(file, link.format, Chain(opener, options))
    finally:
        file.close()


def _file_faults(file: FileBlocks, format_name: str, chain: Chain) -> Iterator[Fault]:
    if format_name not in CHECKERS:
        return
    checker = cast(Checker, import_module(CHECKERS[format_name]))
    try:
        yield from checker.faults(file, chain)
    except MntapiError as error:
        yield Fault.of(error, file.path)
