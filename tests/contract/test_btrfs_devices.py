"""btrfs over several devices, as the kernel read them, in any order, with devices missing, damaged, old or given twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import combinations
from pathlib import Path

import pytest

import mntapi
from contract.blocks_contract import check_blocks
from contract.btrfs_devices import FACTS, UNCHECKED, Bad, check, content, failures, filesystem_on, opened, unpack, volume_on
from contract.btrfs_editor import edited, spoiled
from contract.filesystem_contract import resolve
from contract.mounting import need, need_root, run
from mntapi.blocks import Concat, HostFile, Slice, Zero, read
from mntapi.blocks.writable import writable
from mntapi.errors import Corrupt, ReadFailed, Unsupported
from mntapi.filesystems.btrfs.chunks import PROFILES, parse_chunk
from mntapi.filesystems.btrfs.devices import read_devices
from mntapi.filesystems.btrfs.filesystem import BtrfsFileSystem
from mntapi.filesystems.btrfs.items import Type
from mntapi.types import Blocks, VolumeState
from mntapi.volumes.scan import find_volumes

MIB = 1 << 20
HEAD = 1 << 20
"""Bytes that a device keeps for its superblock; chunks come behind."""
SAFE = {"raid10": 1, "raid1c3": 2, "raid5": 1, "raid6": 2, "old": 1}
"""Devices that a set can lose."""

Opened = Callable[[str], list[HostFile]]


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Path]]:
    kept: dict[str, list[Path]] = {}

    def devices(name: str) -> list[Path]:
        if name not in kept:
            kept[name] = unpack(name, tmp_path_factory.mktemp(f"btrfs-{name}"))
        return kept[name]

    return devices


@pytest.fixture
def devices(unpacked: Callable[[str], list[Path]]) -> Iterator[Opened]:
    """The devices of a set, opened."""
    with ExitStack() as stack:
        yield lambda name: [stack.enter_context(closing(blocks)) for blocks in opened(unpacked(name))]


def says(path: Path | str, key: str) -> str:
    """What btrfs-progs read in a superblock."""
    need("btrfs")
    told = run("btrfs", "inspect-internal", "dump-super", Path(path))
    return next(line.split()[1] for line in told.splitlines() if line.startswith(key))


# all devices


@pytest.mark.parametrize("name", [name for name in FACTS if name != "folders"])
def test_files_are_what_the_kernel_read(devices: Opened, name: str) -> None:
    some = devices(name)
    check(some, name)
    check(some[::-1], name)


def test_profiles_that_the_sets_have() -> None:
    spread = {name: {one for one in fact["profiles"] if one.startswith("Data")} for name, fact in FACTS.items()}
    assert spread["mixed"] == {"Data RAID1", "Data single"}
    assert {one for name in spread for one in spread[name]} == {
        f"Data {profile}" for profile in ("RAID0", "RAID1", "RAID10", "RAID1C3", "RAID5", "RAID6", "single")
    }


def test_the_volume(devices: Opened) -> None:
    some = devices("raid10")
    found = find_volumes(some[::-1])
    (volume,) = found.volumes
    assert (volume.id, volume.name) == (f"btrfs:{says(some[0].path, 'fsid')}", "btrfs-raid10")
    assert (volume.kind, volume.state, volume.reason, volume.disk) == ("btrfs", VolumeState.OK, None, None)
    assert set(volume.members) == {container.id for container in found.containers}
    assert volume.size == sum(int(says(one.path, "dev_item.total_bytes")) for one in some)
    for number, one in enumerate(some, 1):
        assert says(one.path, "dev_item.uuid") in volume.details[f"device-{number}"]
    assert [container.details["device"] for container in found.containers] == ["4", "3", "2", "1"]
    with pytest.raises(Unsupported, match="several devices is not written"):
        writable(volume.blocks)


def test_its_blocks(devices: Opened) -> None:
    some = devices("raid0")
    check_blocks(volume_on(some).blocks, lambda offset, length: one_after_the_other(some, offset, length), ranges=20)


def one_after_the_other(devices: Sequence[HostFile], offset: int, length: int) -> bytes:
    """A range of the devices' bytes, each of which is as long as its file."""
    found = b""
    for device in devices:
        count = min(length, max(0, device.size - offset))
        if count:
            found += read(device, offset, count)
        offset, length = max(0, offset - device.size), length - count
    return found


def test_a_set_is_opened(devices: Opened) -> None:
    with mntapi.open_disks(*[one.path for one in devices("raid5")]) as disks:
        (volume,) = disks.volumes
        assert disks.content(volume).state is VolumeState.OK
        capacity = disks.capacity(volume)
        assert capacity is not None and capacity.total == volume.size


def test_devices_in_partitions_of_other_sizes(devices: Opened) -> None:
    """A partition may be larger than its device; the place of the next one does not depend on that."""
    one, other = devices("raid0")
    check([Concat([one, Zero(3 * MIB)]), other], "raid0")
    cut = volume_on([Slice(one, 0, one.size - MIB), other])
    assert cut.state is VolumeState.INCOMPLETE
    assert cut.reason is not None and "device 1 (uuid" in cut.reason and "goes past the end of disk0" in cut.reason
    assert failures([Slice(one, 0, one.size - MIB), other], "raid0") == {}


def test_a_device_on_a_partition(devices: Opened, tmp_path: Path) -> None:
    need("sfdisk")
    one, other = devices("raid0")
    disk = tmp_path / "disk"
    with disk.open("wb") as out:
        out.truncate(one.size + 2 * MIB)
    run("sfdisk", "-q", "--no-reread", disk, stdin=f"label: gpt\nstart=2048, size={one.size // 512}\n")
    with closing(HostFile.open(str(disk))) as table:
        check([Concat([Slice(table, 0, MIB), one, Slice(table, MIB + one.size, MIB)]), other], "raid0")


# missing devices


@pytest.mark.parametrize("name", SAFE)
def test_devices_that_redundancy_replaces(devices: Opened, name: str) -> None:
    some = devices(name)
    for count in range(1, SAFE[name] + 1):
        for gone in combinations(range(len(some)), count):
            left = [one for index, one in enumerate(some) if index not in gone]
            if name == "old" and gone == (0,):
                continue  # the other one knows nothing of what the first has
            assert volume_on(left).state is VolumeState.INCOMPLETE
            check(left, name)


@pytest.mark.parametrize(("name", "gone"), [("raid5", (0, 2)), ("raid6", (1, 2, 3)), ("raid10", (0, 1))])
def test_devices_that_nothing_replaces(devices: Opened, name: str, gone: tuple[int, ...]) -> None:
    """Trees are spread too: there is nothing to see but which device it takes."""
    some = devices(name)
    uuids = [says(some[index].path, "dev_item.uuid") for index in gone]
    with pytest.raises(ReadFailed, match=f"device . .uuid ({'|'.join(uuids)}). is missing") as lacking:
        filesystem_on([one for index, one in enumerate(some) if index not in gone])
    assert lacking.value.reason == "device-missing" and lacking.value.hint is not None


def test_files_on_a_missing_device(devices: Opened) -> None:
    """Trees are on two devices, data is partly on one alone."""
    some = devices("mixed")
    lost = []
    for gone in range(3):
        left = [one for index, one in enumerate(some) if index != gone]
        uuid = says(some[gone].path, "dev_item.uuid")
        assert volume_on(left).state is VolumeState.INCOMPLETE
        trouble = failures(left, "mixed")
        assert all(error.reason == "device-missing" and uuid in str(error) for error in trouble.values())
        lost.append(len(trouble))
    assert any(lost) and all(count < len(FACTS["mixed"]["files"]) for count in lost)


def test_what_is_missing_is_named(devices: Opened) -> None:
    """Superblocks name the devices of the chunk tree's own chunk."""
    one, other = devices("old")
    reason = volume_on([other]).reason
    assert reason == f"btrfs over 2 devices: device 1 (uuid {says(one.path, 'dev_item.uuid')}) is missing"
    mixed = devices("mixed")
    reasons = [volume_on([device for device in mixed if device is not gone]).reason or "" for gone in mixed]
    named = [
        f"(uuid {says(gone.path, 'dev_item.uuid')}) is missing" in reason for gone, reason in zip(mixed, reasons, strict=True)
    ]
    assert sorted(named) == [False, True, True]
    assert "btrfs over 3 devices: 1 that it does not name is missing" in reasons[named.index(False)]


# damage


@pytest.mark.parametrize("raises", [False, True], ids=["other bytes", "errors"])
@pytest.mark.parametrize("name", ["raid10", "raid1c3", "raid5", "raid6"])
def test_damage_that_redundancy_replaces(devices: Opened, name: str, raises: bool) -> None:
    """Whole devices of it. What has no checksum cannot be told from what it was, unless it cannot be read."""
    some = devices(name)
    for bad in combinations(range(len(some)), SAFE[name]):
        spoiled = [Bad(one, (HEAD, one.size), raises=raises) if index in bad else one for index, one in enumerate(some)]
        check(spoiled, name, but=[] if raises else [UNCHECKED])


def test_damage_beyond_redundancy(devices: Opened) -> None:
    some = devices("raid0")
    fs = filesystem_on(some)
    trouble = failures([Bad(one, *data_on(fs, number)) for number, one in enumerate(some, 1)], "raid0", but=[UNCHECKED])
    assert trouble["folder/deep/large"].reason == trouble["home/packed"].reason == "checksum"
    assert "folder/small01" not in trouble  # so small that it lies in a tree


def data_on(fs: object, device: int) -> list[tuple[int, int]]:
    """Where on a device the chunks with data are."""
    assert isinstance(fs, BtrfsFileSystem)
    tree = fs._nodes._chunks._tree  # type: ignore[attr-defined]
    places = []
    for item in tree.items((256, 228, 0), (256, 228, 1 << 64)):
        if item.raw[24] & 1:
            chunk = parse_chunk(item.key[2], item.raw, item.at)
            length = chunk.length // chunk._width
            places += [(one.start, one.start + length) for one in chunk.stripes if one.device == device]
    return places


# devices that missed something


def test_an_old_device_changes_nothing(devices: Opened) -> None:
    """The first device was changed alone: what the second has of that time is what checksums prove."""
    new, old = devices("old")
    for some in ([new, old], [old, new]):
        volume = volume_on(some)
        assert volume.state is VolumeState.INCOMPLETE and volume.reason is not None
        told = f"is old: generation {says(old.path, 'generation')}, the newest is {says(new.path, 'generation')}"
        assert told in volume.reason
        check(some, "old")


@pytest.mark.parametrize("raises", [False, True], ids=["other bytes", "errors"])
def test_an_old_device_is_believed_where_checksums_prove_it(devices: Opened, raises: bool) -> None:
    """All data of the current device is damaged: files of old times are still there, of none is there anything else."""
    new, old = devices("old")
    bad = Bad(new, *data_on(filesystem_on([new]), 1), raises=raises)
    alone = failures([bad], "old", but=[] if raises else [UNCHECKED])
    trouble = failures([bad, old], "old", but=[] if raises else [UNCHECKED])
    assert alone.keys() > trouble.keys() == {"folder/deep/large", *([UNCHECKED] if raises else [])}
    assert "home/packed" in alone


def test_what_has_no_checksum_is_not_taken_from_an_old_device(devices: Opened) -> None:
    new, old = devices("old")
    fs = filesystem_on([Bad(new, *data_on(filesystem_on([new]), 1), raises=True), old])
    assert isinstance(fs, BtrfsFileSystem)
    storage, chunks = fs._data._storage, fs._nodes._chunks
    inode = resolve(fs, UNCHECKED).inode // fs._numbers._count
    (item, *_) = fs._trees[0].items((inode, Type.EXTENT_DATA, 0), (inode, Type.EXTENT_DATA, 1 << 64))
    logical = int.from_bytes(item.raw[21:29], "little")
    chunk = chunks.find(logical, 0)
    mirrored = chunk._replace(stripes=tuple(stripe for stripe in chunk.stripes if stripe.device == 2), profile=PROFILES[0])
    with pytest.raises(
        Corrupt, match=r"has no checksum, and lies on device 2 \(uuid .*\), which has missed changes"
    ) as refused:
        storage.read(mirrored, logical, memoryview(bytearray(4096)), is_verified=False)
    assert refused.value.reason == "device-old"
    storage.read(mirrored, logical, memoryview(bytearray(4096)), is_verified=True)


def test_an_old_device_alone_is_what_it_was(devices: Opened) -> None:
    _, old = devices("old")
    fs = filesystem_on([old])
    assert "small07" in {name for name, _ in fs.scan(resolve(fs, "folder"))}
    assert content(fs, "home/packed") == FACTS["old"]["files"]["home/packed"]


def test_halves_that_went_apart(devices: Opened) -> None:
    """Superblocks are the same, the root tree is not, and its checksum is right on both: as after each was mounted alone."""
    some: list[Blocks] = [*devices("raid10")]
    fs = filesystem_on(some)
    assert isinstance(fs, BtrfsFileSystem)
    root, size = fs._sb.root.logical, fs._sb.node_size
    chunk = fs._nodes._chunks.find(root, 0)
    (piece,) = chunk.pieces(root, size)
    _, copy = chunk.sources(piece)
    stripe = chunk.stripes[copy.stripes[0]]
    at = stripe.start + piece.offset + size - 1
    device = some[stripe.device - 1]
    some[stripe.device - 1] = edited(device, (at, bytes([read(device, at, 1)[0] ^ 1])))
    with pytest.raises(Corrupt, match="changed apart from each other") as apart:
        filesystem_on(some)
    assert apart.value.reason == "split"
    some[stripe.device - 1] = spoiled(device, (at, bytes([read(device, at, 1)[0] ^ 1])))
    check(some, "raid10")


@pytest.mark.parametrize("field", [80, 88], ids=["root tree", "chunk tree"])
def test_superblocks_of_one_generation_that_disagree(devices: Opened, field: int) -> None:
    one, other = devices("raid0")
    at = 65536 + field
    twisted = edited(other, (at, bytes([read(other, at, 1)[0] ^ 0x40])))
    volume = volume_on([one, twisted])
    assert (volume.state, volume.size) == (VolumeState.DAMAGED, 0)
    assert volume.reason is not None and "changed apart from each other" in volume.reason
    together = Concat([Slice(one, 0, int(says(one.path, "dev_item.total_bytes"))), twisted])
    with pytest.raises(Corrupt, match="changed apart") as apart:
        read_devices(together)
    assert apart.value.offset == one.size + 65536


# copies


def test_a_copy_of_a_device(devices: Opened, tmp_path: Path) -> None:
    one, other = devices("raid0")
    twin = tmp_path / "twin.img"
    run("cp", "--sparse=always", one.path, twin)
    with closing(HostFile.open(str(twin))) as copy:
        volume = volume_on([one, other, copy])
        assert volume.state is VolumeState.OK and len(volume.members) == 3
        assert volume.reason == (
            f"btrfs over 2 devices: disk0, disk2 are copies of device 1 (uuid {says(one.path, 'dev_item.uuid')}): disk0 is used"
        )
        check([one, other, copy], "raid0")


def test_copies_that_differ(devices: Opened) -> None:
    """Which one is right cannot be told: the device is as if it were missing."""
    one, other = devices("old")
    ((start, _), *_) = data_on(filesystem_on([one]), 1)
    twisted = spoiled(one, (start, b"twisted"))
    volume = volume_on([one, twisted, other])
    assert volume.state is VolumeState.INCOMPLETE and volume.reason is not None
    assert "disk0, disk1 are copies of device 1" in volume.reason and "differ: which is right cannot be told" in volume.reason
    alone = volume_on([one, twisted])
    assert (alone.state, alone.size) == (VolumeState.DAMAGED, 0)


def test_of_copies_the_newer_is_used(devices: Opened) -> None:
    """A device and its snapshot of an earlier time."""
    one, other = devices("old")
    before = edited(one, (65536 + 72, (1).to_bytes(8, "little")))
    volume = volume_on([before, other, one])
    assert volume.reason is not None and "disk0, disk2 are copies of device 1" in volume.reason
    assert "disk2 is used" in volume.reason
    check([before, other, one], "old")


def test_a_superblock_with_a_wrong_checksum(devices: Opened) -> None:
    some: list[Blocks] = [*devices("raid10")]
    some[1] = spoiled(some[1], (65536 + 72, b"\xff" * 8))
    volume = volume_on(some)
    assert volume.state is VolumeState.INCOMPLETE and volume.reason is not None
    assert "disk1 is not used, as the checksum of its superblock is wrong" in volume.reason
    check(some, "raid10")


def test_a_superblock_whose_checksum_only_the_reader_knows(devices: Opened) -> None:
    """XXH64: it is found to be wrong when the file system is opened. Its copy at 64 MiB does instead."""
    some: list[Blocks] = [*devices("raid6")]
    some[1] = spoiled(some[1], (65536 + 72, b"\xff" * 8))
    check(some, "raid6")


# the kernel, live


@contextmanager
def mounted(top: Path, paths: Sequence[Path], options: str = "rw", spares: Sequence[Path] = ()) -> Iterator[list[str]]:
    """Devices mounted together; the loop devices, those of spares last."""
    with ExitStack() as undo:
        loops: list[str] = []
        for path in (*paths, *spares):
            loops.append(run("losetup", "--find", "--show", path).strip())
            undo.callback(run, "losetup", "--detach", loops[-1])
        run("mount", "-t", "btrfs", "-o", ",".join([options, *(f"device={one}" for one in loops[: len(paths)])]), loops[0], top)
        undo.callback(run, "umount", top)
        yield loops


def made(folder: Path, count: int, *options: str) -> list[Path]:
    paths = [folder / f"device{number}" for number in range(1, count + 1)]
    for path in paths:
        with path.open("wb") as out:
            out.truncate(126 * MIB)
    run("mkfs.btrfs", "-q", *options, *paths)
    return paths


@pytest.fixture
def top(tmp_path: Path) -> Path:
    need_root()
    need("mkfs.btrfs", "btrfs", "losetup", "mount")
    folder = tmp_path / "mounted"
    folder.mkdir()
    return folder


def whole(paths: Sequence[Path], path: str) -> bytes:
    with ExitStack() as stack:
        fs = filesystem_on([stack.enter_context(closing(blocks)) for blocks in opened(paths)])
        blocks = fs.open(resolve(fs, path))
        return read(blocks, 0, blocks.size)


@pytest.mark.root
def test_each_half_of_a_mirror_mounted_alone(top: Path, tmp_path: Path) -> None:
    """Both count on from the same generation, and their superblocks are alike; unless somebody else on this machine syncs all
    file systems meanwhile. Then one of them counts further, and is the newest."""
    paths = made(tmp_path, 2, "-d", "raid1", "-m", "raid1")
    for number, path in enumerate(paths):
        with mounted(top, [path], "degraded"):
            (top / "file").write_text(f"of half {number}")
    for number, path in enumerate(paths):
        assert whole([path], "file") == b"of half %d" % number
    generations = [int(says(path, "generation")) for path in paths]
    if generations[0] == generations[1]:
        with pytest.raises(Corrupt, match="changed apart from each other"):
            whole(paths, "file")
    else:
        assert whole(paths, "file") == b"of half %d" % generations.index(max(generations))


@pytest.mark.root
def test_a_device_removed_and_one_replaced(top: Path, tmp_path: Path) -> None:
    """What is left of them is not taken for devices of the file system."""
    paths = made(tmp_path, 4, "-d", "raid1", "-m", "raid1")
    new = tmp_path / "new"
    with new.open("wb") as out:
        out.truncate(126 * MIB)
    wanted = b"".join(b"%07d\n" % number for number in range(100_000))
    before = tmp_path / "before"
    run("cp", "--sparse=always", paths[3], before)
    with mounted(top, paths, spares=[new]) as loops:
        (top / "file").write_bytes(wanted)
        run("btrfs", "device", "remove", loops[1], top)
        run("btrfs", "replace", "start", "-B", "3", loops[-1], top)
    kept = [paths[0], new, paths[3]]
    assert whole(kept, "file") == whole([*paths, new], "file") == wanted
    with ExitStack() as stack:
        blocks = [stack.enter_context(closing(one)) for one in opened([*kept, before])]
        volume = volume_on(blocks)
        assert volume.state is VolumeState.OK and volume.reason is not None
        assert "disk2, disk3 are copies of device 4" in volume.reason and "disk2 is used" in volume.reason
