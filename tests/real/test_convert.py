"""``mntapi convert`` and ``mntapi map`` as a user runs them, qemu-img being the judge."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import pty
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from contract.make_disk import RealDisk, need, run
from mntapi.units import MIB, TIB

DRIVERS = {"raw": "raw", "qcow2": "qcow2", "vmdk-stream": "vmdk", "vhdx": "vhdx"}


def same_disk(first: Path, second: Path) -> None:
    run("qemu-img", "compare", first, second)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", DRIVERS)
def test_a_disk_into_every_format(mntapi, disk: RealDisk, tmp_path: Path, name: str) -> None:
    before = disk.vmdk.stat()
    out = tmp_path / "out"
    told = mntapi.json("convert", disk.vmdk, out, "--format", name, "--sha256")
    size = disk.raw.stat().st_size
    assert told == {
        "path": str(out),
        "format": name,
        "virtual_size": size,
        "bytes_written": told["bytes_written"],
        "sha256": sha256(disk.raw),
    }
    assert 0 < told["bytes_written"] <= size
    run("qemu-img", "compare", "-f", "raw", "-F", DRIVERS[name], disk.raw, out)
    after = disk.vmdk.stat()
    assert (before.st_mtime_ns, before.st_atime_ns, before.st_size) == (after.st_mtime_ns, after.st_atime_ns, after.st_size)
    assert mntapi("convert", disk.raw, tmp_path / "again", "--format", name).stdout == ""


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_compressed(mntapi, disk: RealDisk, tmp_path: Path, compression: str) -> None:
    out = tmp_path / "out.qcow2"
    told = mntapi("convert", disk.vmdk, out, "--format", "qcow2", "--compress", compression, "--sha256")
    assert told.stdout == f"{sha256(disk.raw)}  {out}\n" and told.stderr == ""
    same_disk(disk.raw, out)
    run("qemu-img", "check", out)
    error = mntapi("convert", disk.vmdk, tmp_path / "x", "--format", "vhdx", "--compress", compression, code=2).stderr
    assert "cannot be compressed" in error


def test_what_we_wrote_we_read(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    """The stream's volumes are those of the disk it was made from."""
    mntapi("convert", disk.vmdk, tmp_path / "out.vmdk", "--format", "vmdk-stream")
    volumes = mntapi.json("info", disk.vmdk)["volumes"]
    assert mntapi.json("info", tmp_path / "out.vmdk")["volumes"] == volumes


def test_one_volume(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    told = mntapi.json("convert", disk.vmdk, tmp_path / "out", "--format", "raw", "--volume", "disk0p1", "--sha256")
    with disk.raw.open("rb") as file:
        file.seek(MIB)
        content = file.read(32 * MIB)
    assert (tmp_path / "out").read_bytes() == content
    assert (told["virtual_size"], told["sha256"]) == (32 * MIB, hashlib.sha256(content).hexdigest())
    mntapi("convert", disk.vmdk, tmp_path / "no", "--format", "raw", "--volume", "disk0p9", code=4)
    mntapi("convert", disk.vmdk, tmp_path / "no", "--format", "raw", "--volume", "disk0p1", "--disk-index", "0", code=2)


def test_a_volume_with_bytes_missing(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    cut = tmp_path / "cut.raw"
    with disk.raw.open("rb") as file:
        cut.write_bytes(file.read(40 * MIB))
    error = mntapi("convert", cut, tmp_path / "out", "--format", "raw", "--volume", "disk0p2", code=8).stderr
    assert "not whole" in error and "bytes are missing" in error and not (tmp_path / "out").exists()
    mntapi("convert", cut, tmp_path / "out", "--format", "raw", "--volume", "disk0p1")


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two small raw disks."""
    paths = (tmp_path / "first", tmp_path / "second")
    for number, path in enumerate(paths, 1):
        path.write_bytes(bytes(MIB) + bytes([number]) * MIB)
    return paths


def test_several_disks(mntapi, two: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = two
    out = tmp_path / "out"
    error = mntapi("convert", first, "-d", second, out, "--format", "raw", code=2).stderr
    assert "--disk-index" in error and not out.exists()
    mntapi("convert", first, "-d", second, out, "--format", "raw", "--disk-index", "1")
    assert out.read_bytes() == second.read_bytes()
    error = mntapi("convert", first, "-d", second, out, "--format", "raw", "--disk-index", "2", code=4).stderr
    assert "no disk 2" in error and str(second) in error


def test_what_is_there_stays(mntapi, two: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = two
    old = second.read_bytes()
    assert "hint: replace it with --overwrite" in mntapi("convert", first, second, "--format", "raw", code=6).stderr
    assert second.read_bytes() == old
    mntapi("convert", first, second, "--format", "raw", "--overwrite")
    assert second.read_bytes() == first.read_bytes()
    mntapi("convert", first, tmp_path / "absent" / "out", "--format", "raw", code=4)


def test_no_file_of_a_chain_is_replaced(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    """Not the child, not its parent, and not the extents that only a descriptor names."""
    run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentFlat", disk.raw, tmp_path / "base.vmdk")
    run("qemu-img", "create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", tmp_path / "child.vmdk")
    run("qemu-io", "-c", "write -P 7 5M 300k", tmp_path / "child.vmdk")
    files = sorted(path for path in tmp_path.iterdir() if path.is_file())
    assert len(files) == 3
    before = [(path.read_bytes(), path.stat().st_ino) for path in files]
    for path in files:
        error = mntapi("convert", tmp_path / "child.vmdk", path, "--format", "raw", "--overwrite", code=6).stderr
        assert "an original is never written" in error
    assert [(path.read_bytes(), path.stat().st_ino) for path in files] == before
    mntapi("convert", tmp_path / "child.vmdk", tmp_path / "out", "--format", "qcow2")
    same_disk(tmp_path / "child.vmdk", tmp_path / "out")


def test_a_source_format_can_be_forced(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    mntapi("convert", disk.vmdk, tmp_path / "out", "--format", "raw", "--source-format", "raw")
    assert (tmp_path / "out").read_bytes() == disk.vmdk.read_bytes()
    mntapi("convert", disk.vmdk, tmp_path / "out", "--format", "nonsense", code=2)
    missing = mntapi("convert", disk.vmdk, tmp_path / "out", code=2).stderr
    assert "--format" in missing and "vmdk-stream" in missing and "\\" not in missing and missing.count("\n") == 2


def test_a_source_with_a_hole_in_its_file(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    """A disk that was not copied whole is an error at the byte where it ends, and leaves nothing."""
    torn = tmp_path / "torn.vmdk"
    torn.write_bytes(disk.vmdk.read_bytes()[: 3 * MIB])
    for name in DRIVERS:
        error = mntapi("convert", torn, tmp_path / "out", "--format", name, code=8).stderr
        assert str(torn) in error and "at byte" in error
    assert [path.name for path in tmp_path.iterdir()] == ["torn.vmdk"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted(mntapi, tmp_path: Path, number: signal.Signals) -> None:
    """Hashing the holes of this disk would take hours. A kill leaves nothing either, where a file can be without a name."""
    need("qemu-img")
    source, folder = tmp_path / "large.vmdk", tmp_path / "folder"
    run("qemu-img", "create", "-q", "-f", "vmdk", source, 62 * TIB)
    folder.mkdir()
    if number == signal.SIGKILL and not has_nameless_files(folder):
        pytest.skip("no files without a name here")
    process = mntapi.start("convert", source, folder / "out", "--format", "qcow2", "--sha256")
    deadline = time.monotonic() + 30
    while not has_open(process.pid, folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert has_open(process.pid, folder)
    process.send_signal(number)
    assert process.wait(30) == (-number if number == signal.SIGKILL else 130)
    assert list(folder.iterdir()) == []


def has_nameless_files(folder: Path) -> bool:
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY))
    except OSError:
        return False
    return True


def has_open(pid: int, folder: Path) -> bool:
    """Whether the process has a file open below the folder, with or without a name."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if os.readlink(link).startswith(f"{folder}/"):
                return True
    return False


@pytest.mark.parametrize("name", ["qcow2", "vmdk-stream", "vhdx"])
def test_a_large_sparse_disk_in_a_moment(mntapi, tmp_path: Path, name: str) -> None:
    """As large as a file of ext4 can be."""
    need("qemu-io")
    with (tmp_path / "large").open("wb") as out:
        out.truncate(15 * TIB)
        out.seek(11 * TIB)
        out.write(b"\t" * MIB)
    told = mntapi.json("convert", tmp_path / "large", tmp_path / "out", "--format", name)
    assert (told["virtual_size"], told["bytes_written"] < 8 * MIB) == (15 * TIB, True)
    window = f"driver={DRIVERS[name]},file.filename={tmp_path / 'out'}"
    for pattern, start in ((9, "11T"), (0, 11 * TIB - MIB), (0, 11 * TIB + MIB)):
        said = run("qemu-io", "-r", "--image-opts", "-c", f"read -P {pattern} {start} 1M", window)
        assert "read 1048576/1048576" in said and "failed" not in said


def test_a_progress_bar_on_a_terminal(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    process = mntapi.start("convert", disk.vmdk, tmp_path / "out", "--format", "raw", stderr=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            shown += os.read(leader, 65536)
        except OSError:
            break  # the other end is closed
    os.close(leader)
    assert process.wait(30) == 0
    assert b"64.0 MiB disk" in shown and b"\x1b[" in shown


def told_by_qemu(path: Path) -> list[tuple[int, int, bool]]:
    """Extents as ``qemu-img map`` has them, joined where only depth or offset differ."""
    joined: list[tuple[int, int, bool]] = []
    for one in json.loads(run("qemu-img", "map", "--output=json", path)):
        if joined and joined[-1][2] == one["data"]:
            start, length, data = joined.pop()
            joined.append((start, length + one["length"], data))
        else:
            joined.append((one["start"], one["length"], one["data"]))
    return joined


def told_by_us(extents: list[dict]) -> list[tuple[int, int, bool]]:
    assert all(set(one) == {"disk", "start", "length", "zero", "data"} and one["zero"] != one["data"] for one in extents)
    return [(one["start"], one["length"], one["data"]) for one in extents]


@pytest.fixture
def patchy(tmp_path: Path) -> Path:
    """A raw disk with data in many places."""
    rng = random.Random(8)
    with (tmp_path / "patchy.raw").open("wb") as out:
        out.truncate(80 * MIB)
        for _ in range(40):
            out.seek(rng.randrange(79 * MIB) // 65536 * 65536)
            out.write(rng.randbytes(65536 * rng.randrange(1, 4)))
    return tmp_path / "patchy.raw"


def test_map_is_qemus(mntapi, patchy: Path, tmp_path: Path) -> None:
    vmdk, child = tmp_path / "patchy.vmdk", tmp_path / "child.vmdk"
    run("qemu-img", "convert", "-O", "vmdk", patchy, vmdk)
    run("qemu-img", "create", "-q", "-f", "vmdk", "-b", vmdk.name, "-F", "vmdk", child)
    run("qemu-io", "-c", "write -P 7 1M 300k", child)
    for path in (patchy, vmdk, child):
        told = told_by_us(mntapi.json("map", path))
        assert told == told_by_qemu(path) and len(told) > 20


def test_map_of_several_disks(mntapi, two: tuple[Path, Path]) -> None:
    told = mntapi.json("map", two[0], "-d", two[1])
    assert {one["disk"] for one in told} == {0, 1}
    assert [sum(one["length"] for one in told if one["disk"] == disk) for disk in (0, 1)] == [2 * MIB, 2 * MIB]
    assert mntapi.json("map", two[0], "-d", two[1], "--disk-index", "1") == [one for one in told if one["disk"] == 1]
    mntapi("map", two[0], "--disk-index", "1", code=4)


def test_map_as_a_table(mntapi, tmp_path: Path) -> None:
    with (tmp_path / "disk").open("wb") as out:
        out.truncate(2 * MIB)
        out.seek(MIB)
        out.write(b"1" * 65536)
    rows = [line.split() for line in mntapi("map", tmp_path / "disk").stdout.splitlines()]
    assert rows == [
        ["DISK", "START", "LENGTH", "KIND"],
        ["disk0", "0", str(MIB), "zero"],
        ["disk0", str(MIB), "65536", "data"],
        ["disk0", str(MIB + 65536), str(MIB - 65536), "zero"],
    ]


def test_an_array_that_lacks_a_disk(mntapi, tmp_path: Path) -> None:
    """What redundancy replaces is converted; what it does not is an error, never zeros. Oracle: the kernel's own SHA-256."""
    golden = Path(__file__).parents[1] / "golden/md"
    disks = [tmp_path / f"disk{number}.img" for number in range(1, 5)]  # disk0 is left out
    for path in disks:
        path.write_bytes(lzma.decompress((golden / f"{path.name}.xz").read_bytes()))
    more = [option for path in disks[1:] for option in ("-d", path)]
    names = {one["name"]: one["id"] for one in mntapi.json("info", disks[0], *more)["volumes"] if one["kind"] == "md"}
    facts = json.loads((golden / "facts.json").read_text())["cases"]["r5-default"]["sha256 whole"]["sha256"]
    name = next(name for name in names if "r5-default" in name)
    arguments = ("--format", "raw", "--volume", name, "--sha256", *more)
    assert mntapi.json("convert", disks[0], tmp_path / "out", *arguments)["sha256"] == facts
    lost = next(name for name in names if "r0-12" in name)
    mntapi("convert", disks[0], tmp_path / "no", "--format", "raw", "--volume", lost, *more, code=8)
    assert not (tmp_path / "no").exists()


def test_a_locked_volume_is_told(mntapi, tmp_path: Path) -> None:
    need("cryptsetup")
    image = tmp_path / "disk"
    with image.open("wb") as out:
        out.truncate(8 * MIB)
    (tmp_path / "key").write_text("secret")
    run("cryptsetup", "luksFormat", "-q", "--type", "luks1", "-i", "10", image, tmp_path / "key")
    done = mntapi("convert", image, tmp_path / "out", "--format", "raw", "--volume", "disk0")
    assert "ciphertext" in done.stderr and (tmp_path / "out").read_bytes() == image.read_bytes()
