"""Volumes made by each file system's own program: kind, label, UUID as blkid prints them, and what says that one is dirty."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from unit.test_probe_oracle import blank, blkid, needs_blkid, ours, run, signature

MIB = 1 << 20
UUID = "c0ffee00-1234-4567-89ab-0123456789ab"

MKFS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("ext2", 4 * MIB, ("mkfs.ext2", "-q", "-L", "lab el", "-U", UUID)),
    ("ext2", 4 * MIB, ("mkfs.ext2", "-q", "-b", "4096", "-r", "0")),
    ("ext3", 8 * MIB, ("mkfs.ext3", "-q", "-L", "sixteen_letters!")),
    ("ext4", 8 * MIB, ("mkfs.ext4", "-q", "-L", "grüße\x1b[31m")),
    ("ext4", 8 * MIB, ("mkfs.ext4", "-q", "-O", "^has_journal,bigalloc,inline_data")),
    ("jbd", 8 * MIB, ("mke2fs", "-q", "-O", "journal_dev", "-L", "log")),
    ("xfs", 320 * MIB, ("mkfs.xfs", "-q", "-L", "twelve_chars")),
    ("xfs", 20 * MIB, ("mkfs.xfs", "-q", "--unsupported", "-m", "crc=0", "-b", "size=1024")),
    ("btrfs", 128 * MIB, ("mkfs.btrfs", "-q", "-L", "a label of btrfs", "-U", UUID)),
    ("ntfs", 4 * MIB, ("mkfs.ntfs", "-q", "-F", "-Q", "-L", "Größe 日本")),
    ("ntfs", 64 * MIB, ("mkfs.ntfs", "-q", "-F", "-Q", "-c", "65536", "-s", "4096")),
    ("vfat", 1474560, ("mkfs.vfat", "-F", "12", "-n", "FLOPPY", "-i", "deadbeef")),
    ("vfat", 20 * MIB, ("mkfs.vfat", "-F", "16", "-n", "SIXTEEN", "-i", "00000001")),
    ("vfat", 64 * MIB, ("mkfs.vfat", "-F", "32", "-n", "THIRTY TWO")),
    ("vfat", 64 * MIB, ("mkfs.vfat", "-F", "32", "-S", "4096", "-s", "1")),
    ("exfat", 8 * MIB, ("mkfs.exfat", "-L", "Новый том")),
    ("exfat", 64 * MIB, ("mkfs.exfat", "-c", "4M")),
    ("udf", 4 * MIB, ("mkudffs", "--utf8", "-l", "Ünï", "-b", "512")),
    ("udf", 8 * MIB, ("mkudffs", "--utf8", "-l", "日本語", "-b", "2048", "-m", "cdrw", "-u", "0123456789abcdef")),
    ("udf", 8 * MIB, ("mkudffs", "-b", "4096", "--vid", "the volume", "--fullvsid", "ABCDEF12xyz, and more of it")),
    ("udf", 8 * MIB, ("mkudffs", "--fullvsid", "no digits at all")),
    ("udf", 8 * MIB, ("mkudffs", "--fullvsid", "short")),
    ("f2fs", 64 * MIB, ("mkfs.f2fs", "-q", "-l", "flash friendly")),
    ("jfs", 17 * MIB, ("mkfs.jfs", "-q", "-L", "journaled")),
    ("reiserfs", 40 * MIB, ("mkreiserfs", "-q", "-q", "-f", "-f", "-l", "reiser three", "-u", UUID)),
    ("nilfs2", 160 * MIB, ("mkfs.nilfs2", "-q", "-L", "log structured")),
    ("minix", MIB, ("mkfs.minix", "-1")),
    ("minix", MIB, ("mkfs.minix", "-2", "-n", "14")),
    ("minix", MIB, ("mkfs.minix", "-3")),
    ("bfs", MIB, ("mkfs.bfs",)),
    ("swap", MIB, ("mkswap", "-q", "-L", "swap space")),
    ("swap", MIB, ("mkswap", "-q", "-p", "65536", "-U", UUID)),
    ("bcache", 8 * MIB, ("make-bcache", "-B")),
    ("bcache", 128 * MIB, ("make-bcache", "-C")),
    ("crypto_LUKS", 20 * MIB, ("luksFormat", "--type", "luks1", "--uuid", UUID)),
    ("crypto_LUKS", 20 * MIB, ("luksFormat", "--type", "luks2", "--label", "secret things")),
)


def made(path: Path, size: int, command: tuple[str, ...]) -> Path:
    """The file, formatted; skips where the program is absent."""
    program = "cryptsetup" if command[0] == "luksFormat" else command[0]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    blank(path, size)
    if program == "cryptsetup":
        key = path.with_suffix(".key")
        key.write_bytes(b"not a secret")
        cheap = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--batch-mode")
        run(program, "luksFormat", *cheap, *command[1:], path, key)
    else:
        run(*command, path)
    return path


@needs_blkid
@pytest.mark.parametrize(
    ("kind", "size", "command"), MKFS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_made_by_its_program(kind: str, size: int, command: tuple[str, ...], tmp_path: Path) -> None:
    path = made(tmp_path / "volume", size, command)
    want = blkid(path)
    assert want.kind == kind
    assert ours(path) == want
    found = signature(path)
    assert found is not None and found.dirty is None


@needs_blkid
@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("squashfs", ("mksquashfs", "{folder}", "{image}", "-quiet", "-no-progress")),
        ("cramfs", ("mkfs.cramfs", "-n", "cram label", "{folder}", "{image}")),
        ("erofs", ("mkfs.erofs", "-Eforce-inode-extended", "{image}", "{folder}")),
        ("iso9660", ("genisoimage", "-quiet", "-V", "PLAIN", "-o", "{image}", "{folder}")),
        ("iso9660", ("genisoimage", "-quiet", "-J", "-V", "A longer Name than sixteen", "-o", "{image}", "{folder}")),
        ("udf", ("genisoimage", "-quiet", "-udf", "-V", "both of them", "-o", "{image}", "{folder}")),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_made_from_a_folder(kind: str, command: tuple[str, ...], tmp_path: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    folder, image = tmp_path / "folder", tmp_path / "image"
    folder.mkdir()
    (folder / "file").write_bytes(b"hello\n" * 1000)
    run(*(part.format(folder=folder, image=image) for part in command))
    assert blkid(image).kind == kind
    assert ours(image) == blkid(image)


@needs_blkid
def test_external_xfs_log(tmp_path: Path) -> None:
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("mkfs.xfs is not installed")
    data, log = blank(tmp_path / "data", 320 * MIB), blank(tmp_path / "log", 64 * MIB)
    run("mkfs.xfs", "-q", "-l", f"logdev={log},size=64m", data)
    assert ours(data) == blkid(data)
    assert ours(log) == blkid(log)
    assert ours(log).kind == "xfs_external_log"


@needs_blkid
def test_verity_hashes(tmp_path: Path) -> None:
    if shutil.which("veritysetup") is None:
        pytest.skip("veritysetup is not installed")
    data, hashes = blank(tmp_path / "data", MIB), blank(tmp_path / "hashes", MIB)
    run("veritysetup", "format", "--uuid", UUID, data, hashes)
    assert ours(hashes) == blkid(hashes)
    assert ours(hashes).kind == "DM_verity_hash"


def patched(path: Path, offset: int, value: bytes) -> Path:
    """The file with some bytes replaced."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(value)
    return path


def test_ext4_with_a_journal_to_replay(tmp_path: Path) -> None:
    """``debugfs -w`` sets the feature that a crash leaves behind."""
    path = made(tmp_path / "volume", 8 * MIB, ("mkfs.ext4", "-q"))
    run("debugfs", "-w", "-R", "feature needs_recovery", path)
    found = signature(path)
    assert found is not None and found.dirty == "journal not replayed"


def test_ext2_not_unmounted(tmp_path: Path) -> None:
    path = made(tmp_path / "volume", 4 * MIB, ("mkfs.ext2", "-q"))
    run("debugfs", "-w", "-R", "set_super_value state 0", path)
    found = signature(path)
    assert found is not None and found.dirty == "not unmounted cleanly"


@pytest.mark.parametrize(
    ("size", "command", "offset", "value"),
    [
        (64 * MIB, ("mkfs.vfat", "-F", "32"), 0x41, b"\x01"),
        (64 * MIB, ("mkfs.vfat", "-F", "32"), 32 * 512 + 4, b"\xff\xff\xff\x07"),
        (20 * MIB, ("mkfs.vfat", "-F", "16", "-a", "-R", "1"), 0x25, b"\x01"),
        (20 * MIB, ("mkfs.vfat", "-F", "16", "-a", "-R", "1"), 512 + 2, b"\xff\x7f"),
        (1474560, ("mkfs.vfat", "-F", "12"), 0x25, b"\x01"),
        (8 * MIB, ("mkfs.exfat",), 0x6A, b"\x02"),
    ],
)
def test_fat_marked_dirty(size: int, command: tuple[str, ...], offset: int, value: bytes, tmp_path: Path) -> None:
    """The bits as Microsoft's specifications (FAT[1], exFAT VolumeFlags) and Linux (boot sector state) define them."""
    path = patched(made(tmp_path / "volume", size, command), offset, value)
    found = signature(path)
    assert found is not None and found.dirty == "volume is marked dirty"


def test_ntfs_marked_dirty(tmp_path: Path) -> None:
    """Bit 0 of the flags at the end of $VOLUME_INFORMATION, which ntfsinfo is asked to confirm."""
    path = made(tmp_path / "volume", 4 * MIB, ("mkfs.ntfs", "-q", "-F", "-Q", "-L", "dirty"))
    raw = path.read_bytes()
    mft = int.from_bytes(raw[48:56], "little") * int.from_bytes(raw[11:13], "little") * raw[13]
    record = mft + 3 * 1024
    attribute = raw.index(b"\x70\0\0\0", record + 56)
    patched(path, attribute + 24 + 10, b"\x01\0")
    found = signature(path)
    assert found is not None and (found.label, found.dirty) == ("dirty", "volume is marked dirty")


def test_btrfs_with_a_log_tree(tmp_path: Path) -> None:
    path = patched(made(tmp_path / "volume", 128 * MIB, ("mkfs.btrfs", "-q")), 0x10000 + 0x60, b"\x01")
    found = signature(path)
    assert found is not None and found.dirty == "log tree not replayed"


def test_reiserfs_not_unmounted(tmp_path: Path) -> None:
    path = patched(made(tmp_path / "volume", 40 * MIB, ("mkreiserfs", "-q", "-q", "-f", "-f")), 0x10000 + 50, b"\x02")
    found = signature(path)
    assert found is not None and found.dirty == "not unmounted cleanly"


@needs_blkid
def test_the_second_luks2_header_is_believed_when_the_first_is_gone(tmp_path: Path) -> None:
    luks = made(tmp_path / "luks", 20 * MIB, ("luksFormat", "--type", "luks2", "--label", "second"))
    patched(luks, 0, bytes(4096))
    assert ours(luks) == blkid(luks)
    assert ours(luks).label == "second"


def test_ntfs_that_also_has_the_magics_of_ext_and_ufs(tmp_path: Path) -> None:
    """What image 10 of the Digital Forensics Tool Testing set is made of: the boot code of NTFS covers their places."""
    path = made(tmp_path / "volume", 4 * MIB, ("mkfs.ntfs", "-q", "-F", "-Q", "-L", "really"))
    patched(path, 0x438, b"\x53\xef")
    patched(path, 0x2000 + 1372, b"\x19\x01\x54\x19")
    assert ours(path)[:2] == ("ntfs", "really")


@needs_blkid
def test_fat32_label_in_the_second_cluster_of_the_root(tmp_path: Path) -> None:
    path = made(tmp_path / "volume", 64 * MIB, ("mkfs.vfat", "-F", "32", "-s", "1", "-a", "-R", "32"))
    raw = path.read_bytes()
    fat, fat_size = 32 * 512, int.from_bytes(raw[36:40], "little") * 512
    data = fat + raw[16] * fat_size
    patched(path, fat + 8, b"\x03\0\0\0\xff\xff\xff\x0f")
    patched(path, data, b"\xe5" * 512 + b"FAR AWAY   \x08" + bytes(20))
    assert ours(path) == blkid(path)
    assert ours(path).label == "FAR AWAY"
    patched(path, fat + 8, b"\x02\0\0\0")  # now the chain bites its tail
    assert ours(path)[:2] == ("vfat", None)


@needs_blkid
def test_exfat_label_in_the_second_cluster_of_the_root(tmp_path: Path) -> None:
    path = made(tmp_path / "volume", 8 * MIB, ("mkfs.exfat", "-c", "4096"))
    raw = path.read_bytes()
    fat, heap, root = (int.from_bytes(raw[at : at + 4], "little") for at in (80, 88, 96))
    entry = fat * 512 + root * 4
    patched(path, entry, (root + 1).to_bytes(4, "little") + b"\xff\xff\xff\xff")
    patched(path, heap * 512 + (root - 2) * 4096, b"\x05" * 4096 + b"\x83\x02h\0i\0")
    assert ours(path) == blkid(path)
    assert ours(path).label == "hi"
    patched(path, entry, root.to_bytes(4, "little"))
    assert ours(path)[:2] == ("exfat", None)


def test_label_of_ntfs_and_hfsplus_when_their_tables_are_nonsense(tmp_path: Path) -> None:
    """A boot sector is enough to know the kind; what hangs off it may point anywhere."""
    path = made(tmp_path / "volume", 4 * MIB, ("mkfs.ntfs", "-q", "-F", "-Q", "-L", "lost"))
    uuid = ours(path).uuid
    raw = path.read_bytes()
    mft = int.from_bytes(raw[48:56], "little") * int.from_bytes(raw[11:13], "little") * raw[13]
    patched(path, mft + 3 * 1024, b"BAAD")
    assert ours(path) == ("ntfs", None, uuid)
    patched(path, mft + 3 * 1024, b"FILE\xff\xff\xff\xff")
    assert ours(path) == ("ntfs", "lost", uuid)
    patched(path, mft + 3 * 1024 + 20, b"\x38\0")
    patched(path, mft + 3 * 1024 + 0x38, b"\x10\0\0\0\0\0\0\0")
    assert ours(path) == ("ntfs", None, uuid)
    patched(path, 48, b"\xff" * 8)
    assert ours(path).kind is None
