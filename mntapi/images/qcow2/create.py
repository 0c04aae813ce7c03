"""Making an overlay in an empty file, and going on with one. The safety rule is here: only a file that is empty, or that has
our mark in its header and belongs to the same original, is ever written."""

from __future__ import annotations

import os
from array import array

from mntapi.errors import Denied, Invalid, MntapiError, Unsupported
from mntapi.images.qcow2.completeness import check_complete
from mntapi.images.qcow2.header import (
    EXT_BACKING_FORMAT,
    EXT_END,
    EXT_OVERLAY,
    EXTENSION,
    MAGIC,
    MAX_L1_BYTES,
    MAX_NAME,
    V2,
    V3,
    Header,
    each_extension,
    parse_header,
)
from mntapi.images.qcow2.overlay import CLUSTER, CLUSTER_BITS, ENTRIES, SPAN, Overlay, Punch
from mntapi.images.qcow2.refcounts import table_clusters
from mntapi.images.qcow2.storage import Storage
from mntapi.remote import is_url
from mntapi.types import Image
from mntapi.units import GIB, KIB, SECTOR, align_up

QEMU_FORMATS = {"vhd": "vpc"}
"""Formats that QEMU calls differently."""
_HEADER_LENGTH = 112
_NAME_AT, _LENGTH_AT = 8, 100
"""Where the header has the offset of the original's name, which follows the extensions, and its own length."""
MAX_NOTE = 32 * KIB
"""Bytes of the note about the original that a header has room for."""


def create_overlay(fd: int, path: str, backing: Image, *, note: bytes = b"", punch: Punch | None = None) -> Overlay:
    """Make an overlay over ``backing`` in an empty file.

    Args:
        fd: an empty regular file, open for reading and writing. The overlay owns it, and ``backing``; on an error neither.
        path: the file's path, for messages and for naming the original relative to it.
        backing: the original; it is only read.
        note: what to keep in the header about the state of the original, at most ``MAX_NOTE`` bytes; not looked into.
        punch: gives discarded clusters back to the host's file system.

    Raises:
        Invalid: the file is not empty, or not a regular file that can be written.
        Denied: it is a file of the original.
        Busy: somebody has it open as an overlay.
        Unsupported: the disk is too large, or the original's name too long.
        Failed: it cannot be written.

    Source: QEMU, docs/interop/qcow2.
    """
    storage = _checked_storage(fd, path, backing)
    if storage.size:
        raise Invalid("the file for the overlay is not empty", path=path, found=f"{storage.size} bytes")
    size = align_up(backing.blocks.size, SECTOR)
    l1_size = max(1, -(-size // SPAN))
    if l1_size * 8 > MAX_L1_BYTES:
        raise Unsupported("the disk is too large for an overlay", path=path, found=f"{size} bytes")
    l1_clusters = -(-l1_size // ENTRIES)
    refcount_clusters = table_clusters(2 * size + GIB, CLUSTER_BITS)
    l1_offset = (2 + refcount_clusters) * CLUSTER
    used = 2 + refcount_clusters + l1_clusters
    head = _header(path, backing, note, size, l1_size, l1_offset, refcount_clusters)
    block_offset = (1 + refcount_clusters) * CLUSTER
    storage.write_numbers(block_offset, array("H", [1] * used + [0] * (CLUSTER // 2 - used)))
    storage.write_numbers(CLUSTER, array("Q", [block_offset]))
    storage.write(used * CLUSTER - 1, b"\0")
    storage.sync()
    storage.write(0, head)  # last: without its magic the file is nothing
    storage.sync()
    return Overlay(storage, parse_header(head), backing, punch=punch)


def open_overlay(fd: int, path: str, backing: Image, *, note: bytes | None = None, punch: Punch | None = None) -> Overlay:
    """Go on with an overlay that ``create_overlay`` made over the same original. Arguments and ownership are as there.

    ``note`` takes the place of the one in the header if it has its length; None, as a rule, leaves that.

    Raises:
        Denied: the file is not an overlay of ours: other files are never written.
        Invalid: it was made over another original.
        Corrupt: its end is missing.
        Unsupported: another program has since made it something we do not write.
        MntapiError: as ``create_overlay``; the header is corrupt.
    """
    storage = _checked_storage(fd, path, backing)
    head = bytearray(min(CLUSTER, storage.size))
    storage.readinto(0, memoryview(head))
    try:
        header = parse_header(bytes(head))
    except MntapiError as error:
        raise error.located(path=path) from None
    _check_overlay(header, path, backing)
    check_complete(storage, header)
    if note is not None:
        offset, before = note_in(bytes(head))
        if len(note) == len(before):
            storage.write(offset, note)
            storage.sync()
    return Overlay(storage, header, backing, punch=punch)


def note_in(head: bytes) -> tuple[int, bytes]:
    """Where the header of an overlay has its note, and the note. ``head`` has been parsed; raises Corrupt as that does."""
    length = int.from_bytes(head[_LENGTH_AT : _LENGTH_AT + 4], "big")
    end = int.from_bytes(head[_NAME_AT : _NAME_AT + 8], "big") or len(head)
    for kind, offset, content in each_extension(head[:end], length):
        if kind == EXT_OVERLAY:
            return offset, content
    return 0, b""


def _checked_storage(fd: int, path: str, backing: Image) -> Storage:
    if os.path.realpath(path) in {os.path.realpath(link.file) for link in backing.chain}:
        raise Denied("an original is never written", path=path, hint="name a new file; mntapi makes it", reason="original")
    return Storage(fd, path)


def _check_overlay(header: Header, path: str, backing: Image) -> None:
    if not header.extensions.is_overlay:
        raise Denied("is not an overlay that mntapi made: other files are never written", path=path, reason="original")
    if header.size != align_up(backing.blocks.size, SECTOR) or header.backing_name != backing_name(path, backing.path):
        raise Invalid(
            "the overlay belongs to another disk",
            path=path,
            expected=f"{header.backing_name!a} of {header.size} bytes",
            found=f"{backing_name(path, backing.path)!a} of {backing.blocks.size} bytes",
        )
    expected = (3, CLUSTER_BITS, 4, 0, 0, 0, 0)
    found = (header.version, header.cluster_bits, header.refcount_order, int(header.incompatible), header.autoclear)
    if (*found, int(header.crypt_method), header.snapshot_count) != expected:
        raise Unsupported(
            "the overlay was changed by another program to something that is not written here",
            path=path,
            hint="qemu-img check says more; qemu-img convert makes a full disk of it",
        )


def backing_name(path: str, original: str) -> str:
    """The original's name as QEMU finds it: a URL, or a path, relative where it lies in or below the overlay's folder."""
    if is_url(original):
        return original
    folder, original = os.path.dirname(os.path.realpath(path)), os.path.realpath(original)
    name = os.path.relpath(original, folder) if os.path.commonpath([folder, original]) == folder else original
    return f"./{name}" if ":" in name.split("/", 1)[0] else name


def _header(path: str, backing: Image, note: bytes, size: int, l1_size: int, l1_offset: int, refcount_clusters: int) -> bytes:
    name = os.fsencode(backing_name(path, backing.path))
    if len(name) > MAX_NAME:
        raise Unsupported(
            "the name of the original is too long for an overlay", path=path, expected=f"at most {MAX_NAME} bytes"
        )
    if len(note) > MAX_NOTE:
        raise Invalid("the note for the overlay is too long", path=path, expected=f"at most {MAX_NOTE} bytes", found=len(note))
    listed = b""
    for kind, content in (
        (EXT_BACKING_FORMAT, QEMU_FORMATS.get(backing.format, backing.format).encode()),
        (EXT_OVERLAY, note),
        (EXT_END, b""),
    ):
        listed += EXTENSION.pack(kind, len(content)) + content + bytes(-len(content) % 8)
    name_offset = _HEADER_LENGTH + len(listed)
    fixed = V2.pack(
        MAGIC, 3, name_offset, len(name), CLUSTER_BITS, size, 0, l1_size, l1_offset, CLUSTER, refcount_clusters, 0, 0
    ) + V3.pack(0, 0, 0, 4, _HEADER_LENGTH)
    return (fixed.ljust(_HEADER_LENGTH, b"\0") + listed + name).ljust(CLUSTER, b"\0")
