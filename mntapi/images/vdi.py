"""VDI, VirtualBox's disk image: dynamic, fixed and differencing disks.

A differencing disk does not name its parent's file, only its UUID; VirtualBox keeps the names in the machine's ``.vbox`` file,
and who opens that is asked for ``{UUID}.vdi``. Formats open files and list no folders, so for a disk by itself the parent is
looked for under the names VirtualBox gives: that one beside the child for a snapshot, and the machine's name for its first
disk, in the folder above ``Snapshots`` or, where all was copied into one folder, beside the child. Whatever is found must have
the UUID. The folder above is outside the child's own and followed only where that is allowed.

Source: reverse-engineered; open documentation of VirtualBox (VDICore.h) and qemu (block/vdi.c), observed on what qemu writes.
"""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from mntapi.blocks import read_clipped
from mntapi.errors import Corrupt, Denied, NotFound, Unsupported
from mntapi.images.blockmap import ABSENT, ZERO, BlockMap, Table
from mntapi.images.formats import Chain
from mntapi.images.parents import open_parent
from mntapi.types import FileBlocks, Image, Link
from mntapi.units import MIB, SECTOR

FORMAT = "vdi"
MAGIC = bytes.fromhex("7f10dabe")
MAGIC_AT = 0x40
MAX_BLOCK_SIZE = 256 * MIB
_HEADER = struct.Struct("<4sIIII256sIIIIIIIQIIII16s16s16s16s")
_VERSION_MAJOR = 1
_UNUSED = 0xFFFFFFFF
_ZEROS = 0xFFFFFFFE
_SNAPSHOTS = "Snapshots"
"""VirtualBox's folder for what is not a machine's first disk, inside the machine's folder."""
_DYNAMIC, _FIXED, _DIFFERENCING = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Header:
    """Version 1.1 of the header; offsets and sizes are bytes."""

    kind: int
    table_offset: int
    data_offset: int
    disk_size: int
    block_size: int
    block_extra: int
    block_count: int
    identity: str
    parent_identity: str


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """Open a VDI.

    Raises:
        Corrupt: the header contradicts the format, or the parent is another disk or was changed (``parent-mismatch``).
        NotFound, Denied: the parent is missing, or may be in a folder that is not followed; the message has its UUID.
        Unsupported: another version or kind.
    """
    header = parse_header(read_clipped(file, MAGIC_AT, _HEADER.size), file.path)
    if header.table_offset + 4 * header.block_count > file.size:
        raise Corrupt(
            "the block table is outside the file",
            path=file.path,
            offset=0x154,
            expected=f"at most {file.size} bytes",
            found=f"{header.block_count} entries at {header.table_offset}",
            reason="block-table",
        )
    parent = _open_parent(file, header, chain) if header.kind == _DIFFERENCING else None
    blocks = BlockMap(
        file,
        _Layout(file, header),
        size=header.disk_size,
        block_size=header.block_size,
        parent=parent.blocks if parent else None,
    )
    link = Link(file.path, FORMAT, cid=header.identity, parent_cid=header.parent_identity if parent else None)
    return Image(file.path, FORMAT, blocks, (link, *(parent.chain if parent else ())))


def parse_header(content: bytes, path: str) -> Header:
    """The header in the bytes from ``MAGIC_AT`` on. Raises Corrupt or Unsupported."""
    if len(content) < _HEADER.size or not content.startswith(MAGIC):
        raise Corrupt("is not a VDI", path=path, offset=MAGIC_AT, expected=MAGIC, found=content[:4], reason="header")
    fields = _HEADER.unpack_from(content)
    _, version, _, kind, _, _, table_offset, data_offset, _, _, _, sector_size, _, size, block_size, extra, count = fields[:17]
    image, modified, link, parent_modified = (uuid.UUID(bytes_le=raw) for raw in fields[18:22])
    if version >> 16 != _VERSION_MAJOR or kind not in (_DYNAMIC, _FIXED, _DIFFERENCING):
        raise Unsupported(
            "a VDI of an unknown version or kind",
            path=path,
            offset=MAGIC_AT + 4,
            expected="version 1, kind 1, 2 or 4",
            found=f"version {version >> 16}, kind {kind}",
            reason="version",
        )
    if sector_size != SECTOR or block_size % SECTOR or not SECTOR <= block_size <= MAX_BLOCK_SIZE or extra % SECTOR:
        raise Corrupt(
            "the block size is impossible",
            path=path,
            offset=0x168,
            found=f"sectors of {sector_size}, blocks of {block_size} and {extra} bytes",
            reason="header",
        )
    if count * block_size < size:
        raise Corrupt(
            "the block table is too short for the disk",
            path=path,
            offset=0x180,
            expected=f"at least {-(-size // block_size)} entries",
            found=count,
            reason="block-table",
        )
    # VirtualBox changes the second UUID whenever a disk is written, so that a child knows its parent's very state.
    return Header(
        kind, table_offset, data_offset, size, block_size, extra, count, f"{image}/{modified}", f"{link}/{parent_modified}"
    )


def _open_parent(file: FileBlocks, header: Header, chain: Chain) -> Image:
    identity = header.parent_identity.partition("/")[0]
    names = list(_likely_names(file.path, identity))
    try:
        return open_parent(names, [], identifiers=[header.parent_identity], child=file, chain=chain, formats=(FORMAT,))
    except (NotFound, Denied) as error:
        if error.path != file.path or error.reason not in ("parent-missing", "outside"):
            raise
        error.hint = "open the machine's .vbox file, which says where that disk is; or name the disk with --parent"
        if isinstance(error, Denied):
            error.what = (
                f"its parent, the disk {{{identity}}}, is not beside it, and the folder above is outside its own folder"
            )
            error.hint += "; or, if you trust where this one came from, repeat with --allow-outside"
        raise


def _likely_names(child: str, identity: str) -> Iterator[str]:
    """Names relative to the child's folder, the most likely one first."""
    yield f"{{{identity}}}.vdi"
    folder, name = os.path.split(child)
    above, folder_name = os.path.split(folder)
    likely = f"../{os.path.basename(above)}.vdi" if folder_name == _SNAPSHOTS else f"{folder_name}.vdi"
    if likely != name:
        yield likely


class _Layout:
    """Where the blocks are; see ``mntapi.images.blockmap.Layout``."""

    def __init__(self, file: FileBlocks, header: Header) -> None:
        self._file = file
        self._header = header
        self._stride = header.block_size + header.block_extra
        self._table = Table(
            file, header.table_offset, header.block_count, width=4, order="little", absent=_UNUSED, blank=b"\xff"
        )

    def locate(self, index: int) -> int:
        entry = self._table[index]
        if entry == _UNUSED:
            return ABSENT
        if entry == _ZEROS:
            return ZERO
        header = self._header
        offset = header.data_offset + entry * self._stride + header.block_extra
        if offset + min(header.block_size, header.disk_size - index * header.block_size) > self._file.size:
            raise Corrupt(
                f"block {index} is outside the file",
                path=self._file.path,
                offset=self._table.offset_of(index),
                expected=f"before {self._file.size}",
                found=offset,
                reason="block-outside",
            )
        return offset

    def next_present(self, index: int, end: int) -> int:
        return self._table.next_present(index, end)
