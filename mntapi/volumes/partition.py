"""A partition: a range of a disk that a table names. What MBR and GPT have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from mntapi.blocks import Slice
from mntapi.errors import MntapiError
from mntapi.types import Volume, VolumeState

KIND = "partition"


def may_hold_table(volume: Volume) -> bool:
    """Whether to look for a partition table. Not on a partition: its boot sector may hold a copy of the disk's table."""
    return volume.kind != KIND


def partition(
    container: Volume,
    number: int,
    start: int,
    length: int,
    *,
    key: str,
    type_code: str,
    label: str | None = None,
    reason: str | None = None,
) -> Volume:
    """The partition of that number at ``start`` (bytes in the container), ``length`` bytes long.

    It covers the bytes that exist: one that goes past the end of its disk is INCOMPLETE, one of no bytes or less DAMAGED.

    Args:
        container: what the table is on.
        number: as Linux counts them, from 1.
        start: in bytes, from the start of the container.
        length: in bytes, as the table says.
        key: the volume's id.
        type_code: the table's word for what is inside.
        label: the table's name for it.
        reason: what else there is to say.
    """
    there = max(0, min(length, container.size - start))
    state, text = _state(length, there)
    return Volume(
        id=key,
        name=f"{container.name}p{number}",
        kind=KIND,
        blocks=Slice(container.blocks, min(start, container.size), there),
        disk=container.disk,
        offset=None if container.offset is None else container.offset + start,
        state=state,
        reason="; ".join(part for part in (text, reason) if part) or None,
        type_code=type_code,
        table_label=label,
        members=(container.id,),
    )


def _state(length: int, there: int) -> tuple[VolumeState, str]:
    """Of a partition of so many bytes, of which so many are there: its state, and why."""
    if length <= 0:
        return VolumeState.DAMAGED, f"the table gives it {length} bytes"
    if there < length:
        return VolumeState.INCOMPLETE, f"goes past the end of the disk: {length - there} of its {length} bytes are missing"
    return VolumeState.OK, ""


def each_table(containers: Sequence[Volume], partitions: Callable[[Volume], Iterable[Volume]]) -> Iterator[Volume]:
    """The partitions of every container; one that fails is given back itself, as DAMAGED, and the others are not affected."""
    for container in containers:
        try:
            yield from partitions(container)
        except MntapiError as error:
            yield replace(container, state=VolumeState.DAMAGED, reason=str(error))
