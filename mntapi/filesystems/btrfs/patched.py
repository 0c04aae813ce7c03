"""A tree with changes that were never written into it: items taken out, and others put in."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge
from operator import attrgetter

from mntapi.errors import MntapiError
from mntapi.filesystems.btrfs.pointer import HIGHEST, Key, Pointer
from mntapi.filesystems.btrfs.tree import Item, Nodes, Tree

_KEY = attrgetter("key")
_LAST_TYPE = 255


@dataclass
class Changes:
    """What is to be done to a tree. Items in ``added`` come instead of those with their keys."""

    removed: set[Key] = field(default_factory=set)
    added: dict[Key, Item] = field(default_factory=dict)


class Patched(Tree):
    """The tree at ``root`` as it is with the changes."""

    def __init__(self, nodes: Nodes, root: Pointer, changes: Changes) -> None:
        super().__init__(nodes, root)
        self._hidden = changes.removed | changes.added.keys()
        self._added = [changes.added[key] for key in sorted(changes.added)]

    def floor(self, key: Key) -> Item | None:
        """See ``Tree``."""
        index = bisect_right(self._added, key, key=_KEY)
        new = self._added[index - 1] if index else None
        old = super().floor(key)
        while old is not None and old.key in self._hidden and (new is None or old.key > new.key):
            old = super().floor(_before(old.key))
        if new is None or (old is not None and old.key > new.key):
            return old
        return new

    def items(self, first: Key, last: Key, damage: list[MntapiError] | None = None) -> Iterator[Item]:
        """See ``Tree``."""
        added = self._added[bisect_left(self._added, first, key=_KEY) : bisect_right(self._added, last, key=_KEY)]
        kept = (item for item in super().items(first, last, damage) if item.key not in self._hidden)
        return merge(kept, added, key=_KEY)


def _before(key: Key) -> Key:
    """The highest key below."""
    number, kind, offset = key
    if offset:
        return number, kind, offset - 1
    return (number, kind - 1, HIGHEST - 1) if kind else (number - 1, _LAST_TYPE, HIGHEST - 1)
