"""FAT, exFAT, HFS+ and ISO 9660 as a ``FileSystem`` over The Sleuth Kit."""

from __future__ import annotations

import calendar
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytsk3

from mntapi.closing import closed_on_error
from mntapi.errors import Corrupt, NotFound, Unsupported
from mntapi.filesystems.kinds import check_is_file, check_is_link
from mntapi.filesystems.names import Folders, Listed, presentable
from mntapi.filesystems.ntfs.index import fold_case
from mntapi.filesystems.runs import Memory, RunBlocks, RunList
from mntapi.filesystems.tsk.exfat import valid_length
from mntapi.filesystems.tsk.image import Session, TskBlocks
from mntapi.filesystems.tsk.rockridge import REASON, has_rock_ridge
from mntapi.types import Blocks, Capacity, Entry, FileKind, Node, Signature

_DATA_TYPES = (pytsk3.TSK_FS_ATTR_TYPE_DEFAULT, pytsk3.TSK_FS_ATTR_TYPE_HFS_DATA)
_KINDS = {
    pytsk3.TSK_FS_META_TYPE_REG: FileKind.FILE,
    pytsk3.TSK_FS_META_TYPE_DIR: FileKind.DIRECTORY,
    pytsk3.TSK_FS_META_TYPE_LNK: FileKind.SYMLINK,
    pytsk3.TSK_FS_META_TYPE_FIFO: FileKind.FIFO,
    pytsk3.TSK_FS_META_TYPE_SOCK: FileKind.SOCKET,
    pytsk3.TSK_FS_META_TYPE_CHR: FileKind.CHAR_DEVICE,
    pytsk3.TSK_FS_META_TYPE_BLK: FileKind.BLOCK_DEVICE,
}
_VIRTUAL = (pytsk3.TSK_FS_NAME_TYPE_VIRT, pytsk3.TSK_FS_NAME_TYPE_VIRT_DIR)
_LABEL = b" (Volume Label Entry)"
_EXFAT_METADATA = (b"$ALLOC_BITMAP", b"$UPCASE_TABLE", b"$TEX_FAT", b"$VOLUME_GUID", b"$ACT")


@dataclass(frozen=True, slots=True)
class _Traits:
    """What differs between the file systems."""

    type: int
    folds_case: bool = False
    is_local_time: bool = False
    """Times have no zone on disk; The Sleuth Kit takes them for local time, we show them as if they were UTC."""
    modes: tuple[int, int] | None = None
    """Permissions of folders and of files, where the disk has none."""
    label_in_root: bool = False
    first_user: int = 0
    """Numbers below are the file system's own files, which The Sleuth Kit shows in the root."""


_TRAITS = {
    "vfat": _Traits(pytsk3.TSK_FS_TYPE_FAT_DETECT, True, True, (0o755, 0o644), True),
    "exfat": _Traits(pytsk3.TSK_FS_TYPE_EXFAT, True, True, (0o755, 0o644), True),
    "hfsplus": _Traits(pytsk3.TSK_FS_TYPE_HFS, first_user=16),
    "iso9660": _Traits(pytsk3.TSK_FS_TYPE_ISO9660, is_local_time=True, modes=(0o555, 0o444)),
}


def open_filesystem(blocks: Blocks, signature: Signature) -> TskFileSystem:
    """Let The Sleuth Kit open the volume ``blocks``.

    Raises:
        Unsupported: it does not know this kind.
        Corrupt, ReadFailed: as it says, or as reading the volume says.
    """
    traits = _TRAITS.get(signature.kind)
    if traits is None:
        raise Unsupported(f"The Sleuth Kit does not read {signature.kind} here", reason="no-reader")
    session = Session(blocks, traits.type)
    with closed_on_error(session):
        return TskFileSystem(blocks, session, signature.kind)


class TskFileSystem:
    """One file system in The Sleuth Kit's hands. Thread-safe; borrows the volume.

    FAT and exFAT show folders as mode 0755 and files as 0644, ISO 9660 as 0555 and 0444, read-only files without write bits.
    Links, devices and pipes of Rock Ridge are not decoded; a file that might be one has a reason.
    """

    def __init__(self, volume: Blocks, session: Session, kind: str) -> None:
        self.kind = kind
        self._volume = volume
        self._session = session
        self._traits = _TRAITS[kind]
        self._block_size = int(session.fs.info.block_size)
        self._root_number = int(session.fs.info.root_inum)
        self._hides_specials = kind == "iso9660" and has_rock_ridge(volume)
        self.folds_case = self._traits.folds_case
        self._folders = Folders(self._listing, self.node, fold=fold_case if self.folds_case else None)
        self.root = self.node(self._root_number)
        if self.root.kind is not FileKind.DIRECTORY:
            raise Corrupt("the root is no folder", found=self.root.kind)

    def node(self, inode: int) -> Node:
        return self._node(inode, self._meta(inode))

    def _meta(self, inode: int) -> Any:
        if not self._session.fs.info.first_inum <= inode <= self._session.fs.info.last_inum:
            raise NotFound(f"there is no inode {inode}")
        meta = self._session.file(inode).info.meta
        if meta is None or not int(meta.flags) & int(pytsk3.TSK_FS_META_FLAG_ALLOC):
            raise Corrupt(f"inode {inode} is not in use")
        return meta

    def _node(self, inode: int, meta: Any) -> Node:
        kind = _KINDS.get(meta.type)
        if kind is None:
            raise Corrupt(f"inode {inode} is of unknown type", found=int(meta.type))
        size = int(meta.size)
        if size < 0:
            raise Corrupt(f"inode {inode} has an impossible size", found=size)
        written = self._time(meta.mtime, meta.mtime_nano)
        born = self._time(meta.crtime, meta.crtime_nano)
        return Node(
            inode=inode,
            kind=kind,
            size=size if kind in (FileKind.FILE, FileKind.DIRECTORY, FileKind.SYMLINK) else 0,
            mode=self._mode(kind, int(meta.mode)),
            uid=int(meta.uid),
            gid=int(meta.gid),
            links=max(1, int(meta.nlink)),
            allocated=-(-size // self._block_size) * self._block_size,
            mtime_ns=written or born,
            atime_ns=self._time(meta.atime, meta.atime_nano) or written or born,
            ctime_ns=self._time(meta.ctime, meta.ctime_nano) or written or born,
            birthtime_ns=born or None,
            reason=REASON if self._hides_specials and kind is FileKind.FILE and size == 0 else None,
        )

    def _mode(self, kind: FileKind, mode: int) -> int:
        if self._traits.modes is None:
            return stat.S_IMODE(mode)
        folder, file = self._traits.modes
        if kind is FileKind.DIRECTORY:
            return folder
        # for FAT it leaves the read bits, not the write bits, out of the mode of what is read-only
        return file if mode & stat.S_IRUSR else file & ~0o222

    def _time(self, seconds: int, nanoseconds: int) -> int:
        if seconds and self._traits.is_local_time:
            seconds = calendar.timegm(time.localtime(seconds))
        return int(seconds) * 1_000_000_000 + int(nanoseconds)

    def lookup(self, directory: Node, name: str) -> Node:
        return self._folders.lookup(directory, name)

    def scan(self, directory: Node) -> Iterator[Entry]:
        return self._folders.scan(directory)

    def _listing(self, directory: Node) -> Iterator[Listed]:
        if directory.size > self._volume.size:  # The Sleuth Kit would go through all of it, block by block
            raise Corrupt("a folder larger than its volume", expected=f"at most {self._volume.size}", found=directory.size)
        entries = iter(self._session.call(self._session.fs.open_dir, inode=directory.inode))
        seen: set[bytes] = set()
        while True:
            try:
                entry = self._session.call(next, entries)
            except StopIteration:
                return
            listed = self._listed(entry.info.name, directory.inode, seen)
            if listed is not None:
                yield listed

    def _listed(self, entry: Any, directory: int, seen: set[bytes]) -> Listed | None:
        raw, inode = bytes(entry.name), int(entry.meta_addr)
        if raw in (b".", b"..") or entry.type in _VIRTUAL or not int(entry.flags) & int(pytsk3.TSK_FS_NAME_FLAG_ALLOC):
            return None
        if inode < self._traits.first_user:
            return None
        if directory == self._root_number and self._traits.label_in_root and (raw.endswith(_LABEL) or raw in _EXFAT_METADATA):
            return None
        if raw in seen:  # it writes ^ for what it cannot decode, so two names may have become one
            raw += b"~%d" % inode
        seen.add(raw)
        kind = FileKind.DIRECTORY if entry.type == pytsk3.TSK_FS_NAME_TYPE_DIR else FileKind.FILE
        return Listed(presentable(raw), inode, kind)

    def open(self, file: Node) -> Blocks:
        check_is_file(file)
        if file.reason == REASON:
            raise Unsupported(f"inode {file.inode} may be a link or device of Rock Ridge", reason=file.reason)
        size = int(self._meta(file.inode).size)
        handle = self._session.file(file.inode)
        if size == 0:
            return Memory(b"", self._volume.sector_size)
        for attribute in self._session.attributes(handle):
            if attribute.info.type in _DATA_TYPES:
                return self._content(handle, attribute, size)
        raise Corrupt(f"inode {file.inode} has a size and no data", expected=size)

    def _content(self, handle: Any, attribute: Any, size: int) -> Blocks:
        flags = int(attribute.info.flags)
        if flags & int(pytsk3.TSK_FS_ATTR_ENC):
            raise Unsupported("the file is encrypted", reason="encrypted")
        if flags & int(pytsk3.TSK_FS_ATTR_COMP) or not flags & int(pytsk3.TSK_FS_ATTR_NONRES):
            return TskBlocks(self._session, handle, attribute, size, self._volume.sector_size)
        runs = RunList()
        listed: list[Any] = self._session.call(list, attribute)
        for run in listed:
            self._add(runs, run)
        valid = valid_length(self._volume, int(handle.info.meta.addr), size) if self.kind == "exfat" else size
        return RunBlocks(self._volume, runs, size, valid)

    def _add(self, runs: RunList, run: Any) -> None:
        flags, length = int(run.flags), int(run.len) * self._block_size
        if int(run.offset) * self._block_size != runs.size or flags & int(pytsk3.TSK_FS_ATTR_RUN_FLAG_FILLER):
            raise Corrupt("a run of the file is missing", expected=runs.size, found=int(run.offset) * self._block_size)
        sparse = flags & int(pytsk3.TSK_FS_ATTR_RUN_FLAG_SPARSE)
        runs.add(length, None if sparse else int(run.addr) * self._block_size)

    def readlink(self, link: Node) -> str:
        check_is_link(link)
        target = self._meta(link.inode).link
        if not target:
            raise Corrupt(f"the target of the link {link.inode} cannot be read")
        return os.fsdecode(bytes(target) if isinstance(target, bytes) else str(target))

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        """None: those of HFS+ are not read."""
        return {}

    def capacity(self) -> Capacity:
        info = self._session.fs.info
        return Capacity(total=int(info.block_count) * self._block_size, block_size=self._block_size)

    def close(self) -> None:
        self._folders.clear()
        self._session.close()
