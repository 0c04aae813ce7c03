"""The copies of the claimed volumes, and what is told of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from mntapi.blocks import Missing, read_clipped
from mntapi.errors import Corrupt, MntapiError
from mntapi.types import Volume, VolumeState
from mntapi.volumes.vss.snapshot import Snapshot
from mntapi.volumes.vss.store import Store, chain
from mntapi.volumes.vss.structures import (
    BLOCK,
    CATALOG,
    HEADER_AT,
    HEADER_SIZE,
    STORE,
    Copy,
    Information,
    Place,
    VolumeHeader,
    parse_block,
    parse_catalog,
    parse_header,
    parse_information,
)

NAME = "vss"
MAX_CATALOG_BLOCKS = 16
"""Windows writes four. Each has room for 63 copies, of which Windows keeps at most 512."""

_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


def volumes(claimed: Sequence[Volume]) -> Iterator[Volume]:
    """The copies of all volumes; a volume whose catalog is damaged is given back with a note of that in its details."""
    found = [_look(volume) for volume in claimed]
    taken: set[str] = set()
    for base in found:
        if base.trouble is not None:
            note = f"the catalog of shadow copies cannot be read: {base.trouble}"
            yield replace(base.volume, details={**base.volume.details, "vss": note})
        for copy in _copies(base, found):
            # The same volume twice in the set (a copied disk): the ids of its copies say which one they are of.
            copy = replace(copy, id=f"{copy.id}@{base.volume.id}") if copy.id in taken else copy
            taken.add(copy.id)
            yield copy


@dataclass(frozen=True, slots=True)
class _Base:
    """A claimed volume and what its catalog says; the part in front of the trouble, if there is any."""

    volume: Volume
    header: VolumeHeader
    copies: tuple[Copy, ...] = ()
    places: tuple[Place, ...] = ()
    trouble: MntapiError | None = None
    stores: dict[UUID, Store] = field(default_factory=dict)
    """Those on it that a copy was found for."""
    used: set[int] = field(default_factory=set)
    """Blocks of their metadata, see ``Store``."""


def _header(volume: Volume) -> VolumeHeader | None:
    return parse_header(read_clipped(volume.blocks, HEADER_AT, HEADER_SIZE))


def _look(volume: Volume) -> _Base:
    header = _header(volume)
    if header is None:
        raise Corrupt("vss: the header of the shadow copies is no longer there", offset=HEADER_AT, reason="changed")
    entries: list[Copy | Place] = []
    trouble = None
    try:
        for _, content in chain(volume.blocks, header.catalog, CATALOG, MAX_CATALOG_BLOCKS):
            entries.extend(parse_catalog(content))
    except MntapiError as error:
        trouble = error
    copies = {entry.id: entry for entry in entries if isinstance(entry, Copy)}
    places = {entry.id: entry for entry in entries if isinstance(entry, Place)}
    return _Base(volume, header, tuple(copies.values()), tuple(places.values()), trouble)


def _copies(base: _Base, found: Sequence[_Base]) -> Iterator[Volume]:
    """The copies of a volume, oldest first."""
    copies = sorted(base.copies, key=lambda copy: (copy.sequence, copy.created))
    stores = [_store(base, copy, found) for copy in copies]
    names = _names(base.volume.name, copies)
    for index, copy in enumerate(copies):
        needed = [store for store in stores[index:] if store is not None]
        if len(needed) < len(copies) - index:
            yield _incomplete(base, copy, names[index])
        else:
            yield _volume(base, copy, names[index], needed)


def _store(base: _Base, copy: Copy, found: Sequence[_Base]) -> Store | None:
    """The store of a copy: on the volume itself, else on the volume that is said to be the storage, the same disk first."""
    there = [other for other in found if other.header.volume == base.header.storage and other is not base]
    for other in (base, *sorted(there, key=lambda other: other.volume.disk != base.volume.disk)):
        for place in other.places:
            if place.id == copy.id:
                store = Store(copy, place, other.volume.blocks, other.used)
                return other.stores.setdefault(copy.id, store)
    return None


def _names(base: str, copies: Sequence[Copy]) -> list[str]:
    """``disk0p2@2026-11-01T02:00:00Z``; with the fraction of the second where two are from the same."""
    seconds = Counter(_time(copy.created) for copy in copies)
    return [f"{base}@{_time(copy.created, is_exact=seconds[_time(copy.created)] > 1)}" for copy in copies]


def _time(filetime: int, *, is_exact: bool = False) -> str:
    try:
        moment = _EPOCH + timedelta(seconds=filetime // 10**7)
    except OverflowError:
        return f"filetime-{filetime}"
    fraction = f".{filetime % 10**7:07}" if is_exact else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def _incomplete(base: _Base, copy: Copy, volume_name: str) -> Volume:
    missing = f"its data or those of a newer copy are on the volume {base.header.storage}, which is not in the set"
    return Volume(
        id=f"vss:{copy.id}",
        name=volume_name,
        kind=NAME,
        blocks=Missing(min(copy.size, base.volume.size), missing, hint="give the disk with that volume as well: -d DISK"),
        state=VolumeState.INCOMPLETE,
        reason=missing,
        details={**_details(base, copy, None), "missing": str(base.header.storage)},
    )


def _volume(base: _Base, copy: Copy, volume_name: str, stores: Sequence[Store]) -> Volume:
    volume, lost = base.volume, copy.size - base.volume.size
    reasons = [f"the volume was larger then: {lost} bytes are missing"] if lost > 0 else []
    reasons += [f"of a volume that {volume.reason}"] if volume.state is VolumeState.INCOMPLETE else []
    return Volume(
        id=f"vss:{copy.id}",
        name=volume_name,
        kind=NAME,
        blocks=Snapshot(volume.blocks, stores, min(copy.size, volume.size)),
        state=VolumeState.INCOMPLETE if reasons else VolumeState.OK,
        reason="; ".join(reasons) or None,
        details=_details(base, copy, stores[0]),
    )


def _details(base: _Base, copy: Copy, store: Store | None) -> dict[str, str]:
    details = {"created": _time(copy.created, is_exact=True), "base": base.volume.id}
    if store is None:
        return details
    try:
        information = _information(store)
    except MntapiError as error:
        return {**details, "note": str(error)}
    return {
        **details,
        "copy": str(information.copy),
        "set": str(information.copy_set),
        "attributes": f"0x{information.attributes:08x}",
        "machine": "".join(letter for letter in information.machine if letter.isprintable()),
    }


def _information(store: Store) -> Information:
    at = store.place.header
    return parse_information(parse_block(read_clipped(store.storage, at, BLOCK), STORE, at)[1])
