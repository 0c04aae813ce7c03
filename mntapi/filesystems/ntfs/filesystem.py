"""NTFS as a ``FileSystem``."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from mntapi.blocks import read
from mntapi.errors import Corrupt, Invalid, IsADirectory, MntapiError, ReadFailed, Unsupported
from mntapi.filesystems.names import Folders, Listed, presentable
from mntapi.filesystems.ntfs import attribute, index, reparse
from mntapi.filesystems.ntfs.attribute import Stream
from mntapi.filesystems.ntfs.boot import BOOT_SIZE, Boot, parse_boot
from mntapi.filesystems.ntfs.lznt1 import Lznt1
from mntapi.filesystems.ntfs.mft import NUMBER, File, Mft
from mntapi.filesystems.ntfs.record import apply_fixups
from mntapi.types import Blocks, Capacity, Entry, FileKind, Node, Signature

ROOT = 5
CLUSTER_BITMAP = 6
FIRST_USER = 16
"""Records below are metadata files, which ntfs-3g hides too."""
EXTEND = 11
"""The folder with the indexes that NTFS 3.0 added."""
INDEX = "$I30"
REPARSE_INDEX = "$R"
MAX_POINTS = 250_000
"""Reparse points looked at, in half a second: files that Windows compressed or deduplicated are such, too."""
MAX_DEPTH = 256
"""Folders above one another that a path is made of."""
MAX_XATTR = 1 << 16
"""Bytes of an alternate stream shown as an extended attribute (the kernel's ``XATTR_SIZE_MAX``)."""
MAX_BITMAP = 1 << 24
"""Bytes of a folder's bitmap: 512 GiB of index blocks of 4 KiB."""
MAX_CLUSTER_BITMAP = 1 << 26
"""Bytes of the volume's bitmap that are counted: 2 TiB of clusters of 4 KiB take a quarter of a second."""
MAX_REPARSE = 1 << 14
"""Bytes of a reparse point, Windows's own limit."""
MAX_BAD_BLOCKS = 1024
"""Index blocks of one folder that may be damaged before the rest is given up."""
EFS = "efs"
_UNIX_EPOCH = 116_444_736_000_000_000
"""1970 in the units of 100 ns since 1601 that NTFS counts."""
_STANDARD = struct.Struct("<4QI")
_READ_ONLY, _SYSTEM, _ENCRYPTED = 0x1, 0x4, 0x4000

T = TypeVar("T")


def open_filesystem(blocks: Blocks, signature: Signature) -> NtfsFileSystem:
    """Read the boot sector, the first record of ``$MFT`` and the root folder of the volume ``blocks``.

    Raises:
        Corrupt, ReadFailed: with the byte on the volume.
    """
    if blocks.size < BOOT_SIZE:
        raise Corrupt("too small for an NTFS boot sector", expected=f"{BOOT_SIZE} bytes", found=blocks.size)
    return NtfsFileSystem(blocks, parse_boot(read(blocks, 0, BOOT_SIZE)), signature.kind)


class NtfsFileSystem:
    """One NTFS volume. Thread-safe; borrows the blocks.

    Names are matched exactly, and where that fails without regard to case if only one name fits. Folders show as mode 0755,
    files as 0644, without the write bits where they are read-only; the owner is root.
    """

    folds_case = True
    """``lookup`` finds names whatever their case."""

    def __init__(self, volume: Blocks, boot: Boot, kind: str) -> None:
        self.kind = kind
        self._volume = volume
        self._boot = boot
        self._mft = Mft(volume, boot)
        self._folders = Folders(self._listing, self.node, fold=index.fold_case)
        self.root = self.node(ROOT)
        if self.root.kind is not FileKind.DIRECTORY:
            raise Corrupt("the root record is no folder", found=self.root.kind)

    def node(self, inode: int) -> Node:
        file = self._mft.file(inode)
        is_directory = bool(file.pieces(attribute.INDEX_ROOT, INDEX))
        stream = self._main_stream(file, is_directory)
        born, written, changed, read_at, flags = self._standard(file)
        encrypted = not is_directory and (flags & _ENCRYPTED or (stream is not None and stream.flags & attribute.ENCRYPTED))
        meaning = reparse.Meaning(reason=EFS) if encrypted else self._meaning(file, flags, stream)
        kind = meaning.kind or (FileKind.DIRECTORY if is_directory else FileKind.FILE)
        return Node(
            inode=file.number,
            kind=kind,
            size=_shown_size(kind, meaning, stream),
            mode=_mode(kind, flags),
            links=1 if is_directory else max(1, sum(index.is_link(item.value) for item in file.pieces(attribute.FILE_NAME))),
            allocated=stream.allocated if stream else 0,
            birthtime_ns=_unix_ns(born),
            mtime_ns=_unix_ns(written),
            ctime_ns=_unix_ns(changed),
            atime_ns=_unix_ns(read_at),
            rdev=meaning.rdev,
            reason=None if kind is FileKind.DIRECTORY else meaning.reason,
        )

    def lookup(self, directory: Node, name: str) -> Node:
        return self._folders.lookup(directory, name)

    def scan(self, directory: Node) -> Iterator[Entry]:
        return self._folders.scan(directory)

    def open(self, file: Node) -> Blocks:
        if file.kind is FileKind.DIRECTORY:
            raise IsADirectory(f"record {file.inode} is a folder")
        current = self.node(file.inode)
        if current.reason is not None:
            raise Unsupported(f"the contents of record {file.inode} cannot be decoded", reason=current.reason)
        if current.kind is not FileKind.FILE:
            raise Invalid(f"record {file.inode} is a {current.kind}, which has no contents")
        stream = self._mft.stream(self._mft.file(file.inode), attribute.DATA)
        return self._content(stream or attribute.EMPTY)

    def readlink(self, link: Node) -> str:
        file = self._mft.file(link.inode)
        is_directory = bool(file.pieces(attribute.INDEX_ROOT, INDEX))
        target = self._meaning(file, self._standard(file)[4], self._main_stream(file, is_directory)).target
        if target is None:
            raise Invalid(f"record {link.inode} is no symbolic link")
        return target

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        """Alternate streams of up to ``MAX_XATTR`` bytes, as ntfs-3g's ``streams_interface=xattr`` shows them."""
        file = self._mft.file(node.inode)
        names = dict.fromkeys(item.name for item in file.attributes if item.type == attribute.DATA and item.name)
        found: dict[str, bytes] = {}
        for name in names:
            stream = self._mft.stream(file, attribute.DATA, name)
            if stream is not None and stream.size <= MAX_XATTR and not stream.flags & attribute.ENCRYPTED:
                label = os.fsdecode(index.utf8(name.encode("utf-16-le", "surrogatepass")))
                found["user." + label] = read(self._content(stream), 0, stream.size)
        return found

    def capacity(self) -> Capacity:
        return Capacity(
            total=self._boot.volume_size,
            free=self._free(),
            block_size=self._boot.cluster_size,
            inodes=self._mft.count,
        )

    def _free(self) -> int | None:
        """Bytes of the clusters that ``$Bitmap`` does not mark as used; None if it cannot be read, or is large.

        Source: the NTFS documentation of the Linux-NTFS project, ``$Bitmap``: one bit a cluster, the lowest bit first.
        """
        clusters = self._boot.volume_size // self._boot.cluster_size
        length = -(-clusters // 8)
        try:
            stream = self._mft.stream(self._mft.file(CLUSTER_BITMAP), attribute.DATA)
            if stream is None or not length <= stream.size <= MAX_CLUSTER_BITMAP:
                return None
            bits = int.from_bytes(read(self._content(stream), 0, length), "little")
        except MntapiError:
            return None
        return (clusters - (bits & (1 << clusters) - 1).bit_count()) * self._boot.cluster_size

    def close(self) -> None:
        self._folders.clear()
        self._mft.close()

    def _main_stream(self, file: File, is_directory: bool) -> Stream | None:
        if is_directory:
            return self._mft.stream(file, attribute.INDEX_ALLOCATION, INDEX)
        return self._mft.stream(file, attribute.DATA)

    def _content(self, stream: Stream) -> Blocks:
        if stream.flags & attribute.ENCRYPTED:
            raise Unsupported("the stream is encrypted", reason=EFS)
        if stream.is_compressed:
            return Lznt1(self._volume, stream, self._boot.cluster_size)
        return self._mft.content(stream)

    def _small(self, file: File, kind: int, limit: int, name: str = "") -> bytes | None:
        """The whole of a stream that must not be larger than ``limit`` bytes; None where there is none."""
        stream = self._mft.stream(file, kind, name)
        if stream is None:
            return None
        if stream.value is not None and stream.size <= limit and not stream.flags & attribute.ENCRYPTED:
            return stream.value
        if stream.size > limit:
            raise Corrupt(
                f"attribute {kind:#x} of record {file.number} is too long", expected=f"at most {limit}", found=stream.size
            )
        return read(self._content(stream), 0, stream.size)

    def _standard(self, file: File) -> tuple[int, int, int, int, int]:
        raw = self._small(file, attribute.STANDARD_INFORMATION, 1 << 10)
        if raw is None or len(raw) < _STANDARD.size:
            raise Corrupt(f"record {file.number} has no times", found=raw)
        born, written, changed, read_at, flags = _STANDARD.unpack_from(raw)
        return born, written, changed, read_at, flags

    def _meaning(self, file: File, flags: int, stream: Stream | None) -> reparse.Meaning:
        point = self._small(file, attribute.REPARSE_POINT, MAX_REPARSE)
        if point is not None:
            extended = self._small(file, attribute.EXTENDED_ATTRIBUTES, MAX_XATTR)
            return reparse.parse_reparse(point, extended or b"")
        if flags & _SYSTEM and stream is not None and 8 < stream.size <= reparse.MAX_INTERIX and stream.name != INDEX:
            return reparse.parse_interix(read(self._content(stream), 0, stream.size))
        return reparse.Meaning()

    def _listing(self, directory: Node) -> Iterator[Listed]:
        return self._index(self._mft.file(directory.inode), INDEX, _listed)

    def _index(self, file: File, name: str, parse: Callable[[bytes, int, int], Iterator[T]]) -> Iterator[T]:
        """What ``parse`` makes of the root and the used blocks of an index; the first damaged block's error comes last."""
        root = self._small(file, attribute.INDEX_ROOT, 1 << 16, name) or b""
        size = index.block_size(root)
        stream = self._mft.stream(file, attribute.INDEX_ALLOCATION, name)
        yield from parse(root, index.ROOT_HEADER, 0)
        if stream is None:
            return
        if stream.size > self._volume.size:
            raise Corrupt("a folder larger than its volume", expected=f"at most {self._volume.size}", found=stream.size)
        bitmap = self._small(file, attribute.BITMAP, MAX_BITMAP, name) or b""
        errors: list[MntapiError] = []
        content = self._content(stream)
        for number in index.used_blocks(bitmap, stream.size // size):
            try:
                raw = apply_fixups(read(content, number * size, size), b"INDX", number * size)
                yield from parse(raw, index.BLOCK_HEADER, number * size)
            except (Corrupt, ReadFailed) as error:
                errors.append(error)
                if len(errors) == MAX_BAD_BLOCKS:
                    break
        if errors:
            raise errors[0]

    def mount_points(self) -> Iterator[tuple[str, Node]]:
        """Folders that stand for others, junctions and mounted volumes, each with its path from the root, by the volume's own
        index of them. Source: Linux-NTFS project documentation, "$Reparse".

        Raises:
            NotFound: there is no such index (NTFS before 3.0).
            Unsupported: it has more than ``MAX_POINTS`` entries.
            MntapiError: it is damaged, or names what is no folder any more.
        """
        points = self._mft.file(self.lookup(self.node(EXTEND), "$Reparse").inode)
        known: dict[int, tuple[int, str]] = {}
        for count, entry in enumerate(self._index(points, REPARSE_INDEX, index.parse_reparse_entries)):
            if count == MAX_POINTS:
                raise Unsupported("too many reparse points", expected=f"at most {MAX_POINTS}", reason="too-large")
            if entry.tag == reparse.MOUNT_POINT:
                yield self._path(entry.reference, known), self.node(entry.reference)

    def _path(self, reference: int, known: dict[int, tuple[int, str]]) -> str:
        """The path of a file by its first name. ``known``: the folder and the name of those that were met, added to."""
        names: list[str] = []
        while reference & NUMBER != ROOT:
            if reference not in known:
                file = self._mft.file(reference)
                links = [item.value for item in file.pieces(attribute.FILE_NAME) if index.is_link(item.value)]
                if not links:
                    raise Corrupt(f"record {file.number} is in no folder")
                parent, name = index.parse_name(links[0])
                known[reference] = parent, presentable(name)
            reference, shown = known[reference]
            names.append(shown)
            if len(names) == MAX_DEPTH:
                raise Corrupt(f"record {reference & NUMBER} is too deep", expected=f"at most {MAX_DEPTH} folders")
        return "/".join(reversed(names))


def _listed(raw: bytes, header: int, at: int) -> Iterator[Listed]:
    return _shown(index.parse_entries(raw, header, at))


def _shown(entries: Iterator[index.IndexEntry]) -> Iterator[Listed]:
    for entry in entries:
        if entry.namespace != index.DOS_NAMESPACE and entry.reference & NUMBER >= FIRST_USER:
            kind = FileKind.DIRECTORY if entry.is_directory else FileKind.FILE
            yield Listed(presentable(entry.name), entry.reference, kind)


def _shown_size(kind: FileKind, meaning: reparse.Meaning, stream: Stream | None) -> int:
    if kind is FileKind.SYMLINK:
        return len(os.fsencode(meaning.target or ""))
    if kind in (FileKind.FILE, FileKind.DIRECTORY) and stream is not None:
        return stream.size
    return 0


def _mode(kind: FileKind, flags: int) -> int:
    if kind is FileKind.DIRECTORY:
        return 0o755  # "read-only" on a folder means that it has a desktop.ini
    if kind is FileKind.SYMLINK:
        return 0o777
    return 0o444 if flags & _READ_ONLY else 0o644


def _unix_ns(filetime: int) -> int:
    return (filetime - _UNIX_EPOCH) * 100
