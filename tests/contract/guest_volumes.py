"""Volumes for finding guests on, without disks below: a file system made of Python values, an id, and what a probe says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from contract.memory_filesystem import Memory, MemoryFileSystem
from mntapi.errors import Unsupported
from mntapi.guests.types import Candidate
from mntapi.types import FileSystem, Signature, Usage, Volume, VolumeState


def candidate(
    content: Mapping[str, object] | FileSystem | None,
    identifier: str,
    *,
    kind: str = "partition",
    name: str | None = None,
    disk: int | None = 0,
    fs_kind: str = "ext4",
    uuid: str | None = None,
    label: str | None = None,
    usage: Usage = Usage.FILESYSTEM,
    state: VolumeState = VolumeState.OK,
    type_code: str | None = None,
    table_label: str | None = None,
    members: Sequence[str] = (),
    details: Mapping[str, str] | None = None,
) -> Candidate:
    """A volume; ``content`` None is one whose files cannot be read."""
    number = int(identifier.rpartition("-")[2], 16) if identifier.startswith("mbr:") else 0
    volume = Volume(
        id=identifier,
        name=name or f"disk{disk}p{number}",
        kind=kind,
        blocks=Memory(b""),
        disk=disk,
        state=state,
        type_code=type_code,
        table_label=table_label,
        members=tuple(members),
        details=details or {},
    )
    fs = MemoryFileSystem(content) if isinstance(content, Mapping) else content

    def opened() -> FileSystem:
        if fs is None:
            raise Unsupported(f"no reader for {fs_kind} in this version", reason="no-reader")
        return fs

    return Candidate(volume, Signature(fs_kind, usage, label, uuid), opened)


def of_kind(content: Mapping[str, object], kind: str) -> MemoryFileSystem:
    """The file system of that kind: ``btrfs``."""
    fs = MemoryFileSystem(content)
    fs.kind = kind
    return fs


def with_state(one: Candidate, state: VolumeState, reason: str | None = None) -> Candidate:
    """The same volume in another state."""
    return replace(one, volume=replace(one.volume, state=state, reason=reason))
