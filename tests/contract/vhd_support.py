"""What the tests of VHD and VHDX share: opening, qemu-img, libvhdi's mount, and disk content."""

from __future__ import annotations

import bz2
import contextlib
import itertools
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mntapi.images import formats
from mntapi.images.opener import DirectOpener
from mntapi.types import DiskSpec, Image, OpenOptions

SHARED = Path(__file__).parents[3] / "shared" / "images"
IOTESTS = SHARED / "qemu-iotests" / "tests" / "qemu-iotests" / "sample_images"
ROWS = (
    formats.Format("vhd", "mntapi.images.vhd", ((0, b"conectix"), (-512, b"conectix"), (-511, b"conectix"))),
    formats.Format("vhdx", "mntapi.images.vhdx", ((0, b"vhdxfile"),)),
)
needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
needs_vhdimount = pytest.mark.skipif(shutil.which("vhdimount") is None, reason="vhdimount is not installed")


@pytest.fixture(autouse=True)
def known_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of formats with the rows of these two in it."""
    names = {format_.name for format_ in formats.FORMATS}
    missing = tuple(row for row in ROWS if row.name not in names)
    monkeypatch.setattr(formats, "FORMATS", (*missing, *formats.FORMATS))


@contextlib.contextmanager
def opened(path: Path, **options: bool) -> Iterator[Image]:
    """The image at ``path``, closed afterwards."""
    choice = OpenOptions(**options)
    image = formats.open_image(DiskSpec(str(path)), DirectOpener(choice), choice)
    try:
        yield image
    finally:
        image.blocks.close()


def qemu_img(*arguments: object) -> str:
    done = subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True, text=True)
    return done.stdout


def raw_of(path: Path, qemu_format: str) -> bytes:
    """What qemu-img reads from an image."""
    out = path.with_name(path.name + ".raw")
    qemu_img("convert", "-f", qemu_format, "-O", "raw", path, out)
    content = out.read_bytes()
    out.unlink()
    return content


def sample(name: str, folder: Path) -> Path:
    """A sample image of qemu's tests, unpacked into ``folder`` with its holes."""
    packed = IOTESTS / f"{name}.bz2"
    if not packed.exists():
        pytest.skip("../shared/images is not there")
    path = folder / name
    with bz2.open(packed) as source, path.open("wb") as out:
        while piece := source.read(1 << 20):
            if piece.count(0) == len(piece):
                out.seek(len(piece), os.SEEK_CUR)
            else:
                out.write(piece)
        out.truncate()
    return path


def disk_content(size: int, *, seed: int = 1, unit: int = 64 << 10) -> bytes:
    """Random bytes and zeros by turns, in runs of whole and broken units."""
    rng = random.Random(seed)
    content = bytearray(size)
    at = 0
    while at < size:
        length = min(size - at, rng.choice((512, 4096, unit, 3 * unit + 512, 40 * unit)))
        if rng.random() < 0.5:
            content[at : at + length] = rng.randbytes(length)
        at += length
    return bytes(content)


def sorted_sectors(count: int, rng: random.Random) -> set[int]:
    """Sectors such that in each byte of their bitmap those that are stored come last.

    libvhdi 20210425 takes every sector of a bitmap's byte for stored once it met one that is: only such bitmaps can be
    compared with it.
    """
    return set(itertools.chain.from_iterable(range(at + rng.randrange(9), at + 8) for at in range(0, count, 8)))


@contextlib.contextmanager
def vhdimounted(path: Path, folder: Path) -> Iterator[list[Path]]:
    """What libvhdi makes of an image: one file for each link of its chain, the base first."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"/dev/fuse cannot be used: {error}")
    folder.mkdir()
    subprocess.run(["vhdimount", str(path), str(folder)], check=True, capture_output=True)  # returns and serves on
    try:
        deadline = time.monotonic() + 20
        while not (files := sorted(folder.glob("vhdi*"))):
            if time.monotonic() > deadline:
                pytest.fail("vhdimount shows nothing")
            time.sleep(0.02)
        yield files
    finally:
        subprocess.run(["fusermount", "-u", str(folder)], check=True, capture_output=True)
