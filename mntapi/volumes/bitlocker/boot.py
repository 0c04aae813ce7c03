"""The boot sector of a BitLocker volume: where its metadata lie. Pure: bytes in, a value out.

Three kinds. Since Windows 7 a GUID stands in front of the offsets of the three metadata blocks; the sector around it looks
like FAT32, on a To Go drive it is that of the small FAT volume with the reader program. Since Windows 10 another GUID says that
the offsets of the encrypt-on-write structures follow. Vista has no GUID: NTFS under another name, and the cluster of the first
metadata block where NTFS has that of the mirror of its MFT.

Source: libyal, BitLocker Drive Encryption (BDE) format, "Volume header"; the encrypt-on-write GUID: observed on 2 images.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from mntapi.errors import Corrupt
from mntapi.units import SECTOR

SIGNATURE = b"-FVE-FS-"
_SIGNATURE_AT = 3
_GUID = UUID("4967d63b-2e29-4ad8-8399-f6a339e3d001").bytes_le
_GUID_ENCRYPT_ON_WRITE = UUID("92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8").bytes_le
_GUID_AT = (160, 424)
"""Bytes into the sector: on a fixed drive, on a To Go drive."""

_GEOMETRY = struct.Struct("<HB")
_GEOMETRY_AT = 11
_METADATA = struct.Struct("<3Q")
_ENCRYPT_ON_WRITE = struct.Struct("<2Q")
_VISTA_CLUSTER = struct.Struct("<Q")
_VISTA_CLUSTER_AT = 56


@dataclass(frozen=True, slots=True)
class Boot:
    """What the boot sector says. Sizes and offsets are bytes, offsets from the start of the volume."""

    sector_size: int
    cluster_size: int
    metadata: tuple[int, ...]
    """Offsets of the copies of the metadata: three, of Vista only the first."""
    encrypt_on_write: tuple[int, ...]
    """Offsets of the two copies of the encrypt-on-write header, or nothing."""


def is_bitlocker(sector: bytes) -> bool:
    """Whether a volume that begins with this sector is BitLocker's, of any version."""
    return len(sector) >= SECTOR and (sector[_SIGNATURE_AT:].startswith(SIGNATURE) or _find(sector) is not None)


def parse_boot(sector: bytes) -> Boot:
    """The boot sector of a volume that ``is_bitlocker``.

    Raises:
        Corrupt: its sector or cluster size is none.
    """
    sector_size, cluster = _GEOMETRY.unpack_from(sector, _GEOMETRY_AT)
    if sector_size not in (512, 1024, 2048, 4096):
        raise Corrupt("bitlocker: no such sector size", offset=_GEOMETRY_AT, expected="512 to 4096", found=sector_size)
    if cluster.bit_count() != 1:
        raise Corrupt("bitlocker: no such cluster size", offset=_GEOMETRY_AT + 2, expected="a power of two", found=cluster)
    cluster_size = sector_size * cluster
    place = _find(sector)
    if place is None:
        first: int = _VISTA_CLUSTER.unpack_from(sector, _VISTA_CLUSTER_AT)[0] * cluster_size
        return Boot(sector_size, cluster_size, (first,), ())
    guid, at = place
    on_write = _ENCRYPT_ON_WRITE.unpack_from(sector, at + _METADATA.size) if guid == _GUID_ENCRYPT_ON_WRITE else ()
    return Boot(sector_size, cluster_size, _METADATA.unpack_from(sector, at), on_write)


def _find(sector: bytes) -> tuple[bytes, int] | None:
    """The GUID in the sector, and the offset of what follows it."""
    for at in _GUID_AT:
        guid = sector[at : at + len(_GUID)]
        if guid in (_GUID, _GUID_ENCRYPT_ON_WRITE):
            return guid, at + len(_GUID)
    return None
