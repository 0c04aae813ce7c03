"""Which driver of the kernel mounts a file system, and the options that keep it from changing or trusting anything.

Two visible tables, for reading and for writing. Always true of an entry of the first: no journal is replayed. Of both: a
superblock that asks for a panic on errors (``tune2fs -e panic`` inside a guest) does not get it: ext4 would stop this machine
even for a read-only mount (Linux 5.12, "ext4: always panic when errors=panic is specified"), so its entries say
``errors=continue``, or ``errors=remount-ro`` where nothing must be written on top of damage.

Source: Documentation/filesystems/*.rst of Linux 6.12 per file system; ntfs-3g(8).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from mntapi.errors import Failed, MntapiError
from mntapi.kernel.run import run

FILESYSTEMS = "/proc/filesystems"


@dataclass(frozen=True, slots=True)
class Driver:
    """A way to mount: the kernel's type name and options; with ``program``, a FUSE server that is started instead."""

    type: str
    options: str = ""
    program: str | None = None
    package: str | None = None


_EXT = "errors=continue"

DRIVERS: dict[str, tuple[Driver, ...]] = {
    # Tried in turn: the next one when the kernel has no such driver, or not these options.
    "ext2": (Driver("ext4", _EXT), Driver("ext2", _EXT)),
    "ext3": (Driver("ext4", f"noload,{_EXT}"), Driver("ext3", f"noload,{_EXT}")),
    "ext4": (Driver("ext4", f"noload,{_EXT}"),),
    "xfs": (Driver("xfs", "norecovery,nouuid"),),
    "btrfs": (Driver("btrfs", "rescue=nologreplay"), Driver("btrfs", "nologreplay")),  # renamed in 5.9
    # ntfs3 mounts a dirty volume read-only without `force`; norecover makes ntfs-3g leave the log alone.
    "ntfs": (Driver("ntfs3", "iocharset=utf8"), Driver("ntfs-3g", "norecover", program="ntfs-3g", package="ntfs-3g")),
    "vfat": (Driver("vfat", "utf8=1,errors=continue"),),
    "exfat": (Driver("exfat", "iocharset=utf8,errors=continue"),),
    "hfs": (Driver("hfs"),),
    "hfsplus": (Driver("hfsplus"),),
    "iso9660": (Driver("iso9660", "map=off"),),  # names as they are stored, not in lower case
    "udf": (Driver("udf"),),
    "squashfs": (Driver("squashfs"),),
    "erofs": (Driver("erofs"),),
    "f2fs": (Driver("f2fs", "norecovery"),),
    "jfs": (Driver("jfs", "errors=continue"),),
    "nilfs2": (Driver("nilfs2", "norecovery,errors=continue"),),
    "ufs": (Driver("ufs", "ufstype=ufs2,onerror=lock"), Driver("ufs", "ufstype=44bsd,onerror=lock")),
    "minix": (Driver("minix"),),
    "bfs": (Driver("bfs"),),
    "befs": (Driver("befs"),),
    "romfs": (Driver("romfs"),),
    "cramfs": (Driver("cramfs"),),
}
_STOP = "errors=remount-ro"

WRITABLE: dict[str, tuple[Driver, ...]] = {
    # For overlays: journals are replayed, into the overlay. What is not here is mounted as above.
    "ext2": (Driver("ext4", _STOP), Driver("ext2", _STOP)),
    "ext3": (Driver("ext4", _STOP), Driver("ext3", _STOP)),
    "ext4": (Driver("ext4", _STOP),),
    "xfs": (Driver("xfs", "nouuid"),),
    "btrfs": (Driver("btrfs"),),
    # ntfs-3g first: it is the one that has been writing NTFS for long, and replays the log of a volume that was not unmounted.
    "ntfs": (Driver("ntfs-3g", program="ntfs-3g", package="ntfs-3g"), Driver("ntfs3", "iocharset=utf8")),
    "vfat": (Driver("vfat", f"utf8=1,{_STOP}"),),
    "exfat": (Driver("exfat", f"iocharset=utf8,{_STOP}"),),
    "hfs": (Driver("hfs"),),
    "hfsplus": (Driver("hfsplus"),),  # the driver itself stays read-only where there is a journal
    "udf": (Driver("udf"),),
    "f2fs": (Driver("f2fs"),),
    "jfs": (Driver("jfs", _STOP),),
    "nilfs2": (Driver("nilfs2", _STOP),),
    "minix": (Driver("minix"),),
}
ALIASES = {"fat12": "vfat", "fat16": "vfat", "fat32": "vfat", "fat": "vfat", "hfs+": "hfsplus", "ufs1": "ufs", "ufs2": "ufs"}
"""Other names that a probe may give; both are accepted."""

TRY_NEXT = (errno.ENODEV, errno.EINVAL, errno.EROFS)


def drivers(kind: str) -> tuple[Driver, ...]:
    """The ways to mount this kind read-only, best first; none if Linux has no driver for it."""
    return DRIVERS.get(ALIASES.get(kind, kind), ())


def writable_drivers(kind: str) -> tuple[Driver, ...]:
    """The ways to mount this kind for writing, best first; none if Linux cannot write it."""
    return WRITABLE.get(ALIASES.get(kind, kind), ())


def registered() -> frozenset[str]:
    """The block-device file systems that the running kernel has at this moment; more may be loadable modules.

    Raises:
        Failed: /proc is not mounted.
    """
    try:
        with open(FILESYSTEMS, encoding="ascii") as file:
            return frozenset(line.strip() for line in file if not line.startswith("nodev"))
    except OSError as error:
        raise Failed(f"cannot be read: {error.strerror}", path=FILESYSTEMS, hint="mount -t proc proc /proc") from error


def available(kind: str) -> Driver | None:
    """The first driver for this kind that this machine has, loaded or as a module or installed program; None if none.

    Nothing is loaded: mount(2) does that by itself.
    """
    present = registered()
    return next((driver for driver in drivers(kind) if driver.type in present or _could_be_had(driver)), None)


def _could_be_had(driver: Driver) -> bool:
    if driver.program:
        question = [driver.program, "--version"]
    else:
        question = ["modprobe", "--dry-run", "--quiet", "--", f"fs-{driver.type}"]
    try:
        run(question, timeout_s=10)
    except MntapiError:
        return False  # the question is whether it works, and it does not
    return True
