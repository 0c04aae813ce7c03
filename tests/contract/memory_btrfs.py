"""A btrfs made of Python values: a ``MemoryFileSystem`` some of whose folders are subvolumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from contract.memory_filesystem import MemoryFileSystem
from mntapi.errors import MntapiError, NotFound
from mntapi.types import Node


@dataclass(frozen=True)
class MemorySubvolume:
    """One; ``snapshot_of`` and ``own`` stand for UUIDs."""

    path: str | None
    id: int
    parent: int | None = 5
    own: int | None = None
    snapshot_of: int | None = None
    created_ns: int | None = None
    is_read_only: bool = False

    @property
    def uuid(self) -> UUID | None:
        return None if self.own is None else UUID(int=self.own)

    @property
    def parent_uuid(self) -> UUID | None:
        return None if self.snapshot_of is None else UUID(int=self.snapshot_of)


TOP = MemorySubvolume("", 5, None)


class MemoryBtrfs(MemoryFileSystem):
    """``subvolumes``: paths, which get ids from 256 on, or all that is known of each. ``default``: an id or an error."""

    kind = "btrfs"

    def __init__(
        self,
        content: Mapping[str, object],
        subvolumes: Sequence[str | MemorySubvolume] = (),
        default: int | MntapiError = 5,
        **metadata: Mapping[str, object],
    ) -> None:
        super().__init__(content, **metadata)
        self._all = (
            TOP,
            *(MemorySubvolume(one, 256 + at) if isinstance(one, str) else one for at, one in enumerate(subvolumes)),
        )
        self._default = default

    @property
    def default_subvolume(self) -> int:
        if isinstance(self._default, MntapiError):
            raise self._default
        return self._default

    def subvolumes(self) -> Sequence[MemorySubvolume]:
        return self._all

    def subvolume_root(self, subvolume: int) -> Node:
        path = next((one.path for one in self._all if one.id == subvolume), None)
        if path is None:
            raise NotFound(f"there is no subvolume {subvolume}")
        node = self.root
        for name in filter(None, path.split("/")):
            node = self.lookup(node, name)
        return node
