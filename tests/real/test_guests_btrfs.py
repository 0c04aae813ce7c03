"""Systems on btrfs, found and put together from their subvolumes. Oracle: the kernel's mounts of the same subvolumes, put
together by hand as fstab says, and btrfs(8) on when a snapshot was made."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contract import guest_layouts as layouts
from contract.guest_layouts import (
    BTRFS,
    MINT_CREATED,
    Machine,
    by_kernel,
    loop,
    make_by_hand,
    make_fedora,
    make_mint,
    make_suse,
    on,
)
from contract.kernel_tree import check_mounted, listing
from contract.luks_maker import PASSPHRASE, encrypted, needs_cryptsetup
from contract.mounting import run
from mntapi.units import MIB

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], Machine]], Machine]:
    """Makes each machine once."""
    made: dict[Callable[[Path], Machine], Machine] = {}

    def make(how: Callable[[Path], Machine]) -> Machine:
        if how not in made:
            made[how] = how(tmp_path_factory.mktemp(how.__name__))
        return made[how]

    return make


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Callable[[Machine], Path]]:
    """The machine's tree as its kernel would mount it."""
    with ExitStack() as undo:
        yield lambda one: undo.enter_context(by_kernel(one, tmp_path / "by-kernel"))


FACTS = Path(__file__).parents[1] / "golden" / "guests-layouts" / "facts.json"
NOWHERE = "home/.snapshots/1/snapshot/.snapshots"
"""Where a subvolume lay when it was snapshotted. The kernel shows an empty folder there, changed just now."""


def places(guest: dict[str, object]) -> dict[str, tuple[str, str | None]]:
    return {mount["path"]: (mount["kind"], mount["subvolume"]) for mount in guest["mounts"]}  # type: ignore[attr-defined]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("make", [make_suse, make_fedora, make_mint])
def test_a_system_is_what_virt_inspector_says(mntapi, machine, make) -> None:
    """Its facts are from scripts/images/guests-layouts.py. Snapshots are systems to it; here they are what the one was."""
    [guest] = mntapi.json("info", machine(make).disk)["guests"]
    first, *others = json.loads(FACTS.read_text())[make.__name__.removeprefix("make_")]["systems"]
    assert [guest[key] for key in ("family", "architecture", "product", "hostname")] == [
        first[key] for key in ("name", "arch", "product_name", "hostname")
    ]
    assert (str(guest["major"]), str(guest["minor"] or 0)) == (first["major_version"], first["minor_version"])
    told = {path: re.sub("^btrfsvol:/dev/sd[a-z][0-9]/+", "", device) for path, device in first["mountpoints"].items()}
    told = {path: subvolume for path, subvolume in told.items() if not subvolume.startswith("/dev/")}
    found = {path: subvolume for path, (_, subvolume) in places(guest).items() if subvolume is not None}
    assert told.items() <= found.items() and first["mountpoints"].keys() == places(guest).keys()
    hashes = {one["sha256"] for one in mntapi.json("versions", machine(make).disk, "/etc/hostname")[1:]}
    assert {sha256(f"{one['hostname']}\n") for one in others} <= hashes


def encrypt(machine: Machine, uuid: str) -> Path:
    """The same Fedora, its btrfs in LUKS, as Anaconda does it: a new disk. The passphrase is that of ``luks_maker``."""
    plain, disk = machine.disk.with_name("plain"), machine.disk.with_name("luks.raw")
    offset, size = machine.mounts[0].offset, machine.mounts[0].size
    run("dd", f"if={machine.disk}", f"of={plain}", "bs=1M", f"skip={offset // MIB}", f"count={size // MIB}", "status=none")
    with loop(plain, 0, size) as device, on(device, machine.disk.with_name("making"), "subvol=root") as top:
        fstab = top / "etc/fstab"
        fstab.write_text(fstab.read_text().replace(f"UUID={machine.uuids['root']}", f"/dev/mapper/luks-{uuid}"))
        (top / "etc/crypttab").write_text(f"luks-{uuid} UUID={uuid} none discard\n")
    content = plain.read_bytes()
    encrypted(plain, "--uuid", uuid, content=content)
    shutil.copy(machine.disk, disk)
    sectors = (offset + plain.stat().st_size) // MIB + 2
    os.truncate(disk, sectors * MIB)
    run("sfdisk", "--quiet", "--force", disk, stdin="label: gpt\nsize=8M, type=linux\ntype=linux\n")
    run("dd", f"if={plain}", f"of={disk}", "bs=1M", f"seek={offset // MIB}", "conv=notrunc", "status=none")
    plain.unlink()
    return disk


@needs_cryptsetup
def test_fedora_in_luks(mntapi, mounted, machine, kernel, tmp_path: Path) -> None:
    fedora = machine(make_fedora)
    disk = encrypt(fedora, "11111111-2222-4333-8444-555555555555")
    (tmp_path / "key").write_bytes(PASSPHRASE)
    key = ("--key", f"*:{tmp_path}/key")
    [guest] = mntapi.json("info", *key, disk)["guests"]
    assert places(guest) == {"/": ("volume", "root"), "/boot": ("volume", None), "/home": ("volume", "home")}
    assert {mount["reason"] for mount in guest["mounts"]} == {None}
    assert guest["mounts"][0]["source"] == "/dev/mapper/luks-11111111-2222-4333-8444-555555555555"
    changed = ["etc/fstab", "etc/crypttab", "etc"]
    check_mounted(mounted(*key, disk), kernel(fedora), ours=changed)
    assert mntapi.json("info", disk)["guests"] == []


def test_suse(mntapi, mounted, machine, kernel) -> None:
    suse = machine(make_suse)
    info = mntapi.json("info", suse.disk)
    [guest] = info["guests"]
    told = [guest[key] for key in ("family", "product", "major", "minor", "hostname", "os_folder", "reasons")]
    assert told == ["linux", "openSUSE Leap 15.6", 15, 6, "leap3", "/", []]
    want = {f"/{one.place}": ("volume", one.options.removeprefix("subvol=")) for one in suse.mounts[1:]}
    assert places(guest) == {"/": ("volume", "@/.snapshots/1/snapshot"), **want}
    assert set(info["volumes"][1]["mount_points"]) == set(want) | {"/"}
    top, oracle = mounted(suse.disk), kernel(suse)
    ours = ["volumes", "@2026-10-15T09:00:00Z", "@2026-10-15T09:00:07Z", "home/@2026-10-20T10:00:00Z"]
    check_mounted(top, oracle, ours=[*ours, NOWHERE])
    assert os.listdir(top / NOWHERE) == os.listdir(oracle / NOWHERE) == []
    for number, name in ((2, ours[1]), (3, ours[2])):
        assert (top / name / "etc/hostname").read_text() == (oracle / f".snapshots/{number}/snapshot/etc/hostname").read_text()
        assert os.path.realpath(top / name / "etc/localtime") == f"{top}/{name}/usr/share/zoneinfo/Europe/Berlin"
        assert (top / name / "etc/localtime").read_bytes() == b"TZif2"
    assert (top / ours[3] / "ann/zone").read_bytes() == b"TZif2"


def test_versions_of_a_file_in_snappers_snapshots(mntapi, machine, kernel) -> None:
    suse = machine(make_suse)
    oracle = kernel(suse)
    found = mntapi.json("versions", suse.disk, "/etc/hostname")
    assert [one["version"] for one in found] == ["live", "@2026-10-15T09:00:07Z", "@2026-10-15T09:00:00Z"]
    files = [oracle / "etc/hostname", *(oracle / f".snapshots/{number}/snapshot/etc/hostname" for number in (3, 2))]
    assert [one["sha256"] for one in found] == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert [one["size"] for one in found] == [file.stat().st_size for file in files]
    assert [one["mtime_ns"] for one in found] == [file.stat().st_mtime_ns for file in files]
    assert [one["differs_from_next"] for one in found] == [True, True, None]
    assert [mntapi("cat", suse.disk, one["path"]).stdout for one in found] == ["leap3\n", "leap2\n", "leap1\n"]
    assert mntapi.json("versions", suse.disk, found[1]["path"]) == found
    live, old = mntapi.json("versions", suse.disk, "/home/ann/mail")
    assert (live["sha256"], old["sha256"]) == (sha256("you have more mail\n"), sha256("you have mail\n"))
    assert old["path"] == "/home/@2026-10-20T10:00:00Z/ann/mail"
    assert mntapi.json("versions", suse.disk, old["path"]) == [live, old]
    assert len(mntapi.json("versions", suse.disk, "/var/log/messages")) == 1


def test_suse_rolled_back(mntapi, mounted, kernel, tmp_path: Path) -> None:
    suse = make_suse(tmp_path)
    layouts.roll_back(suse)
    [guest] = mntapi.json("info", suse.disk)["guests"]
    assert (guest["hostname"], places(guest)["/"]) == ("leap-rolled-back", ("volume", "@/.snapshots/5/snapshot"))
    labels = [one["version"] for one in mntapi.json("versions", suse.disk, "/etc/hostname")]
    assert labels == [
        "live",
        "@2026-11-02T12:00:04Z",
        "@2026-10-15T09:00:07Z",
        "@2026-10-15T09:00:00Z",
        "@2026-10-01T08:30:00Z",
    ]
    check_mounted(mounted(suse.disk), kernel(suse), ours=["volumes", "home/@2026-10-20T10:00:00Z", *labels[1:], NOWHERE])


def test_fedora(mntapi, mounted, machine, kernel) -> None:
    fedora = machine(make_fedora)
    info = mntapi.json("info", fedora.disk)
    [guest] = info["guests"]
    told = [guest[key] for key in ("product", "edition", "major", "hostname", "snapshots", "reasons")]
    assert told == ["Fedora Linux 40 (Server Edition)", "Server Edition", 40, "fedora.example.org", [], []]
    assert places(guest) == {"/": ("volume", "root"), "/boot": ("volume", None), "/home": ("volume", "home")}
    assert [volume["mount_points"] for volume in info["volumes"]] == [["/boot"], ["/", "/home"]]
    top = mounted(fedora.disk)
    check_mounted(top, kernel(fedora))
    assert (top / "disk0p2/root/etc/hostname").read_text() == "fedora.example.org\n"
    assert sorted(os.listdir(top / "disk0p2")) == ["home", "root"]


def test_mint(mntapi, mounted, machine, kernel) -> None:
    mint = machine(make_mint)
    [guest] = mntapi.json("info", mint.disk)["guests"]
    assert (guest["product"], guest["hostname"]) == ("Linux Mint 22", "mint3")
    assert places(guest) == {"/": ("volume", "@"), "/home": ("volume", "@home")}
    old = ["@2026-11-01T02:00:00Z", "@2026-11-08T02:00:00Z"]
    top, oracle = mounted(mint.disk), kernel(mint)
    check_mounted(top, oracle, ours=["volumes", "@2026-09-01T02:00:00Z", *old, *(f"home/{name}" for name in old)])
    found = mntapi.json("versions", mint.disk, "/etc/hostname")
    assert [one["version"] for one in found] == ["live", old[1], old[0], "@2026-09-01T02:00:00Z"]
    assert [one["sha256"] for one in found] == [sha256(f"mint{number}\n") for number in (3, 2, 1, 0)]
    assert [one["time_ns"] for one in found[1:3]] == [(MINT_CREATED + days * 86400) * 10**9 for days in (7, 0)]
    with loop(mint.disk, MIB, BTRFS * MIB, "--read-only") as device, on(device, mint.disk.with_name("top"), "ro") as volume:
        for label, date in zip(old, ("2026-11-01_02-00-00", "2026-11-08_02-00-00"), strict=True):
            kept = volume / "timeshift-btrfs/snapshots" / date
            assert listing(top / label) == listing(kept / "@") and listing(top / "home" / label) == listing(kept / "@home")
            assert (top / label / "etc/hostname").read_text() == (kept / "@/etc/hostname").read_text()
            assert (top / label / "etc/localtime").read_bytes() == b"TZif2"
    mail = mntapi.json("versions", mint.disk, "/home/ann/mail")
    assert [one["sha256"] for one in mail] == [sha256(text) for text in ("more\nmore\n", "more\n", "you have mail\n")]


def test_what_was_set_up_by_hand(mntapi, mounted, machine, kernel) -> None:
    hand = machine(make_by_hand)
    first, second = mntapi.json("info", hand.disk)["guests"]
    assert (first["hostname"], second["hostname"]) == ("by-hand-now", "second")
    assert places(first)["/"] == ("volume", "systems/live") and places(first)["/home"] == ("volume", "data")
    [gone] = [mount for mount in first["mounts"] if mount["path"] == "/gone"]
    assert "there is no subvolume absent" in gone["reason"]
    top, oracle = mounted(hand.disk), kernel(hand)
    shots = {point["subvolume"]: point["time_ns"] for guest in (first, second) for point in guest["snapshots"]}
    with (
        loop(hand.disk, MIB, BTRFS * MIB, "--read-only") as device,
        on(device, hand.disk.with_name("top"), "subvolid=5") as volume,
    ):
        assert shots.keys() == {"snaps/first", "snaps/data", "other-copy"}
        for path, time_ns in shots.items():
            told = run("btrfs", "subvolume", "show", volume / path)
            created = next(line.split(":", 1)[1].strip() for line in told.splitlines() if "Creation time" in line)
            assert run("date", "-u", "-d", created, "+%s").strip() == str(time_ns // 10**9)
        assert os.listdir(top / "guest0/srv") == ["inner"] == os.listdir(volume / "data/a/b")
        assert (top / "guest0/srv/inner/file").read_bytes() == (volume / "data/a/b/inner/file").read_bytes()
        assert (top / "guest0/srv/inner/link").read_text() == "by-hand-now\n"
        labels = [name for name in os.listdir(top / "guest0") if name.startswith("@")]
        assert len(labels) == 1 and (top / "guest0" / labels[0] / "etc/hostname").read_text() == "by-hand\n"
    home = [f"home/{name}" for name in os.listdir(top / "guest0/home") if name.startswith("@")]
    check_mounted(top / "guest0", oracle, ours=[*labels, *home, "srv", "gone"])
    assert os.getxattr(top / "guest0/gone", "user.mntapi.reason") == b"missing-subvolume"
    with pytest.raises(OSError, match="not supported"):
        os.listdir(top / "guest0/gone")
    assert (top / "guest1/etc/localtime").read_bytes() == b"TZif2"


def test_a_clone_keeps_to_its_own_disk(mntapi, machine, tmp_path: Path) -> None:
    """The same UUIDs on both disks: what each guest mounts is on the disk that it lies on itself."""
    original = machine(make_fedora).disk
    clone = shutil.copy(original, tmp_path / "clone.raw")
    guests = mntapi.json("info", original, "-d", clone)["guests"]
    volumes = [{mount["volume"] for mount in guest["mounts"] if mount["volume"]} for guest in guests]
    assert len(guests) == 2 and all(volumes) and not volumes[0] & volumes[1]
