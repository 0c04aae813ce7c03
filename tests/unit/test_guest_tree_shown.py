"""Links as a mount shows them: a kernel that follows them by itself gets to where the guest meant, and never out of the tree.

``Kernel`` resolves paths as path_resolution(7) says, with no knowledge of guests; leaving the tree is an error of the test.
"""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.guest_sets import bind, linux, mount, tree_of, windows
from contract.memory_filesystem import MemoryFileSystem
from mntapi.errors import Corrupt, MntapiError, NotADirectory, NotFound, ReadFailed, Unsupported
from mntapi.guests.files import LinkLoop
from mntapi.guests.types import Guest, MountKind, MountPoint
from mntapi.session.guest_tree import GuestTree, ShownTree, shown
from mntapi.session.guest_tree.shown import Stale
from mntapi.session.paths import trail_of
from mntapi.types import Entry, FileKind, Node
from mntapi_fuse.treefs import TreeFs


class Kernel:
    """What a kernel makes of the tree, seen through FUSE."""

    def __init__(self, tree: GuestTree) -> None:
        self.shown = ShownTree(tree)

    def resolve(self, path: str) -> int:
        """The number in the guest's tree of what the path leads to, all links followed."""
        trail: list[Node] = []
        todo = path.split("/")[::-1]
        for _ in range(500):
            if not todo:
                return shown._plain((trail[-1] if trail else self.shown.root).inode)
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                assert trail, "out of the mount"
                trail.pop()
                continue
            here = trail[-1] if trail else self.shown.root
            if here.kind is not FileKind.DIRECTORY:
                raise NotADirectory("is not a folder")
            node = self.shown.lookup(here, name)
            if node.kind is not FileKind.SYMLINK:
                trail.append(node)
                continue
            target = self.shown.readlink(node)
            assert not target.startswith("/"), "out of the mount"
            todo.extend(target.split("/")[::-1])
        raise LinkLoop("too many symbolic links")


def paths(tree: GuestTree, top: str = "", depth: int = 4) -> list[str]:
    folder = trail_of(tree, top.split("/")[1:])[-1].node if top else tree.root
    found = []
    for name, node in tree.scan(folder) if not folder.reason else ():
        found.append(f"{top}/{name}")
        if node.kind is FileKind.DIRECTORY and depth:
            found += paths(tree, f"{top}/{name}", depth - 1)
    return found


def outcome(find: object, *arguments: object) -> object:
    try:
        return find(*arguments)
    except (NotFound, NotADirectory, LinkLoop):
        return None


def agrees(tree: GuestTree) -> None:
    """Every path leads to the same through the mount as in the guest."""
    kernel = Kernel(tree)
    for path in paths(tree):
        want = outcome(lambda names: trail_of(tree, names, follow_last=True), path.split("/")[1:])
        number = None if want is None else (want[-1].node if want else tree.root).inode
        assert outcome(kernel.resolve, path) == number, path


ROOT = {
    "etc": {
        "fstab": b"",
        "abs": "/usr/share/zone",
        "up": "../../../../etc/fstab",
        "own": "./fstab",
        "dir": "/usr/",
        "top": "/",
    },
    "usr": {"share": {"zone": b"UTC", "back": "../../etc/abs", "deep": "/home/ann/abs"}, "lib": "/lib"},
    "lib": {"so": b""},
    "home": {},
    "odd": {
        "inner": "../usr/../etc/fstab",
        "through": "../etc/dir/../etc/fstab",
        "absolute": "/etc/dir/../../../etc/./fstab",
        "dangling": "gone/../inner",
        "file": "../etc/fstab/../fstab",
        "climb": "x/../../../../etc/fstab",
        "x": {},
        "loop": "loop",
        "own": "../odd/./own",
    },
}
HOME = {
    "ann": {"abs": "/home/ann/here", "here": b"", "up": "../../etc/fstab", "root": "/etc/fstab", "in": "../ann/../ann/here"}
}
COPIES = {"old": {"base": "id:home"}, "older": {"base": "id:root"}}
SET = {"root": ROOT, "home": HOME, "old": HOME, "older": ROOT, "data": HOME}
LINUX = linux(mount("/home", "home"), bind("/home/ann/here2", "/etc"), mount("/home/ann/data", "data"))
C = {
    "Users": {"ann": {"cookies": "C:/Users/ann/data", "data": {"f": b""}, "d": "D:/", "raw": "../ann/data"}},
    "docs": "c:/Users/",
    "rooted": "/Users/ann",
    "share": "//server/share/x",
    "unc": "UNC/server/share",
    "guid": "//?/Volume{11111111-2222-3333-4444-555555555555}/f",
    "lost": "Volume{99999999-2222-3333-4444-555555555555}/",
    "device": "//?/C:/Users",
    "pipe": "/??/pipe/x",
    "up": "../../Users",
}
PC = windows(mount("C:\\", "c"), mount("D:\\", "d"), mount("C:\\Users\\ann\\data\\", "e"))


@pytest.mark.parametrize("guests", [(LINUX,), (LINUX, LINUX)])
def test_a_kernel_gets_where_the_guest_meant(guests: tuple[Guest, ...]) -> None:
    agrees(tree_of(SET, *guests, details=COPIES))


@pytest.mark.parametrize("count", [1, 2])
def test_drives_too(count: int) -> None:
    tree = tree_of({"c": C, "d": {"x": b"", "back": "C:/docs"}, "e": {"f": b"", "up": "../raw", "top": "/docs"}}, *[PC] * count)
    agrees(tree)


def test_a_link_to_a_volume_by_its_guid() -> None:
    name = "\\\\?\\Volume{11111111-2222-3333-4444-555555555555}\\"
    guest = windows(mount("C:\\", "c"), MountPoint("X:\\", MountKind.VOLUME, name, volume="id:d"))
    tree = tree_of({"c": C, "d": {"f": b"found"}}, guest)
    assert [entry.name for entry in trail_of(tree, ["C:", "guid"], follow_last=True)] == ["X:", "f"]
    agrees(tree)


def test_what_is_shown() -> None:
    tree = tree_of(SET, LINUX, details=COPIES)
    fs = TreeFs(ShownTree(tree))

    def target(path: str) -> str:
        number = 1
        for name in path.split("/"):
            found = fs.lookup(number, name.encode())
            number = found.number
        assert found.node.size == len(fs.readlink(number))
        return fs.readlink(number).decode()

    assert target("etc/abs") == "../usr/share/zone" and target("etc/own") == "./fstab" and target("etc/top") == ".."
    assert target("etc/up") == "../etc/fstab" and target("usr/lib") == "../lib"
    assert target("home/ann/up") == "../../etc/fstab" and target("home/ann/abs") == "../../home/ann/here"
    assert target("home/@old/ann/abs") == "../../../home/@old/ann/here" and target("home/@old/ann/up") == "../../../etc/fstab"
    assert target("@older/etc/abs") == "../../@older/usr/share/zone"
    assert (
        target("volumes/data/ann/root") == "../../../volumes/data/etc/fstab"
        if "volumes" in dict(tree.scan(tree.root))
        else True
    )
    assert target("older/etc/abs") == "../../older/usr/share/zone"


def test_numbers_are_stateless_and_hard_links_have_one() -> None:
    tree = tree_of(SET, LINUX)
    one, other = TreeFs(ShownTree(tree)), TreeFs(ShownTree(tree))
    etc = one.lookup(1, b"etc").number
    for name in (b"abs", b"fstab"):
        found = one.lookup(etc, name)
        assert other.getattr(found.number) == found
        if name == b"abs":
            assert other.readlink(found.number) == b"../usr/share/zone"
    assert {entry.name: entry.attributes for entry in other.readdir(etc)}[b"abs"] == one.lookup(etc, b"abs")
    plain = tree.lookup(tree.lookup(tree.root, "etc"), "fstab")
    assert one.lookup(etc, b"fstab").node.inode == plain.inode


def test_a_link_that_needs_its_folder_asks_the_kernel_to_look_it_up_again() -> None:
    tree = tree_of(SET, LINUX)
    one, other = ShownTree(tree), ShownTree(tree)
    link = one.lookup(one.lookup(one.root, "odd"), "inner")
    assert one.readlink(link) == "../etc/fstab"
    assert other.node(link.inode).size == len("../usr/../etc/fstab")
    with pytest.raises(Stale) as caught:
        other.readlink(link)
    assert caught.value.errno == errno.ESTALE
    other.lookup(other.lookup(other.root, "odd"), "inner")
    assert other.readlink(link) == "../etc/fstab"


def test_what_is_remembered_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "MAX_KNOWN", 3)
    tree = ShownTree(tree_of(SET, LINUX))
    odd = tree.lookup(tree.root, "odd")
    links = {entry.name: entry.node for entry in tree.scan(odd) if entry.node.kind is FileKind.SYMLINK}
    assert len(tree._known) <= 3
    with pytest.raises(Stale):
        tree.readlink(links["inner"])


class Looping(MemoryFileSystem):
    """A damaged file system: ``a/b`` holds ``a`` again, and the root."""

    def scan(self, directory: Node):
        yield from super().scan(directory)
        if directory.inode == self.inner:
            yield Entry("again", self.lookup(self.root, "a"))
            yield Entry("top", self.root)

    @property
    def inner(self) -> int:
        return next(number for number, held in self._content.items() if isinstance(held, dict) and "end" in held)


def test_folders_that_loop_are_not_entered() -> None:
    tree = tree_of({"root": {}}, linux())
    tree.places.all[0]._opened = tree.places.all[0].origin._replace(filesystem=(fs := Looping({"a": {"b": {"end": b""}}})))
    tree.places.all[0]._opened = tree.places.all[0]._opened._replace(root=fs.root)
    kernel = TreeFs(ShownTree(tree))
    inner = kernel.lookup(kernel.lookup(1, b"a").number, b"b")
    names = {entry.name: entry.attributes.number for entry in kernel.readdir(inner.number)}
    assert set(names) == {b"end", b"again", b"top"}
    for name in (b"again", b"top"):
        assert kernel.getattr(names[name]).node.kind is FileKind.DIRECTORY
        with pytest.raises(Corrupt, match="loops"):
            list(kernel.readdir(names[name]))
        with pytest.raises(Corrupt, match="loops"):
            kernel.lookup(names[name], b"b")


def test_what_is_too_deep_keeps_its_files_but_not_its_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "_LOOP", 8)
    content: dict[str, object] = {"link": "/x", "inner": "a/../b", "file": b"1"}
    for _ in range(10):
        content = {"d": content}
    tree = ShownTree(tree_of({"root": content}, linux()))
    here = tree.root
    for _ in range(10):
        here = tree.lookup(here, "d")
    assert tree.open(tree.lookup(here, "file")).size == 1
    with pytest.raises(Unsupported, match="too deep"):
        tree.readlink(tree.lookup(here, "link"))


def test_targets_no_link_can_have_are_refused_as_ever() -> None:
    tree = TreeFs(ShownTree(tree_of({"root": {"empty": "", "nul": "a\0b"}}, linux())))
    for name in (b"empty", b"nul"):
        with pytest.raises(Corrupt, match="no Linux link"):
            tree.readlink(tree.lookup(1, name).number)


def test_a_target_that_cannot_be_read_is_told_when_it_is_asked_for() -> None:
    tree = tree_of({"root": {"link": "/x"}}, linux())

    def unreadable(_link: Node) -> str:
        raise ReadFailed("bad sector")

    tree.places.all[0].origin.filesystem.readlink = unreadable
    shown_tree = ShownTree(tree)
    link = shown_tree.lookup(shown_tree.root, "link")
    assert link.size == 2
    with pytest.raises(ReadFailed):
        shown_tree.readlink(link)


NAMES = st.sampled_from(["a", "b", "c", "..", ".", "@old"])
TARGETS = st.builds(
    lambda top, names: top + "/".join(names), st.sampled_from(["", "/", "../", "../../"]), st.lists(NAMES, max_size=5)
)
FOLDERS = st.recursive(
    st.one_of(st.binary(max_size=2), TARGETS),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=10,
).filter(lambda one: isinstance(one, dict))


@settings(deadline=None, max_examples=200)
@given(FOLDERS, FOLDERS, st.sampled_from(["/a", "/b", "/a/b", "/c/a"]))
def test_no_links_lead_anywhere_else(root: dict[str, object], other: dict[str, object], path: str) -> None:
    content = {"root": root, "other": other, "old": other, "older": root}
    details = {"old": {"base": "id:other"}, "older": {"base": "id:root"}}
    agrees(tree_of(content, linux(mount(path, "other")), details=details))


def test_the_rest_is_the_trees() -> None:
    tree = ShownTree(tree_of(SET, LINUX))
    assert tree.kind == "guest" and tree.capacity().total and tree.xattrs(tree.root) == {}
    tree.close()
    with pytest.raises(MntapiError):
        tree.node(12345)
