"""The nouns every layer shares. No I/O, no logic beyond what a value can say about itself.

Start with ``Blocks``: a file, a VMDK chain, a partition and the contents of a file inside NTFS are all one of these.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from mntapi.keys import Keys


class ExtentKind(enum.Enum):
    """What a range of bytes holds: stored bytes, or nothing but zeros that were never stored."""

    DATA = "data"
    ZERO = "zero"


class Extent(NamedTuple):
    """A range of bytes of one kind. ``offset`` and ``length`` are bytes, ``length`` is at least 1."""

    offset: int
    length: int
    kind: ExtentKind

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.length


class Blocks(Protocol):
    """Bytes at an offset: the one noun that carries the product.

    Thread-safe; never a short read; no cursor, ever. ``mntapi.blocks.read`` is ``readinto`` for those who want ``bytes``.
    """

    @property
    def size(self) -> int:
        """Length in bytes, fixed for the life of the object."""

    @property
    def sector_size(self) -> int:
        """Bytes in a logical sector of the medium, 512 or 4096; reads need not be aligned to it."""

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill all of ``buffer`` (writable, contiguous, format ``B``) with the bytes at ``offset``, or raise.

        Raises:
            Invalid: the range is not inside ``0 .. size``.
            MntapiError: the bytes cannot be had; the content of ``buffer`` is then undefined.
        """

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """The range cut into DATA and ZERO extents: ascending, gapless, clipped to the range. ZERO reads as zeros for sure."""

    def close(self) -> None:
        """Release what it owns; further reads raise. Closing twice is fine."""


@runtime_checkable
class WritableBlocks(Blocks, Protocol):
    """``Blocks`` that can be written: an overlay, or a part of one. Never an original."""

    def write(self, offset: int, content: memoryview) -> None:
        """Write all of ``content`` (format ``B``) at ``offset``; reads see it at once, the medium after ``flush``.

        Raises:
            Invalid: the range is not inside ``0 .. size``.
            MntapiError: it cannot be written; its errno is the system's (ENOSPC). Some of it may have been.
        """

    def discard(self, offset: int, length: int) -> None:
        """The range is not needed any more. Whole blocks in it, of whatever size it keeps, read as zeros from now on; the
        rest keeps its bytes. Raises as ``write``."""

    def flush(self) -> None:
        """Return when all that was written before is on the medium. Raises as ``write``."""


class FileBlocks(Blocks, Protocol):
    """``Blocks`` that are a file of the host, and know which."""

    @property
    def path(self) -> str:
        """The file's path, for messages and for finding its neighbours."""


class Opener(Protocol):
    """How a format asks for the files it names. The implementation holds the policy; formats never open paths themselves."""

    def open(self, name: str, *, relative_to: str | None = None) -> FileBlocks:
        """Open ``name`` read-only.

        Args:
            name: a path; what a descriptor says is taken relative to the folder of ``relative_to``.
            relative_to: the file that names it, or None when the user did. A file that another file names must lie in or
                below that file's folder unless the user allowed otherwise.

        Raises:
            NotFound: there is no such file.
            Denied: the policy or the system forbids it.
        """


@dataclass(frozen=True, slots=True)
class Link:
    """One file of a chain: the child first, its base last. ``cid`` and ``parent_cid`` where the format has such."""

    file: str
    format: str
    cid: str | None = None
    parent_cid: str | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """An open virtual disk: the bytes a guest saw, and where they come from."""

    path: str
    format: str
    blocks: Blocks
    chain: tuple[Link, ...]
    details: Mapping[str, str] = field(default_factory=dict)
    """What else the format says of the disk, for people: geometry, UUIDs, hashes, that a log was replayed."""


class VolumeState(enum.StrEnum):
    """How much of a volume can be trusted and reached."""

    OK = "ok"
    DIRTY = "dirty"
    """Readable, but its journal was not empty: the newest changes are not shown."""
    DEGRADED = "degraded"
    """Every byte is readable, by redundancy that the volume has lost a part of: a member is missing or out of date."""
    DAMAGED = "damaged"
    INCOMPLETE = "incomplete"
    """A part cannot be read, or only as it once was: a member is missing that nothing replaces, a copy is out of date, or the
    volume goes past the end of its disk."""
    ENCRYPTED = "encrypted"
    UNSUPPORTED = "unsupported"
    """Recognised, and no reader for it in this version; the raw bytes can still be presented."""
    UNKNOWN = "unknown"
    """No signature that we know."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A range of bytes that a scheme found: a partition, a logical volume, or a whole disk without a table.

    ``id`` is stable over runs and over the order in which disks are given: scheme plus UUID or offset, never a list index.
    ``name`` is short and depends on the order: ``disk0p1``. ``offset`` is in bytes on ``disk`` (an index into the set's
    disks), None where the volume is not one range of one disk.
    """

    id: str
    name: str
    kind: str
    blocks: Blocks
    disk: int | None = None
    offset: int | None = None
    state: VolumeState = VolumeState.OK
    reason: str | None = None
    type_code: str | None = None
    """The table's own word for what is inside: an MBR type byte such as ``0x07``, or a GPT type GUID."""
    table_label: str | None = None
    """The table's own name for it (GPT partition name)."""
    members: tuple[str, ...] = ()
    """Ids of the volumes it is made of; those are not listed themselves."""
    details: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What else the scheme says of it, for people: volume group, RAID level, cipher, which kinds of key open it."""

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.blocks.size


class Scheme(Protocol):
    """A partition table, volume manager or encryption: volumes in, volumes out. One file each, none knows another."""

    @property
    def name(self) -> str:
        """``mbr``, ``gpt``, ``lvm`` ..."""

    def claims(self, volume: Volume) -> bool:
        """Whether this volume is a container or member of this scheme. An I/O error is raised, not answered with no."""

    def volumes(self, claimed: Sequence[Volume]) -> Iterator[Volume]:
        """The volumes inside all that was claimed so far, each once; what cannot be used is yielded with state and reason.

        A function of ``claimed`` alone: it is called again with more when members arrive at another depth, and a volume that
        still misses some is INCOMPLETE meanwhile.
        """


class KeyedScheme(Protocol):
    """An encryption: a module with this function instead of those of ``Scheme``."""

    def with_keys(self, keys: Keys) -> Scheme:
        """The scheme that tries these keys. One scan has one; it may remember what it unlocked, by the volume's id."""


class Usage(enum.StrEnum):
    """What kind of thing a signature marks."""

    FILESYSTEM = "filesystem"
    RAID = "raid"
    CRYPTO = "crypto"
    SWAP = "swap"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Signature:
    """What a probe found at the start of a volume, in libblkid's words (``TYPE``, ``LABEL``, ``UUID``)."""

    kind: str
    usage: Usage
    label: str | None = None
    uuid: str | None = None
    dirty: str | None = None
    """Why the newest changes may not be visible, or None: ``journal not replayed``, ``hibernated`` ..."""


class FileKind(enum.StrEnum):
    """What a name in a directory stands for."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    CHAR_DEVICE = "char-device"
    BLOCK_DEVICE = "block-device"


class Node(NamedTuple):
    """A file, folder, link or device of a file system; what ``stat`` says of it.

    A tuple because a walk makes two or three for each file, which costs a fifth of what as many dataclasses do.

    ``inode`` is the file system's own number and opens it again. Times are nanoseconds since 1970 UTC. ``mode`` holds the
    permission bits only (0o7777). ``allocated`` is bytes on disk. ``reason`` says, as a slug, why its contents cannot be
    read (then ``open`` raises), or None.
    """

    inode: int
    kind: FileKind
    size: int
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    links: int = 1
    allocated: int = 0
    mtime_ns: int = 0
    atime_ns: int = 0
    ctime_ns: int = 0
    birthtime_ns: int | None = None
    rdev: int = 0
    """Device number as ``os.makedev`` builds it; 0 for all but devices."""
    reason: str | None = None


class Entry(NamedTuple):
    """A name in a folder. Bytes that are not UTF-8 are surrogate-escaped, as ``os.fsdecode`` does."""

    name: str
    node: Node


@dataclass(frozen=True, slots=True)
class Capacity:
    """What ``statfs`` says: sizes in bytes, counts of inodes; where the file system does not tell, 0, or None for ``free``."""

    total: int
    free: int | None = None
    block_size: int = 4096
    inodes: int = 0
    inodes_free: int = 0
    name_max: int = 255


class FileSystem(Protocol):
    """Reads one file system. Thread-safe. Nothing of it follows links, and ``.``/``..`` are never among the names."""

    @property
    def kind(self) -> str:
        """``ext4``, ``ntfs`` ..."""

    @property
    def root(self) -> Node:
        """The top folder."""

    def node(self, inode: int) -> Node:
        """The node with this number. Raises NotFound or Corrupt."""

    def lookup(self, directory: Node, name: str) -> Node:
        """The entry of that name. Raises NotFound, NotADirectory, or what reading the folder raises."""

    def scan(self, directory: Node) -> Iterator[Entry]:
        """All allocated entries, in the order on disk, each name once."""

    def open(self, file: Node) -> Blocks:
        """The file's contents. Raises Unsupported with a reason where they cannot be decoded."""

    def readlink(self, link: Node) -> str:
        """The target as stored in the guest; nothing is resolved."""

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        """Extended attributes, with the kernel's prefixes (``user.``, ``security.`` ...)."""

    def capacity(self) -> Capacity:
        """Size and free space."""

    def close(self) -> None:
        """Release what it owns, not the blocks it was given."""


@runtime_checkable
class Replaying(Protocol):
    """A ``FileSystem`` whose journal was replayed in memory, if it was not empty."""

    @property
    def unreplayed(self) -> str | None:
        """Why the newest changes may be missing all the same; None if they are not."""


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """What a user named: a path (later also a URL), and how to treat it."""

    path: str
    format: str | None = None
    """Force this format instead of detecting it (``raw``, ``vmdk``)."""
    sector_size: int | None = None
    """Override the logical sector size in bytes (a raw file does not tell it)."""
    snapshot: str | None = None
    """The state to show instead of the current one: a snapshot's name or number, where format or machine file has them."""


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """How a chain may be opened."""

    allow_outside: bool = False
    """Follow names in a descriptor that lead out of its folder."""
    ignore_cid: bool = False
    """Accept a parent whose content ID is not the one the child was made from."""
    parent: str | None = None
    """The file to take for the parent of the first link, wherever that link says it is."""
    passphrases: tuple[str, ...] = field(default=(), repr=False)
    """Tried one after the other on encrypted images; bytes that are no UTF-8 surrogate-escaped."""
    keys: Keys = field(default_factory=Keys, repr=False)
    """Keys to encrypted volumes."""
