"""Whole disks as volumes: what a scan begins with, and what it ends with where a disk has no table.

The id of a disk is what its own table calls it: the disk GUID of a GPT, the disk signature of an MBR. Without a table there is
nothing on the disk that stays the same (a file system's UUID changes with the file system), so the file's name stands in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from os.path import basename

from mntapi.errors import MntapiError
from mntapi.types import Blocks, Image, Volume
from mntapi.volumes import gpt, mbr


def whole_disks(disks: Sequence[Image | Blocks]) -> list[Volume]:
    """Each disk as a volume of kind ``disk``: ``disk0``, ``disk1`` ... with an id that does not depend on their order."""
    blocks = [disk.blocks if isinstance(disk, Image) else disk for disk in disks]
    ids = _ids(blocks, [path_of(disk) for disk in disks])
    return [
        Volume(id=ids[index], name=f"disk{index}", kind="disk", blocks=disk, disk=index, offset=0)
        for index, disk in enumerate(blocks)
    ]


def path_of(disk: Image | Blocks) -> str | None:
    """The path of a disk's file, for messages; None where there is none."""
    path = getattr(disk, "path", None)
    return path if isinstance(path, str) else None


def _ids(disks: Sequence[Blocks], paths: Sequence[str | None]) -> list[str]:
    """An id for each: as short as tells it from all others. Copies of a disk differ only in their files' names."""
    choices = []
    for index, (blocks, path) in enumerate(zip(disks, paths, strict=True)):
        name = basename(path) if path else f"#{index}"
        own = f"disk:{_identity(blocks) or name}"
        choices.append((own, f"{own}@{name}", f"{own}@{path}", f"{own}@{path}#{index}"))
    times = Counter(choice for of_disk in choices for choice in set(of_disk))
    return [next((choice for choice in of_disk if times[choice] == 1), of_disk[-1]) for of_disk in choices]


def _identity(blocks: Blocks) -> str | None:
    """What the disk's table calls the disk, or None. A table that cannot be read is for the scan to tell about."""
    try:
        table = gpt.find_table(blocks)
        if table is not None:
            return table.header.disk_guid
        record = mbr.find_table(blocks)
    except MntapiError:
        return None
    return f"{record.signature:08x}" if record is not None and record.signature else None
