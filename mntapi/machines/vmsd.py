"""``.vmsd``, the list of a VMware machine's snapshots.

The files of a snapshot are the ones that were the newest when it was taken: opened as disks they show the machine as it was.

Source: VMware knowledge base 1015180 and 337269 ("Understanding the relationship between snapshots and their disks");
times: observed, microseconds since 1970 in two halves, the lower one signed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mntapi.errors import Corrupt
from mntapi.machines.model import MachineDisk, Snapshot
from mntapi.machines.settings import number, parse_settings, read_text
from mntapi.types import FileBlocks

MAX_SNAPSHOTS = 512
"""Snapshots of a machine; VMware allows 496 in all branches, 32 in a chain."""
MAX_DISKS = 1024
_MAX_UID = (1 << 31) - 1
_HALF = re.compile(r"-?[0-9]{1,10}")


def read_snapshots(file: FileBlocks) -> tuple[Snapshot, ...]:
    """The snapshots in a ``.vmsd``, in its order. Raises Corrupt if it is damaged. An empty file has none."""
    return parse_vmsd(read_text(file, file.path), file.path) if file.size else ()


def parse_vmsd(raw: bytes, path: str) -> tuple[Snapshot, ...]:
    """See ``read_snapshots``."""
    settings = parse_settings(raw, path)
    count = number(settings, "snapshot.numsnapshots", path, MAX_SNAPSHOTS) or 0
    current = number(settings, "snapshot.current", path, _MAX_UID)
    # entries are numbered in steps of one, and one that was deleted leaves no gap
    snapshots = [_snapshot(settings, f"snapshot{index}", current, path) for index in range(count)]
    uids = {snapshot.uid for snapshot in snapshots}
    if len(uids) != len(snapshots):
        raise Corrupt("two snapshots have one identifier", path=path, reason="machine")
    return tuple(snapshots)


def _snapshot(settings: Mapping[str, str], key: str, current: int | None, path: str) -> Snapshot:
    uid = number(settings, f"{key}.uid", path, _MAX_UID)
    if uid is None:
        raise Corrupt(f"the entry {key} is missing", path=path, expected=f"{key}.uid", reason="machine")
    disks = []
    for index in range(number(settings, f"{key}.numdisks", path, MAX_DISKS) or 0):
        name = settings.get(f"{key}.disk{index}.filename")
        if not name:
            raise Corrupt(f"a disk of {key} has no file", path=path, expected=f"{key}.disk{index}.fileName", reason="machine")
        disks.append(MachineDisk(name, settings.get(f"{key}.disk{index}.node", ""), index))
    return Snapshot(
        uid=uid,
        name=settings.get(f"{key}.displayname", ""),
        parent=number(settings, f"{key}.parent", path, _MAX_UID),
        disks=tuple(disks),
        description=settings.get(f"{key}.description") or None,
        created_ns=_created(settings, key),
        is_current=uid == current,
    )


def _created(settings: Mapping[str, str], key: str) -> int | None:
    """The time is for people to read: one that is damaged is as good as none."""
    high, low = settings.get(f"{key}.createtimehigh", ""), settings.get(f"{key}.createtimelow", "")
    if not (_HALF.fullmatch(high) and _HALF.fullmatch(low)):
        return None
    return ((int(high) & 0xFFFFFFFF) << 32 | int(low) & 0xFFFFFFFF) * 1000
