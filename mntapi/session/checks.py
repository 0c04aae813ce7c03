"""Checking all disks of a SET: what the user named is made a list of disks, each of which ``images.checking`` looks at.

A disk that cannot be opened is still checked, which is why this goes by names and not by the images of ``sets``.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from mntapi.blocks import read_clipped
from mntapi.errors import MntapiError
from mntapi.images import ova
from mntapi.images.checking import Fault, Severity, check_disk
from mntapi.images.formats import HEAD, detect
from mntapi.machines import is_machine
from mntapi.remote import is_url
from mntapi.session.fingerprints import REASON as ORIGINAL_CHANGED
from mntapi.session.sets import archive_disks, machine_disks, open_spec, opener_for
from mntapi.types import DiskSpec, FileBlocks, Opener, OpenOptions


@dataclass(frozen=True, slots=True)
class DiskCheck:
    """A disk and what is wrong with it; the faults are looked for as they are asked for, once."""

    path: str
    faults: Iterator[Fault]


def check_set(
    specs: Sequence[DiskSpec],
    options: OpenOptions | None = None,
    *,
    opener: Opener | None = None,
    data: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[DiskCheck]:
    """The disks of a set, in the order ``open_disks`` has them. Ask for the faults of each before the next.

    Args:
        specs: disks, machine files or OVAs.
        options: how strict to be with chains.
        opener: how files are opened; by path or URL in this process if None.
        data: read every byte, too.
        progress: told how many bytes of how many of a disk were read, where all are read.

    Raises:
        NotFound, Denied, ReadFailed: a file that the user named cannot be opened.
        MntapiError: a machine file or the directory of an OVA makes no sense.
    """
    options = options or OpenOptions()
    opener = opener or opener_for(specs, options)
    for spec in specs:
        for disk, files in _disks(spec, opener):
            inside = check_disk(disk, files, options, data=data, progress=progress)
            yield DiskCheck(disk.path, chain(_original_faults(disk, files, options), inside))


def _original_faults(disk: DiskSpec, files: Opener, options: OpenOptions) -> Iterator[Fault]:
    """Overlays of ours whose original was changed since; all other trouble with opening ``check_disk`` tells."""
    file = files.open(disk.path)
    try:
        is_child = detect(file).name == "qcow2"
    finally:
        file.close()
    try:
        for image in open_spec(disk, files, replace(options, ignore_cid=False)) if is_child else ():
            image.blocks.close()
    except MntapiError as error:
        if error.reason == ORIGINAL_CHANGED:
            yield Fault.of(error, disk.path, Severity.NOTE if options.ignore_cid else Severity.ERROR)


def _disks(spec: DiskSpec, opener: Opener) -> Iterator[tuple[DiskSpec, Opener]]:
    """The disks behind a name, each with what opens its files."""
    if is_url(spec.path) or spec.format not in (None, ova.FORMAT):
        yield spec, opener
        return
    file = opener.open(spec.path)
    try:
        if spec.format is None and is_machine(read_clipped(file, 0, HEAD), file.path):
            for disk, path, beside in machine_disks(spec, file, opener):
                yield replace(disk, path=path), beside
        elif detect(file).name == ova.FORMAT:
            archive = ova.read_archive(file)
            names = archive_disks(archive)
            if not names:  # opening says why
                yield spec, opener
            for name in names:
                yield DiskSpec(f"{file.path}:{name}"), _Members(archive)
        else:
            yield spec, opener
    finally:
        file.close()


class _Members:
    """Opens what is in an OVA, and nothing else. Members have the name that ``Archive.file`` gives to them."""

    def __init__(self, archive: ova.Archive) -> None:
        self._archive = archive
        self._prefix = f"{archive.container.path}:"

    def open(self, name: str, *, relative_to: str | None = None) -> FileBlocks:
        folder = posixpath.dirname((relative_to or "").removeprefix(self._prefix))
        return self._archive.file(posixpath.normpath(posixpath.join(folder, name.removeprefix(self._prefix))))
