"""The order of mount points. Oracle for what it leads to: the kernel's own mounts, made one after the other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from contract.guest_sets import FakeSet
from contract.guest_volumes import candidate
from contract.memory_filesystem import MemoryFileSystem
from mntapi.guests.finder import find_guests
from mntapi.guests.linux.order import in_order
from mntapi.guests.types import MountKind, MountPoint
from mntapi.session.guest_tree import assemble
from mntapi.session.paths import trail_of

CROSSED = [("/a", "/b"), ("/b", "/a")]
CHAINED = [("/a", "/b"), ("/b", "/c")]
RING = [("/c", "/b"), ("/a", "/c"), ("/b", "/a")]


def binds(pairs: list[tuple[str, str]]) -> list[MountPoint]:
    return [MountPoint(target, MountKind.BIND, source, folder=source) for source, target in pairs]


def ordered(*mounts: MountPoint) -> tuple[list[str], list[str]]:
    reasons: list[str] = []
    return [mount.path for mount in in_order(mounts, reasons)], reasons


def test_each_comes_after_what_it_lies_in() -> None:
    paths = ["/var/log", "/var-x", "/", "/var", "/a"]
    mounts = [MountPoint(path, MountKind.VIRTUAL, "") for path in paths]
    assert ordered(*mounts) == (["/", "/a", "/var", "/var/log", "/var-x"], [])
    assert ordered() == ([], [])


def test_a_bind_mount_comes_after_what_it_shows() -> None:
    data = MountPoint("/srv/data", MountKind.VOLUME, "")
    assert ordered(*binds([("/srv/data/www", "/export")]), data) == (["/srv/data", "/export"], [])
    assert ordered(*binds([("/a", "/a"), ("/b/c", "/b"), ("/d", "/d/e")])) == (["/a", "/b", "/d/e"], [])


@pytest.mark.parametrize(
    ("pairs", "order"),
    [(CROSSED, ["/b", "/a"]), (CROSSED[::-1], ["/a", "/b"]), (RING, ["/b", "/c", "/a"])],
)
def test_bind_mounts_that_wait_for_each_other(pairs: list[tuple[str, str]], order: list[str]) -> None:
    inside = MountPoint("/b/inside", MountKind.VIRTUAL, "")
    found, reasons = ordered(inside, *binds(pairs))
    assert [path for path in found if path != "/b/inside"] == order and found.index("/b") < found.index("/b/inside")
    assert len(reasons) == 1 and reasons[0].startswith("bind mounts wait for each other: /b/inside, /")


@pytest.mark.root
@pytest.mark.parametrize("pairs", [CROSSED, CROSSED[::-1], CHAINED, RING], ids=["crossed", "reversed", "chained", "ring"])
def test_folders_bound_as_the_kernel_does(pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    """In the order of fstab: each bind shows the tree as mounted so far."""
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"in-{name}").touch()
    mounting = " && ".join(f"mount --bind .{source} .{target}" for source, target in pairs)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{mounting} && ls a b c"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("mounts of its own are not allowed here")
    assert done.returncode == 0, done.stderr
    assert "\n\n".join(f"{name}:\n{shown(pairs, name)}" for name in "abc") == done.stdout.strip()


def shown(pairs: list[tuple[str, str]], name: str) -> str:
    fstab = "".join(f"{source} {target} none bind\n" for source, target in pairs).encode()
    etc = {"os-release": b'NAME="Test"\nID=test\n', "fstab": fstab}
    content: dict[str, object] = {"etc": etc, "usr": {"lib": {}}, **{one: {f"in-{one}": b""} for one in "abc"}}
    guests = find_guests([candidate(MemoryFileSystem(content), "id:root", uuid="b", fs_kind="ext4")])
    tree = assemble(FakeSet({"root": content}), guests)
    return "\n".join(entry.name for entry in tree.scan(trail_of(tree, [name])[-1].node))
