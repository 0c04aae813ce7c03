"""Linux systems on btrfs and XFS as their installers lay them out, made in seconds by this machine's kernel, and mounted by it
again as their fstab says: the oracle. Nothing of them ever runs.

Source of the layouts: libstorage-ng's and YaST's default subvolumes and Snapper's first snapshot (openSUSE), Anaconda's
automatic partitioning (Fedora, Rocky Linux), Ubiquity's @ and @home with Timeshift's folders (Linux Mint), btrfs-subvolume(8).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from contract.mounting import need, need_root, run
from mntapi.units import MIB

BTRFS = 120
"""MiB: mkfs.btrfs makes none below 109."""
SUSE_DATES = ("2026-10-01 08:30:00", "2026-10-15 09:00:00", "2026-10-15 09:00:07")
MINT_CREATED = 1793498400
_GPT = "label: gpt\n"


@dataclass(frozen=True)
class Mounted:
    """One line of what the guest mounts: a range of the disk, at a place, with a subvolume perhaps."""

    place: str
    offset: int
    size: int
    options: str = ""


@dataclass(frozen=True)
class Machine:
    """A disk, and what its guest mounts, the root first. ``uuids``: of the file systems that are named in tests."""

    disk: Path
    mounts: tuple[Mounted, ...]
    uuids: dict[str, str]


@contextmanager
def loop(disk: Path, offset: int, size: int, *options: str) -> Iterator[str]:
    """A range of the disk as a device."""
    device = run("losetup", "--find", "--show", *options, "--offset", str(offset), "--sizelimit", str(size), disk).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextmanager
def on(device: str, top: Path, options: str = "rw") -> Iterator[Path]:
    """The device mounted."""
    top.mkdir(exist_ok=True)
    run("mount", "-o", options, device, top)
    try:
        yield top
    finally:
        run("umount", top)


@contextmanager
def by_kernel(machine: Machine, top: Path) -> Iterator[Path]:
    """The machine's tree as its kernel would mount it, read-only."""
    top.mkdir()
    with ExitStack() as undo:
        ranges = dict.fromkeys((one.offset, one.size) for one in machine.mounts)
        devices = {one: undo.enter_context(loop(machine.disk, *one, "--read-only")) for one in ranges}
        for one in machine.mounts:
            options = ",".join(filter(None, ("ro", "noatime", one.options)))
            undo.enter_context(on(devices[one.offset, one.size], top / one.place, options))
        yield top


def write(path: Path, content: str | bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def system(top: Path, release: str, hostname: str, fstab: str, *folders: str) -> None:
    """The files that say which system it is, links of all kinds, and folders for what is mounted."""
    for name in (
        "usr/bin",
        "usr/lib",
        "usr/sbin",
        "usr/share/zoneinfo/Europe",
        "var/log",
        "proc",
        "run",
        "tmp",
        "home",
        *folders,
    ):
        (top / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "sbin"):
        (top / name).symlink_to(f"usr/{name}")
    write(top / "usr/lib/os-release", release)
    write(top / "usr/share/zoneinfo/Europe/Berlin", b"TZif2")
    write(top / "etc/hostname", f"{hostname}\n")
    write(top / "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    write(top / "etc/fstab", fstab)
    write(top / "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000:Ann:/home/ann:/bin/sh\n")
    (top / "etc/os-release").symlink_to("../usr/lib/os-release")
    (top / "etc/localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    (top / "etc/up").symlink_to("../../../../etc/passwd")
    (top / "etc/gone").symlink_to("/nowhere/at/all")
    (top / "etc/mail").symlink_to("/home/ann/mail")
    shutil.copy("/bin/true", top / "usr/bin/sh")
    os.link(top / "usr/bin/sh", top / "usr/bin/dash")
    write(top / "usr/lib/large", b"".join(b"line %d\n" % number for number in range(60_000)))
    os.setxattr(top / "usr/lib/large", "user.note", b"text")


def home(top: Path) -> None:
    write(top / "ann/mail", "you have mail\n")
    write(top / "ann/budget.ods", bytes(range(256)) * 300)
    (top / "ann/zone").symlink_to("../../etc/localtime")
    (top / "ann/root").symlink_to("/")
    os.chown(top / "ann/mail", 1000, 1000)


def _release(**fields: str) -> str:
    return "".join(f'{name}="{value}"\n' for name, value in fields.items())


def _disk(path: Path, layout: str, mib: int) -> Path:
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    need_root()
    need("sfdisk", "losetup", "mkfs.btrfs", "mkfs.xfs", "btrfs", "mke2fs")
    with path.open("wb") as out:
        out.truncate(mib * MIB)
    run("sfdisk", "--quiet", path, stdin=_GPT + layout)
    return path


def uuid_of(device: str) -> str:
    return run("blkid", "-c", "/dev/null", "-o", "value", "-s", "UUID", device).strip()


@contextmanager
def new_btrfs(disk: Path, offset: int, *options: str, mib: int = BTRFS) -> Iterator[tuple[Path, str]]:
    """A new file system on a range of the disk: its top-level subvolume mounted, and its UUID."""
    with loop(disk, offset * MIB, mib * MIB) as device:
        run("mkfs.btrfs", "-q", *options, device)
        uuid = uuid_of(device)
        with on(device, disk.with_name("making"), "rw,noatime,subvolid=5") as top:
            yield top, uuid


def subvolumes(top: Path, *names: str) -> None:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        run("btrfs", "subvolume", "create", top / name)


def snapshot(source: Path, target: Path, *options: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    run("btrfs", "subvolume", "snapshot", *options, source, target)


def set_default(subvolume: Path) -> None:
    run("btrfs", "subvolume", "set-default", subvolume)


def snapper_info(folder: Path, number: int, kind: str, date: str, description: str) -> None:
    """As Snapper writes it."""
    write(
        folder / str(number) / "info.xml",
        f'<?xml version="1.0"?>\n<snapshot>\n  <type>{kind}</type>\n  <num>{number}</num>\n  <date>{date}</date>\n'
        f"  <description>{description}</description>\n</snapshot>\n",
    )


_SUSE_FOLDERS = ("var", "usr/local", "tmp", "srv", "root", "opt", "home", "boot/grub2/x86_64-efi", "boot/grub2/i386-pc")
SUSE_RELEASE = _release(
    NAME="openSUSE Leap", VERSION="15.6", ID="opensuse-leap", ID_LIKE="suse opensuse", VERSION_ID="15.6",
    PRETTY_NAME="openSUSE Leap 15.6", CPE_NAME="cpe:/o:opensuse:leap:15.6",
)  # fmt: skip


def make_suse(folder: Path) -> Machine:
    """openSUSE Leap with Snapper: the root is the default subvolume, which fstab does not name, and itself a snapshot."""
    disk = _disk(folder / "suse.raw", f"size=1M, type=21686148-6449-6E6F-744E-656564454649\nsize={BTRFS}M, type=linux\n", 124)
    with new_btrfs(disk, 2) as (top, uuid):
        subvolumes(top, "@", *(f"@/{name}" for name in _SUSE_FOLDERS), "@/.snapshots", "@/.snapshots/1/snapshot")
        kept = top / "@/.snapshots"
        lines = [("/", "defaults"), *((f"/{name}", f"subvol=/@/{name}") for name in (*_SUSE_FOLDERS, ".snapshots"))]
        fstab = "".join(f"UUID={uuid}  {place}  btrfs  {options}  0  0\n" for place, options in lines)
        system(kept / "1/snapshot", SUSE_RELEASE, "leap1", fstab, *_SUSE_FOLDERS, ".snapshots")
        set_default(kept / "1/snapshot")
        home(top / "@/home")
        write(top / "@/var/log/messages", "started\n")
        write(top / "@/opt/tool/tool", "x" * 5000)
        for name, path in (("root", "/"), ("home", "/home")):
            write(kept / f"1/snapshot/etc/snapper/configs/{name}", f'SUBVOLUME="{path}"\nFSTYPE="btrfs"\n')
        subvolumes(top, "@/home/.snapshots")
        snapshot(top / "@/home", top / "@/home/.snapshots/1/snapshot", "-r")
        snapper_info(top / "@/home/.snapshots", 1, "single", "2026-10-20 10:00:00", "timeline")
        write(top / "@/home/ann/mail", "you have more mail\n")
        snapper_info(kept, 1, "single", SUSE_DATES[0], "first root filesystem")
        for number, kind, name in ((2, "pre", "zypp(zypper)"), (3, "post", "")):
            snapshot(kept / "1/snapshot", kept / f"{number}/snapshot", "-r")
            snapper_info(kept, number, kind, SUSE_DATES[number - 1], name)
            write(kept / "1/snapshot/etc/hostname", f"leap{number}\n")
    mounts = [Mounted("", 2 * MIB, BTRFS * MIB)]
    mounts += [Mounted(name, 2 * MIB, BTRFS * MIB, f"subvol=@/{name}") for name in (*_SUSE_FOLDERS, ".snapshots")]
    return Machine(disk, tuple(mounts), {"root": uuid})


def roll_back(machine: Machine) -> None:
    """What ``snapper rollback 2`` does to a machine of ``make_suse``: the state before is kept as 4, the new root is 5."""
    with loop(machine.disk, 2 * MIB, BTRFS * MIB) as device, on(device, machine.disk.with_name("making"), "subvolid=5") as top:
        kept = top / "@/.snapshots"
        for number, source, options in ((4, 1, ["-r"]), (5, 2, [])):
            snapshot(kept / f"{source}/snapshot", kept / f"{number}/snapshot", *options)
            snapper_info(kept, number, "single", f"2026-11-02 12:00:0{number}", f"of {source}")
        write(kept / "5/snapshot/etc/hostname", "leap-rolled-back\n")
        set_default(kept / "5/snapshot")


FEDORA_RELEASE = _release(
    NAME="Fedora Linux", VERSION="40 (Server Edition)", ID="fedora", VERSION_ID="40", PLATFORM_ID="platform:f40",
    PRETTY_NAME="Fedora Linux 40 (Server Edition)", VARIANT="Server Edition", VARIANT_ID="server",
)  # fmt: skip


def make_fedora(folder: Path) -> Machine:
    """Fedora: /boot on ext4, ``root`` and ``home`` beside each other; /var/lib/machines is a subvolume in ``root``."""
    layout = f"size=8M, type=linux\nsize={BTRFS}M, type=linux\n"
    disk = _disk(folder / "fedora.raw", layout, 132)
    with loop(disk, MIB, 8 * MIB) as device:
        run("mke2fs", "-q", "-t", "ext4", device)
        boot = uuid_of(device)
        with on(device, folder / "making") as top:
            write(top / "vmlinuz-6.8.5-301.fc40.x86_64", b"MZ" * 3000)
            (top / "vmlinuz").symlink_to("vmlinuz-6.8.5-301.fc40.x86_64")
    with new_btrfs(disk, 9, "-L", "fedora") as (top, uuid):
        subvolumes(top, "root", "home", "root/var/lib/machines")
        fstab = f"UUID={uuid} / btrfs subvol=root,compress=zstd:1 0 0\nUUID={boot} /boot ext4 defaults 1 2\n"
        fstab += f"UUID={uuid} /home btrfs subvol=home,compress=zstd:1 0 0\n"
        run("btrfs", "property", "set", top / "root", "compression", "zstd")
        system(top / "root", FEDORA_RELEASE, "fedora.example.org", fstab, "boot")
        write(top / "root/var/lib/machines/one/etc/hostname", "container\n")
        (top / "root/var/lib/machines/one/link").symlink_to("/etc/hostname")
        home(top / "home")
    btrfs = 9 * MIB, BTRFS * MIB
    mounts = (Mounted("", *btrfs, "subvol=root"), Mounted("boot", MIB, 8 * MIB), Mounted("home", *btrfs, "subvol=home"))
    return Machine(disk, mounts, {"root": uuid, "boot": boot})


MINT_RELEASE = _release(
    NAME="Linux Mint",
    VERSION="22 (Wilma)",
    ID="linuxmint",
    ID_LIKE="ubuntu debian",
    PRETTY_NAME="Linux Mint 22",
    VERSION_ID="22",
)


def make_mint(folder: Path) -> Machine:
    """Linux Mint: ``@`` and ``@home`` with two of Timeshift's snapshots of each kind, the ones with rsync on another volume."""
    disk = _disk(folder / "mint.raw", f"size={BTRFS}M, type=linux\nsize=8M, type=linux\n", 132)
    with new_btrfs(disk, 1) as (top, uuid):
        subvolumes(top, "@", "@home")
        fstab = f"UUID={uuid} /      btrfs defaults,subvol=@     0 1\nUUID={uuid} /home  btrfs defaults,subvol=@home 0 2\n"
        system(top / "@", MINT_RELEASE, "mint1", fstab)
        home(top / "@home")
        for number, date in enumerate(("2026-11-01_02-00-00", "2026-11-08_02-00-00")):
            kept = top / "timeshift-btrfs/snapshots" / date
            for name in ("@", "@home"):
                snapshot(top / name, kept / name)
            created = MINT_CREATED + number * 7 * 86400
            info = f'{{"created" : "{created}", "sys-uuid" : "{uuid}", "comments" : "w{number}", "type" : "btrfs"'
            write(kept / "info.json", info + f', "subvolumes" : {{"@" : ["@", "2{number}", "0", "0", "{uuid}"]}}}}')
            write(top / "@/etc/hostname", f"mint{number + 2}\n")
            write(top / "@home/ann/mail", "more\n" * (number + 1))
    with loop(disk, (1 + BTRFS) * MIB, 8 * MIB) as device:
        run("mke2fs", "-q", "-t", "ext4", device)
        with on(device, folder / "making") as top:
            write(top / "timeshift/snapshots/2026-09-01_02-00-00/localhost/etc/hostname", "mint0\n")
            info = f'{{"created" : "1788228000", "sys-uuid" : "{uuid}", "comments" : "", "type" : "rsync"}}'
            write(top / "timeshift/snapshots/2026-09-01_02-00-00/info.json", info)
    btrfs = MIB, BTRFS * MIB
    return Machine(disk, (Mounted("", *btrfs, "subvol=@"), Mounted("home", *btrfs, "subvol=@home")), {"root": uuid})


def make_by_hand(folder: Path) -> Machine:
    """A root that is the default subvolume and that no fstab names, /home by number, a folder of a subvolume; snapshots that
    nobody keeps a record of; a second system, and one like a container's; a subvolume in a subvolume in a folder."""
    disk = _disk(folder / "hand.raw", f"size={BTRFS}M, type=linux\n", 122)
    with new_btrfs(disk, 1) as (top, uuid):
        subvolumes(top, "systems/live", "data", "data/a/b/inner", "other", "store/deep/er")
        number = run("btrfs", "inspect-internal", "rootid", top / "data").strip()
        fstab = f"UUID={uuid} / btrfs noatime 0 0\nUUID={uuid} /home btrfs subvolid={number} 0 0\n"
        fstab += f"UUID={uuid} /srv btrfs subvol=data/a/b,noatime 0 0\nUUID={uuid} /gone btrfs subvol=absent,nofail 0 0\n"
        fstab = fstab.replace("subvol=data/a/b,", "subvol=data,X-mount.subdir=a/b,")
        arch = _release(NAME="Arch Linux", PRETTY_NAME="Arch Linux", ID="arch", BUILD_ID="rolling")
        system(top / "systems/live", arch, "by-hand", fstab, "srv", "gone")
        set_default(top / "systems/live")
        home(top / "data")
        write(top / "data/a/b/inner/file", "in a subvolume in a folder\n")
        (top / "data/a/b/inner/link").symlink_to("/etc/hostname")
        void = _release(NAME="Void", PRETTY_NAME="Void Linux", ID="void")
        system(top / "other", void, "second", f"UUID={uuid} / btrfs subvol=/other 0 0\n")
        system(top / "store/deep/er", void, "container", "")
        snapshot(top / "systems/live", top / "snaps/first", "-r")
        snapshot(top / "data", top / "snaps/data", "-r")
        snapshot(top / "other", top / "other-copy", "-r")
        snapshot(top / "systems/live", top / "clone")
        write(top / "systems/live/etc/hostname", "by-hand-now\n")
    btrfs = MIB, BTRFS * MIB
    mounts = (Mounted("", *btrfs), Mounted("home", *btrfs, f"subvolid={number}"))
    return Machine(disk, mounts, {"root": uuid})


ROCKY_RELEASE = _release(
    NAME="Rocky Linux", VERSION="9.4 (Blue Onyx)", ID="rocky", ID_LIKE="rhel centos fedora", VERSION_ID="9.4",
    PLATFORM_ID="platform:el9", PRETTY_NAME="Rocky Linux 9.4 (Blue Onyx)",
)  # fmt: skip
_LVM = (
    "activation { monitoring=0 udev_sync=0 udev_rules=0 } backup { backup=0 archive=0 } devices { use_devicesfile=0 filter=%s }"
)


def make_rocky(folder: Path) -> Machine:
    """Rocky Linux as Anaconda lays it out for a BIOS: /boot on XFS, the rest on XFS in the volume group ``rl``.

    LVM writes its labels and metadata here without activating anything, so no device-mapper is needed.
    """
    need("lvm")
    layout = "size=1M, type=21686148-6449-6E6F-744E-656564454649\nsize=20M, type=linux\nsize=72M, type=lvm\n"
    disk = _disk(folder / "rocky.raw", layout, 95)
    logical = _rl(disk, 22 * MIB, 72 * MIB)
    places = {"boot": (2 * MIB, 20 * MIB), "root": logical["root"], "home": logical["home"]}
    uuids = {}
    with ExitStack() as undo:
        devices = {name: undo.enter_context(loop(disk, *place)) for name, place in places.items()}
        for name, device in devices.items():
            run("mkfs.xfs", "--unsupported", "-q", device)
            uuids[name] = uuid_of(device)
        run("mkswap", undo.enter_context(loop(disk, *logical["swap"])))
        with on(devices["boot"], folder / "making") as top:
            write(top / "vmlinuz-5.14.0-427.el9.x86_64", b"MZ" * 3000)
            (top / "loader").mkdir()
        with on(devices["home"], folder / "making") as top:
            home(top)
        lines = [("/dev/mapper/rl-root", "/"), (f"UUID={uuids['boot']}", "/boot"), ("/dev/mapper/rl-home", "/home")]
        fstab = "".join(f"{device} {place:23} xfs     defaults        0 0\n" for device, place in lines)
        fstab += "/dev/mapper/rl-swap none swap defaults 0 0\n"
        with on(devices["root"], folder / "making") as top:
            system(top, ROCKY_RELEASE, "db.example.org", fstab, "boot", "etc/sysconfig", "root")
            (top / "etc/redhat-release").symlink_to("rocky-release")
            write(top / "etc/rocky-release", "Rocky Linux release 9.4 (Blue Onyx)\n")
            write(top / "root/anaconda-ks.cfg", "# made by anaconda\n")
            os.setxattr(top / "etc/hostname", "security.selinux", b"system_u:object_r:hostname_etc_t:s0\0")
            for number in range(600):
                write(top / f"var/log/many/a log with a rather long name {number}")
    mounts = (Mounted("", *places["root"], "norecovery"), Mounted("boot", *places["boot"]), Mounted("home", *places["home"]))
    return Machine(disk, mounts, uuids)


def _rl(disk: Path, offset: int, size: int) -> dict[str, tuple[int, int]]:
    """The volume group on a range of the disk; where its volumes are on the disk, in bytes."""
    with loop(disk, offset, size) as device:
        config = ("--driverloaded", "n", "--config", _LVM % f'["a|^{device}$|","r|.*|"]')
        run("lvm", "pvcreate", *config, device)
        run("lvm", "vgcreate", *config, "rl", device)
        for name, mib in (("swap", 4), ("home", 20), ("root", 40)):  # in the order in which Anaconda makes them
            run("lvm", "lvcreate", *config, "-an", "-Zn", "-Wn", "-y", "-L", f"{mib}m", "-n", name, "rl")
        told = ("--noheadings", "--nosuffix", "--units", "b", "--separator", "|", "-o")
        start, extent = map(int, run("lvm", "pvs", *config, *told, "pe_start,vg_extent_size", device).strip().split("|"))
        rows = run("lvm", "lvs", *config, *told, "lv_name,lv_size,seg_pe_ranges", "rl").split()
    found = {}
    for row in rows:
        name, length, pe_range = row.split("|")
        first = int(pe_range.rpartition(":")[2].partition("-")[0])
        found[name] = offset + start + first * extent, int(length)
    return found
