"""Where an index is kept between runs: ``${XDG_CACHE_HOME:-~/.cache}/mntapi/``, one file an index.

An index is named by device, inode, size and modification time of the file it belongs to, and begins with a checksum over its
name and content: one that is damaged, cut off or another file's is as good as absent. Nothing here is ever an error: where
nothing can be kept, the index is made again next time. An index holds parts of the disk, so only its owner may read it; when
all together are too large the oldest go.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import tempfile

from mntapi.blocks import HostFile, read
from mntapi.errors import MntapiError
from mntapi.types import FileBlocks, Opener
from mntapi.units import GIB, MIB

MAX_SIZE = 192 * MIB
"""Bytes of a kept index."""
MAX_FOLDER = GIB
"""Bytes of all."""

_log = logging.getLogger(__name__)
_HEADER = struct.Struct("<8sQ32s")
_MAGIC = b"mntapiX1"


def name_for(file: FileBlocks, kind: str) -> str | None:
    """The name under which an index of ``file`` is kept; None for what is no file of the host, which nothing identifies."""
    if not isinstance(file, HostFile):
        return None
    status = os.fstat(file.fileno())
    return f"{status.st_dev:x}-{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}.{kind}"


def folder() -> str:
    """The cache folder; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.cache"), "mntapi")


def load(name: str, opener: Opener) -> bytes | None:
    """The index kept under ``name``, or None. It is asked from the opener, as a worker cannot open files."""
    try:
        kept = opener.open(os.path.join(folder(), name))
    except MntapiError as error:
        _log.debug("no index: %s", error)
        return None
    try:
        return _content(kept, name)
    except MntapiError as error:
        _log.debug("index not usable: %s", error)
        return None
    finally:
        kept.close()


def _content(kept: FileBlocks, name: str) -> bytes | None:
    if not _HEADER.size <= kept.size <= _HEADER.size + MAX_SIZE:
        return None
    magic, size, digest = _HEADER.unpack(read(kept, 0, _HEADER.size))
    if magic != _MAGIC or size != kept.size - _HEADER.size:
        return None
    content = read(kept, _HEADER.size, size)
    return content if _digest(name, content) == digest else None


def save(name: str, content: bytes) -> bool:
    """Keep an index; False where that cannot be done. It appears whole or not at all."""
    if len(content) > MAX_SIZE:
        return False
    try:
        os.makedirs(folder(), mode=0o700, exist_ok=True)
        _make_room(len(content))
        _write(os.path.join(folder(), name), _HEADER.pack(_MAGIC, len(content), _digest(name, content)), content)
    except OSError as error:
        _log.debug("index not kept: %s", error)
        return False
    return True


def _write(path: str, *parts: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), prefix=".", delete=False) as new:
        try:
            for part in parts:
                new.write(part)
            new.flush()
            os.replace(new.name, path)
        except BaseException:
            os.unlink(new.name)
            raise


def _make_room(size: int) -> None:
    """Remove the oldest until ``size`` bytes more are within ``MAX_FOLDER``."""
    with os.scandir(folder()) as entries:
        files = sorted((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path) for entry in entries if entry.is_file())
    held = sum(length for _, length, _ in files)
    for _, length, path in files:
        if held + size <= MAX_FOLDER:
            return
        os.unlink(path)
        held -= length


def _digest(name: str, content: bytes) -> bytes:
    digest = hashlib.sha256(name.encode() + b"\0")
    digest.update(content)
    return digest.digest()
