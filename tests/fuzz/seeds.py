"""Small disks of every format, made by the programs that are installed, to be damaged. ``make`` is where to start.

Two guests (GPT with ext2, FAT and NTFS; MBR with a logical partition) are put into every container. Nothing of the product
writes anything here.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import struct
import subprocess
import tarfile
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from contract import vhdx_builder
from contract.vhd_builder import write_sparse
from contract.vmdk_builder import build_cowd, build_sesparse, build_stream, write_descriptor

KIB, MIB = 1 << 10, 1 << 20
UUID = "6a1ab6b2-6fb5-4f0b-9c62-9a6a9f5b1d0a"


@dataclass(frozen=True)
class Seed:
    """What to open, and the file to damage: the same, or one that it names."""

    name: str
    opened: Path
    damaged: Path


def make(folder: Path) -> list[Seed]:
    """All seeds that can be made here; ``folder`` is empty."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    gpt, mbr = _gpt_guest(folder), _mbr_guest(folder)
    seeds = [Seed("raw-gpt", gpt, gpt), Seed("raw-mbr", mbr, mbr)]
    for maker in (_qemu_seeds, _built_seeds, _container_seeds):
        for name, opened, damaged in maker(folder, gpt, mbr):
            seeds.append(Seed(name, opened, damaged))
    return seeds


Made = Iterator[tuple[str, Path, Path]]


def run(*arguments: object) -> None:
    subprocess.run([str(one) for one in arguments], check=True, capture_output=True)


def _has(*programs: str) -> bool:
    return all(shutil.which(program) for program in programs)


# Guests


def _gpt_guest(folder: Path) -> Path:
    """3.5 MiB: ext2, FAT, NTFS; what no program is installed for stays empty."""
    disk = folder / "gpt.raw"
    disk.write_bytes(bytes(3 * MIB + 512 * KIB))
    if not _has("sfdisk"):
        return disk
    layout = f"label: gpt\nlabel-id: {UUID}\nfirst-lba: 34\n34,1500\n1600,800\n2560,4500\n"
    subprocess.run(["sfdisk", "--quiet", "--no-reread", disk], input=layout, text=True, check=True, capture_output=True)
    _put(disk, 34, _ext2(folder / "part", 1500))
    _put(disk, 1600, _fat(folder / "part", 800))
    _put(disk, 2560, _ntfs(folder / "part", 4500))
    return disk


def _mbr_guest(folder: Path) -> Path:
    """1 MiB: a primary FAT, and an ext2 in an extended partition."""
    disk = folder / "mbr.raw"
    disk.write_bytes(bytes(MIB))
    if not _has("sfdisk"):
        return disk
    layout = "label: dos\nlabel-id: 0x12345678\n64,400,6\n512,1500,5\n576,1400,83\n"
    subprocess.run(["sfdisk", "--quiet", "--no-reread", disk], input=layout, text=True, check=True, capture_output=True)
    _put(disk, 64, _fat(folder / "part", 400))
    _put(disk, 576, _ext2(folder / "part", 1400))
    return disk


def _put(disk: Path, first_sector: int, content: bytes) -> None:
    with disk.open("r+b") as file:
        file.seek(first_sector * 512)
        file.write(content)


def _ext2(path: Path, sectors: int) -> bytes:
    path.write_bytes(bytes(sectors * 512))
    if not _has("mke2fs"):
        return path.read_bytes()
    files = path.with_name("files")
    (files / "etc/deep").mkdir(parents=True, exist_ok=True)
    (files / "etc/hostname").write_text("web01\n")
    (files / "etc/deep/data").write_bytes(bytes(range(256)) * 200)
    if not (files / "link").is_symlink():
        (files / "link").symlink_to("etc/hostname")
    run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal,^metadata_csum,^resize_inode", "-b", "1024", "-N", "32",
        "-U", UUID, "-d", files, path)  # fmt: skip
    return path.read_bytes()


def _fat(path: Path, sectors: int) -> bytes:
    path.write_bytes(bytes(sectors * 512))
    if _has("mkfs.vfat", "mcopy", "mmd"):
        run("mkfs.vfat", "-i", "12345678", "-n", "BOOT", path)
        text = path.with_name("note.txt")
        text.write_text("a file with a long name\n" * 100)
        run("mmd", "-i", path, "::folder")
        run("mcopy", "-i", path, text, "::folder/a file with a long name.txt")
    return path.read_bytes()


def _ntfs(path: Path, sectors: int) -> bytes:
    path.write_bytes(bytes(sectors * 512))
    if _has("mkntfs", "ntfscp"):
        run("mkntfs", "-qFQ", "-L", "data", "-c", "1024", path)
        text = path.with_name("note.txt")
        text.write_text("in NTFS\n" * 400)
        run("ntfscp", "-qf", path, text, "note.txt")
    return path.read_bytes()


# Containers of qemu

SUBFORMATS = [
    ("vmdk-sparse", "vmdk", "subformat=monolithicSparse"),
    ("vmdk-stream", "vmdk", "subformat=streamOptimized"),
    ("vmdk-split", "vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vmdk-flat", "vmdk", "subformat=twoGbMaxExtentFlat"),
    ("vhd-fixed", "vpc", "subformat=fixed,force_size=on"),
    ("vhd-dynamic", "vpc", "subformat=dynamic,force_size=on"),
    ("vhdx", "vhdx", "subformat=dynamic,block_size=1M"),
    ("qcow2", "qcow2", "cluster_size=4k"),
    ("qcow2-v2", "qcow2", "compat=0.10,cluster_size=512"),
    ("qcow2-extended", "qcow2", "extended_l2=on"),
    ("qcow2-data-file", "qcow2", "data_file=outside.data"),
    ("vdi", "vdi", ""),
    ("qed", "qed", "cluster_size=4k,table_size=2"),
    ("parallels", "parallels", "cluster_size=64k"),
]


def _qemu_seeds(folder: Path, gpt: Path, mbr: Path) -> Made:
    if not _has("qemu-img", "qemu-io"):
        return
    os.chdir(folder)  # a data file is named relative to where qemu-img runs
    for name, kind, options in SUBFORMATS:
        path = folder / f"{name}.img"
        run("qemu-img", "convert", "-f", "raw", "-O", kind, *(["-o", options] if options else []), gpt, path)
        yield name, path, path
        if name in ("vmdk-split", "vmdk-flat"):
            extent = next(iter(folder.glob(f"{name}-[sf]001.img")))
            yield f"{name}-extent", path, extent
    for kind in ("zlib", "zstd"):
        path = folder / f"packed-{kind}.qcow2"
        run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={kind}", gpt, path)
        yield f"qcow2-{kind}", path, path
    path = folder / "snapshots.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", mbr, path)
    run("qemu-img", "bitmap", "--add", path, "nightly")
    run("qemu-img", "snapshot", "-c", "one", path)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 512k 100k", path)
    yield "qcow2-snapshots", path, path
    for name, kind, base in (("vmdk", "vmdk", "vmdk-sparse.img"), ("qcow2", "qcow2", "vhdx.img"), ("qed", "qed", "vdi.img")):
        path, base_kind = folder / f"child-{name}.img", {"vmdk-sparse.img": "vmdk", "vhdx.img": "vhdx", "vdi.img": "vdi"}[base]
        run("qemu-img", "create", "-q", "-f", kind, "-b", base, "-F", base_kind, path)
        run("qemu-io", "-f", kind, "-c", "write -P 7 512k 100k", path)
        yield f"chain-{name}-child", path, path
        yield f"chain-{name}-base", path, folder / base


# Containers written from the specification


def _built_seeds(folder: Path, gpt: Path, mbr: Path) -> Made:
    data = mbr.read_bytes()
    for name, build, kind in (("cowd", build_cowd, "VMFSSPARSE"), ("sesparse", build_sesparse, "SESPARSE")):
        extent = build(folder / f"{name}-delta.vmdk", data)
        path = write_descriptor(folder / f"{name}.vmdk", [f'RW {len(data) // 512} {kind} "{extent.name}"'])
        yield f"vmdk-{name}", path, extent
    path = build_stream(folder / "stream.vmdk", data)
    yield "vmdk-stream-footer", path, path
    yield from _vhd_chain(folder, data)
    yield from _vhdx_chain(folder, data)
    for name, content in (("bochs", _bochs(data)), ("cloop", _cloop(data)), ("dmg", _dmg(data))):
        path = folder / f"disk.{name}"
        path.write_bytes(content)
        yield name, path, path


def _vhd_chain(folder: Path, data: bytes) -> Made:
    unit = 64 * KIB
    base_id = uuid.UUID(UUID)
    blocks = {index: (set(range(128)), data[index * unit : (index + 1) * unit]) for index in range(len(data) // unit)}
    write_sparse(folder / "base.vhd", len(data), blocks, unique_id=base_id)
    locators = [(b"W2ru", ".\\base.vhd".encode("utf-16-le"))]
    changes = {0: (set(range(0, 128, 3)), data[:unit])}
    child = folder / "child.vhd"
    write_sparse(child, len(data), changes, unique_id=uuid.UUID(int=5), parent_id=base_id, locators=locators)
    yield "vhd-child", child, child
    yield "vhd-base", child, folder / "base.vhd"


def _vhdx_chain(folder: Path, data: bytes) -> Made:
    base = vhdx_builder.Disk(len(data), states={0: 6}, contents={0: data.ljust(MIB, b"\0")})
    base.write(folder / "base.vhdx")
    guid = uuid.UUID(UUID)
    at = vhdx_builder.BLOCKS_AT
    entry = vhdx_builder.log_entry(guid, 1, 0, [(at, data[:4096]), (at + 8192, 4096)], flushed=at + MIB, last=at + MIB)
    child = vhdx_builder.Disk(
        len(data),
        parent={"parent_linkage": f"{{{base.data_write}}}", "relative_path": ".\\base.vhdx"},
        states={0: 7},
        contents={0: data.ljust(MIB, b"\0")},
        stored={0: set(range(0, 2048, 5))},
        log_guid=guid,
        log=vhdx_builder.ring([(0, entry)]),
    )
    child.write(folder / "child.vhdx")
    yield "vhdx-child-with-log", folder / "child.vhdx", folder / "child.vhdx"


def _bochs(data: bytes) -> bytes:
    extent, count = 64 * KIB, len(data) // (64 * KIB)
    head = struct.pack("<32s16s16sIIIIIIQ", b"Bochs Virtual HD Image", b"Redolog", b"Growing", 0x20000, 512, count, 512, extent,
                       0, len(data))  # fmt: skip
    parts = [(b"\xff" * 16).ljust(512, b"\0") + data[at : at + extent] for at in range(0, len(data), extent)]
    return head.ljust(512, b"\0") + struct.pack(f"<{count}I", *range(count)) + b"".join(parts)


def _cloop(data: bytes) -> bytes:
    unit = 32 * KIB
    packed = [zlib.compress(data[at : at + unit]) for at in range(0, len(data), unit)]
    offsets = [136 + 8 * (len(packed) + 1)]
    for part in packed:
        offsets.append(offsets[-1] + len(part))
    head = b"#!/bin/sh\n#V2.0 Format\n".ljust(128, b"\0") + struct.pack(">II", unit, len(packed))
    return head + struct.pack(f">{len(offsets)}Q", *offsets) + b"".join(packed)


def _dmg(data: bytes) -> bytes:
    import bz2
    import plistlib

    unit = 64 * KIB
    methods: tuple[tuple[int, Callable[[bytes], bytes]], ...] = (
        (0x80000005, zlib.compress),
        (0x80000006, bz2.compress),
        (0x80000008, lzma.compress),
        (1, bytes),
    )
    body, entries = b"", b""
    for number, at in enumerate(range(0, len(data), unit)):
        kind, pack = methods[number % len(methods)]
        packed = pack(data[at : at + unit])
        entries += struct.pack(">IIQQQQ", kind, 0, at // 512, unit // 512, len(body), len(packed))
        body += packed
    entries += struct.pack(">IIQQQQ", 0xFFFFFFFF, 0, len(data) // 512, 0, len(body), 0)
    table = struct.pack(">4sIQQQII", b"mish", 1, 0, len(data) // 512, 0, 0, 0).ljust(200, b"\0")
    table += struct.pack(">I", len(entries) // 40) + entries
    plist = plistlib.dumps({"resource-fork": {"blkx": [{"Data": table, "Name": "disk"}]}})
    trailer = bytearray(512)
    struct.pack_into(">4sII", trailer, 0, b"koly", 4, 512)
    struct.pack_into(">QQ", trailer, 0x18, 0, len(body))
    struct.pack_into(">II", trailer, 0x38, 1, 1)
    struct.pack_into(">QQ", trailer, 0xD8, len(body), len(plist))
    struct.pack_into(">Q", trailer, 0x1EC, len(data) // 512)
    return body + plist + bytes(trailer)


# Containers of any disk


def _container_seeds(folder: Path, gpt: Path, mbr: Path) -> Made:
    data = mbr.read_bytes()
    for name, content in (("gz", gzip.compress(data, mtime=0)), ("xz", lzma.compress(data))):
        path = folder / f"disk.raw.{name}"
        path.write_bytes(content)
        yield name, path, path
    if _has("zstd"):
        run("zstd", "-q", mbr, "-o", folder / "disk.raw.zst")
        yield "zst", folder / "disk.raw.zst", folder / "disk.raw.zst"
    stream = build_stream(folder / "in.vmdk", data)
    path = folder / "web.ova"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "made for a test"}) as out:
        out.add(stream, arcname="in.vmdk")
    yield "ova", path, path
    for number in range(2):
        (folder / f"pieces.00{number + 1}").write_bytes(data[number * 512 * KIB : (number + 1) * 512 * KIB])
    yield "split", folder / "pieces.001", folder / "pieces.002"
    if _has("ewfacquirestream"):
        with mbr.open("rb") as source:
            target = ["-t", folder / "evidence", "-f", "encase6", "-c", "fast", "-B", str(len(data))]
            subprocess.run(["ewfacquirestream", "-q", *map(str, target)], stdin=source, check=True, capture_output=True)
        yield "ewf", folder / "evidence.E01", folder / "evidence.E01"
