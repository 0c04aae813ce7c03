"""From encrypted volumes to what is in them; see the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mntapi.blocks import read_clipped
from mntapi.errors import Denied, MntapiError
from mntapi.keys import Keys
from mntapi.types import Volume, VolumeState
from mntapi.units import SECTOR, format_size
from mntapi.volumes.bitlocker.blocks import SectorCipher
from mntapi.volumes.bitlocker.boot import Boot, parse_boot
from mntapi.volumes.bitlocker.layout import Form, Layout, assemble, plan
from mntapi.volumes.bitlocker.metadata import MAX_BLOCK, METHODS, Metadata, State, parse_metadata
from mntapi.volumes.bitlocker.protectors import describe, unlock

_MAX_ASKED = 3
"""Times a user is asked for the key of one volume."""


class Containers:
    """Remembers the ciphers of what it unlocked, so that a later round of the scan derives no key again."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._unlocked: dict[str, SectorCipher | MntapiError] = {}

    def volumes(self, claimed: Sequence[Volume]) -> Iterator[Volume]:
        for container in claimed:
            try:
                yield self._volume(container)
            except MntapiError as error:
                yield replace(container, state=VolumeState.DAMAGED, reason=str(error))

    def _volume(self, container: Volume) -> Volume:
        boot = parse_boot(read_clipped(container.blocks, 0, SECTOR))
        metadata = _metadata(container, boot)
        layout = plan(boot, metadata, container.blocks)
        details = _details(metadata, layout)
        sector_cipher = None
        if metadata.state != State.DECRYPTED:
            try:
                sector_cipher = self._cipher(container, boot, metadata)
            except Denied as error:
                reason = f"bitlocker: {_locked(metadata, error)}"
                return replace(container, state=VolumeState.ENCRYPTED, reason=reason, details=details)
        state, why = _state(container, metadata, layout)
        return Volume(
            id=f"bitlocker:{metadata.identifier}",
            name=f"bitlocker-{str(metadata.identifier)[:8]}",
            kind="bitlocker",
            blocks=assemble(layout, container.blocks, metadata, boot, sector_cipher),
            state=state,
            reason=why,
            members=(container.id,),
            details=details,
        )

    def _cipher(self, container: Volume, boot: Boot, metadata: Metadata) -> SectorCipher:
        from mntapi.volumes.bitlocker.ciphers import cipher  # here: scans without BitLocker need no cryptography

        if container.id not in self._unlocked:
            try:
                method, key = self._unlock(container, metadata)
                self._unlocked[container.id] = cipher(method, key, boot.sector_size)
            except MntapiError as error:
                self._unlocked[container.id] = error
        known = self._unlocked[container.id]
        if isinstance(known, MntapiError):
            raise known
        return known

    def _unlock(self, container: Volume, metadata: Metadata) -> tuple[int, bytes]:
        """The method and the key, by the keys given, or else by what a person answers."""
        try:
            return unlock(metadata, self._keys.of(container.id, container.name, str(metadata.identifier)))
        except Denied as error:
            trouble = error
        for _ in range(_MAX_ASKED):
            answers = tuple(self._keys.asked(container.name, _locked(metadata, trouble)))
            if not answers:
                raise trouble
            try:
                return unlock(metadata, answers)
            except Denied as error:
                trouble = error
            finally:
                for key in answers:
                    key.secret.wipe()
        self._keys.give_up(container.name, trouble.what)
        raise trouble


def _metadata(container: Volume, boot: Boot) -> Metadata:
    """The first copy of the metadata that is whole; the error of the first if none is."""
    errors: list[MntapiError] = []
    for at in boot.metadata:
        try:
            return parse_metadata(read_clipped(container.blocks, at, MAX_BLOCK), at)
        except MntapiError as error:
            errors.append(error)
    raise errors[0]


def _locked(metadata: Metadata, error: Denied) -> str:
    """What opens the volume, after why it is not open."""
    wanted = " or ".join(dict.fromkeys(describe(protector) for protector in metadata.protectors)) or "a key that is not there"
    return f"wants {wanted}" if error.reason == "locked" else f"{error.what}; wants {wanted}"


def _details(metadata: Metadata, layout: Layout) -> dict[str, str]:
    method = METHODS.get(metadata.method, (f"0x{metadata.method:04x}", 0))[0]
    details = {
        "uuid": str(metadata.identifier),
        "cipher": "none" if metadata.state == State.DECRYPTED else method,
        "protectors": "; ".join(describe(protector) for protector in metadata.protectors),
        "encrypted": f"{format_size(layout.total(Form.ENCRYPTED))} of {format_size(layout.size)}",
    }
    return details | ({"description": metadata.description} if metadata.description else {})


def _state(container: Volume, metadata: Metadata, layout: Layout) -> tuple[VolumeState, str | None]:
    """The state of an unlocked volume, and why."""
    missing = metadata.state_offset - layout.size if metadata.state == State.ENCRYPTED else 0
    if container.state is not VolumeState.OK:
        return container.state, container.reason
    if missing > 0:
        return VolumeState.INCOMPLETE, f"goes past the end of its disk: {missing} bytes are missing"
    if unknown := layout.total(Form.UNKNOWN):
        return VolumeState.INCOMPLETE, f"its conversion was interrupted: it is not known whether {unknown} bytes are encrypted"
    if layout.is_converting:
        return VolumeState.DIRTY, "is being converted: what was under way when the disk was copied may read wrong"
    return VolumeState.OK, None
