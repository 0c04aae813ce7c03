"""What is mounted: /proc/self/mountinfo, parsed. Nothing here touches a mounted path, so a dead FUSE server cannot hang it.

Source: proc(5), section /proc/pid/mountinfo; Documentation/filesystems/proc.rst section 3.5.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mntapi.errors import Failed

MOUNTINFO = "/proc/self/mountinfo"
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo. Paths are surrogate-escaped; ``device`` is ``(major, minor)``, the ``st_dev`` of files there."""

    mount_id: int
    parent_id: int
    device: tuple[int, int]
    root: str
    target: str
    options: tuple[str, ...]
    kind: str
    source: str
    super_options: tuple[str, ...]

    @property
    def read_only(self) -> bool:
        """Whether writing through this mount is refused, by the mount or by the file system."""
        return "ro" in self.options or "ro" in self.super_options


def parse(content: bytes) -> list[Mount]:
    """The mounts in the order of the file.

    Raises:
        Failed: a line does not have the documented fields.
    """
    return [_parse_line(line) for line in content.split(b"\n") if line]


def _parse_line(line: bytes) -> Mount:
    try:
        head, tail = line.split(b" - ", 1)
        mount_id, parent_id, device, root, target, options, *_optional = head.split(b" ")
        kind, source, super_options = tail.split(b" ", 2)
        major, minor = device.split(b":")
        return Mount(
            mount_id=int(mount_id),
            parent_id=int(parent_id),
            device=(int(major), int(minor)),
            root=_decode(root),
            target=_decode(target),
            options=tuple(_decode(options).split(",")),
            kind=_decode(kind),
            source=_decode(source),
            super_options=tuple(_decode(super_options).split(",")),
        )
    except ValueError as error:
        raise Failed("a line of the mount table cannot be understood", path=MOUNTINFO, found=line) from error


def _decode(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field))


def mounts() -> list[Mount]:
    """All mounts that this process sees.

    Raises:
        Failed: /proc is not mounted, or cannot be understood.
    """
    try:
        with open(MOUNTINFO, "rb") as file:
            return parse(file.read())
    except OSError as error:
        raise Failed(f"cannot be read: {error.strerror}", path=MOUNTINFO, hint="mount -t proc proc /proc") from error


def mount_at(path: str) -> Mount | None:
    """The mount whose root one sees at ``path`` (the uppermost where several lie on each other), or None."""
    return _top(mounts(), canonical(path))


def _top(table: list[Mount], target: str) -> Mount | None:
    here = [mount for mount in table if mount.target == target]
    covered = {mount.parent_id for mount in here}
    return next((mount for mount in reversed(here) if mount.mount_id not in covered), None)


def mounts_under(path: str) -> list[Mount]:
    """The mounts at or below ``path``, in an order in which they can be unmounted: the last one on top comes first."""
    table = mounts()
    by_id = {mount.mount_id: mount for mount in table}
    folder = canonical(path)
    inside = [mount for mount in table if is_below(mount.target, folder)]
    return sorted(inside, key=lambda mount: sum(1 for _ in _ancestors(mount, by_id)), reverse=True)


def _ancestors(mount: Mount, by_id: Mapping[int, Mount]) -> Iterator[Mount]:
    for _ in range(len(by_id)):  # a parent may lie outside of what we see, and the root is its own
        parent = by_id.get(mount.parent_id)
        if parent is None or parent is mount:
            return
        yield parent
        mount = parent


def is_below(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies inside of it. Both absolute; the names are compared, nothing is looked up."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def canonical(path: str) -> str:
    """``path`` as the mount table spells it: absolute, without symbolic links.

    The last component is not looked at where something is mounted there: a FUSE server that does not answer would hang us.
    """
    folder, name = os.path.split(os.path.abspath(path))
    candidate = os.path.join(os.path.realpath(folder), name)
    if any(mount.target == candidate for mount in mounts()):
        return candidate
    return os.path.realpath(candidate)
