"""The metadata region: sizes of the disk, its blocks and sectors, and how to find a parent."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from mntapi.blocks import read
from mntapi.errors import Corrupt, Unsupported
from mntapi.images.vhdx.structures import Region
from mntapi.types import Blocks
from mntapi.units import KIB, MIB, TIB

TABLE_SIZE = 64 * KIB
MAX_ITEMS = 2047
MAX_ITEM_SIZE = MIB
MAX_BLOCK_SIZE = 256 * MIB
MAX_DISK_SIZE = 64 * TIB
MAX_PARENT_KEYS = 64
"""Keys of a parent locator; five are defined."""

FILE_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
DISK_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
DISK_ID = uuid.UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
LOGICAL_SECTOR_SIZE = uuid.UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
PHYSICAL_SECTOR_SIZE = uuid.UUID("cda348c7-445d-4471-9cc9-e9885251c556")
PARENT_LOCATOR = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
_KNOWN = (FILE_PARAMETERS, DISK_SIZE, DISK_ID, LOGICAL_SECTOR_SIZE, PHYSICAL_SECTOR_SIZE, PARENT_LOCATOR)
_NEEDED = {FILE_PARAMETERS: 8, DISK_SIZE: 8, LOGICAL_SECTOR_SIZE: 4}
"""The items we cannot do without, and their bytes."""
VHDX_PARENT = uuid.UUID("b04aefb7-d19e-4a81-b789-25b8e9445913")

_TABLE = struct.Struct("<8sHH20x")
_ITEM = struct.Struct("<16sIIII")
_LOCATOR = struct.Struct("<16sHH")
_KEY = struct.Struct("<IIHH")
_IS_USER = 1
_IS_REQUIRED = 4
_LEAVE_ALLOCATED = 1
_HAS_PARENT = 2


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the metadata says; sizes are bytes. ``parent`` has the parent locator's keys, None on a disk without a parent."""

    block_size: int
    is_fixed: bool
    disk_size: int
    sector_size: int
    disk_id: uuid.UUID | None
    parent: Mapping[str, str] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a message says the fault is."""

    path: str
    offset: int

    def corrupt(self, what: str, *, at: int = 0, expected: object = None, found: object = None) -> Corrupt:
        return Corrupt(what, path=self.path, offset=self.offset + at, expected=expected, found=found, reason="metadata")


def read_metadata(file: Blocks, path: str, region: Region) -> Metadata:
    """Read and check the metadata region.

    Raises:
        Corrupt: an item is missing, outside the region, or has an impossible value.
        Unsupported: an item we do not know is required, or the parent is not a VHDX.

    Source: [MS-VHDX] 2.6.
    """
    items = _items(file, path, region)
    for guid, size in _NEEDED.items():
        if len(items.get(guid, b"")) < size:
            raise _Place(path, region.offset).corrupt("a metadata item is missing or too short", expected=guid)
    block_size, flags = struct.unpack_from("<II", items[FILE_PARAMETERS])
    metadata = Metadata(
        block_size=block_size,
        is_fixed=flags & (_LEAVE_ALLOCATED | _HAS_PARENT) == _LEAVE_ALLOCATED,
        disk_size=int.from_bytes(items[DISK_SIZE][:8], "little"),
        sector_size=int.from_bytes(items[LOGICAL_SECTOR_SIZE][:4], "little"),
        disk_id=uuid.UUID(bytes_le=items[DISK_ID][:16]) if len(items.get(DISK_ID, b"")) >= 16 else None,
        parent=_parent(items.get(PARENT_LOCATOR, b""), _Place(path, region.offset)) if flags & _HAS_PARENT else None,
    )
    _check(metadata, _Place(path, region.offset))
    return metadata


def _check(metadata: Metadata, place: _Place) -> None:
    block_size, sector_size = metadata.block_size, metadata.sector_size
    if block_size & (block_size - 1) or not MIB <= block_size <= MAX_BLOCK_SIZE:
        raise place.corrupt("the block size is impossible", expected="a power of two, 1 to 256 MiB", found=block_size)
    if sector_size not in (512, 4096):
        raise place.corrupt("the logical sector size is impossible", expected="512 or 4096", found=sector_size)
    if metadata.disk_size > MAX_DISK_SIZE or metadata.disk_size % sector_size:
        raise place.corrupt(
            "the disk size is impossible", expected=f"sectors of {sector_size} bytes, at most 64 TiB", found=metadata.disk_size
        )


def _items(file: Blocks, path: str, region: Region) -> dict[uuid.UUID, bytes]:
    """The system's items that we know, each at most ``MAX_ITEM_SIZE`` bytes."""
    place = _Place(path, region.offset)
    if region.length < TABLE_SIZE:
        raise place.corrupt("the metadata region is too short", expected=f"at least {TABLE_SIZE} bytes", found=region.length)
    table = read(file, region.offset, TABLE_SIZE)
    magic, _, count = _TABLE.unpack_from(table)
    if magic != b"metadata":
        raise place.corrupt("has no metadata table", expected=b"metadata", found=magic)
    if count > MAX_ITEMS:
        raise place.corrupt("too many metadata items", at=10, expected=f"at most {MAX_ITEMS}", found=count)
    items: dict[uuid.UUID, bytes] = {}
    for number in range(count):
        at = _TABLE.size + number * _ITEM.size
        raw, offset, length, flags, _ = _ITEM.unpack_from(table, at)
        guid = uuid.UUID(bytes_le=raw)
        if flags & _IS_USER or guid not in _KNOWN:
            _refuse_if_required(guid, flags, _Place(path, region.offset + at))
            continue
        if guid in items:
            raise place.corrupt("a metadata item is there twice", at=at, found=guid)
        if length and not TABLE_SIZE <= offset <= offset + min(length, MAX_ITEM_SIZE + 1) <= region.length:
            raise place.corrupt("a metadata item is outside its region", at=at, found=f"{length} bytes at {offset}")
        if length > MAX_ITEM_SIZE:
            raise place.corrupt("a metadata item is too long", at=at, expected=f"at most {MAX_ITEM_SIZE}", found=length)
        items[guid] = read(file, region.offset + offset, length)
    return items


def _refuse_if_required(guid: uuid.UUID, flags: int, place: _Place) -> None:
    if flags & _IS_REQUIRED:
        raise Unsupported(
            "needs metadata of an unknown kind", path=place.path, offset=place.offset, found=guid, reason="unknown-metadata"
        )


def _parent(content: bytes, place: _Place) -> dict[str, str]:
    """Keys and values of a parent locator.

    Source: [MS-VHDX] 2.6.2.6.
    """
    if len(content) < _LOCATOR.size:
        raise place.corrupt("a differencing disk without a parent locator", expected=PARENT_LOCATOR)
    raw, _, count = _LOCATOR.unpack_from(content)
    kind = uuid.UUID(bytes_le=raw)
    if kind != VHDX_PARENT:
        raise Unsupported(
            "its parent is not a VHDX",
            path=place.path,
            offset=place.offset,
            expected=VHDX_PARENT,
            found=kind,
            reason="unknown-parent",
        )
    if count > MAX_PARENT_KEYS or _LOCATOR.size + count * _KEY.size > len(content):
        raise place.corrupt("the parent locator has too many keys", expected=f"at most {MAX_PARENT_KEYS}", found=count)
    keys = [_KEY.unpack_from(content, _LOCATOR.size + number * _KEY.size) for number in range(count)]
    return {
        _text(content, key_at, key_length, place): _text(content, value_at, value_length, place)
        for key_at, value_at, key_length, value_length in keys
    }


def _text(content: bytes, offset: int, length: int, place: _Place) -> str:
    if offset + length > len(content):
        raise place.corrupt("a text of the parent locator is outside it", found=f"{length} bytes at {offset}")
    return content[offset : offset + length].decode("utf-16-le", "replace").split("\0")[0]
