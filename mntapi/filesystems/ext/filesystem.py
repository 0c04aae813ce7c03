"""ext2, ext3 and ext4 as a ``FileSystem``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from mntapi.blocks import Cache, read
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.filesystems.ext import xattr
from mntapi.filesystems.ext.checksums import Checksums, check_extents, check_folder
from mntapi.filesystems.ext.directory import list_inline, list_linear
from mntapi.filesystems.ext.inode import Flag, Inode, parse_inode
from mntapi.filesystems.ext.inode_table import InodeTable
from mntapi.filesystems.ext.mapping import Mapper
from mntapi.filesystems.ext.recovery import Log, Replayed
from mntapi.filesystems.ext.superblock import (
    SUPERBLOCK_AT,
    SUPERBLOCK_SIZE,
    Incompat,
    ReadOnlyCompat,
    Superblock,
    parse_superblock,
)
from mntapi.filesystems.kinds import check_is_file, check_is_link, target_of
from mntapi.filesystems.names import Folders, Listed
from mntapi.filesystems.runs import Memory, RunBlocks, RunList
from mntapi.types import Blocks, Capacity, Entry, FileKind, Node, Signature
from mntapi.units import SECTOR, align_up

ROOT = 2
FSCRYPT = "fscrypt"
"""``Node.reason`` of what is encrypted; the names in such a folder are shown encoded."""
MAX_SYMLINK = 1 << 16
"""Bytes of a link's target; the kernel allows one block at most."""
MAX_XATTR = 1 << 16
"""Bytes of one attribute's value, the limit of the kernel's interface (``XATTR_SIZE_MAX``)."""
_SIZED = (FileKind.FILE, FileKind.DIRECTORY, FileKind.SYMLINK)


def open_filesystem(blocks: Blocks, signature: Signature) -> ExtFileSystem:
    """Read the superblock and the root folder of the volume ``blocks``; a journal that is not empty is replayed in memory.

    Raises:
        Corrupt, Unsupported, ReadFailed: with the byte on the volume. A journal that cannot be replayed is no error: the file
            system is read as it lies there, and ``unreplayed`` says why.
    """
    if blocks.size < SUPERBLOCK_AT + SUPERBLOCK_SIZE:
        raise Corrupt("too small for an ext superblock", expected=f"{SUPERBLOCK_AT + SUPERBLOCK_SIZE} bytes", found=blocks.size)
    found = ExtFileSystem(blocks, parse_superblock(read(blocks, SUPERBLOCK_AT, SUPERBLOCK_SIZE)), signature.kind)
    return found.recovered() if found.needs_recovery else found


class ExtFileSystem:
    """One ext2, ext3 or ext4 file system. Thread-safe; borrows the volume.

    Names are matched byte for byte, in a case-folding folder too.
    """

    def __init__(self, volume: Blocks, superblock: Superblock, kind: str) -> None:
        self.kind = kind
        self.unreplayed: str | None = None
        """Why the newest changes may be missing: what is in the journal could not be replayed."""
        self._volume = volume
        self._cache = Cache(volume)
        self._sb = superblock
        self._has_large_folders = bool(superblock.incompat & Incompat.LARGEDIR)
        self._has_huge_files = bool(superblock.read_only_compat & ReadOnlyCompat.HUGE_FILE)
        self._checksums = Checksums(superblock.checksum_seed) if superblock.checksum_seed is not None else None
        self._inodes = InodeTable(self._cache, superblock, self._checksums)
        self._last: tuple[int, Inode] | None = None
        self._folders = Folders(self._listing, self.node)
        self.root = self.node(ROOT)
        if self.root.kind is not FileKind.DIRECTORY:
            raise Corrupt("the root inode is no folder", offset=self._inodes.at(ROOT), found=self.root.kind)

    @property
    def needs_recovery(self) -> bool:
        """Whether changes may be in the journal only."""
        return bool(self._sb.incompat & Incompat.RECOVER)

    def recovered(self) -> ExtFileSystem:
        """This file system after the journal was replayed; itself, with ``unreplayed`` set, where that cannot be."""
        try:
            if not self._sb.journal:
                raise Unsupported("is on a device of its own", reason="journal-device")
            journal = self.open(self.node(self._sb.journal))
            log = Log(journal, self._sb.block_size, self._sb.blocks)
            volume = Replayed(self._volume, journal, log.superblock, log.copies())
            superblock = parse_superblock(read(volume, SUPERBLOCK_AT, SUPERBLOCK_SIZE))
            found = ExtFileSystem(volume, superblock, self.kind)
            if log.has_fast_commits():
                found.unreplayed = "fast commits are not replayed: the changes of the last seconds may be missing"
        except MntapiError as error:
            self.unreplayed = f"the journal cannot be replayed: {error}"
            return self
        self.close()
        return found

    def node(self, inode: int) -> Node:
        kind, found = self._used(inode)
        return Node(
            inode,
            kind,
            self._size(found, kind) if kind in _SIZED else 0,
            found.mode & 0o7777,
            found.uid,
            found.gid,
            found.links,
            self._allocated(found, kind),
            found.mtime_ns,
            found.atime_ns,
            found.ctime_ns,
            found.birthtime_ns,
            0 if kind in _SIZED else found.rdev,
            FSCRYPT if found.flags & Flag.ENCRYPT else None,
        )

    def lookup(self, directory: Node, name: str) -> Node:
        return self._folders.lookup(directory, name)

    def scan(self, directory: Node) -> Iterator[Entry]:
        return self._folders.scan(directory)

    def open(self, file: Node) -> Blocks:
        check_is_file(file)
        return self._content(file.inode, self._plain(file.inode))

    def readlink(self, link: Node) -> str:
        check_is_link(link)
        inode = self._plain(link.inode)
        size = self._size(inode, FileKind.SYMLINK)
        if size > MAX_SYMLINK:
            raise Corrupt("the target of a symbolic link is too long", offset=self._inodes.at(link.inode), found=size)
        if self._is_fast_link(inode, size):
            return target_of(inode.block[:size])
        return target_of(read(self._content(link.inode, inode), 0, size))

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        inode = self._inode(node.inode)
        found = dict(xattr.decode(xattr.in_inode(inode.body, self._body_at(node.inode, inode)), inode.body, self._value))
        if inode.acl_block:
            at = inode.acl_block * self._sb.block_size
            raw = self._block(inode.acl_block)
            if self._checksums is not None:
                self._checksums.check_attributes(raw, inode.acl_block, at)
            found.update(xattr.decode(xattr.in_block(raw, at), raw, self._value))
        return found

    def capacity(self) -> Capacity:
        size = self._sb.block_size
        return Capacity(
            total=self._sb.blocks * size,
            free=self._sb.free_blocks * size,
            block_size=size,
            inodes=self._sb.inodes,
            inodes_free=self._sb.free_inodes,
        )

    def close(self) -> None:
        self._folders.clear()
        self._inodes.clear()
        self._last = None
        self._cache.close()

    def _inode(self, number: int) -> Inode:
        """The inode. The last one is kept: whoever asks for its node asks for its attributes, contents or target next."""
        last = self._last
        if last is not None and last[0] == number:
            return last[1]
        inode = parse_inode(self._inodes.read(number))
        self._last = number, inode
        return inode

    def _checked(self, number: int, check: Callable[[bytes, int, int], None]) -> Callable[[bytes, int], None]:
        """What compares the checksums of blocks that belong to an inode: called with a block and its byte, for errors."""
        if self._checksums is None:
            return lambda raw, at: None
        seed = self._checksums.of_inode(self._inodes.read(number), number)
        return lambda raw, at: check(raw, seed, at)

    def _used(self, number: int) -> tuple[FileKind, Inode]:
        inode = self._inode(number)
        kind = inode.kind
        if kind is None or inode.links == 0:
            raise Corrupt(f"inode {number} is not in use", offset=self._inodes.at(number), found=oct(inode.mode))
        return kind, inode

    def _plain(self, number: int) -> Inode:
        _, inode = self._used(number)
        if inode.flags & Flag.ENCRYPT:
            raise Unsupported(f"inode {number} is encrypted", hint="the key is not on the disk", reason=FSCRYPT)
        return inode

    def _block(self, number: int) -> bytes:
        return self._inodes.metadata(number * self._sb.block_size, self._sb.block_size)

    def _size(self, inode: Inode, kind: FileKind | None) -> int:
        """The high half of a folder's size counts only with the feature for it; older systems kept something else there."""
        wide = kind is FileKind.FILE or self._has_large_folders
        size = inode.size | inode.size_high << 32 if wide else inode.size
        if size >> 63:
            raise Corrupt("an inode with an impossible size", expected="less than 2^63", found=size)
        return size

    def _sectors(self, inode: Inode) -> int:
        return inode.sectors if self._has_huge_files else inode.sectors & 0xFFFFFFFF

    def _allocated(self, inode: Inode, kind: FileKind) -> int:
        """As fs/ext4/inode.c ``ext4_file_getattr``: an inline file counts too, or programs would take it for a hole."""
        flags = inode.flags
        stored = self._sectors(inode) * (self._sb.block_size if flags & Flag.HUGE_FILE else SECTOR)
        inline = flags & Flag.INLINE_DATA and kind is FileKind.FILE
        return stored + align_up(inode.size, SECTOR) if inline else stored

    def _is_fast_link(self, inode: Inode, size: int) -> bool:
        """As fs/ext4/inode.c ``ext4_inode_is_fast_symlink``: no block but one of attributes."""
        if inode.flags & Flag.INLINE_DATA or size >= len(inode.block):
            return False
        return self._sectors(inode) == (self._sb.cluster_size // SECTOR if inode.acl_block else 0)

    def _content(self, number: int, inode: Inode) -> Blocks:
        size = self._size(inode, inode.kind)
        if inode.flags & Flag.INLINE_DATA:
            content = b"".join(self._inline(number, inode))
            if len(content) < size:
                raise Corrupt(
                    "inline data ends before the file", offset=self._inodes.at(number), expected=size, found=len(content)
                )
            return Memory(content[:size], self._volume.sector_size)
        runs = self._runs(number, inode, size)
        return RunBlocks(self._volume, runs, size)

    def _runs(self, number: int, inode: Inode, size: int) -> RunList:
        if not inode.flags & Flag.EXTENTS:
            return Mapper(self._block, self._sb.block_size, self._sb.blocks).block_map(inode.block, size)
        check = self._checked(number, check_extents)

        def read_block(block: int) -> bytes:
            raw = self._block(block)
            check(raw, block * self._sb.block_size)
            return raw

        return Mapper(read_block, self._sb.block_size, self._sb.blocks).extents(inode.block, size)

    def _inline(self, number: int, inode: Inode) -> tuple[bytes, bytes]:
        """The two places of inline data: the 60 bytes of the block map, and an attribute."""
        for entry in xattr.in_inode(inode.body, self._body_at(number, inode)):
            if entry.namespace == xattr.SYSTEM_INDEX and entry.name == xattr.INLINE_DATA:
                return inode.block, inode.body[entry.value_at : entry.value_at + entry.size]
        return inode.block, b""

    def _body_at(self, number: int, inode: Inode) -> int:
        return self._inodes.at(number) + self._sb.inode_size - len(inode.body)

    def _value(self, number: int, size: int) -> bytes:
        """An attribute's value that is an inode of its own."""
        if size > MAX_XATTR:
            raise Corrupt("the value of an extended attribute is too long", expected=f"at most {MAX_XATTR}", found=size)
        inode = self._inode(number)
        if not inode.flags & Flag.EA_INODE or self._size(inode, inode.kind) < size:
            raise Corrupt(f"inode {number} holds no attribute value of {size} bytes", offset=self._inodes.at(number))
        return read(self._content(number, inode), 0, size)

    def _listing(self, directory: Node) -> Iterator[Listed]:
        inode = self._inode(directory.inode)
        encrypted = bool(inode.flags & Flag.ENCRYPT)
        if inode.flags & Flag.INLINE_DATA:
            return list_inline(*self._inline(directory.inode, inode), at=self._inodes.at(directory.inode), encrypted=encrypted)
        content = self._content(directory.inode, inode)
        check = self._checked(directory.inode, check_folder)
        return self._inodes.ahead(list_linear(content, self._sb.block_size, self._volume.size, check, encrypted=encrypted))
