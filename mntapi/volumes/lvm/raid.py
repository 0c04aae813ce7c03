"""RAID segments: dm-raid's arrays over ``_rimage_`` volumes, and what the ``_rmeta_`` volumes say of each image.

The freshest superblock decides, as it does for the kernel: images it calls failed, or that are not yet rebuilt, are not read;
parity that was never computed is not used. Source: lib/raid/raid.c of LVM2; Linux drivers/md/dm-raid.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, NoReturn

from mntapi.blocks import Concat, Missing, Slice, check_range
from mntapi.blocks.writable import REASON
from mntapi.errors import Corrupt, Invalid, ReadFailed, Unsupported
from mntapi.types import Blocks, Extent
from mntapi.units import SECTOR
from mntapi.volumes.lvm.group import Segment
from mntapi.volumes.lvm.superblock import ALL, Superblock, read_superblock
from mntapi.volumes.raid import Mirrored, ParityArray, ParityLayout, Raid10, Striped
from mntapi.volumes.raid.layout import Row, rows
from mntapi.volumes.raid.raid10 import survives

_PARITY = {
    "raid4": ParityLayout.PARITY_0,
    "raid5": ParityLayout.LEFT_SYMMETRIC,
    "raid5_la": ParityLayout.LEFT_ASYMMETRIC,
    "raid5_ra": ParityLayout.RIGHT_ASYMMETRIC,
    "raid5_ls": ParityLayout.LEFT_SYMMETRIC,
    "raid5_rs": ParityLayout.RIGHT_SYMMETRIC,
    "raid5_n": ParityLayout.PARITY_N,
    "raid6": ParityLayout.ROTATING_ZERO_RESTART,
    "raid6_zr": ParityLayout.ROTATING_ZERO_RESTART,
    "raid6_nr": ParityLayout.ROTATING_N_RESTART,
    "raid6_nc": ParityLayout.ROTATING_N_CONTINUE,
    "raid6_la_6": ParityLayout.LEFT_ASYMMETRIC_6,
    "raid6_ra_6": ParityLayout.RIGHT_ASYMMETRIC_6,
    "raid6_ls_6": ParityLayout.LEFT_SYMMETRIC_6,
    "raid6_rs_6": ParityLayout.RIGHT_SYMMETRIC_6,
    "raid6_0_6": ParityLayout.PARITY_0_6,
    "raid6_n_6": ParityLayout.PARITY_N_6,
}
_NUMBERS = {
    ParityLayout.LEFT_ASYMMETRIC: 0,
    ParityLayout.RIGHT_ASYMMETRIC: 1,
    ParityLayout.LEFT_SYMMETRIC: 2,
    ParityLayout.RIGHT_SYMMETRIC: 3,
    ParityLayout.PARITY_0: 4,
    ParityLayout.PARITY_N: 5,
    ParityLayout.ROTATING_ZERO_RESTART: 8,
    ParityLayout.ROTATING_N_RESTART: 9,
    ParityLayout.ROTATING_N_CONTINUE: 10,
    ParityLayout.LEFT_ASYMMETRIC_6: 16,
    ParityLayout.RIGHT_ASYMMETRIC_6: 17,
    ParityLayout.LEFT_SYMMETRIC_6: 18,
    ParityLayout.RIGHT_SYMMETRIC_6: 19,
    ParityLayout.PARITY_0_6: 20,
    ParityLayout.PARITY_N_6: 5,
}
"""The kernel's numbers of the layouts (drivers/md/raid5.h), as superblocks of kernel 6.1 store them."""

_MIRRORED = ("raid1",)
_STRIPED = ("raid0", "raid0_meta")
_RAID10 = ("raid10", "raid10_near")
KINDS = frozenset((*_PARITY, *_MIRRORED, *_STRIPED, *_RAID10))
"""Kinds of segments that are read here."""


class Image(NamedTuple):
    """A member: its metadata (None: it has none), its data, and what is wrong with the volumes these are on."""

    metadata: Blocks | None
    data: Blocks
    troubles: tuple[str, ...]
    is_gone: bool
    """Nothing of it can be read, or LVM says that it is to be rebuilt."""


class Array(NamedTuple):
    """The volume's bytes, and why they are not as safe as they should be, or not complete."""

    blocks: Blocks
    notes: tuple[str, ...]
    is_whole: bool
    """Whether all can be read in spite of the notes."""


class _Member(NamedTuple):
    data: Blocks | None
    notes: tuple[str, ...]


def array(segment: Segment, size: int, images: Sequence[Image]) -> Array:
    """The array of a RAID segment.

    Args:
        segment: of one of ``KINDS``.
        size: bytes, with the room for a reshape.
        images: in order.

    Raises:
        Corrupt: numbers that cannot be.
        Unsupported: a reshape or a conversion is under way.
    """
    section = segment.section
    count = section.number("device_count", section.number("stripe_count", len(images)), least=1)
    if count != len(images) or not images:
        raise section.corrupt("the array does not name as many images as there are", expected=count, found=len(images))
    chunk = section.number("stripe_size", 0, most=2**32) * SECTOR
    if segment.kind in _STRIPED:
        notes = tuple(note for image in images for note in image.troubles)
        return Array(_striped(segment, chunk, size, images), notes, not notes)
    superblocks = [_superblock(image) for image in images]
    known = [superblock for superblock in superblocks if superblock is not None]
    freshest = max(known, key=lambda superblock: superblock.events, default=None)
    if freshest is not None:
        _check(segment, chunk, freshest, superblocks)
    members = [_member(index, image, superblocks[index], freshest) for index, image in enumerate(images)]
    size = size_without_room(segment, size, len(images))
    is_reshaped = "reshape_count" in section.values
    if is_reshaped and segment.kind in _RAID10 and freshest is not None and freshest.array_size != size:
        what = f"{section.name}: the size of the RAID 10 after a reshape is not sure"
        raise Unsupported(what, expected=size, found=freshest.array_size, reason="raid-reshape")
    return _assembled(segment, chunk, size, members, freshest)


def _striped(segment: Segment, chunk: int, size: int, images: Sequence[Image]) -> Blocks:
    if len(images) == 1:
        return Slice(images[0].data, 0, size)
    if not chunk or any(image.data.size * len(images) < size for image in images):
        raise segment.section.corrupt("the images are too small for the volume", expected=size // len(images))
    return Striped([image.data for image in images], chunk, size)


def _superblock(image: Image) -> Superblock | None:
    if image.metadata is None or image.is_gone:
        return None
    try:
        return read_superblock(image.metadata)
    except ReadFailed:
        return None  # the kernel takes the image for failed, and so does _member


def _check(segment: Segment, chunk: int, freshest: Superblock, superblocks: Sequence[Superblock | None]) -> None:
    """Raise Unsupported if the kernel has not yet made of the array what the metadata says it is."""
    what = f"{segment.section.name}: the array"
    if freshest.is_reshaping:
        raise Unsupported(f"{what} is being reshaped", hint="let it finish on the machine", reason="raid-reshape")
    if freshest.device_count != len(superblocks):
        raise Unsupported(
            f"{what} is being converted",
            expected=f"{freshest.device_count} images",
            found=len(superblocks),
            reason="raid-reshape",
        )
    if segment.kind in _MIRRORED:
        return
    if chunk != freshest.chunk:
        raise Unsupported(
            f"{what} is being converted", expected=f"stripes of {freshest.chunk}", found=chunk, reason="raid-reshape"
        )
    layout = _PARITY.get(segment.kind)
    if layout is not None and (freshest.level, freshest.layout) not in _stored(segment.kind, layout):
        found = f"level {freshest.level}, layout {freshest.layout}"
        raise Unsupported(f"{what} is being converted", expected=segment.kind, found=found, reason="raid-reshape")
    if segment.kind in _PARITY and any(one is not None and one.position != index for index, one in enumerate(superblocks)):
        raise Unsupported(f"{what} has its images in another order than its superblocks say", reason="raid-reshape")


def _stored(kind: str, layout: ParityLayout) -> tuple[tuple[int, int], ...]:
    level = 6 if layout.is_raid6 else 5
    return ((level, _NUMBERS[layout]), (4, 0)) if kind == "raid4" else ((level, _NUMBERS[layout]),)


def _member(index: int, image: Image, own: Superblock | None, freshest: Superblock | None) -> _Member:
    """What may be read of an image."""
    label = f"image {index}"
    troubles = tuple(dict.fromkeys(image.troubles))
    if image.is_gone:
        return _Member(None, troubles)
    if freshest is None:
        return _Member(image.data, troubles)
    if own is None:
        return _Member(None, (*troubles, f"{label} has no superblock that can be read"))
    if freshest.failed >> own.position & 1:
        return _Member(None, (*troubles, f"{label} is out of date: the array was used without it"))
    if own.data_offset > image.data.size:
        raise Corrupt(
            f"{label} of the array begins behind its end", expected=image.data.size, found=own.data_offset, reason="dm-raid"
        )
    data: Blocks = Slice(image.data, own.data_offset, image.data.size - own.data_offset) if own.data_offset else image.data
    if own.rebuilt == ALL:
        return _Member(data, troubles)
    good = min(own.rebuilt, data.size)
    note = f"{label} is rebuilt up to byte {good} only"
    return _Member(Concat([Slice(data, 0, good), Missing(data.size - good, note)]), (*troubles, note))


def size_without_room(segment: Segment, size: int, count: int) -> int:
    """The size of the volume: ``size`` bytes without the room for a reshape that LVM keeps on each of ``count`` images.

    A finished reshape leaves room, and an older size in the superblocks; the kernel takes LVM's size as soon as the volume is
    activated again (Linux 6.1 does so with a RAID 5 that was given a stripe).

    Raises:
        Corrupt: it is all room.
    """
    room = segment.section.number("reshape_count", 0)
    if not room:
        return size
    left = size - room * (size // segment.count) * _data_images(segment, count)
    if left <= 0:
        raise segment.section.corrupt("all of the array is room for a reshape", expected=f"less than {size}", found=size - left)
    return left


def _data_images(segment: Segment, count: int) -> int:
    """To how many of ``count`` images the data of the volume amounts."""
    if segment.kind in _RAID10:
        return count // segment.section.number("data_copies", 2, least=2, most=255)
    layout = _PARITY.get(segment.kind)
    return 1 if layout is None else count - (2 if layout.is_raid6 else 1)


def _synchronised(segment: Segment, size: int, count: int, freshest: Superblock | None) -> int:
    """Up to where parity may be used, in bytes of an image: behind the size that was reshaped nobody has computed it."""
    if freshest is None:
        return 0
    if "reshape_count" not in segment.section.values or freshest.array_size >= size:
        return freshest.synchronised
    return min(freshest.synchronised, freshest.array_size // _data_images(segment, count))


def _assembled(segment: Segment, chunk: int, size: int, members: Sequence[_Member], freshest: Superblock | None) -> Array:
    notes = [note for member in members for note in member.notes]
    data = [member.data for member in members]
    lost = [index for index, member in enumerate(members) if member.notes]
    synchronised = _synchronised(segment, size, len(members), freshest)
    try:
        if segment.kind in _MIRRORED:
            return Array(Mirrored(data, size), tuple(notes), len(lost) < len(data))
        if segment.kind in _RAID10:
            near, far, is_offset = _copies(segment, freshest)
            is_whole = survives(len(data), near, far, lost)
            return Array(Raid10(data, chunk, size, near, far, is_offset), tuple(notes), is_whole)
        layout = _layout(segment, freshest)
        if synchronised != ALL and lost:
            notes.append(f"parity is computed up to byte {synchronised} of each image only")
        parities = 2 if layout.is_raid6 else 1
        blocks = ParityArray(_with_known_parity(data, chunk, layout, synchronised), chunk, size, layout)
        return Array(blocks, tuple(notes), not lost or (len(lost) <= parities and synchronised == ALL))
    except Invalid as error:
        raise segment.section.corrupt(f"the array cannot be: {error}", reason="dm-raid") from error


def _layout(segment: Segment, freshest: Superblock | None) -> ParityLayout:
    """The layout. Kernels of two years made what LVM calls ``raid4`` with the parity last, and say so."""
    if segment.kind == "raid4" and freshest is not None and freshest.level == 4:
        return ParityLayout.PARITY_N
    return _PARITY[segment.kind]


def _copies(segment: Segment, freshest: Superblock | None) -> tuple[int, int, bool]:
    """Near copies, far copies, and whether those are in the next row."""
    if freshest is None:
        return segment.section.number("data_copies", 2, least=2, most=255), 1, False
    return freshest.layout & 0xFF, freshest.layout >> 8 & 0xFF, bool(freshest.layout >> 16 & 1)


def _with_known_parity(
    members: Sequence[Blocks | None], chunk: int, layout: ParityLayout, synchronised: int
) -> Sequence[Blocks | None]:
    """The members, with parity that was not yet computed made unreadable: nothing is computed from it then."""
    if synchronised == ALL:
        return members
    table = rows(layout, len(members))
    first = synchronised // chunk
    return [
        None if member is None else _KnownParity(member, index, chunk, table, first) for index, member in enumerate(members)
    ]


class _KnownParity:
    """A member of a parity array; from row ``first`` on its chunks of parity cannot be read."""

    def __init__(self, inner: Blocks, index: int, chunk: int, table: Sequence[Row], first: int) -> None:
        self._inner = inner
        self.size = inner.size
        self.sector_size = inner.sector_size
        self._chunk = chunk
        self._first = first
        self._is_parity = [index in (row.p, row.q) for row in table]

    def readinto(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        check_range(self.size, offset, length)
        start = max(self._first, offset // self._chunk)
        stop = -(-(offset + length) // self._chunk)
        period = len(self._is_parity)
        if any(self._is_parity[row % period] for row in range(start, min(stop, start + period))):
            raise ReadFailed("cannot be read: the parity of the array was never computed here", reason="raid-not-synchronised")
        self._inner.readinto(offset, buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self._inner.extents(offset, length)

    def writable(self) -> NoReturn:
        """Raises Unsupported."""
        raise Unsupported("the parity of the array was never computed in full", reason=REASON)

    def close(self) -> None:
        """Nothing to release: the member belongs to somebody else."""
