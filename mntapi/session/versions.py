"""All versions of one file: the live one, and those in the snapshots of what it lies on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mntapi.errors import IsADirectory, MntapiError, NotADirectory, NotFound, Unsupported
from mntapi.session.guest_tree import GuestTree
from mntapi.session.guest_tree.places import Kind, Place
from mntapi.session.paths import trail_of
from mntapi.types import Blocks, Entry, FileKind, Node
from mntapi.units import MIB

LIVE = "live"
_GONE = "no such file"
_MAX_BINDS = 40
"""Bind mounts followed to what they show."""


@dataclass(frozen=True, slots=True)
class Version:
    """A file at one time. ``path`` reads it; ``label`` is ``live`` or the snapshot's name, ``@2026-11-01T02:00:00Z``.

    There is no live one where only a snapshot is in the set, without what it was made of.
    """

    label: str
    path: str
    time_ns: int | None = None
    """When the snapshot was made, in nanoseconds since 1970 UTC; None: it is the live one, or that is not recorded."""
    node: Node | None = None
    """None: it was not there, or cannot be reached."""
    sha256: str | None = None
    """Of the contents; None where they cannot be read."""
    reason: str | None = None
    """Why something is None."""

    @property
    def is_gone(self) -> bool:
        """Whether there was no such file."""
        return self.reason == _GONE

    def differs(self, other: Version) -> bool | None:
        """Whether the contents are others, or one was there and one not; None where that cannot be read."""
        if self.is_gone or other.is_gone:
            return self.is_gone != other.is_gone
        if self.node is None or other.node is None:
            return None
        if self.node.size != other.node.size:
            return True
        return None if self.sha256 is None or other.sha256 is None else self.sha256 != other.sha256


def versions_of(tree: GuestTree, path: str) -> list[Version]:
    """Every version of a file: the live one, then those in snapshots, the newest first, those of an unknown time at last.

    Args:
        tree: where to look.
        path: of the file in the live tree, where it may be gone, or in a snapshot.

    Raises:
        NotFound: there is none, and was none.
        IsADirectory: it is a folder.
        MntapiError: a folder on the way cannot be read.
    """
    place, inner = _place_of(tree, tree.parts(path))
    alone = _by_name(tree)
    live = _version(tree, place, [*alone.get(place.volume, place.names), *inner], place.label or LIVE)
    if live.node is not None and live.node.kind is FileKind.DIRECTORY:
        raise IsADirectory("is a folder, and only files have versions", path=path)
    shots = [tree.places.all[index] for index in place.snapshots]
    shots.sort(key=lambda one: (one.time_ns is not None, one.time_ns or 0), reverse=True)
    found = [live, *(_version(tree, one, [*alone.get(one.volume, one.names), *inner], one.names[-1]) for one in shots)]
    if all(one.is_gone for one in found):
        raise NotFound("no such file, now or in a snapshot", path=path)
    return found


def _place_of(tree: GuestTree, names: Sequence[str]) -> tuple[Place, list[str]]:
    """The live place that a file is in, and the names below that."""
    for _ in range(_MAX_BINDS):
        trail, rest = _as_far_as_there_is(tree, names)
        place, depth = _live(tree, trail)
        inner = [entry.name for entry in trail[depth:]] + rest
        if place.bound is None:
            break
        names = [*place.bound, *inner]
    return place, inner


def _as_far_as_there_is(tree: GuestTree, names: Sequence[str]) -> tuple[list[Entry], list[str]]:
    """The way to the file, links resolved, and the last names where there is nothing in the live tree."""
    for count in range(len(names), 0, -1):
        try:
            return trail_of(tree, names[:count], follow_last=True), list(names[count:])
        except (NotFound, NotADirectory):
            continue
    return [], list(names)


def _live(tree: GuestTree, trail: Sequence[Entry]) -> tuple[Place, int]:
    """The live place that a way leads into, and how many of its names lead to where that begins.

    A snapshot stands for what it was made of, and a volume by its name for the place that shows it beside its snapshots.
    """
    owners = {index: place for place in tree.places.all for index in place.snapshots}
    index, place, _ = tree.places.split((trail[-1].node if trail else tree.root).inode)
    depth = len(place.names)
    if place.kind is Kind.VOLUME and not place.snapshots and index not in owners:
        index, depth = _beside_snapshots(tree, trail, owners) or (index, depth)
    return owners.get(index, tree.places.all[index]), depth


def _beside_snapshots(tree: GuestTree, trail: Sequence[Entry], owners: Mapping[int, Place]) -> tuple[int, int] | None:
    """The place, with snapshots or one itself, that begins in a folder on the way, of the same volume; and how far that is.

    Of btrfs the way may lead into a subvolume that the guest mounts by itself.
    """
    place = tree.places.of(trail[-1].node)
    depths = {tree.places.split(trail[depth - 1].node.inode)[2]: depth for depth in range(len(place.names), len(trail) + 1)}
    shown = [
        (depth, index)
        for index, one in enumerate(tree.places.all)
        if one.volume == place.volume and (one.snapshots or index in owners)
        if (depth := depths.get(tree.places.split(tree.places.node(index).inode)[2])) is not None
    ]
    return next(((index, depth) for depth, index in sorted(shown, key=lambda one: -one[0])), None)


def _version(tree: GuestTree, place: Place, names: Sequence[str], label: str) -> Version:
    path = "/" + "/".join(names)
    try:
        node = trail_of(tree, names, follow_last=True)[-1].node if names else tree.root
    except (NotFound, NotADirectory):
        return Version(label, path, place.time_ns, reason=_GONE)
    except MntapiError as error:
        return Version(label, path, place.time_ns, reason=_said(error, path))
    try:
        return Version(label, path, place.time_ns, node, _digest(tree, node))
    except MntapiError as error:
        return Version(label, path, place.time_ns, node, reason=_said(error, path))


def _by_name(tree: GuestTree) -> dict[str | None, tuple[str, ...]]:
    """Where each volume is in a set without guests: under its name at the top, as ``open_tree`` has it. Nothing with guests."""
    if any(one.kind is Kind.MOUNT for one in tree.places.all):
        return {}
    return {tree.places.all[index].volume: (name,) for name, index in tree.places.loose.items()}


def _said(error: MntapiError, path: str) -> str:
    """The error without the path, which is told beside it."""
    return str(error).removeprefix(f"{path}: ")


def _digest(tree: GuestTree, node: Node) -> str:
    if node.kind is not FileKind.FILE:
        raise Unsupported(f"is a {node.kind.value}, which has no contents")
    content = tree.open(node)
    digest = hashlib.sha256()
    try:
        for chunk in _chunks(content):
            digest.update(chunk)
    finally:
        content.close()
    return digest.hexdigest()


def _chunks(content: Blocks) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(MIB, max(1, content.size))))
    for offset in range(0, content.size, MIB):
        chunk = buffer[: min(MIB, content.size - offset)]
        content.readinto(offset, chunk)
        yield chunk
