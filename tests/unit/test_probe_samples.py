"""Images nobody here made, against the answers their projects publish."""

from __future__ import annotations

import lzma
import tarfile
from pathlib import Path

import pytest

from unit.test_probe_oracle import SHARED, Answer, blkid, needs_blkid, ours, parse_udev, signature

UTIL_LINUX = SHARED / "images/util-linux/tests"
IMAGES = sorted((UTIL_LINUX / "ts/blkid/images-fs").glob("*.img.xz"))
CRYPTSETUP = SHARED / "images/cryptsetup/tests"
REFS = SHARED / "images/refs-fragments"
needs_samples = pytest.mark.skipif(not IMAGES, reason="the shared sample images are not there")

OTHERWISE: dict[str, tuple[Answer, str]] = {}
"""Image: what we say instead, and why. Empty: we say what the newest libblkid says of every sample."""


def unpacked(archive: Path, folder: Path) -> Path:
    """The image in ``archive``, sparse."""
    target = folder / archive.stem
    with lzma.open(archive) as packed, target.open("wb") as file:
        while part := packed.read(1 << 20):
            if part.count(0) == len(part):
                file.seek(len(part), 1)
            else:
                file.write(part)
        file.truncate()
    return target


def extracted(archive: Path, name: str, folder: Path) -> Path:
    """The member of a tar whose name ends so."""
    with tarfile.open(archive) as tar:
        member = next(member for member in tar if member.name.endswith(name))
        tar.extract(member, folder, filter="data")
    return folder / member.name


@needs_samples
@pytest.mark.parametrize("archive", IMAGES, ids=lambda path: path.name.removesuffix(".img.xz"))
def test_util_linux_sample(archive: Path, tmp_path: Path) -> None:
    name = archive.name.removesuffix(".img.xz")
    published = UTIL_LINUX / f"expected/blkid/low-probe-{name}"
    path = unpacked(archive, tmp_path)
    want = parse_udev(published.read_bytes()) if published.exists() else blkid(path)
    assert want.kind is not None
    assert ours(path) == OTHERWISE.get(name, (want,))[0]


@needs_samples
@needs_blkid
@pytest.mark.parametrize("name", ["luks1_aes-xts-plain64-sha256.img", "luks1_serpent-xts-plain64-sha1.img"])
def test_cryptsetup_luks1(name: str, tmp_path: Path) -> None:
    path = extracted(CRYPTSETUP / "luks1-images.tar.xz", name, tmp_path)
    assert ours(path) == blkid(path)
    assert ours(path).kind == "crypto_LUKS"


@needs_samples
@needs_blkid
@pytest.mark.parametrize("name", ["bitlk-aes-cbc-128.img", "bitlk-aes-xts-128-startup-key.img"])
def test_cryptsetup_bitlocker(name: str, tmp_path: Path) -> None:
    path = extracted(CRYPTSETUP / "bitlk-some.tar.xz", name, tmp_path)
    assert ours(path) == blkid(path) == Answer("BitLocker")


@needs_samples
@needs_blkid
@pytest.mark.parametrize("name", ["blkid-luks2-pv", "img_fs_ext4", "img_fs_vfat", "img_fs_xfs", "img_fs_xfs5"])
def test_cryptsetup_images(name: str, tmp_path: Path) -> None:
    path = unpacked(CRYPTSETUP / f"{name}.img.xz", tmp_path)
    assert ours(path) == blkid(path)
    assert ours(path).kind is not None


@needs_samples
def test_dynamic_disk(tmp_path: Path) -> None:
    """Libblkid has no word for LDM; group name and GUID as in the manifest of the samples."""
    path = extracted(SHARED / "images/libldm/ldm-2003r2.tar.xz", "ldm-2003r2-simple-1.img", tmp_path)
    found = signature(path)
    assert found is not None
    assert (found.kind, found.usage, found.uuid) == ("ldm", "raid", "03c0c4fc-8b6f-402b-9431-4be2e5823b1c")
    disk = bytearray(path.read_bytes())
    disk[0xC00:0xC08] = bytes(8)  # the copy in the last sector tells the same
    path.write_bytes(disk)
    assert signature(path) == found
    disk[-512 + 13] = 9  # a version that nobody wrote
    path.write_bytes(disk)
    assert signature(path) is None


@needs_samples
@pytest.mark.parametrize(
    ("name", "serial"), [("refs_boot_superblock.bin", "4E32FC4432FC3317"), ("libfsrefs_volume_header.1", None)]
)
def test_refs_boot_sector(name: str, serial: str | None, tmp_path: Path) -> None:
    """Boot sectors that Windows wrote (3.14 and 1.2). Libblkid prints no UUID; ours is the serial number, as for NTFS."""
    raw = bytearray((REFS / name).read_bytes().ljust(4096, b"\0"))
    path = tmp_path / "refs"
    path.write_bytes(raw)
    assert blkid(path).kind == "ReFS"
    found = signature(path)
    assert found is not None and found.kind == "ReFS"
    assert serial in (None, found.uuid)
    raw[0x30] ^= 1  # outside any field: only the checksum sees it
    path.write_bytes(raw)
    assert signature(path) is None
