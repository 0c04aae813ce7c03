"""Kernel mounts over loop devices. Oracles: findmnt --json, the files that mkfs was given, and the image's own bytes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mntapi.errors import Busy, Corrupt, Denied, Failed, Invalid, NotADirectory, NotFound, Unsupported
from mntapi.kernel import filesystems, loop
from mntapi.kernel import mount as kernel_mount
from mntapi.kernel.mount import KernelMount, holders, mark_not_mounted, mount_kernel_filesystem, mount_skeleton, unmount
from mntapi.kernel.mountinfo import mount_at, mounts, mounts_under

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists(loop.CONTROL), reason="needs root and loop devices"),
]

CONTENTS = {"hello.txt": b"hello\n", "folder/big.bin": bytes(range(256)) * 4096, "folder/empty": b""}


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """A folder to mount on; whatever is mounted or attached below the test's folder is taken away in the end."""
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    left = [mount.target for mount in mounts_under(str(tmp_path))]
    for folder in left:
        subprocess.run(["umount", "--lazy", folder], check=False)
    for device in loop.attached_below(str(tmp_path)):
        subprocess.run(["losetup", "--detach", device.path], check=False)
    assert not left, "the test left mounts behind"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name, content in CONTENTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def tool(name: str) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


def make(kind: str, tree: Path, image: Path) -> None:
    """A file system of that kind in ``image``, with the files of ``tree`` where its mkfs can put them in."""
    sizes = {"ext2": 8, "ext3": 16, "ext4": 16, "xfs": 300, "btrfs": 128, "ntfs": 8, "vfat": 8}
    if kind in sizes:
        with image.open("wb") as file:
            file.truncate(sizes[kind] << 20)
    commands = {
        "ext2": [tool("mkfs.ext2"), "-q", "-F", "-d", tree, image],
        "ext3": ["mkfs.ext3", "-q", "-F", "-d", tree, image],
        "ext4": ["mkfs.ext4", "-q", "-F", "-d", tree, image],
        "xfs": ["mkfs.xfs", "-q", "-f", image],
        "btrfs": ["mkfs.btrfs", "-q", "-f", "--rootdir", tree, image],
        "squashfs": ["mksquashfs", tree, image, "-quiet", "-no-progress"],
        "erofs": ["mkfs.erofs", "--quiet", image, tree],
        "ntfs": ["mkntfs", "-q", "-F", "-f", image],
        "vfat": ["mkfs.vfat", image],
    }
    command = [str(word) for word in commands[kind]]
    tool(command[0])
    subprocess.run(command, check=True, capture_output=True)


def findmnt(target: Path | str) -> dict[str, Any]:
    listed = subprocess.run(["findmnt", "--json", "--kernel", "--list"], capture_output=True, text=True, check=True).stdout
    return next((entry for entry in json.loads(listed)["filesystems"] if entry["target"] == str(target)), {})


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4", "xfs", "btrfs", "squashfs", "erofs"])
def test_mount_and_unmount(kind: str, tree: Path, target: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    make(kind, tree, image)
    if kind not in filesystems.registered():
        pytest.skip(f"this kernel has no {kind}")
    before = digest(image)
    with loop.attach(str(image), autoclear=True) as device:
        done = mount_kernel_filesystem(device.path, str(target), kind)
    assert done == KernelMount(str(target), *next((d.type, d.options) for d in filesystems.drivers(kind)))
    try:
        told = findmnt(target)
        assert told["source"] == device.path
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(told["options"].split(","))
        if kind != "xfs":  # whose mkfs puts no files in
            found = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
            assert found == CONTENTS
        with pytest.raises(OSError, match="Read-only"):
            (target / "new").touch()
    finally:
        assert unmount(str(target)) == ()
    assert findmnt(target) == {}
    assert not loop.attached_below(str(image))  # autoclear: the mount was the last user
    assert digest(image) == before


def test_dirty_ext4_is_not_replayed(tree: Path, target: Path, tmp_path: Path) -> None:
    """A journal that wants replay: mount(8) without noload refuses on a read-only device, ours mounts, not a byte changes."""
    image, copy = tmp_path / "image", tmp_path / "copy"
    make("ext4", tree, image)
    live = tmp_path / "live"
    live.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(live)], check=True)
    try:
        (live / "new file").write_text("x")
        subprocess.run(["sync", "-f", str(live)], check=True)
        shutil.copy(image, copy)  # as a crash would leave it
    finally:
        subprocess.run(["umount", str(live)], check=True)
    features = subprocess.run(["dumpe2fs", "-h", str(copy)], capture_output=True, text=True, check=True).stdout
    assert "needs_recovery" in features
    before = digest(copy)
    with loop.attach(str(copy), autoclear=True) as device:
        assert subprocess.run(["mount", "-o", "ro", device.path, str(target)], capture_output=True, check=False).returncode
        mount_kernel_filesystem(device.path, str(target), "ext4")
    unmount(str(target))
    assert digest(copy) == before


def test_a_guest_cannot_ask_for_a_panic(tree: Path, target: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    make("ext4", tree, image)
    subprocess.run(["tune2fs", "-e", "panic", str(image)], check=True, capture_output=True)
    with loop.attach(str(image), autoclear=True) as device:
        mount_kernel_filesystem(device.path, str(target), "ext4")
    mounted = mount_at(str(target))
    unmount(str(target))
    # The superblock still says panic; ext4 shows errors=continue only where that differs from it.
    assert mounted is not None
    assert "errors=continue" in mounted.super_options


def test_ntfs_by_ntfs_3g(tree: Path, target: Path, tmp_path: Path) -> None:
    """Where the kernel has no ntfs3 the program does it; its daemon holds neither us nor the loop device afterwards."""
    if "ntfs3" in filesystems.registered():
        pytest.skip("this kernel has ntfs3")
    image = tmp_path / "image"
    make("ntfs", tree, image)
    before = digest(image)
    with loop.attach(str(image), autoclear=True) as device:
        done = mount_kernel_filesystem(device.path, str(target), "ntfs")
    assert done.type == "ntfs-3g"
    told = findmnt(target)
    unmount(str(target))
    assert told["fstype"] == "fuseblk"
    assert told["source"] == device.path
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(told["options"].split(","))
    assert digest(image) == before


def dirty_log(length: int) -> bytes:
    """A restart page of $LogFile (4096 bytes) that says: there is a client, and it did not finish."""
    page = bytearray(4096)
    struct.pack_into("<4sHHQIIHhhH", page, 0, b"RSTR", 0x1E, 9, 0, 4096, 4096, 0x30, 1, 1, 1)
    struct.pack_into("<QHHHHIHHQIHHII", page, 0x30, 0x1000, 1, 0xFFFF, 0, 0, 0x2D, 0xE0, 0x40, length, 0, 0x30, 0x40, 0, 0)
    struct.pack_into("<QQHHHHHHI8s", page, 0x70, 0x1000, 0x1000, 0xFFFF, 0xFFFF, 0, 0, 0, 0, 8, "NTFS".encode("utf-16-le"))
    for sector in range(8):  # the last two bytes of each sector move to the update sequence array
        end = 512 * sector + 510
        page[0x20 + 2 * sector : 0x22 + 2 * sector] = page[end : end + 2]
        page[end : end + 2] = (1).to_bytes(2, "little")
    return bytes(page)


def test_dirty_ntfs_is_not_repaired(tree: Path, target: Path, tmp_path: Path) -> None:
    """ntfs-3g itself is the judge that the log is dirty; ours mounts all the same, and not a byte changes."""
    if "ntfs3" in filesystems.registered():
        pytest.skip("this kernel has ntfs3")
    image = tmp_path / "image"
    make("ntfs", tree, image)
    told = subprocess.run(["ntfsinfo", "-i", "2", "-v", image], capture_output=True, text=True, check=True).stdout
    runs = re.findall(r"\$DATA.*?VCN\s+LCN\s+Length\s+0x0\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)", told, re.DOTALL)
    first, count = (int(number, 16) * 4096 for number in runs[-1])
    with image.open("r+b") as file:
        file.seek(first)
        file.write(dirty_log(count) * 2)
    before = digest(image)
    with loop.attach(str(image), autoclear=True) as device:
        asked = subprocess.run(["ntfs-3g.probe", "--readwrite", device.path], capture_output=True, text=True, check=False)
        assert "unclean file system" in asked.stderr
        mount_kernel_filesystem(device.path, str(target), "ntfs")
    unmount(str(target))
    assert digest(image) == before


def test_a_kind_the_kernel_has_not(tree: Path, target: Path, tmp_path: Path) -> None:
    if "vfat" in filesystems.registered():
        pytest.skip("this kernel has vfat")
    image = tmp_path / "image"
    make("vfat", tree, image)
    with loop.attach(str(image)) as device:
        for kind in ("vfat", "fat32"):
            with pytest.raises(Unsupported, match=f"this kernel cannot mount {kind}") as caught:
                mount_kernel_filesystem(device.path, str(target), kind)
            assert "without --via kernel" in str(caught.value.hint)
            assert caught.value.reason == "no-kernel-driver"
        with pytest.raises(Unsupported, match="cannot mount apfs"):
            mount_kernel_filesystem(device.path, str(target), "apfs")
    assert findmnt(target) == {}


def test_ntfs_without_any_driver(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = filesystems.Driver("no-such-driver", program="no-such-program", package="ntfs-3g")
    drivers = (filesystems.Driver("no-such-driver"), missing)
    monkeypatch.setattr(kernel_mount, "drivers", lambda kind: drivers)
    with pytest.raises(Unsupported, match="cannot mount ntfs") as caught:
        mount_kernel_filesystem("/dev/null", str(target), "ntfs")
    assert "apt-get install ntfs-3g" in str(caught.value.hint)


def test_the_next_driver_is_tried(tree: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "image"
    make("ext4", tree, image)
    chain = (filesystems.Driver("no-such-driver"), filesystems.Driver("ext4", "no_such_option"), filesystems.Driver("ext4"))
    monkeypatch.setattr(kernel_mount, "drivers", lambda kind: chain)
    with loop.attach(str(image), autoclear=True) as device:
        done = mount_kernel_filesystem(device.path, str(target), "ext4")
    unmount(str(target))
    assert done == KernelMount(str(target), "ext4", "")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "squashfs", "erofs"])
def test_noise_is_refused(kind: str, target: Path, tmp_path: Path) -> None:
    if kind not in filesystems.registered():
        pytest.skip(f"this kernel has no {kind}")
    image = tmp_path / "image"
    image.write_bytes(hashlib.shake_128(kind.encode()).digest(1 << 20))
    with loop.attach(str(image)) as device, pytest.raises(Corrupt, match=kind):
        mount_kernel_filesystem(device.path, str(target), kind)
    assert findmnt(target) == {}


def test_noise_is_refused_by_ntfs_3g(target: Path, tmp_path: Path) -> None:
    tool("ntfs-3g")
    if "ntfs3" in filesystems.registered():
        pytest.skip("this kernel has ntfs3")
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    with loop.attach(str(image)) as device:
        with pytest.raises(Failed, match=r"ntfs-3g failed with status \d+: NTFS signature is missing") as caught:
            mount_kernel_filesystem(device.path, str(target), "ntfs")
        assert caught.value.path == device.path


def test_targets_that_are_none(tree: Path, target: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    make("ext4", tree, image)
    with loop.attach(str(image)) as device:
        with pytest.raises(NotFound, match="no such folder"):
            mount_kernel_filesystem(device.path, str(target / "nowhere"), "ext4")
        with pytest.raises(NotADirectory):
            mount_kernel_filesystem(device.path, str(image), "ext4")
        with pytest.raises(NotFound, match="nothing is mounted"):
            unmount(str(target))
        with pytest.raises(NotFound, match="nothing is mounted"):
            unmount(str(target / "nowhere"))


def as_nobody(script: str) -> str:
    """What the script prints, run by a process that imported everything and is then nobody."""
    prelude = (
        "import os\nfrom mntapi.errors import *\nfrom mntapi.kernel import loop, mount, nodes\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
    )
    repository = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", prelude + script],
        env={**os.environ, "PYTHONPATH": repository},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_without_root(target: Path) -> None:
    mount_skeleton(str(target), ["a"])
    try:
        for call in (
            "loop.attach('/etc/passwd')",
            "mount.mount_skeleton('/tmp', ['a'])",
            "mount.mount_kernel_filesystem('/dev/loop0', '/tmp', 'ext4')",
            "nodes.ensure_node('/dev/mntapi-no-such-node', 0o060000, 7, 0)",
            "mount.unmount('/proc')",
        ):
            told = as_nobody(f"try:\n    {call}\nexcept MntapiError as error:\n    print(type(error).__name__, error.hint)")
            assert told.startswith(Denied.__name__), (call, told)
            assert "root" in told, (call, told)
    finally:
        unmount(str(target))


def test_skeleton(target: Path) -> None:
    names = ["disk0p1", "disk0p2", "with space", "com,ma", "back\\slash", "new\nline", "\udcff", "n" * 255]
    mount_skeleton(str(target), names, source="a,b c\\d")
    try:
        mounted = mount_at(str(target))
        assert mounted is not None
        assert mounted.kind == "tmpfs"
        assert mounted.source == "a,b c\\d"
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(mounted.options)
        assert "ro" in mounted.super_options
        assert sorted(os.listdir(target)) == sorted(names)
        assert all((target / name).stat().st_mode & 0o7777 == 0o755 for name in names)
        with pytest.raises(OSError, match="Read-only"):
            (target / "new").mkdir()
    finally:
        unmount(str(target))


def test_what_is_not_mounted_does_not_look_empty(target: Path) -> None:
    names = [f"disk0p{number}" for number in range(100)]
    mount_skeleton(str(target), [*names, "good"])
    try:
        mark_not_mounted(str(target), dict.fromkeys(names, "ä/../\n" * 100))
        assert sorted(os.listdir(target)) == sorted([*names, "good"])
        for name in names:
            assert os.readlink(target / name).startswith("not mounted: \u00e4-..--")
            with pytest.raises(FileNotFoundError):
                os.listdir(target / name)
        with pytest.raises(OSError, match="Read-only"):
            (target / "new").mkdir()
        with pytest.raises(NotFound):
            mark_not_mounted(str(target), {"absent": "x"})
        mounted = mount_at(str(target))
        assert mounted is not None and {"ro", "nosuid", "nodev", "noexec"} <= set(mounted.options)
        assert "ro" in mounted.super_options
    finally:
        unmount(str(target))


def test_skeleton_of_many(target: Path) -> None:
    names = [f"disk0p{number}" for number in range(1000)]
    mount_skeleton(str(target), names)
    assert len(os.listdir(target)) == 1000
    unmount(str(target))


@pytest.mark.parametrize("names", [[""], ["."], [".."], ["a/b"], ["a\0"], ["a", "a"], [str(n) for n in range(65537)]])
def test_skeleton_with_impossible_names(target: Path, names: list[str]) -> None:
    with pytest.raises(Invalid):
        mount_skeleton(str(target), names)
    assert findmnt(target) == {}


def test_skeleton_that_fails_half_way(target: Path) -> None:
    with pytest.raises(Failed, match="File name too long"):
        mount_skeleton(str(target), ["fine", "n" * 256])
    assert findmnt(target) == {}


def test_busy_names_the_users(target: Path, tmp_path: Path) -> None:
    mount_skeleton(str(target), ["below"])
    mount_skeleton(str(target / "below"), [])
    sleeper = subprocess.Popen(["sleep", "100"], cwd=target)
    try:
        with pytest.raises(Busy) as caught:
            unmount(str(target))
        text = str(caught.value)
        assert f"{target}/below is mounted below it" in text
        assert f"sleep (pid {sleeper.pid}) uses {target}" in text
        assert caught.value.reason == "in-use"
        unmount(str(target / "below"))
    finally:
        sleeper.kill()
        sleeper.wait()
    unmount(str(target))


def test_open_and_mapped_files_are_uses(target: Path, tree: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    make("ext4", tree, image)
    with loop.attach(str(image), autoclear=True) as device:
        mount_kernel_filesystem(device.path, str(target), "ext4")
    script = "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=1); f.close(); "
    ways = {
        "open": [sys.executable, "-c", "import sys; f = open(sys.argv[1]); print(1, flush=True); sys.stdin.read()"],
        "mapped": [sys.executable, "-c", script + "print(1, flush=True); sys.stdin.read()"],
    }
    for command in ways.values():
        user = subprocess.Popen([*command, str(target / "hello.txt")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert user.stdout is not None
        user.stdout.readline()
        try:
            assert any(f"(pid {user.pid}) uses {target}/hello.txt" in line for line in holders(str(target)))
        finally:
            user.communicate()
    with loop.attach(str(target / "folder" / "big.bin")) as inner, pytest.raises(Busy, match=inner.path):
        unmount(str(target))
    unmount(str(target))


def test_force_detaches_and_says_who_holds_it(target: Path) -> None:
    mount_skeleton(str(target), ["a"])
    sleeper = subprocess.Popen(["sleep", "100"], cwd=target / "a")
    try:
        held = unmount(str(target), force=True)
        assert held == (f"sleep (pid {sleeper.pid}) uses {target}/a",)
        assert findmnt(target) == {}
    finally:
        sleeper.kill()
        sleeper.wait()


def test_force_of_what_is_idle_is_plain(target: Path) -> None:
    mount_skeleton(str(target), ["a"])
    assert unmount(str(target), force=True) == ()


def test_the_uppermost_of_several(target: Path) -> None:
    mount_skeleton(str(target), ["one"], source="lower")
    mount_skeleton(str(target), ["two"], source="upper")
    top = mount_at(str(target))
    assert top is not None and top.source == "upper"
    assert [mount.source for mount in mounts_under(str(target))] == ["upper", "lower"]
    unmount(str(target))
    below = mount_at(str(target))
    assert below is not None and below.source == "lower"
    unmount(str(target))
    assert mount_at(str(target)) is None


def test_through_symbolic_links(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(target)
    monkeypatch.chdir(tmp_path)
    mount_skeleton("link", ["a"])
    for path in ("link", "./mnt/../link", str(target) + "/"):
        found = mount_at(path)
        assert found is not None and found.target == str(target)
    unmount("link")
    assert mount_at("link") is None


def test_all_mounts_as_findmnt_sees_them() -> None:
    listed = subprocess.run(["findmnt", "--json", "--kernel", "--list"], capture_output=True, text=True, check=True).stdout
    theirs = {(entry["target"], entry["fstype"]) for entry in json.loads(listed)["filesystems"]}
    ours = {(mount.target, mount.kind) for mount in mounts()}
    assert {pair for pair in theirs if pair[0] in ("/", "/proc", "/sys")} <= ours


def test_what_is_available() -> None:
    listed = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines() if "nodev" not in line}
    assert filesystems.registered() == listed
    driver = filesystems.available("ext4")
    assert driver is not None and driver.type == "ext4"
    assert filesystems.available("apfs") is None
    if "vfat" not in listed and not os.path.isdir(f"/lib/modules/{os.uname().release}"):
        assert filesystems.available("fat16") is None
    if shutil.which("ntfs-3g"):
        assert filesystems.available("ntfs") is not None
