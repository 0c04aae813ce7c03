"""What a file is: the numbers that Unix file systems have for it, and the checks that every reader makes before it opens one.

Source: inode(7); Linux include/linux/fs_types.h for the numbers in folders, which ext, XFS and btrfs share.
"""

from __future__ import annotations

import os
import stat

from mntapi.errors import Corrupt, Invalid, IsADirectory
from mntapi.types import FileKind, Node

MODE_BITS = {
    FileKind.FILE: stat.S_IFREG,
    FileKind.DIRECTORY: stat.S_IFDIR,
    FileKind.SYMLINK: stat.S_IFLNK,
    FileKind.FIFO: stat.S_IFIFO,
    FileKind.SOCKET: stat.S_IFSOCK,
    FileKind.CHAR_DEVICE: stat.S_IFCHR,
    FileKind.BLOCK_DEVICE: stat.S_IFBLK,
}
"""The bits of a mode that ``stat.S_IFMT`` leaves."""
_BY_BITS = {bits: kind for kind, bits in MODE_BITS.items()}
KIND_OF_ENTRY = {
    1: FileKind.FILE,
    2: FileKind.DIRECTORY,
    3: FileKind.CHAR_DEVICE,
    4: FileKind.BLOCK_DEVICE,
    5: FileKind.FIFO,
    6: FileKind.SOCKET,
    7: FileKind.SYMLINK,
}
"""By the number beside a name."""


def kind_of_mode(mode: int) -> FileKind | None:
    """None where the mode has no known type, as in an inode that was never used."""
    return _BY_BITS.get(mode & 0o170000)


def check_is_file(node: Node) -> None:
    """Raise IsADirectory or Invalid for what has no contents to open."""
    if node.kind is FileKind.DIRECTORY:
        raise IsADirectory(f"inode {node.inode} is a folder")
    if node.kind is not FileKind.FILE:
        raise Invalid(f"inode {node.inode} is a {node.kind}, which has no contents")


def check_is_link(node: Node) -> None:
    """Raise Invalid for what has no target."""
    if node.kind is not FileKind.SYMLINK:
        raise Invalid(f"inode {node.inode} is no symbolic link")


def target_of(raw: bytes) -> str:
    """The target of a symbolic link, from its bytes. Raises Corrupt for what no link leads to: nothing, or a name with NUL."""
    if not raw or b"\0" in raw:
        raise Corrupt("the target of a symbolic link is none", expected="a path", found=raw[:32].hex() or "nothing")
    return os.fsdecode(raw)
