"""Damaged images, read whole in a process of its own with limits on memory and time: files or clean errors, nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from contract.mounting import need, run

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
SAMPLES = REPOSITORY.parent / "shared" / "images"
SECONDS = 120
SLOWEST_S = 20
"""For the largest sample (48,000 files); the rest take milliseconds. Generous, because machines are shared."""


def read_in_a_process(kind: str, images: list[Path], variants: int = 0) -> list[str]:
    """One line per image and variant; fails on a crash, a hang, or an error that is none of ours."""
    done = subprocess.run(
        [sys.executable, str(HERE / "hostile_walk.py"), kind, "1", str(variants)],
        input="\n".join(map(str, images)),
        env={"PYTHONPATH": str(REPOSITORY), "PATH": ""},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        check=False,
    )
    lines = re.findall(r"^.* \d+ [0-9.]+ s \{.*$", done.stdout, re.MULTILINE)
    assert done.returncode == 0, (done.returncode, done.stdout[-500:], done.stderr[-2000:])
    assert len(lines) == len(images) * (1 + variants)
    assert all(float(line.split(" s {")[0].rsplit(" ", 1)[1]) < SLOWEST_S for line in lines)
    return lines


def test_damaged_ext_of_e2fsprogs() -> None:
    images = sorted(SAMPLES.glob("e2fsprogs/tests/*/image.gz")) + sorted(SAMPLES.glob("syzkaller/ext4_*.img.gz"))
    if not images:
        pytest.skip("no ../shared/images")
    lines = read_in_a_process("ext4", images)
    readable = [line for line in lines if "FileKind.DIRECTORY" in line]
    assert len(readable) > len(images) * 3 // 4


def test_ntfs_seeds() -> None:
    images = sorted(SAMPLES.glob("syzkaller/ntfs*.img.gz"))
    if not images:
        pytest.skip("no ../shared/images")
    read_in_a_process("ntfs", images)
    read_in_a_process("ntfs", [images[-1], SAMPLES / "ColinFinck-ntfs" / "testdata" / "testfs1"], variants=60)


def test_damaged_exfat_of_exfatprogs(tmp_path: Path) -> None:
    packed = sorted(SAMPLES.glob("exfatprogs/tests/*/exfat.img.tar.xz"))
    if not packed:
        pytest.skip("no ../shared/images")
    images = []
    for path in packed:
        with tarfile.open(path) as archive:
            member = next(member for member in archive.getmembers() if member.isfile() or member.issparse())
            if member.size <= 64 << 20:
                archive.extract(member, tmp_path / path.parent.name, filter="data")
                images.append(tmp_path / path.parent.name / member.name)
    assert len(images) > 10
    read_in_a_process("exfat", images)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("hostile") / "tree"
    (top / "folder" / "deeper").mkdir(parents=True)
    for index in range(60):
        (top / "folder" / f"a name of some length {index}").write_text("x" * index * 7)
    (top / "large").write_bytes(bytes(range(256)) * 500)
    (top / "link").symlink_to("folder/deeper")
    return top


def _make(kind: str, tree: Path, image: Path) -> None:
    if kind == "vfat":
        need("mkfs.vfat", "mcopy")
        image.write_bytes(bytes(2 << 20))
        run("mkfs.vfat", image)
        run("mcopy", "-i", image, "-s", tree / "folder", tree / "large", "::")
    elif kind == "iso9660":
        need("genisoimage")
        run("genisoimage", "-quiet", "-R", "-J", "-o", image, tree)
    else:
        need("mke2fs")
        options = ("-O", "inline_data") if kind == "ext4" else ("-b", "1024")
        run("mke2fs", "-q", "-F", "-t", kind, *options, "-d", tree, image, "2M")


@pytest.mark.parametrize("kind", ["ext2", "ext4", "iso9660", "vfat"])
def test_bytes_changed_at_random(kind: str, tree: Path, tmp_path: Path) -> None:
    _make(kind, tree, tmp_path / "image")
    lines = read_in_a_process(kind, [tmp_path / "image"], variants=80)
    assert "FileKind.FILE" in lines[0] and "error" not in lines[0]
