"""Managers that are named, on devices their own programs made, against what those programs say.

The devices in tests/golden/named are made by scripts/images/named.py; those of btrfs here, by mkfs.btrfs.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

import mntapi
from contract.blocks_contract import check_blocks
from contract.make_disk import need, run
from mntapi.blocks import HostFile, read
from mntapi.types import Volume, VolumeState
from mntapi.volumes.scan import Found, find_volumes

GOLDEN = Path(__file__).parents[1] / "golden" / "named"
SAMPLES = Path(__file__).parents[3] / "shared" / "images" / "util-linux" / "tests"
FACTS = json.loads((GOLDEN / "facts.json").read_text())
MIB = 1 << 20
POOLS = {"tank": ("tank0", "tank1", "tank2"), "wide": ("wide0", "wide1", "wide2", "wide3"), "solo": ("solo0",)}

needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the shared images are not here")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[dict[str, HostFile]]:
    """Golden devices by name, opened when asked for."""
    with ExitStack() as stack:
        yield Opened(tmp_path, stack)


class Opened(dict[str, HostFile]):
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__()
        self._folder, self._stack = folder, stack

    def __missing__(self, name: str) -> HostFile:
        path = self._folder / f"{name}.img"
        if not path.exists():
            unpack(GOLDEN / f"{name}.img.xz", path, 64 * MIB if name in FACTS["zfs"] else 0)
        self[name] = self._stack.enter_context(closing(HostFile.open(str(path))))
        return self[name]


def unpack(source: Path, path: Path, size: int = 0) -> Path:
    """A device of at least ``size`` bytes, zeros left out."""
    with lzma.open(source) as packed, path.open("wb") as out:
        while chunk := packed.read(1 << 16):
            if chunk.count(0) == len(chunk):
                out.seek(len(chunk), os.SEEK_CUR)
            else:
                out.write(chunk)
        out.truncate(max(size, out.tell()))
    return path


def found(opened: dict[str, HostFile], *names: str) -> Found:
    return find_volumes([opened[name] for name in names])


def digest(volume: Volume) -> str:
    return hashlib.sha256(read(volume.blocks, 0, volume.size)).hexdigest()


def blkid(path: Path) -> dict[str, str]:
    done = subprocess.run(["blkid", "-p", "-o", "export", str(path)], capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


# ZFS


def zdb_says(name: str, key: str) -> str:
    match = re.search(rf"^ +{key}: '?([^'\n]*)", FACTS["zfs"][name], re.MULTILINE)
    assert match is not None
    return match[1]


@pytest.mark.parametrize(("pool", "names"), POOLS.items())
def test_zfs_labels_are_what_zdb_says(opened: dict[str, HostFile], pool: str, names: tuple[str, ...]) -> None:
    volumes = found(opened, *names).volumes
    assert len(volumes) == len(names)
    for name, volume in zip(names, volumes, strict=True):
        assert volume.state is VolumeState.UNSUPPORTED
        assert volume.reason == f"ZFS pool {pool}, all {len(names)} devices here: is not read by this version"
        assert volume.details["pool"] == zdb_says(name, "name") == pool
        assert volume.details["pool-guid"] == zdb_says(name, "pool_guid")
        assert volume.details["transaction"] == zdb_says(name, "txg")
        assert volume.details["layout"] == zdb_says(name, "type")
        assert volume.details["device-guid"] == re.search(r"\n    guid: (\d+)", FACTS["zfs"][name])[1]  # type: ignore[index]


@pytest.mark.skipif(shutil.which("blkid") is None, reason="blkid is not installed")
def test_zfs_labels_are_what_blkid_says(opened: dict[str, HostFile], tmp_path: Path) -> None:
    (volume,) = found(opened, "tank1").volumes
    said = blkid(tmp_path / "tank1.img")
    assert said["TYPE"] == "zfs_member"
    assert (volume.details["pool-guid"], volume.details["device-guid"]) == (said["UUID"], said["UUID_SUB"])


def test_a_zfs_pool_that_is_not_all_there(opened: dict[str, HostFile]) -> None:
    """A device is missing whose label nobody has, and whose place in the tree the others know."""
    volumes = found(opened, "tank2", "tank0").volumes
    guid = re.search(r"children\[1\]:\n.*\n.*\n +guid: (\d+)", FACTS["zfs"]["tank0"])[1]  # type: ignore[index]
    for volume in volumes:
        assert volume.state is VolumeState.INCOMPLETE
        assert volume.reason is not None and f"tank1.img (guid {guid})" in volume.reason


def test_a_zfs_pool_of_which_a_part_is_unknown(opened: dict[str, HostFile]) -> None:
    """Nothing here says what the second mirror is made of."""
    (volume,) = found(opened, "wide0").volumes
    assert volume.state is VolumeState.INCOMPLETE
    assert volume.reason is not None and "wide1.img (guid " in volume.reason
    assert "1 more of the 2 parts of the pool" in volume.reason


def test_the_second_zfs_label(opened: dict[str, HostFile], tmp_path: Path) -> None:
    unpack(GOLDEN / "solo0.img.xz", tmp_path / "solo0.img", 64 * MIB)
    with (tmp_path / "solo0.img").open("r+b") as out:
        out.seek(16384)
        out.write(bytes(1024))
    (volume,) = found(opened, "solo0").volumes
    assert volume.details["pool"] == "solo"


def test_a_partition_table_is_newer_than_zfs(opened: dict[str, HostFile], tmp_path: Path) -> None:
    """The second label outlives a new table; what counts is the table."""
    need("sfdisk")
    path = unpack(GOLDEN / "solo0.img.xz", tmp_path / "solo0.img", 64 * MIB)
    script = "label: gpt\nstart=2048, size=2048\n"
    subprocess.run(["sfdisk", "-q", "--no-reread", str(path)], input=script, text=True, check=True)
    (volume,) = found(opened, "solo0").volumes
    assert (volume.kind, volume.state) == ("partition", VolumeState.OK)


@needs_samples
def test_zfs_of_util_linux(tmp_path: Path) -> None:
    (volume,) = sample("zfs", tmp_path)
    assert (volume.details["pool"], volume.details["pool-guid"]) == ("tank", expected("zfs")["ID_FS_UUID"])
    assert volume.details["device-guid"] == expected("zfs")["ID_FS_UUID_SUB"]


def expected(name: str) -> dict[str, str]:
    text = (SAMPLES / "expected" / "blkid" / f"low-probe-{name}").read_text()
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def sample(name: str, tmp_path: Path) -> list[Volume]:
    path = unpack(SAMPLES / "ts" / "blkid" / "images-fs" / f"{name}.img.xz", tmp_path / f"{name}.img")
    with closing(HostFile.open(str(path))) as blocks:
        return find_volumes([blocks]).volumes


# btrfs


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three devices of a btrfs."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    need("mkfs.btrfs", "btrfs")
    paths = [tmp_path_factory.mktemp("btrfs") / f"device{number}.img" for number in range(3)]
    for path in paths:
        with path.open("wb") as out:
            out.truncate(128 * MIB)
    run("mkfs.btrfs", "-q", "-L", "pool", "-d", "raid1", "-m", "raid1", *paths)
    return paths


def btrfs_says(path: Path, key: str) -> str:
    said = run("btrfs", "inspect-internal", "dump-super", path)
    return next(line.split()[1] for line in said.splitlines() if line.startswith(key))


def scanned(paths: Sequence[Path]) -> list[Volume]:
    with ExitStack() as stack:
        return find_volumes([stack.enter_context(closing(HostFile.open(str(path)))) for path in paths]).volumes


def test_btrfs_over_several_devices(pool: list[Path]) -> None:
    for path, volume in zip(pool, scanned(pool), strict=True):
        assert volume.state is VolumeState.UNSUPPORTED
        assert volume.reason == "btrfs over 3 devices, all of them here: is not read by this version"
        assert volume.details["filesystem"] == btrfs_says(path, "fsid")
        assert volume.details["device"] == btrfs_says(path, "dev_item.devid")
        assert volume.details["device-uuid"] == btrfs_says(path, "dev_item.uuid")
        assert (volume.details["label"], volume.details["devices"]) == ("pool", "3")


def test_btrfs_with_a_device_missing(pool: list[Path]) -> None:
    """The superblock knows the devices of the system chunk, here the second and third."""
    missing = btrfs_says(pool[2], "dev_item.uuid")
    for volume in scanned(pool[:2]):
        assert volume.state is VolumeState.INCOMPLETE
        assert volume.reason is not None
        assert volume.reason.startswith(f"btrfs over 3 devices, 2 of them here: device 3 (uuid {missing}) is missing")
    (alone,) = scanned(pool[2:])
    second = btrfs_says(pool[1], "dev_item.uuid")
    assert alone.reason is not None
    assert f"1 of them here: device 2 (uuid {second}), 1 that it does not name are missing" in alone.reason


def test_btrfs_with_an_old_device(pool: list[Path], tmp_path: Path) -> None:
    old = tmp_path / "old.img"
    shutil.copy(pool[0], old)
    generation = int(btrfs_says(pool[0], "generation"))
    with old.open("r+b") as out:
        out.seek(65536 + 0x48)
        out.write((generation - 1).to_bytes(8, "little"))
    volumes = scanned([old, *pool[1:]])
    assert [f"generation {generation - 1}" in (volume.reason or "") for volume in volumes] == [True, False, False]


def test_btrfs_on_one_device_is_a_file_system(tmp_path: Path) -> None:
    need("mkfs.btrfs")
    path = tmp_path / "one.img"
    with path.open("wb") as out:
        out.truncate(128 * MIB)
    run("mkfs.btrfs", "-q", path)
    (volume,) = scanned([path])
    assert (volume.state, volume.reason, dict(volume.details)) == (VolumeState.OK, None, {})


@pytest.mark.parametrize("newer", ["mke2fs", "mkfs.xfs", "mkntfs"])
def test_a_new_file_system_is_newer_than_btrfs(pool: list[Path], tmp_path: Path, newer: str) -> None:
    """Its boot sector or superblock lies where btrfs leaves room, and the old superblock is still there."""
    need(newer)
    path, head = tmp_path / "reused.img", tmp_path / "head.img"
    shutil.copy(pool[0], path)
    with head.open("wb") as out:
        out.truncate(64 * MIB if newer != "mkfs.xfs" else 320 * MIB)
    run(newer, *{"mkntfs": ("-F", "-q", "-f"), "mke2fs": ("-q", "-F"), "mkfs.xfs": ("-q", "-f")}[newer], head)
    with path.open("r+b") as out, head.open("rb") as source:
        out.write(source.read(4096))
    (volume,) = scanned([path])
    assert (volume.state, dict(volume.details)) == (VolumeState.OK, {})


# bcache


def superblock(name: str, key: str) -> str:
    text: str = FACTS["bcache"][name]["super-show"]
    return next(line.split("\t")[-1] for line in text.splitlines() if line.startswith(key))


@pytest.mark.parametrize("name", ["bcache-clean", "bcache-alone"])
def test_bcache_content_is_what_the_kernel_read(opened: dict[str, HostFile], name: str) -> None:
    """Without the cache: it holds nothing that the backing device lacks."""
    result = found(opened, name)
    (volume,) = result.volumes
    assert (volume.kind, volume.id) == ("bcache", f"bcache:{superblock(name, 'dev.uuid')}")
    assert (volume.state, volume.reason) == (VolumeState.OK, None)
    assert digest(volume) == FACTS["bcache"][name]["sha256"]
    assert volume.offset == int(superblock(name, "dev.data.first_sector")) * 512
    assert volume.details["set"] == superblock(name, "cset.uuid")
    assert f"[{volume.details['cache']}]" in superblock(name, "dev.data.cache_state")
    assert f"[{volume.details['mode']}]" in superblock(name, "dev.data.cache_mode")
    check_blocks(volume.blocks, read(volume.blocks, 0, volume.size))


def test_bcache_that_is_dirty_is_not_read(opened: dict[str, HostFile]) -> None:
    assert FACTS["bcache"]["bcache-dirty"]["state"] == "dirty"
    (volume,) = found(opened, "bcache-dirty").volumes
    assert (volume.kind, volume.state) == ("disk", VolumeState.INCOMPLETE)
    assert volume.reason is not None and superblock("bcache-cache", "cset.uuid") in volume.reason
    dirty, cache = found(opened, "bcache-dirty", "bcache-cache").volumes
    assert dirty.state is cache.state is VolumeState.UNSUPPORTED
    assert dirty.reason == "a bcache backing device with newer data in its cache: that is not read by this version"
    assert cache.reason == f"a cache of the bcache set {superblock('bcache-cache', 'cset.uuid')}: is not read by this version"


@needs_samples
def test_bcache_of_util_linux(tmp_path: Path) -> None:
    (volume,) = sample("bcache-C", tmp_path)
    assert volume.details["device-uuid"] == expected("bcache-C")["ID_FS_UUID"]


# DRBD


@pytest.mark.parametrize("version", ["v08", "v09"])
def test_drbd_content_is_in_front_of_its_metadata(opened: dict[str, HostFile], version: str) -> None:
    name = f"drbd-{version}-current"
    said = FACTS["drbd"][name]["dump-md"]
    result = found(opened, name)
    (volume,) = result.volumes
    assert (volume.kind, volume.state, volume.reason) == ("drbd", VolumeState.OK, None)
    assert volume.details["version"] == said.split('version "v0')[1][0]
    assert volume.size == int(re.search(r"# bm_offset (\d+)", said)[1])  # type: ignore[index]
    assert read(volume.blocks, 0, volume.size) == read(opened[name], 0, volume.size)
    (disk,) = result.containers
    assert (disk.state, disk.reason, disk.details["manager"]) == (VolumeState.OK, None, "drbd")


@pytest.mark.parametrize("version", ["v08", "v09"])
def test_drbd_that_was_never_synchronised(opened: dict[str, HostFile], version: str) -> None:
    (volume,) = found(opened, f"drbd-{version}-new").volumes
    assert volume.state is VolumeState.INCOMPLETE
    assert volume.reason is not None and volume.reason.startswith("this node's copy is inconsistent")


def test_the_file_system_in_drbd_is_read(opened: dict[str, HostFile], tmp_path: Path) -> None:
    assert opened["drbd-v08-current"].size == 8 * MIB
    with mntapi.open_disks(str(tmp_path / "drbd-v08-current.img")) as disk_set:
        (volume,) = disk_set.volumes
        assert volume.name == "drbd-disk0"
        tree = mntapi.VolumeTree(disk_set)
        assert mntapi.resolve(tree, f"/{volume.name}/lost+found").kind.value == "directory"


# Others


@needs_samples
@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("lsi-raid", "LSI MegaRAID"),
        ("via-raid", "VIA"),
        ("silicon-raid", "Silicon Image Medley"),
        ("nvidia-raid", "NVIDIA"),
        ("promise-raid", "Promise FastTrak"),
        ("hpt37x-raid", "HighPoint 37x"),
    ],
)
def test_raids_of_mainboards(name: str, maker: str, tmp_path: Path) -> None:
    assert expected(name)["ID_FS_USAGE"] == "raid"
    (volume,) = sample(name, tmp_path)
    assert (volume.state, volume.details["maker"]) == (VolumeState.UNSUPPORTED, maker)
    assert volume.reason == f"a member of a RAID of {maker}: is not read by this version"


@needs_samples
def test_bluestore(tmp_path: Path) -> None:
    (volume,) = sample("bluestore", tmp_path)
    assert (volume.state, volume.details["manager"]) == (VolumeState.UNSUPPORTED, "ceph")
