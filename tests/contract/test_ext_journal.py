"""Journals of ext3 and ext4 left full by the kernel, replayed in memory: the tree is that of the kernel's own replay.

Each image is a copy of one that was mounted: what a snapshot of a running guest holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mntapi
from contract.blocks_contract import check_blocks
from contract.filesystem_contract import check_filesystem, tree_of, walk
from contract.mounting import mounted, need, need_root, run
from mntapi.blocks import HostFile, read
from mntapi.errors import Corrupt, MntapiError
from mntapi.filesystems.ext import journal, recovery
from mntapi.filesystems.ext.filesystem import ExtFileSystem
from mntapi.filesystems.ext.superblock import SUPERBLOCK_AT, SUPERBLOCK_SIZE, parse_superblock
from mntapi.filesystems.readers import open_filesystem
from mntapi.types import FileKind, Signature, Usage, VolumeState

SIGNATURE = Signature("ext4", Usage.FILESYSTEM)
MAGIC = struct.pack(">I", journal.MAGIC)


def change(top: Path) -> None:
    """Files made, removed and made again, so that blocks are revoked and used anew; contents that look like the journal."""
    for index in range(200):
        (top / f"folder{index % 7}").mkdir(exist_ok=True)
        (top / f"folder{index % 7}" / f"file{index}").write_bytes(bytes([index % 250 + 1]) * index * 20)
    run("sync", "-f", top)
    for index in range(0, 200, 3):
        (top / f"folder{index % 7}" / f"file{index}").unlink()
    shutil.rmtree(top / "folder3")
    for index in range(60):
        (top / f"new{index}").write_bytes(MAGIC * 3000)
    os.setxattr(top / "new1", "user.name", b"value" * 30)
    for index in range(60):  # into the journal, and not to its place as sync(1) would
        with (top / f"new{index}").open("r+b") as file:
            os.fsync(file.fileno())


def crashed(tmp_path: Path, make: tuple[str, ...], options: str = "") -> Path:
    """A copy of an image while it was mounted and changed."""
    image, copy = tmp_path / "image", tmp_path / "copy"
    with image.open("wb") as out:
        out.truncate(48 << 20)
    run("mke2fs", "-q", "-F", "-E", "lazy_itable_init=0", *make, image)
    with mounted(image, f"rw{options}") as top:
        change(top)
        shutil.copy(image, copy)
    return copy


@contextmanager
def opened(image: Path) -> Iterator[ExtFileSystem]:
    blocks = HostFile.open(str(image))
    try:
        filesystem = open_filesystem(blocks, SIGNATURE)
        assert isinstance(filesystem, ExtFileSystem)
        yield filesystem
        filesystem.close()
    finally:
        blocks.close()


def _needs_replay(copy: Path) -> bool:
    """Whether the tree is another one without the journal: somebody else's sync(1) may have brought all to its place."""
    with as_it_lies(copy) as stale, opened(copy) as filesystem:
        try:
            return walk(stale) != walk(filesystem)
        except Corrupt:
            return True


def _replayed_by_e2fsck(filesystem: ExtFileSystem, copy: Path) -> bytes:
    """The image after e2fsck wrote the journal to its places, but for the two superblocks, which say that it did."""
    done = copy.with_name("by-e2fsck")
    run("e2fsck", "-p", "-E", "journal_only", shutil.copy(copy, done))
    content = bytearray(done.read_bytes())
    journal_at = Broken(copy).start
    for at in (SUPERBLOCK_AT, journal_at):
        content[at : at + SUPERBLOCK_SIZE] = read(filesystem._volume, at, SUPERBLOCK_SIZE)
    return bytes(content)


@contextmanager
def as_it_lies(image: Path) -> Iterator[ExtFileSystem]:
    """The same without replaying."""
    blocks = HostFile.open(str(image))
    try:
        yield ExtFileSystem(blocks, parse_superblock(read(blocks, SUPERBLOCK_AT, SUPERBLOCK_SIZE)), "ext4")
    finally:
        blocks.close()


CASES = {
    "ext4": (("-t", "ext4"), ""),
    "ext4-4k": (("-t", "ext4", "-b", "4096"), ""),
    "ext3": (("-t", "ext3"), ""),
    "tags-of-8-bytes": (("-t", "ext4", "-O", "^64bit,^metadata_csum"), ""),
    "data-in-journal": (("-t", "ext4"), ",data=journal"),
    "transaction-checksums": (("-t", "ext4", "-O", "^metadata_csum"), ",journal_checksum"),
    "asynchronous": (("-t", "ext4"), ",data=writeback,journal_async_commit"),
    "meta-bg": (("-t", "ext4", "-O", "meta_bg,^resize_inode"), ""),
}


@pytest.mark.root
@pytest.mark.parametrize("case", CASES)
def test_the_tree_is_that_of_the_kernels_replay(case: str, tmp_path: Path) -> None:
    need_root()
    make, options = CASES[case]
    copy = next(copy for copy in (crashed(tmp_path, make, options) for _ in range(5)) if _needs_replay(copy))
    before = hashlib.sha256(copy.read_bytes()).digest()
    with opened(copy) as filesystem:
        assert filesystem.unreplayed is None
        if case != "meta-bg":  # there e2fsck also changes group descriptors
            check_blocks(filesystem._volume, _replayed_by_e2fsck(filesystem, copy), ranges=50)
        with mounted(shutil.copy(copy, tmp_path / "replayed"), "rw") as top:
            check_filesystem(filesystem, tree_of(top))
    assert hashlib.sha256(copy.read_bytes()).digest() == before


@pytest.mark.root
def test_through_the_public_interface(tmp_path: Path) -> None:
    need_root()
    with mntapi.open_disks(str(crashed(tmp_path, ("-t", "ext4")))) as disk_set:
        content = disk_set.content(disk_set.volumes[0])
        assert (content.state, content.reason) == (VolumeState.OK, "journal replayed in memory")
        assert content.signature is not None and content.signature.dirty == "journal not replayed"
        tree = mntapi.VolumeTree(disk_set)
        assert mntapi.resolve(tree, "/disk0/new59").size == 12_000


@pytest.mark.root
def test_fast_commits_are_told(tmp_path: Path) -> None:
    need_root()
    image, copy = tmp_path / "image", tmp_path / "copy"
    with image.open("wb") as out:
        out.truncate(48 << 20)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "fast_commit", image)
    with mounted(image, "rw") as top:
        (top / "first").touch()
        run("sync", "-f", top)
        with (top / "second").open("w") as file:
            os.fsync(file.fileno())
            shutil.copy(image, copy)
    with mntapi.open_disks(str(copy)) as disk_set:
        content = disk_set.content(disk_set.volumes[0])
        assert content.state is VolumeState.DIRTY and "fast commits" in (content.reason or "")
        tree = disk_set.filesystem(disk_set.volumes[0])
        assert {name for name, _ in tree.scan(tree.root)} == {"lost+found", "first"}


class Broken:
    """A crashed image to damage: ``put`` bytes into its journal, whose blocks lie one behind the other."""

    def __init__(self, image: Path) -> None:
        self.image = image
        self._pristine = image.read_bytes()
        self.block_size = 1024 << struct.unpack_from("<I", self._pristine, SUPERBLOCK_AT + 24)[0]
        self.start = int(run("debugfs", "-n", "-R", "bmap <8> 0", image).split()[-1]) * self.block_size
        self.log = self.start + self.block_size * struct.unpack_from(">I", self._pristine, self.start + 0x1C)[0]

    def put(self, at: int, value: bytes) -> None:
        """Only these bytes differ from the image as it was."""
        self.image.write_bytes(self._pristine[:at] + value + self._pristine[at + len(value) :])

    def blocks(self, kind: int) -> list[int]:
        """Bytes where blocks of that kind are, in the part of the log in use."""
        places = range(self.log, self.start + (2 << 20), self.block_size)
        return [at for at in places if self._pristine[at : at + 8] == MAGIC + struct.pack(">I", kind)]

    def reason(self) -> str | None:
        """Why it was not replayed. The files have to be readable all the same."""
        with opened(self.image) as filesystem:
            assert {"lost+found"} <= {name for name, _ in filesystem.scan(filesystem.root)}
            return filesystem.unreplayed


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Broken:
    need_root()
    need("debugfs")
    return Broken(crashed(tmp_path_factory.mktemp("journal"), ("-t", "ext4")))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Broken:
    """Without checksums, which hide all other damage."""
    need_root()
    need("debugfs")
    return Broken(crashed(tmp_path_factory.mktemp("journal"), ("-t", "ext4", "-O", "^metadata_csum")))


@pytest.mark.root
@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (0, b"\0\0\0\0", "no superblock"),
        (4, b"\0\0\0\1", "no superblock"),
        (0x0C, struct.pack(">I", 8192), "another size"),
        (0x10, b"\xff\xff\xff\xff", "impossible"),
        (0x14, b"\xff\0\0\0", "impossible"),
        (0x1C, b"\0\xff\0\0", "impossible"),
        (0x28, struct.pack(">I", 0x80), "features that are not known"),
        (0x50, b"\1", "checksums of a kind"),
    ],
)
def test_a_superblock_that_is_damaged(broken: Broken, at: int, value: bytes, why: str) -> None:
    broken.put(broken.start + at, value)
    assert why in (broken.reason() or "")


@pytest.mark.root
def test_a_commit_with_a_wrong_checksum(broken: Broken) -> None:
    broken.put(broken.blocks(journal.Kind.COMMIT)[0] + 40, b"x")
    assert "wrong checksum" in (broken.reason() or "")


@pytest.mark.root
def test_a_copy_with_a_wrong_checksum_is_an_error_where_it_is_read(broken: Broken) -> None:
    broken.put(broken.blocks(journal.Kind.DESCRIPTOR)[-1] + broken.block_size + 100, b"\xa5\x5a")
    with opened(broken.image) as filesystem:
        assert filesystem.unreplayed is None
        volume = filesystem._volume
        with pytest.raises(Corrupt, match="wrong checksum") as caught:
            for at in range(0, volume.size, 1 << 20):
                read(volume, at, 1 << 20)
        assert caught.value.offset is not None


@pytest.mark.root
def test_a_log_that_is_left_from_earlier_is_none(broken: Broken) -> None:
    """A commit with a wrong checksum and a time before the last one's: the kernel ends the log there, without an error."""
    last = broken.blocks(journal.Kind.COMMIT)[-1]
    broken.put(last + 0x30, bytes(8))
    with opened(broken.image) as filesystem:
        assert filesystem.unreplayed is None


@pytest.mark.root
def test_a_block_that_the_file_system_has_not(plain: Broken) -> None:
    plain.put(plain.blocks(journal.Kind.DESCRIPTOR)[0] + 12, b"\x7f\xff\xff\xff")
    assert "has not" in (plain.reason() or "")


@pytest.mark.root
def test_revocations_past_their_block(plain: Broken) -> None:
    plain.put(plain.blocks(journal.Kind.REVOKE)[0] + 12, b"\0\xff\0\0")
    assert "past its end" in (plain.reason() or "")


@pytest.mark.root
@pytest.mark.parametrize(
    ("limit", "why"),
    [("MAX_READ", "too long to walk"), ("MAX_COPIES", "too many blocks"), ("MAX_REVOKED", "too many blocks")],
)
def test_what_is_too_much(broken: Broken, limit: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, limit, 0)
    broken.put(0, b"")
    assert why in (broken.reason() or "")


@pytest.mark.root
def test_a_log_without_an_end(plain: Broken) -> None:
    """A descriptor whose tags go around the whole ring: the smallest ring that the superblock can name."""
    first, start = struct.unpack(">II", plain._pristine[plain.start + 0x14 : plain.start + 0x18] * 2)
    assert first == start
    plain.put(plain.start + 0x10, struct.pack(">I", first + 3))
    assert "no end" in (plain.reason() or "")


@pytest.mark.root
def test_a_journal_elsewhere(broken: Broken) -> None:
    broken.put(SUPERBLOCK_AT + 224, bytes(4))
    assert "device of its own" in (broken.reason() or "")


@pytest.mark.root
@pytest.mark.parametrize("seed", range(60))
def test_damage_anywhere_in_the_journal(broken: Broken, plain: Broken, seed: int) -> None:
    dice = random.Random(seed)
    victim = dice.choice([broken, plain])
    own = [at for kind in (1, 2, 5) for at in victim.blocks(kind)]
    victim.put(dice.choice(own) + dice.randrange(64), dice.randbytes(dice.choice([1, 2, 4])))
    with opened(victim.image) as filesystem, contextlib.suppress(MntapiError):
        for node in walk(filesystem).values():
            if node.kind is FileKind.FILE and node.reason is None:
                read(filesystem.open(node), 0, min(node.size, 65536))


@pytest.mark.root
@pytest.mark.parametrize("wide", ["64bit", "^64bit"])
def test_tags_with_checksums_of_version_2(wide: str, tmp_path: Path) -> None:
    """What no kernel writes by default, debugfs can: e2fsck says where the blocks belong."""
    need("debugfs", "e2fsck")
    image, content = tmp_path / "image", tmp_path / "content"
    with image.open("wb") as out:
        out.truncate(64 << 20)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", f"metadata_csum,{wide}", image)
    content.write_bytes(b"".join(bytes([0xA0 + index]) * 4096 for index in range(4)))
    run("debugfs", "-w", "-f", "-", image, stdin=f"jo -c -v 2\njw -b 8000,8010,8020,8030 {content}\njc\n")
    with opened(image) as filesystem:
        assert filesystem.unreplayed is None
        ours = [read(filesystem._volume, number * 4096, 4096) for number in (8000, 8010, 8020, 8030)]
    assert b"".join(ours) == content.read_bytes()
    run("e2fsck", "-p", "-E", "journal_only", image)
    replayed = image.read_bytes()
    assert ours == [replayed[number * 4096 :][:4096] for number in (8000, 8010, 8020, 8030)]
