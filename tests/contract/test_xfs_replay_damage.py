"""Logs of XFS made by hand that are damaged, or too much: what is told, and that the volume stays readable."""

from __future__ import annotations

import random
import struct
from copy import deepcopy

import pytest

from contract.filesystem_contract import walk
from contract.xfs_log_builder import (
    COMMIT,
    CONTINUES,
    CORE_ONLY,
    DATA,
    EXTENTS,
    FORK,
    FORM,
    HEAD,
    MAPPED,
    MODE,
    OWNER,
    SIZE,
    START,
    TREE,
    VERSION,
    Image,
    buffer_item,
    core_of,
    inode_item,
    item,
    opened,
    operation,
    root_of_tree,
    transaction,
    why,
)
from mntapi.errors import MntapiError
from mntapi.filesystems.xfs import changes, log, transactions
from mntapi.filesystems.xfs.items import Kind


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(tmp_path_factory.mktemp("made") / "image")


@pytest.fixture
def image(empty: Image) -> Image:
    return deepcopy(empty)


BAD_TRANSACTIONS: dict[str, tuple[list[bytes], str]] = {
    "no header": ([operation(flags=START), operation(b"TRAN" + bytes(12)), operation(flags=COMMIT)], "no header"),
    "a header that is too long": ([operation(flags=START), operation(HEAD + b"x")], "no header"),
    "two starts": ([operation(flags=START), operation(flags=START)], "begins twice"),
    "no region to go on with": ([operation(flags=START), operation(HEAD), operation(b"x", CONTINUES)], "never began"),
    "a short item": ([operation(flags=START), operation(HEAD), operation(b"\x3b\x12\2")], "is cut off"),
    "an item without regions": (transaction(item(Kind.INODE, b"", count=0)), "impossible item"),
    "an item of too many": (transaction(item(Kind.INODE, b"", count=258)), "impossible item"),
    "a client that is not known": ([operation(client=3)], "impossible region"),
    "a region past its record": ([operation(b"x" * 600)[:100]], "impossible region"),
    "an operation past its record": ([operation(b"x" * 490), operation()[:3]], "record of the log is cut off"),
    "a kind that is not known": (transaction(item(0x1299, bytes(40))), "not known"),
    "a short buffer": (transaction(item(Kind.BUFFER, bytes(10))), "is cut off"),
    "a short announcement": (transaction(item(Kind.BUI, b"")), "is cut off"),
    "an inode without a core": (transaction(item(Kind.INODE, bytes(52))), "is cut off"),
    "a buffer of no sectors": (transaction(buffer_item(8, 0, {0: bytes(128)})), "impossible buffer"),
    "a buffer before the volume": (transaction(buffer_item(-8, 8, {0: bytes(128)})), "impossible buffer"),
    "a buffer behind the volume": (transaction(buffer_item(1 << 40, 8, {0: bytes(128)})), "outside the volume"),
    "a buffer over the end": (transaction(buffer_item(SIZE // 512 - 1, 8, {5: bytes(128)})), "outside the volume"),
    "a map that is cut": (transaction(item(Kind.BUFFER, struct.pack("<2HqI", 0, 8, 8, 9))), "impossible buffer"),
    "a chunk behind the buffer": (transaction(buffer_item(8, 1, {4: bytes(128)})), "too small"),
    "half a chunk": (transaction(buffer_item(8, 1, {0: bytes(64)})), "not as its map says"),
    "more chunks than in the map": (transaction(buffer_item(8, 8, {0: bytes(256)})), "not as its map says"),
    "fewer regions than in the map": (transaction(buffer_item(8, 8, {0: bytes(128), 1: b""})), "not as its map says"),
    "new inodes elsewhere": (transaction(item(Kind.CREATED, struct.pack(">6I", 99, 200, 64, 512, 8, 5))), "impossible new"),
    "new inodes of another size": (
        transaction(item(Kind.CREATED, struct.pack(">6I", 0, 200, 64, 256, 8, 5))),
        "impossible new",
    ),
    "no new inodes": (transaction(item(Kind.CREATED, struct.pack(">6I", 0, 200, 0, 512, 0, 5))), "impossible new"),
}


@pytest.mark.parametrize("what", BAD_TRANSACTIONS)
def test_a_transaction_that_is_damaged(image: Image, what: str) -> None:
    operations, message = BAD_TRANSACTIONS[what]
    image.append(operations)
    assert message in why(image)


BAD_INODES = {
    "no fork": ({"fields": EXTENTS}, {}, "is cut off"),
    "outside its buffer": ({"offset": 1 << 20}, {}, "impossible place"),
    "between two inodes": ({"offset": 100}, {}, "impossible place"),
    "where none is": ({"at": 0}, {}, "no inode where the log has one"),
    "of version 9": ({}, {VERSION: 9}, "it is no inode"),
    "with attributes outside": ({}, {FORK: 255}, "attributes lie outside"),
}


@pytest.mark.parametrize("what", BAD_INODES)
def test_an_inode_that_is_damaged(image: Image, what: str) -> None:
    options, changed, message = BAD_INODES[what]
    core = core_of(image, changed=changed)
    image.append(transaction(inode_item(image, core, **options)))
    assert message in why(image)


BAD_FORKS = {
    "too long": (DATA, b"x" * 337, "a fork does not fit"),
    "a root of nothing": (TREE, root_of_tree(1), "root of its extents does not fit"),
    "a root cut off": (TREE, b"BMA3", "root of its extents does not fit"),
    "a root of more than there are": (TREE, root_of_tree(1, 5, count=2), "root of its extents does not fit"),
    "a root that is too large": (TREE, root_of_tree(1, *range(30)), "root of its extents does not fit"),
    "a tree outside": (TREE | OWNER, root_of_tree(1, 1 << 40), "impossible block in a tree"),
    "a tree in a circle": (TREE | OWNER, root_of_tree(1, 300, 300), "impossible block in a tree"),
    "a tree of something else": (TREE | OWNER, root_of_tree(1, 1), "no block of a tree"),
    "a tree of the wrong level": (TREE | OWNER, root_of_tree(2, 300), "no block of a tree"),
    "a tree with a block that is overfull": (TREE | OWNER, root_of_tree(2, 301), "overfull"),
}


@pytest.mark.parametrize("what", BAD_FORKS)
def test_a_fork_that_is_damaged(image: Image, what: str) -> None:
    fields, fork, message = BAD_FORKS[what]
    for block, level, count in ((300, 0, 1), (301, 1, 300)):
        image.raw[block * 4096 : block * 4096 + 8] = struct.pack(">4s2H", b"BMA3", level, count)
    core = core_of(image, changed={FORM: 3})
    image.append(transaction(inode_item(image, core, fork, fields=CORE_ONLY | fields)))
    assert message in why(image)


def test_an_owner_of_a_free_inode_is_none(image: Image) -> None:
    """Whose tree is not looked at; and then the root folder is none."""
    core = core_of(image, changed={FORM: 3, MODE: 0})
    image.append(transaction(inode_item(image, core, root_of_tree(1, 1), fields=CORE_ONLY | TREE | OWNER)))
    assert "not in use" in why(image)


RECORDS = {
    "of another file system": ({"uuid": bytes(16)}, "another file system"),
    "of another byte order": ({"form": 2}, "another byte order"),
    "without a checksum": ({"checksum": 0}, "has no checksum"),
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_record_that_cannot_be_used(image: Image, what: str) -> None:
    fields, message = RECORDS[what]
    image.append(transaction(inode_item(image, core_of(image))), **fields)
    assert message in why(image)


def test_a_log_that_was_never_written(image: Image) -> None:
    image.raw[image.log : image.log + 512 * 8] = bytes(512 * 8)
    assert image.records() == 0


def test_a_log_without_any_record(image: Image) -> None:
    image.raw[image.log : image.log + 4] = struct.pack(">I", 1)
    assert "is alone, and not whole" in why(image)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (48, bytes(8), "on another device"),
        (96, b"\0\0\xff\xff", "outside the volume"),
        (216 + 3, b"\x1b", "xfs_repair was begun"),
        (220, b"\0\0\0\2", "features that are not known"),
    ],
)
def test_a_superblock_with_which_nothing_is_replayed(image: Image, at: int, value: bytes, message: str) -> None:
    image.append(transaction(inode_item(image, core_of(image))))
    image.superblock_changed(at, value)
    assert message in why(image)


@pytest.mark.parametrize(
    ("module", "limit", "message"),
    [
        (log, "MAX_REPLAYED", "too much is to be replayed"),
        (log, "MAX_RECORDS", "too much is to be replayed"),
        (transactions, "MAX_OPERATIONS", "too many changes"),
        (transactions, "MAX_OPEN", "transaction that is too large"),
        (changes, "MAX_PAGES", "too much is changed"),
    ],
)
def test_what_is_too_much(image: Image, module: object, limit: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change = transaction(inode_item(image, core_of(image)))
    image.append(change[:-1])
    image.append(change[-1:], tail=2)
    monkeypatch.setattr(module, limit, 0)
    assert message in why(image)


@pytest.mark.parametrize("seed", range(40))
def test_damage_anywhere_in_a_log(image: Image, seed: int) -> None:
    """With the checksum made right: nothing but errors of ours, and the volume stays readable."""
    dice = random.Random(seed)
    lines = transaction(
        inode_item(image, core_of(image, changed={MODE: 0o40711}), root_of_tree(1, 5), fields=CORE_ONLY | TREE),
        buffer_item(1, 1, {0: bytes(image.raw[512:640])}),
        item(Kind.CREATED, struct.pack(">6I", 0, 200, 64, 512, 8, 5)),
        item(Kind.BUI, struct.pack("<IQ", 1, 99) + MAPPED),
    )
    raw = bytearray(b"".join(lines))
    for _ in range(dice.choice((1, 2, 4))):
        raw[dice.randrange(len(raw))] = dice.randrange(256)
    image.append([bytes(raw)], count=len(lines))
    try:
        fs = opened(image)
        walk(fs)
        fs.capacity()
    except MntapiError:
        return
