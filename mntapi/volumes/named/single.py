"""What is recognised by one magic at the start: VDO, and devices of a Ceph BlueStore.

Source: dm-vdo of Linux, drivers/md/dm-vdo/encodings.c (geometry block); Ceph src/os/bluestore (the text label of a device).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mntapi.blocks import read_clipped
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.volumes.named.kinds import UNREAD, Device, Superblocks, told

_SIZE = 64
_VDO = b"dmvdo001"
_BLUESTORE = re.compile(rb"bluestore block device\n([0-9a-f-]{36})?")


@dataclass(frozen=True, slots=True)
class Mark:
    """Which manager, and the UUID of the device if the mark has one."""

    manager: str
    what: str
    uuid: str


def parse(head: bytes) -> Mark | None:
    """The mark in the first 64 bytes."""
    if head.startswith(_VDO):
        return Mark("vdo", "a VDO volume, deduplicated and compressed", "")
    match = _BLUESTORE.match(head)
    return Mark("ceph", "a device of a Ceph object store", (match[1] or b"").decode()) if match else None


def _find(blocks: Blocks) -> Mark | None:
    return parse(read_clipped(blocks, 0, _SIZE))


def _describe(devices: Sequence[Device[Mark]]) -> Iterator[Volume]:
    for volume, mark in devices:
        details = {"manager": mark.manager, "device-uuid": mark.uuid}
        yield told(volume, VolumeState.UNSUPPORTED, f"{mark.what}: {UNREAD}", details)


KIND = Superblocks(_find, _describe)
