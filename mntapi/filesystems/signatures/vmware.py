"""VMFS. Source: the open notes of vmfs-tools and libblkid of util-linux (observed on VMFS 3; 5 and 6 keep the same start)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source

_LVM_UUID = 512 + 20
"""Bytes from the start of a volume's own header to the UUID of the logical volume, spelt out."""


def vmfs_volume(source: Source, base: int) -> Found | None:
    """A partition that is (part of) a datastore; the UUID is the logical volume's."""
    return Found(uuid=values.text(source.read(base + _LVM_UUID, 35)))


@dataclass(frozen=True, slots=True)
class FsInfo:
    """The descriptor of the file system itself."""

    volume_version: int
    uuid: bytes
    label: bytes


_FS_INFO = struct.Struct("<4xIx16s4x128s")


def vmfs(source: Source, base: int) -> Found | None:
    """A file system without the volume header in front of it."""
    info = FsInfo(*_FS_INFO.unpack(source.read(base, _FS_INFO.size)))
    first, second, third = struct.unpack("<IIH", info.uuid[:10])
    uuid = f"{first:08x}-{second:08x}-{third:04x}-{info.uuid[10:].hex()}"
    return Found(values.text(info.label), uuid if any(info.uuid) else None)
