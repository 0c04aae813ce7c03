"""A small Linux machine for tests, made without root: Debian-like, its root, /home and /srv/data on volumes of their own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from contract.make_disk import need, run
from mntapi.units import MIB

ROOT_UUID = "6a1ab6b2-6fb5-4f0b-9c62-9a6a9f5b1d0a"
HOME_UUID = "0c1f2c6e-57a4-4a0b-8a3e-0ea26ac36a11"
_LAYOUT = """label: gpt
size=16MiB, type=linux, name=root, uuid=11111111-0000-4000-8000-000000000001
size=12MiB, type=linux, name=home, uuid=11111111-0000-4000-8000-000000000002
size=12MiB, type=linux, name=data, uuid=11111111-0000-4000-8000-000000000003
size=12MiB, type=linux, name=spare, uuid=11111111-0000-4000-8000-000000000004
"""
_FSTAB = f"""UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1
UUID={HOME_UUID} /home ext4 defaults 0 2
PARTUUID=11111111-0000-4000-8000-000000000003 /srv/data ext4 defaults 0 2
/home/ann/www /var/www none bind 0 0
/dev/disk/by-uuid/deadbeef-0000-4000-8000-000000000000 /backup ext4 nofail 0 2
nas:/export /mnt/nas nfs _netdev 0 0
tmpfs /tmp tmpfs defaults 0 0
"""
_OS_RELEASE = """PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
ID=debian
"""


@dataclass(frozen=True)
class LinuxMachine:
    """The disk, and its partitions as files of their own, in the order on the disk: root, home, data, spare."""

    disk: Path
    parts: tuple[Path, ...]


def make_linux(folder: Path) -> LinuxMachine:
    """``web01.raw``: GPT with four ext4 volumes; nothing mounts the last one, which has an earlier state of the root."""
    need("mke2fs", "sfdisk")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    sources = [_root(folder / "root"), _home(folder / "home"), _data(folder / "data"), _spare(folder / "spare")]
    uuids = [ROOT_UUID, HOME_UUID, "random", "random"]
    parts = [folder / f"{source.name}.ext4" for source in sources]
    for source, uuid, part, size in zip(sources, uuids, parts, (16, 12, 12, 12), strict=True):
        with part.open("wb") as out:
            out.truncate(size * MIB)
        run("mke2fs", "-q", "-t", "ext4", "-b", "1024", "-L", source.name, "-U", uuid, "-d", source, part)
    disk = folder / "web01.raw"
    with disk.open("wb") as out:
        out.truncate(54 * MIB)
    run("sfdisk", "--quiet", disk, input=_LAYOUT)
    for part, offset in zip(parts, (1, 17, 29, 41), strict=True):
        run("dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={offset}", "conv=notrunc,sparse", "status=none")
    return LinuxMachine(disk, tuple(parts))


def _root(top: Path) -> Path:
    folders = ("bin", "backup", "home", "srv/data", "var/www", "var/log", "mnt/nas", "tmp", "usr/share/zoneinfo/Europe", "run")
    for name in folders:
        (top / name).mkdir(parents=True)
    (top / "etc").mkdir()
    (top / "usr/lib").mkdir()
    (top / "etc/os-release").symlink_to("../usr/lib/os-release")
    (top / "usr/lib/os-release").write_text(_OS_RELEASE)
    (top / "usr/share/zoneinfo/Europe/Berlin").write_bytes(b"TZif2")
    (top / "etc/localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    (top / "etc/hostname").write_text("web01\n")
    (top / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (top / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000:Ann:/home/ann:/bin/sh\n")
    (top / "etc/fstab").write_text(_FSTAB)
    (top / "var/run").symlink_to("/run")
    (top / "var/www/hidden").write_text("below the bind mount\n")
    (top / "home/hidden").write_text("below the mount\n")
    (top / "etc/climb").symlink_to("../../../../../etc/passwd")
    (top / "etc/odd").symlink_to("../usr/lib/../share/zoneinfo/Europe/Berlin")
    (top / "etc/escape\x1b[31m").write_text("x")
    (top / "usr/lib/one").write_text("hard link\n")
    os.link(top / "usr/lib/one", top / "usr/lib/two")
    return top


def _home(top: Path) -> Path:
    (top / "ann/www").mkdir(parents=True)
    (top / "ann/www/index.html").write_text("<h1>Ann</h1>\n")
    (top / "ann/budget.ods").write_bytes(bytes(range(256)) * 300)
    (top / "ann/zone").symlink_to("../../etc/localtime")
    (top / "ann/data").symlink_to("/srv/data")
    (top / "ann/gone").symlink_to("/nowhere/at/all")
    with (top / "ann/sparse").open("wb") as out:
        out.truncate(2 * MIB)
    return top


def _data(top: Path) -> Path:
    (top / "deep/er").mkdir(parents=True)
    (top / "deep/er/file").write_bytes(b"data" * 5000)
    (top / "passwd").symlink_to("/etc/passwd")
    return top


def _spare(top: Path) -> Path:
    """With what Timeshift keeps of the root."""
    old = top / "timeshift/snapshots/2026-11-01_02-00-00"
    (old / "localhost/etc").mkdir(parents=True)
    (old / "localhost/etc/hostname").write_text("old01\n")
    (old / "localhost/etc/gone").write_text("deleted since\n")
    (old / "localhost/etc/link").symlink_to("/etc/hostname")
    (old / "info.json").write_text(f'{{"created": "1793498400", "sys-uuid": "{ROOT_UUID}", "comments": "before"}}')
    (top / "etc").mkdir(parents=True)
    (top / "etc/own").write_text("spare\n")
    (top / "link").symlink_to("/etc/own")
    return top
