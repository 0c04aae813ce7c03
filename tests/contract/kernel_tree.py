"""A mounted tree beside the kernel's own, compared as programs see them: walking, reading every file, following every link."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from contract.mounting import run

_ASK = """
import hashlib, json, os, sys
os.chroot(sys.argv[1])
os.chdir("/")
def leads_to(path):
    try:
        if os.path.isdir(path):
            return sorted(os.listdir(path))
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        return error.errno
print(json.dumps({path: leads_to("/" + path) for path in json.load(sys.stdin)}))
"""


def led_to(top: Path, links: Sequence[str]) -> dict[str, object]:
    """What is behind each link in a chroot of the tree: names of a folder, SHA-256 of a file, or the error's number."""
    found: dict[str, object] = json.loads(run(sys.executable, "-c", _ASK, top, stdin=json.dumps(links)))
    return found


def listing(top: Path, skipped: Sequence[str] = ()) -> dict[str, tuple[object, ...]]:
    """Everything below a folder, as lstat(2) tells it; of links only that they are there. find(1) would stop where a subvolume
    is mounted in itself, as it is on every openSUSE."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(top):
        here = Path(folder).relative_to(top)
        folders[:] = [name for name in folders if str(here / name) not in skipped]
        for name in folders + [name for name in files if str(here / name) not in skipped]:
            told = (Path(folder) / name).lstat()
            kind = stat.filemode(told.st_mode)
            size = told.st_size if kind.startswith("-") else None
            found[str(here / name)] = (kind, told.st_uid, told.st_gid, told.st_nlink, told.st_mtime_ns, size)
    return found


def check_mounted(found: Path, wanted: Path, *, ours: Sequence[str] = ()) -> None:
    """Names, metadata, contents and attributes are the same; links lead where they lead in a chroot of the kernel's tree, and
    never out of the one found.

    Args:
        found: through FUSE.
        wanted: by the kernel.
        ours: what is not compared: snapshots, volumes; those at the top count in no folder that a link leads to.
    """
    want, have = listing(wanted, ours), listing(found, ours)
    assert have.keys() == want.keys()
    assert {name: told for name, told in have.items() if told != want[name]} == {}
    for name, (kind, *_) in want.items():
        if str(kind).startswith("-"):
            assert _digest(found / name) == _digest(wanted / name), name
        assert _attributes(found / name) == _attributes(wanted / name), name
    links = [name for name, (kind, *_) in want.items() if str(kind).startswith("l")]
    assert links
    asked = led_to(wanted, links)
    for name in links:
        led = _leads_to(found / name)
        assert _without(led, ours) == _without(asked[name], ours), (name, os.readlink(found / name))
        assert os.path.realpath(found / name).startswith(f"{found}"), name
        assert (found / name).lstat().st_size == len(os.readlink(found / name)), name


def _without(led: object, names: Sequence[str]) -> object:
    return [one for one in led if one not in names] if isinstance(led, list) else led


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _attributes(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}


def _leads_to(path: Path) -> object:
    try:
        return sorted(os.listdir(path)) if path.is_dir() else _digest(path)
    except OSError as error:
        return error.errno
