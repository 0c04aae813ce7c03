"""How a file is shown: a line of ``ls -l``, or an object of JSON."""

from __future__ import annotations

from typing import Any

from mntapi.cli.output import mode_text, shown, time_text
from mntapi.errors import MntapiError
from mntapi.types import FileKind, FileSystem, Node


def long_row(tree: FileSystem, name: str, node: Node) -> tuple[str, ...]:
    """Mode, links, user, group, size, time and name, for a table."""
    text = shown(name)
    if node.kind is FileKind.SYMLINK:
        text += " -> " + shown(_target(tree, node) or "?")
    if node.reason:
        text += f"  [{node.reason}]"
    return (mode_text(node), str(node.links), str(node.uid), str(node.gid), str(node.size), time_text(node.mtime_ns), text)


LONG_RIGHT = (1, 2, 3, 4)
"""Columns of ``long_row`` that are set flush right."""


def as_object(tree: FileSystem, path: str, name: str, node: Node) -> dict[str, Any]:
    """Everything about a file as plain values; sizes in bytes, times in nanoseconds since 1970 UTC."""
    return {
        "path": path,
        "name": name,
        "kind": node.kind.value,
        "size": node.size,
        "allocated": node.allocated,
        "mode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
        "links": node.links,
        "inode": node.inode,
        "mtime_ns": node.mtime_ns,
        "atime_ns": node.atime_ns,
        "ctime_ns": node.ctime_ns,
        "birthtime_ns": node.birthtime_ns,
        "target": _target(tree, node) if node.kind is FileKind.SYMLINK else None,
        "reason": node.reason,
    }


def _target(tree: FileSystem, node: Node) -> str | None:
    """Where a link points, or None where that cannot be read: a listing goes on."""
    try:
        return tree.readlink(node)
    except MntapiError:
        return None
