"""Makes VMDK files for the tests: by qemu-img where it can, and by hand, from the specification, where it cannot."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from mntapi.images.formats import open_image
from mntapi.images.opener import DirectOpener
from mntapi.types import DiskSpec, Image, OpenOptions

SECTOR = 512
GRAIN = 64 * 1024
SHARED_IMAGES = Path(__file__).parents[3] / "shared" / "images"

needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-img") is None or shutil.which("qemu-io") is None, reason="needs qemu-img and qemu-io"
)
needs_samples = pytest.mark.skipif(not SHARED_IMAGES.is_dir(), reason="needs the sample images beside the checkout")


def open_vmdk(path: Path | str, *, allow_outside: bool = False, ignore_cid: bool = False) -> Image:
    options = OpenOptions(allow_outside=allow_outside, ignore_cid=ignore_cid)
    return open_image(DiskSpec(str(path)), DirectOpener(options), options)


def run(*args: str | Path) -> str:
    return subprocess.run([str(arg) for arg in args], check=True, capture_output=True, text=True).stdout


def content(size: int, *, seed: int = 1, stored: float = 0.5) -> bytes:
    """Bytes of a disk: grains of noise, of text and of zeros."""
    rng = random.Random(seed)
    grains = []
    for _ in range(-(-size // GRAIN)):
        kind = rng.random()
        grains.append(
            bytes(GRAIN) if kind > stored else rng.randbytes(GRAIN) if kind < stored / 2 else rng.randbytes(64) * (GRAIN // 64)
        )
    return b"".join(grains)[:size]


def convert(source: Path, target: Path, subformat: str, *options: str) -> Path:
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", ",".join((f"subformat={subformat}", *options)), source, target)
    return target


def raw_of(image: Path, scratch: Path) -> bytes:
    """What qemu-img says the image holds."""
    run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", image, scratch)
    return scratch.read_bytes()


def write_descriptor(
    path: Path,
    extents: Iterable[str],
    *,
    create_type: str = "custom",
    cid: str = "12345678",
    parent_cid: str = "ffffffff",
    more: Iterable[str] = (),
    encoding: str = "utf-8",
    database: bool = True,
) -> Path:
    lines = [
        "# Disk DescriptorFile",
        "version=1",
        *more,
        f"CID={cid}",
        f"parentCID={parent_cid}",
        f'createType="{create_type}"',
        "",
        "# Extent description",
        *extents,
        "",
    ]
    if database:
        lines += ["# The Disk Data Base", "#DDB", 'ddb.adapterType = "lsilogic"', ""]
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def hosted_header(
    size: int,
    *,
    version: int = 1,
    flags: int = 3,
    grain: int = 128,
    descriptor: int = 0,
    descriptor_size: int = 0,
    entries: int = 512,
    redundant: int = 0,
    directory: int = 0,
    overhead: int = 128,
    newlines: bytes = b"\n \r\n",
    algorithm: int = 0,
    unclean: int = 0,
) -> bytes:
    """A hosted sparse header; ``size`` in bytes, all else in sectors."""
    return struct.pack(
        "<4sIIQQQQIQQQB4sH433x",
        b"KDMV",
        version,
        flags,
        size // SECTOR,
        grain,
        descriptor,
        descriptor_size,
        entries,
        redundant,
        directory,
        overhead,
        unclean,
        newlines,
        algorithm,
    )


def _grains(data: bytes, size: int) -> dict[int, bytes]:
    """The grains of ``data`` that are not zeros, by index."""
    cut = {index: data[index * size : (index + 1) * size] for index in range(-(-len(data) // size))}
    return {index: grain for index, grain in cut.items() if grain.strip(b"\0")}


def padded(data: bytes, unit: int = SECTOR) -> bytes:
    return data + bytes(-len(data) % unit)


def build_cowd(path: Path, data: bytes, *, grain_sectors: int = 1, keep: Iterable[int] = ()) -> Path:
    """An ESX server sparse extent: the grains of ``data`` that are not zeros, and those named in ``keep`` even if they are."""
    size = grain_sectors * SECTOR
    stored = _grains(data, size) | {index: data[index * size : (index + 1) * size] for index in keep}
    tables = -(-len(data) // (size * 4096))
    directory_sectors = -(-tables * 4 // SECTOR)
    body, directory, position = b"", [0] * tables, 4 + directory_sectors
    for number in range(tables):
        mine = sorted(index for index in stored if index // 4096 == number)
        if not mine:
            continue
        directory[number] = position
        entries, grains = [0] * 4096, b""
        for index in mine:
            entries[index % 4096] = position + 32 + len(grains) // SECTOR
            grains += padded(stored[index], size)
        chunk = struct.pack("<4096I", *entries) + grains
        body += chunk
        position += len(chunk) // SECTOR
    header = struct.pack("<4s7I", b"COWD", 1, 3, len(data) // SECTOR, grain_sectors, 4, tables, position)
    path.write_bytes(padded(header, 2048) + padded(struct.pack(f"<{tables}I", *directory)) + body)
    return path


def build_stream(path: Path, data: bytes, *, grain: int = GRAIN, markers: bool = True) -> Path:
    """A stream as VMware writes it: header without directory, grains, a table after those it covers, directory, footer."""
    extents = [f'RDONLY {len(data) // SECTOR} SPARSE "{path.name}"']
    text = write_descriptor(path, extents, create_type="streamOptimized").read_bytes()
    flags = 1 | 1 << 16 | (1 << 17 if markers else 0)

    def header(directory: int) -> bytes:
        return hosted_header(
            len(data),
            version=3,
            flags=flags,
            grain=grain // SECTOR,
            descriptor=1,
            descriptor_size=20,
            directory=directory,
            algorithm=1,
        )

    def marker(value: int, kind: int) -> bytes:
        return padded(struct.pack("<QII", value, 0, kind))

    out = bytearray(padded(header((1 << 64) - 1) + padded(text, 20 * SECTOR), 128 * SECTOR))
    stored = _grains(data, grain)
    directory = []
    for first in range(0, -(-len(data) // grain), 512):
        entries = [0] * 512
        for index in sorted(index for index in stored if first <= index < first + 512):
            entries[index - first] = len(out) // SECTOR
            deflated = zlib.compress(padded(stored[index], grain))
            prefix = struct.pack("<QI", index * grain // SECTOR, len(deflated)) if markers else b""
            out += padded(prefix + deflated)
        if any(entries):
            out += marker(4, 1)
            directory.append(len(out) // SECTOR)
            out += struct.pack("<512I", *entries)
        else:
            directory.append(0)
    table = padded(struct.pack(f"<{len(directory)}I", *directory))
    out += marker(len(table) // SECTOR, 2)
    position = len(out) // SECTOR
    out += table + marker(1, 3) + header(position) + marker(0, 0)
    path.write_bytes(out)
    return path


def sesparse_entry(kind: int, number: int = 0) -> int:
    return kind << 60 | (number & 0xFFF) << 48 | number >> 12


def build_sesparse(
    path: Path, data: bytes, *, zeroed: Iterable[int] = (), unmapped: Iterable[int] = (), replay: int = 0
) -> Path:
    """A seSparse extent, in the layout that qemu reads: 4 KiB grains, tables of 4096 entries."""
    stored = _grains(data, 4096)
    tables = -(-len(data) // (4096 * 4096))
    used = sorted({index // 4096 for index in (*stored, *zeroed, *unmapped)})
    directory = [0] * 4096
    entries = {number: [0] * 4096 for number in used}
    for place, number in enumerate(used):
        directory[number] = 0x10000000 << 32 | place
    for place, index in enumerate(sorted(stored)):
        entries[index // 4096][index % 4096] = sesparse_entry(3, place)
    for kind, indexes in ((2, zeroed), (1, unmapped)):
        for index in indexes:
            entries[index // 4096][index % 4096] = sesparse_entry(kind)
    directory_at, tables_at = 2, 66
    grains_at = tables_at + 64 * max(1, len(used))
    words = [0xCAFEBABE, 0x200000001, len(data) // SECTOR, 8, 64, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    words += [directory_at, 64, tables_at, 64 * tables, 0, 0, 0, 0, grains_at, 8 * len(stored)]
    out = padded(struct.pack("<26Q", *words)) + padded(struct.pack("<4Q", 0xCAFECAFE, 0, 0, replay))
    out += struct.pack("<4096Q", *directory)
    for number in used:
        out += struct.pack("<4096Q", *entries[number])
    out = out.ljust(grains_at * SECTOR, b"\0") + b"".join(padded(stored[index], 4096) for index in sorted(stored))
    path.write_bytes(out)
    return path
