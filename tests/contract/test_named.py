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
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

import mntapi
from contract.blocks_contract import check_blocks
from contract.make_disk import need, run
from contract.writable_sets import luks1
from mntapi.blocks import HostFile, read
from mntapi.session.overlay import why_read_only
from mntapi.types import Volume, VolumeState
from mntapi.volumes.scan import Found, find_volumes
from unit.lvm_builder import disk, group_text, linear
from unit.lvm_builder import volume as logical

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


# btrfs: more in test_btrfs_devices.py


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


def scanned(paths: Sequence[Path]) -> list[Volume]:
    with ExitStack() as stack:
        return find_volumes([stack.enter_context(closing(HostFile.open(str(path)))) for path in paths]).volumes


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


def drbd_with(content: bytes, path: Path, *, flags: bytes | None = None) -> Path:
    """A device whose DRBD content begins with this: the golden one, with its metadata."""
    unpack(GOLDEN / "drbd-v08-current.img.xz", path)
    with path.open("r+b") as out:
        out.write(content)
        if flags is not None:
            out.seek(8 * MIB - 4096 + 56)
            out.write(flags)
    return path


def lvm_disk() -> bytes:
    return disk("pv0", group_text(logical("data", linear(0, 1, "pv0", 0)), physical=("pv0",)))


@pytest.mark.parametrize(("flags", "state"), [(None, VolumeState.OK), (b"\0\0\0\1", VolumeState.INCOMPLETE)])
def test_lvm_in_drbd_is_found_through_it(tmp_path: Path, flags: bytes | None, state: VolumeState) -> None:
    """The label lies where it does without DRBD: a copy that is behind its peer is told, and nothing in it is written."""
    with opened_at(drbd_with(lvm_disk(), tmp_path / "d", flags=flags)) as device:
        (volume,), containers = find_volumes([device])
        assert [one.kind for one in containers] == ["disk", "drbd"]
        assert (volume.kind, volume.state, volume.members) == ("lvm", state, (containers[1].id,))
        assert volume.reason == ("lies on drbd-disk0, which is incomplete" if flags else None)
        assert why_read_only(volume) == "its peer is elsewhere, and would not know of the change"


def test_luks_in_drbd_is_found_through_it(tmp_path: Path) -> None:
    luks1(tmp_path / "luks", "aes-xts-plain64", bytes(64 << 10))
    with opened_at(drbd_with((tmp_path / "luks").read_bytes(), tmp_path / "d")) as device:
        (volume,), containers = find_volumes([device])
        assert (volume.kind, volume.state, containers[-1].kind) == ("drbd", VolumeState.ENCRYPTED, "disk")


@pytest.mark.parametrize("version", ["v08", "v09"])
def test_drbd_on_the_last_partition(tmp_path: Path, version: str) -> None:
    """The disk ends as the partition does, and is no DRBD device."""
    need("sfdisk")
    inner = unpack(GOLDEN / f"drbd-{version}-current.img.xz", tmp_path / "inner").read_bytes()
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(MIB) + inner)
    subprocess.run(["sfdisk", "-q", "--no-reread", str(path)], input="label: dos\nstart=2048\n", text=True, check=True)
    with opened_at(path) as device:
        (volume,), containers = find_volumes([device])
        assert [one.name for one in (*containers, volume)] == ["disk0", "disk0p1", "drbd-disk0p1"]
        assert read(volume.blocks, 0, volume.size) == inner[: volume.size]


def test_the_bitmap_must_cover_the_device(tmp_path: Path) -> None:
    """That of the golden devices has bits for 128 MiB: at the end of more it belongs to what lies there."""
    inner = unpack(GOLDEN / "drbd-v08-current.img.xz", tmp_path / "inner").read_bytes()
    for size, kinds in ((128 * MIB, ["disk", "drbd"]), (256 * MIB, ["disk"])):
        path = tmp_path / f"{size}.img"
        with path.open("wb") as out:
            out.seek(size - len(inner))
            out.write(inner)
        with opened_at(path) as device:
            found = find_volumes([device])
            assert [one.kind for one in (*found.containers, *found.volumes)] == kinds


@contextmanager
def opened_at(path: Path) -> Iterator[HostFile]:
    with closing(HostFile.open(str(path))) as device:
        yield device


# Others


def test_lvm_on_a_disk_of_a_mainboards_raid(tmp_path: Path) -> None:
    """The group lies on the array, of which this disk may be a stripe."""
    path = tmp_path / "disk.img"
    path.write_bytes(lvm_disk().ljust(2 * MIB - 512, b"\0") + b"$XIDE$".ljust(512, b"\0"))
    with opened_at(path) as device:
        (volume,), _ = find_volumes([device])
        assert (volume.kind, volume.state, volume.details["maker"]) == ("disk", VolumeState.UNSUPPORTED, "LSI MegaRAID")


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
