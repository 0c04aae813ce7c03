"""Keys, and pointers to tree nodes: what the superblock, the root tree and the nodes themselves have in common."""

from __future__ import annotations

from typing import NamedTuple

MAX_LEVEL = 7
"""Of a root; leaves are level 0."""
HIGHEST = 1 << 64
"""More than any number in a key."""
Key = tuple[int, int, int]
"""Object, type, offset. Its order is that of Python's tuples."""


class Pointer(NamedTuple):
    """Where a node is, and what it must be. ``first`` is its first key, None for a root; all its keys are below ``limit``.
    ``at`` is the pointer's own byte on the volume, for errors."""

    logical: int
    level: int
    generation: int
    owner: int
    at: int
    first: Key | None = None
    limit: Key = (HIGHEST, 0, 0)
