"""Damaged and hostile sets through the public API: the right bytes or an error with a place, in bounded time and memory."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.make_disk import RealDisk, need, run
from mntapi import DiskSpec, MntapiError, VolumeTree, open_disks, read, resolve
from mntapi.blocks import Fault
from mntapi.session.diskset import DiskSet
from mntapi.types import VolumeState
from mntapi.units import KIB, MIB
from mntapi.volumes.scan import find_volumes

SMALL_FILES = {"/disk0p1/etc/hostname": b"web01\n", "/disk0p1/usr/lib/os-release": b"NAME=Debian\n"}


def looked_at(path: Path, **wanted: bytes) -> Iterator[MntapiError]:
    """Open the disk, list it, read from it: yields the errors met; a wrong byte fails here."""
    try:
        disk_set = open_disks(str(path))
    except MntapiError as error:
        yield error
        return
    with disk_set:
        for volume in disk_set.volumes:
            content = disk_set.content(volume)
            assert content.state is VolumeState.OK or content.reason, volume
        tree = VolumeTree(disk_set)
        for name, content in wanted.items():
            try:
                node = resolve(tree, name)
                assert read(tree.open(node), 0, len(content)) == content, name
            except MntapiError as error:
                yield error


@pytest.mark.parametrize("kind", ["raw", "vmdk", "vmdk-stream"])
def test_cut_in_the_first_mebibyte(disk: RealDisk, tmp_path: Path, kind: str) -> None:
    wanted = {**SMALL_FILES, "/disk0p2/budget.csv": disk.budget[:4096]}
    whole = {"raw": disk.raw, "vmdk": disk.vmdk, "vmdk-stream": tmp_path / "stream.vmdk"}[kind]
    if kind == "vmdk-stream":
        run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", disk.raw, whole)
    cut = tmp_path / "cut"
    shutil.copy(whole, cut)
    os.truncate(cut, MIB)
    for length in [*range(MIB, 128 * KIB, -8192), *range(128 * KIB, -1, -512)]:  # the format's own tests take every step
        os.truncate(cut, length)
        assert list(looked_at(cut, **wanted)), length


def test_a_hole_in_the_middle_costs_what_lies_there(disk: RealDisk) -> None:
    """One unreadable sector in ext4's inode table, NTFS untouched."""
    with open_disks(str(disk.raw)) as disk_set:
        [image] = disk_set.disks
        first = disk_set.volumes[0].offset
        bad = Fault(image.blocks, bad=[(first + 1024, 512)])
        found = find_volumes([bad])
        broken = DiskSet([image], found, disk_set._resources.pop_all())
    volumes = found.volumes
    with broken:
        assert [volume.name for volume in volumes] == ["disk0p1", "disk0p2"]
        content = broken.content(volumes[0])
        assert content.state is VolumeState.DAMAGED and f"at byte {first + 1024}"[:-2] in content.reason
        tree = VolumeTree(broken)
        assert tree.lookup(tree.root, "disk0p1").reason
        with pytest.raises(MntapiError):
            list(tree.scan(tree.lookup(tree.root, "disk0p1")))
        node = resolve(tree, "/disk0p2/budget.csv")
        assert read(tree.open(node), 0, node.size) == disk.budget


def rewrite(path: Path, text: str, by: str) -> None:
    content = path.read_bytes()
    assert text.encode() in content
    path.write_bytes(content.replace(text.encode(), by.encode()))


@pytest.fixture
def chain(tmp_path: Path, disk: RealDisk) -> Path:
    """base.vmdk <- child.vmdk, made by qemu-img."""
    need("qemu-img")
    shutil.copy(disk.vmdk, tmp_path / "base.vmdk")
    run("qemu-img", "create", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "child.vmdk", cwd=tmp_path)
    return tmp_path / "child.vmdk"


def test_a_chain(mntapi, chain: Path, disk: RealDisk) -> None:
    info = mntapi.json("info", chain)
    assert [Path(link["file"]).name for link in info["disks"][0]["chain"]] == ["child.vmdk", "base.vmdk"]
    assert mntapi("cat", chain, "/disk0p1/etc/hostname").stdout == "web01\n"


def test_a_missing_parent_is_named(mntapi, chain: Path) -> None:
    (chain.parent / "base.vmdk").unlink()
    done = mntapi("info", chain, code=4)
    assert "base.vmdk" in done.stderr and "child.vmdk" in done.stderr


def test_a_changed_parent_is_refused_with_both_content_ids(mntapi, chain: Path) -> None:
    [cid] = [line for line in (chain.parent / "base.vmdk").read_bytes()[512:20480].split(b"\n") if line.startswith(b"CID=")]
    other = "12345678"[: len(cid) - len(b"CID=")]  # qemu-img writes no leading zeros
    rewrite(chain.parent / "base.vmdk", cid.decode(), f"CID={other}")
    done = mntapi("info", chain, code=8)
    assert other in done.stderr and cid.decode().removeprefix("CID=") in done.stderr and "--ignore-cid" in done.stderr
    assert mntapi("cat", "--ignore-cid", chain, "/disk0p1/etc/hostname").stdout == "web01\n"


def test_a_chain_that_loops(mntapi, chain: Path) -> None:
    rewrite(chain, 'parentFileNameHint="base.vmdk"', 'parentFileNameHint="child.vmdk"')
    assert "loop" in mntapi("info", "--ignore-cid", chain, code=8).stderr


@pytest.mark.parametrize("name", ["../../etc/shadow", "/etc/shadow", "../secret"])
def test_extents_outside_the_folder(mntapi, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret" * 1000)
    text = '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
    (folder / "disk.vmdk").write_text(f'{text}RW 8 FLAT "{name}" 0\nddb.adapterType = "ide"\n')
    done = mntapi("info", folder / "disk.vmdk", code=6)
    assert "disk.vmdk" in done.stderr and "--allow-outside" in done.stderr
    if name == "../secret":
        assert mntapi.json("info", "--allow-outside", folder / "disk.vmdk")["disks"][0]["virtual_size"] == 4096


def test_a_link_inside_the_folder_is_no_way_out(mntapi, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret" * 1000)
    (folder / "disk-flat.vmdk").symlink_to("../secret")
    text = '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
    (folder / "disk.vmdk").write_text(f'{text}RW 8 FLAT "disk-flat.vmdk" 0\nddb.adapterType = "ide"\n')
    mntapi("info", folder / "disk.vmdk", code=6)


def test_a_grain_table_that_points_outside_the_file(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    bad = tmp_path / "bad.vmdk"
    shutil.copy(disk.vmdk, bad)
    header = bad.read_bytes()[:512]
    for field in (48, 56):  # the redundant and the primary grain directory, in sectors
        directory = struct.unpack_from("<Q", header, field)[0] * 512
        with bad.open("r+b") as file:
            file.seek(directory)
            file.write(struct.pack("<I", 0x7FFFFFFF))
    info = mntapi.json("info", bad)
    [volume] = info["volumes"]
    assert volume["state"] == "damaged" and str(bad) in volume["reason"] and "at byte" in volume["reason"]


def test_a_gpt_with_2_to_the_32_entries(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    bad = tmp_path / "bad.raw"
    shutil.copy(disk.raw, bad)
    with bad.open("r+b") as file:
        file.seek(512)
        header = bytearray(file.read(92))
        struct.pack_into("<I", header, 80, 0xFFFFFFFF)
        struct.pack_into("<I", header, 16, 0)
        struct.pack_into("<I", header, 16, zlib.crc32(header))
        file.seek(512)
        file.write(header)
    volumes = mntapi.json("info", bad)["volumes"]
    assert [volume["name"] for volume in volumes] == ["disk0p1", "disk0p2"]  # from the backup
    assert all("backup" in volume["reason"] for volume in volumes)


def test_a_partition_past_the_end(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    short = tmp_path / "short.raw"
    shutil.copy(disk.raw, short)
    os.truncate(short, 40 * MIB)
    first, second = mntapi.json("info", short)["volumes"]
    assert first["reason"] is None or "backup" in first["reason"]
    assert second["state"] == "incomplete" and second["reason"] and second["size"] == 7 * MIB
    assert mntapi("cat", short, "/disk0p1/etc/hostname").stdout == "web01\n"


def test_bounded_memory(disk: RealDisk, tmp_path: Path) -> None:
    """A huge disk of noise and holes, and a good one, in one process of at most 256 MiB."""
    bomb = tmp_path / "bomb.raw"
    with bomb.open("wb") as out:
        out.write(random.Random(5).randbytes(64 * 1024))
        out.truncate(8 << 40)
    script = """
import re, sys, mntapi
for path in sys.argv[1:]:
    with mntapi.open_disks(path) as disk_set:
        print([disk_set.content(volume).state for volume in disk_set.volumes], file=sys.stderr)
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # ru_maxrss is the parent's at first
"""
    done = subprocess.run([sys.executable, "-c", script, str(bomb), str(disk.vmdk)], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 256 * MIB


def test_forced_formats(disk: RealDisk) -> None:
    with open_disks(DiskSpec(str(disk.vmdk), format="raw")) as disk_set:
        assert disk_set.disks[0].blocks.size == disk.vmdk.stat().st_size
    with pytest.raises(MntapiError):
        open_disks(DiskSpec(str(disk.raw), format="vmdk"))


def test_no_descriptor_is_left_open(disk: RealDisk, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with open_disks(str(disk.vmdk), str(disk.raw)) as disk_set:
            list(VolumeTree(disk_set).scan(VolumeTree(disk_set).root))
        with pytest.raises(MntapiError):
            open_disks(str(disk.vmdk), str(tmp_path / "empty"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_to_nothing_that_can_be_named(mntapi, tmp_path: Path) -> None:
    """Zeros in a link's target, as a crash leaves them: that link is an error, and all else is copied."""
    need("mke2fs", "debugfs")
    tree, disk, out = tmp_path / "tree", tmp_path / "disk", tmp_path / "out"
    (tree / "d").mkdir(parents=True)
    for name in ("a", "z"):
        (tree / "d" / name).write_text(name)
    (tree / "d" / "link").symlink_to("elsewhere")
    run("mke2fs", "-q", "-t", "ext2", "-d", tree, disk, "4M")
    run("debugfs", "-w", "-R", "set_inode_field /d/link block[1] 0", disk)
    done = mntapi("cp", "-r", disk, "/disk0/d", out, code=3)
    assert "/disk0/d/link" in done.stderr and "target of a symbolic link" in done.stderr
    assert {path.name for path in out.rglob("*") if path.is_file()} == {"a", "z"}
