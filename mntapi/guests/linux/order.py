"""The order in which a guest's mount points come: what each of them shows depends on those before it.

Source: systemd.mount(5), automatic dependencies (a mount point comes after those above it, and those above what it binds);
mount(8), ``--all`` (in the order of fstab, each bind showing the tree as mounted so far). Observed: the kernel's own mounts
for two folders bound to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from mntapi.guests.types import MountKind, MountPoint

_MAX_NAMED = 4


def in_order(mounts: Sequence[MountPoint], reasons: list[str]) -> tuple[MountPoint, ...]:
    """Each after the one it lies in, and a bind mount after the one that its source lies in; apart from that by path.

    Args:
        mounts: in the order in which the guest names them, each path once. Where bind mounts wait for each other, they and what
            comes after them keep that order: each binds what is there so far.
        reasons: gets a line if there are such.
    """
    by_path = {mount.path: number for number, mount in enumerate(mounts)}
    above = {number: _those(by_path, _above(mount.path), number) for number, mount in enumerate(mounts)}
    waits = {number: above[number] | _those(by_path, _bound(mount), number) for number, mount in enumerate(mounts)}
    done = _sorted(waits, lambda number: _names(mounts[number]))
    left = waits.keys() - done
    if left:
        named = ", ".join(mounts[number].path for number in sorted(left)[:_MAX_NAMED])
        reasons.append(f"bind mounts wait for each other: {named} are made in the order in which they are named")
        done += _sorted({number: above[number] & left for number in left}, lambda number: number)
    return tuple(mounts[number] for number in done)


def _sorted(waits: Mapping[int, set[int]], rank: Callable[[int], Any]) -> list[int]:
    """Those that do not wait in vain, each after all that it waits for; the lowest rank first."""
    followers: dict[int, list[int]] = {}
    for number, before in waits.items():
        for one in before:
            followers.setdefault(one, []).append(number)
    still = {number: len(before) for number, before in waits.items()}
    ready = [(rank(number), number) for number, count in still.items() if not count]
    heapify(ready)
    done = []
    while ready:
        _, number = heappop(ready)
        done.append(number)
        for one in followers.get(number, ()):
            still[one] -= 1
            if not still[one]:
                heappush(ready, (rank(one), one))
    return done


def _names(mount: MountPoint) -> list[str]:
    return [name for name in mount.path.split("/") if name]


def _above(path: str) -> Iterator[str]:
    """The folders that a path lies in, the root last."""
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        yield path


def _bound(mount: MountPoint) -> Iterator[str]:
    """What a bind mount shows, and what that lies in."""
    if mount.kind is MountKind.BIND:
        yield mount.folder
        yield from _above(mount.folder)


def _those(by_path: dict[str, int], paths: Iterator[str], own: int) -> set[int]:
    return {by_path[path] for path in paths if path in by_path} - {own}
