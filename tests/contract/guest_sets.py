"""Sets of volumes for tests of the guest tree: file systems made of Python values, no disk."""

from __future__ import annotations

from collections.abc import Mapping

from contract.memory_filesystem import MemoryFileSystem
from mntapi.blocks import Zero
from mntapi.errors import MntapiError, Unsupported
from mntapi.guests.types import Family, Guest, MountKind, MountPoint
from mntapi.session.diskset import Content
from mntapi.session.guest_tree import GuestTree, assemble
from mntapi.types import FileSystem, Signature, Usage, Volume, VolumeState


class FakeSet:
    """Volumes by name: a folder as ``MemoryFileSystem`` takes it, an error, or ``"swap"``. Their ids are ``id:NAME``."""

    def __init__(self, content: Mapping[str, object], details: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self._systems = {f"id:{name}": _system(one) for name, one in content.items()}
        self.volumes = tuple(
            Volume(f"id:{name}", name, "partition", Zero(1 << 20), details=(details or {}).get(name, {})) for name in content
        )

    def filesystem(self, volume: Volume) -> FileSystem:
        found = self._systems[volume.id]
        if isinstance(found, MntapiError):
            raise found
        return found

    def content(self, volume: Volume) -> Content:
        usage = Usage.SWAP if self._systems[volume.id] is _SWAP else Usage.FILESYSTEM
        return Content(Signature("any", usage), VolumeState.OK, None)


_SWAP = Unsupported("holds no file system", reason="swap")


def _system(content: object) -> FileSystem | MntapiError:
    if content == "swap":
        return _SWAP
    return content if isinstance(content, MntapiError) else MemoryFileSystem(content)


def mount(path: str, volume: str, **fields: object) -> MountPoint:
    return MountPoint(path, MountKind.VOLUME, f"LABEL={volume}", volume=f"id:{volume}", **fields)


def bind(path: str, source: str, *options: str) -> MountPoint:
    return MountPoint(path, MountKind.BIND, source, options=options)


def linux(*mounts: MountPoint, volume: str = "root", **fields: object) -> Guest:
    return Guest(Family.LINUX, f"id:{volume}", "/", mounts=mounts, **fields)


def windows(*mounts: MountPoint, volume: str = "c") -> Guest:
    return Guest(Family.WINDOWS, f"id:{volume}", "C:\\Windows", mounts=mounts)


def tree_of(content: Mapping[str, object], *guests: Guest, **details: Mapping[str, str]) -> GuestTree:
    return assemble(FakeSet(content, details.get("details")), guests)
