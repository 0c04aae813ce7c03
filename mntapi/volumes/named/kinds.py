"""What the managers have in common: finding a superblock, and saying something of the volume it is on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from mntapi.blocks import read_clipped
from mntapi.errors import Corrupt, MntapiError
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.units import KIB, SECTOR
from mntapi.volumes.bootrecord import has_magic, is_filesystem, is_table

UNREAD = "is not read by this version"
_EXT_MAGIC = (0x438, b"\x53\xef")
_XFS_MAGIC = b"XFSB"

S = TypeVar("S")


class Device(NamedTuple, Generic[S]):
    """A volume and the superblock on it."""

    volume: Volume
    superblock: S


class Kind:
    """One manager, as ``Kinds`` has it."""

    def finds(self, volume: Volume) -> bool:
        """Whether its superblock is there. An I/O error is raised."""
        raise NotImplementedError

    def volumes(self, members: Sequence[Volume]) -> Iterator[Volume]:
        """What it says of all of these."""
        raise NotImplementedError


@dataclass(frozen=True)
class Superblocks(Kind, Generic[S]):
    """A manager with superblocks of type ``S``.

    Args:
        find: the superblock on these blocks, None if there is none; I/O errors are raised.
        describe: what is to be said of the devices.
        is_behind: whether the first sector is not its own, and may hold something newer.
        is_on_disks: whether it is only ever on whole disks, as a mainboard sees them.
    """

    find: Callable[[Blocks], S | None]
    describe: Callable[[Sequence[Device[S]]], Iterator[Volume]]
    is_behind: bool = False
    is_on_disks: bool = False

    def finds(self, volume: Volume) -> bool:
        if self.is_on_disks and volume.kind != "disk":
            return False
        return self.find(volume.blocks) is not None and not (self.is_behind and _has_newer(volume))

    def volumes(self, members: Sequence[Volume]) -> Iterator[Volume]:
        return self.describe([Device(volume, self._superblock(volume)) for volume in members])

    def _superblock(self, volume: Volume) -> S:
        superblock = self.find(volume.blocks)
        if superblock is None:
            raise Corrupt("the superblock is no longer there", reason="changed")
        return superblock


class Kinds:
    """``claims`` and ``volumes`` of a scheme of several managers; the first that finds its superblock has the volume. Their
    order is libblkid's within each usage."""

    def __init__(self, *kinds: Kind) -> None:
        self._kinds = kinds

    def claims(self, volume: Volume) -> bool:
        """Whether one of them has its superblock there. An I/O error is raised."""
        return any(kind.finds(volume) for kind in self._kinds)

    def volumes(self, claimed: Sequence[Volume]) -> Iterator[Volume]:
        """The claimed volumes again, with what is said of them, and the content of those that can be read."""
        groups: dict[int, list[Volume]] = {}
        for volume in claimed:
            try:
                index = next(index for index, kind in enumerate(self._kinds) if kind.finds(volume))
            except (MntapiError, StopIteration) as error:
                yield replace(volume, state=VolumeState.DAMAGED, reason=str(error) or "its superblock is no longer there")
                continue
            groups.setdefault(index, []).append(volume)
        for index, members in groups.items():
            yield from self._kinds[index].volumes(members)


def _has_newer(volume: Volume) -> bool:
    """Whether the first sectors say that a superblock behind them is a leftover: a partition table or another file system."""
    head = read_clipped(volume.blocks, 0, 2 * KIB)
    if has_magic(head[:SECTOR]) and (is_filesystem(head[:SECTOR]) or is_table(head[:SECTOR])):
        return True
    place, magic = _EXT_MAGIC
    return head.startswith(_XFS_MAGIC) or head[place : place + len(magic)] == magic


def told(volume: Volume, state: VolumeState, reason: str, details: Mapping[str, str]) -> Volume:
    """The volume itself, with what its manager says of it."""
    if volume.state is not VolumeState.OK:
        state = volume.state
    return replace(
        volume,
        state=state,
        reason="; ".join(text for text in (volume.reason, reason) if text) or None,
        details={**volume.details, **{key: text for key, text in details.items() if text}},
    )


def text_of(raw: bytes) -> str:
    """A string that ends at its first zero byte."""
    return raw.partition(b"\0")[0].decode("utf-8", "replace").strip()
