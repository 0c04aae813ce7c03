"""The table of formats, and how the files of a chain are opened.

A format is recognised by content, never by file name. ``raw`` is what remains, and only for files the user named: a file that
a descriptor names must be of a format that format may build on, so that no link can turn ``/etc/shadow`` into a disk. What has
the name of another format is not taken for raw unless the user says so (``names.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Protocol, cast

from mntapi.blocks import read_clipped
from mntapi.closing import closed_on_error
from mntapi.errors import Corrupt, Invalid, MntapiError, Unsupported
from mntapi.images.names import RAW_HINT, check_name, is_chunk
from mntapi.images.orphans import FIRST, Asking, adoption
from mntapi.types import Blocks, DiskSpec, FileBlocks, Image, Opener, OpenOptions

HEAD = 4096
"""Bytes of a file's start that detection looks at."""
MAX_LINKS = 64
"""Links in a chain; VMware allows 32 snapshots, so a longer one is a loop or an attack."""


class FormatModule(Protocol):
    """What a format's module offers."""

    def open_image(self, file: FileBlocks, chain: Chain) -> Image:
        """Open the disk in ``file``. On success the image owns ``file``; on an error the caller closes it."""


@dataclass(frozen=True, slots=True)
class Format:
    """One row: the format's name, its module, and the bytes that tell it: (offset, bytes), negative offsets from the end."""

    name: str
    module: str
    magics: tuple[tuple[int, bytes], ...] = ()

    def matches(self, head: bytes, tail: bytes) -> bool:
        """Whether one of the magics is there."""
        return any(self._at(head, tail, offset, len(magic)) == magic for offset, magic in self.magics)

    @staticmethod
    def _at(head: bytes, tail: bytes, offset: int, length: int) -> bytes:
        if offset >= 0:
            return head[offset : offset + length]
        return tail[len(tail) + offset :][:length] if len(tail) >= -offset else b""

    def load(self) -> FormatModule:
        """The module, imported on first use."""
        return cast(FormatModule, import_module(self.module))


RAW = Format("raw", "mntapi.images.raw")
WITH_SNAPSHOTS = ("qcow2",)
_PIECE = re.compile(r"\.([0-9]{2,3}|[a-z]{2,3})$")
"""Names that may be a piece of a split disk; ``images.split`` looks closer, and opens all others as raw."""
_BACKING_HINT = "if it is a raw disk all the same, say so in its child: qemu-img rebase -u -F raw -b FILE CHILD"
_VMDK_MAGICS = (
    (0, b"KDMV"),
    (0, b"# Disk DescriptorFile"),
    (0, b"# Disk Descriptor File"),
    (0, b"#Disk DescriptorFile"),
    (0, b"\xef\xbb\xbf# Disk DescriptorFile"),
    (0, b"COWD"),  # this and the next two are no disks by themselves, and must not pass as raw ones
    (0, bytes.fromhex("bebafeca00000000")),
    (0, bytes.fromhex("a27219f601000000")),
)
_EWF_MAGICS = (
    (0, b"EVF\x09\x0d\x0a\xff\0"),
    (0, b"LVF\x09\x0d\x0a\xff\0"),
    (0, b"EVF2\x0d\x0a\x81\0"),
    (0, b"LEF2\x0d\x0a\x81\0"),
)
FORMATS = (
    Format("vmdk", "mntapi.images.vmdk", _VMDK_MAGICS),
    Format("vhdx", "mntapi.images.vhdx", ((0, b"vhdxfile"),)),
    Format("qcow2", "mntapi.images.qcow2", ((0, b"QFI\xfb"),)),
    Format("vdi", "mntapi.images.vdi", ((0x40, bytes.fromhex("7f10dabe")),)),
    Format("parallels", "mntapi.images.parallels", ((0, b"WithoutFreeSpace"), (0, b"WithouFreSpacExt"))),
    Format("qed", "mntapi.images.qed", ((0, b"QED\0"),)),
    Format("bochs", "mntapi.images.bochs", ((0, b"Bochs Virtual HD Image\0"),)),
    Format("cloop", "mntapi.images.cloop", ((0, b"#!/bin/sh\n#V2.0 Format\n"),)),
    Format("vhd", "mntapi.images.vhd", ((0, b"conectix"), (-512, b"conectix"), (-511, b"conectix"))),
    Format("dmg", "mntapi.images.dmg", ((-512, b"koly"),)),
    Format("ewf", "mntapi.images.ewf", _EWF_MAGICS),
    Format("gzip", "mntapi.images.compressed.gz", ((0, b"\x1f\x8b\x08"),)),
    Format("xz", "mntapi.images.compressed.xz", ((0, b"\xfd7zXZ\0"),)),
    Format("zstd", "mntapi.images.compressed.zst", ((0, b"\x28\xb5\x2f\xfd"), (0, b"\x50\x2a\x4d\x18"))),
    Format("ova", "mntapi.images.ova", ((257, b"ustar\0"), (257, b"ustar "))),
    Format("split", "mntapi.images.split"),
    RAW,
)
"""Most specific first. ``split`` has no mark and is told by name; ``raw`` is what is left."""


def detect(file: Blocks) -> Format:
    """The format of a file, by content; RAW if no other fits. An I/O error is raised, not answered with raw."""
    head = read_clipped(file, 0, HEAD)
    tail = read_clipped(file, max(0, file.size - 512), 512)
    return next((format_ for format_ in FORMATS if format_.matches(head, tail)), RAW)


def recognise(file: Blocks, path: str, *, hint: str | None = RAW_HINT) -> Format:
    """The same for a file whose name is known; ``hint`` is for who knows that it is raw in spite of its name.

    Raises: as ``check_name``.
    """
    format_ = detect(file)
    if format_ is RAW:
        check_name(file, path, hint=hint)
    return format_


def named(name: str) -> Format:
    """The format of that name. Raises Invalid with the names there are."""
    for format_ in FORMATS:
        if format_.name == name:
            return format_
    raise Invalid(f"no disk format is called {name!r}", hint="known: " + ", ".join(format_.name for format_ in FORMATS))


@dataclass(frozen=True, slots=True)
class Chain:
    """The links above the one being opened, and the only way to the files it names."""

    opener: Opener
    options: OpenOptions
    above: tuple[str, ...] = ()
    """Paths of the children already open, youngest first."""
    snapshot: str | None = None
    """The snapshot to open of the first link, where its format has such."""
    contents_only: bool = False
    """Take what a container holds for a raw disk, whatever it is: for looking at it as a file."""
    orphan: str | None = None
    """The link whose parent is ``options.parent``: its path, or ``FIRST``."""

    def open_file(self, name: str, relative_to: FileBlocks) -> FileBlocks:
        """A data file that ``relative_to`` names (a VMDK extent). Raises what ``Opener.open`` raises."""
        return self.opener.open(name, relative_to=relative_to.path)

    def open_parent_file(self, name: str, child: FileBlocks) -> FileBlocks:
        """The file that ``child`` builds on: where it says, unless the user said otherwise for this link."""
        is_orphan = self.orphan == child.path or (self.orphan == FIRST and not self.above)
        if is_orphan and self.options.parent is not None:
            return self.opener.open(self.options.parent)
        return self.opener.open(name, relative_to=child.path)

    def open_parent(self, name: str, child: FileBlocks, *, formats: Sequence[str]) -> Image:
        """The image ``child`` builds on, which must be of one of ``formats``.

        Raises:
            Corrupt: the chain loops, or has more than ``MAX_LINKS`` links.
            Unsupported: the file is of another format.
            MntapiError: it cannot be opened.
        """
        links = (*self.above, child.path)
        if len(links) >= MAX_LINKS:
            raise Corrupt(
                "the chain has too many links", path=child.path, expected=f"at most {MAX_LINKS}", reason="chain-too-long"
            )
        file = self.open_parent_file(name, child)
        with closed_on_error(file), _placed(file.path):
            self._check_loop(file, child)
            format_ = recognise(file, file.path, hint=_BACKING_HINT if RAW.name in formats else None)
            if format_ is RAW and "split" in formats:  # it has no mark; an overlay says that its original is one
                format_ = named("split")
            if format_.name not in formats:
                raise Unsupported(
                    f"cannot be the parent of {child.path}", path=file.path, expected=" or ".join(formats), found=format_.name
                )
            return format_.load().open_image(file, Chain(self.opener, self.options, links, orphan=self.orphan))

    def open_raw_parent(self, name: str, child: FileBlocks) -> Image:
        """As ``open_parent``, for a child that says its parent is raw: that is not looked into, for a guest may write any magic
        into its own disk."""
        file = self.open_parent_file(name, child)
        with closed_on_error(file):
            self._check_loop(file, child)
            return RAW.load().open_image(file, self)

    def _check_loop(self, parent: FileBlocks, child: FileBlocks) -> None:
        if parent.path in (*self.above, child.path):
            raise Corrupt("the chain loops: this disk names itself as an ancestor", path=parent.path, reason="chain-loop")


@contextmanager
def _placed(path: str) -> Iterator[None]:
    """Errors of the block that name no file are about the one at ``path``."""
    try:
        yield
    except MntapiError as error:
        raise error.located(path=path) from error.__cause__


def _recognise_named(file: FileBlocks) -> Format:
    """The format of a file that the user named: without a mark of its own it may be a piece of a split disk.

    Raises: as ``check_name``; Unsupported: it is a chunk, which only an OVF puts in its place.
    """
    if is_chunk(file.path):
        what = "is a chunk of a disk that was cut for an OVF"
        raise Unsupported(what, path=file.path, hint="open the .ovf; --format opens this file alone", reason="chunks")
    format_ = recognise(file, file.path)
    if format_ is RAW and _PIECE.search(file.path):
        return named("split")
    return format_


def open_image(spec: DiskSpec, opener: Opener, options: OpenOptions | None = None, *, overrule: bool = True) -> Image:
    """Open a disk with its whole chain, read-only. The image owns all files; ``image.blocks.close()`` closes them.

    Args:
        spec: what the user named, and how to treat it.
        opener: how files are opened, and which may be.
        options: how strict to be with the chain. Which link ``options.parent`` is for, ``orphans.py`` says; where it is used,
            ``details["parent"]`` tells for which and why.
        overrule: take that parent for the first link if none lacks its own; else it is then not used.

    Raises:
        NotFound: the disk, an extent or a parent is missing; the message names it.
        Corrupt, Unsupported, Denied, ReadFailed: with file and, where there is one, byte offset.
    """
    options = options or OpenOptions()
    if options.parent is None:
        return _open_image(spec, opener, options)
    asking = Asking(opener)
    orphan: str | None = FIRST
    otherwise: Image | MntapiError
    given = opener.open(options.parent)
    given.close()
    try:
        otherwise = _open_image(spec, asking, replace(options, parent=None, ignore_cid=False))
        if not overrule or given.path in [link.file for link in otherwise.chain]:
            return otherwise
        otherwise.blocks.close()
    except MntapiError as error:
        otherwise, orphan = error, asking.orphan(error)
        if orphan is None:
            raise
    image = _open_image(spec, opener, options, orphan)
    return replace(image, details={**image.details, **adoption(image, given.path, otherwise)})


def _open_image(spec: DiskSpec, opener: Opener, options: OpenOptions, orphan: str | None = None) -> Image:
    file = opener.open(spec.path)
    with closed_on_error(file), _placed(spec.path):
        format_ = named(spec.format) if spec.format else _recognise_named(file)
        if spec.snapshot is not None and format_.name not in WITH_SNAPSHOTS:
            raise Unsupported(f"a {format_.name} disk has no snapshots in it", path=file.path)
        return format_.load().open_image(file, Chain(opener, options, snapshot=spec.snapshot, orphan=orphan))
