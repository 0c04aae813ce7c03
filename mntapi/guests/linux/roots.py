"""Recognising the root of a system, and where on its volume that is: mostly at the top, but not always.

* On btrfs in a subvolume: the default one (SUSE), ``@`` (Ubuntu), ``@rootfs`` (Debian), ``root`` (Fedora), or any that lies at
  the top. Of a subvolume and its snapshots one is the system; the others are what it was.
* With OSTree and bootc in a deployment, ``/ostree/deploy/NAME/deploy/CHECKSUM.N``; ``/var`` is beside it.
* NixOS without a lasting root has only ``/nix``, and its settings in a profile.

Source: OSTree manual, "Deployments" and "Atomic Upgrades"; Boot Loader Specification (UAPI.1); NixOS manual, "Rolling back";
bootc documentation, "Filesystem".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from uuid import UUID

from mntapi.errors import MntapiError
from mntapi.guests.files import Below, GuestFiles, find
from mntapi.guests.subvolumes import TOP_LEVEL, Catalog, Subvolume, name_of, shown_by
from mntapi.types import FileKind, FileSystem
from mntapi.units import KIB

MAX_DEPLOYMENTS = 64
"""Deployments that are looked at."""
MAX_NAMES = 512
"""Names in a folder of deployments: two for each."""
MAX_ENTRY = 64 * KIB
"""Bytes of a boot loader's entry."""
MAX_ENTRIES = 256
"""Entries that are read."""
MAX_SUBVOLUMES = 64
"""Subvolumes that are looked into."""
_SUBVOLUMES = ("@", "@rootfs", "root", "@root", "@/.snapshots/1/snapshot")
"""Where distributions put their roots; these are looked into first, and though they may be snapshots or read-only."""
_RELEASES = "os-release lsb-release debian_version redhat-release SuSE-release alpine-release arch-release gentoo-release"
_SETTINGS = (*_RELEASES.split(), "slackware-version", "system-release", "fstab", "passwd", "machine-id", "inittab", "NIXOS")
_DEPTH = 2
"""Names in the path of a subvolume that may be a root: ``__active/rootvol`` has as many."""
_PROGRAMS = ("bin", "sbin", "lib", "usr", "nix")
NIX_PROFILE = "/nix/var/nix/profiles/system"
_ENTRIES = ("/boot/loader/entries", "/loader/entries")


@dataclass(frozen=True, slots=True)
class Root:
    """Where a system's root is: ``folder`` of ``subvolume`` of the volume. ``etc`` is its folder of settings."""

    base: FileSystem
    folder: str = "/"
    subvolume: str | None = None
    etc: str = "/etc"
    var: str | None = None
    """The folder that is its ``/var``, where that is not in ``folder``."""
    details: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class _Top:
    """A folder that may be a root. ``line`` is the same of all subvolumes that are snapshots of one another."""

    base: FileSystem
    subvolume: str | None = None
    line: UUID | int | None = None


def find_roots(fs: FileSystem, others: Sequence[FileSystem], catalog: Catalog | None = None) -> Iterator[Root]:
    """The roots on one volume, one for each way to hold it. What cannot be read is none; its volume is listed with the reason.

    Args:
        fs: the volume's file system.
        others: those of the whole set; one of them may be ``/boot``.
        catalog: its subvolumes, if it has any.
    """
    found: set[UUID | int | None] = set()
    for top in _tops(fs, catalog):
        root = None if top.line in found else _root_at(top, others)
        if root is None:
            continue
        yield root
        found.add(top.line)
        if top.base is fs:
            return  # what lies in it is its own


def _root_at(top: _Top, others: Sequence[FileSystem]) -> Root | None:
    base, subvolume = top.base, top.subvolume
    try:
        deployed = _deployed(base, subvolume, others)
    except MntapiError:
        return None
    if deployed is not None:
        return deployed
    files = GuestFiles(base)
    if _is_root(files):
        return Root(base, "/", subvolume, details=_layout(files))
    if files.has(f"{NIX_PROFILE}/etc"):
        return Root(base, "/", subvolume, f"{NIX_PROFILE}/etc", details=_layout(files))
    return None


def _tops(fs: FileSystem, catalog: Catalog | None) -> Iterator[_Top]:
    if catalog is None:
        yield _Top(fs)
        return
    for one in islice(_likely(catalog), MAX_SUBVOLUMES):
        try:
            yield _Top(shown_by(fs, f"id:{one.id}"), name_of(one), catalog.lines[one.id])
        except MntapiError:
            continue  # its folder says what is wrong with it


def _likely(catalog: Catalog) -> Iterator[Subvolume]:
    """The subvolumes that may be roots: the default one, those at usual places, then others that lie at the top.

    Not those deeper down: containers keep theirs there.
    """
    named = [catalog.find(name) for name in (None, f"id:{TOP_LEVEL}", *_SUBVOLUMES)]
    others = [
        one
        for one in catalog.all
        if one.parent == TOP_LEVEL and not one.is_read_only and one.path is not None and one.path.count("/") < _DEPTH
    ]
    yield from {one.id: one for one in (*named, *others) if one is not None}.values()


def _is_root(files: GuestFiles) -> bool:
    """Whether there are settings and programs. Links count as they are: they may lead to another volume."""
    if not any(files.node(f"/etc/{name}", follow_last=False) for name in _SETTINGS):
        return files.node("/etc") is None and files.node("/sbin/init") is not None and files.has("/usr/lib/os-release")
    return any(files.node(f"/{name}", follow_last=False) for name in _PROGRAMS)


def _layout(files: GuestFiles) -> dict[str, str]:
    """What is unusual about it."""
    details = {}
    if all(files.link(f"/{name}") in (f"usr/{name}", f"/usr/{name}") for name in ("bin", "lib")):
        details["merged-usr"] = "yes"
    profile = files.link(NIX_PROFILE)
    if profile is not None:
        details["layout"] = "nixos"
        details["default-deployment"] = profile.rpartition("/")[2]
    return details


def _deployed(base: FileSystem, subvolume: str | None, others: Sequence[FileSystem]) -> Root | None:
    """The deployment that is started by default."""
    files = GuestFiles(base)
    found = [path for path in _deployments(files) if _is_root(GuestFiles(Below(base, find(base, path))))]
    if not found:
        return None
    default = _default(files, found, others)
    details = {"layout": "ostree", "deployments": str(len(found))}
    if default is None:
        default = max(found, key=lambda path: _made(files, path))
        details["default-deployment-from"] = "no boot entry names one of them; this is the newest"
    name = default.split("/")[3]
    details["default-deployment"] = f"{name} {default.rpartition('/')[2]}"
    return Root(base, default, subvolume, var=f"/ostree/deploy/{name}/var", details=details)


def _deployments(files: GuestFiles) -> Iterator[str]:
    count = 0
    for name in files.names("/ostree/deploy", MAX_DEPLOYMENTS):
        for entry in files.names(f"/ostree/deploy/{name.name}/deploy", MAX_NAMES):
            if entry.node.kind is FileKind.DIRECTORY and re.fullmatch(r"[0-9a-f]{64}\.\d{1,5}", entry.name):
                count += 1
                if count > MAX_DEPLOYMENTS:
                    return
                yield f"/ostree/deploy/{name.name}/deploy/{entry.name}"


def _made(files: GuestFiles, path: str) -> int:
    node = files.node(path)
    return 0 if node is None else node.birthtime_ns or node.ctime_ns


def _default(files: GuestFiles, found: Sequence[str], others: Sequence[FileSystem]) -> str | None:
    """The deployment of the entry with the highest version among all that name one of these."""
    best: tuple[int, str] | None = None
    by_inode = {node.inode: path for path in reversed(found) if (node := files.node(path)) is not None}
    for fs in (files.fs, *others):
        for version, link in _boot_entries(GuestFiles(fs)):
            target = files.node(link)  # /ostree/boot.1/NAME/CHECKSUM/0 is a link to the deployment
            path = by_inode.get(target.inode) if target is not None else None
            if path is not None and (best is None or version > best[0]):
                best = version, path
    return best[1] if best else None


def _boot_entries(files: GuestFiles) -> Iterator[tuple[int, str]]:
    """Version and ``ostree=`` of each entry of the boot loader that has both."""
    for folder in _ENTRIES:
        for entry in files.names(folder)[:MAX_ENTRIES]:
            text = files.text(f"{folder}/{entry.name}", MAX_ENTRY) if entry.name.endswith(".conf") else None
            link = re.search(r"(?m)^options\b.*?\sostree=(\S+)", text or "")
            version = re.search(r"(?m)^version\s+(\d{1,9})\s*$", text or "")
            if link:
                yield int(version[1]) if version else 0, link[1]


def filesystem_of(root: Root) -> FileSystem:
    """The root as a file system of its own. Raises as ``find`` does."""
    return root.base if root.folder == "/" else Below(root.base, find(root.base, root.folder))
