"""What a user may name as a SET, as disks: a disk is itself, a machine file stands for its disks, an OVA for those inside."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from mntapi.blocks import read_clipped
from mntapi.closing import closed_on_error
from mntapi.errors import Denied, MntapiError, NotFound, Unsupported
from mntapi.images import ova
from mntapi.images.formats import HEAD, Chain, open_image
from mntapi.images.opener import DirectOpener
from mntapi.machines import MachineDisk, Snapshot, is_machine, read_machine
from mntapi.remote import is_url
from mntapi.session.chunked import open_chunks
from mntapi.session.witness import Witness
from mntapi.types import DiskSpec, FileBlocks, Image, Opener, OpenOptions


def open_spec(spec: DiskSpec, opener: Opener, options: OpenOptions, *, is_only: bool = True) -> Iterator[Image]:
    """Open what the user named; each image is the caller's to close as soon as it is yielded.

    Args:
        is_only: it is the whole set. Of a set of several disks, ``options.parent`` is for one that lacks its parent.

    Raises:
        NotFound: a disk of the machine is not where its file says, nor beside it.
        MntapiError: what opening raises, and ``fingerprints.check_originals`` of an overlay.
    """
    witness = opener if isinstance(opener, Witness) else Witness(opener)
    for image in _open_spec(spec, witness, options, is_only=is_only):
        if any(link.format == "qcow2" for link in image.chain[:-1]):
            from mntapi.session.fingerprints import check_originals  # few disks are overlays

            image = check_originals(image, witness, options)
        yield image


def _open_spec(spec: DiskSpec, opener: Opener, options: OpenOptions, *, is_only: bool) -> Iterator[Image]:
    if spec.format is None and not is_url(spec.path) and _is_machine(spec, opener):
        yield from _open_machine(spec, opener, options)
        return
    try:
        yield open_image(spec, opener, options, overrule=is_only)
    except Unsupported as error:
        if error.reason != "several-disks":
            raise
        yield from _open_archive(spec, opener, options)


def _is_machine(spec: DiskSpec, opener: Opener) -> bool:
    file = opener.open(spec.path)
    try:
        return is_machine(read_clipped(file, 0, HEAD), file.path)
    finally:
        file.close()


def opener_for(specs: Sequence[DiskSpec], options: OpenOptions) -> Opener:
    """What opens the files of a set in this process: by path, and by URL where one can occur."""
    files = DirectOpener(options)
    named = [*(spec.path for spec in specs), options.parent or ""]
    if not options.allow_outside and not any(map(is_url, named)):
        return files
    from mntapi.remote.opener import RemoteOpener  # sockets take time to import

    return RemoteOpener(files, allow_outside=options.allow_outside)


def machine_disks(spec: DiskSpec, file: FileBlocks, opener: Opener) -> Iterator[tuple[DiskSpec, str, Opener]]:
    """The disks of the machine file that the user named, now or at the snapshot that ``spec`` asks for: each as what to open,
    with its path, and what opens it and the files it names.

    Raises:
        NotFound: there is no such snapshot, or no disk; a disk is not there.
        MntapiError: the file makes no sense.
    """
    machine = read_machine(file, opener)
    disks = machine.disks if spec.snapshot is None else _snapshot(machine.snapshots, spec, file.path).disks
    if not disks:
        raise NotFound("names no disk that can be opened", path=file.path, hint="; ".join(machine.left_out) or None)
    beside = _Beside(opener, file, {name for disk in disks for name in disk.names}, machine.media)
    for disk in disks:
        if disk.chunks is not None:
            yield DiskSpec(disk.path), beside.cut(disk), beside
            continue
        name, path = _find_disk(disk, file, opener)
        yield DiskSpec(name, format=disk.format), path, beside


def _snapshot(snapshots: tuple[Snapshot, ...], spec: DiskSpec, path: str) -> Snapshot:
    for snapshot in snapshots:
        if spec.snapshot in (snapshot.name, str(snapshot.uid)):
            return snapshot
    known = ", ".join(f"{snapshot.name!a} ({snapshot.uid})" for snapshot in snapshots)
    raise NotFound(f"has no snapshot {spec.snapshot!a}", path=path, hint=f"snapshots: {known}" if known else "there are none")


def _find_disk(disk: MachineDisk, machine: FileBlocks, opener: Opener) -> tuple[str, str]:
    """The first of a disk's names that is there, and its path: machines get copied, and keep the names of where they came from.

    Raises:
        NotFound, Denied: none of them can be opened; the first one's error.
    """
    first: MntapiError | None = None
    for name in disk.names:
        try:
            file = opener.open(name, relative_to=machine.path)
        except (NotFound, Denied) as error:
            first = first or error
            continue
        file.close()
        return name, file.path
    raise first or NotFound(f"does not say where disk {disk.controller} is", path=machine.path)


def archive_disks(archive: ova.Archive) -> list[str]:
    """The names of the disks in an OVA, in the order its descriptor has them."""
    described = read_machine(archive.file(archive.descriptor)).disks if archive.descriptor else ()
    return [disk.path for disk in described] or list(archive.disks)


def _open_machine(spec: DiskSpec, opener: Opener, options: OpenOptions) -> Iterator[Image]:
    file = opener.open(spec.path)
    try:
        for disk, _, beside in machine_disks(spec, file, opener):
            yield open_image(disk, beside, options, overrule=False)
    finally:
        file.close()


class _Beside:
    """An opener for which the disks of a machine file are named by that file, not by the user.

    So are the ``media`` that its disks name in a way of their own: the file that the user named says where they are.
    """

    def __init__(self, opener: Opener, machine: FileBlocks, names: Collection[str], media: Mapping[str, MachineDisk]) -> None:
        self._opener = opener
        self._machine = machine
        self._names = names
        self._media = media
        self._cut: dict[str, MachineDisk] = {}

    def cut(self, disk: MachineDisk) -> str:
        """The path of a disk that is cut into chunks, under which ``open`` knows it from now on. Raises as ``open_chunks``."""
        self._cut[disk.path] = disk
        file = self.open(disk.path)
        file.close()
        self._cut[file.path] = disk
        return file.path

    def open(self, name: str, *, relative_to: str | None = None) -> FileBlocks:
        cut = self._cut.get(name) if relative_to is None else None
        if cut is not None and cut.chunks is not None:
            return open_chunks(cut.path, cut.chunks, self._machine, self._opener)
        if relative_to is not None and name in self._media:
            name = _find_disk(self._media[name], self._machine, self._opener)[0]
            return self._opener.open(name, relative_to=self._machine.path)
        if relative_to is None and name in self._names:
            relative_to = self._machine.path
        return self._opener.open(name, relative_to=relative_to)


def _open_archive(spec: DiskSpec, opener: Opener, options: OpenOptions) -> Iterator[Image]:
    """The disks of an OVA, in the order its descriptor has them; each image owns a descriptor of the OVA of its own."""
    file = opener.open(spec.path)
    try:
        names = archive_disks(ova.read_archive(file))
    finally:
        file.close()
    for name in names:
        yield _open_member(spec, name, opener, options)


def _open_member(spec: DiskSpec, name: str, opener: Opener, options: OpenOptions) -> Image:
    file = opener.open(spec.path)
    with closed_on_error(file):
        image = ova.open_disk(file, name, Chain(opener, options))
    return replace(image, path=f"{image.path}:{name}")
