"""Checksums of ext4's metadata: what the kernel refuses for them we refuse too, and the rest stays readable."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.filesystem_contract import check_filesystem, resolve, tree_of
from contract.mounting import mounted, need, need_root, run
from mntapi.blocks import HostFile, read
from mntapi.errors import Corrupt
from mntapi.filesystems.ext import checksums
from mntapi.filesystems.ext.filesystem import ExtFileSystem
from mntapi.filesystems.readers import open_filesystem
from mntapi.types import Signature, Usage

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", params=["metadata_csum", "metadata_csum_seed,metadata_csum"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_root()
    need("debugfs", "mke2fs")
    image = tmp_path_factory.mktemp("checksums") / "image"
    with image.open("wb") as out:
        out.truncate(64 << 20)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", request.param, image)
    if "seed" in request.param:
        run("tune2fs", "-f", "-U", "random", image)  # so that the seed is no more what the UUID says
    with mounted(image, "rw") as top:
        fill(top)
    return image


def fill(top: Path) -> None:
    (top / "plain").write_bytes(b"hello world\n" * 400)
    with (top / "frag").open("wb") as file:
        for index in range(900):
            file.seek(index * 16384)
            file.write(b"%d" % index)
    (top / "named").touch()
    os.setxattr(top / "named", "user.v", b"V" * 2500)
    (top / "folder").mkdir()
    (top / "folder" / "inside").touch()
    (top / "hashed").mkdir()
    for index in range(2000):
        (top / "hashed" / f"a name that is long enough to fill blocks {index}").touch()


def places(image: Path) -> dict[str, int]:
    """Bytes in what belongs to each file, by debugfs."""

    def told(command: str) -> str:
        return run("debugfs", "-R", command, image)

    def inode(path: str) -> int:
        found = re.search(r"located at block (\d+), offset (0x[0-9a-f]+)", told(f"imap {path}"))
        assert found is not None
        return int(found[1]) * 4096 + int(found[2], 16)

    tree = re.search(r"ETB0\):(\d+)", told("stat /frag"))
    attributes = re.search(r"File ACL: (\d+)", told("stat /named"))
    assert tree is not None and attributes is not None
    return {
        "plain": inode("/plain") + 4,
        "frag": int(tree[1]) * 4096 + 12 + 12 * 5 + 8,
        "named": int(attributes[1]) * 4096 + 4090,
        "folder": int(told("blocks /folder").split()[0]) * 4096 + 24,
        "hashed": int(told("blocks /hashed").split()[1]) * 4096 + 4,
    }


def test_all_of_it_is_right(sound: Path) -> None:
    blocks = HostFile.open(str(sound))
    filesystem = open_filesystem(blocks, Signature("ext4", Usage.FILESYSTEM))
    with mounted(sound, "ro") as top:
        check_filesystem(filesystem, tree_of(top))
    blocks.close()


READS: dict[str, Callable[[ExtFileSystem], object]] = {
    "plain": lambda fs: fs.node(resolve(fs, "plain").inode),
    "frag": lambda fs: read(fs.open(resolve(fs, "frag")), 0, 4096),
    "named": lambda fs: fs.xattrs(resolve(fs, "named")),
    "folder": lambda fs: list(fs.scan(resolve(fs, "folder"))),
    "hashed": lambda fs: list(fs.scan(resolve(fs, "hashed"))),
}
BY_KERNEL: dict[str, Callable[[Path], object]] = {
    "plain": lambda top: (top / "plain").stat(),
    "frag": lambda top: (top / "frag").read_bytes(),
    "named": lambda top: os.getxattr(top / "named", "user.v"),
    "folder": lambda top: os.listdir(top / "folder"),
    "hashed": lambda top: os.listdir(top / "hashed"),
}


@pytest.mark.parametrize("what", READS)
def test_one_bit(sound: Path, what: str, tmp_path: Path) -> None:
    image = Path(shutil.copy(sound, tmp_path / "image"))
    with image.open("r+b") as file:
        file.seek(places(image)[what])
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x04]))
    with mounted(image, "ro") as top, pytest.raises(OSError):
        BY_KERNEL[what](top)
    blocks = HostFile.open(str(image))
    filesystem = open_filesystem(blocks, Signature("ext4", Usage.FILESYSTEM))
    assert isinstance(filesystem, ExtFileSystem)
    with pytest.raises(Corrupt, match="checksum") as caught:
        READS[what](filesystem)
    assert caught.value.reason == checksums.REASON and caught.value.offset is not None
    names = {entry.name: entry.node for entry in filesystem.scan(filesystem.root)}
    assert {name for name, node in names.items() if node.reason} == ({"plain"} if what == "plain" else set())
    blocks.close()


def test_other_systems_keep_none(sound: Path, tmp_path: Path) -> None:
    """The superblock says who made it: Linux is 0, the Hurd 1."""
    image = Path(shutil.copy(sound, tmp_path / "image"))
    with image.open("r+b") as file:
        file.seek(places(image)["plain"])
        file.write(b"\0")
        file.seek(1024 + 72)
        file.write(b"\1")
    blocks = HostFile.open(str(image))
    filesystem = open_filesystem(blocks, Signature("ext4", Usage.FILESYSTEM))
    assert filesystem.lookup(filesystem.root, "plain").reason is None
    blocks.close()
