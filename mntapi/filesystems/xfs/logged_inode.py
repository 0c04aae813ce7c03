"""An inode as the log has it, made one of the volume: numbers turned to big-endian, the root of a tree of extents made short.

Source: Linux fs/xfs/libxfs/xfs_log_format.h ``struct xfs_log_dinode``; fs/xfs/xfs_inode_item_recover.c
``xfs_log_dinode_to_disk``, ``xlog_recover_inode_commit_pass2``; fs/xfs/libxfs/xfs_bmap_btree.c ``xfs_bmbt_to_bmdr``.
"""

from __future__ import annotations

import struct
from functools import cache

from mntapi.errors import Corrupt
from mntapi.filesystems.xfs.inode import MAGIC
from mntapi.filesystems.xfs.items import InodeFlag, LoggedInode
from mntapi.filesystems.xfs.transactions import Region

_OLD_SIZE, _NEW_SIZE = 96, 176
"""What is logged of a core."""
_FORKS_AT = {1: 100, 2: 100, 3: 176}
"""Where the forks of an inode begin, by its version."""
_NEW_AT = 104
"""What version 3 adds; before it are the list of removed inodes and the checksum, which are not logged."""
_LSN_AT = 112
_MODE_AT, _VERSION_AT, _FLUSHED_AT, _FORK_AT, _FLAGS_AT = 2, 4, 30, 82, 120
_BIGTIME, _NREXT64 = 0x8, 0x10
_DEVICE, _TREE, _ATTRIBUTE_TREE = (int(flag) for flag in (InodeFlag.DEVICE, InodeFlag.TREE, InodeFlag.ATTRIBUTE_TREE))
_MAX_FLUSHED = 0xFFFF
_LSN = struct.Struct(">Q")
_TREE_HEADS = {1: 24, 2: 24, 3: 72}
"""Bytes before the first key in a root of a tree in memory, by the inode's version."""
_ROOT_AT, _ROOT = 4, struct.Struct(">2H")
_PAIR = 16
"""Bytes of a key and its pointer."""


@cache
def _layouts(version: int, flags: int) -> tuple[struct.Struct, struct.Struct, struct.Struct, struct.Struct]:
    """The numbers of a core and those that version 3 adds, as they are in the log, and as they are on the volume."""
    time = "Q" if flags & _BIGTIME else "2I"
    counted = "Q" if flags & _NREXT64 else "8s" if version == 3 else "6sH"
    old, new = f"2H2BH3I2H{counted}{3 * time}2Q2IH2BI2HI", f"3QI12s{time}Q16s"
    return struct.Struct("<" + old), struct.Struct("<" + new), struct.Struct(">" + old), struct.Struct(">" + new)


def is_newer(there: bytes, logged: LoggedInode, lsn: int) -> bool:
    """Whether the inode ``there``, on the volume, has what the transaction ``lsn`` changes already."""
    if there[_VERSION_AT] >= 3:
        stamp = int(_LSN.unpack_from(there, _LSN_AT)[0])
        return stamp != (1 << 64) - 1 and stamp > lsn
    written = int.from_bytes(there[_FLUSHED_AT : _FLUSHED_AT + 2], "big")
    ours = int.from_bytes(logged.core[_FLUSHED_AT : _FLUSHED_AT + 2], "little")
    return ours < written and not (written == _MAX_FLUSHED and ours < _MAX_FLUSHED >> 1)


def replayed(there: bytes, logged: LoggedInode, lsn: int) -> bytes:
    """The inode ``there`` after the transaction ``lsn``. Its checksum is left to be made.

    Raises:
        Corrupt: there is no inode, or what is logged is none.
    """
    if there[:2] != MAGIC:
        raise Corrupt("no inode where the log has one", offset=logged.at, found=there[:2].hex())
    inode = bytearray(there)
    version = _put_core(inode, logged, lsn)
    start, split = _FORKS_AT[version], len(inode)
    if inode[_FORK_AT]:
        split = start + 8 * inode[_FORK_AT]
    if split > len(inode):
        raise _impossible(logged, "its attributes lie outside it")
    if logged.flags & _DEVICE:
        inode[start : start + 4] = logged.device[::-1]
    if logged.contents is not None:
        inode[start:split] = _fork(logged, logged.contents, inode[start:split], logged.flags & _TREE)
    if logged.attributes is not None:
        inode[split:] = _fork(logged, logged.attributes, inode[split:], logged.flags & _ATTRIBUTE_TREE)
    return bytes(inode)


def _fork(logged: LoggedInode, content: Region, there: bytearray, is_tree: int) -> bytearray:
    """A fork with ``content`` from the log at its start."""
    if is_tree:
        content = _short_root(content, _TREE_HEADS[logged.core[_VERSION_AT]], len(there), logged)
    if len(content) > len(there):
        raise _impossible(logged, "a fork does not fit")
    there[: len(content)] = content
    return there


def _put_core(inode: bytearray, logged: LoggedInode, lsn: int) -> int:
    """Change all of an inode but its forks; its version."""
    core = logged.core
    version = core[_VERSION_AT] if len(core) >= _OLD_SIZE else 0
    is_new = version == 3
    if version not in _FORKS_AT or core[:2] != MAGIC[::-1] or (is_new and len(core) < _NEW_SIZE):
        raise _impossible(logged, "it is no inode")
    flags = core[_FLAGS_AT] & (_BIGTIME | _NREXT64) if is_new else 0
    old, new, old_there, new_there = _layouts(version, flags)
    old_there.pack_into(inode, 0, *old.unpack_from(core))
    if is_new:
        new_there.pack_into(inode, _NEW_AT, *new.unpack_from(core, _NEW_AT))
        _LSN.pack_into(inode, _LSN_AT, lsn)
    else:
        inode[_FLUSHED_AT : _FLUSHED_AT + 2] = bytes(2)
    return version


def _short_root(root: Region, head: int, room: int, logged: LoggedInode) -> bytearray:
    """The root of a tree of extents as an inode has it in ``room`` bytes. In memory it has the header of a block."""
    count = _ROOT.unpack_from(root, _ROOT_AT)[1] if len(root) >= head else 0
    most_there, most = (len(root) - head) // _PAIR, (room - _ROOT.size) // _PAIR
    if not 0 < count <= min(most_there, most):
        raise _impossible(logged, "the root of its extents does not fit")
    pointers = root[head + 8 * most_there :][: 8 * count]
    made = bytearray(_ROOT.size + 8 * most + 8 * count)
    made[: _ROOT.size] = root[_ROOT_AT : _ROOT_AT + _ROOT.size]
    made[_ROOT.size : _ROOT.size + 8 * count] = root[head : head + 8 * count]
    made[_ROOT.size + 8 * most :] = pointers
    return made


def _impossible(logged: LoggedInode, why: str) -> Corrupt:
    return Corrupt(f"an impossible inode {logged.number} in the log: {why}", offset=logged.at)
