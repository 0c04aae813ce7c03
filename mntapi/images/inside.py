"""What a container holds: blocks that pass for a file, so that a disk of any format is found and opened inside another one.

``disk.vmdk.gz`` is a gzip stream with a VMDK inside; the VMDK's format is told by content, like that of a file, and the files
it names are looked for beside the container.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mntapi.blocks import Slice
from mntapi.errors import MntapiError, Unsupported
from mntapi.images.formats import RAW, Chain, recognise
from mntapi.types import Blocks, Extent, FileBlocks, Image, Link

_UNPACK_HINT = "if it is a raw disk all the same: unpack it, and open that with --format raw"
MAX_DEPTH = 3
"""Containers inside one another; ``disk.vmdk.gz.001`` are two."""


@dataclass(frozen=True)
class Inside:
    """``blocks`` as a file. ``path`` names the container and what is in it: ``/backup/web.ova:disk1.vmdk``.

    ``release`` is called by ``close``: what the blocks do not own themselves.
    """

    blocks: Blocks
    path: str
    depth: int = 1
    release: Callable[[], None] | None = None

    @property
    def size(self) -> int:
        return self.blocks.size

    @property
    def sector_size(self) -> int:
        return self.blocks.sector_size

    def readinto(self, offset: int, buffer: memoryview) -> None:
        try:
            self.blocks.readinto(offset, buffer)
        except MntapiError as error:
            raise error.located(path=self.path) from error.__cause__

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self.blocks.extents(offset, length)

    def close(self) -> None:
        self.blocks.close()
        if self.release is not None:
            self.release()


def depth_of(file: FileBlocks) -> int:
    """How many containers ``file`` is inside of; 0 for a file of the host."""
    return file.depth if isinstance(file, Inside) else 0


def open_inside(content: Inside, container: FileBlocks, format_name: str, chain: Chain, *, known: int | None = None) -> Image:
    """The disk that ``content`` is, shown as the image of ``container``.

    Args:
        content: what is inside; the image owns it. On an error it is left open, like every file.
        container: the file that holds it, which ``content`` closes.
        format_name: the container's format, for the image and its first link.
        chain: where the inner format finds its other files.
        known: bytes of the content that are there, if its end is lost; the format is then told by what is left.

    Raises:
        Unsupported: there are too many containers inside one another.
        MntapiError: the content cannot be opened.
    """
    if content.depth > MAX_DEPTH:
        raise Unsupported(
            "too many containers inside one another", path=container.path, expected=f"at most {MAX_DEPTH}", reason="nesting"
        )
    try:
        there = content if known is None else Slice(content, 0, known)
        format_ = RAW if chain.contents_only else recognise(there, content.path, hint=_UNPACK_HINT)
        image = format_.load().open_image(content, chain)
    except MntapiError as error:
        raise error.located(path=content.path) from error.__cause__
    return Image(container.path, format_name, image.blocks, (Link(container.path, format_name), *image.chain))
