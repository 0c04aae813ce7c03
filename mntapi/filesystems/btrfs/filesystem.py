"""btrfs as a ``FileSystem``."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping

from mntapi.blocks import read
from mntapi.errors import Corrupt, MntapiError, NotFound, Unsupported
from mntapi.filesystems.btrfs.chunks import SystemChunks, TreeChunks
from mntapi.filesystems.btrfs.content import Extents, FileContent, Unpacker
from mntapi.filesystems.btrfs.data import Data
from mntapi.filesystems.btrfs.devices import Devices, read_devices
from mntapi.filesystems.btrfs.items import Inode, InodeFlag, Name, Type, parse_inode, parse_names, parse_root
from mntapi.filesystems.btrfs.logtree import checksum_changes, read_logs, subvolume_changes
from mntapi.filesystems.btrfs.patched import Patched
from mntapi.filesystems.btrfs.pointer import HIGHEST, Pointer
from mntapi.filesystems.btrfs.storage import Storage
from mntapi.filesystems.btrfs.subvolumes import (
    ROOT_FOLDER,
    Numbers,
    Paths,
    Subvolume,
    described,
    read_default,
    read_roots,
)
from mntapi.filesystems.btrfs.superblock import Superblock
from mntapi.filesystems.btrfs.tree import Item, Nodes, Tree
from mntapi.filesystems.kinds import check_is_file, check_is_link, target_of
from mntapi.filesystems.names import Folders, Listed, presentable
from mntapi.types import Blocks, Capacity, Entry, FileKind, Node, Signature
from mntapi.units import KIB, MIB, align_up

CHECKSUM_TREE = 7
MAX_SYMLINK = 64 * KIB
"""Bytes of a link's target; the kernel allows less than a sector."""
MAX_ATTRIBUTES = 16 * MIB
"""Bytes of all attributes of one file; one has at most a tree node."""
MAX_DAMAGE = 1024
"""Damaged nodes and entries of one folder before the rest is given up."""
MINOR_BITS, MAJORS = 20, 0xFFF
"""Parts of a device number, as the kernel stores it (include/linux/kdev_t.h)."""


def open_filesystem(blocks: Blocks, signature: Signature) -> BtrfsFileSystem:
    """Read the superblock, the root tree and the top folder of the volume ``blocks``.

    Raises:
        Corrupt, Unsupported, ReadFailed: with the byte on the volume.
    """
    return BtrfsFileSystem(blocks, *read_devices(blocks))


class BtrfsFileSystem:
    """One btrfs, its root that of the top-level subvolume. Thread-safe; borrows the volume."""

    kind = "btrfs"

    def __init__(self, volume: Blocks, superblock: Superblock, devices: Devices) -> None:
        self._sb = superblock
        storage = Storage(volume, devices)
        system = Nodes(storage, superblock, SystemChunks(superblock))
        chunks = TreeChunks(Tree(system, superblock.chunk_root))
        nodes = Nodes(storage, superblock, chunks)
        self._caches = (system, nodes)
        self._nodes = nodes
        self._root_tree = Tree(nodes, superblock.root)
        self._checksums: Tree | None = None
        self._roots = read_roots(self._root_tree, superblock.root.at)
        self._numbers = Numbers(len(self._roots.all))
        self._trees = tuple(Tree(nodes, root.pointer) for root in self._roots.all)
        self.unreplayed = self._replay()
        self._data = Data(storage, superblock, chunks, self._checksum_tree)
        self._unpacker = Unpacker(self._data, superblock.sector_size)
        self._folders = Folders(self._listing, self.node)
        self.root = self.node(self._numbers.join(0, ROOT_FOLDER))
        if self.root.kind is not FileKind.DIRECTORY:
            at = self._inode_item(0, ROOT_FOLDER).at
            raise Corrupt("the top of the top-level subvolume is no folder", offset=at, found=self.root.kind)

    def node(self, inode: int) -> Node:
        if self._numbers.is_empty(inode):
            return Node(inode, FileKind.DIRECTORY, 0, mode=0o755)
        position, own = self._numbers.split(inode)
        found = self._inode(position, own)
        is_device = found.kind in (FileKind.CHAR_DEVICE, FileKind.BLOCK_DEVICE)
        return Node(
            inode=inode,
            kind=found.kind,
            size=found.size,
            mode=stat.S_IMODE(found.mode),
            uid=found.uid,
            gid=found.gid,
            links=found.links,
            allocated=align_up(found.stored, self._sb.sector_size),
            mtime_ns=found.mtime_ns,
            atime_ns=found.atime_ns,
            ctime_ns=found.ctime_ns,
            birthtime_ns=found.otime_ns or None,
            rdev=os.makedev(found.rdev >> MINOR_BITS & MAJORS, found.rdev & (1 << MINOR_BITS) - 1) if is_device else 0,
        )

    def lookup(self, directory: Node, name: str) -> Node:
        return self._folders.lookup(directory, name)

    def scan(self, directory: Node) -> Iterator[Entry]:
        return self._folders.scan(directory)

    def open(self, file: Node) -> Blocks:
        check_is_file(file)
        return self._content(file.inode)

    def readlink(self, link: Node) -> str:
        check_is_link(link)
        content = self._content(link.inode)
        if content.size > MAX_SYMLINK:
            at = self._inode_item(*self._numbers.split(link.inode)).at
            raise Corrupt("the target of a symbolic link is too long", offset=at, found=content.size)
        return target_of(read(content, 0, content.size))

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        if self._numbers.is_empty(node.inode):
            return {}
        position, own = self._numbers.split(node.inode)
        found: dict[str, bytes] = {}
        length = 0
        for item in self._trees[position].items((own, Type.XATTR_ITEM, 0), (own, Type.XATTR_ITEM, HIGHEST)):
            length += len(item.raw)
            if length > MAX_ATTRIBUTES:
                raise Unsupported("too many extended attributes", offset=item.at, reason="too-many-xattrs")
            found.update((os.fsdecode(entry.name), entry.data) for entry in parse_names(item))
        return found

    def capacity(self) -> Capacity:
        """As the superblock says: of all devices together; what copies and parity take is in neither figure."""
        return Capacity(total=self._sb.total, free=max(0, self._sb.total - self._sb.used), block_size=self._sb.sector_size)

    def subvolumes(self) -> tuple[Subvolume, ...]:
        """All subvolumes and snapshots that are not being deleted, the top-level one first, in the order of their ids.

        One whose record in the root tree is damaged is left out. Costs a few node reads for each that lies in another folder.
        """
        return described(self._roots, Paths(self._roots, self._trees))

    @property
    def default_subvolume(self) -> int:
        """The id of the one that is mounted where nobody says which. Raises Corrupt, ReadFailed: the root tree is damaged."""
        return read_default(self._root_tree)

    def subvolume_root(self, subvolume: int) -> Node:
        """The top folder of the subvolume with this id, wherever it lies. Raises NotFound: there is none."""
        position = self._roots.positions.get(subvolume)
        if position is None:
            raise NotFound(f"there is no subvolume {subvolume}")
        return self.node(self._numbers.join(position, ROOT_FOLDER))

    def close(self) -> None:
        self._folders.clear()
        self._unpacker.clear()
        for nodes in self._caches:
            nodes.clear()

    def _replay(self) -> str | None:
        """Replay the log in memory, or say why not."""
        if self._sb.log_root is None:
            return None
        try:
            logs = read_logs(self._nodes, self._sb.log_root)
            trees = list(self._trees)
            for subvolume, log in logs.items():
                position = self._roots.positions.get(subvolume)
                if position is None:
                    return f"log tree not replayed: it is of subvolume {subvolume}, which is not there"
                changes = subvolume_changes(trees[position], log, self._sb.sector_size)
                trees[position] = Patched(self._nodes, self._roots.all[position].pointer, changes)
            items = sorted((item for log in logs.values() for item in log), key=lambda item: item.key)
            changes = checksum_changes(self._checksum_tree(), items, self._sb.checksum.size, self._sb.sector_size)
            self._checksums = Patched(self._nodes, self._checksum_root(), changes)
        except MntapiError as error:
            self._checksums = None
            return f"log tree not replayed: {error}"
        self._trees = tuple(trees)
        return None

    def _checksum_tree(self) -> Tree:
        """That of the checksums of data. It is looked for when data is read: without it there are still the names."""
        if self._checksums is None:
            self._checksums = Tree(self._nodes, self._checksum_root())
        return self._checksums

    def _checksum_root(self) -> Pointer:
        item = self._root_tree.get((CHECKSUM_TREE, Type.ROOT_ITEM, 0))
        if item is None:
            raise Corrupt("there is no tree of checksums", offset=self._sb.root.at, reason="no-checksum")
        return parse_root(item).pointer

    def _inode(self, position: int, inode: int) -> Inode:
        return parse_inode(self._inode_item(position, inode))

    def _inode_item(self, position: int, inode: int) -> Item:
        item = self._trees[position].get((inode, Type.INODE_ITEM, 0))
        if item is None:
            raise NotFound(f"there is no inode {inode} in subvolume {self._roots.all[position].number}")
        return item

    def _content(self, number: int) -> FileContent:
        position, own = self._numbers.split(number)
        inode = self._inode(position, own)
        mapping = Extents(self._trees[position], own, self._sb.sector_size)
        return FileContent(mapping, inode.size, self._data, self._unpacker, verify=not inode.flags & InodeFlag.NODATASUM)

    def _listing(self, directory: Node) -> Iterator[Listed]:
        if self._numbers.is_empty(directory.inode):
            return
        position, own = self._numbers.split(directory.inode)
        damage: list[MntapiError] = []
        for item in self._trees[position].items((own, Type.DIR_INDEX, 0), (own, Type.DIR_INDEX, HIGHEST), damage):
            try:
                for name in parse_names(item):
                    yield Listed(presentable(name.name), self._number(position, own, name, item.at), name.kind)
            except (Corrupt, Unsupported) as error:
                damage.append(error)
                if len(damage) > MAX_DAMAGE:
                    break
        if damage:
            raise damage[0]

    def _number(self, position: int, folder: int, name: Name, at: int) -> int:
        """The number of what a name in the folder stands for."""
        if name.type == Type.INODE_ITEM:
            return self._numbers.join(position, name.number)
        if name.type != Type.ROOT_ITEM:
            raise Corrupt("a name that stands for neither file nor subvolume", offset=at, found=f"key type {name.type}")
        subvolume = self._roots.all[position].number
        target = self._roots.crossing(subvolume, folder, name.name, name.number)
        if target is None:
            return self._numbers.empty(subvolume, folder, name.name)
        return self._numbers.join(target, ROOT_FOLDER)
