"""What ``mntapi check`` calls sound can be read to its end: every format, its end cut off and its numbers changed.

The disks are those that are damaged by the fuzzer, made by qemu-img and others; the oracle for what a file that was cut should
hold is the file as it was.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.check_support import number, patch, qemu_verdict, texts
from contract.test_check_clean import qemu_io
from contract.vhd_support import needs_qemu, qemu_img
from contract.vmdk_builder import write_descriptor
from fuzz.mutate import Target
from fuzz.seeds import Seed, make
from mntapi.blocks import read
from mntapi.errors import MntapiError
from mntapi.images.checking import Severity
from mntapi.images.opener import DirectOpener
from mntapi.session.checks import check_set
from mntapi.session.sets import open_spec
from mntapi.types import DiskSpec, OpenOptions

KIB, MIB = 1 << 10, 1 << 20
CUTS = (1, 7, 512, 4096, 65536)
SHORTER_DISKS = {"raw-gpt", "raw-mbr", "split", "vhd-fixed"}
"""Formats that do not say how long the disk is, or say it only in what was cut off: what is left is a shorter disk."""
UNPACKED_ONLY_WITH_DATA = {"qcow2-zlib", "qcow2-zstd"}
"""A compressed cluster has no checksum, and qemu-img check does not look into them either."""
FLIPS = 8
"""Bits that are changed in each disk."""
MOST = 16 * MIB
"""Bytes that are read of each disk: a changed bit may make it a very large one."""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Seed]]:
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("seeds")
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patched.setenv("PATH", "/usr/sbin:/sbin", prepend=":")
        patched.chdir(folder)
        yield {seed.name: seed for seed in make(folder)}


def content_of(path: Path) -> list[bytes] | MntapiError:
    """The bytes of the disks, or why they cannot be had."""
    found = []
    try:
        for image in open_spec(DiskSpec(str(path)), DirectOpener(), OpenOptions()):
            try:
                found.append(read(image.blocks, 0, min(MOST, image.blocks.size)))
            finally:
                image.blocks.close()
    except MntapiError as error:
        return error
    return found


def is_unreadable(content: list[bytes] | MntapiError) -> bool:
    """Not of one that only lacks its key: a changed bit may make it that."""
    return isinstance(content, MntapiError) and content.reason != "encrypted"


def is_sound(path: Path, *, data: bool = False) -> bool:
    """Whether there is a disk, and none has a fault."""
    try:
        disks = [list(disk.faults) for disk in check_set([DiskSpec(str(path))], data=data)]
    except MntapiError:
        return False
    return bool(disks) and all(fault.severity is not Severity.ERROR for faults in disks for fault in faults)


def test_files_that_were_cut(seeds: dict[str, Seed]) -> None:
    """Whatever is cut off: what is called sound holds the bytes it held before, and what cannot be read is not called sound."""
    wrong = []
    for seed in seeds.values():
        whole, content = content_of(seed.opened), seed.damaged.read_bytes()
        assert not isinstance(whole, MntapiError) and is_sound(seed.opened), seed.name
        for cut in (*CUTS, len(content) // 2):
            seed.damaged.write_bytes(content[: max(0, len(content) - cut)])
            left = content_of(seed.opened)
            is_whole = left == whole or (seed.name in SHORTER_DISKS and not isinstance(left, MntapiError))
            if not is_whole and is_sound(seed.opened):
                wrong.append((seed.name, cut, str(left) if isinstance(left, MntapiError) else "other bytes"))
        seed.damaged.write_bytes(content)
    assert wrong == []


CHECKED_BY_QEMU = {"vmdk-sparse": "vmdk", "vhdx": "vhdx", "qcow2": "qcow2", "qcow2-v2": "qcow2", "vdi": "vdi", "qed": "qed"}
CHECKED_BY_QEMU |= {"qcow2-extended": "qcow2", "qcow2-zlib": "qcow2", "qcow2-zstd": "qcow2", "parallels": "parallels"}


@needs_qemu
@pytest.mark.parametrize("name", CHECKED_BY_QEMU)
def test_what_qemu_finds_in_a_cut_file_is_found(seeds: dict[str, Seed], name: str) -> None:
    """Not the other way round: of what was cut off, ``qemu-img check`` tells whole clusters only."""
    path = seeds[name].damaged
    content = path.read_bytes()
    try:
        for cut in (*CUTS, len(content) // 2):
            path.write_bytes(content[: len(content) - cut])
            assert not qemu_verdict(path, CHECKED_BY_QEMU[name]).errors or not is_sound(path), cut
    finally:
        path.write_bytes(content)


def test_bits_that_were_flipped(seeds: dict[str, Seed]) -> None:
    """Where numbers are: a read that fails fails because of something that is told."""
    guests = {content[at : at + 512] for name in ("raw-gpt", "raw-mbr") if (content := seeds[name].damaged.read_bytes())
              for at in range(0, len(content), 512)}  # fmt: skip
    wrong = []
    for seed in seeds.values():
        target, dice = Target.of(seed.damaged, guests), random.Random(seed.name)
        for _ in range(FLIPS):
            at = min(dice.choice(target.structures) + dice.randrange(512), len(target.content) - 1)
            bit = 1 << dice.randrange(8)
            patch(seed.damaged, (at, bytes([target.content[at] ^ bit])))
            left = content_of(seed.opened)
            if is_unreadable(left) and is_sound(seed.opened, data=seed.name in UNPACKED_ONLY_WITH_DATA):
                wrong.append((seed.name, at, bit, str(left)))
            patch(seed.damaged, (at, target.content[at : at + 1]))
    assert wrong == []


@needs_qemu
@pytest.mark.parametrize(
    ("options", "cluster"),
    [("cluster_size=64k", 64 * KIB), ("cluster_size=2M", 2 * MIB), ("extended_l2=on", 64 * KIB), ("data_file=data", 64 * KIB)],
)
def test_the_last_cluster_of_a_file_may_end_with_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, cluster: int
) -> None:
    """Here it is stored last; one byte less, and the disk's last byte is lost, which qemu reads as zero."""
    monkeypatch.chdir(tmp_path)  # a data file is named relative to where qemu-img runs
    raw, path = tmp_path / "raw", tmp_path / "disk.qcow2"
    raw.write_bytes(random.Random(1).randbytes(100 * KIB + 512))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
    file = tmp_path / "data" if "data_file" in options else path
    end = (file.stat().st_size - 1) // cluster * cluster + (100 * KIB + 512) % cluster
    os.truncate(file, end)
    assert texts(path, data=True) == [] and content_of(path) == [raw.read_bytes()]
    assert not qemu_verdict(path, "qcow2").errors
    os.truncate(file, end - 1)
    assert isinstance(content_of(path), MntapiError)
    assert ["clusters are outside the file" in text for text in texts(path)] == [True]


@needs_qemu
@pytest.mark.parametrize("kind", ["zlib", "zstd"])
def test_the_last_compressed_cluster_of_a_file(tmp_path: Path, kind: str) -> None:
    """It need not fill its last sector: whether something was cut from it, only inflating it tells."""
    raw, path = tmp_path / "raw", tmp_path / "disk.qcow2"
    raw.write_bytes(bytes(range(256)) * KIB)
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={kind}", raw, path)
    content = path.read_bytes()
    end = len(content.rstrip(b"\0"))
    sound = []
    for size in (end + 1, end - 8, end - 30):
        path.write_bytes(content[:size])
        assert is_sound(path) == (content_of(path) == [raw.read_bytes()])
        sound.append(is_sound(path))
    assert sound == [True, False, False]


@needs_qemu
def test_compressed_clusters_that_all_end_where_the_file_does(tmp_path: Path) -> None:
    """Each would be inflated; a file has no room for more than some of them."""
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "512M")
    qemu_io(path, "write -P 1 0 64k")
    l2 = number(path, number(path, 40, ">Q"), ">Q") & 0xFF_FFFF_FFFF_FE00
    end = path.stat().st_size - 100
    os.truncate(path, end)
    patch(path, *((l2 + 8 * at, struct.pack(">Q", 1 << 62 | end - 900 + at % 800)) for at in range(1, 1000)))
    assert any("more than 128 compressed clusters end where the file does" in text for text in texts(path))


def test_an_ewf_segment_without_its_last_sections(seeds: dict[str, Seed]) -> None:
    """The hashes are lost and no byte of the disk; ewfinfo refuses the file."""
    seed = seeds.get("ewf")
    if seed is None:
        pytest.skip("needs ewfacquirestream")
    content, whole = seed.damaged.read_bytes(), content_of(seed.opened)
    seed.damaged.write_bytes(content[:-100])
    try:
        assert content_of(seed.opened) == whole
        assert any("cut off" in text for text in texts(seed.opened))
        assert shutil.which("ewfinfo") is None or subprocess.run(["ewfinfo", seed.opened], capture_output=True).returncode
    finally:
        seed.damaged.write_bytes(content)


def test_a_disk_that_cannot_be_opened_has_a_fault(tmp_path: Path) -> None:
    """Whatever the reason, unless a key is all that lacks: nobody should take it for a backup that can be restored."""
    path = tmp_path / "disk.vmdk"
    write_descriptor(path, ['RW 8 SPQRSE "disk-s001.vmdk"'])
    assert texts(path) == [f"{path}: an extent of unknown kind SPQRSE"] and not is_sound(path)


def test_a_child_that_lost_the_name_of_its_parent(tmp_path: Path) -> None:
    """Opening refuses it, as it does a wrong name."""
    write_descriptor(tmp_path / "base.vmdk", ["RW 8 ZERO"])
    path = write_descriptor(
        tmp_path / "child.vmdk", ["RW 8 ZERO"], parent_cid="12345678", more=['parentFileNameHint="base.vmdk"']
    )
    assert texts(path) == []
    path.write_text(path.read_text().replace("parentCID", "pasentCID"))
    assert isinstance(content_of(path), MntapiError)
    assert ["is not the disk it was made from" in text for text in texts(path)] == [True]


@pytest.mark.parametrize("name", ["disk.dmg", "disk.ova", "disk.raw.gz"])
def test_a_container_that_lost_its_mark(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"x" * 4096)
    assert ["has the name of a" in text for text in texts(path)] == [True]
