"""Shared by the tests of containers: the rows their formats have in the table, opening, and disks worth packing."""

from __future__ import annotations

import random
from importlib import import_module
from pathlib import Path

import pytest

from mntapi.blocks import HostFile, read
from mntapi.errors import MntapiError
from mntapi.images import formats
from mntapi.images.formats import Chain, Format
from mntapi.images.opener import DirectOpener
from mntapi.types import Image, OpenOptions
from mntapi.units import KIB, MIB

IMAGES = Path(__file__).parents[3] / "shared" / "images"
ROWS = (
    Format("ewf", "mntapi.images.ewf", ((0, b"EVF\x09\x0d\x0a\xff\x00"),)),
    Format("gzip", "mntapi.images.compressed.gz", ((0, b"\x1f\x8b\x08"),)),
    Format("xz", "mntapi.images.compressed.xz", ((0, b"\xfd7zXZ\0"),)),
    Format("zstd", "mntapi.images.compressed.zst", ((0, bytes.fromhex("28b52ffd")), (0, bytes.fromhex("502a4d18")))),
    Format("ova", "mntapi.images.ova", ((257, b"ustar\0"), (257, b"ustar "))),
    Format("qcow2", "mntapi.images.qcow2", ((0, b"QFI\xfb"),)),
)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of formats with the containers in it."""
    names = {row.name for row in ROWS}
    others = tuple(row for row in formats.FORMATS if row.name not in names)
    monkeypatch.setattr(formats, "FORMATS", ROWS + others)


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mntapi"


def open_with(module: str, path: Path, **options: bool) -> Image:
    """Open ``path`` with a module below ``mntapi.images``; on an error the file is closed, as the table does it."""
    file = HostFile.open(str(path))
    chosen = OpenOptions(**options)
    try:
        return import_module(f"mntapi.images.{module}").open_image(file, Chain(DirectOpener(chosen), chosen))
    except MntapiError:
        file.close()
        raise


def refused(module: str, path: Path, kind: type[MntapiError], reason: str | None) -> MntapiError:
    """The error that opening raises."""
    with pytest.raises(kind) as caught:
        open_with(module, path).blocks.close()
    assert caught.value.reason == reason, caught.value
    return caught.value


def content(image: Image) -> bytes:
    """All bytes of a disk; closes it."""
    try:
        return read(image.blocks, 0, image.blocks.size)
    finally:
        image.blocks.close()


def make_content(size: int = 3 * MIB, seed: int = 1) -> bytes:
    """Random bytes and zeros, a few tens of KiB of each, and a long run of zeros."""
    rng = random.Random(seed)
    parts = [
        b"".join((rng.randbytes(rng.randrange(60 * KIB)), bytes(rng.randrange(60 * KIB)))) for _ in range(size // (60 * KIB))
    ]
    return (b"".join(parts)[: size - MIB] + bytes(MIB - 4 * KIB) + rng.randbytes(4 * KIB)).ljust(size, b"\0")[:size]
