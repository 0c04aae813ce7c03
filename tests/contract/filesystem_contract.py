"""The contract every ``FileSystem`` keeps, as one function: call it with an open instance and the tree an oracle says it holds.

check_filesystem(fs, tree_of("/mnt/by-the-kernel"))         # or a table read from a file, see ``Want``
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contract.blocks_contract import check_blocks
from mntapi.blocks import read
from mntapi.errors import Invalid, IsADirectory, NotADirectory, NotFound
from mntapi.types import FileKind, FileSystem, Node

_KINDS = {
    stat.S_IFREG: FileKind.FILE,
    stat.S_IFDIR: FileKind.DIRECTORY,
    stat.S_IFLNK: FileKind.SYMLINK,
    stat.S_IFIFO: FileKind.FIFO,
    stat.S_IFSOCK: FileKind.SOCKET,
    stat.S_IFCHR: FileKind.CHAR_DEVICE,
    stat.S_IFBLK: FileKind.BLOCK_DEVICE,
}
MAX_HASHED = 64 << 20


@dataclass(frozen=True, slots=True)
class Want:
    """What an oracle says of a name; what it does not know is None and not compared. Names of fields as in ``Node``."""

    kind: FileKind
    size: int | None = None
    sha256: str | None = None
    target: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    links: int | None = None
    inode: int | None = None
    allocated: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    rdev: int | None = None
    reason: str | None = None
    xattrs: Mapping[str, bytes] | None = field(default=None, hash=False)


def tree_of(top: Path, *, skip: frozenset[str] = frozenset(), xattrs: bool = True) -> dict[str, Want]:
    """Everything below a mounted folder, as the kernel tells it. ``skip``: fields that this mount is no authority for."""
    return {path: _want(str(top / path), skip, xattrs) for path in _paths(top)}


def _paths(top: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            yield os.path.relpath(os.path.join(folder, name), top)


def _want(path: str, skip: frozenset[str], with_xattrs: bool) -> Want:
    found = os.lstat(path)
    kind = _KINDS[stat.S_IFMT(found.st_mode)]
    known = {
        "size": found.st_size if kind in (FileKind.FILE, FileKind.SYMLINK) else None,
        "sha256": _digest_of(path) if kind is FileKind.FILE and found.st_size <= MAX_HASHED else None,
        "target": os.readlink(path) if kind is FileKind.SYMLINK else None,
        "mode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "links": found.st_nlink,
        "inode": found.st_ino,
        "allocated": found.st_blocks * 512,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "rdev": found.st_rdev,
        "xattrs": {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}
        if with_xattrs
        else None,
    }
    return Want(kind, **{name: value for name, value in known.items() if name not in skip})


def _digest_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def walk(fs: FileSystem) -> dict[str, Node]:
    """Every path of the file system."""
    found: dict[str, Node] = {}
    todo = [("", fs.root)]
    while todo:
        folder, node = todo.pop()
        for name, child in fs.scan(node):
            path = f"{folder}/{name}" if folder else name
            assert name not in (".", ".."), path
            assert path not in found, f"twice: {path!r}"
            found[path] = child
            if child.kind is FileKind.DIRECTORY and child.reason is None:
                todo.append((path, child))
    return found


def resolve(fs: FileSystem, path: str) -> Node:
    """The node at the end of ``path``, name by name."""
    node = fs.root
    for name in path.split("/"):
        node = fs.lookup(node, name)
    return node


def digest(fs: FileSystem, node: Node, step: int = 1 << 20) -> str:
    """SHA-256 of a file's contents, read in pieces of ``step`` bytes."""
    content = fs.open(node)
    assert content.size == node.size
    result = hashlib.sha256()
    for offset in range(0, content.size, step):
        result.update(read(content, offset, min(step, content.size - offset)))
    content.close()
    return result.hexdigest()


def check_filesystem(fs: FileSystem, oracle: Mapping[str, Want], *, time_unit_ns: int = 1, lookups: int = 300) -> None:
    """Names, metadata, contents, links and attributes against the oracle; the errors of the contract; 8 threads at once.

    Args:
        oracle: every path there is, and nothing else.
        time_unit_ns: what the oracle, or the file system, resolves times to.
        lookups: how many paths to look up one by one (the rest is seen by ``scan`` only).
    """
    found = walk(fs)
    assert found.keys() == oracle.keys()
    for path, want in oracle.items():
        _check_node(path, found[path], want, time_unit_ns)
        _check_contents(fs, path, found[path], want)
    some = random.Random(1).sample(sorted(found), min(lookups, len(found)))
    for path in some:
        assert resolve(fs, path) == found[path], path
        assert fs.node(found[path].inode) == found[path], path
    _check_errors(fs, found)
    _check_blocks(fs, oracle, found)
    _check_threads(fs, oracle, found, some)
    assert fs.capacity().total > 0


def _check_node(path: str, node: Node, want: Want, time_unit_ns: int) -> None:
    for name in ("kind", "size", "mode", "uid", "gid", "links", "inode", "allocated", "rdev"):
        wanted = getattr(want, name)
        assert wanted is None or getattr(node, name) == wanted, (path, name, getattr(node, name), wanted)
    for name in ("mtime_ns", "ctime_ns"):
        wanted = getattr(want, name)
        assert wanted is None or getattr(node, name) // time_unit_ns == wanted // time_unit_ns, (
            path,
            name,
            getattr(node, name),
        )
    assert node.reason == want.reason, (path, node.reason)


def _check_contents(fs: FileSystem, path: str, node: Node, want: Want) -> None:
    if want.sha256 is not None:
        assert digest(fs, node) == want.sha256, path
    if want.target is not None:
        assert fs.readlink(node) == want.target, path
    if want.xattrs is not None:
        assert dict(fs.xattrs(node)) == dict(want.xattrs), path


def _check_errors(fs: FileSystem, found: Mapping[str, Node]) -> None:
    with pytest.raises(NotFound):
        fs.lookup(fs.root, "no such name")
    with pytest.raises(IsADirectory):
        fs.open(fs.root)
    with pytest.raises(Invalid):
        fs.readlink(fs.root)
    file = next((node for node in found.values() if node.kind is FileKind.FILE), None)
    if file is not None:
        for call in (lambda: fs.lookup(file, "x"), lambda: list(fs.scan(file))):
            with pytest.raises(NotADirectory):
                call()
    link = next((node for node in found.values() if node.kind is FileKind.SYMLINK), None)
    if link is not None:
        with pytest.raises(Invalid):
            fs.open(link)


def _check_blocks(fs: FileSystem, oracle: Mapping[str, Want], found: Mapping[str, Node]) -> None:
    """The contract of ``Blocks`` on the empty file, and on the three largest that can be held at once."""
    files = sorted(
        (node.size, path) for path, node in found.items() if oracle[path].sha256 is not None and node.size <= 4 << 20
    )
    for _, path in [*files[:1], *files[-3:]]:
        content = fs.open(found[path])
        whole = read(content, 0, content.size)
        assert hashlib.sha256(whole).hexdigest() == oracle[path].sha256, path
        check_blocks(content, whole, ranges=40)


def _check_threads(fs: FileSystem, oracle: Mapping[str, Want], found: Mapping[str, Node], some: list[str]) -> None:
    def read_again(path: str) -> None:
        assert resolve(fs, path) == found[path], path
        if oracle[path].sha256 is not None and found[path].size <= 4 << 20:
            assert digest(fs, found[path], 65_537) == oracle[path].sha256, path

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_again, some))
