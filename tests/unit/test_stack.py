"""What lies on what, and how it is drawn. The volumes are made here: what is drawn of them is written out by hand."""

from __future__ import annotations

from contextlib import ExitStack
from xml.etree import ElementTree

from mntapi.blocks import Zero
from mntapi.cli.info_page import bar, page
from mntapi.cli.info_svg import MAX_BOXES, draw
from mntapi.session.diskset import DiskSet
from mntapi.session.stack import Stack
from mntapi.types import Capacity, Image, Volume, VolumeState
from mntapi.units import MIB
from mntapi.volumes.scan import Found


def volume(name: str, kind: str, *members: str, size: int = MIB, state: VolumeState = VolumeState.OK, **fields) -> Volume:
    return Volume(id=f"id:{name}", name=name, kind=kind, blocks=Zero(size), members=members, state=state, **fields)


DISKS = [volume("disk0", "disk", disk=0, offset=0, size=4 * MIB), volume("disk1", "disk", disk=1, offset=0, size=2 * MIB)]
PARTS = [
    volume("disk0p1", "partition", "id:disk0", disk=0, offset=0),
    volume("disk0p2", "partition", "id:disk0", disk=0, offset=MIB, size=3 * MIB),
]
ROOT = volume("vg-root", "lvm", "id:disk0p2")
DATA = volume("vg-data", "lvm", "id:disk0p2", "id:disk1", state=VolumeState.INCOMPLETE, reason="physical volume x is missing")
COPY = volume("disk0p1@2026", "vss", details={"base": "id:disk0p1"})
VOLUMES, CONTAINERS = [PARTS[0], ROOT, DATA, COPY], [*DISKS, PARTS[1]]


def test_what_lies_on_what() -> None:
    stack = Stack(VOLUMES, CONTAINERS)
    assert [one.name for one in stack.below(DATA)] == ["disk0", "disk1", "disk0p2"]
    assert [one.name for one in stack.below(DISKS[0])] == []
    assert [one.name for one in stack.above(PARTS[1])] == ["vg-root", "vg-data"]
    shape = [(tree.volume.name, [inner.volume.name for inner in tree.branches]) for tree in stack.trees()]
    assert shape == [("disk0", ["disk0p2", "disk0p1"]), ("disk1", []), ("vg-data", [])]
    below = next(iter(stack.trees())).branches
    assert [one.volume.name for branch in below for one in branch.branches] == ["vg-root", "disk0p1@2026"]


def test_the_page() -> None:
    lines = list(page(_disk_set(), verbose=False))
    assert any(line.startswith("│  └─ vg-root") for line in lines)
    assert any(line.startswith("   └─ disk0p1@2026") for line in lines)
    assert any(line.startswith("├─ disk0p2") and "lvm, part of vg-data" in line for line in lines)
    assert any(line.startswith("vg-data") and "on disk0p2, disk1" in line for line in lines)
    assert "vg-data  incomplete: physical volume x is missing" in lines
    assert lines[-1] == "hint: incomplete: give all disks of the machine, each with -d"


def test_a_missing_disk_is_told_once() -> None:
    """With all that it hurts; what else is wrong with one of those is told with that."""
    gone = "PV abc is missing (it was /dev/sdb)"
    more = [
        volume("vg-\x1bhome", "lvm", state=VolumeState.INCOMPLETE, reason=f"{gone}; PV xyz is missing"),
        volume("vg-var", "lvm", state=VolumeState.DEGRADED, reason=gone),
        volume("vg-mail", "lvm", state=VolumeState.DEGRADED, reason=f"{gone}; {gone}; image 1 is old"),
    ]
    lines = [line for line in page(_disk_set(*more), verbose=False) if "nothing that is known" not in line]
    assert lines[-lines[::-1].index("") :] == [
        gone,
        "       incomplete: vg-\\x1bhome",
        "       degraded: vg-var, vg-mail",
        "vg-data  incomplete: physical volume x is missing",
        "vg-\\x1bhome  incomplete: PV xyz is missing",
        "vg-mail  degraded: image 1 is old",
        "hint: incomplete: give all disks of the machine, each with -d",
        "hint: degraded: all of it can be read; a disk that is missing can be given with -d",
    ]


def test_a_disk_that_many_lie_on() -> None:
    """Of very many volumes the first are named; ``-v`` names them all."""
    many = [volume(f"vg-{number}", "lvm", state=VolumeState.DEGRADED, reason="PV abc is missing") for number in range(14)]
    named = ", ".join(one.name for one in many[:12])
    assert f"       degraded: {named} and 2 more" in list(page(_disk_set(*many), verbose=False))
    assert f"       degraded: {named}, vg-12, vg-13" in list(page(_disk_set(*many), verbose=True))


def test_what_is_said_of_a_volume_that_is_all_right() -> None:
    told = volume("vg-twin", "lvm", reason="PV abc is there 2 times")
    assert "vg-twin  PV abc is there 2 times" in list(page(DiskSet([], Found([], [told]), ExitStack()), verbose=False))


SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_is_well_formed_whatever_the_names() -> None:
    hostile = volume("<script>\x1b[2J&\ud800\ufffe", "lvm", "id:disk0", disk=None)
    tree = ElementTree.fromstring(draw(_disk_set(hostile)))
    titles = [str(title.text) for title in tree.iter(f"{SVG}title")]
    assert len(titles) == 9 and any("<script>\\x1b[2J&\\ud800\\ufffe" in title for title in titles)
    assert not list(tree.iter(f"{SVG}script"))


def test_the_picture_says_what_it_is() -> None:
    """To screen readers, and what the colours mean that are in it."""
    tree = ElementTree.fromstring(draw(_disk_set()))
    title, description = tree.find(f"{SVG}title"), tree.find(f"{SVG}desc")
    assert title is not None and description is not None
    assert tree.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert title.text == "2 disks with 4 volumes"
    assert str(description.text).endswith("Volumes: 3 unknown, 1 incomplete.")
    assert _texts(tree)[-3:] == ["something lies on it", "incomplete: a part is missing", "unknown"]
    assert any(text.startswith("lvm · 1.00 MiB · incomplete on disk") for text in _texts(tree))


def test_what_a_box_has_no_room_for_stands_beside_it() -> None:
    """Its own name fits, what it holds does not."""
    texts = _texts(ElementTree.fromstring(draw(_disk_set(volume("md-0", "md", size=MIB // 4)))))
    assert texts[texts.index("md-0") + 1] == "md · 256 KiB"


def test_one_disk_is_not_several() -> None:
    disk = Image("a.raw", "raw", DISKS[0].blocks, ())
    title = ElementTree.fromstring(draw(DiskSet([disk], Found([DISKS[0]], []), ExitStack()))).find(f"{SVG}title")
    assert title is not None and title.text == "1 disk with 1 volume"


def test_boxes_too_narrow_for_their_names_are_named_below() -> None:
    many = [volume(f"vg-{number:03}", "lvm", "id:disk1", size=4096) for number in range(20)]
    texts = _texts(ElementTree.fromstring(draw(_disk_set(*many))))
    listed = [text for text in texts if text.startswith("vg-0")]
    assert listed == [f"vg-{number:03}  lvm · 4.00 KiB" for number in range(11)]
    assert "and 9 more" in texts


def test_a_picture_has_an_end() -> None:
    many = [volume(f"vg-{number}", "lvm", size=4096) for number in range(MAX_BOXES)]
    tree = ElementTree.fromstring(draw(_disk_set(*many)))
    assert f"only {MAX_BOXES} volumes are drawn" in _texts(tree)
    assert len(list(tree.iter(f"{SVG}g"))) == MAX_BOXES


def _texts(tree: ElementTree.Element) -> list[str]:
    return [str(text.text) for text in tree.iter(f"{SVG}text")]


def test_bars() -> None:
    assert bar(None) == bar(Capacity(total=10)) == bar(Capacity(total=0, free=0)) == ""
    assert bar(Capacity(total=100, free=0)) == "██████████ 100%"
    assert bar(Capacity(total=100, free=100)) == "░░░░░░░░░░   0%"
    assert bar(Capacity(total=100, free=58)) == "████░░░░░░  42%"


def _disk_set(*more: Volume) -> DiskSet:
    images = [Image(f"{one.name}.raw", "raw", one.blocks, ()) for one in DISKS]
    return DiskSet(images, Found([*VOLUMES, *more], CONTAINERS), ExitStack())
