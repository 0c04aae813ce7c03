"""Logs of XFS left full by the kernel, replayed in memory: the tree is that of the kernel's own replay.

Golden images and what the kernel read in them are made by ``scripts/images/xfs-log.sh``; the others are made here, by root.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mntapi
from contract.blocks_contract import check_blocks
from contract.filesystem_contract import check_filesystem, digest, tree_of, walk
from contract.mounting import mounted, need, need_root, run
from contract.xfs_crashes import Work
from contract.xfs_images import SIGNATURE, SMALL, made
from mntapi.blocks import HostFile, read
from mntapi.errors import Corrupt
from mntapi.filesystems.probe import probe
from mntapi.filesystems.runs import Memory
from mntapi.filesystems.xfs.filesystem import XfsFileSystem, open_filesystem
from mntapi.filesystems.xfs.log import Log
from mntapi.filesystems.xfs.superblock import find_superblock
from mntapi.types import Blocks, FileKind, VolumeState
from mntapi.units import MIB

GOLDEN = Path(__file__).parents[1] / "golden" / "xfs-log"
NAMES = ("v4", "v5", "sectors", "stripes", "moved", "unmoved")
KINDS = {
    "directory": FileKind.DIRECTORY,
    "regular file": FileKind.FILE,
    "regular empty file": FileKind.FILE,
    "symbolic link": FileKind.SYMLINK,
    "fifo": FileKind.FIFO,
    "character special file": FileKind.CHAR_DEVICE,
}


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> tuple[bytes, dict[str, dict[str, str]]]:
    name = request.param
    image = lzma.decompress((GOLDEN / f"{name}.img.xz").read_bytes())
    return image, json.loads(lzma.decompress((GOLDEN / f"{name}.json.xz").read_bytes()))


def opened(blocks: Blocks) -> XfsFileSystem:
    signature = probe(blocks)
    assert signature is not None and signature.dirty == "log not replayed"
    return open_filesystem(blocks, signature)


def test_golden_images(golden: tuple[bytes, dict[str, dict[str, str]]]) -> None:
    image, facts = golden
    fs = opened(Memory(image))
    assert fs.unreplayed is None
    found = walk(fs)
    assert found.keys() == facts.keys()
    for path, want in facts.items():
        node = found[path]
        assert node.kind is KINDS[want["kind"]], path
        told = (oct(node.mode)[2:], str(node.uid), str(node.gid), str(node.links), str(node.inode))
        assert told == (want["mode"], want["uid"], want["gid"], want["links"], want["inode"]), path
        assert node.mtime_ns == int(want["mtime"].replace(".", "")), path
        if node.kind is FileKind.FILE:
            assert (str(node.size), digest(fs, node)) == (want["size"], want["content"].split()[0]), path
        elif node.kind is FileKind.SYMLINK:
            assert fs.readlink(node) == want["content"], path


def test_they_are_others_without_their_logs(golden: tuple[bytes, dict[str, dict[str, str]]]) -> None:
    image, facts = golden
    try:
        stale = walk(open_filesystem(Memory(image), SIGNATURE))
    except Corrupt:
        return
    assert stale.keys() != facts.keys()


def test_attributes_of_version_4() -> None:
    """As the script that made the image set them."""
    fs = opened(Memory(lzma.decompress((GOLDEN / "v4.img.xz").read_bytes())))
    found = walk(fs)
    assert fs.xattrs(found["etc/os-release"]) == {"user.short": b"value"}
    assert fs.xattrs(found["numbers"]) == {"user.long": b"x" * 2000}


@pytest.mark.parametrize(("name", "left"), [("moved", 1), ("unmoved", 2)])
def test_files_whose_blocks_were_being_copied(name: str, left: int) -> None:
    """The log ends before a new block is put in its place, or before the old one is taken out."""
    image = lzma.decompress((GOLDEN / f"{name}.img.xz").read_bytes())
    facts = json.loads(lzma.decompress((GOLDEN / f"{name}.json.xz").read_bytes()))
    fs = opened(Memory(image))
    new = fs.lookup(fs.root, "new")
    assert [(number, len(moves)) for number, moves in fs._moves.items()] == [(new.inode, left)]
    right = facts["new"]["content"].split()[0]
    assert digest(fs, new) == right
    fs._moves = {}
    assert digest(fs, new) != right


def test_the_layer_keeps_the_contract(golden: tuple[bytes, dict[str, dict[str, str]]]) -> None:
    volume = opened(Memory(golden[0]))._volume
    whole = read(volume, 0, volume.size)
    assert whole != golden[0]
    check_blocks(volume, whole, ranges=50)
    volume.close()


LAYOUTS = {
    "usual": (),
    "small-blocks": ("-b", "size=1024"),
    "large-folders": ("-n", "size=16384"),
    "sectors-of-4-KiB": ("-s", "size=4096"),
    "stripes": ("-l", "su=32k"),
    "several-headers": ("-l", "su=256k,size=20m"),
    "old-features": ("-m", "reflink=0,rmapbt=0,bigtime=0", "-i", "sparse=0,nrext64=0"),
    "new-features": ("-m", "rmapbt=1", "-i", "nrext64=1,size=1024"),
}


def crashed(tmp_path: Path, layout: str, steps: int, *, flush: str = " -f") -> Path:
    """An image that was changed and not unmounted. The last sync leaves the log as it is, and waits for contents on their way:
    a copied block is put into its file in several transactions, of which the log could else have only the first."""
    need_root()
    need("mkfs.xfs", "xfs_io", "mount")
    image = made(tmp_path / "crashed.img", 128 * MIB, *SMALL, *LAYOUTS[layout])
    with mounted(image, "rw") as top:
        work = Work(top, seed=len(layout))
        work.do(steps // 2)
        run("sync", "-f", top)
        work.do(steps // 2)
        run("sync", "-f", top)
        run("xfs_io", "-x", "-c", f"shutdown{flush}", top)
    return image


@contextmanager
def replayed(image: Path) -> Iterator[XfsFileSystem]:
    blocks = HostFile.open(str(image))
    fs = opened(blocks)
    try:
        yield fs
    finally:
        fs.close()
        blocks.close()


@pytest.mark.root
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_tree_is_that_of_the_kernels_replay(layout: str, tmp_path: Path) -> None:
    image = crashed(tmp_path, layout, 200)
    before = hashlib.sha256(image.read_bytes()).digest()
    with replayed(image) as fs:
        assert fs.unreplayed is None
        with mounted(shutil.copy(image, tmp_path / "by-the-kernel"), "rw") as top:
            check_filesystem(fs, tree_of(top))
    assert hashlib.sha256(image.read_bytes()).digest() == before


@pytest.mark.root
def test_what_is_free_is_what_the_kernel_counts(tmp_path: Path) -> None:
    """Where nothing was removed, for what was half removed the kernel frees while it mounts."""
    need_root()
    need("mkfs.xfs", "xfs_io", "xfs_db")
    image = made(tmp_path / "crashed.img", 128 * MIB, *SMALL)
    with mounted(image, "rw") as top:
        for name in range(300):
            (top / f"file{name}").touch()
        run("xfs_io", "-x", "-c", "shutdown -f", top)
    with replayed(image) as fs:
        capacity = fs.capacity()
        stale = fs._sb
    assert capacity.inodes > stale.inodes
    with mounted(image, "rw"):
        pass
    told = run("xfs_db", "-r", "-c", "sb 0", "-c", "print fdblocks icount ifree", image)
    free, inodes, inodes_free = (int(line.split(" = ")[1]) for line in told.splitlines())
    assert (capacity.free, capacity.inodes, capacity.inodes_free) == (free * 4096, inodes, inodes_free)


@pytest.mark.root
def test_a_log_that_went_round(tmp_path: Path) -> None:
    image = crashed(tmp_path, "small-blocks", 100)
    with mounted(image, "rw") as top:
        for name in range(400):
            (top / f"file{name}").touch()
        for again in range(300):
            for name in range(400):
                os.utime(top / f"file{name}", ns=(again, again))
            run("sync", "-f", top)
            if _lies_over_the_end(image):
                break
        run("xfs_io", "-x", "-c", "shutdown -f", top)
    if not _lies_over_the_end(image):
        pytest.skip("the kernel wrote back all that lay over the end of the log")
    with replayed(image) as fs, mounted(shutil.copy(image, tmp_path / "by-the-kernel"), "rw") as top:
        assert fs.unreplayed is None
        check_filesystem(fs, tree_of(top))


def _lies_over_the_end(image: Path) -> bool:
    blocks = HostFile.open(str(image))
    records = Log(blocks, find_superblock(blocks)).records()
    blocks.close()
    return bool(records) and records[0].sector + records[0].sectors > records[-1].sector + records[-1].sectors


@pytest.mark.root
def test_files_that_changed_contents(tmp_path: Path) -> None:
    """As xfs_fsr does it: the trees of their extents change owners. Compared with what there was before the crash, for some
    kernels take the inode of the shorter file for damaged while they replay this."""
    need_root()
    need("mkfs.xfs", "xfs_io")
    image = made(tmp_path / "crashed.img", 128 * MIB, *SMALL, "-b", "size=1024", "-m", "reflink=0,rmapbt=0")
    with mounted(image, "rw") as top:
        for name, count in (("first", 300), ("second", 900), ("third", 1)):
            with (top / name).open("wb") as file:
                for index in range(count):
                    file.seek(index * 2048)
                    file.write(name.encode() + b"%d" % index)
                file.truncate(2048 * 900)
    with mounted(image, "rw") as top:  # the trees are in their place now, and would be logged otherwise
        run("xfs_io", "-c", f"swapext {top / 'first'}", top / "second")
        assert (top / "first").read_bytes()[2048:].startswith(b"second1")
        tree = tree_of(top)
        run("xfs_io", "-x", "-c", "shutdown -f", top)
    with replayed(image) as fs:
        assert fs.unreplayed is None
        check_filesystem(fs, tree)


@pytest.mark.root
@pytest.mark.parametrize("layout", ["sectors-of-4-KiB", "several-headers"])
def test_records_that_were_not_written_whole(layout: str, tmp_path: Path) -> None:
    """One bit of a record is wrong, or a sector is zeros: we replay what the kernel replays. It may refuse more, for what it
    wrote to its place meanwhile may be newer than what is left of the log."""
    image = crashed(tmp_path, layout, 120, flush="")
    pristine = image.read_bytes()
    blocks = HostFile.open(str(image))
    log = Log(blocks, find_superblock(blocks))
    records = log.records()
    blocks.close()
    dice = random.Random(layout)
    for back in sorted({1, 2, min(12, len(records))}):
        record = records[-back]
        at = log._at + (record.sector + dice.randrange(record.sectors)) % log._count * 512
        changed = bytearray(pristine)
        if back == 2:
            changed[at : at + 512] = bytes(512)
        else:
            changed[at + dice.randrange(512)] ^= 1 << dice.randrange(8)
        image.write_bytes(changed)
        _compare_with_kernel(image, tmp_path / "by-the-kernel")


def _compare_with_kernel(image: Path, copy: Path) -> None:
    with replayed(image) as fs:
        try:
            with mounted(shutil.copy(image, copy), "rw") as top:
                assert fs.unreplayed is None
                with contextlib.suppress(OSError):  # what lies there may be newer than the log, as no lost power leaves it
                    check_filesystem(fs, tree_of(top), lookups=10)
        except AssertionError as error:
            if "mount" not in str(error.args):
                raise
            assert fs.unreplayed is None or "cannot be replayed: a record" in fs.unreplayed


@pytest.mark.root
def test_through_the_public_interface(tmp_path: Path) -> None:
    image = crashed(tmp_path, "usual", 60)
    with mntapi.open_disks(str(image)) as disk_set:
        content = disk_set.content(disk_set.volumes[0])
        assert (content.state, content.reason) == (VolumeState.OK, "journal replayed in memory")
        assert content.signature is not None and content.signature.dirty == "log not replayed"
        assert disk_set.unreplayed() == {}
