"""Linux systems put together from volumes: unusual layouts, points in time, several systems at once, and hostile ones."""

from __future__ import annotations

import dataclasses
import tracemalloc
import uuid
from collections.abc import Sequence

import pytest

from contract.guest_volumes import candidate
from contract.memory_btrfs import MemoryBtrfs
from contract.memory_filesystem import Memory, MemoryFileSystem
from mntapi.errors import Corrupt, ReadFailed
from mntapi.guests import finder
from mntapi.guests.finder import find_guests, is_snapshot
from mntapi.guests.linux import discoverable, roots
from mntapi.guests.linux.discoverable import ESP, VAR, XBOOTLDR, var_uuid
from mntapi.guests.types import Candidate, Family, Guest, MountKind, MountPoint
from mntapi.types import Node, VolumeState
from mntapi.units import GIB, KIB, MIB

MACHINE = "0123456789abcdef0123456789abcdef"
OS = b'NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12"\nID=debian\nVERSION_ID="12"\n'


def system(**more: object) -> dict[str, object]:
    """A root with little in it; ``more`` are files of ``/etc`` where they are bytes, else of ``/``."""
    etc: dict[str, object] = {"os-release": OS, "hostname": b"box\n", "machine-id": MACHINE.encode()}
    tree: dict[str, object] = {"etc": etc, "usr": {}, "bin": "usr/bin", "lib": "usr/lib"}
    for name, value in more.items():
        (etc if isinstance(value, bytes) else tree)[name] = value
    return tree


def only(candidates: Sequence[Candidate]) -> Guest:
    (guest,) = find_guests(candidates)
    return guest


def places(guest: Guest) -> dict[str, tuple[str | None, str]]:
    return {mount.path: (mount.volume, mount.folder) for mount in guest.mounts}


def test_separate_usr_and_var_are_looked_into() -> None:
    root = {
        "etc": {"os-release": "../usr/lib/os-release", "fstab": b"UUID=u /usr ext4\nUUID=v /var ext4\n"},
        "usr": {},
        "var": {},
    }
    root["bin"] = "usr/bin"
    usr = {"lib": {"os-release": OS}, "bin": {"sh": b"\x7fELF\2\1" + bytes(12) + b"\xb7\0"}}
    var = {"lib": {"dbus": {"machine-id": MACHINE.encode()}, "dpkg": {"status": b"Package: a\nVersion: 1\n"}}}
    guest = only([candidate(root, "mbr:1-01"), candidate(usr, "mbr:1-02", uuid="u"), candidate(var, "mbr:1-03", uuid="v")])
    assert (guest.product, guest.architecture, guest.machine_id) == ("Debian GNU/Linux 12", "aarch64", MACHINE)
    assert [one.name for one in guest.applications()] == ["a"]
    assert places(guest) == {"/": ("mbr:1-01", "/"), "/usr": ("mbr:1-02", "/"), "/var": ("mbr:1-03", "/")}


def test_what_the_guest_says_of_its_root_may_contradict() -> None:
    copy = candidate(system(fstab=b"UUID=one / ext4\n"), "mbr:2-01", disk=1, uuid="two")
    original = candidate(system(fstab=b"UUID=one / ext4\n"), "mbr:1-01", uuid="one")
    guests = find_guests([original, copy])
    assert [guest.mounts[0].reason for guest in guests] == [
        None,
        "by its fstab the root is UUID=one, which is disk0p1: this may be a copy of it",
    ]
    alone = only([copy])
    assert (alone.mounts[0].reason or "").startswith("by its fstab the root is UUID=one, which this may be or not")
    assert alone.mounts[0].volume == "mbr:2-01"


def test_all_systems_of_a_set_in_the_order_of_their_volumes() -> None:
    windowsless = [candidate(system(), f"mbr:1-0{n}", uuid=str(n)) for n in (3, 1, 2)]
    assert [guest.volume for guest in find_guests(windowsless)] == ["mbr:1-03", "mbr:1-01", "mbr:1-02"]


def test_snapshots_of_volumes_hold_no_guests() -> None:
    old = candidate(system(), "lvm:2", kind="lvm", details={"segments": "snapshot"})
    shadow = candidate(system(), "vss:2", kind="vss")
    assert is_snapshot(old.volume) and is_snapshot(shadow.volume)
    assert only([old, shadow, candidate(system(), "lvm:1", kind="lvm")]).volume == "lvm:1"


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"etc": {"os-release": OS}},
        {"usr": {}, "etc": {"ssh": {}}},
        {"lib": {}, "bin": {}},
        {"EFI": {"debian": {}}},
        {"lost+found": {}, "grub": {}, "loader": {"entries": {}}},
    ],
)
def test_what_is_no_root(content: dict[str, object]) -> None:
    assert find_guests([candidate(content, "mbr:1-01")]) == []


def test_volumes_without_a_reader_and_broken_ones_are_left_out() -> None:
    class Broken(MemoryFileSystem):
        def lookup(self, directory: Node, name: str) -> Node:
            raise ReadFailed("cannot be read", offset=0)

    good = candidate(system(), "mbr:1-03")
    assert only([candidate(None, "mbr:1-01", fs_kind="xfs"), candidate(Broken({}), "mbr:1-02"), good]).volume == "mbr:1-03"


def test_subvolumes_of_btrfs() -> None:
    fstab = b"UUID=b / btrfs subvol=@\nUUID=b /home btrfs subvol=/@home\nUUID=b /var btrfs subvolid=258\n"
    top = MemoryBtrfs({"@": system(fstab=fstab, home={}, var={}), "@home": {"ann": {}}}, ["@", "@home"])
    guest = only([candidate(top, "mbr:1-01", uuid="b", fs_kind="btrfs")])
    assert [(mount.path, mount.subvolume) for mount in guest.mounts] == [("/", "@"), ("/home", "@home"), ("/var", "id:258")]
    assert guest.hostname == "box"
    flat = MemoryBtrfs({"etc": system()["etc"], "usr": {}})
    assert only([candidate(flat, "mbr:1-01", fs_kind="btrfs")]).mounts[0].subvolume == "/"


FIRST, SECOND = "a" * 64 + ".0", "b" * 64 + ".1"


def deployed(*, boot: dict[str, object] | None = None) -> dict[str, object]:
    fstab = b"UUID=boot /boot ext4 defaults 1 2\n" if boot is None else b"# nothing\n"
    one = {"etc": {"os-release": "../usr/lib/os-release", "fstab": fstab}, "usr": {"lib": {"os-release": OS}}}
    one |= {"var": {}, "sysroot": {}, "boot": {}, "ostree": "sysroot/ostree", "home": "var/home"}
    two = {**one, "etc": {**one["etc"], "hostname": b"newer\n"}}  # type: ignore[dict-item]
    link = {f"{name * 64}": {"0": f"../../../deploy/fedora/deploy/{target}"} for name, target in (("1", FIRST), ("2", SECOND))}
    fedora = {"deploy": {FIRST: one, SECOND: two, f"{SECOND}.origin": b""}, "var": {"home": {"ann": {}}}}
    ostree = {"deploy": {"fedora": fedora}, "boot.1": "boot.1.1", "boot.1.1": {"fedora": link}, "repo": {}}
    return {"ostree": ostree, "boot": boot or {}}


def entry(version: int, bootcsum: str) -> bytes:
    return (
        f"title Fedora\nversion {version}\noptions root=UUID=r rw ostree=/ostree/boot.1/fedora/{bootcsum * 64}/0 quiet\n"
        "linux /ostree/vmlinuz\n"
    ).encode()


def test_the_default_deployment_is_that_of_the_highest_entry() -> None:
    entries = {"ostree-1.conf": entry(1, "1"), "ostree-2.conf": entry(2, "2"), "other.conf": b"title x\nversion 9\n", "x": b""}
    boot = candidate({"loader": "loader.1", "loader.1": {"entries": entries}}, "mbr:1-01", uuid="boot")
    guest = only([boot, candidate(deployed(), "mbr:1-02", uuid="r")])
    assert guest.os_folder == f"/ostree/deploy/fedora/deploy/{SECOND}"
    assert (guest.hostname, guest.details["default-deployment"], guest.details["deployments"]) == (
        "newer",
        f"fedora {SECOND}",
        "2",
    )
    assert places(guest) == {
        "/": ("mbr:1-02", guest.os_folder),
        "/boot": ("mbr:1-01", "/"),
        "/sysroot": ("mbr:1-02", "/"),
        "/var": ("mbr:1-02", "/ostree/deploy/fedora/var"),
    }
    assert "default-deployment-from" not in guest.details


def test_entries_on_the_same_volume() -> None:
    entries = {"ostree-1.conf": entry(2, "1"), "ostree-2.conf": entry(1, "2"), "none.conf": entry(7, "3")}
    guest = only([candidate(deployed(boot={"loader": {"entries": entries}}), "mbr:1-02")])
    assert guest.os_folder.endswith(FIRST)
    assert places(guest)["/boot"] == ("mbr:1-02", "/boot")


def test_without_entries_the_newest_deployment_is_taken_and_said_to_be() -> None:
    fs = MemoryFileSystem(deployed(), metadata={FIRST: {"ctime_ns": 9}, SECOND: {"ctime_ns": 8}})
    guest = only([candidate(fs, "mbr:1-02")])
    assert guest.os_folder.endswith(FIRST)
    assert guest.details["default-deployment-from"] == "no boot entry names one of them; this is the newest"


def test_deployments_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "MAX_DEPLOYMENTS", 1)
    assert only([candidate(deployed(), "mbr:1-02")]).details["deployments"] == "1"


def nixos(*, with_etc: bool) -> dict[str, object]:
    etc = {"os-release": b'NAME=NixOS\nID=nixos\nVERSION_ID="23.11"\n', "fstab": b"UUID=n / ext4\n"}
    store = {"xxx-system": {"etc": "/nix/store/yyy-etc/etc", "sw": {}}, "yyy-etc": {"etc": etc}}
    profiles = {"system": "system-42-link", "system-42-link": "/nix/store/xxx-system"}
    tree: dict[str, object] = {"nix": {"store": store, "var": {"nix": {"profiles": profiles}}}}
    if with_etc:
        tree["etc"] = {"NIXOS": b"", "static": "/nix/store/yyy-etc/etc", "os-release": "static/os-release", "passwd": b""}
        tree["usr"] = {"bin": {}}
    return tree


@pytest.mark.parametrize("with_etc", [True, False])
def test_nixos(with_etc: bool) -> None:
    guest = only([candidate(nixos(with_etc=with_etc), "mbr:1-01", uuid="n")])
    assert (guest.product, guest.major, guest.vendor) == ("NixOS 23.11", 23, "NixOS Foundation")
    assert (guest.details["layout"], guest.details["default-deployment"]) == ("nixos", "system-42-link")


def test_merged_usr_is_noted() -> None:
    assert only([candidate(system(), "mbr:1-01")]).details["merged-usr"] == "yes"
    assert "merged-usr" not in only([candidate({**system(), "bin": {}}, "mbr:1-01")]).details


def test_systemd_units_and_masks() -> None:
    units = {
        "data.mount": b"[Mount]\nWhat=UUID=d\nWhere=/data\nType=ext4\n",
        "home.mount": "/dev/null",
        "local-fs.target.wants": {"data.mount": b""},
    }
    tree = system(fstab=b"UUID=h /home ext4\nUUID=x /data xfs\nUUID=s none swap\n", data={})
    tree["etc"]["systemd"] = {"system": units}  # type: ignore[index]
    vendor = {"tmp.mount": b"[Mount]\nWhat=tmpfs\nWhere=/tmp\nType=tmpfs\n", "sysinit.target.wants": {"tmp.mount": b""}}
    tree["usr"] = {"lib": {"systemd": {"system": vendor}}}
    guest = only([candidate(tree, "mbr:1-01"), candidate({}, "mbr:1-02", uuid="d"), candidate({}, "mbr:1-03", uuid="h")])
    assert [(mount.path, mount.source) for mount in guest.mounts] == [("/", ""), ("/data", "UUID=d"), ("/tmp", "tmpfs")]
    assert guest.details["swap"] == "UUID=s"


def gpt(content: dict[str, object], number: int, type_code: str, identifier: str | None = None, disk: int = 0) -> Candidate:
    key = identifier or str(uuid.UUID(int=number))
    return candidate(content, f"gpt:{key}", name=f"disk{disk}p{number}", disk=disk, type_code=type_code)


HOME, SRV, TMP = (
    next(code for code, path in discoverable.PLACES.items() if path == place) for place in ("/home", "/srv", "/var/tmp")
)
DISCOVERABLE = [
    gpt(system(home={}, srv={"full": b""}, boot={}, efi={}), 1, "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    gpt({}, 2, HOME),
    gpt({}, 3, HOME),
    gpt({}, 4, SRV),
    gpt({}, 5, VAR, str(var_uuid(MACHINE))),
    gpt({}, 6, TMP),
    gpt({}, 7, XBOOTLDR),
    gpt({}, 8, ESP),
    gpt({}, 9, discoverable.USR["x86_64"], disk=1),
]


def test_discoverable_partitions() -> None:
    found = {mount.path: mount.volume for mount in only(DISCOVERABLE).mounts}
    numbers = {path: int(volume.rpartition("-")[2], 16) for path, volume in found.items() if volume and path != "/var"}
    assert numbers == {"/": 1, "/home": 2, "/var/tmp": 6, "/boot": 7, "/efi": 8}
    assert found["/var"] == f"gpt:{var_uuid(MACHINE)}"


def test_a_var_of_another_machine_and_an_esp_without_a_folder() -> None:
    found = {mount.path: mount.volume for mount in only([DISCOVERABLE[0], gpt({}, 5, VAR), DISCOVERABLE[7]]).mounts}
    assert list(found) == ["/", "/efi"]
    without = gpt(system(boot={}), 1, "x")
    assert [mount.path for mount in only([without, DISCOVERABLE[7]]).mounts] == ["/", "/boot"]
    with_boot = [mount.path for mount in only([without, *DISCOVERABLE[6:8]]).mounts]
    assert with_boot == ["/", "/boot", "/efi"]


def test_an_fstab_takes_places_and_volumes_and_leaves_the_others() -> None:
    """As systemd-gpt-auto-generator(8) does it: what is named is not mounted by its type too."""
    fstab = f"UUID=x /srv ext4\nPARTUUID={uuid.UUID(int=6)} /data ext4\n".encode()
    root = gpt(system(fstab=fstab, home={}, srv={}, data={}), 1, "x")
    other = candidate({}, "mbr:1-01", uuid="x")
    found = {mount.path: mount.volume for mount in only([root, other, *DISCOVERABLE[1:6]]).mounts}
    assert list(found) == ["/", "/data", "/home", "/srv", "/var"]
    assert found["/srv"] == "mbr:1-01" and found["/data"] == DISCOVERABLE[5].volume.id
    assert found["/home"] == DISCOVERABLE[1].volume.id


def test_a_folder_that_cannot_be_read_is_not_taken_for_empty() -> None:
    root = gpt(system(home={"<unreadable>": b""}), 1, "x")
    guest = only([root, DISCOVERABLE[1]])
    assert [mount.path for mount in guest.mounts] == ["/"]
    assert guest.reasons == ("/home: cannot be read: injected fault (at byte 4096)",)


INFO = b"""<?xml version="1.0"?>
<snapshot>
  <type>pre</type>
  <num>3</num>
  <date>2026-11-01 02:00:00</date>
  <description>zypp(zypper) &lt;x&gt;</description>
</snapshot>
"""


def test_snappers_points_in_time() -> None:
    tree = system(
        fstab=b"UUID=b / btrfs subvol=@\nUUID=b /.snapshots btrfs subvol=@/.snapshots\nUUID=b /home btrfs subvol=@home\n"
    )
    tree[".snapshots"] = {}
    tree["home"] = {}
    tree["etc"]["snapper"] = {"configs": {"home": b'SUBVOLUME="/home"\n', "root": b'SUBVOLUME="/"\n', "bad": b"SUBVOLUME=x\n"}}  # type: ignore[index]
    kept = {"3": {"info.xml": INFO, "snapshot": {}}, "4": {"info.xml": b"<date>2026-19-01 00:00:00</date>", "snapshot": {}}}
    kept |= {"5": {"snapshot": {}}, "grub-snapshot.cfg": b"", "6": {"info.xml": INFO}}
    tree["@unused"] = {}
    home = {".snapshots": {"1": {"info.xml": b"nonsense", "snapshot": {}}}}
    paths = ["@/.snapshots", "@/.snapshots/3/snapshot", "@/.snapshots/4/snapshot", "@home/.snapshots/1/snapshot"]
    fs = MemoryBtrfs({"@": {**tree, ".snapshots": kept}, "@home": home}, ["@", "@home", *paths])
    guest = only([candidate(fs, "mbr:1-01", uuid="b", fs_kind="btrfs")])
    first, second, third = guest.snapshots
    assert (first.path, first.volume, first.subvolume, first.folder) == ("/", "mbr:1-01", "@/.snapshots/3/snapshot", "/")
    assert (first.time_ns, first.description) == (1_793_498_400_000_000_000, "zypp(zypper) <x>")
    assert (second.subvolume, second.time_ns) == ("@/.snapshots/4/snapshot", None)
    assert (third.path, third.subvolume) == ("/home", "@home/.snapshots/1/snapshot")
    assert guest.details["snapshots"] == "3"


def test_snapshots_in_folders_and_those_without_a_place() -> None:
    plain = system()
    plain[".snapshots"] = {"1": {"info.xml": INFO, "snapshot": {}}}
    (found,) = only([candidate(plain, "mbr:1-01")]).snapshots
    assert (found.folder, found.subvolume) == ("/.snapshots/1/snapshot", None)
    elsewhere = system(fstab=b"nas:/x /.snapshots nfs\n")
    elsewhere[".snapshots"] = {"1": {"info.xml": INFO, "snapshot": {}}}
    assert only([candidate(elsewhere, "mbr:1-01")]).snapshots == ()


def test_timeshifts_points_in_time() -> None:
    def kept(info: bytes) -> dict[str, object]:
        return {"info.json": info, "localhost": system()}

    points = {
        "2026-11-01_02-00-00": kept(b'{"created": "1793498400", "sys-uuid": "r", "comments": "before\\u001b[2J"}'),
        "2026-11-02_02-00-00": kept(b'{"created": "soon", "sys-uuid": "r"}'),
        "other": kept(b'{"sys-uuid": "q"}'),
        "broken": kept(b'{"sys-uuid": '),
        "deep": kept(b"[" * 60_000),
        "list": kept(b"[1]"),
        "no-copy": {"info.json": b"{}"},
    }
    backup = candidate({"timeshift": {"snapshots": points}}, "mbr:1-02")
    guest = only([candidate(system(), "mbr:1-01", uuid="r"), backup])
    first, second = guest.snapshots
    assert (first.path, first.volume, first.folder) == ("/", "mbr:1-02", "/timeshift/snapshots/2026-11-01_02-00-00/localhost")
    assert (first.time_ns, first.description, second.time_ns) == (1_793_498_400_000_000_000, "before[2J", None)


class Endless(Memory):
    """A file of 4 GiB that is not to be read."""

    def __init__(self) -> None:
        super().__init__(b"")
        self.size = 4 * GIB

    def readinto(self, offset: int, buffer: memoryview) -> None:
        raise AssertionError("nobody may read this")


def hostile() -> dict[str, object]:
    lines = [b"UUID=u /../../../../%d ext4 subvol=../../..\n" % number for number in range(3000)]
    fstab = b"".join(lines) + b"/dev/mapper/x /a\\000 ext4\n" + b"LABEL=" + b"x" * 100_000 + b" /long ext4\n"
    etc = {
        "fstab": fstab,
        "os-release": "../../../../etc/os-release",
        "hostname": b"\x1b]0;pwned\x07\x1b[2J" + b"h" * 5000,
        "machine-id": "machine-id",
        "localtime": "/../../../usr/share/zoneinfo/../../../../etc/shadow\x1b[31m",
        "passwd": b"a:b:1:1::/:\n" * 50_000,
        "crypttab": Endless(),
        "mdadm.conf": b"ARRAY " * 10_000,
        "systemd": {"system": {f"{n}.wants": {f"{n}.mount": b"[Mount]\nWhat=x\nWhere=/y\n"} for n in range(300)}},
        "snapper": {"configs": {"a": b"SUBVOLUME=/" + b"../" * 10_000}},
    }
    return {
        "etc": etc,
        "usr": "usr",
        "bin": "/bin/../bin",
        "sbin": "../../../../sbin",
        "var": {"log": {"wtmp": b"\xff" * (2 * MIB + 7)}},
        ".snapshots": {str(n): {"info.xml": b"<date>" * 100, "snapshot": {}} for n in range(100)},
        "timeshift": {"snapshots": {"x": {"info.json": b'{"created": NaN}', "localhost": {}}}},
        "boot": {"loader": {"entries": {"x.conf": b"options " + b" ostree=" * 5000}}},
    }


class Counting(MemoryFileSystem):
    """Counts what is asked of it."""

    asked = 0

    def lookup(self, directory: Node, name: str) -> Node:
        self.asked += 1
        return super().lookup(directory, name)


def test_a_hostile_guest_costs_little_and_says_what_is_wrong() -> None:
    fs = Counting(hostile())
    volumes = [candidate(fs, "mbr:1-01"), candidate({}, "mbr:1-02", uuid="u")]
    tracemalloc.start()
    guest = only(volumes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * MIB, peak
    assert fs.asked < 20_000, fs.asked
    assert guest.hostname == ("]0;pwned[2J" + "h" * 5000)[:256]
    assert len(guest.users) == 4096 and guest.product is None and guest.machine_id is None
    assert any(reason.startswith("/etc/crypttab: is too large") for reason in guest.reasons)
    assert any("too many symbolic links" in reason for reason in guest.reasons)
    assert len(guest.reasons) < 100
    assert all(mount.path == "/" or ".." not in mount.path for mount in guest.mounts)


def test_an_fstab_of_four_gib_is_a_reason() -> None:
    tree = system()
    tree["etc"]["fstab"] = Endless()  # type: ignore[index]
    guest = only([candidate(tree, "mbr:1-01")])
    assert guest.reasons == ("/etc/fstab: is too large (expected at most 1.00 MiB, found 4.00 GiB)",)
    assert [mount.path for mount in guest.mounts] == ["/"]


def test_settings_that_are_folders_and_loops() -> None:
    tree = system(fstab=b"/a /b none bind\n/b /a none bind\n/ /usr none rbind\n", a={}, b={})
    tree["etc"]["passwd"] = {"x": {}}  # type: ignore[index]
    guest = only([candidate(tree, "mbr:1-01")])
    assert [mount.kind for mount in guest.mounts[1:]] == [MountKind.BIND] * 3
    assert guest.users == ()


def test_damaged_files_are_reasons_with_their_place() -> None:
    class Bad(Memory):
        def readinto(self, offset: int, buffer: memoryview) -> None:
            raise Corrupt("contradicts its format", offset=4711)

    tree = system()
    tree["etc"]["os-release"] = Bad(b"x" * KIB)  # type: ignore[index]
    guest = only([candidate(tree, "mbr:1-01")])
    assert guest.product is None and guest.hostname == "box"
    assert guest.reasons == ("/etc/os-release: contradicts its format (at byte 4711)",)


def test_a_damaged_volume_is_still_a_guest() -> None:
    one = candidate(system(), "mbr:1-01", state=VolumeState.INCOMPLETE)
    assert only([one]).volume == "mbr:1-01"


def test_links_that_make_every_path_long_cost_little() -> None:
    """``/etc`` is a link to a path of thousands of names, as are the folders it leads through."""
    fs = Counting({"etc": "/a/" + "../a/" * 800, "a": "/b/" + "../b/" * 800, "b": {"fstab": b"", "passwd": b""}, "bin": {}})
    assert find_guests([candidate(fs, "mbr:1-01")]) == []
    tree = {**system(), "var": "/v/" + "../v/" * 800, "v": {}, "root": "/v/" + "../v/" * 800}
    counted = Counting(tree)
    assert only([candidate(counted, "mbr:1-01")]).hostname == "box"
    assert counted.asked < 40_000, counted.asked


def test_systems_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finder, "MAX_GUESTS", 2)
    assert len(find_guests([candidate(system(), f"mbr:1-0{number}") for number in range(1, 5)])) == 2


def test_units_of_a_separate_usr_are_seen() -> None:
    vendor = {"tmp.mount": b"[Mount]\nWhat=tmpfs\nWhere=/tmp\nType=tmpfs\n", "local-fs.target.wants": {"tmp.mount": b""}}
    usr = candidate({"lib": {"systemd": {"system": vendor}}}, "mbr:1-02", uuid="u")
    guest = only([candidate(system(fstab=b"UUID=u /usr ext4\n"), "mbr:1-01"), usr])
    assert [mount.path for mount in guest.mounts] == ["/", "/tmp", "/usr"]


def test_guests_are_values() -> None:
    first, second = only([candidate(system(), "mbr:1-01")]), only([candidate(system(), "mbr:1-01")])
    assert first == second and dataclasses.replace(first, hostname="x") != second
    assert first.family is Family.LINUX and isinstance(first.mounts[0], MountPoint)
