"""The messages of ``/dev/fuse``: numbers, layouts, and how replies are built. No I/O.

A request is ``HEADER`` and a body that depends on the opcode, a reply is ``REPLY`` and a body; all in the byte order and
alignment of the machine. Names are those of the C structures without ``fuse_``.

Source: include/uapi/linux/fuse.h (linux-libc-dev, protocol 7.38; STATX and resending from 7.40).
"""

from __future__ import annotations

import enum
import os
import struct
from typing import NamedTuple

from mntapi.errors import Unsupported
from mntapi.filesystems.kinds import MODE_BITS
from mntapi.types import Capacity, Node
from mntapi_fuse.operations import Attributes, DirEntry

MAJOR = 7
MINOR = 40
OLDEST_MINOR = 31
"""Linux 5.4. Older kernels lay out nothing differently, but nobody has tried them."""

PAGE = 4096
MAX_PAGES = 256
MAX_READ = MAX_PAGES * PAGE
"""Bytes of the largest read that is asked for: 1 MiB (``FUSE_MAX_MAX_PAGES``)."""
REQUEST_SIZE = 64 * 1024
"""Bytes of the buffer for requests. 8 KiB is the least the kernel takes; more lets it forget more nodes in one go."""
MAX_WRITE = MAX_READ
"""Bytes of the largest write to a tree that can be written; the buffer for requests has to be longer by that."""
NAME_MAX = 1024
"""``FUSE_NAME_MAX``: one longer name makes the kernel refuse the whole folder."""
TARGET_MAX = PAGE - 1
XATTR_MAX = 64 * 1024
FOR_EVER_S = (1 << 31) - 1
"""How long the kernel may keep names and attributes of a tree that never changes."""


class Opcode(enum.IntEnum):
    """``enum fuse_opcode``."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


class Feature(enum.IntFlag):
    """Flags of INIT; those above bit 31 travel in ``flags2``."""

    ASYNC_READ = 1 << 0
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DO_READDIRPLUS = 1 << 13
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    HAS_RESEND = 1 << 39


WANTED = Feature(sum(Feature))
"""All of the above. READDIRPLUS_AUTO is not among them: an entry is read together with its node, so telling both is free.
Nor is WRITEBACK_CACHE: what is written to one file would be seen late in another that shows the same bytes."""

OPEN_DIRECT_IO = 1 << 0
OPEN_KEEP_CACHE = 1 << 1
OPEN_CACHE_DIR = 1 << 3
OPEN_NOFLUSH = 1 << 5
NOTIFY_RESEND = 7
MAX_BACKGROUND = 64
CONGESTION = 48

HEADER = struct.Struct("=IIQQIIIHH")
"""``in_header``: len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding."""
REPLY = struct.Struct("=IiQ")
"""``out_header``: len, error, unique."""
INIT_IN = struct.Struct("=IIIII")
"""major, minor, max_readahead, flags, flags2 (the last only from 7.36 on; unused words follow)."""
INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages,
map_alignment, flags2."""
READ_IN = struct.Struct("=QQI20x")
"""fh, offset, size; for READ, READDIR and READDIRPLUS."""
OPEN_IN = struct.Struct("=I4x")
OPEN_OUT = struct.Struct("=QI4x")
RELEASE_IN = struct.Struct("=Q16x")
LSEEK_IN = struct.Struct("=QQI4x")
LSEEK_OUT = struct.Struct("=Q")
WRITE_IN = struct.Struct("=QQI20x")
"""fh, offset, size; the bytes follow."""
WRITE_OUT = struct.Struct("=I4x")
FALLOCATE_IN = struct.Struct("=QQQI4x")
"""fh, offset, length, mode."""
SETATTR_IN = struct.Struct("=I4xQQ64x")
"""valid, fh, size, and what is never changed here."""
GETXATTR_IN = struct.Struct("=I4x")
GETXATTR_OUT = struct.Struct("=I4x")
KSTATFS = struct.Struct("=QQQQQIII28x")
"""blocks, bfree, bavail, files, ffree, bsize, namelen, frsize."""
_ATTR = "QQQQQQIIIIIIIIII"
"""ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags."""
_ENTRY = "QQQQII"
"""nodeid, generation, entry_valid, attr_valid, and the nanoseconds of both."""
ATTR_OUT = struct.Struct("=QI4x" + _ATTR)
ENTRY_OUT = struct.Struct("=" + _ENTRY + _ATTR)
DIRENT = struct.Struct("=QQII")
"""ino, off, namelen, type; the name and zeros up to a multiple of 8 follow."""
DIRENTPLUS = struct.Struct("=" + _ENTRY + _ATTR + "QQII")
STATX_OUT = struct.Struct("=QI20x" + "IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIII112x")
"""attr_valid; mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks, attributes_mask; access, birth, change and
modification time; rdev major and minor, dev major and minor. Linux 6.6, ``struct fuse_statx_out``."""

SETATTR_SIZE = 1 << 3
SETATTR_OWNER = 1 << 0 | 1 << 1 | 1 << 2
"""Mode, user and group."""
FALLOCATE_KEEP_SIZE = 1
FALLOCATE_PUNCH_HOLE = 2
FALLOCATE_ZERO_RANGE = 16

_STATX_BASIC = 0x7FF
_STATX_BTIME = 0x800
_U32 = (1 << 32) - 1
_U64 = (1 << 64) - 1
_SIZE_MAX = (1 << 63) - 1
_NS = 1_000_000_000
_NO_ENTRY = (0, 0, 0, 0, 0, 0)


class Init(NamedTuple):
    """What a kernel offers when a connection begins."""

    major: int
    minor: int
    max_readahead: int
    features: Feature


def parse_init(body: bytes | memoryview) -> Init:
    """The body of INIT; the fields that a kernel before 7.36 does not send are zero."""
    major, minor, max_readahead, flags, flags2 = INIT_IN.unpack(bytes(body[: INIT_IN.size]).ljust(INIT_IN.size, b"\0"))
    return Init(major, minor, max_readahead, Feature(flags | flags2 << 32))


def pack_init(init: Init, reply: memoryview, *, max_write: int = PAGE) -> int:
    """Agree to what we want and the kernel offers. ``max_write``: bytes of the largest write.

    Raises:
        Unsupported: the kernel's protocol is older than 7.31, or not version 7.
    """
    if init.major != MAJOR or init.minor < OLDEST_MINOR:
        raise Unsupported(
            "the kernel's FUSE protocol is not one that is spoken here",
            expected=f"{MAJOR}.{OLDEST_MINOR} or later",
            found=f"{init.major}.{init.minor}",
            hint="Linux 5.4 or later is needed",
        )
    agreed = int(init.features & WANTED)
    low, high = agreed & _U32, agreed >> 32
    background = (MAX_BACKGROUND, CONGESTION)
    INIT_OUT.pack_into(reply, 0, MAJOR, MINOR, init.max_readahead, low, *background, max_write, 1, MAX_PAGES, 0, high)
    return INIT_OUT.size


def mode_of(node: Node) -> int:
    """``st_mode``: type and permission bits."""
    return MODE_BITS[node.kind] | node.mode & 0o7777


def _attr(node: Node) -> tuple[int, ...]:
    """The fields of ``fuse_attr``. What a damaged image says is cut to what fits: an attribute that the kernel
    refuses would take the whole folder with it."""
    inode, kind, size, mode, uid, gid, links, allocated, mtime_ns, atime_ns, ctime_ns, _birthtime_ns, rdev, _reason = node
    atime, atime_ns = divmod(atime_ns, _NS)
    mtime, mtime_ns = divmod(mtime_ns, _NS)
    ctime, ctime_ns = divmod(ctime_ns, _NS)
    sectors = (allocated + 511) >> 9
    return (
        inode & _U64,
        size if size < _SIZE_MAX else _SIZE_MAX,
        sectors if sectors < _SIZE_MAX else _SIZE_MAX,
        atime & _U64,
        mtime & _U64,
        ctime & _U64,
        atime_ns,
        mtime_ns,
        ctime_ns,
        MODE_BITS[kind] | mode & 0o7777,
        links if links < _U32 else _U32,
        uid & _U32,
        gid & _U32,
        _encode_device(rdev) if rdev else 0,
        PAGE,
        0,
    )


def _valid_s(attributes: Attributes) -> int:
    """How long the kernel may keep them."""
    return FOR_EVER_S if attributes.is_lasting else 0


def _sectors(node: Node) -> int:
    return (node.allocated + 511) >> 9


def _encode_device(rdev: int) -> int:
    """The kernel's 32-bit form: 12 bits of major, 20 of minor (``new_encode_dev``, linux/kdev_t.h)."""
    major, minor = os.major(rdev & _U64), os.minor(rdev & _U64)
    return (minor & 0xFF | (major & 0xFFF) << 8 | (minor & 0xFFF00) << 12) & _U32


def pack_attributes(attributes: Attributes, reply: memoryview) -> int:
    """The answer to GETATTR."""
    ATTR_OUT.pack_into(reply, 0, _valid_s(attributes), 0, *_attr(attributes.node))
    return ATTR_OUT.size


def pack_entry(attributes: Attributes, reply: memoryview) -> int:
    """The answer to LOOKUP."""
    ENTRY_OUT.pack_into(reply, 0, attributes.number, 0, FOR_EVER_S, _valid_s(attributes), 0, 0, *_attr(attributes.node))
    return ENTRY_OUT.size


def pack_no_entry(reply: memoryview) -> int:
    """The answer to LOOKUP of a name that is not there: node 0, which the kernel remembers as it does a node."""
    ENTRY_OUT.pack_into(reply, 0, 0, 0, FOR_EVER_S, FOR_EVER_S, 0, 0, *[0] * 16)
    return ENTRY_OUT.size


def pack_statx(attributes: Attributes, reply: memoryview) -> int:
    """The answer to STATX, which is asked for the time of birth."""
    node = attributes.node
    birth = node.birthtime_ns
    mask = _STATX_BASIC | (_STATX_BTIME if birth is not None else 0)
    owner = (min(node.links, _U32), node.uid & _U32, node.gid & _U32, mode_of(node))
    sizes = (node.inode & _U64, min(node.size, _SIZE_MAX), min(_sectors(node), _SIZE_MAX))
    times = (*divmod(node.atime_ns, _NS), *divmod(birth or 0, _NS), *divmod(node.ctime_ns, _NS), *divmod(node.mtime_ns, _NS))
    device = (os.major(node.rdev & _U64), os.minor(node.rdev & _U64))
    STATX_OUT.pack_into(reply, 0, _valid_s(attributes), 0, mask, PAGE, 0, *owner, *sizes, 0, *times, *device, 0, 0)
    return STATX_OUT.size


def pack_capacity(capacity: Capacity, reply: memoryview) -> int:
    """The answer to STATFS."""
    unit = max(1, min(capacity.block_size, _U32))
    total, free = min(capacity.total // unit, _U64), min((capacity.free or 0) // unit, _U64)
    inodes, inodes_free = min(capacity.inodes, _U64), min(capacity.inodes_free, _U64)
    KSTATFS.pack_into(reply, 0, total, free, free, inodes, inodes_free, unit, min(capacity.name_max, _U32), unit)
    return KSTATFS.size


def pack_dirent(entry: DirEntry, position: int, reply: memoryview, at: int, limit: int) -> int:
    """Put an entry of READDIR at ``at`` (bytes); returns where it ends, or ``at`` where it does not fit below ``limit``.

    ``position`` is what the kernel asks with for the entry after this one.
    """
    name = entry.name
    end = at + DIRENT.size + (len(name) + 7 & ~7)
    if end > limit:
        return at
    node = entry.attributes.node
    DIRENT.pack_into(reply, at, node.inode & _U64, position, len(name), MODE_BITS[node.kind] >> 12)
    _put_name(name, reply, at + DIRENT.size, end)
    return end


def pack_direntplus(entry: DirEntry, position: int, reply: memoryview, at: int, limit: int) -> int:
    """Like ``pack_dirent`` for READDIRPLUS: the entry and all that LOOKUP would say of it. Node 0 says the name only."""
    name, attributes = entry
    length = len(name)
    end = at + DIRENTPLUS.size + (length + 7 & ~7)
    if end > limit:
        return at
    number, node, _is_lasting = attributes
    attr = _attr(node)
    head = (number, 0, FOR_EVER_S, _valid_s(attributes), 0, 0) if number else _NO_ENTRY
    DIRENTPLUS.pack_into(reply, at, *head, *attr, attr[0], position, length, attr[9] >> 12)
    _put_name(name, reply, at + DIRENTPLUS.size, end)
    return end


def _put_name(name: bytes, reply: memoryview, at: int, end: int) -> None:
    reply[at:end] = name.ljust(end - at, b"\0")
