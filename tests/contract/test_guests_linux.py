"""Linux guests on real disks: what is found against what virt-inspector, findmnt, rpm and blkid say of the same disks.

The disks and what those programs say are made by scripts/images/guests-linux.sh.
"""

from __future__ import annotations

import json
import lzma
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contract.mounting import need, run
from mntapi.blocks import read
from mntapi.guests.files import read_text
from mntapi.guests.finder import find_guests
from mntapi.guests.types import Candidate, Family, Guest, MountKind
from mntapi.keys import Key, KeyKind, Keys, Secret
from mntapi.session.diskset import DiskSet, open_disks
from mntapi.types import FileSystem, OpenOptions, Volume, VolumeState

GOLDEN = Path(__file__).parents[1] / "golden" / "guests-linux"
DISKS = ("debian0", "debian1", "rocky0", "rocky1", "alpine")
PASSPHRASE = b"correct horse"


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("guests")
    for name in DISKS:
        (folder / name).write_bytes(lzma.decompress((GOLDEN / f"{name}.img.xz").read_bytes()))
    return {name: folder / name for name in DISKS}


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return json.loads((GOLDEN / "facts.json").read_text())


@contextmanager
def opened(*paths: Path, unlock: bool = True) -> Iterator[tuple[DiskSet, list[Guest]]]:
    keys = Keys((Key(KeyKind.PASSPHRASE, Secret(PASSPHRASE)),)) if unlock else Keys()
    with open_disks(*map(str, paths), options=OpenOptions(keys=keys)) as disk_set:
        yield disk_set, find_guests([candidate_of(disk_set, volume) for volume in disk_set.volumes])


def candidate_of(disk_set: DiskSet, volume: Volume) -> Candidate:
    def filesystem() -> FileSystem:
        return disk_set.filesystem(volume)

    return Candidate(volume, disk_set.content(volume).signature, filesystem)


def uuids_by_path(disk_set: DiskSet, guest: Guest) -> dict[str, str | None]:
    """The UUID of the file system that is mounted at each place."""
    found = {}
    for mount in guest.mounts:
        if mount.kind is MountKind.VOLUME:
            signature = disk_set.content(disk_set.volume(mount.volume or "")).signature
            found[mount.path] = signature.uuid if signature else None
    return found


def named(guests: list[Guest]) -> dict[str, Guest]:
    return {guest.details["id"]: guest for guest in guests}


SYSTEMS = {"debian": ("debian0", "debian1"), "rocky": ("rocky0", "rocky1"), "alpine": ("alpine",)}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_is_what_virt_inspector_says(name: str, disks: dict[str, Path], facts: dict[str, Any]) -> None:
    told = facts[name]["virt-inspector"]
    with opened(*(disks[disk] for disk in SYSTEMS[name])) as (_, guests):
        (guest,) = guests
        assert guest.family is Family.LINUX and told["name"] == "linux"
        assert told["distro"].startswith(guest.details["id"])
        assert told["product_name"] in (guest.product, guest.details["version"])
        assert (str(guest.major), str(guest.minor)) == (told["major_version"], told["minor_version"])
        assert (guest.hostname, guest.architecture) == (told["hostname"], told["arch"])
        places = {mount.path for mount in guest.mounts if mount.kind is MountKind.VOLUME}
        assert set(told["mountpoints"]) <= places, "it finds no PARTUUID of an MBR, and leaves out what is noauto"
        assert guest.reasons == ()


@pytest.mark.parametrize("name", ["debian", "rocky"])
def test_volumes_are_those_that_findmnt_names_in_the_guest(name: str, disks: dict[str, Path], facts: dict[str, Any]) -> None:
    """Its devices are the machine's that made the disks; blkid said which file system each had."""
    uuids = {re.sub("/vg--one-home--data$", "/vg--one-home--data", key): value for key, value in facts["uuids"].items()}
    uuids |= {"/dev/vg-one/home-data": uuids["/dev/mapper/vg--one-home--data"], "/dev/disk/by-label/BOOT": uuids["/dev/sdc1"]}
    wanted = {row["target"]: uuids[row["source"]] for row in facts[name]["findmnt"] if row["source"] in uuids}
    with opened(*(disks[disk] for disk in SYSTEMS[name])) as (disk_set, guests):
        assert uuids_by_path(disk_set, guests[0]) == wanted
        listed = {row["target"] for row in facts[name]["findmnt"]} - {"none"}
        assert {mount.path for mount in guests[0].mounts} == listed


def test_details_of_the_debian_system(disks: dict[str, Path]) -> None:
    with opened(disks["debian0"], disks["debian1"]) as (disk_set, guests):
        (guest,) = guests
        kinds = {mount.path: mount.kind for mount in guest.mounts if mount.kind is not MountKind.VOLUME}
        assert kinds == {
            "/gone": MountKind.MISSING,
            "/mnt": MountKind.NETWORK,
            "/srv/pub": MountKind.BIND,
            "/tmp": MountKind.VIRTUAL,
        }
        assert (guest.machine_id, guest.timezone) == ("0123456789abcdef0123456789abcdef", "Europe/Paris")
        assert guest.details["swap"] == "/dev/mapper/vg--one-swap" and guest.details["merged-usr"] == "yes"
        assert guest.installed_ns and guest.details["installed-from"] == "/var/log/installer/syslog"
        assert [user.home for user in guest.users if user.name == "ann"] == ["/home/ann"]
        assert [one.name for one in guest.applications()] == ["base-files", "base-passwd", "dash", "hostname"]
        home = next(mount.volume for mount in guest.mounts if mount.path == "/home")
        assert read_text(disk_set.filesystem(disk_set.volume(home or "")), "/ann/budget.ods", 100) == "budget\n"


def test_packages_as_rpm_lists_them(disks: dict[str, Path], facts: dict[str, Any]) -> None:
    with opened(disks["rocky0"], disks["rocky1"]) as (_, guests):
        found = [f"{one.name} {one.version} {one.publisher}" for one in guests[0].applications()]
        assert found == facts["rocky"]["rpm -qa"]


def test_packages_as_virt_inspector_lists_them(disks: dict[str, Path], facts: dict[str, Any]) -> None:
    wanted = [f"{name} {version}-r{release}" for name, _, version, release in facts["alpine"]["virt-inspector"]["applications"]]
    with opened(disks["alpine"]) as (_, guests):
        assert [f"{one.name} {one.version}" for one in guests[0].applications()] == wanted


def test_half_of_a_mirror_holds_the_same_system(disks: dict[str, Path]) -> None:
    with opened(disks["rocky0"], disks["rocky1"]) as (_, both), opened(disks["rocky1"]) as (_, half):
        assert half[0].volume == both[0].volume and half[0].hostname == "db.example.org"
        assert [mount.kind for mount in half[0].mounts] == [MountKind.VOLUME, MountKind.MISSING]


ORDERS = (
    DISKS,
    DISKS[::-1],
    ("alpine", "rocky1", "debian1", "debian0", "rocky0"),
    ("debian1", "alpine", "debian0", "rocky1", "rocky0"),
)


def test_all_three_at_once_in_any_order(disks: dict[str, Path]) -> None:
    """What the guests are and which volume is mounted where does not depend on the order in which the disks are given."""
    alone = {}
    for names in SYSTEMS.values():
        with opened(*(disks[name] for name in names)) as (_, guests):
            alone |= named(guests)
    for order in ORDERS:
        with opened(*(disks[name] for name in order)) as (_, guests):
            found = named(guests)
            assert set(found) == set(alone)
            for name, guest in found.items():
                assert without_doubts(guest) == without_doubts(alone[name]), order


def without_doubts(guest: Guest) -> Guest:
    return replace(guest, mounts=tuple(replace(mount, reason=None) for mount in guest.mounts))


def test_behind_a_lock_there_is_no_guest_and_the_volume_stays(disks: dict[str, Path]) -> None:
    with opened(disks["debian0"], disks["debian1"], unlock=False) as (disk_set, guests):
        assert guests == []
        assert VolumeState.ENCRYPTED in {disk_set.content(volume).state for volume in disk_set.volumes}


def test_a_system_put_on_a_disk_here_and_now(tmp_path: Path) -> None:
    """A root with all that is written by hand, in a partition beside one for /home; and what findmnt makes of its fstab."""
    need("mke2fs", "sfdisk", "findmnt")
    root, disk = tmp_path / "root", tmp_path / "disk.raw"
    for folder in ("etc", "usr/bin", "usr/lib", "home", "var/log"):
        (root / folder).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/lib/os-release").write_text('NAME="Arch Linux"\nPRETTY_NAME="Arch Linux"\nID=arch\nBUILD_ID=rolling\n')
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    (root / "etc/fstab").write_text("PARTLABEL=my\\040root / ext4 rw 0 1\n/dev/sda2 /home ext4 rw 0 2\n")
    (root / "etc/localtime").symlink_to("/usr/share/zoneinfo/Asia/Tokyo")
    shutil.copy("/bin/true", root / "usr/bin/sh")
    disk.write_bytes(b"")
    run("truncate", "-s", "24M", disk)
    subprocess.run(["sfdisk", "-q", disk], input=b'label: gpt\nsize=12M, name="my root"\nsize=8M\n', check=True)
    for number, offset, size, source in ((1, 1, 12, root), (2, 13, 8, None)):
        part = tmp_path / f"part{number}"
        run("mke2fs", "-q", "-t", "ext4", *(("-d", source) if source else ()), part, f"{size}M")
        run("dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={offset}", "conv=notrunc", "status=none")
    with opened(disk) as (disk_set, guests):
        (guest,) = guests
        assert [disk_set.volume(mount.volume or "").name for mount in guest.mounts] == ["disk0p1", "disk0p2"]
        assert [mount.reason for mount in guest.mounts] == [None, None]
        assert (guest.product, guest.build, guest.timezone) == ("Arch Linux", "rolling", "Asia/Tokyo")
        assert guest.architecture == run("uname", "-m").strip()
        told = json.loads(run("findmnt", "--tab-file", root / "etc/fstab", "--list", "-J", "-o", "SOURCE,TARGET"))
        assert [(mount.source, mount.path) for mount in guest.mounts] == [
            (row["source"], row["target"]) for row in told["filesystems"]
        ]
        assert read(disk_set.volumes[0].blocks, 0x438, 2) == b"\x53\xef"


def test_a_hostile_root_on_a_real_file_system(tmp_path: Path) -> None:
    """An fstab of 4 GiB, link loops, paths above the root: reasons with their places, and the rest is read."""
    need("mke2fs")
    root, image = tmp_path / "root", tmp_path / "root.img"
    (root / "etc").mkdir(parents=True)
    run("truncate", "-s", "4G", root / "etc/fstab")
    (root / "etc/hostname").write_bytes(b"\x1b]0;evil\x07box\n")
    (root / "etc/os-release").symlink_to("../../../../usr/lib/os-release")
    (root / "etc/machine-id").symlink_to("loop")
    (root / "etc/loop").symlink_to("machine-id")
    (root / "etc/localtime").symlink_to("../" * 100 + "usr/share/zoneinfo/UTC")
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/os-release").write_text("PRETTY_NAME=Odd\nNAME=Odd\n")
    (root / "usr/bin").symlink_to("/usr/../../usr/bin")
    (root / "bin").symlink_to("usr/bin")
    run("mke2fs", "-q", "-t", "ext4", "-d", root, image, "16M")
    with opened(image) as (_, guests):
        (guest,) = guests
        assert (guest.product, guest.hostname, guest.timezone) == ("Odd", "]0;evilbox", "UTC")
        assert (guest.machine_id, guest.architecture) == (None, None)
        assert guest.reasons[0].startswith("/etc/fstab: is too large") or guest.reasons[1].startswith(
            "/etc/fstab: is too large"
        )
        assert any("too many symbolic links" in reason and "/etc" in reason for reason in guest.reasons)
