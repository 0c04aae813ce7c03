"""Subvolumes of btrfs: which one is meant, which is a system's root, and which are earlier states. No disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from contract.guest_sets import FakeSet, linux, mount
from contract.guest_volumes import candidate
from contract.memory_btrfs import MemoryBtrfs, MemorySubvolume
from contract.memory_filesystem import MemoryFileSystem
from mntapi.errors import Corrupt, ReadFailed, Unsupported
from mntapi.guests.files import read_text
from mntapi.guests.finder import find_guests
from mntapi.guests.linux import snapshots
from mntapi.guests.linux.fstab import Mounting
from mntapi.guests.linux.mounts import mount_point, subvolume_of
from mntapi.guests.linux.roots import MAX_SUBVOLUMES
from mntapi.guests.subvolumes import catalog_of, name_of, shown_by, top_of
from mntapi.guests.types import Guest, MountKind, MountPoint, PointInTime
from mntapi.session.guest_tree import assemble
from mntapi.session.paths import trail_of
from mntapi.session.versions import versions_of
from mntapi.types import Entry, Node

OS = b'PRETTY_NAME="Test 1"\nNAME=Test\nID=test\n'


def system(hostname: str = "box", fstab: str = "") -> dict[str, object]:
    etc = {"os-release": OS, "hostname": hostname.encode(), "fstab": fstab.encode()}
    return {"etc": etc, "usr": {"lib": {}}, "home": {}, "srv": {}}


def guests(content: dict[str, object], subvolumes: Sequence[str | MemorySubvolume], default: int | Corrupt = 5) -> list[Guest]:
    fs = MemoryBtrfs(content, subvolumes, default)
    return find_guests([candidate(fs, "mbr:1-01", uuid="b", fs_kind="btrfs")])


def test_which_subvolume_is_meant() -> None:
    fs = MemoryBtrfs({"a": {"in-a": b"", "b": {"in-b": b""}}, "file": b""}, ["a", "a/b"], default=257)
    for name, child in ((None, "in-b"), ("id:257", "in-b"), ("a/b", "in-b"), ("/a", "in-a"), ("id:256", "in-a")):
        assert child in [entry.name for entry in fs.scan(top_of(fs, name))], name
    for name in ("/", "id:5", "id:0", ""):
        assert top_of(fs, name) == fs.root
    assert shown_by(fs, "/") is fs
    shown = shown_by(fs, "a", "/b")
    assert [entry.name for entry in shown.scan(shown.root)] == ["in-b"]
    for name in ("c", "file/x", "id:258", "id:99999999999999999999"):
        with pytest.raises(Unsupported, match="there is no subvolume") as caught:
            top_of(fs, name)
        assert caught.value.reason == "missing-subvolume"


def test_a_file_system_without_subvolumes() -> None:
    fs = MemoryFileSystem({"a": {}})
    assert top_of(fs, None) == top_of(fs, "/") == fs.root and shown_by(fs, None) is fs and catalog_of(fs) is None
    with pytest.raises(Unsupported, match="no subvolume a"):
        top_of(fs, "a")


def test_a_default_that_cannot_be_told_is_no_default() -> None:
    fs = MemoryBtrfs({"@": system()}, ["@"], Corrupt("the root tree is damaged", offset=7))
    catalog = catalog_of(fs)
    assert catalog is not None and catalog.default is None and catalog.find(None) is None
    with pytest.raises(Corrupt):
        top_of(fs, None)
    (guest,) = guests({"@": system()}, ["@"], Corrupt("the root tree is damaged"))
    assert guest.mounts[0].subvolume == "@"


def test_lines_of_snapshots() -> None:
    one = MemorySubvolume
    fs = MemoryBtrfs(
        {},
        [
            one("a", 256, own=1),
            one("b", 257, own=2, snapshot_of=1),
            one("c", 258, own=3, snapshot_of=2),
            one("d", 259, own=4, snapshot_of=9),
            one("e", 260, own=5, snapshot_of=9),
            one(None, 261),
            one("g", 262, own=7, snapshot_of=8),
            one("h", 263, own=8, snapshot_of=7),
        ],
    )
    catalog = catalog_of(fs)
    assert catalog is not None
    lines = catalog.lines
    assert lines[256] == lines[257] == lines[258] != lines[259] == lines[260] != lines[261] != lines[262] == lines[263]
    assert name_of(catalog.by_id[261]) == "id:261" and catalog.by_path.keys() == {"", *"abcdegh"}


def test_a_chain_of_sixty_thousand_snapshots() -> None:
    # With a walk for each this would take minutes.
    many = [MemorySubvolume(f"s{number}", number, own=number, snapshot_of=number - 1) for number in range(256, 60_256)]
    catalog = catalog_of(MemoryBtrfs({}, many[::-1]))
    assert catalog is not None and len(set(catalog.lines.values())) == 2


def test_the_default_subvolume_comes_first_and_may_be_read_only() -> None:
    tree = {"@": {".snapshots": {"7": {"snapshot": system("live")}, "6": {"snapshot": system("old")}}}}
    kept = [
        MemorySubvolume(f"@/.snapshots/{n}/snapshot", 260 + n, 256, own=n, snapshot_of=1, is_read_only=True) for n in (6, 7)
    ]
    (guest,) = guests(tree, [MemorySubvolume("@", 256), *kept], default=267)
    assert (guest.hostname, guest.mounts[0].subvolume) == ("live", "@/.snapshots/7/snapshot")
    assert [point.subvolume for point in guest.snapshots] == ["@/.snapshots/6/snapshot"]


def test_several_systems_on_one_volume() -> None:
    one = MemorySubvolume
    containers = {"containers": {"deep": {"er": system("container")}}}
    tree = {"@": system("first"), "@second": system("second"), "@copy": system("copy"), "kept": system("kept"), **containers}
    found = guests(
        {**tree, "grub": {"x": {}}},
        [
            one("@copy", 256, own=6, snapshot_of=7),
            one("@", 257, own=7),
            one("@second", 258, own=8),
            one("kept", 259, is_read_only=True),
            one("containers/deep/er", 260),
            one("@/var/lib/machines/x", 261, 257),
            one("grub/x", 262),
            one("gone", 263),
        ],
    )
    assert [(guest.hostname, guest.mounts[0].subvolume) for guest in found] == [("first", "@"), ("second", "@second")]


def test_a_deployment_that_cannot_be_read_does_not_hide_other_systems() -> None:
    name = "a" * 64 + ".0"

    class Broken(MemoryBtrfs):
        def lookup(self, directory: Node, name_: str) -> Node:
            if name_ == name:
                raise ReadFailed("cannot be read", offset=0)
            return super().lookup(directory, name_)

    tree = {"@": {"ostree": {"deploy": {"os": {"deploy": {name: system("lost")}}}}}, "@two": system("two")}
    (guest,) = find_guests([candidate(Broken(tree, ["@", "@two"]), "mbr:1-01", fs_kind="btrfs")])
    assert guest.hostname == "two"


def test_what_lies_in_a_root_is_not_another() -> None:
    found = guests({**system("outer"), "@": system("inner")}, ["@"])
    assert [guest.hostname for guest in found] == ["outer"]


def test_not_all_of_many_subvolumes_are_looked_into() -> None:
    looked: list[int] = []

    class Many(MemoryBtrfs):
        def subvolume_root(self, subvolume: int) -> Node:
            looked.append(subvolume)
            return super().subvolume_root(subvolume)

    fs = Many({f"s{number}": {} for number in range(200)}, [f"s{number}" for number in range(200)])
    assert find_guests([candidate(fs, "mbr:1-01", fs_kind="btrfs")]) == [] and len(looked) == MAX_SUBVOLUMES


def test_subvolumes_that_cannot_be_listed() -> None:
    class Broken(MemoryBtrfs):
        def subvolumes(self) -> Sequence[MemorySubvolume]:
            raise ReadFailed("cannot be read", offset=0)

    (guest,) = find_guests([candidate(Broken(system("flat")), "mbr:1-01", fs_kind="btrfs")])
    assert (guest.hostname, guest.mounts[0].subvolume, guest.snapshots) == ("flat", None, ())


def test_mount_points_are_told_by_path() -> None:
    fstab = "UUID=b / btrfs\nUUID=b /home btrfs subvolid=0401\nUUID=b /srv btrfs subvol=/none\nUUID=b /var btrfs subvolid=999\n"
    fstab += "UUID=b /top btrfs subvolid=5\nUUID=b /nowhere btrfs subvolid=258\n"
    tree = {"@": system(fstab=fstab), "@home": {"ann": {}}}
    (guest,) = guests(tree, ["@", "@home", MemorySubvolume(None, 258)], default=256)
    told = {mount.path: (mount.subvolume, mount.reason) for mount in guest.mounts}
    assert told == {
        "/": ("@", None),
        "/home": ("@home", None),
        "/srv": ("none", "there is no subvolume none"),
        "/top": ("/", None),
        "/var": ("id:999", "there is no subvolume id:999"),
        "/nowhere": ("id:258", None),
    }


@pytest.mark.parametrize(("option", "wanted"), [("010", "id:8"), ("08", None), ("0", "id:0"), ("٣", None), ("9" * 21, None)])
def test_numbers_as_the_kernel_reads_them(option: str, wanted: str | None) -> None:
    assert subvolume_of((f"subvolid={option}",)) == wanted


def test_a_root_that_fstab_says_is_another() -> None:
    tree = {"@": system("one", "UUID=b / btrfs subvol=@old\n"), "@old": system("old")}
    first, second = guests(tree, ["@", "@old"])
    assert first.mounts[0].reason == "by its fstab the root is subvolume @old: this may be a copy of it"
    assert (first.mounts[0].subvolume, second.mounts[0].subvolume) == ("@", "@old")


def kept_by_timeshift(info: bytes | None) -> dict[str, object]:
    dated = {"2026-11-01": {"@": system("old"), "@home": {}}, "x": {"@other": {}}}
    if info is not None:
        dated["2026-11-01"]["info.json"] = info
    return {"timeshift-btrfs": {"snapshots": dated}}


KEPT = [
    MemorySubvolume(f"timeshift-btrfs/snapshots/{path}", 300 + at, created_ns=at)
    for at, path in enumerate(("2026-11-01/@", "2026-11-01/@home", "x/@other"))
]
FSTAB = "UUID=b / btrfs subvol=@\nUUID=b /home btrfs subvol=@home\n"


@pytest.mark.parametrize(
    ("info", "wanted"),
    [
        (b'{"created": "1793498400", "comments": "before"}', (1793498400 * 10**9, "before")),
        (b'{"created": "soon"', (0, None)),
        (None, (0, None)),
    ],
)
def test_timeshifts_subvolumes(info: bytes | None, wanted: tuple[int, str | None]) -> None:
    tree = {"@": system(fstab=FSTAB), "@home": {}, **kept_by_timeshift(info)}
    (guest,) = guests(tree, ["@", "@home", *KEPT])
    root, home = guest.snapshots
    assert (root.path, root.subvolume, root.folder) == ("/", "timeshift-btrfs/snapshots/2026-11-01/@", "/")
    assert (root.time_ns, root.description) == wanted
    assert (home.path, home.subvolume) == ("/home", "timeshift-btrfs/snapshots/2026-11-01/@home")
    assert guest.details["snapshots"] == "2"


def test_timeshift_describes_home_on_the_volume_of_the_root() -> None:
    info = b'{"created": "1793498400"}'
    root = MemoryBtrfs({"@": system(fstab=FSTAB.replace("b /home", "h /home")), **kept_by_timeshift(info)}, ["@", KEPT[0]])
    home = MemoryBtrfs({"@home": {}, **kept_by_timeshift(None)}, ["@home", KEPT[1]])
    volumes = [candidate(home, "mbr:1-02", uuid="h", fs_kind="btrfs"), candidate(root, "mbr:1-01", uuid="b", fs_kind="btrfs")]
    (guest,) = find_guests(volumes)
    told = [(point.path, point.volume, point.time_ns) for point in guest.snapshots]
    assert told == [("/", "mbr:1-01", 1793498400 * 10**9), ("/home", "mbr:1-02", 1793498400 * 10**9)]


def test_read_only_snapshots_are_beside_what_they_are_of() -> None:
    one = MemorySubvolume
    tree = {"@": system(fstab=FSTAB + "UUID=b /old btrfs subvol=shown\n"), "@home": {}}
    names = ("of-root", "of-home", "shown", "writable", "received", "sibling")
    (guest,) = guests(
        tree | {name: system(name) for name in names},
        [
            one("@", 256, own=1, snapshot_of=99),
            one("@home", 257, own=2),
            one("of-root", 258, own=3, snapshot_of=1, created_ns=5, is_read_only=True),
            one("of-home", 259, own=4, snapshot_of=2, created_ns=6, is_read_only=True),
            one("shown", 260, own=5, snapshot_of=1, is_read_only=True),
            one("writable", 261, own=6, snapshot_of=1),
            one("received", 262, own=7, is_read_only=True),
            one("sibling", 263, own=8, snapshot_of=99, created_ns=7, is_read_only=True),
            one(None, 264, own=9, snapshot_of=2, created_ns=8, is_read_only=True),
        ],
    )
    told = [(point.path, point.subvolume, point.time_ns) for point in guest.snapshots]
    assert told == [("/", "of-root", 5), ("/home", "of-home", 6), ("/", "sibling", 7), ("/home", "id:264", 8)]


def test_the_mounts_of_one_line_share_its_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "MAX_SNAPSHOTS", 1024)
    one = MemorySubvolume
    many = [one(f"s{number}", 300 + number, snapshot_of=1, created_ns=number, is_read_only=True) for number in range(2000)]
    fstab = "UUID=b / btrfs subvol=@\n" + "".join(f"UUID=b /m{number} btrfs subvol=@\n" for number in range(1000))
    (guest,) = guests({"@": system(fstab=fstab)}, [one("@", 256, own=1), *many])
    assert len(guest.mounts) == 1001 and {point.path for point in guest.snapshots} == {"/"}
    assert len(guest.snapshots) == 1024
    assert guest.reasons == ("more than 1024 snapshots of btrfs: the others are not listed beside the live files",)


def test_snapshots_that_are_too_many_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each maker as many as the limit, and a reason."""
    monkeypatch.setattr(snapshots, "MAX_SNAPSHOTS", 2)
    numbered = {str(number): {"info.xml": INFO, "snapshot": {"etc": {}}} for number in range(1, 4)}
    dated = {f"2026-11-0{day}_02-00-00": {"info.json": b"{}", "localhost": {}} for day in range(1, 4)}
    tree = system(fstab="UUID=b / btrfs subvol=@\n") | {".snapshots": numbered}
    (guest,) = guests({"@": tree}, [MemorySubvolume("@", 256, own=1)])
    assert [point.folder for point in guest.snapshots] == ["/.snapshots/1/snapshot", "/.snapshots/2/snapshot"]
    assert [reason.partition(":")[0] for reason in guest.reasons] == ["more than 2 snapshots of Snapper"]
    backup = MemoryFileSystem({"timeshift": {"snapshots": dated}})
    (guest,) = find_guests([candidate(MemoryFileSystem(system()), "mbr:1-01"), candidate(backup, "mbr:1-02")])
    assert [reason.partition(":")[0] for reason in guest.reasons] == ["more than 2 snapshots of Timeshift"]


INFO = b"<date>2026-11-01 02:00:00</date>"


def test_snappers_own_root_and_a_date_it_did_not_write() -> None:
    one = MemorySubvolume
    kept = {number: {"info.xml": text, "snapshot": system(number)} for number, text in (("1", INFO), ("2", b""), ("3", INFO))}
    paths = [one(f"@/.snapshots/{number}/snapshot", 256 + number, own=number, created_ns=number) for number in (1, 2, 3)]
    live = system(fstab="UUID=b /.snapshots btrfs subvol=@/.snapshots\n")
    kept["1"]["snapshot"] = {**live, ".snapshots": {}}
    (guest,) = guests({"@": {".snapshots": kept}}, ["@", *paths, one("@/.snapshots", 270)], default=257)
    told = [(point.subvolume, point.time_ns) for point in guest.snapshots]
    assert told == [("@/.snapshots/2/snapshot", 2), ("@/.snapshots/3/snapshot", 1_793_498_400 * 10**9)]


def _content(tree: object, path: str) -> bytes:
    return read_text(tree, path, 1000).encode()  # type: ignore[arg-type]


class BtrfsSet(FakeSet):
    """A set one of whose volumes, ``pool``, is btrfs, and ``copy`` is its snapshot by LVM."""

    def __init__(self) -> None:
        super().__init__({"pool": {}, "copy": {}}, {"copy": {"base": "id:pool"}})
        old = {"@": {"file": b"old"}, "@home": {"file": b"old home"}, "snap": {"file": b"before"}}
        new = {"@": {"file": b"new", "home": {}}, "@home": {"file": b"home"}, "snap": {"file": b"before"}, "other": {"x": b"y"}}
        self._systems["id:pool"] = MemoryBtrfs(new, ["@", "@home", "snap"], default=256)
        self._systems["id:copy"] = MemoryBtrfs(old, ["@", "@home", "snap"], default=256)


def test_a_deployment_in_a_subvolume() -> None:
    """Fedora Silverblue: the root is a folder of ``root``, and /var a subvolume beside that."""
    path = "ostree/deploy/fedora/deploy/" + "a" * 64 + ".1"
    deployed = {**system("silver", "UUID=b / btrfs subvol=root\nUUID=b /var btrfs subvol=var\n"), "var": {}, "sysroot": {}}
    for name in reversed(path.split("/")):
        deployed = {name: deployed}
    deployed["ostree"]["deploy"]["fedora"]["var"] = {"hidden": b""}  # type: ignore[index]
    fs = MemoryBtrfs({"root": deployed, "var": {"log": b"1"}}, ["root", "var"])
    pool = FakeSet({"pool": {}})
    pool._systems["id:pool"] = fs
    volume = replace(candidate(fs, "id:pool", uuid="b", fs_kind="btrfs"), volume=pool.volumes[0])
    (guest,) = find_guests([volume])
    told = {mount.path: (mount.subvolume, mount.folder) for mount in guest.mounts}
    assert told == {"/": ("root", f"/{path}"), "/var": ("var", "/"), "/sysroot": ("root", "/")}
    tree = assemble(pool, [guest])
    assert (_content(tree, "/etc/hostname"), _content(tree, "/var/log")) == (b"silver", b"1")
    assert _content(tree, f"/sysroot/{path}/etc/hostname") == b"silver"


ROOT = MountPoint("/", MountKind.VOLUME, "", volume="id:pool", subvolume="@")
HOME = mount("/home", "pool", subvolume="@home")
POINT = PointInTime("/home", "id:pool", subvolume="snap", time_ns=0)


@pytest.mark.parametrize("root", [ROOT, replace(ROOT, subvolume=None)])
def test_subvolumes_in_the_tree(root: MountPoint) -> None:
    tree = assemble(BtrfsSet(), [linux(root, HOME, volume="pool", snapshots=(POINT,))])
    assert (_content(tree, "/file"), _content(tree, "/home/file")) == (b"new", b"home")
    assert (_content(tree, "/@copy/file"), _content(tree, "/home/@copy/file")) == (b"old", b"old home")
    assert _content(tree, "/home/@1970-01-01T00:00:00Z/file") == b"before"
    assert _content(tree, "/pool/other/x") == b"y" and _content(tree, "/copy/@/file") == b"old"


def test_versions_belong_to_the_subvolume_that_a_snapshot_is_of() -> None:
    tree = assemble(BtrfsSet(), [linux(ROOT, HOME, volume="pool", snapshots=(POINT,))])
    want = [
        ("/home/file", "live"),
        ("/home/@1970-01-01T00:00:00Z/file", "@1970-01-01T00:00:00Z"),
        ("/home/@copy/file", "@copy"),
    ]
    for path, _ in want:
        assert [(one.path, one.label) for one in versions_of(tree, path)] == want
    assert [one.path for one in versions_of(tree, "/file")] == ["/file", "/@copy/file"]


def test_a_pool_that_nothing_mounts_is_shown_from_its_top() -> None:
    tree = assemble(BtrfsSet(), [])
    names: list[Entry] = list(tree.scan(trail_of(tree, ["volumes", "pool"])[-1].node))
    assert [entry.name for entry in names] == ["@", "@home", "snap", "other", "@copy"]


def test_a_bind_and_a_tmpfs_have_no_subvolume() -> None:
    entry = Mounting("/a", "/b", "none", ("bind", "subvol=x"), "fstab")
    assert mount_point(entry, None).subvolume is None  # type: ignore[arg-type]
