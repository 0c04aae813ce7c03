"""A raw disk: the file is the disk. Also a block device of the host, and the base of a chain."""

from __future__ import annotations

from mntapi.errors import Corrupt
from mntapi.images.formats import Chain
from mntapi.types import FileBlocks, Image, Link


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """The file as it is.

    Raises:
        Corrupt: it is empty; no disk is.
    """
    if file.size == 0:
        raise Corrupt("is empty: 0 bytes", path=file.path, offset=0, reason="empty")
    return Image(path=file.path, format="raw", blocks=file, chain=(Link(file.path, "raw"),))
