"""Logs of XFS made by hand: every rule of replaying by itself, and all that can be wrong with one."""

from __future__ import annotations

import struct
from copy import deepcopy
from pathlib import Path

import pytest

from contract.mounting import mounted, need_root
from contract.xfs_images import sealed
from contract.xfs_log_builder import (
    COMMIT,
    CONTINUED,
    CONTINUES,
    CORE_ONLY,
    DEVICE,
    END,
    FLUSHED,
    HEAD,
    MAPPED,
    MODE,
    OWNER,
    START,
    Image,
    buffer_item,
    core_of,
    inode_item,
    item,
    opened,
    operation,
    root_at,
    transaction,
    why,
)
from mntapi.errors import Corrupt
from mntapi.filesystems.runs import Memory
from mntapi.filesystems.xfs import groups, log, recovery
from mntapi.filesystems.xfs.items import Kind


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(tmp_path_factory.mktemp("made") / "image")


@pytest.fixture
def image(empty: Image) -> Image:
    return deepcopy(empty)


@pytest.mark.root
def test_the_kernel_replays_what_is_made(image: Image, tmp_path: Path) -> None:
    """What the other tests are worth: their logs are logs."""
    need_root()
    content = transaction(inode_item(image, core_of(image, changed={MODE: 0o40711})))
    image.append(content)
    path = tmp_path / "image"
    path.write_bytes(image.raw)
    with mounted(path, "rw") as top:
        assert top.stat().st_mode == 0o40711
    assert opened(image).root.mode == 0o711


def test_of_two_changes_the_later_counts(image: Image) -> None:
    assert (opened(image) if image.records() else None) is None
    first = image.append(transaction(inode_item(image, core_of(image, changed={MODE: 0o40711}))))
    image.append(transaction(inode_item(image, core_of(image, changed={MODE: 0o40722}))), tail=first)
    fs = opened(image)
    assert (fs.root.mode, fs.unreplayed, image.records()) == (0o722, None, 2)


def test_regions_that_are_cut(image: Image) -> None:
    """Anywhere, the header of the transaction too, and over the ends of records."""
    head, inode = HEAD, inode_item(image, core_of(image, changed={MODE: 0o40711}))
    pieces = [
        operation(flags=START),
        operation(head[:6], CONTINUED),
        operation(head[6:], CONTINUES | END),
        operation(inode[0]),
        operation(inode[1][:5], CONTINUED),
        operation(inode[1][5:99], CONTINUED | CONTINUES),
        operation(),
        operation(inode[1][99:], CONTINUES | END),
        operation(flags=COMMIT),
    ]
    first = image.append(pieces[:5])
    image.append(pieces[5:7], tail=first)
    assert opened(image).root.mode == 0o755
    image.append(pieces[7:], tail=first)
    assert opened(image).root.mode == 0o711


def test_fewer_operations_than_a_record_says(image: Image) -> None:
    """Where it ends with one, that is no damage."""
    image.append([operation(b"x" * 500)], count=2)
    assert opened(image).unreplayed is None


@pytest.mark.parametrize("fields", [{"version": 1, "checksum": 0}, {"version": 1}, {"head_size": 324}])
def test_records_of_older_and_smaller_machines(tmp_path: Path, fields: dict[str, int]) -> None:
    image = Image(tmp_path / "image", "-m", "crc=0")
    image.append(transaction(inode_item(image, core_of(image, changed={MODE: 0o40711}))), **fields)
    assert opened(image).root.mode == 0o711


def test_what_has_no_commit_or_no_start_does_not_count(image: Image) -> None:
    change = transaction(inode_item(image, core_of(image, changed={MODE: 0o40711})))
    first = image.append(change[:-1])
    image.append([line.replace(b"\0\0\0\x07", b"\0\0\0\x08", 1) for line in change[1:]], tail=first)
    fs = opened(image)
    assert (fs.root.mode, fs.unreplayed) == (0o755, None)


def test_a_newer_inode_is_left_alone(image: Image) -> None:
    core = core_of(image, changed={MODE: 0o40711})
    struct.pack_into(">Q", image.raw, root_at(image) + 112, 1 << 33)
    sealed(image.raw, root_at(image), 512, 100)
    image.append(transaction(inode_item(image, core)))
    assert opened(image).root.mode == 0o755


@pytest.mark.parametrize(
    ("there", "logged", "mode"), [(5, 4, 0o755), (5, 5, 0o711), (0xFFFF, 3, 0o711), (0xFFFF, 0x8000, 0o755)]
)
def test_an_inode_of_version_4_counts_how_often_it_was_written(tmp_path: Path, there: int, logged: int, mode: int) -> None:
    image = Image(tmp_path / "image", "-m", "crc=0")
    core = core_of(image, changed={MODE: 0o40711, FLUSHED: logged})
    struct.pack_into(">H", image.raw, root_at(image) + 30, there)
    image.append(transaction(inode_item(image, core)), checksum=0)
    assert opened(image).root.mode == mode


def test_an_inode_as_32_bit_machines_log_it(image: Image) -> None:
    regions = inode_item(image, core_of(image, changed={MODE: 0o40711}))
    image.append(transaction([regions[0][:12] + regions[0][16:], regions[1]]))
    assert opened(image).root.mode == 0o711


def test_a_device_and_counts_of_extents(image: Image) -> None:
    """A device in the place of the root folder's contents, which is then no folder: so the log is not used."""
    image.append(transaction(inode_item(image, core_of(image, changed={MODE: 0o20600}), fields=DEVICE, device=0x00100003)))
    assert "no folder" in why(image)


def test_buffers(image: Image) -> None:
    """A newer one is left alone, one that becomes free too, and so is the list of removed inodes."""
    free = bytearray(image.raw[512:1024])
    struct.pack_into(">I", free, 52, 77)
    image.append(transaction(buffer_item(1, 1, {0: bytes(free[:128])})))
    before = opened(image).capacity().free
    fs = opened(image)
    assert fs.capacity().free == fs.capacity().block_size * _free_of(image, 77) and fs.unreplayed is None
    image.append(transaction(buffer_item(1, 1, {}, flags=2)), tail=2)
    assert opened(image).capacity().free != before
    struct.pack_into(">Q", image.raw, 512 + 208, 1 << 33)
    image.append(transaction(buffer_item(1, 1, {0: bytes(free[:128])})), tail=6)
    assert opened(image).capacity().free != before
    image.append(transaction(buffer_item(root_at(image) // 512, 32, {0: b"x" * 128}, flags=1)), tail=6)
    assert opened(image).unreplayed is None


def _free_of(image: Image, first: int) -> int:
    """Blocks that are free when so many are in the first group."""
    sb, free = image.superblock, 0
    for group in range(sb.ag_count):
        at = group * sb.ag_blocks * sb.block_size + 512
        listed, there, trees = struct.unpack_from(">2I4xI", image.raw, at + 48)
        free += listed + trees + (first if group == 0 else there)
    return free


def test_new_inodes(image: Image) -> None:
    """Where they are made, an inode can be changed; where they will be free blocks again, nothing is."""
    block = 200
    created = item(Kind.CREATED, struct.pack(">6I", 0, block, 64, 512, 8, 5))
    image.append(transaction(created))
    fs = opened(image)
    number = block * 8 + 3
    with pytest.raises(Corrupt, match="not in use"):
        fs.node(number)
    image.append(transaction(buffer_item(block * 8, 32, {}, flags=2)), tail=2)
    with pytest.raises(Corrupt, match="checksum"):
        opened(image).node(number)


def test_new_inodes_are_made_before_they_are_changed(image: Image) -> None:
    """In whatever order a transaction has them; and what becomes free in the same one comes last."""
    block = 200
    number, at = block * 8 + 3, block * 4096 + 3 * 512
    core = bytearray(core_of(image, changed={MODE: 0o40711}))
    core[152:160] = struct.pack("<Q", number)
    change = inode_item(image, bytes(core), at=at)
    created = item(Kind.CREATED, struct.pack(">6I", 0, block, 64, 512, 8, 5))
    image.append(transaction(buffer_item(16, 8, {}, flags=2), change, created, buffer_item(16, 8, {0: b"x" * 128})))
    fs = opened(image)
    assert fs.unreplayed is None and fs.node(number).mode == 0o711


BEGUN = {
    "a mapping": (Kind.BUI, Kind.BUD, struct.pack("<IQ", 2, 99) + MAPPED + MAPPED.replace(b"\x83", b"\x84"), "131, 132"),
    "an exchange": (Kind.XMI, Kind.XMD, struct.pack("<I3Q", 0, 99, 140, 141), "140, 141"),
    "an attribute": (Kind.ATTRI, Kind.ATTRD, struct.pack("<I2QI12x", 0, 99, 150, 1), "150"),
    "many mappings": (
        Kind.BUI,
        Kind.BUD,
        struct.pack("<IQ", 5, 99) + b"".join(struct.pack("<Q24x", owner) for owner in range(7, 12)),
        "7, 8, 9 and others",
    ),
}


@pytest.mark.parametrize("what", BEGUN)
def test_a_change_that_was_not_finished_is_told(image: Image, what: str) -> None:
    begun, done, content, inodes = BEGUN[what]
    first = image.append(transaction(item(begun, content), inode_item(image, core_of(image, changed={MODE: 0o40711}))))
    fs = opened(image)
    assert fs.root.mode == 0o711
    assert f"the last change of inode {inodes} was not finished" in (fs.unreplayed or "")
    image.append(transaction(item(done, struct.pack("<IQ", 0, 98))), tail=first)
    assert opened(image).unreplayed
    image.append(transaction(item(done, struct.pack("<IQ", 0, 99))), tail=first)
    assert opened(image).unreplayed is None


def test_a_change_of_a_map_is_done_here(image: Image) -> None:
    """Unless there are more of a file than the kernel leaves, or something else of it was not finished."""
    move = [item(Kind.BUI, struct.pack("<IQ", 1, number) + MAPPED) for number in range(recovery.MAX_MOVES + 1)]
    first = image.append(transaction(*move[:-1]))
    assert opened(image).unreplayed is None
    second = image.append(transaction(move[-1]), tail=first)
    assert "the last change of inode 131 was not finished" in (opened(image).unreplayed or "")
    image.append(transaction(item(Kind.XMI, struct.pack("<I3Q", 0, 99, 131, 141))), tail=second)
    assert "the last change of inode 131, 141 was not finished" in (opened(image).unreplayed or "")


def test_what_nobody_sees_need_not_be_finished(image: Image) -> None:
    pointer = item(Kind.ATTRI, struct.pack("<I2QI12x", 0, 99, 150, 4))
    others = [item(kind, struct.pack("<IQ", 1, 5)) for kind in (Kind.EFI, Kind.RUI, Kind.CUI, Kind.DQUOT, Kind.QUOTAOFF)]
    image.append(transaction(pointer, *others))
    assert opened(image).unreplayed is None


def test_a_fork_without_a_tree_has_no_owner(image: Image) -> None:
    image.append(transaction(inode_item(image, core_of(image, changed={MODE: 0o40711}), fields=CORE_ONLY | OWNER)))
    assert opened(image).root.mode == 0o711


@pytest.mark.parametrize(
    ("field", "value"), [("checksum", 5), ("version", 3), ("length", 0), ("length", 1 << 30), ("size", 1 << 30)]
)
def test_a_record_that_was_not_written_whole_is_none(image: Image, field: str, value: int) -> None:
    change = transaction(inode_item(image, core_of(image, changed={MODE: 0o40711})))
    first = image.append(change)
    image.append(transaction(inode_item(image, core_of(image, changed={MODE: 0o40722}))), tail=first, **{field: value})
    assert opened(image).root.mode == 0o711


@pytest.mark.parametrize("at", [0, 4, 8, 12, 600])
def test_nothing_behind_a_record_that_was_not_written_whole_counts(image: Image, at: int) -> None:
    """Although it is whole itself. ``at``: the byte that is wrong."""
    first = second = image.append(transaction(inode_item(image, core_of(image, changed={MODE: 0o40711}))))
    for mode in (0o40722, 0o40733, 0o40744):
        where = image.append(transaction(inode_item(image, core_of(image, changed={MODE: mode}))), tail=first)
        second = where if mode == 0o40722 else second
    image.raw[image.log + second * 512 + at] ^= 0x80
    fs = opened(image)
    assert (fs.root.mode, fs.unreplayed) == (0o711, None)


def test_damage_before_what_was_on_its_way(image: Image) -> None:
    change = transaction(inode_item(image, core_of(image, changed={MODE: 0o40711})))
    first = image.append(change)
    for _ in range(log.IN_FLIGHT):
        image.append(change, tail=first)
    image.raw[image.log + first * 512 + 600] ^= 1
    assert "that counts is damaged" in why(image)


def test_a_tail_that_was_overwritten(image: Image) -> None:
    """By what was on its way when the machine stopped: the ring is full, and its oldest record, no more needed, is damaged."""
    count = image.superblock.log_blocks * 8
    first = image.append(transaction(inode_item(image, core_of(image, changed={MODE: 0o40711}))))
    last = image.append(transaction(inode_item(image, core_of(image, changed={5: 77}))), tail=first)
    while image.next + 60 < count:
        image.append(transaction(item(Kind.QUOTAOFF, bytes(29_000))), tail=first)
    assert (opened(image).root.mode, opened(image).root.uid) == (0o755, 77)
    image.raw[image.log + first * 512 + 600] ^= 1
    fs = opened(image)
    assert (fs.root.mode, fs.root.uid, fs.unreplayed) == (0o755, 77, None)
    image.raw[image.log + last * 512 + 600] ^= 1
    assert opened(image).root.uid == 0


def test_what_is_free_is_counted_group_by_group(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    image.append(transaction(inode_item(image, core_of(image))))
    fs = opened(image)
    assert fs.capacity().free == fs.capacity().block_size * _free_of(image, struct.unpack_from(">I", image.raw, 512 + 52)[0])
    with monkeypatch.context() as patch:
        patch.setattr(groups, "MAX_GROUPS", 0)
        assert fs.capacity().free == fs.capacity().block_size * image.superblock.free_blocks
    last = (image.superblock.ag_count - 1) * image.superblock.ag_blocks * 4096
    image.raw[last + 512 : last + 516] = b"none"
    with pytest.raises(Corrupt, match="no header"):
        opened(image).capacity()
    del image.raw[last + 512 :]
    with pytest.raises(Corrupt, match="past the end"):
        groups.count(Memory(bytes(image.raw)), image.superblock)
