"""The log tree of btrfs, replayed in memory, against what the kernel made of the same devices when it mounted them."""

from __future__ import annotations

import hashlib
import os
import random
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

import mntapi
from contract.btrfs_devices import FACTS, check, filesystem_on, opened, unpack
from contract.btrfs_editor import edited, spoiled
from contract.filesystem_contract import resolve
from contract.mounting import mounted, need, need_root, run
from mntapi.blocks import HostFile, read
from mntapi.errors import Corrupt
from mntapi.filesystems.btrfs import logtree
from mntapi.filesystems.btrfs.devices import read_devices
from mntapi.filesystems.btrfs.filesystem import BtrfsFileSystem
from mntapi.types import FileKind, FileSystem, Node, VolumeState

ROUNDS = 4


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return {name: unpack(name, tmp_path_factory.mktemp(f"btrfs-{name}")) for name in ("log", "folders")}


@pytest.fixture
def devices(unpacked: dict[str, list[Path]]) -> Iterator[list[HostFile]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(blocks)) for blocks in opened(unpacked["log"])]


def open_btrfs(devices: list[HostFile]) -> BtrfsFileSystem:
    fs = filesystem_on(devices)
    assert isinstance(fs, BtrfsFileSystem)
    return fs


def told(node: Node) -> list[int]:
    return [node.size, node.allocated, node.links, node.mtime_ns, node.ctime_ns]


def test_files_that_were_synced(devices: list[HostFile]) -> None:
    """Content, sizes, bytes on disk, links and times; and what was not synced is as it was."""
    check(devices, "log")
    fs = open_btrfs(devices)
    assert fs.unreplayed is None
    status = FACTS["log"]["status"]
    assert {path: told(resolve(fs, path)) for path in status} == status
    assert fs.xattrs(resolve(fs, "folder/small03")) == {"user.new": b"value"}
    assert {"new and small"} <= {name for name, _ in fs.scan(resolve(fs, "folder"))}
    assert fs.lookup(resolve(fs, "home"), "new") == resolve(fs, "home/new")


def test_folders_have_room_for_new_names(devices: list[HostFile]) -> None:
    fs = open_btrfs(devices)
    folder = resolve(fs, "folder")
    assert folder.size == 2 * sum(len(name) for name, _ in fs.scan(folder))


def test_what_is_told(unpacked: dict[str, list[Path]]) -> None:
    """A file that was renamed and synced: all stays as it was at the commit."""
    with mntapi.open_disks(*map(str, unpacked["folders"])) as disks:
        (volume,) = disks.volumes
        content = disks.content(volume)
        assert content.state is VolumeState.DIRTY
        assert content.reason is not None and content.reason.startswith("log tree not replayed: it has ")
        fs = disks.filesystem(volume)
        names = {name for name, _ in fs.scan(resolve(fs, "folder"))}
        assert "small01" in names and "renamed" not in names


def test_it_is_told_of_a_set_that_lacks_a_device_too(unpacked: dict[str, list[Path]]) -> None:
    """Its state is worse than dirty, and the newest names are missing all the same."""
    for name, is_told in (("folders", True), ("log", False)):
        with mntapi.open_disks(str(unpacked[name][0])) as disks:
            (volume,) = (one for one in disks.volumes if one.kind == "btrfs")
            assert disks.content(volume).state is VolumeState.INCOMPLETE
            disks.filesystem(volume)
            assert (volume.name in disks.unreplayed()) is is_told


def test_a_damaged_log_is_told(devices: list[HostFile]) -> None:
    """On both devices. The last commit is there without it."""
    fs = open_btrfs(devices)
    assert fs._sb.log_root is not None
    chunk = fs._nodes._chunks.find(fs._sb.log_root.logical, 0)
    places = [stripe.start + fs._sb.log_root.logical - chunk.logical + 200 for stripe in chunk.stripes]
    one, other = (spoiled(device, (at, b"\xff")) for device, at in zip(devices, places, strict=True))
    damaged = filesystem_on([one, other])
    assert isinstance(damaged, BtrfsFileSystem)
    assert damaged.unreplayed is not None and "the checksum of a tree node is wrong" in damaged.unreplayed
    assert resolve(damaged, "folder/small04").size == 4 * 97
    check([spoiled(devices[0], (places[0], b"\xff")), devices[1]], "log")


def test_a_log_of_a_subvolume_that_is_gone(devices: list[HostFile]) -> None:
    fs = open_btrfs(devices)
    assert fs._sb.log_root is not None
    node = fs._nodes.read(fs._sb.log_root)
    at = node.at + 101 + 9 + 25 * (len(node.entries) - 1)
    odd = edited(devices[0], (at, (999).to_bytes(8, "little")))
    lacking = filesystem_on([odd, devices[1]])
    assert isinstance(lacking, BtrfsFileSystem)
    assert lacking.unreplayed == "log tree not replayed: it is of subvolume 999, which is not there"


def test_a_log_without_end(devices: list[HostFile], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logtree, "MAX_ITEMS", 5)
    fs = open_btrfs(devices)
    assert fs.unreplayed is not None and "more than 5 items" in fs.unreplayed


def test_a_tree_of_logs_that_is_too_high(devices: list[HostFile]) -> None:
    with pytest.raises(Corrupt, match="tree of log trees is too high"):
        filesystem_on([edited(one, (65536 + 200, b"\x08")) for one in devices])


# the kernel, live


def change(rng: random.Random, path: Path) -> None:
    """Some changes of a file, synced in between or not."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        for _ in range(rng.randint(1, 4)):
            size = os.fstat(file.fileno()).st_size
            what = rng.randrange(6)
            if what < 2:
                file.seek(rng.randint(0, size))
                file.write(rng.randbytes(rng.choice((1, 100, 4096, 20_000, 150_000))))
            elif what == 2:
                file.truncate(rng.randint(0, size + 10_000))
            elif what == 3:
                run("fallocate", "-p", "-o", str(rng.randint(0, size)), "-l", "9000", path)
            elif what == 4:
                run("fallocate", *rng.choice(((), ("-n",))), "-o", str(rng.randint(0, size)), "-l", "50000", path)
            else:
                os.setxattr(path, f"user.{rng.randrange(4)}", rng.randbytes(rng.randint(0, 50)))
            file.flush()
            if rng.random() < 0.3:
                os.fsync(file.fileno())
        if rng.random() < 0.9:
            os.fsync(file.fileno())


def by_the_kernel(top: Path) -> dict[str, object]:
    """Files as a program sees them. Folders without times: a replay sets them to now."""
    found: dict[str, object] = {}
    for path in top.rglob("*"):
        status = path.lstat()
        name = str(path.relative_to(top))
        if stat.S_ISREG(status.st_mode):
            times = [status.st_mtime_ns, status.st_ctime_ns]
            attributes = {key: os.getxattr(path, key) for key in os.listxattr(path)}
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[name] = [status.st_size, status.st_blocks * 512, status.st_nlink, *times, digest, attributes]
        else:
            found[name] = status.st_size
    return found


def by_us(fs: FileSystem, folder: Node, above: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, node in fs.scan(folder):
        if node.kind is FileKind.DIRECTORY:
            found[above + name] = node.size
            found |= by_us(fs, node, f"{above}{name}/")
        else:
            blocks = fs.open(node)
            digest = hashlib.sha256(read(blocks, 0, blocks.size)).hexdigest()
            found[above + name] = [*told(node), digest, dict(fs.xattrs(node))]
    return found


@pytest.mark.root
@pytest.mark.parametrize("options", ["", ",compress=zstd", ",nodatacow"])
def test_changes_at_random(tmp_path: Path, options: str) -> None:
    """Files old and new, in folders and a subvolume, and copies of the image while it is mounted. What is replayed is right; it
    need not be all, for others on this machine may sync at any time, and so change what is logged."""
    need_root()
    need("mkfs.btrfs", "mount", "fallocate")
    image, rng = tmp_path / "image", random.Random(7)
    with image.open("wb") as out:
        out.truncate(128 << 20)
    run("mkfs.btrfs", "-q", *(() if options else ("-O", "^no-holes")), image)
    with mounted(image, f"rw,commit=3000{options}") as top:
        run("btrfs", "subvolume", "create", top / "sub")
        (top / "folder").mkdir()
        paths = [top / folder / f"file{number}" for number in range(5) for folder in ("folder", "sub")]
        for path in paths:
            path.write_bytes(rng.randbytes(rng.choice((0, 3, 500, 5000, 200_000))))
        for number in range(ROUNDS):
            run("sync", "-f", top)
            paths.append(top / "folder" / f"new{number}")
            for path in [paths[-1], *rng.sample(paths, 4)]:
                change(rng, path)
            run("cp", "--sparse=always", image, tmp_path / f"copy{number}")
    replayed = 0
    for number in range(ROUNDS):
        copy = tmp_path / f"copy{number}"
        with closing(HostFile.open(str(copy))) as blocks:
            fs = BtrfsFileSystem(blocks, *read_devices(blocks))
            if fs.unreplayed is not None:
                continue
            found = by_us(fs, fs.root)
        with mounted(copy, "rw") as top:
            assert found == by_the_kernel(top)
        replayed += 1
    assert replayed
