"""UFS1 and UFS2 as a ``FileSystem``."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping

from mntapi.blocks import Cache, read
from mntapi.errors import Corrupt, NotFound, Unsupported
from mntapi.filesystems.kinds import check_is_file, check_is_link, target_of
from mntapi.filesystems.names import Folders, Listed
from mntapi.filesystems.ufs.content import Content
from mntapi.filesystems.ufs.directory import list_folder
from mntapi.filesystems.ufs.inode import SNAPSHOT, Inode, parse_inode
from mntapi.filesystems.ufs.superblock import Superblock, find_superblock
from mntapi.types import Blocks, Capacity, Entry, FileKind, Node, Signature
from mntapi.units import SECTOR

ROOT = 2
MAX_SYMLINK = 1 << 16
"""Bytes of a link's target; the systems allow 1024 (``MAXPATHLEN``)."""
_IS_SNAPSHOT = "ufs-snapshot"
"""``Node.reason`` of a snapshot of the file system in itself."""
_SIZED = (FileKind.FILE, FileKind.DIRECTORY, FileKind.SYMLINK)


def open_filesystem(blocks: Blocks, signature: Signature) -> UfsFileSystem:
    """Read the superblock and the root folder of the volume ``blocks``.

    Raises:
        Corrupt, Unsupported, ReadFailed: with the byte on the volume.
    """
    return UfsFileSystem(blocks, find_superblock(blocks), signature.kind)


class UfsFileSystem:
    """One UFS file system. Thread-safe; borrows the volume."""

    def __init__(self, volume: Blocks, superblock: Superblock, kind: str) -> None:
        self.kind = kind
        self._volume = volume
        self._cache = Cache(volume)
        self._sb = superblock
        self._folders = Folders(self._listing, self.node)
        self.root = self.node(ROOT)
        if self.root.kind is not FileKind.DIRECTORY:
            raise Corrupt("the root inode is no folder", offset=superblock.inode_at(ROOT), found=self.root.kind)

    def node(self, inode: int) -> Node:
        kind, found = self._used(inode)
        return Node(
            inode=inode,
            kind=kind,
            size=found.size if kind in _SIZED else 0,
            mode=stat.S_IMODE(found.mode),
            uid=found.uid,
            gid=found.gid,
            links=found.links,
            allocated=found.sectors * SECTOR,
            mtime_ns=found.mtime_ns,
            atime_ns=found.atime_ns,
            ctime_ns=found.ctime_ns,
            birthtime_ns=found.birthtime_ns,
            rdev=found.rdev,
            reason=_IS_SNAPSHOT if found.flags & SNAPSHOT else None,
        )

    def lookup(self, directory: Node, name: str) -> Node:
        return self._folders.lookup(directory, name)

    def scan(self, directory: Node) -> Iterator[Entry]:
        return self._folders.scan(directory)

    def open(self, file: Node) -> Blocks:
        check_is_file(file)
        _, inode = self._used(file.inode)
        if inode.flags & SNAPSHOT:
            raise Unsupported(f"inode {file.inode} is a snapshot of the file system", reason=_IS_SNAPSHOT)
        return self._content(inode)

    def readlink(self, link: Node) -> str:
        check_is_link(link)
        _, inode = self._used(link.inode)
        if inode.size > MAX_SYMLINK:
            raise Corrupt("the target of a symbolic link is too long", offset=self._inode_at(link.inode), found=inode.size)
        if self._is_inline(inode):
            return target_of(inode.area[: inode.size])
        return target_of(read(self._content(inode), 0, inode.size))

    def _is_inline(self, inode: Inode) -> bool:
        """As FreeBSD's ``ufs_readlink`` and, where the superblock has no length, NetBSD's."""
        if self._sb.inline_link:
            return inode.size < self._sb.inline_link
        return inode.sectors == 0 and inode.size <= len(inode.area)

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        """None: those of UFS2 are not read."""
        return {}

    def capacity(self) -> Capacity:
        block, fragment = self._sb.block_size, self._sb.fragment_size
        total = self._sb.fragments * fragment
        return Capacity(
            total=total,
            free=min(total, self._sb.free_blocks * block + self._sb.free_fragments * fragment),
            block_size=fragment,
            inodes=self._sb.inodes,
            inodes_free=min(self._sb.inodes, self._sb.free_inodes),
        )

    def close(self) -> None:
        self._folders.clear()
        self._cache.close()

    def _inode_at(self, number: int) -> int:
        if not ROOT <= number < self._sb.inodes:
            raise NotFound(f"there is no inode {number}", expected=f"{ROOT} to {self._sb.inodes - 1}")
        return self._sb.inode_at(number)

    def _used(self, number: int) -> tuple[FileKind, Inode]:
        at = self._inode_at(number)
        inode = parse_inode(self._metadata(at, self._sb.inode_size), self._sb)
        if inode.kind is None or inode.links == 0:
            raise Corrupt(f"inode {number} is not in use", offset=at, found=oct(inode.mode))
        if inode.kind in _SIZED and inode.size >> 63:
            raise Corrupt("an inode with an impossible size", offset=at, expected="less than 2^63", found=inode.size)
        return inode.kind, inode

    def _metadata(self, at: int, length: int) -> bytes:
        if at + length > self._volume.size:
            raise Corrupt("the file system goes past the end of its volume", offset=at, expected=f"at most {self._volume.size}")
        return self._cache.read(at, length)

    def _block(self, fragment: int) -> bytes:
        return self._metadata(fragment * self._sb.fragment_size, self._sb.block_size)

    def _content(self, inode: Inode) -> Content:
        return Content(self._volume, self._sb, inode, self._block)

    def _listing(self, directory: Node) -> Iterator[Listed]:
        _, inode = self._used(directory.inode)
        if inode.size > self._volume.size:
            raise Corrupt("a folder larger than its volume", expected=f"at most {self._volume.size}", found=inode.size)
        return list_folder(self._content(inode), self._sb.order)
