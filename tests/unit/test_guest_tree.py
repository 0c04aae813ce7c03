"""The tree of guests: where mount points go, what paths lead to, and what it makes of nonsense.

What a path must lead to is what the Linux kernel, or Windows, makes of the same mounts and links; ``tests/real/test_guests.py``
asks the kernel itself.
"""

from __future__ import annotations

import time

import pytest

from contract.guest_sets import FakeSet, bind, linux, mount, tree_of, windows
from mntapi.blocks import read
from mntapi.errors import Corrupt, Invalid, IsADirectory, MntapiError, NotADirectory, NotFound, ReadFailed, Unsupported
from mntapi.filesystems.names import DAMAGED
from mntapi.guests.types import MountKind, MountPoint, PointInTime
from mntapi.session.guest_tree import GuestTree, assemble, assembly, places
from mntapi.session.guest_tree.places import Kind, Place, Places, outer
from mntapi.session.paths import parts_of, resolve, trail_of
from mntapi.types import Entry, FileKind, Node

ROOT = {
    "etc": {"fstab": b"...", "localtime": "/usr/share/zone", "up": "../../../../etc/fstab"},
    "usr": {"share": {"zone": b"UTC"}},
    "home": {"under": b"hidden by the mount"},
    "run": {},
    "var": {"run": "/run"},
    "srv": {},
}
HOME = {"ann": {"link": "/etc/fstab", "zone": "../../etc/localtime", "budget": b"7"}}
SET = {"root": ROOT, "home": HOME, "data": {"file": b"d"}, "sw": "swap"}


def names(tree: GuestTree, path: str) -> list[str]:
    return [entry.name for entry in tree.scan(resolve(tree, path, follow_last=True))]


def content(tree: GuestTree, path: str) -> bytes:
    node = resolve(tree, path, follow_last=True)
    return read(tree.open(node), 0, node.size)


def walk(tree: GuestTree, node: Node, limit: int = 10_000) -> list[Entry]:
    """All entries below a node; more than ``limit`` would be a loop."""
    found: list[Entry] = []
    waiting = [node]
    while waiting:
        for entry in tree.scan(waiting.pop()):
            found.append(entry)
            assert len(found) < limit
            if entry.node.kind is FileKind.DIRECTORY and not entry.node.reason:
                waiting.append(entry.node)
    return found


def test_mount_points_hide_what_they_cover() -> None:
    tree = tree_of(SET, linux(mount("/", "root"), mount("/home", "home"), mount("/srv/data", "data")))
    assert names(tree, "/") == ["etc", "usr", "home", "run", "var", "srv", "volumes"]
    assert names(tree, "/home") == ["ann"]
    assert content(tree, "/home/ann/budget") == b"7"
    assert names(tree, "/srv") == ["data"] and content(tree, "/srv/data/file") == b"d"  # the folder was not there
    assert names(tree, "/volumes") == ["sw"] and names(tree, "/volumes/sw") == []


def test_links_are_followed_in_the_guest() -> None:
    tree = tree_of(SET, linux(mount("/home", "home")))
    assert content(tree, "/etc/localtime") == content(tree, "/home/ann/zone") == b"UTC"
    assert content(tree, "/home/ann/link") == content(tree, "/etc/up") == b"..."
    assert content(tree, "/home/../etc/fstab") == b"..."
    assert resolve(tree, "/../..").inode == tree.root.inode
    assert tree.readlink(resolve(tree, "/home/ann/link")) == "/etc/fstab"


def test_a_mount_point_lies_where_the_guests_links_lead() -> None:
    tree = tree_of(SET, linux(mount("/var/run/data", "data")))
    assert content(tree, "/run/data/file") == content(tree, "/var/run/data/file") == b"d"
    assert tree.places.of(resolve(tree, "/run/data")).names == ("run", "data")


def test_volumes_are_found_by_name_where_the_guest_has_nothing_of_that_name() -> None:
    tree = tree_of({**SET, "etc": {"no": b""}}, linux(mount("/home", "home")))
    assert names(tree, "/root") == list(ROOT) and names(tree, "/home") == ["ann"]
    assert content(tree, "/root/etc/localtime") == b"UTC" and content(tree, "/root/../etc/up") == b"..."
    assert names(tree, "/etc") == list(ROOT["etc"])
    assert names(tree, "/root/home") == ["under"]
    with pytest.raises(NotFound):
        resolve(tree, "/home/root")


def test_the_folder_of_other_volumes_gives_way() -> None:
    tree = tree_of({"root": {"volumes": {}, "volumes~": b""}, "data": {"a": b"1"}}, linux())
    assert names(tree, "/") == ["volumes", "volumes~", "volumes~~"] and content(tree, "/volumes~~/data/a") == b"1"


def test_numbers_are_the_same_in_every_process_and_lead_back() -> None:
    guest = linux(mount("/home", "home"), bind("/srv", "/home"))
    one, other = tree_of(SET, guest), tree_of(SET, guest)
    for entry in walk(one, one.root):
        assert other.node(entry.node.inode) == entry.node
    inodes = [entry.node.inode for entry in walk(one, one.root)]
    assert len(set(inodes)) == len(inodes)
    assert resolve(one, "/srv/ann").inode != resolve(one, "/home/ann").inode
    for wrong in (5, (99 << 48) + 7, -3):
        with pytest.raises(NotFound):
            one.node(wrong)


def test_bind_mounts() -> None:
    tree = tree_of(
        SET, linux(mount("/home", "home"), bind("/srv", "/"), bind("/run", "/home/ann"), bind("/etc/fstab", "/etc/up"))
    )
    assert names(tree, "/srv/home") == ["under"] and names(tree, "/run") == ["link", "zone", "budget"]
    assert content(tree, "/run/zone") == b"UTC"
    assert resolve(tree, "/etc/fstab").kind is FileKind.FILE
    assert names(tree, "/srv/srv") == []  # what is bound does not contain itself
    recursive = tree_of(SET, linux(mount("/home", "home"), mount("/home/ann/data", "data"), bind("/srv", "/home", "rbind")))
    assert content(recursive, "/srv/ann/data/file") == b"d"
    below = tree_of(SET, linux(mount("/home", "home"), bind("/srv", "/", "rbind"), bind("/run", "/", "rbind")))
    assert names(below, "/srv/home") == names(below, "/run/home") == names(below, "/run/srv/home") == ["ann"]


@pytest.mark.parametrize(
    "mounts",
    [
        [bind("/etc", "/usr"), bind("/usr", "/etc")],
        [bind("/etc", "/etc")],
        [bind("/", "/etc"), mount("/", "root"), mount("/", "root")],
        [mount("/home", "root"), mount("/home/home", "root"), mount("/home/home/home", "home")],
        [bind("/srv", "/", "rbind"), bind("/srv/srv", "/srv", "rbind")],
        [mount("/../..", "data"), mount("/../../../home/../../srv", "data")],
    ],
)
def test_mounts_in_circles_end(mounts: list[MountPoint]) -> None:
    tree = tree_of(SET, linux(*mounts))
    assert {"etc", "usr"} <= {entry.name for entry in walk(tree, tree.root)}
    assert names(tree, "/srv") == ["file"] or "srv" not in mounts[-1].path or mounts[0].kind is MountKind.BIND


def test_the_last_mount_on_a_folder_is_seen_and_the_other_volume_is_not_lost() -> None:
    tree = tree_of(SET, linux(mount("/home", "home"), mount("/home", "data")))
    assert names(tree, "/home") == ["file"] and names(tree, "/volumes") == ["home", "sw"]


def test_a_mount_point_below_a_file_is_not_made() -> None:
    tree = tree_of(SET, linux(mount("/etc/fstab/x", "data"), bind("/etc/fstab/y", "/home", "rbind")))
    assert content(tree, "/etc/fstab") == b"..." and names(tree, "/volumes") == ["home", "data", "sw"]


def test_what_is_missing_is_a_folder_that_says_so() -> None:
    lost = MountPoint("/home", MountKind.MISSING, "UUID=77", reason="no volume with this UUID")
    elsewhere = MountPoint("/run", MountKind.VOLUME, "UUID=78", volume="id:absent")
    server = MountPoint("/srv", MountKind.NETWORK, "nas:/export")
    proc = MountPoint("/usr", MountKind.VIRTUAL, "proc")
    sub = mount("/var", "data", subvolume="@var")
    folder = mount("/etc", "data", folder="/absent")
    tree = tree_of(SET, linux(lost, elsewhere, server, proc, sub, folder, bind("/usr/share", "/home"), bind("/opt", "/gone")))
    reasons = {entry.name: entry.node.reason for entry in tree.scan(tree.root)}
    assert reasons["home"] == reasons["run"] == "missing-volume"
    assert (reasons["srv"], reasons["usr"], reasons["var"]) == ("network", None, "subvolume")
    with pytest.raises(Unsupported, match="UUID=77: no volume with this UUID") as caught:
        names(tree, "/home")
    assert "-d" in str(caught.value.hint)
    assert names(tree, "/srv") == []
    for path, kind in (("/etc", NotFound), ("/opt", NotFound), ("/usr/share", Unsupported), ("/var/x", Unsupported)):
        with pytest.raises(kind):
            names(tree, path)


def test_drives_for_media_are_no_loss() -> None:
    cd = MountPoint("/run", MountKind.MISSING, "/dev/cdrom", options=("noauto",), reason="no such volume")
    assert names(tree_of(SET, linux(cd)), "/run") == []
    dvd = MountPoint("D:\\", MountKind.MISSING, "\\??\\IDE#CdRom", reason="a CD or DVD drive, not a volume of the set")
    lost = MountPoint("E:\\", MountKind.MISSING, "DMIO:ID:1", reason="no volume of the set")
    tree = tree_of(DRIVES, windows(mount("C:\\", "c"), dvd, lost))
    assert {entry.name: entry.node.reason for entry in tree.scan(tree.root)} == {
        "C:": None,
        "E:": "missing-volume",
        "volumes": None,
    }


def test_a_mount_point_below_what_cannot_be_read() -> None:
    locked = Unsupported("needs a key", reason="luks")
    tree = tree_of({**SET, "home": locked}, linux(mount("/home", "home"), mount("/home/ann", "data")))
    assert content(tree, "/home/ann/file") == b"d"
    found = []
    with pytest.raises(Unsupported, match="needs a key"):
        for entry in tree.scan(resolve(tree, "/home")):
            found.append(entry.name)
    assert found == ["ann"]
    assert tree_of({"root": locked}, linux()).root.reason == "luks"


def test_each_error_names_the_path_it_was_met_on() -> None:
    tree = tree_of({**SET, "home": ReadFailed("bad sector")}, linux(mount("/home", "home")))
    for name in ("ann", "bob"):
        with pytest.raises(ReadFailed) as caught:
            resolve(tree, f"/home/{name}")
        assert caught.value.path == f"/home/{name}"


C = {
    "Users": {"Ann": {"budget": b"7"}},
    "Documents": "C:/Users",
    "Data": {},
    "ProgramData": {"App": "C:/ProgramData", "d": "D:/x"},
}
DRIVES = {"c": C, "d": {"x": {"y": b"d"}, "abs": "/x/y"}, "e": {"z": b"e"}}
PC = windows(mount("C:\\", "c"), mount("D:\\", "d"), mount("C:\\DATA\\", "e"))


@pytest.mark.parametrize(
    "path", ["C:\\Users\\Ann\\budget", "/C:/Users/Ann/budget", "C:/Users/Ann/budget", "c:\\Users/Ann\\budget"]
)
def test_paths_of_windows(path: str) -> None:
    tree = tree_of(DRIVES, PC)
    assert content(tree, path) == b"7" and parts_of(path, tree) == ["C:", "Users", "Ann", "budget"]


def test_drives() -> None:
    tree = tree_of(DRIVES, PC)
    assert names(tree, "/") == ["C:", "D:"] and names(tree, "C:") == list(C)
    assert content(tree, "C:\\Documents\\Ann\\budget") == b"7"
    assert content(tree, "C:\\ProgramData\\App\\d\\y") == content(tree, "D:\\abs") == b"d"
    assert content(tree, "/c:/data/z") == content(tree, "C:\\Data\\z") == b"e"
    assert content(tree, "D:\\..\\..\\x\\y") == b"d"
    assert [entry.name for entry in trail_of(tree, ["c:", "data", "..", "Users"])] == ["c:", "Users"]
    with pytest.raises(NotFound):
        resolve(tree, "E:\\")


def test_a_backslash_is_a_sign_like_others_in_linux() -> None:
    tree = tree_of({"root": {"C:\\x": b"1", "C:": {"x": b"2"}}}, linux())
    assert content(tree, "C:\\x") == b"1" and content(tree, "C:/x") == b"2"


def test_several_guests() -> None:
    tree = tree_of({**SET, **DRIVES}, linux(mount("/home", "home")), PC)
    assert names(tree, "/") == ["guest0", "guest1", "volumes"]
    assert content(tree, "/guest0/home/ann/zone") == b"UTC" and content(tree, "/guest0/../etc/fstab") == b"..."
    assert content(tree, "C:\\Documents\\Ann\\budget") == content(tree, "/guest1/C:/Documents/Ann/budget") == b"7"
    assert names(tree, "/volumes") == ["data", "sw"]
    twice = tree_of(DRIVES, PC, PC)
    with pytest.raises(Invalid, match="several guests") as caught:
        resolve(twice, "C:\\Users")
    assert caught.value.hint == "write /guest0/C: or /guest1/C:"


COPIES = {
    "root@2026-11-01T02:00:00Z": {"base": "id:root", "created": "2026-11-01T02:00:00.1234567Z"},
    "vg-old": {"base": "id:home", "created": "2026-10-01T02:00:00Z"},
    "vg-older": {"base": "id:home"},
    "data-copy": {"base": "id:data"},
}
OLD = {**SET, "root@2026-11-01T02:00:00Z": {**ROOT, "etc": {"fstab": b"old", "l": "/etc/fstab", "h": "/home/ann/budget"}}}
OLD |= {
    "vg-old": {"ann": {"budget": b"6", "own": "/home/ann/budget", "up": "../../etc/fstab"}},
    "vg-older": {},
    "data-copy": {},
}


def test_snapshots_are_beside_the_live_tree() -> None:
    tree = tree_of(OLD, linux(mount("/home", "home")), details=COPIES)
    assert names(tree, "/")[-2:] == ["@2026-11-01T02:00:00Z", "volumes"]
    assert names(tree, "/home") == ["ann", "@2026-10-01T02:00:00Z", "@vg-older"]
    assert names(tree, "/home/ann") == ["link", "zone", "budget"]
    old = "/@2026-11-01T02:00:00Z"
    assert content(tree, old + "/etc/l") == content(tree, old + "/../etc/l") == b"old"
    with pytest.raises(NotFound):
        resolve(tree, old + "/etc/h", follow_last=True)  # it shows the root alone, as it was
    old = "/home/@2026-10-01T02:00:00Z"
    assert content(tree, old + "/ann/own") == b"6" and content(tree, old + "/ann/up") == b"..."
    assert names(tree, "/volumes") == ["data", "sw"] and names(tree, "/volumes/data") == ["file", "@data-copy"]
    assert names(tree, "/vg-old") == ["ann"]
    live = tree.without_snapshots()
    assert [entry.name for entry in live.scan(live.root)][-1] == "volumes" and content(live, old + "/ann/own") == b"6"
    assert [live.places.all[one].time_ns for one in live.places.all[0].snapshots] == [1793498400_123456700]


def test_points_in_time() -> None:
    points = (
        PointInTime("/", "id:data", folder="/snap", time_ns=0),
        PointInTime("/home", "id:data", subvolume="5", description="before\nthe/update"),
        PointInTime("/", "id:data", folder="/snap", time_ns=10**30),
        PointInTime("/absent", "id:data"),
        PointInTime("/", "id:absent"),
    )
    content_of = {**SET, "root": {**ROOT, "@1970-01-01T00:00:00Z": {}}, "data": {"snap": {"etc": {"fstab": b"first"}}}}
    tree = tree_of(content_of, linux(mount("/home", "home"), snapshots=points))
    assert names(tree, "/")[-4:] == ["@1970-01-01T00:00:00Z", "@1970-01-01T00:00:00Z~", "@1000000000000000000000", "volumes"]
    assert content(tree, "/@1970-01-01T00:00:00Z~/etc/fstab") == b"first"
    assert {entry.name: entry.node.reason for entry in tree.scan(resolve(tree, "/home"))}["@before-the-update"] == "subvolume"


def test_points_in_time_of_a_folder_that_is_no_mount_point() -> None:
    points = [PointInTime(path, "id:data", time_ns=0) for path in ("/srv/pub", "/etc/fstab", "/link", "/usr/share")]
    content_of = {**SET, "root": {**ROOT, "srv": {"pub": {"a": b"1"}, "up": "../etc/fstab"}, "link": "/srv/pub"}}
    tree = tree_of(content_of, linux(snapshots=tuple(points)))
    old = "@1970-01-01T00:00:00Z"
    assert names(tree, "/srv/pub") == ["a", old, f"{old}~"] and content(tree, f"/srv/pub/{old}/file") == b"d"
    assert names(tree, "/usr/share") == ["zone", old] and "file" in names(tree, f"/usr/share/{old}")
    assert content(tree, "/srv/pub/../up") == b"..."


def test_ten_thousand_mount_points() -> None:
    mounts = [mount(f"/srv/{number % 100}/{number}", "data") for number in range(assembly.MAX_MOUNTS + 50)]
    began = time.process_time()
    tree = tree_of({**SET, "last": {}}, linux(*mounts, mount("/late", "last")))
    assert len(names(tree, "/srv")) == 100 and content(tree, "/srv/7/107/file") == b"d"
    assert "last" in names(tree, "/volumes") and "late" not in names(tree, "/")
    assert time.process_time() - began < 60  # no more than a guard against a square


def test_mount_points_that_take_ever_more_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [bind(f"/b{number}", "/", "rbind") for number in range(40)]
    tree = tree_of(SET, linux(*mounts))
    assert len(tree.places.all) < places.MAX_PLACES
    monkeypatch.setattr(assembly, "MAX_RECURSIVE", 1)
    few = tree_of(SET, linux(mount("/home", "home"), *mounts))
    assert names(few, "/b0/home") == ["ann"] and names(few, "/b1/home") == ["under"]


def test_too_many_snapshots_are_below_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "MAX_SNAPSHOTS", 1)
    tree = tree_of(OLD, linux(mount("/home", "home")), details=COPIES)
    assert names(tree, "/home") == ["ann"]
    assert names(tree, "/volumes") == ["data", "sw", "vg-old", "vg-older", "data-copy"]


def test_missing_folders_count_as_mount_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "MAX_MOUNTS", 4)
    tree = tree_of(SET, linux(mount("/a/b/c/d/e", "data")))
    assert names(tree, "/a/b") == [] and "data" in names(tree, "/volumes")
    tree = tree_of(SET, linux(mount("/home", "home"), mount("/home/ann/x", "data"), bind("/srv", "/home", "rbind")))
    assert names(tree, "/srv/ann") == ["link", "zone", "budget"]
    monkeypatch.setattr(assembly, "MAX_MOUNTS", 1)
    assert names(tree_of(SET, linux(), linux()), "/") == ["guest0", "volumes"]


def test_a_snapshot_of_a_mounted_file() -> None:
    guest = linux(bind("/etc/fstab", "/etc/up"), snapshots=(PointInTime("/etc/fstab", "id:root"),))
    assert names(tree_of(SET, guest), "/etc") == ["fstab", "localtime", "up"]


def test_names_are_the_guests_own() -> None:
    tree = tree_of(SET, linux(mount("/srv/\x1b[2J\n", "data"), mount("/srv/a\0b", "home")))
    assert names(tree, "/srv") == ["\x1b[2J\n", "a\0b"]


def test_what_makes_no_sense_is_refused() -> None:
    tree = tree_of(SET, linux())
    with pytest.raises(NotADirectory):
        tree.lookup(resolve(tree, "/etc/fstab"), "x")
    with pytest.raises(NotADirectory):
        list(tree.scan(resolve(tree, "/etc/fstab")))
    with pytest.raises(IsADirectory):
        tree.open(tree.root)
    with pytest.raises(NotFound):
        tree.readlink(resolve(tree, "/volumes"))
    with pytest.raises(NotFound):
        resolve(tree, "/volumes/absent")
    with pytest.raises(Corrupt, match="wider"):
        outer(0, Node(1 << 47, FileKind.FILE, 0))
    assert tree.xattrs(resolve(tree, "/volumes")) == {} == tree.xattrs(tree.root)
    assert (tree.kind, tree.capacity().total) == ("guest", 4 << 20)
    tree.close()


def test_places_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MAX_PLACES", 1)
    table = Places()
    table.add(Place(Kind.FOLDER, ()))
    with pytest.raises(Unsupported) as caught:
        table.add(Place(Kind.FOLDER, ()))
    assert caught.value.reason == "too-many-mounts"


def test_entries_that_cannot_be_read_keep_their_place_in_their_number() -> None:
    damaged = Node(7, FileKind.FILE, 0, mode=0, links=0, reason=DAMAGED)
    assert outer(3, damaged).links == 0 and outer(2000, damaged).links == 1  # ``TreeFs`` has 10 bits for the place of such


def test_a_set_without_volumes() -> None:
    tree = assemble(FakeSet({}), [])
    assert list(tree.scan(tree.root)) == []
    with pytest.raises(MntapiError):
        resolve(tree, "/x")
