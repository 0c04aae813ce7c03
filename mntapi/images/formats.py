"""The table of formats, and how the files of a chain are opened.

A format is recognised by content, never by file name. ``raw`` is what remains, and only for files the user named: a file that
a descriptor names must be of a format that format may build on, so that no link can turn ``/etc/shadow`` into a disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from mntapi.blocks import read_clipped
from mntapi.errors import Corrupt, Invalid, MntapiError, Unsupported
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
FORMATS = (
    Format("vmdk", "mntapi.images.vmdk", _VMDK_MAGICS),
    RAW,
)
"""Most specific first; ``raw`` matches nothing and is what is left."""


def detect(file: Blocks) -> Format:
    """The format of a file, by content; RAW if no other fits. An I/O error is raised, not answered with raw."""
    head = read_clipped(file, 0, HEAD)
    tail = read_clipped(file, max(0, file.size - 512), 512)
    return next((format_ for format_ in FORMATS if format_.matches(head, tail)), RAW)


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

    def open_file(self, name: str, relative_to: FileBlocks) -> FileBlocks:
        """A data file that ``relative_to`` names (a VMDK extent). Raises what ``Opener.open`` raises."""
        return self.opener.open(name, relative_to=relative_to.path)

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
        file = self.opener.open(name, relative_to=child.path)
        try:
            if file.path in links:
                raise Corrupt("the chain loops: this disk names itself as an ancestor", path=file.path, reason="chain-loop")
            format_ = detect(file)
            if format_.name not in formats:
                raise Unsupported(
                    f"cannot be the parent of {child.path}", path=file.path, expected=" or ".join(formats), found=format_.name
                )
            return format_.load().open_image(file, Chain(self.opener, self.options, links))
        except MntapiError as error:
            file.close()
            raise error.located(path=file.path) from error.__cause__
        except BaseException:
            file.close()
            raise


def open_image(spec: DiskSpec, opener: Opener, options: OpenOptions | None = None) -> Image:
    """Open a disk with its whole chain, read-only. The image owns all files; ``image.blocks.close()`` closes them.

    Args:
        spec: what the user named, and how to treat it.
        opener: how files are opened, and which may be.
        options: how strict to be with the chain.

    Raises:
        NotFound: the disk, an extent or a parent is missing; the message names it.
        Corrupt, Unsupported, Denied, ReadFailed: with file and, where there is one, byte offset.
    """
    file = opener.open(spec.path)
    try:
        format_ = named(spec.format) if spec.format else detect(file)
        image = format_.load().open_image(file, Chain(opener, options or OpenOptions()))
    except MntapiError as error:
        file.close()
        raise error.located(path=spec.path) from error.__cause__
    except BaseException:
        file.close()
        raise
    return image
