"""What this host has and lacks for mounting, and the command that mends it: the answers of ``mntapi doctor``."""

from __future__ import annotations

import os
import platform
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mntapi import isal
from mntapi.crypto import gcrypt
from mntapi.errors import MntapiError
from mntapi.filesystems.btrfs.checksums import has_libxxhash
from mntapi.kernel import fusemount, landlock, loop
from mntapi.kernel.filesystems import available
from mntapi.kernel.nodes import ensure_node
from mntapi.kernel.seccomp import ARCHITECTURES
from mntapi.session import journal
from mntapi.session.teardown import statuses
from mntapi.units import MIB, format_size

_KERNEL_KINDS = ("ext4", "xfs", "btrfs", "ntfs", "vfat", "exfat", "hfsplus", "iso9660", "udf", "squashfs", "erofs", "f2fs")
_ENOUGH_MEMORY = 256 * MIB
_FUSE_CONF = "/etc/fuse.conf"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the page. ``ok`` None: neither good nor bad, worth knowing. ``remedy``: a command, or what to do."""

    topic: str
    ok: bool | None
    text: str
    remedy: str | None = None


def examine() -> Iterator[Finding]:
    """Look at everything; a part that cannot be looked at is a finding too."""
    for look in _LOOKS:
        try:
            yield from look()
        except MntapiError as error:
            yield Finding(look.__name__.strip("_").replace("_", " "), False, str(error), error.hint)


def _system() -> Iterator[Finding]:
    yield Finding("system", None, f"Linux {platform.release()} {platform.machine()}, Python {platform.python_version()}")
    yield Finding(
        "user", None, "root" if os.geteuid() == 0 else f"uid {os.geteuid()}: mounts go through fusermount3, no loop devices"
    )


def _fuse() -> Iterator[Finding]:
    ensure_node(fusemount.FUSE_DEVICE, stat.S_IFCHR, fusemount.MISC_MAJOR, fusemount.FUSE_MINOR, mode=0o666)
    usable = os.access(fusemount.FUSE_DEVICE, os.R_OK | os.W_OK)
    yield Finding(
        "FUSE",
        usable,
        f"{fusemount.FUSE_DEVICE} {'can' if usable else 'cannot'} be opened",
        None if usable else "chmod 666 /dev/fuse",
    )
    helper = shutil.which(fusemount.FUSERMOUNT)
    needed = os.geteuid() != 0
    text = helper or "not installed" + ("" if needed else "; only users other than root need it")
    yield Finding("fusermount3", bool(helper) or (False if needed else None), text, None if helper else "apt-get install fuse3")
    others = _allow_other() or not needed
    remedy = None if others else f"echo user_allow_other >> {_FUSE_CONF}   (as root)"
    yield Finding("other users", None, f"--allow-other is {'allowed' if others else 'for root only'}", remedy)


def _allow_other() -> bool:
    try:
        with open(_FUSE_CONF) as file:
            return any(line.strip() == "user_allow_other" for line in file)
    except OSError:
        return False


def _loop() -> Iterator[Finding]:
    ensure_node(loop.CONTROL, stat.S_IFCHR, loop.MISC_MAJOR, loop.LOOP_CTRL_MINOR)
    usable = os.access(loop.CONTROL, os.R_OK | os.W_OK)
    in_use = len(loop.attached_below("/"))
    text = f"{loop.CONTROL} {'can' if usable else 'cannot'} be opened, {in_use} in use"
    yield Finding(
        "loop devices", usable or (None if os.geteuid() else False), text, None if usable else "run as root for --via kernel"
    )


def _kernel_file_systems() -> Iterator[Finding]:
    drivers = {kind: available(kind) for kind in _KERNEL_KINDS}
    have = [kind if driver.program is None else f"{kind} (by {driver.program})" for kind, driver in drivers.items() if driver]
    lacking = [kind for kind, driver in drivers.items() if driver is None]
    yield Finding("--via kernel", bool(have), "mounts " + ", ".join(have) if have else "mounts nothing")
    if lacking:
        remedy = "apt-get install ntfs-3g" if "ntfs" in lacking else None
        yield Finding("no driver for", None, ", ".join(lacking) + " (without --via kernel none is needed)", remedy)


def _confinement() -> Iterator[Finding]:
    version = landlock.abi()
    yield Finding(
        "Landlock",
        version is not None,
        f"ABI {version}" if version else "not in this kernel: workers keep path access checks of seccomp only",
    )
    known = platform.machine() in ARCHITECTURES
    yield Finding("seccomp", known, "filter for this machine" if known else f"no filter for {platform.machine()}")


def _libraries() -> Iterator[Finding]:
    """Those of C that are used where the host has them."""
    for name, found, use, package in (
        ("ISA-L", isal.library() is not None, "CRC-32C checksums and the parity of RAID at full speed", "libisal2"),
        ("libgcrypt", gcrypt.library() is not None, "decrypting at full speed, and ciphers other than AES", "libgcrypt20"),
        ("libxxhash", has_libxxhash(), "the checksum xxhash64 of btrfs at full speed", "libxxhash0"),
    ):
        if found:
            yield Finding(name, True, use)
        else:
            yield Finding(name, None, f"not installed; needed only for {use}", f"apt-get install {package}")


def _memory() -> Iterator[Finding]:
    import psutil

    free = psutil.virtual_memory().available
    yield Finding("memory", free > _ENOUGH_MEMORY, f"{format_size(free)} available; a worker takes about 50 MiB")


def _run_directory() -> Iterator[Finding]:
    yield Finding("run directory", True, str(journal.run_dir()))
    found = statuses()
    dead = sum(status.state == "dead" for status in found) + len(journal.wrecks())
    yield Finding("mounts", dead == 0, f"{len(found)} on record, {dead} dead", "mntapi clean" if dead else None)


_LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _system,
    _fuse,
    _loop,
    _kernel_file_systems,
    _confinement,
    _libraries,
    _memory,
    _run_directory,
)
