"""LUKS as a scheme: which volumes are encrypted so. What is in them is ``container.py``, imported when there is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mntapi.blocks import read_clipped
from mntapi.keys import Key, KeyKind, Keys
from mntapi.types import Volume
from mntapi.volumes.luks.places import HEAD, MAGIC, ROAMING, SECOND_MAGIC, SIZES, is_noise, known_as

if TYPE_CHECKING:
    from mntapi.volumes.luks.container import Containers

NAME = "luks"
_VERSIONS = (b"\0\1", b"\0\2")


def with_keys(keys: Keys) -> Luks:
    """The scheme that tries these keys."""
    return Luks(keys)


class Luks:
    """The scheme. It remembers, by volume and header, what it unlocked and what it could not, so no key is tried twice."""

    name = NAME

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._containers: Containers | None = None

    def claims(self, volume: Volume) -> bool:
        """Whether it has a LUKS header in front, or a key says that its header is elsewhere. An I/O error is raised."""
        head = read_clipped(volume.blocks, 0, HEAD)
        if head.startswith(MAGIC):
            return head[len(MAGIC) : len(MAGIC) + 2] in _VERSIONS
        if self._detached(volume, head) is not None:
            return True
        return bool(head) and not any(head) and _has_second_copy(volume)

    def volumes(self, claimed: Sequence[Volume]) -> Iterator[Volume]:
        """Every container itself, with what there is to say of it, and the volume inside if a key opens it."""
        from mntapi.volumes.luks.container import Containers

        self._containers = self._containers or Containers(self._keys)
        for volume in claimed:
            yield from self._containers.inside(volume, self._detached(volume, read_clipped(volume.blocks, 0, HEAD)))

    def _detached(self, volume: Volume, head: bytes) -> Key | None:
        """The header that a key holds for this very volume, or for whichever it fits if this may be ciphertext."""
        if not self._keys.has_any:
            return None
        names = (*known_as(volume), ROAMING) if is_noise(head) else known_as(volume)
        return next((key for key in self._keys.of(*names, kind=KeyKind.HEADER) if key.volume is not None), None)


def _has_second_copy(volume: Volume) -> bool:
    """Whether the first header was wiped and the second, which version 2 has, is there as a whole."""
    if all(read_clipped(volume.blocks, at, len(SECOND_MAGIC)) != SECOND_MAGIC for at in SIZES):
        return False
    from mntapi.volumes.luks import luks2

    return luks2.has_second_copy(volume.blocks)
