"""A bounded cache that costs one dict lookup on a hit and takes no lock.

Two generations: what is used again moves to the young one; when that is full it becomes the old one and the old one is
dropped. So nothing is reordered on a hit, and threads may race: they lose at most a cached value, never a right one.
"""

from __future__ import annotations

from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """Values by integer key, the young generation at most ``capacity`` of the weights given with them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._young: dict[int, tuple[V, int]] = {}
        self._old: dict[int, tuple[V, int]] = {}
        self._weight = 0

    def get(self, key: int) -> V | None:
        """The value, or None if it is not there any more."""
        held = self._young.get(key)
        if held is not None:
            return held[0]
        held = self._old.get(key)
        if held is None:
            return None
        self.put(key, *held)
        return held[0]

    def put(self, key: int, value: V, weight: int) -> None:
        """Remember a value; ``weight`` is what it counts against the capacity."""
        if self._weight + weight > self._capacity:
            self._old, self._young, self._weight = self._young, {}, 0
        self._young[key] = (value, weight)
        self._weight += weight

    def clear(self) -> None:
        """Forget everything."""
        self._old, self._young, self._weight = {}, {}, 0
