"""Which volume of the set a guest means by ``UUID=...``, ``/dev/vg0/home``, ``/dev/sda2``.

Names that say what a volume is are matched by that. Names that say where the machine found a disk cannot be: those count disks
in the order given, and the match says so wherever another disk could be meant. What cannot be told is no match.

Source: udev's 60-persistent-storage.rules, 10-dm.rules, 63-md-raid-arrays.rules and 69-lvm.rules for the links below
``/dev/disk``; libblkid's ``blkid_evaluate_tag``; Linux Documentation/admin-guide/devices.txt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mntapi.guests.finder import is_snapshot
from mntapi.guests.linux.fstab import CryptName
from mntapi.guests.types import Candidate
from mntapi.types import Volume, VolumeState

MAX_INDIRECT = 8
"""Names that lead to other names: crypttab's."""
_TAG = re.compile(r"(UUID|LABEL|PARTUUID|PARTLABEL|ID)=(.*)", re.DOTALL)
_BY = re.compile(r"/dev/disk/by-(uuid|label|partuuid|partlabel|id|path)/(.+)", re.DOTALL)
_HEX = re.compile(r"\\x([0-9a-fA-F]{2})")
_LETTERED = re.compile(r"/dev/(?:x?v|s|h|ub)d([a-z]{1,3})(\d{0,3})")
_NUMBERED = re.compile(r"/dev/(?:nvme(\d{1,3})n1|mmcblk(\d{1,3})|(?:cciss|ida|rd)/c0d(\d{1,3}))(?:p(\d{1,3}))?")
_ARRAY = re.compile(r"/dev/md(?:_d)?(\d{1,5})(?:p(\d{1,3}))?")
_PART = re.compile(r"(.*?)-part(\d{1,3})", re.DOTALL)
_LUKS_ID = re.compile(r"dm-uuid-CRYPT-LUKS[12]-([0-9a-fA-F]{32})-.*", re.DOTALL)
_LUKS_NAME = re.compile(r"luks-([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})")


@dataclass(frozen=True, slots=True)
class Match:
    """The volume that is meant, or None; ``reason`` says why there is none, or what is doubtful."""

    candidate: Candidate | None = None
    reason: str | None = None


class Devices:
    """The volumes of a set by the names that one guest has for them.

    Args:
        candidates: all of the set; snapshots are never meant.
        root: the volume that holds the guest.
        crypttab: its names for what it decrypts.
        arrays: its names for MD arrays (``/dev/md0``) and their UUIDs, from mdadm.conf.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        root: Candidate,
        crypttab: Sequence[CryptName] = (),
        arrays: Mapping[str, str] | None = None,
    ) -> None:
        self._candidates = [one for one in candidates if one is root or not is_snapshot(one.volume)]
        self._root = root
        self._crypt = {one.name: one.source for one in reversed(crypttab)}
        self._arrays = arrays or {}
        disks = (one.volume.disk for one in candidates)
        self._disks = 1 + max((disk for disk in disks if disk is not None), default=0)
        self._anchor: tuple[int, int] | None = None
        locked = [one.volume.name for one in self._candidates if one.volume.state is VolumeState.ENCRYPTED]
        self._locked = f"; it may be in {', '.join(locked[:8])}, which is locked" if locked else ""

    def anchor(self, source: str) -> None:
        """What the guest calls its root. If that counts disks, it tells which disk of the set is meant by that number."""
        place = _place(source)
        if place is not None and self._root.volume.disk is not None:
            self._anchor = (place[0], self._root.volume.disk)

    def find(self, source: str) -> Match:
        """The volume that the guest means."""
        return self._find(source, MAX_INDIRECT)

    def _find(self, source: str, depth: int) -> Match:
        if match := _TAG.fullmatch(source):
            return self._by_tag(match[1], match[2].strip("\"'"), depth)
        if match := _BY.fullmatch(source):
            value = _HEX.sub(lambda code: chr(int(code[1], 16)), match[2])
            return self._by_path(value) if match[1] == "path" else self._by_tag(match[1].upper(), value, depth)
        if source.startswith("/dev/mapper/"):
            return self._mapped(source.removeprefix("/dev/mapper/"), depth)
        if _ARRAY.fullmatch(source) or source.startswith("/dev/md/"):
            return self._array(source)
        place = _place(source)
        if place is not None:
            return self._by_order(source, *place)
        if source == "/dev/root":
            return Match(self._root)
        parts = source.split("/")
        if len(parts) == 4 and source.startswith("/dev/"):
            return self._logical("-".join(part.replace("-", "--") for part in parts[2:]), source)
        return Match(None, f"{source} names no volume that could be told from others")

    def _by_tag(self, tag: str, value: str, depth: int) -> Match:
        if tag == "ID":
            return self._by_id(value, depth)
        return self._one(_TESTS[tag], value, f"{tag}={value}")

    def _one(self, test: Callable[[Candidate, str], bool], value: str, shown: str) -> Match:
        """The only volume that passes; of several the root, or that on the root's disk."""
        found = [one for one in self._candidates if test(one, value)]
        if not found:
            return Match(None, f"no volume with {shown} in the set{self._locked}")
        near = [one for one in found if one is self._root] or [
            one for one in found if one.volume.disk is not None and one.volume.disk == self._root.volume.disk
        ]
        if len(found) == 1 or _is_btrfs(found):
            return Match((near or found)[0])
        names = ", ".join(one.volume.name for one in found)
        if len(near) != 1:
            return Match(None, f"{names} all have {shown}")
        return Match(near[0], f"{names} all have {shown}; taken is the one on the system's own disk")

    def _by_id(self, value: str, depth: int) -> Match:
        """Links of ``by-id``: device-mapper's and MD's say what they are, all others which disk it is, which is not known."""
        if value.startswith("md-uuid-"):
            return self._array_with(value.removeprefix("md-uuid-"))
        if value.startswith("md-name-"):
            return self._array("/dev/md/" + value.removeprefix("md-name-"))
        if value.startswith("dm-name-"):
            return self._mapped(value.removeprefix("dm-name-"), depth)
        if match := _LUKS_ID.fullmatch(value):
            return self._one(_is_luks, match[1], f"LUKS UUID {match[1]}")
        if value.startswith("dm-uuid-LVM-"):
            return self._one(_is_lvm, value.removeprefix("dm-uuid-LVM-")[32:], f"LVM UUID {value[12:]}")
        return self._by_path(value)

    def _by_path(self, value: str) -> Match:
        """The name of a disk in its machine, and a partition: told only where one disk alone has such a partition."""
        match = _PART.fullmatch(value)
        number = int(match[2]) if match else 0
        found = [one for one in self._candidates if _number(one.volume) == number and one.volume.disk is not None]
        place = f"partition {number}" if number else "a volume on all of it"
        if len(found) != 1:
            return Match(None, f"{value}: {len(found)} disks of the set have {place}, and nothing tells which it is")
        doubt = f"by its number: of {self._disks} disks only one has {place}" if self._disks > 1 else None
        return Match(found[0], doubt)

    def _mapped(self, name: str, depth: int) -> Match:
        """device-mapper's names: logical volumes, what crypttab decrypts, else perhaps a disk over several paths."""
        value = _HEX.sub(lambda code: chr(int(code[1], 16)), name)
        found = [one for one in self._candidates if one.volume.kind == "lvm" and one.volume.name == value]
        if found:
            return Match(found[0]) if len(found) == 1 else Match(None, f"{len(found)} logical volumes are named {value}")
        if value in self._crypt and depth:
            return self._decrypted(value, self._crypt[value], depth - 1)
        if match := _LUKS_NAME.fullmatch(value):
            return self._one(_is_luks, match[1], f"LUKS UUID {match[1]}")
        return Match(None, f"no logical volume and no encrypted one is known as {value}{self._locked}")

    def _logical(self, name: str, source: str) -> Match:
        found = self._mapped(name, 0)
        return found if found.candidate else Match(None, f"no logical volume {source} in the set{self._locked}")

    def _decrypted(self, name: str, source: str, depth: int) -> Match:
        """What is inside the volume that crypttab names."""
        tag = _TAG.fullmatch(source) or _BY.fullmatch(source)
        if tag and tag[1].upper() == "UUID":
            return self._one(_is_luks, tag[2].strip("\"'"), f"LUKS UUID {tag[2]}")
        if tag and tag[1].upper() == "PARTUUID":
            return self._one(_lies_on, tag[2].strip("\"'"), f"an encrypted partition {tag[2]}")
        outer = self._find(source, depth)
        if outer.candidate is not None:
            inner = [one for one in self._candidates if outer.candidate.volume.id in one.volume.members]
            return Match(inner[0] if len(inner) == 1 else outer.candidate, outer.reason)
        decrypted = [one for one in self._candidates if one.volume.kind == "luks"]
        if len(decrypted) == 1 and not self._locked:
            return Match(decrypted[0], f"{name} is {source}, and this is the only encrypted volume")
        return Match(None, f"{name} is {source}, which cannot be told from others{self._locked}")

    def _array(self, source: str) -> Match:
        """An MD array by mdadm.conf, by its own name, or because there is no other."""
        match = _ARRAY.fullmatch(source)
        base = f"/dev/md{match[1]}" if match else source
        arrays = list(self._containers("md"))
        uuid = self._arrays.get(base)
        own = match[1] if match else source.removeprefix("/dev/md/")
        ids = [key for key, name in arrays if name.rpartition(":")[2] == own.rpartition(":")[2]]
        reason = None
        if uuid is not None:
            ids = [key for key, _ in arrays if _bare(key) == _bare(f"md:{uuid}")]
        elif not ids and len(arrays) == 1:
            ids, reason = [arrays[0][0]], "the only array of the set"
        if len(ids) != 1:
            return Match(None, f"{source}: {len(ids)} of the {len(arrays)} arrays in the set could be meant")
        number = int(match[2]) if match and match[2] else 0
        return Match(self._part_of(ids[0], number), reason if self._part_of(ids[0], number) else f"{source} is not in the set")

    def _containers(self, kind: str) -> Iterator[tuple[str, str]]:
        """Ids and names of all volumes of a kind, also of those that only others lie on, as far as these tell."""
        seen: set[str] = set()
        for one in self._candidates:
            if one.volume.kind == kind:
                seen.add(one.volume.id)
                yield one.volume.id, one.volume.details.get("name") or one.volume.name.removeprefix("md-")
        for one in self._candidates:
            for member in one.volume.members:
                if member.startswith(f"{kind}:") and member not in seen:
                    seen.add(member)
                    yield member, one.volume.name.removeprefix("md-").rpartition("p")[0]

    def _part_of(self, container: str, number: int) -> Candidate | None:
        for one in self._candidates:
            whole = one.volume.id == container and not number
            if whole or (container in one.volume.members and number and _number(one.volume) == number):
                return one
        return None

    def _array_with(self, uuid: str) -> Match:
        bare, _, number = uuid.partition("-part")
        for key, _ in self._containers("md"):
            if _bare(key) == _bare(f"md:{bare}"):
                found = self._part_of(key, int(number) if number.isdigit() else 0)
                return Match(found) if found else Match(None, f"array {uuid} has no such volume")
        return Match(None, f"no array with UUID {uuid} in the set")

    def _by_order(self, source: str, index: int, number: int) -> Match:
        disk, is_sure = self._disk(index)
        found = [
            one
            for one in self._candidates
            if one.volume.disk == disk and _number(one.volume) == number and one.volume.kind in ("partition", "disk")
        ]
        inside = [one for one in self._candidates if one.volume.disk == disk and one.volume.kind in ("luks", "lvm")]
        if not found:
            more = "; it may be one that others lie on" if inside else ""
            return Match(None, f"{source}: disk {disk} of the set has no such volume{more}")
        return Match(found[0], None if is_sure else f"{source} counts disks, and they were taken in the order given")

    def _disk(self, index: int) -> tuple[int, bool]:
        """The disk of the set that the guest counts as this, and whether no other can be."""
        if self._anchor is None:
            return index, self._disks == 1
        counted, disk = self._anchor
        if counted == index:
            return disk, True
        rest = [one for one in range(self._disks) if one != disk]
        place = index - (index > counted)
        return (rest[place], len(rest) == 1) if place < len(rest) else (self._disks, False)


def _place(source: str) -> tuple[int, int] | None:
    """Disk and partition that a name counts, from 0 and from 1; partition 0 is the whole disk."""
    if match := _LETTERED.fullmatch(source):
        index = 0
        for letter in match[1]:
            index = index * 26 + ord(letter) - ord("a") + 1
        return index - 1, int(match[2] or 0)
    if match := _NUMBERED.fullmatch(source):
        return int(next(group for group in match.groups()[:3] if group)), int(match[4] or 0)
    return None


def _number(volume: Volume) -> int | None:
    """A partition's number in its table; 0 of a whole disk."""
    if volume.kind == "disk":
        return 0
    if volume.kind != "partition":
        return None
    match = re.search(r"p(\d+)(?:~\d+)?$", volume.name)
    return int(match[1]) if match else None


def _own_id(volume: Volume) -> str:
    """The id without what tells a clone from its original."""
    return volume.id.partition("@")[0].lower()


def _bare(identifier: str) -> str:
    return re.sub(r"[-:]", "", identifier).lower()


def _is_btrfs(found: Sequence[Candidate]) -> bool:
    """One file system over several volumes: each of them stands for it."""
    return all(one.signature is not None and one.signature.kind == "btrfs" for one in found)


def _has_uuid(candidate: Candidate, uuid: str) -> bool:
    signature = candidate.signature
    return signature is not None and bool(uuid) and (signature.uuid or "").lower() == uuid.lower()


def _has_label(candidate: Candidate, label: str) -> bool:
    return candidate.signature is not None and bool(label) and candidate.signature.label == label


def _has_partuuid(candidate: Candidate, uuid: str) -> bool:
    return _own_id(candidate.volume) in (f"gpt:{uuid.lower()}", f"mbr:{uuid.lower()}")


def _has_partlabel(candidate: Candidate, label: str) -> bool:
    return bool(label) and candidate.volume.table_label == label


def _is_luks(candidate: Candidate, uuid: str) -> bool:
    """The volume inside, or the locked one."""
    if candidate.volume.kind == "luks":
        return _bare(_own_id(candidate.volume)) == _bare(f"luks:{uuid}")
    signature = candidate.signature
    return signature is not None and signature.kind == "crypto_LUKS" and _bare(signature.uuid or "") == _bare(uuid)


def _lies_on(candidate: Candidate, partuuid: str) -> bool:
    """What is inside an encrypted partition of this PARTUUID, or that partition, locked."""
    wanted = (f"gpt:{partuuid.lower()}", f"mbr:{partuuid.lower()}")
    below = {member.partition("@")[0].lower() for member in candidate.volume.members}
    return _own_id(candidate.volume) in wanted or not below.isdisjoint(wanted)


def _is_lvm(candidate: Candidate, uuid: str) -> bool:
    return candidate.volume.kind == "lvm" and _bare(candidate.volume.id) == _bare(f"lvm:{uuid}")


_TESTS = {"UUID": _has_uuid, "LABEL": _has_label, "PARTUUID": _has_partuuid, "PARTLABEL": _has_partlabel}
