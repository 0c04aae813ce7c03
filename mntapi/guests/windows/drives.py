"""Drive letters: what ``MountedDevices`` of the SYSTEM hive says, and which volumes of the set are meant.

A letter stands for a partition of an MBR disk (signature of the disk, byte at which it begins), one of a GPT disk or a dynamic
volume (GUID), or a device. What lies in a partition (BitLocker) has the letter of the partition.

Source: winreg-kb, "Mounted devices". That a volume's name can be made of the partition's place, without a value that says so:
observed in the SYSTEM hive of a Windows 10 1709 (``Volume{629458e4-0000-0000-0000-010000000000}`` beside its data). The byte
order of a dynamic volume's GUID was not seen, so that both are tried.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from mntapi.guests.files import one_line
from mntapi.guests.finder import is_snapshot
from mntapi.guests.types import Candidate, MountKind, MountPoint
from mntapi.guests.windows.regf.records import utf16
from mntapi.guests.windows.registry import Registry

MAX_DEVICES = 4096
"""Values of ``MountedDevices``: every stick that was ever plugged in has two."""

_KEY = "MountedDevices"
_MBR = struct.Struct("<IQ")
_GUID_PREFIX = b"DMIO:ID:"
_LETTER = re.compile(r"\\DosDevices\\([A-Z]):", re.IGNORECASE)
_VOLUME_NAME = re.compile(r"\\\?\?\\Volume\{([0-9a-f-]{36})\}", re.IGNORECASE)
_PLACE_NAME = "-0000-0000-0000-"
_GUID_ID = re.compile(r"(?:gpt|ldm):([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})")
_MBR_ID = re.compile(r"(?:mbr|disk):([0-9a-f]{8})(?:[-@]|$)")
_DEVICES = (
    ("cdrom", "a CD or DVD drive"),
    ("floppy", "a floppy drive"),
    ("usbstor", "a USB device"),
    ("removable", "a removable medium"),
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a value of ``MountedDevices`` says: keys that one volume has, none for a device; ``text`` is for people."""

    text: str
    keys: tuple[object, ...] = ()


def parse_identity(raw: bytes) -> Identity:
    """The data of a value. Never fails: what is not known is a device with a strange name."""
    if len(raw) == _MBR.size:
        signature, offset = _MBR.unpack(raw)
        return Identity(f"{signature:08x}+{offset}", ((signature, offset),))
    if raw.startswith(_GUID_PREFIX) and len(raw) == len(_GUID_PREFIX) + 16:
        guid = raw[len(_GUID_PREFIX) :]
        orders = (str(UUID(bytes_le=guid)), str(UUID(bytes=guid)))
        return Identity(f"DMIO:ID:{orders[0]}", orders)
    return Identity(one_line(utf16(raw)) or raw[:64].hex(" ") or "nothing")


class Places:
    """The volumes of the set by what ``MountedDevices`` may call them."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = {candidate.volume.id: candidate for candidate in candidates}
        self._found: dict[object, list[str]] = {}
        for candidate in candidates:
            if is_snapshot(candidate.volume):
                continue
            for key in dict.fromkeys(_keys(candidate)):
                self._found.setdefault(key, []).append(candidate.volume.id)

    def find(self, identity: Identity) -> list[str]:
        """Ids of the volumes that are meant: none, one, or those of copies of a disk."""
        for key in identity.keys:
            if key in self._found:
                return self._found[key]
        return []


def _keys(candidate: Candidate) -> Iterator[object]:
    """What ``MountedDevices`` may call a volume: it or what it lies in. Of its members no more than the ids may be known."""
    for volume in (candidate.volume, *candidate.below):
        guids = [volume.id, *volume.members] if len(volume.members) == 1 else [volume.id]
        yield from (match[1] for match in map(_GUID_ID.match, guids) if match)
        disk = _MBR_ID.match("".join(volume.members[:1]) if volume.kind == "ldm" else volume.id)
        if disk and volume.offset is not None:
            yield (int(disk[1], 16), volume.offset)


class Drives:
    """What one system calls its volumes.

    Attributes:
        mounts: a mount point for each drive letter. Its ``source`` is what the letter stands for, and the volume's own name.
    """

    def __init__(self, system: Registry, places: Places) -> None:
        self.mounts: list[MountPoint] = []
        self.places = places
        self._names: dict[str, Identity] = {}
        letters: dict[str, Identity] = {}
        for value in system.values(_KEY, MAX_DEVICES):
            letter, name = _LETTER.fullmatch(value.name), _VOLUME_NAME.fullmatch(value.name)
            raw = system.bytes_of(value) if letter or name else None
            if raw is None:
                continue
            identity = parse_identity(raw)
            if name:
                self._names.setdefault(name[1].lower(), identity)
            elif letter and letters.setdefault(letter[1].upper(), identity) != identity:
                system.note(f"MountedDevices has drive {letter[1].upper()}: twice; the first counts")
        for drive, identity in letters.items():
            self.mounts.append(self.mount_point(f"{drive}:\\", identity, self._name_of(identity)))

    def at(self, letter: str) -> MountPoint | None:
        """What a letter stands for."""
        return next((mount for mount in self.mounts if mount.path[0] == letter.upper()), None)

    def of(self, volume: str) -> MountPoint | None:
        """A letter of a volume."""
        return next((mount for mount in self.mounts if mount.volume == volume), None)

    def mount_point(self, path: str, identity: Identity, name: str | None) -> MountPoint:
        """The volume or device at a path; ``name`` is the GUID in what the system calls it."""
        source = " ".join(filter(None, (identity.text, f"\\\\?\\Volume{{{name}}}" if name else None)))
        volumes = self.places.find(identity)
        if not volumes:
            return MountPoint(path, MountKind.MISSING, source, reason=_why_missing(identity))
        reason = f"volumes of the set with the same identity: {', '.join(volumes)}" if len(volumes) > 1 else None
        return self.of_volume(path, source, volumes[0], reason)

    def of_volume(self, path: str, source: str, volume: str, reason: str | None) -> MountPoint:
        """A volume of the set at a path."""
        signature = self.places.candidates[volume].signature
        kind = signature.kind if signature else None
        return MountPoint(path, MountKind.VOLUME, source, volume=volume, filesystem=kind, reason=reason)

    def named(self, guid: str) -> Identity:
        """What is called ``\\\\?\\Volume{guid}``: as ``MountedDevices`` says, or the GPT partition of that GUID, or the MBR
        partition whose place makes up the name."""
        if guid in self._names:
            return self._names[guid]
        keys: list[object] = [guid]
        if guid[8:24] == _PLACE_NAME:
            keys.append((int(guid[:8], 16), int.from_bytes(bytes.fromhex(guid[24:]), "little") << 16))
        return Identity("", tuple(keys))

    def _name_of(self, identity: Identity) -> str | None:
        """The reverse of ``named``; None for a device."""
        for guid, other in self._names.items():
            if identity.keys and other.keys == identity.keys:
                return guid
        for key in identity.keys:
            if isinstance(key, str):
                return key
            if isinstance(key, tuple) and key[1] % (1 << 16) == 0 and key[1] < 1 << 64:
                return f"{key[0]:08x}{_PLACE_NAME}{(key[1] >> 16).to_bytes(6, 'little').hex()}"
        return None


def _why_missing(identity: Identity) -> str:
    if identity.keys:
        return "no volume of the set"
    text = identity.text.lower()
    return next((what for word, what in _DEVICES if word in text), "a device") + ", not a volume of the set"
