"""Versions of a file: the live one and those of snapshots. SHA-256 sums are hashlib's."""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise

import pytest

from contract.guest_sets import bind, linux, mount, tree_of
from contract.memory_filesystem import Memory
from mntapi.errors import IsADirectory, NotFound, ReadFailed
from mntapi.guests.types import PointInTime
from mntapi.session.guest_tree import GuestTree
from mntapi.session.versions import Version, versions_of

T1, T2, T3 = "@2026-01-01T00:00:00Z", "@2026-02-01T00:00:00Z", "@2026-03-01T00:00:00Z"
OLD = {"base": "id:home", "created": "2026-01-01T00:00:00Z"}
DETAILS = {
    "s1": OLD,
    "s2": {**OLD, "created": "2026-02-01T00:00:00Z"},
    "s3": {**OLD, "created": "2026-03-01T00:00:00Z"},
    "s0": {"base": "id:home"},
}
SET = {
    "root": {"etc": {"passwd": b"now"}, "home": {}, "www": {}, "link": "/home/ann/budget"},
    "home": {"ann": {"budget": b"9", "new": b"n", "l": "budget", "odd": {}, "www": {"index": b"i"}}},
    "s1": {"ann": {"budget": b"7", "gone": b"g", "odd": b"file", "www": {"index": b"j"}}},
    "s2": {"ann": {"budget": b"7", "odd": "nowhere"}},
    "s3": ReadFailed("the snapshot is broken"),
    "s0": {"ann": {"budget": b"77"}},
    "data": {},
}


@pytest.fixture
def tree() -> GuestTree:
    return tree_of(SET, linux(mount("/home", "home"), bind("/www", "/home/ann/www")), details=DETAILS)


def told(found: list[Version]) -> list[tuple[str, str | None]]:
    return [(one.label, one.sha256) for one in found]


BUDGET = [
    ("live", sha256(b"9").hexdigest()),
    (T3, None),
    (T2, sha256(b"7").hexdigest()),
    (T1, sha256(b"7").hexdigest()),
    ("@s0", sha256(b"77").hexdigest()),
]


@pytest.mark.parametrize("path", ["/home/ann/budget", "/link", "/home/ann/l", f"/home/{T1}/ann/budget", "/home/ann"])
def test_every_version_the_newest_first(tree: GuestTree, path: str) -> None:
    if path == "/home/ann":
        path += "/../ann/budget"
    found = versions_of(tree, path)
    assert told(found) == BUDGET
    assert [one.path for one in found][:3] == ["/home/ann/budget", f"/home/{T3}/ann/budget", f"/home/{T2}/ann/budget"]
    assert [one.differs(other) for one, other in pairwise(found)] == [None, None, False, True]
    assert [one.time_ns for one in found] == [None, 1772323200 * 10**9, 1769904000 * 10**9, 1767225600 * 10**9, None]
    assert found[1].reason == f"/home/{T3}/ann: the snapshot is broken" and not found[1].is_gone


def test_a_volume_by_its_name_has_the_versions_of_where_it_is_shown() -> None:
    alone = tree_of({**SET, "root": {"etc": {}}}, details=DETAILS)
    assert told(versions_of(alone, "/home/ann/budget")) == told(versions_of(alone, "/volumes/home/ann/budget")) == BUDGET


@pytest.mark.parametrize("path", ["/home/ann/budget", "/s2/ann/budget", "/s0/ann/budget"])
def test_a_volume_by_its_name_has_those_of_where_it_is_mounted(path: str) -> None:
    mounted = tree_of({**SET, "root": {"etc": {}}}, linux(mount("/srv/homes", "home")), details=DETAILS)
    found = versions_of(mounted, path)
    assert told(found) == BUDGET and found[0].path == "/srv/homes/ann/budget"


def test_a_volume_by_its_name_with_a_folder_that_is_mounted_by_itself() -> None:
    """As a subvolume of btrfs: what is beside the folder has no versions, what is in it has those of its mount point."""
    parts = {"root": {}, "data": {"@": {"f": b"2", "snap": {"f": b"1"}}, "g": b"g"}}
    earlier = PointInTime("/data", "id:data", folder="/@/snap", time_ns=5)
    tree = tree_of(parts, linux(mount("/x", "data", folder="/@"), mount("/data", "data", folder="/@"), snapshots=(earlier,)))
    by_name = tree_of(
        parts,
        linux(
            mount("/x", "data", folder="/@"), snapshots=(PointInTime("/x", "id:data", folder="/@/snap", description="snap"),)
        ),
    )
    assert len(versions_of(tree, "/data/f")) == 2 and len(versions_of(tree, "/x/f")) == 1
    for path in ("/data/@/f", "/data/@/snap/f"):
        assert [one.path for one in versions_of(by_name, path)] == ["/x/f", "/x/@snap/f"]
    assert [one.path for one in versions_of(by_name, "/data/g")] == ["/data/g"]


def test_paths_in_a_set_without_guests_begin_with_the_volume() -> None:
    """As in the tree that ``cat`` and ``cp`` have of such a set."""
    alone = tree_of(SET, details=DETAILS)
    for path in ("/home/ann/budget", "/volumes/home/ann/budget", "/s1/ann/budget"):
        found = versions_of(alone, path)
        assert told(found) == BUDGET
        assert [one.path for one in found] == [f"/{name}/ann/budget" for name in ("home", "s3", "s2", "s1", "s0")]
    for path in ("/absent", "/volumes/absent", "/data/absent"):
        with pytest.raises(NotFound):
            versions_of(alone, path)


def test_a_snapshot_without_what_it_is_of_is_not_the_live_one() -> None:
    tree = tree_of({"root": {}, "s1": SET["s1"]}, linux(), details={"s1": OLD})
    for path in ("/s1/ann/budget", "/volumes/s1/ann/budget"):
        [only] = versions_of(tree, path)
        assert (only.label, only.time_ns) == (T1, 1767225600 * 10**9)


def test_what_is_gone_and_what_is_new(tree: GuestTree) -> None:
    gone = versions_of(tree, "/home/ann/gone")
    assert [(one.label, one.is_gone) for one in gone] == [("live", True), (T3, False), (T2, True), (T1, False), ("@s0", True)]
    assert [one.differs(other) for one, other in pairwise(gone)] == [True, True, True, True]
    new = versions_of(tree, "/home/ann/new")
    assert new[0].sha256 == sha256(b"n").hexdigest() and new[2].is_gone and new[2].differs(new[3]) is False
    with pytest.raises(NotFound, match="now or in a snapshot"):
        versions_of(tree, "/etc/absent")
    assert told(versions_of(tree_of(SET, linux()), "/volumes/home/ann/new")) == [("live", sha256(b"n").hexdigest())]
    assert told(versions_of(tree, "/etc/passwd")) == [("live", sha256(b"now").hexdigest())]


def test_the_path_of_what_cannot_be_read_is_told_once() -> None:
    tree = tree_of({"root": {"f": b"1"}, "s": ReadFailed("broken")}, linux(), details={"s": {"base": "id:root"}})
    _, broken = versions_of(tree, "/f")
    assert (broken.path, broken.reason) == ("/@s/f", "broken")


def test_what_is_bound_has_the_versions_of_its_source(tree: GuestTree) -> None:
    found = versions_of(tree, "/www/index")
    assert found[0].path == "/home/ann/www/index" and found[3].sha256 == sha256(b"j").hexdigest()
    circle = tree_of(SET, linux(bind("/www", "/www"), bind("/etc", "/www")))
    assert len(circle.places.all) > 2
    with pytest.raises(NotFound):
        versions_of(circle, "/www/absent")


def test_folders_have_none(tree: GuestTree) -> None:
    for path in ("/home/ann", "/", "/home", "/home/ann/odd"):
        with pytest.raises(IsADirectory):
            versions_of(tree, path)


def test_what_cannot_be_read_is_a_version_with_a_reason() -> None:
    bad = Broken(b"x" * 100)
    tree = tree_of(
        {"root": {"f": bad, "s": {"f": {}}}}, linux(snapshots=(PointInTime("/", "id:root", folder="/s", time_ns=5),))
    )
    live, old = versions_of(tree, "/f")
    assert live.node is not None and live.sha256 is None and "bad sector" in str(live.reason)
    assert live.reason == "bad sector"  # and not the path, which is told beside it
    assert old.reason == "is a directory, which has no contents" and live.differs(old) is True


class Broken(Memory):
    def readinto(self, offset: int, buffer: memoryview) -> None:
        raise ReadFailed("bad sector")
