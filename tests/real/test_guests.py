"""The guest's own tree, on the command line and mounted. Oracle: the kernel's mounts of the same volumes, put together by hand;
where links lead is asked in a chroot of those."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contract.kernel_tree import led_to
from contract.make_disk import RealDisk, run
from contract.make_guest import LinuxMachine, make_linux
from contract.mounting import mounted_ntfs, need, need_root
from contract.windows_builder import guid_device, mbr_device, system_tree
from contract.windows_disks import C_DRIVE, DATA, TWO_PARTITIONS, ntfs, system_files
from contract.windows_disks import disk as make_disk
from mntapi.units import MIB

OLD = "@2026-11-01T02:00:00Z"
OURS = ("volumes", "backup", "mnt/nas", OLD)
"""What the kernel's tree has otherwise: other volumes, a missing one, a server's, a snapshot."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> LinuxMachine:
    return make_linux(tmp_path_factory.mktemp("machine"))


@pytest.fixture
def by_kernel(machine: LinuxMachine, tmp_path: Path) -> Iterator[Path]:
    """The machine's tree as its kernel would mount it."""
    need_root()
    top = tmp_path / "by-kernel"
    top.mkdir()
    with ExitStack() as undo:
        for part, place in zip(machine.parts, ("", "home", "srv/data"), strict=False):
            run("mount", "-o", "ro,noload,loop", part, top / place)
            undo.callback(run, "umount", top / place)
        run("mount", "--bind", top / "home/ann/www", top / "var/www")
        undo.callback(run, "umount", top / "var/www")
        yield top


def listing(top: Path, *skipped: str) -> dict[str, str]:
    """Everything below a folder as find(1) tells it; of links only that they are there."""
    prune = [part for name in skipped for part in ("-path", f"{top}/{name}", "-prune", "-o")]
    every = "%P\t%y %m %U %G %n %T@ "
    without_size = ["-type", "l", "-printf", every + "\\0", "-o", "-type", "d", "-printf", every + "\\0", "-o"]
    out = run("find", top, *prune, *without_size, "-printf", every + "%s\\0")
    return dict(line.split("\t", 1) for line in out.split("\0") if line)


def digests(top: Path, names: list[str]) -> dict[str, str]:
    return {name: hashlib.sha256((top / name).read_bytes()).hexdigest() for name in names}


def leads_to(path: str) -> object:
    try:
        if os.path.isdir(path):
            return sorted(os.listdir(path))
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        return error.errno


@pytest.mark.root
@pytest.mark.parametrize("backend", ["kernel", "fusepy"])
def test_the_mounted_tree_is_the_kernels(mntapi, mounted, machine: LinuxMachine, by_kernel: Path, backend: str) -> None:
    top = mounted(machine.disk, "--fuse-backend", backend)
    [record] = mntapi.json("ps")
    assert record["layout"] == "guest" and record["memory"] < 64 << 20
    want, found = listing(by_kernel, *OURS), listing(top, *OURS)
    assert found == want
    files = [name for name, told in want.items() if told.startswith("f ")]
    assert digests(top, files) == digests(by_kernel, files)
    links = [name for name, told in want.items() if told.startswith("l ")]
    assert {name: leads_to(f"{top}/{name}") for name in links} == led_to(by_kernel, links)
    for name in links:
        assert os.path.realpath(top / name).startswith(f"{top}/"), name
        assert (top / name).lstat().st_size == len(os.readlink(top / name))


@pytest.mark.root
def test_what_the_kernels_tree_has_not(mounted, machine: LinuxMachine) -> None:
    top = mounted(machine.disk)
    assert os.listdir(top / "volumes") == ["disk0p4"] and (top / "volumes/disk0p4/link").read_text() == "spare\n"
    assert os.getxattr(top / "backup", "user.mntapi.reason") == b"missing-volume"
    assert os.getxattr(top / "mnt/nas", "user.mntapi.reason") == b"network" and os.listdir(top / "mnt/nas") == []
    with pytest.raises(OSError, match="not supported"):
        os.listdir(top / "backup")
    assert (top / "disk0p1/var/www/hidden").read_text() == "below the bind mount\n"
    assert os.readlink(top / "disk0p1/etc/localtime") == "../../disk0p1/usr/share/zoneinfo/Europe/Berlin"
    assert (top / "usr/lib/one").stat().st_ino == (top / "usr/lib/two").stat().st_ino


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PC with C:, one volume as E: and another in C:\\Data, and links of all kinds."""
    need_root()
    need("mkntfs", "ntfs-3g", "sfdisk")
    folder = tmp_path_factory.mktemp("windows")
    devices = {"C": guid_device(C_DRIVE), "D": "\\??\\IDE#CdRomQEMU".encode("utf-16-le"), "E": mbr_device(0xCAFE0001, 2 * MIB)}
    files = {**system_files(system_tree(devices)), "Users/Ann/budget.csv": b"7;8\n", "ProgramData/App/ini": b"[a]"}
    links = [
        ("Data", f"\\??\\Volume{{{DATA}}}\\"),
        ("Documents and Settings", "\\??\\C:\\Users"),
        ("ProgramData/Desktop", "\\??\\E:\\Shared"),
        ("Users/Deep", f"\\??\\Volume{{{DATA}}}\\inner"),
        ("Lost", "\\??\\Volume{deadbeef-0000-0000-0000-000000000000}\\"),
    ]
    first = ntfs(folder / "c", files, links=links)
    data = ntfs(folder / "data", {"inner/file": b"in a folder"}, size=8)
    shared = ntfs(folder / "shared", {"Shared/note.txt": b"on E:"}, size=8)
    one = make_disk(folder / "one.raw", TWO_PARTITIONS, [(first, MIB), (data, 65 * MIB)])
    make_disk(folder / "two.raw", "label: dos\nlabel-id: 0xcafe0001\nstart=2MiB, size=8MiB, type=7\n", [(shared, 2 * MIB)])
    return one


@pytest.mark.root
def test_drives(mntapi, mounted, windows: Path, tmp_path: Path) -> None:
    machine = (windows, "-d", windows.parent / "two.raw")
    assert mntapi("ls", *machine).stdout.split() == ["C:", "E:"]
    for path in ("C:\\Users\\Ann\\budget.csv", "/C:/Users/Ann/budget.csv", "c:\\Documents and Settings\\ann\\BUDGET.csv"):
        assert mntapi("cat", *machine, path).stdout == "7;8\n"
    assert mntapi("cat", *machine, "C:/ProgramData/Desktop/note.txt").stdout == "on E:"
    assert mntapi("cat", *machine, "C:\\Users\\Deep\\file").stdout == mntapi("cat", *machine, "C:/data/inner/file").stdout
    mntapi("cp", *machine, "C:\\Users\\Ann\\budget.csv", tmp_path)
    assert (tmp_path / "budget.csv").read_text() == "7;8\n"
    assert mntapi("find", *machine, "C:\\Users\\", "--name", "*.csv").stdout == "/C:/Users/Ann/budget.csv\n"
    assert "Documents and Settings -> C:/Users" in mntapi("ls", "-l", *machine, "C:\\").stdout
    top = mounted(*machine)
    assert sorted(os.listdir(top)) == ["C:", "E:"]
    with mounted_ntfs(windows.parent / "c") as oracle:
        for folder in ("Users/Ann", "Windows/System32/config", "ProgramData/App"):
            assert sorted(os.listdir(top / "C:" / folder)) == sorted(os.listdir(oracle / folder))
            for name in os.listdir(oracle / folder):
                assert (top / "C:" / folder / name).read_bytes() == (oracle / folder / name).read_bytes()
    assert os.readlink(top / "C:/Documents and Settings") == "../C:/Users"
    assert (top / "C:/Documents and Settings/Ann/budget.csv").read_text() == "7;8\n"
    assert (top / "C:/ProgramData/Desktop/note.txt").read_text() == "on E:"
    assert (top / "C:/Data/inner/file").read_text() == (top / "C:/Users/Deep/file").read_text() == "in a folder"
    assert os.getxattr(top / "C:/Lost", "user.mntapi.reason") == b"missing-volume"


@pytest.mark.root
def test_what_info_says_of_windows(mntapi, windows: Path) -> None:
    info = mntapi.json("info", windows)
    [guest] = info["guests"]
    assert (guest["family"], guest["os_folder"]) == ("windows", "C:\\Windows")
    assert {volume["name"]: volume["mount_points"] for volume in info["volumes"]} == {
        "disk0p1": ["C:\\"],
        "disk0p2": ["C:\\Data"],
    }
    page = mntapi("info", windows).stdout
    assert "in C:\\Windows on disk0p1" in page
    [lost] = [line for line in page.splitlines() if " missing: " in line and "cafe0001" in line]
    [dvd] = [line for line in page.splitlines() if "CdRom" in line]
    assert lost.endswith("give the disk with -d") and "-d" not in dvd


@pytest.mark.root
def test_layouts(mntapi, machine: LinuxMachine, target: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.raw"
    shutil.copy(machine.parts[3], data)
    for layout, want in ((["--layout", "volumes"], "disk0p4"), (["--layout", "guest"], "etc"), ([], "etc")):
        mntapi("mount", *layout, machine.disk, target)
        assert want in os.listdir(target)
        mntapi("umount", target)
    mntapi("mount", data, target)
    assert os.listdir(target) == ["disk0"] and mntapi.json("ps")[0]["layout"] == "volumes"
    mntapi("umount", target)
    assert "--layout volumes" in mntapi("mount", "--layout", "guest", data, target, code=4).stderr
    assert "--via kernel" in mntapi("mount", "--layout", "guest", "--via", "kernel", machine.disk, target, code=7).stderr
    mntapi("mount", "--volume", "disk0p2", machine.disk, target)
    assert "ann" in os.listdir(target)
    mntapi("umount", target)


@pytest.mark.root
def test_the_kernel_asks_again_where_a_link_needs_its_folder(mounted, machine: LinuxMachine) -> None:
    top = mounted(machine.disk)
    for _ in range(2):
        assert os.readlink(top / "etc/odd") == "../usr/share/zoneinfo/Europe/Berlin"
        Path("/proc/sys/vm/drop_caches").write_text("2")
    os.listdir(top / "etc")
    assert (top / "etc/odd").read_bytes() == b"TZif2"


def test_info(mntapi, machine: LinuxMachine) -> None:
    info = mntapi.json("info", machine.disk)
    [guest] = info["guests"]
    told = {key: guest[key] for key in ("family", "product", "major", "hostname", "machine_id", "timezone", "os_folder")}
    assert told == {
        "family": "linux",
        "product": "Debian GNU/Linux 12 (bookworm)",
        "major": 12,
        "hostname": "web01",
        "machine_id": "0123456789abcdef0123456789abcdef",
        "timezone": "Europe/Berlin",
        "os_folder": "/",
    }
    assert "applications" not in guest and {"name": "ann", "uid": "1000", "home": "/home/ann"} in guest["users"]
    kinds = {mount["path"]: mount["kind"] for mount in guest["mounts"]}
    assert kinds == {
        "/": "volume",
        "/home": "volume",
        "/srv/data": "volume",
        "/var/www": "bind",
        "/backup": "missing",
        "/mnt/nas": "network",
        "/tmp": "virtual",
    }
    assert [volume["mount_points"] for volume in info["volumes"]] == [["/"], ["/home"], ["/srv/data"], []]
    page = mntapi("info", machine.disk).stdout
    assert page.startswith("Debian GNU/Linux 12 (bookworm), host web01\n") and "MOUNTED AT" in page
    [home] = [line for line in page.splitlines() if "─ disk0p2" in line]
    assert home.split()[6] == "/home" and "/backup  missing" in page and "nas:/export" in page
    assert "machine id: 0123456789abcdef0123456789abcdef" in mntapi("info", "-v", machine.disk).stdout
    assert mntapi.json("info", "--apps", machine.disk)["guests"][0]["applications"] == []
    assert "Installed on Debian" in mntapi("info", "--apps", machine.disk).stdout


def test_paths_on_the_command_line(mntapi, machine: LinuxMachine, tmp_path: Path) -> None:
    cat = lambda path: mntapi("cat", machine.disk, path).stdout  # noqa: E731
    assert cat("/etc/hostname") == cat("/disk0p1/etc/hostname") == "web01\n"
    assert cat("/home/ann/zone") == "TZif2" and cat("/home/ann/data/passwd") == cat("/etc/climb") == cat("/etc/passwd")
    assert cat("/volumes/disk0p4/link") == cat("/disk0p4/link") == "spare\n"
    assert "zone -> ../../etc/localtime" in mntapi("ls", "-l", machine.disk, "/home/ann").stdout
    assert "data -> /srv/data" in mntapi("ls", "-l", machine.disk, "/home/ann").stdout
    assert mntapi("find", machine.disk, "/srv", "--type", "f").stdout == "/srv/data/deep/er/file\n"
    everything = mntapi("find", machine.disk, "--name", "index.html", code=3)
    assert set(everything.stdout.split()) == {"/home/ann/www/index.html", "/var/www/index.html"}
    assert everything.stderr.startswith("error: /backup: ") and "-d" in mntapi("cat", machine.disk, "/backup/x", code=7).stderr
    mntapi("cp", "-r", machine.disk, "/home/ann", tmp_path)
    assert os.readlink(tmp_path / "ann/data") == "/srv/data"
    assert (tmp_path / "ann/budget.ods").read_bytes() == bytes(range(256)) * 300
    assert mntapi("ls", machine.disk, "/home/nobody", code=4).stderr.startswith("error: /home/nobody")


def test_the_order_of_disks_does_not_matter(mntapi, machine: LinuxMachine, disk: RealDisk) -> None:
    one = mntapi.json("info", machine.disk, "-d", disk.raw)["guests"]
    other = mntapi.json("info", disk.raw, "-d", machine.disk)["guests"]
    assert len(one) == 2 and sorted(map(json.dumps, one)) == sorted(map(json.dumps, other))
    assert mntapi("ls", machine.disk, "-d", disk.raw).stdout.split() == ["guest0", "guest1", "volumes"]
    assert mntapi("cat", machine.disk, "-d", disk.raw, "/guest0/home/ann/zone").stdout == "TZif2"
    page = mntapi("info", machine.disk, "-d", disk.raw).stdout
    assert "guest0:/home" in page and "guest1:/" in page and page.startswith("guest0  Debian")


def test_versions(mntapi, machine: LinuxMachine, tmp_path: Path) -> None:
    live, old = mntapi.json("versions", machine.disk, "/etc/hostname")
    assert (live["version"], live["sha256"]) == ("live", hashlib.sha256(b"web01\n").hexdigest())
    assert (old["version"], old["sha256"]) == (OLD, hashlib.sha256(b"old01\n").hexdigest())
    assert (live["differs_from_next"], old["differs_from_next"], old["time_ns"]) == (True, None, 1793498400 * 10**9)
    assert (live["path"], old["path"]) == ("/etc/hostname", f"/{OLD}/etc/hostname")
    mntapi("cp", machine.disk, old["path"], tmp_path / "old")
    assert (tmp_path / "old").read_text() == mntapi("cat", machine.disk, f"/{OLD}/etc/link").stdout == "old01\n"
    assert [one["exists"] for one in mntapi.json("versions", machine.disk, "/etc/gone")] == [False, True]
    [alone] = mntapi.json("versions", machine.disk, "/home/ann/budget.ods")
    assert alone["differs_from_next"] is None
    assert OLD in mntapi("ls", machine.disk).stdout and OLD not in mntapi("find", machine.disk, code=3).stdout
    assert f"/{OLD}/etc/gone" in mntapi("find", machine.disk, f"/{OLD}").stdout.splitlines()
    assert mntapi("versions", machine.disk, "/etc/hostname").stdout.splitlines()[0].split()[:2] == ["VERSION", "SIZE"]
    mntapi("versions", machine.disk, "/etc/absent", code=4)
    mntapi("versions", machine.disk, "/etc", code=2)
