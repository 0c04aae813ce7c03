"""What becomes of a volume that is encrypted: the one inside, or why there is none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from mntapi.blocks import Concat, Slice, read_clipped
from mntapi.crypto.keyslot import KeySlot
from mntapi.crypto.luks1 import HEADER_LENGTH
from mntapi.crypto.sectors import NULL, SectorCipher, check_name, parse_name, sector_cipher
from mntapi.errors import Denied, MntapiError, NotFound, Unsupported
from mntapi.keys import Key, Keys
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.units import KIB
from mntapi.volumes.luks.blocks import Decrypted
from mntapi.volumes.luks.header import Header, Place, Segment, read_luks1
from mntapi.volumes.luks.luks2 import read_luks2
from mntapi.volumes.luks.places import ROAMING, has_structure, known_as
from mntapi.volumes.luks.unlock import Attempt, find_master_key

_LOOKED_AT = 128 * KIB
"""Bytes of a volume among which some are not random: all superblocks of file systems and labels are there."""
_LUKS1 = b"LUKS\xba\xbe\0\1"


@dataclass(frozen=True, slots=True)
class _Opened:
    """What came of the keys: the cipher of each segment, or the reason why there is none."""

    ciphers: tuple[SectorCipher, ...] = ()
    reason: str | None = None
    state: VolumeState = VolumeState.OK


class Containers:
    """The encrypted volumes of a scan, by their ids and headers."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._opened: dict[tuple[str, bytes], _Opened] = {}

    def inside(self, container: Volume, detached: Key | None) -> Iterator[Volume]:
        """The container itself, with what there is to say of it, and the volume inside if a key opens it.

        ``detached``: its header, if that is elsewhere.
        """
        try:
            place = Place(container.blocks if detached is None else detached.secret)
            found = list(self._inside(container, place))
            if detached is not None and detached.volume == ROAMING and len(found) > 1:
                _check_fit(found[1])
            yield from found
        except MntapiError as error:
            self._keys.meet(*known_as(container))
            yield replace(container, state=_state(error), reason=_joined(container.reason, f"luks: {error}"))

    def _inside(self, container: Volume, place: Place) -> Iterator[Volume]:
        head = place.read_clipped(0, HEADER_LENGTH)
        header = read_luks1(place) if head.startswith(_LUKS1) else read_luks2(place)
        found = self._open(container, header, place, hashlib.sha256(head).digest())
        details = _details(header)
        if found.state is not VolumeState.OK:
            yield replace(container, state=found.state, reason=_joined(container.reason, found.reason), details=details)
            return
        parts = [_part(container.blocks, one) for one in header.segments]
        blocks = [
            Decrypted(part, cipher, unit=_unit(segment), first_sector=segment.first_sector)
            for (part, _), cipher, segment in zip(parts, found.ciphers, header.segments, strict=True)
        ]
        lacking = next((lack for _, lack in parts if lack), None)
        yield replace(container, details=details)
        yield Volume(
            id=f"luks:{header.uuid or container.id}",
            name=f"luks-{header.uuid[:8] or container.name}",
            kind="luks",
            blocks=blocks[0] if len(blocks) == 1 else Concat(blocks),
            state=VolumeState.INCOMPLETE if lacking else VolumeState.OK,
            reason=_joined(lacking, header.note),
            members=(container.id,),
            details=details,
        )

    def _open(self, container: Volume, header: Header, place: Place, fingerprint: bytes) -> _Opened:
        key, prefix = (container.id, fingerprint), f"luks{header.version}: "
        if key not in self._opened:
            try:
                self._opened[key] = self._try_keys(container, header, place, prefix)
            except MntapiError as error:
                self._opened[key] = _Opened((), f"{prefix}{error}", _state(error))
        return self._opened[key]

    def _try_keys(self, container: Volume, header: Header, place: Place, prefix: str) -> _Opened:
        self._keys.meet(*known_as(container), *_names(header))
        if header.unsupported is not None:
            return _Opened((), prefix + header.unsupported, VolumeState.UNSUPPORTED)
        for segment in header.segments:
            check_name(segment.encryption)
        names = (*known_as(container), *_names(header))
        attempt = Attempt(header, place, self._keys.memory, partial(self._keys.announce, container.name))
        wants = _wants(header)
        master = find_master_key(attempt, self._keys, names, container.name, prefix + wants)
        if master is not None:
            ciphers = [sector_cipher(one.encryption, master, sector_size=one.sector_size) for one in header.segments]
            return _Opened(tuple(ciphers))
        tried = f"wrong key ({attempt.wrong} tried)" if attempt.wrong else None
        reason = "; ".join(text for text in (tried, *attempt.troubles, wants, header.note) if text)
        return _Opened((), prefix + reason, VolumeState.ENCRYPTED)


def _check_fit(inside: Volume) -> None:
    """Raise Denied if the volume is noise, as one is that was decrypted by the header of another."""
    if not has_structure(read_clipped(inside.blocks, 0, _LOOKED_AT)):
        inside.blocks.close()
        what = "the header that was given does not fit: by it, all is noise; of an empty volume say VOLUME:header=FILE"
        raise Denied(what, reason="header")


def _state(error: MntapiError) -> VolumeState:
    if isinstance(error, NotFound | Denied):  # of a key file
        return VolumeState.ENCRYPTED
    return VolumeState.UNSUPPORTED if isinstance(error, Unsupported) else VolumeState.DAMAGED


def _unit(segment: Segment) -> int:
    return 1 if parse_name(segment.encryption).cipher == NULL else segment.sector_size


def _part(blocks: Blocks, segment: Segment) -> tuple[Blocks, str | None]:
    """The segment's bytes on the container, whole sectors, and what is lacking."""
    there = max(0, blocks.size - segment.offset)
    wanted = there if segment.length is None else segment.length
    length = min(there, wanted) // segment.sector_size * segment.sector_size
    lack = f"{wanted - length} of its {wanted} bytes are missing" if length < wanted else None
    return Slice(blocks, min(segment.offset, blocks.size), length), lack


def _names(header: Header) -> tuple[str, ...]:
    return (header.uuid, f"luks:{header.uuid}", f"luks-{header.uuid[:8]}") if header.uuid else ()


def _wants(header: Header) -> str:
    if not header.slots:
        return "no key slot is left: nothing opens it any more"
    return "wants a passphrase or key file; " + ", ".join(f"slot {slot.number} {slot.kdf}" for slot in header.slots)


def _joined(*parts: str | None) -> str | None:
    return "; ".join(part for part in parts if part) or None


def _details(header: Header) -> Mapping[str, str]:
    """What there is to say of it, for people."""
    segment = header.segments[0] if header.segments else None
    details = {
        "version": f"LUKS{header.version}",
        "uuid": header.uuid,
        "label": header.label,
        "cipher": segment.encryption if segment else "",
        "key_size": f"{header.key_size * 8} bits" if header.key_size else "",
        "sector_size": str(segment.sector_size) if segment else "",
        "segments": str(len(header.segments)) if len(header.segments) > 1 else "",
        "slots": ", ".join(map(_slot_text, header.slots)),
        **header.details,
    }
    return {name: text for name, text in details.items() if text}


def _slot_text(slot: KeySlot) -> str:
    priority = {0: " (ignored by default)", 2: " (preferred)"}.get(slot.priority, "")
    return f"{slot.number} {slot.kdf}{priority}"
