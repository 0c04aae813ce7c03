"""The file systems in tests/golden/btrfs-devices: their devices, in whatever state, and what the kernel read on them.

Made by scripts/images/btrfs-devices.py.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from contract.filesystem_contract import resolve
from mntapi.blocks import HostFile, check_range, read
from mntapi.errors import MntapiError, ReadFailed
from mntapi.filesystems.probe import probe
from mntapi.filesystems.readers import open_filesystem
from mntapi.types import Blocks, Extent, FileKind, FileSystem, Volume
from mntapi.volumes.scan import find_volumes

GOLDEN = Path(__file__).parents[1] / "golden" / "btrfs-devices"
FACTS = json.loads((GOLDEN / "facts.json").read_text())
UNCHECKED = "plain"
"""The file without checksums."""


def unpack(name: str, folder: Path) -> list[Path]:
    """The devices of a set, in order."""
    with tarfile.open(GOLDEN / f"{name}.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    return [folder / device for device in FACTS[name]["devices"]]


_OTHER = bytes(255 - byte for byte in range(256))


class Bad:
    """A device that is damaged at some places (starts and ends): other bytes, or an error, instead of what was there."""

    def __init__(self, inner: Blocks, *places: tuple[int, int], raises: bool = False) -> None:
        self._inner = inner
        self._places = places
        self._raises = raises
        self.size = inner.size
        self.sector_size = inner.sector_size

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        self._inner.readinto(offset, buffer)
        for start, end in self._places:
            first, last = max(start - offset, 0), min(end - offset, len(buffer))
            if first < last:
                if self._raises:
                    raise ReadFailed("a bad sector", offset=offset)
                buffer[first:last] = bytes(buffer[first:last]).translate(_OTHER)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self._inner.extents(offset, length)

    def close(self) -> None:
        self._inner.close()


def volume_on(devices: Sequence[Blocks]) -> Volume:
    """The only volume of btrfs that there is on these devices."""
    (volume,) = (volume for volume in find_volumes(devices).volumes if volume.kind == "btrfs")
    return volume


def filesystem_on(devices: Sequence[Blocks]) -> FileSystem:
    """The file system on them."""
    volume = volume_on(devices)
    signature = probe(volume.blocks)
    assert signature is not None
    return open_filesystem(volume.blocks, signature)


def content(fs: FileSystem, path: str) -> str:
    """As in the facts."""
    node = resolve(fs, path)
    if node.kind is FileKind.SYMLINK:
        return fs.readlink(node)
    blocks = fs.open(node)
    return hashlib.sha256(read(blocks, 0, blocks.size)).hexdigest()


def names(fs: FileSystem) -> set[str]:
    """Paths of all files and links."""
    found, waiting = set(), [("", fs.root)]
    while waiting:
        above, folder = waiting.pop()
        for name, node in fs.scan(folder):
            if node.kind is FileKind.DIRECTORY:
                waiting.append((f"{above}{name}/", node))
            else:
                found.add(above + name)
    return found


def check(devices: Sequence[Blocks], name: str, *, but: Sequence[str] = ()) -> None:
    """All names, and what each of them but some stands for, are what the kernel showed."""
    fs = filesystem_on(devices)
    wanted = FACTS[name]["files"]
    assert names(fs) == set(wanted)
    assert {path: content(fs, path) for path in wanted if path not in but} == {
        path: told for path, told in wanted.items() if path not in but
    }
    fs.close()


def failures(devices: Sequence[Blocks], name: str, *, but: Sequence[str] = ()) -> dict[str, MntapiError]:
    """Files that cannot be read, and why; all others but some are right."""
    fs = filesystem_on(devices)
    found: dict[str, MntapiError] = {}
    for path, wanted in FACTS[name]["files"].items():
        try:
            assert path in but or content(fs, path) == wanted, path
        except MntapiError as error:
            found[path] = error
    return found


def opened(paths: Sequence[Path]) -> list[HostFile]:
    """The devices; to be closed by the caller."""
    return [HostFile.open(str(path)) for path in paths]
