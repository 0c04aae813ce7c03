"""The table of readers: what a signature's kind is read by.

A reader is a module with ``open_filesystem(blocks, signature) -> FileSystem``; it is imported when first needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from mntapi.errors import Unsupported
from mntapi.types import Blocks, FileSystem, Signature


class ReaderModule(Protocol):
    """What a reader's module offers."""

    def open_filesystem(self, blocks: Blocks, signature: Signature) -> FileSystem:
        """Open the file system on ``blocks``, which stay the caller's."""


READERS = {
    "ext2": "mntapi.filesystems.ext.filesystem",
    "ext3": "mntapi.filesystems.ext.filesystem",
    "ext4": "mntapi.filesystems.ext.filesystem",
    "ntfs": "mntapi.filesystems.ntfs.filesystem",
    "vfat": "mntapi.filesystems.tsk.filesystem",
    "exfat": "mntapi.filesystems.tsk.filesystem",
    "hfsplus": "mntapi.filesystems.tsk.filesystem",
    "iso9660": "mntapi.filesystems.tsk.filesystem",
    "ufs": "mntapi.filesystems.ufs.filesystem",
    "btrfs": "mntapi.filesystems.btrfs.filesystem",
    "xfs": "mntapi.filesystems.xfs.filesystem",
}
"""By libblkid's names."""


def open_filesystem(blocks: Blocks, signature: Signature) -> FileSystem:
    """The file system that ``signature`` names, read from ``blocks``; close it when done, the blocks stay the caller's.

    Raises:
        Unsupported: no reader for this kind (reason ``no-reader``), or one for it and not for this layout.
        Corrupt, ReadFailed: with the byte on the volume.
    """
    module = READERS.get(signature.kind)
    if module is None:
        raise Unsupported(
            f"no reader for {signature.kind} in this version", hint="the raw volume can still be presented", reason="no-reader"
        )
    return cast(ReaderModule, import_module(module)).open_filesystem(blocks, signature)
