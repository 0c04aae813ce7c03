"""What lies on what, and how it is drawn. The volumes are made here: what is drawn of them is written out by hand."""

from __future__ import annotations

from contextlib import ExitStack
from xml.etree import ElementTree

from mntapi.blocks import Zero
from mntapi.cli.info_page import bar, page
from mntapi.cli.info_svg import draw
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


def test_the_picture_is_well_formed_whatever_the_names() -> None:
    hostile = volume("<script>\x1b[2J&", "lvm", "id:disk0", disk=None)
    tree = ElementTree.fromstring(draw(_disk_set(hostile)))
    titles = [title.text for title in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 8 and any("<script>\\x1b[2J&" in str(title) for title in titles)
    assert not list(tree.iter("{http://www.w3.org/2000/svg}script"))


def test_bars() -> None:
    assert bar(None) == bar(Capacity(total=10)) == bar(Capacity(total=0, free=0)) == ""
    assert bar(Capacity(total=100, free=0)) == "██████████ 100%"
    assert bar(Capacity(total=100, free=100)) == "░░░░░░░░░░   0%"
    assert bar(Capacity(total=100, free=58)) == "████░░░░░░  42%"


def _disk_set(*more: Volume) -> DiskSet:
    images = [Image(f"{one.name}.raw", "raw", one.blocks, ()) for one in DISKS]
    return DiskSet(images, Found([*VOLUMES, *more], CONTAINERS), ExitStack())
