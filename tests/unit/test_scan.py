"""The scan loop: nesting, members that arrive late, schemes that fail, limits, ids and names.

The schemes here are toys, small enough to see what the right answer is; tables are made by sfdisk.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from mntapi.blocks import Concat, Fault, HostFile, Slice, read
from mntapi.errors import Corrupt, MntapiError, ReadFailed, Unsupported
from mntapi.keys import Keys
from mntapi.types import Blocks, Image, Scheme, Volume, VolumeState
from mntapi.volumes import mbr
from mntapi.volumes import scan as scan_module
from mntapi.volumes.scan import SCHEMES, load, scan

SECTOR = 512
needs_sfdisk = pytest.mark.skipif(shutil.which("sfdisk") is None, reason="sfdisk is not installed")


class Pool:
    """A toy volume manager. A member begins ``POOL``, group, its index, how many there are; the rest is its share."""

    name = "pool"
    _LABEL = struct.Struct("<4s4sBB")

    @classmethod
    def label(cls, group: bytes, index: int, total: int) -> bytes:
        return cls._LABEL.pack(b"POOL", group, index, total).ljust(SECTOR, b"\0")

    def claims(self, volume: Volume) -> bool:
        return _begins(volume, b"POOL")

    def volumes(self, claimed: Sequence[Volume]) -> Iterator[Volume]:
        groups: dict[bytes, dict[int, Volume]] = {}
        totals = {}
        for volume in claimed:
            _, group, index, total = self._LABEL.unpack(read(volume.blocks, 0, self._LABEL.size))
            groups.setdefault(group, {})[index] = volume
            totals[group] = total
        for group, members in groups.items():
            parts = [members[index] for index in sorted(members)]
            missing = totals[group] - len(parts)
            yield Volume(
                id=f"pool:{group.decode()}",
                name=group.decode(),
                kind="pool",
                blocks=Concat([Slice(part.blocks, SECTOR, part.size - SECTOR) for part in parts]),
                state=VolumeState.INCOMPLETE if missing else VolumeState.OK,
                reason=f"{missing} members are missing" if missing else None,
                members=tuple(part.id for part in parts),
            )


class Wrap:
    """A toy encryption: ``WRAP`` in the first sector, the plain volume behind it."""

    name = "wrap"
    LABEL = b"WRAP".ljust(SECTOR, b"\0")

    def claims(self, volume: Volume) -> bool:
        return _begins(volume, b"WRAP")

    def volumes(self, claimed: Sequence[Volume]) -> Iterator[Volume]:
        for volume in claimed:
            yield _inside(volume, f"wrap:{volume.id}")


class Mirror(Pool):
    """A mirror on a pool; it lacks a copy, which is no loss to it."""

    name = "mirror"

    def claims(self, volume: Volume) -> bool:
        return volume.kind == "pool"

    def volumes(self, claimed: Sequence[Volume]) -> Iterator[Volume]:
        for volume in claimed:
            yield replace(_inside(volume, "mirror:m"), state=VolumeState.DEGRADED, reason="a copy is missing")


class Bad:
    """A scheme that claims what begins ``BAD`` and fails in the ways told."""

    name = "bad"

    def __init__(self, *, claim_error: MntapiError | None = None, error: MntapiError | None = None) -> None:
        self._claim_error = claim_error
        self._error = error

    def claims(self, volume: Volume) -> bool:
        if self._claim_error is not None and _begins(volume, b"BAD"):
            raise self._claim_error
        return _begins(volume, b"BAD")

    def volumes(self, claimed: Sequence[Volume]) -> Iterator[Volume]:
        for volume in claimed:
            if read(volume.blocks, 3, 1) == b"!" and self._error is not None:
                raise self._error
            if read(volume.blocks, 3, 1) != b"0":
                yield _inside(volume, f"bad:{volume.id}")


class Endless:
    """Finds, in whatever it is shown, as many volumes as told; each looks like the one it is in."""

    name = "endless"

    def __init__(self, count: int) -> None:
        self._count = count

    def claims(self, volume: Volume) -> bool:
        return volume.size > 0

    def volumes(self, claimed: Sequence[Volume]) -> Iterator[Volume]:
        for volume in claimed:
            for number in range(self._count):
                yield replace(volume, id=f"endless:{volume.id}.{number}", name="same", members=(volume.id,))


def _begins(volume: Volume, magic: bytes) -> bool:
    return volume.size >= SECTOR and read(volume.blocks, 0, len(magic)) == magic


def _inside(volume: Volume, key: str) -> Volume:
    blocks = Slice(volume.blocks, SECTOR, volume.size - SECTOR)
    return replace(volume, id=key, name=f"{volume.name}-in", kind="inside", blocks=blocks, members=(volume.id,))


@pytest.fixture
def opened(tmp_path: Path):
    """Opens bytes, or a file that is there already, as a disk of that name."""
    with ExitStack() as stack:

        def open_(name: str, content: bytes | None = None) -> HostFile:
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            if content is not None:
                path.write_bytes(content)
            blocks = HostFile.open(str(path))
            stack.callback(blocks.close)
            return blocks

        yield open_


def partitioned(path: Path, script: str, contents: dict[int, bytes], size: int = 1 << 20) -> None:
    """A disk made by sfdisk, with bytes put at byte offsets."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as out:
        out.truncate(size)
    subprocess.run(["sfdisk", "-q", "--no-reread", str(path)], input=script, text=True, check=True, capture_output=True)
    with path.open("r+b") as out:
        for offset, content in contents.items():
            out.seek(offset)
            out.write(content)


def test_the_table_of_schemes_loads() -> None:
    schemes = load(SCHEMES, Keys())
    assert len({scheme.name for scheme in schemes}) == len(SCHEMES)
    assert mbr in schemes


def test_a_disk_without_anything_is_a_volume(opened) -> None:
    first, second = opened("a.raw", bytes(4096)), opened("b.raw", b"x" * 4096)
    one, two = scan([first, second])
    assert (one.id, one.name, one.kind, one.disk, one.offset, one.size) == ("disk:a.raw", "disk0", "disk", 0, 0, 4096)
    assert (two.id, two.name, two.disk) == ("disk:b.raw", "disk1", 1)
    assert one.blocks is first
    assert two.state is VolumeState.OK


def test_no_disks_and_empty_disks(opened) -> None:
    assert scan([]) == []
    assert [volume.size for volume in scan([opened("empty", b"")])] == [0]


def test_images_give_their_path(opened) -> None:
    blocks = opened("disk.vmdk", bytes(4096))
    image = Image(path="/vm/web01.vmdk", format="vmdk", blocks=Fault(blocks, bad=[(0, 512)]), chain=())
    (volume,) = scan([image])
    assert volume.id == "disk:web01.vmdk"
    assert volume.reason == "/vm/web01.vmdk: cannot be read: injected fault (at byte 0)"


@needs_sfdisk
def test_members_at_different_depths(tmp_path: Path, opened) -> None:
    """One member is a whole disk, the other a partition, found a round later: one volume, complete, listed once."""
    partitioned(tmp_path / "b", "label: dos\nstart=8, size=16", {8 * SECTOR: Pool.label(b"data", 1, 2) + b"B" * 15 * SECTOR})
    whole = Pool.label(b"data", 0, 2) + b"A" * SECTOR
    for order in (0, 1):
        disks = [opened("a", whole), opened("b")]
        volumes = scan(disks[:: -1 if order else 1], [*load(SCHEMES, Keys()), Pool()])
        assert [(volume.id, volume.state, volume.reason) for volume in volumes] == [("pool:data", VolumeState.OK, None)]
        assert read(volumes[0].blocks, 0, volumes[0].size) == b"A" * SECTOR + b"B" * 15 * SECTOR
        assert volumes[0].disk is None


def test_a_member_inside_an_encrypted_volume(opened) -> None:
    """A pool on an encrypted volume inside a pool, and a second member of the outer pool that comes late."""
    inner = Pool.label(b"innr", 0, 1) + b"I" * SECTOR
    first = Pool.label(b"outr", 0, 2) + Wrap.LABEL
    second = Wrap.LABEL + Pool.label(b"outr", 1, 2) + inner
    volumes = scan([opened("a", first), opened("b", second)], [Pool(), Wrap()])
    assert [(volume.id, volume.state) for volume in volumes] == [("pool:innr", VolumeState.OK)]
    assert read(volumes[0].blocks, 0, SECTOR) == b"I" * SECTOR
    assert volumes[0].members == ("wrap:pool:outr",)


def test_a_missing_member(opened) -> None:
    (volume,) = scan([opened("a", Pool.label(b"data", 0, 2) + b"A" * SECTOR)], [Pool()])
    assert (volume.state, volume.reason) == (VolumeState.INCOMPLETE, "1 members are missing")


def test_what_lies_on_a_part_is_no_longer_just_degraded(opened) -> None:
    (volume,) = scan([opened("a", Pool.label(b"data", 0, 2) + bytes(1 << 10))], (Pool(), Mirror()))
    assert (volume.kind, volume.state) == ("inside", VolumeState.INCOMPLETE)
    assert volume.reason == "a copy is missing; lies on data, which is incomplete"


def test_an_incomplete_volume_is_looked_into_at_last(opened) -> None:
    """Half of an encrypted volume: what there is of it is shown."""
    (volume,) = scan([opened("a", Pool.label(b"data", 0, 2) + Wrap.LABEL + b"plain".ljust(SECTOR))], [Pool(), Wrap()])
    assert volume.id == "wrap:pool:data"
    assert read(volume.blocks, 0, 5) == b"plain"


@needs_sfdisk
def test_a_table_inside_a_logical_volume(tmp_path: Path, opened) -> None:
    """A guest's disk stored in a volume of the host."""
    partitioned(tmp_path / "inner", "label: dos\nlabel-id: 0x12345678\nstart=8, size=8", {8 * SECTOR: b"guest"})
    disk = opened("outer", Pool.label(b"data", 0, 1) + (tmp_path / "inner").read_bytes())
    (volume,) = scan([disk], [Pool(), *load(SCHEMES, Keys())])
    assert (volume.id, volume.name, volume.members) == ("mbr:12345678-01", "datap1", ("pool:data",))
    assert (volume.disk, volume.offset) == (None, None)
    assert read(volume.blocks, 0, 5) == b"guest"


@needs_sfdisk
def test_a_partition_is_not_searched_for_tables(tmp_path: Path, opened) -> None:
    """A boot loader in a partition's first sector carries a copy of the disk's table."""
    partitioned(tmp_path / "disk", "label: dos\nstart=8, size=800", {})
    sector = (tmp_path / "disk").read_bytes()[:SECTOR]
    partitioned(tmp_path / "disk", "label: dos\nstart=8, size=800", {8 * SECTOR: sector})
    assert [volume.name for volume in scan([opened("disk")])] == ["disk0p1"]


def test_the_first_scheme_that_claims_gets_it(opened) -> None:
    class Rival(Wrap):
        name = "rival"

    disk = opened("a", Wrap.LABEL + bytes(SECTOR))
    schemes: list[Scheme] = [Rival(), Wrap()]
    assert [volume.id for volume in scan([disk], schemes)] == ["wrap:disk:a"]


def test_what_was_claimed_and_gave_nothing_stays_listed(opened) -> None:
    (volume,) = scan([opened("a", b"BAD0".ljust(SECTOR))], [Bad()])
    assert (volume.id, volume.state) == ("disk:a", VolumeState.OK)


def test_a_scheme_that_cannot_tell(opened) -> None:
    """The other schemes are still asked; only if none claims does the error show."""
    trouble = ReadFailed("cannot be read: bad luck", offset=7)
    bad, wrapped = opened("a", b"BAD".ljust(SECTOR)), opened("b", Wrap.LABEL + bytes(SECTOR))
    one, two = scan([bad, wrapped], [Bad(claim_error=trouble), Wrap()])
    assert (one.id, one.state) == ("disk:a", VolumeState.DAMAGED)
    assert one.reason is not None and one.reason.endswith("/a: cannot be read: bad luck (at byte 7)")
    assert two.id == "wrap:disk:b"
    assert [v.state for v in scan([bad], [Bad(claim_error=Unsupported("too new"))])] == [VolumeState.UNSUPPORTED]
    assert [v.state for v in scan([bad], [Bad(claim_error=trouble), Bad()])] == [VolumeState.OK]


def test_a_scheme_that_fails_hides_nothing(opened) -> None:
    disks = [opened("a", b"BAD1".ljust(1024)), opened("b", b"BAD!".ljust(1024)), opened("c", b"BAD2".ljust(1024))]
    volumes = scan(disks, [Bad(error=Corrupt("broken", path="b", offset=3))])
    assert [(volume.id, volume.state) for volume in volumes] == [
        ("bad:disk:a", VolumeState.OK),
        ("disk:b", VolumeState.DAMAGED),
        ("disk:c", VolumeState.DAMAGED),
    ]
    assert volumes[1].reason == "b: broken (at byte 3)"


def test_an_incomplete_volume_stays_incomplete(opened) -> None:
    disk = opened("a", Pool.label(b"data", 0, 2) + b"BAD".ljust(SECTOR))
    (volume,) = scan([disk], [Pool(), Bad(claim_error=Corrupt("broken"))])
    assert (volume.state, volume.reason) == (VolumeState.INCOMPLETE, "1 members are missing; broken")


def test_nesting_without_end(opened) -> None:
    (volume,) = scan([opened("a", bytes(SECTOR))], [Endless(1)])
    assert volume.state is VolumeState.UNSUPPORTED
    assert volume.reason is not None and "nested too deep" in volume.reason
    assert volume.id.count("endless") == scan_module.MAX_ROUNDS


def test_more_volumes_than_the_limit(opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found is listed, and so is what holds the rest. Other disks are not affected."""
    monkeypatch.setattr(scan_module, "MAX_VOLUMES", 50)
    volumes = scan([opened("a", bytes(SECTOR)), opened("b", bytes(SECTOR))], [Endless(30)])
    cut = [volume for volume in volumes if volume.kind == "disk" and volume.id in ("disk:a", "disk:b")]
    assert [(volume.id, volume.state) for volume in cut] == [("disk:b", VolumeState.UNSUPPORTED)]
    assert cut[0].reason is not None and "at most 50" in cut[0].reason
    assert sum(volume.id.startswith("endless:disk:a.") for volume in volumes) == 30


def test_a_scheme_that_never_ends(opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "MAX_VOLUMES", 50)
    volumes = scan([opened("a", bytes(SECTOR)), opened("b", bytes(SECTOR))], [Endless(1 << 60)])
    states = {volume.id: volume.state for volume in volumes}
    assert states["disk:a"] is states["disk:b"] is VolumeState.UNSUPPORTED
    assert len(volumes) <= 50


def test_names_are_made_distinct(opened) -> None:
    class Two(Endless):
        def claims(self, volume: Volume) -> bool:
            return volume.kind == "disk" and not volume.members

    assert [volume.name for volume in scan([opened("a", bytes(SECTOR))], [Two(3)])] == ["same", "same~2", "same~3"]


@needs_sfdisk
@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_copies_of_a_disk(tmp_path: Path, opened, label: str) -> None:
    """Same UUIDs on both: ids differ, do not depend on the order, and are the same in every run."""
    partitioned(tmp_path / "one.raw", f"label: {label}\nsize=8\nsize=8", {})
    shutil.copy(tmp_path / "one.raw", tmp_path / "two.raw")
    one, two = opened("one.raw"), opened("two.raw")
    ids = {volume.id: (volume.members, volume.offset) for volume in scan([one, two])}
    assert len(ids) == 4
    assert ids == {volume.id: (volume.members, volume.offset) for volume in scan([two, one])}
    alone = [volume.id for volume in scan([one])]
    assert all(any(key.startswith(f"{short}@disk:") and key.endswith("@one.raw") for key in ids) for short in alone)


@needs_sfdisk
def test_a_copy_of_a_disk_inside_another(tmp_path: Path, opened) -> None:
    """The copy is found rounds later than the disk: both are listed, and both once."""
    partitioned(tmp_path / "one", "label: dos\nlabel-id: 0x11111111\nstart=8, size=8\nstart=16, size=8", {})
    content = (tmp_path / "one").read_bytes()
    disks = [opened("one"), opened("outer", Wrap.LABEL + Wrap.LABEL + content), opened("deeper", Wrap.LABEL * 3 + content)]
    ids = [volume.id for volume in scan(disks, [Wrap(), *load(SCHEMES, Keys())])]
    assert len(ids) == len(set(ids)) == 6
    assert ids[:2] == ["mbr:11111111-01", "mbr:11111111-02"]
    assert ids[2:4] == ["mbr:11111111-01@wrap:wrap:disk:outer", "mbr:11111111-02@wrap:wrap:disk:outer"]


def test_disks_of_one_name(opened) -> None:
    disks: list[Blocks] = [opened("x/disk", bytes(512)), opened("y/disk", bytes(512)), opened("z", bytes(512))]
    ids = [volume.id for volume in scan([*disks, disks[0]])]
    assert len(set(ids)) == 4
    assert ids[1].endswith("/y/disk")
    assert ids[2] == "disk:z"
    assert ids[0].endswith("/x/disk#0")
    assert ids[3].endswith("/x/disk#3")


def test_a_file_named_to_clash(opened) -> None:
    """A name that looks like a qualified id of other disks."""
    disks = [opened("x/d", bytes(512)), opened("y/d", bytes(512)), opened("d@d", bytes(512))]
    assert len({volume.id for volume in scan(disks)}) == 3


def test_snapshots_of_copies_are_of_the_copy_beside_them(opened) -> None:
    """Whether both are found at once, or one rounds later than the other."""

    class Snapshots(Wrap):
        name = "snapshots"

        def claims(self, volume: Volume) -> bool:
            return _begins(volume, b"BASE")

        def volumes(self, claimed: Sequence[Volume]) -> Iterator[Volume]:
            for volume in claimed:
                yield _inside(volume, "base")
                yield replace(_inside(volume, "shot"), details={"base": "base"})

    content = b"BASE".ljust(2 * SECTOR, b"\0")
    disks = [opened("one", content), opened("two", content), opened("three", Wrap.LABEL + content)]
    for some, first in ((disks, "base@disk:one"), (disks[::2], "base")):
        found = scan(some, [Wrap(), Snapshots()])
        members = {volume.id: volume.members for volume in found}
        bases = [volume.details["base"] for volume in found if "base" in volume.details]
        assert bases[0] == first and bases[-1] == "base@wrap:disk:three" and len(set(bases)) == len(some)
        shots = [volume for volume in found if "base" in volume.details]
        assert all(members[one.details["base"]] == one.members for one in shots)
    alone = scan(disks[:1], [Snapshots()])
    assert [volume.details.get("base") for volume in alone] == [None, "base"]
