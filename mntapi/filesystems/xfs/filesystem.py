"""XFS as a ``FileSystem``."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

from mntapi.blocks import Cache
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.filesystems.kinds import check_is_file, check_is_link, target_of
from mntapi.filesystems.names import Folders, Listed
from mntapi.filesystems.runs import RunBlocks
from mntapi.filesystems.xfs import attributes
from mntapi.filesystems.xfs.described import REMOTE, Metadata
from mntapi.filesystems.xfs.directory import INDEX_AT, list_blocks, list_short
from mntapi.filesystems.xfs.extents import Extents, run_list
from mntapi.filesystems.xfs.groups import Counts, count
from mntapi.filesystems.xfs.inode import Format, Inode, parse_inode
from mntapi.filesystems.xfs.inode_table import InodeTable
from mntapi.filesystems.xfs.moves import Move, gained, moved
from mntapi.filesystems.xfs.recovery import replay
from mntapi.filesystems.xfs.superblock import Superblock, find_superblock
from mntapi.types import Blocks, Capacity, Entry, FileKind, Node, Signature

REALTIME = "realtime"
"""``Node.reason`` of a file whose contents are on the realtime device."""
MAX_SYMLINK = 1024
"""Bytes of a link's target (``XFS_SYMLINK_MAXLEN``)."""
_LINK_HEAD = struct.Struct(">4s2I")
_LINK_HEAD_SIZE = 56
_LOWER = {letter: letter + 32 for letter in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_SIZED = (FileKind.FILE, FileKind.DIRECTORY, FileKind.SYMLINK)


def open_filesystem(blocks: Blocks, signature: Signature) -> XfsFileSystem:
    """Read the superblock and the root folder of the volume ``blocks``; a log that is not empty is replayed in memory.

    Raises:
        Corrupt, Unsupported, ReadFailed: with the byte on the volume. A log that cannot be replayed is no error: the
            file system is read as it lies there, and ``unreplayed`` says why.
    """
    superblock = find_superblock(blocks)
    if not signature.dirty:
        return XfsFileSystem(blocks, superblock, signature.kind)
    try:
        volume, moves, unreplayed = replay(blocks, superblock)
        found = XfsFileSystem(volume, find_superblock(volume), signature.kind, moves)
    except MntapiError as error:
        found = XfsFileSystem(blocks, superblock, signature.kind)
        unreplayed = f"the log cannot be replayed: {error}"
    found.unreplayed = unreplayed
    return found


class XfsFileSystem:
    """One XFS file system. Thread-safe; borrows the volume."""

    def __init__(
        self, volume: Blocks, superblock: Superblock, kind: str, moves: Mapping[int, Sequence[Move]] | None = None
    ) -> None:
        """``moves``: what the replayed log left to be done to files' maps; None where no log was replayed."""
        self.kind = kind
        self.unreplayed: str | None = None
        """Why the newest changes may be missing: what is in the log could not be replayed."""
        self._is_replayed = moves is not None
        self._moves = moves or {}
        self._volume = volume
        self._sb = superblock
        self._uuid = superblock.uuid if superblock.version == 5 else None
        self._cache = Cache(volume)
        self._metadata = Metadata(self._cache, superblock)
        self._inodes = InodeTable(volume, self._metadata, superblock)
        self._extents = Extents(self._metadata, superblock)
        self._last: tuple[FileKind, Inode] | None = None
        self._folders = Folders(self._listing, self.node, fold=_fold if superblock.folds_case else None)
        self.root = self.node(superblock.root)
        if self.root.kind is not FileKind.DIRECTORY:
            raise Corrupt("the root inode is no folder", offset=superblock.inode_at(superblock.root), found=self.root.kind)

    def node(self, inode: int) -> Node:
        kind, found = self._used(inode)
        return Node(
            inode,
            kind,
            found.size if kind in _SIZED else 0,
            found.mode & 0o7777,
            found.uid,
            found.gid,
            found.links,
            found.blocks * self._sb.block_size + gained(self._moves.get(inode, ())),
            found.mtime_ns,
            found.atime_ns,
            found.ctime_ns,
            found.birthtime_ns,
            0 if kind in _SIZED else found.rdev,
            REALTIME if found.is_realtime and kind is FileKind.FILE else None,
        )

    def lookup(self, directory: Node, name: str) -> Node:
        return self._folders.lookup(directory, name)

    def scan(self, directory: Node) -> Iterator[Entry]:
        return self._folders.scan(directory)

    def open(self, file: Node) -> Blocks:
        check_is_file(file)
        _, inode = self._used(file.inode)
        if _is_elsewhere(inode):
            raise Unsupported(
                f"the contents of inode {file.inode} are on the realtime device",
                hint="only the kernel reads them, with -o rtdev=",
                reason=REALTIME,
            )
        extents = moved(self._extents.extents(inode.data, file.inode), self._moves.get(file.inode, ()))
        return RunBlocks(self._volume, run_list(extents, inode.size), inode.size)

    def readlink(self, link: Node) -> str:
        check_is_link(link)
        _, inode = self._used(link.inode)
        if not 0 < inode.size <= MAX_SYMLINK:
            raise Corrupt(
                "an impossible length of a symbolic link",
                offset=inode.data.at,
                expected=f"1 to {MAX_SYMLINK}",
                found=inode.size,
            )
        if inode.data.format != Format.LOCAL:
            target = self._remote_target(inode)
        elif inode.size <= len(inode.data.raw):
            target = inode.data.raw[: inode.size]
        else:
            raise Corrupt("the target of a symbolic link does not fit into its inode", offset=inode.data.at, found=inode.size)
        return target_of(target)

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        _, inode = self._used(node.inode)
        fork = inode.attributes
        if fork is None:
            return {}
        if fork.format == Format.LOCAL:
            return dict(attributes.shown(attributes.in_inode(fork)))
        content = self._extents.mapped(fork, node.inode)
        blocks = attributes.AttributeBlocks(content, self._sb.block_size, self._sb.version)
        return dict(attributes.shown(blocks.attributes()))

    def capacity(self) -> Capacity:
        sb = self._sb
        size, total = sb.block_size, max(0, sb.blocks - sb.log_blocks)
        told = Counts(sb.free_blocks, sb.inodes, sb.free_inodes)
        free_blocks, inodes, free_inodes = count(self._volume, sb) if self._is_replayed else told
        return Capacity(
            total=total * size,
            free=min(total, free_blocks) * size,
            block_size=size,
            inodes=inodes,
            inodes_free=min(inodes, free_inodes),
        )

    def close(self) -> None:
        self._folders.clear()
        self._inodes.clear()
        self._last = None
        self._cache.close()

    def _used(self, number: int) -> tuple[FileKind, Inode]:
        """An inode that is in use. The last one is kept: whoever asks for its node asks for its attributes or contents next."""
        last = self._last
        if last is not None and last[1].number == number:
            return last
        at = self._sb.inode_at(number)
        inode = parse_inode(self._inodes.read(at), number, at, self._uuid)
        kind = inode.kind
        if kind is None or inode.links == 0:
            raise Corrupt(f"inode {number} is not in use", offset=at, found=oct(inode.mode))
        self._last = kind, inode
        return kind, inode

    def _remote_target(self, inode: Inode) -> bytes:
        """The target of a link in blocks of its own; in version 5 each extent of them describes itself."""
        content = self._extents.mapped(inode.data, inode.number)
        if self._sb.version == 4:
            return content.read(0, inode.size).raw
        target = b""
        for offset, length, at, _ in self._extents.extents(inode.data, inode.number):
            raw = content.read(offset, min(length, 2 * MAX_SYMLINK + self._sb.block_size)).raw
            magic, done, count = _LINK_HEAD.unpack_from(raw)
            if magic != b"XSLM" or done != len(target) or not 0 < count <= len(raw) - _LINK_HEAD_SIZE:
                raise Corrupt(
                    "no part of a symbolic link", offset=at, expected=f"XSLM, {len(target)}", found=f"{magic!r}, {done}"
                )
            self._metadata.verify(raw, at, REMOTE, inode.number)
            target += raw[_LINK_HEAD_SIZE : _LINK_HEAD_SIZE + count]
            if len(target) >= inode.size:
                return target[: inode.size]
        raise Corrupt(
            "the target of a symbolic link ends too early", offset=inode.data.at, expected=inode.size, found=len(target)
        )

    def _listing(self, directory: Node) -> Iterator[Listed]:
        _, inode = self._used(directory.inode)
        if inode.data.format == Format.LOCAL:
            return list_short(inode.data, inode.size, has_kinds=self._sb.has_kinds)
        return list_blocks(
            self._extents.mapped(inode.data, directory.inode, end=INDEX_AT),
            self._sb.directory_block_size,
            is_described=self._sb.version == 5,
            has_kinds=self._sb.has_kinds,
        )


def _is_elsewhere(inode: Inode) -> bool:
    return inode.is_realtime and inode.kind is FileKind.FILE


def _fold(name: str) -> str:
    """As fs/xfs/libxfs/xfs_dir2.c ``xfs_ascii_ci_xfrm``: letters of ASCII only."""
    return name.translate(_LOWER)
