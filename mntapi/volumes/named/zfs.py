"""ZFS pools. Each device has four copies of a label: the pool, and the tree of that part of the pool the device is in.

Only the copies at the start are looked at: those at the end of a device outlive a new partition table.

Source: ZFS On-Disk Specification (Sun Microsystems, 2006), chapter 1, "Vdev Labels" and "Name-Value List"; the encoding is XDR,
RFC 4506.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mntapi.blocks import read_clipped
from mntapi.errors import Corrupt
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.units import KIB, align_up
from mntapi.volumes.named.kinds import UNREAD, Device, Superblocks, told

MAX_DEPTH = 8
"""Lists in lists. A pool takes four: the label, its tree, the devices of a mirror, one that is being replaced."""
MAX_PAIRS = 4096
"""Names and values in one label, of 112 KiB."""

_LABELS = (0, 256 * KIB)
_LIST_AT, _LIST_SIZE = 16 * KIB, 112 * KIB
_MAGICS = (b"\x01\x01\0\0\0\0\0\0\0\0\0\x01", b"\x01\0\0\0\0\0\0\0\0\0\0\x01")
_UINT64, _STRING, _LIST, _LISTS = 8, 9, 19, 20
_SPARE, _CACHE = 3, 4
_ROLES = {_SPARE: "spare", _CACHE: "cache"}


@dataclass(frozen=True, slots=True)
class Vdev:
    """A device or a group of them, such as a mirror."""

    kind: str
    guid: int
    path: str
    children: tuple[Vdev, ...]

    def leaves(self) -> Iterator[Vdev]:
        """The devices, without the groups."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()


@dataclass(frozen=True, slots=True)
class Label:
    """A label. ``top_count``: how many parts the pool is striped over; this tree is one of them. 0 in a spare or cache."""

    pool: str
    pool_guid: int
    state: int
    transaction: int
    guid: int
    top_count: int
    tree: Vdev | None


class _Reader:
    """A name-value list in XDR; what goes past the end is Corrupt."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = len(_MAGICS[0])
        self._pairs = 0

    def pairs(self, depth: int = 1) -> Mapping[str, object]:
        """The list that begins here; values of other types than numbers, strings and lists are left out."""
        if depth > MAX_DEPTH:
            raise Corrupt("lists in a ZFS label are nested too deep", offset=self._at, expected=f"at most {MAX_DEPTH}")
        found: dict[str, object] = {}
        while (size := self._number()) != 0:
            self._pairs += 1
            if self._pairs > MAX_PAIRS:
                raise Corrupt("too many values in a ZFS label", offset=self._at, expected=f"at most {MAX_PAIRS}")
            start = self._at - 4
            self._number()
            name = self._string()
            kind, count = self._number(), self._number()
            value = self._value(kind, count, depth)
            if value is not None:
                found[name] = value
            if not self._at <= start + size <= len(self._raw):
                raise Corrupt("a value in a ZFS label has the wrong size", offset=start, found=size)
            self._at = start + size
        self._number()
        return found

    def _value(self, kind: int, count: int, depth: int) -> object:
        if kind == _UINT64:
            return int.from_bytes(self._take(8), "big")
        if kind == _STRING:
            return self._string()
        if kind == _LIST:
            return self._list(depth)
        return [self._list(depth) for _ in range(min(count, MAX_PAIRS))] if kind == _LISTS else None

    def _list(self, depth: int) -> Mapping[str, object]:
        self._take(8)  # version and flags of the list
        return self.pairs(depth + 1)

    def _string(self) -> str:
        length = self._number()
        return self._take(align_up(length, 4))[:length].decode("utf-8", "replace")

    def _number(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def _take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._raw):
            raise Corrupt("a ZFS label is cut off", offset=self._at, expected=f"{length} bytes")
        taken = self._raw[self._at : end]
        self._at = end
        return taken


def parse(raw: bytes) -> Label:
    """The label in the bytes of its name-value list.

    Raises:
        Corrupt: it is none, or damaged.
    """
    if not raw.startswith(_MAGICS):
        raise Corrupt("no ZFS label", offset=0, found=raw[:12].hex(" ") or "nothing")
    pairs = _Reader(raw).pairs()
    tree = pairs.get("vdev_tree")
    return Label(
        _text(pairs, "name"),
        _count(pairs, "pool_guid"),
        _count(pairs, "state"),
        _count(pairs, "txg"),
        _count(pairs, "guid"),
        _count(pairs, "vdev_children"),
        _vdev(tree) if isinstance(tree, dict) else None,
    )


def _vdev(pairs: Mapping[str, object]) -> Vdev:
    children = pairs.get("children")
    inner = [child for child in children if isinstance(child, dict)] if isinstance(children, list) else []
    return Vdev(_text(pairs, "type"), _count(pairs, "guid"), _text(pairs, "path"), tuple(_vdev(child) for child in inner))


def _text(pairs: Mapping[str, object], name: str) -> str:
    value = pairs.get(name)
    return value if isinstance(value, str) else ""


def _count(pairs: Mapping[str, object], name: str) -> int:
    value = pairs.get(name)
    return value if isinstance(value, int) else 0


def _find(blocks: Blocks) -> Label | None:
    """The newer of the two labels at the start. Damaged ones do not count."""
    labels = []
    for place in _LABELS:
        start = read_clipped(blocks, place + _LIST_AT, len(_MAGICS[0]))
        if not start.startswith(_MAGICS):
            continue
        try:
            labels.append(parse(read_clipped(blocks, place + _LIST_AT, _LIST_SIZE)))
        except Corrupt:
            continue  # the other copy says the same; without either it is no ZFS that could be named
    return max(labels, key=lambda label: label.transaction, default=None)


def _describe(devices: Sequence[Device[Label]]) -> Iterator[Volume]:
    pools: dict[int, list[Device[Label]]] = {}
    for device in devices:
        if device.superblock.pool_guid:
            pools.setdefault(device.superblock.pool_guid, []).append(device)
        else:
            role = _ROLES.get(device.superblock.state, "device")
            details = {"manager": "zfs", "device-guid": str(device.superblock.guid)}
            yield told(device.volume, VolumeState.UNSUPPORTED, f"a {role} of a ZFS pool it does not name: {UNREAD}", details)
    for members in pools.values():
        state, text = _summary([member.superblock for member in members])
        for volume, label in members:
            yield told(volume, state, text, _details(label))


def _summary(labels: Sequence[Label]) -> tuple[VolumeState, str]:
    newest = max(labels, key=lambda label: label.transaction)
    trees: dict[int, tuple[int, Vdev]] = {}
    for label in labels:
        if label.tree is not None:
            known = trees.get(label.tree.guid)
            if known is None or known[0] < label.transaction:
                trees[label.tree.guid] = (label.transaction, label.tree)
    here = {label.guid for label in labels}
    leaves = {leaf.guid: leaf for _, tree in trees.values() for leaf in tree.leaves()}
    absent = [f"{leaf.path or leaf.kind} (guid {guid})" for guid, leaf in sorted(leaves.items()) if guid not in here]
    unknown = newest.top_count - len(trees)
    if unknown > 0:
        absent.append(f"{unknown} more of the {newest.top_count} parts of the pool")
    text = f"ZFS pool {newest.pool}"
    if not absent:
        return VolumeState.UNSUPPORTED, f"{text}, all {len(leaves)} devices here: {UNREAD}"
    return VolumeState.INCOMPLETE, f"{text}, {len(here)} devices here: missing {', '.join(absent)}; {UNREAD}"


def _details(label: Label) -> dict[str, str]:
    return {
        "manager": "zfs",
        "pool": label.pool,
        "pool-guid": str(label.pool_guid),
        "device-guid": str(label.guid),
        "transaction": str(label.transaction),
        "layout": label.tree.kind if label.tree else "",
    }


KIND = Superblocks(_find, _describe, is_behind=True)
