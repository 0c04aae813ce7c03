"""LUKS headers that lie. Oracle: the specification, and what was encrypted by hand."""

from __future__ import annotations

import base64
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract import luks_builder
from contract.blocks_contract import check_blocks
from contract.luks_builder import DATA, KEY, KIB, PASSPHRASE, metadata, volume, xts
from mntapi.blocks import Fault, HostFile, read
from mntapi.crypto import derivation
from mntapi.keys import Key, KeyKind, Keys, Secret
from mntapi.types import Volume, VolumeState
from mntapi.units import MIB
from mntapi.volumes.luks import unlock, with_keys
from mntapi.volumes.luks.metadata import MAX_OBJECTS
from mntapi.volumes.scan import find_volumes

CONTENT = b"".join((b"%08x" % number).ljust(512, b"-") for number in range(96))


def found(tmp_path: Path, image: bytes, *keys: Key, memory: int = 1 << 30) -> list[Volume]:
    """The volume inside, or the disk with the reason; the container is left out."""
    path = tmp_path / "disk"
    path.write_bytes(image)
    given = keys or (Key(KeyKind.PASSPHRASE, Secret(PASSPHRASE)),)
    return find_volumes([HostFile.open(str(path))], keys=Keys(given, memory=memory)).volumes


def test_a_header_made_by_hand(tmp_path: Path) -> None:
    """What the cases below spoil is right before."""
    (inside,) = found(tmp_path, volume(metadata(), xts(KEY, CONTENT, 0)))
    assert (inside.kind, inside.reason) == ("luks", None)
    check_blocks(inside.blocks, CONTENT, ranges=50)


@pytest.mark.parametrize("first", [0, 7, (1 << 60)])
def test_several_segments(tmp_path: Path, first: int) -> None:
    """Three parts of the volume, not in their order on the disk, with sectors of two sizes and numbers of their own."""
    fields = metadata()
    crypt = fields["segments"]["0"]
    parts = [CONTENT[: 16 * KIB], CONTENT[16 * KIB : 20 * KIB], CONTENT[20 * KIB :]]
    fields["segments"] = {
        "0": {**crypt, "offset": str(DATA + 4096), "size": str(16 * KIB), "iv_tweak": str(first)},
        "10": {**crypt, "offset": str(DATA + 4096 + 16 * KIB), "iv_tweak": "5", "sector_size": 4096},
        "2": {**crypt, "offset": str(DATA), "size": "4096", "iv_tweak": str(first + 32)},
    }
    fields["digests"]["0"]["segments"] = ["2", "10", "0"]
    stored = xts(KEY, parts[1], first + 32) + xts(KEY, parts[0], first) + xts(KEY, parts[2], 5, 4096)
    (inside,) = found(tmp_path, volume(fields, stored))
    assert inside.details["segments"] == "3"
    check_blocks(inside.blocks, CONTENT, ranges=100)


Spoil = Callable[[dict[str, Any]], Any]
SEGMENT: Callable[[dict[str, Any]], dict[str, Any]] = lambda fields: fields["segments"]["0"]  # noqa: E731
SLOT: Callable[[dict[str, Any]], dict[str, Any]] = lambda fields: fields["keyslots"]["0"]  # noqa: E731
DIGEST: Callable[[dict[str, Any]], dict[str, Any]] = lambda fields: fields["digests"]["0"]  # noqa: E731

CORRUPT: list[tuple[Spoil, str]] = [
    (lambda fields: fields.update(keyslots=[]), "json.keyslots is no JSON object"),
    (lambda fields: fields.update(keyslots={str(n): {} for n in range(MAX_OBJECTS + 1)}), "too many members"),
    (lambda fields: fields.update(segments={"one": {}}), "name is no number"),
    (lambda fields: fields.update(segments={}), "names no segment"),
    (lambda fields: fields.update(digests={}), "no digest belongs"),
    (lambda fields: SEGMENT(fields).update(type=3), "json.segments.0.type is not possible"),
    (lambda fields: SEGMENT(fields).update(sector_size=513), "sector_size"),
    (lambda fields: SEGMENT(fields).update(sector_size=True), "sector_size"),
    (lambda fields: SEGMENT(fields).update(offset="-1"), "offset"),
    (lambda fields: SEGMENT(fields).update(offset="9" * 20), "offset"),
    (lambda fields: SEGMENT(fields).update(offset="9" * 5000), "offset"),
    (lambda fields: SEGMENT(fields).update(offset="327681"), "a multiple of 512"),
    (lambda fields: SEGMENT(fields).update(size="0"), "size"),
    (lambda fields: SEGMENT(fields).update(size="513"), "a multiple of 512"),
    (lambda fields: SEGMENT(fields).update(iv_tweak=7), "iv_tweak"),
    (lambda fields: SEGMENT(fields).update(encryption="x" * 1000), "encryption"),
    (lambda fields: SEGMENT(fields).update(flags="backup"), "a list of short strings"),
    (
        lambda fields: fields["segments"].update({"1": SEGMENT(fields)}) or DIGEST(fields).update(segments=["0", "1"]),
        "only the last",
    ),
    (lambda fields: SLOT(fields).update(key_size=1 << 40), "key_size"),
    (lambda fields: SLOT(fields).update(priority=9), "priority"),
    (lambda fields: SLOT(fields)["af"].update(stripes=1 << 31), "stripes"),
    (lambda fields: SLOT(fields)["af"].update(type="luks9"), "af.type"),
    (lambda fields: SLOT(fields)["area"].update(size="1"), "area.size"),
    (lambda fields: SLOT(fields)["area"].update(type="journal"), "area.type"),
    (lambda fields: SLOT(fields)["kdf"].update(salt="%%%"), "base64"),
    (lambda fields: SLOT(fields)["kdf"].update(salt="A" * 5000), "base64"),
    (lambda fields: SLOT(fields)["kdf"].update(type="scrypt"), "argon2id"),
    (lambda fields: SLOT(fields)["kdf"].update(iterations=0), "iterations"),
    (lambda fields: DIGEST(fields).update(type="sha256"), "pbkdf2"),
    (lambda fields: DIGEST(fields).update(digest="AAAA"), "16 .. 64 bytes"),
    (lambda fields: DIGEST(fields).update(iterations=1 << 32), "iterations"),
    (lambda fields: fields.update(config={"requirements": {"mandatory": [1]}}), "mandatory"),
    (lambda fields: fields.update(tokens={"0": {}}), "tokens.0.type"),
]


@pytest.mark.parametrize(("spoil", "text"), CORRUPT, ids=[text for _, text in CORRUPT])
def test_values_that_cannot_be(tmp_path: Path, spoil: Spoil, text: str) -> None:
    fields = metadata()
    spoil(fields)
    (disk,) = found(tmp_path, volume(fields))
    assert (disk.kind, disk.state) == ("disk", VolumeState.DAMAGED)
    assert disk.reason is not None and text in disk.reason and "(at byte 4096" in disk.reason


UNSUPPORTED: list[tuple[Spoil, str]] = [
    (lambda fields: SEGMENT(fields).update(type="linear"), "has a segment of type linear"),
    (lambda fields: SEGMENT(fields).update(type="hw-opal\x1b"), "type 'hw-opal\\x1b'"),
    (lambda fields: SEGMENT(fields).update(integrity={"type": "hmac(sha256)"}), "integrity tags (hmac(sha256))"),
    (lambda fields: SEGMENT(fields).update(encryption="aes-lrw-benbi"), "'aes-lrw-benbi'"),
    (lambda fields: SEGMENT(fields).update(encryption="\x1b[2J"), "'\\x1b[2J'"),
    (lambda fields: SEGMENT(fields).update(encryption="aes-xts-essiv:md5"), "a hash that is not read (found 'md5')"),
    (lambda fields: SEGMENT(fields).update(encryption="aes-xts-essiv:sha1"), "cipher that is not read"),
    (lambda fields: SEGMENT(fields).update(encryption="capi:xts(aes)-plain64"), "cipher that is not read"),
    (lambda fields: fields.update(config={"requirements": {"mandatory": ["opal"]}}), "requires opal"),
    (lambda fields: fields.update(config={"requirements": {"mandatory": ["online-reencrypt-v2"]}}, digests={}), "in progress"),
    (lambda fields: fields["keyslots"].update({"1": {"type": "reencrypt"}}), "reencryption is in progress"),
]


@pytest.mark.parametrize(("spoil", "text"), UNSUPPORTED, ids=[text for _, text in UNSUPPORTED])
def test_what_is_not_read(tmp_path: Path, spoil: Spoil, text: str) -> None:
    fields = metadata()
    spoil(fields)
    (disk,) = found(tmp_path, volume(fields))
    assert disk.state is VolumeState.UNSUPPORTED and disk.reason is not None
    assert text in disk.reason and "\x1b" not in disk.reason


LOCKED: list[tuple[Spoil, str]] = [
    (lambda fields: SLOT(fields)["kdf"].update(iterations=(1 << 32) - 1), "the iteration count is too high"),
    (lambda fields: SLOT(fields)["kdf"].update(hash="shake_128"), "a hash that is not read (found 'shake_128')"),
    (lambda fields: SLOT(fields)["af"].update(hash="nonsense"), "a hash that is not read"),
    (lambda fields: SLOT(fields)["area"].update(offset="4611686018427387904"), "the header goes past the end"),
    (lambda fields: SLOT(fields)["area"].update(encryption="aes-ctr-plain64"), "a cipher that is not read"),
    (lambda fields: SLOT(fields)["area"].update(key_size=65), "the key size does not fit"),
    (lambda fields: DIGEST(fields).update(keyslots=[]), "no key slot is left"),
    (lambda fields: DIGEST(fields).update(hash="nonsense"), "a hash that is not read"),
    (lambda fields: SLOT(fields).update(kdf=argon2(memory=1 << 21)), "2.00 GiB x 1 is more memory than there is"),
    (lambda fields: SLOT(fields).update(kdf=argon2(memory=(1 << 32) - 1)), "more memory than there is"),
    (lambda fields: SLOT(fields).update(kdf=argon2(time=(1 << 32) - 1)), "Argon2 would take too much"),
    (lambda fields: SLOT(fields).update(kdf=argon2(cpus=5)), "Argon2 would take too much"),
    (lambda fields: SLOT(fields).update(kdf=argon2(memory=1)), "Argon2 are not possible"),
    (lambda fields: SLOT(fields).update(kdf=argon2(salt="AAAA")), "Argon2 are not possible"),
]


def argon2(**fields: Any) -> dict[str, Any]:
    salt = base64.b64encode(bytes(16)).decode()
    return {"type": "argon2id", "time": 1, "memory": 32, "cpus": 1, "salt": salt} | fields


@pytest.mark.parametrize(("spoil", "text"), LOCKED, ids=[text for _, text in LOCKED])
def test_slots_that_cannot_be_tried(tmp_path: Path, spoil: Spoil, text: str) -> None:
    """It stays locked and says why; that is not called a wrong key. Another slot still opens it."""
    fields = metadata()
    spoil(fields)
    started = time.monotonic()
    (disk,) = found(tmp_path, volume(fields))
    assert time.monotonic() - started < 10
    assert disk.state is VolumeState.ENCRYPTED and disk.reason is not None
    assert text in disk.reason and "wrong key" not in disk.reason
    assert disk.details["cipher"] == "aes-xts-plain64"
    fields["keyslots"]["3"] = metadata()["keyslots"]["0"]
    if "no key slot" not in text and fields["digests"]["0"]["hash"] == "sha256":
        fields["digests"]["0"]["keyslots"].append("3")
        assert found(tmp_path, volume(fields))[0].kind == "luks"


def test_a_master_key_of_another_length(tmp_path: Path) -> None:
    fields = metadata()
    SEGMENT(fields)["encryption"] = "aes-cbc-plain64"
    (disk,) = found(tmp_path, volume(fields))
    assert disk.state is VolumeState.DAMAGED and disk.reason is not None and "64 bytes for aes" in disk.reason


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"[" * 12000, b'{"a":' * 2000, b"\xff\xfe", b'{"keyslots":' + b"9" * 10000 + b"}", b"{}", b"NaN"],
    ids=lambda text: text[:12].decode("latin-1"),
)
def test_json_that_is_none(tmp_path: Path, text: bytes) -> None:
    (disk,) = found(tmp_path, volume(text))
    assert disk.state is VolumeState.DAMAGED and disk.reason is not None and disk.reason.startswith("luks: ")


def test_the_largest_header(tmp_path: Path) -> None:
    """4 MiB of JSON that is not ours, twice: little time, little memory."""
    size = 4 * MIB
    text = b"[" + b"{}," * ((size - 5000) // 3) + b"0]"
    image = luks_builder.copy(text, size=size) + luks_builder.copy(text, offset=size, size=size)
    started = time.monotonic()
    tracemalloc.start()
    (disk,) = found(tmp_path, image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert disk.state is VolumeState.DAMAGED and disk.reason is not None and "no JSON object" in disk.reason
    assert peak < 256 * MIB and time.monotonic() - started < 30


BINARY: list[tuple[dict[str, Any], VolumeState, str]] = [
    ({"size": 12345}, VolumeState.DAMAGED, "size is not possible"),
    ({"size": 1 << 63}, VolumeState.DAMAGED, "size is not possible"),
    ({"checksum": b"crc32"}, VolumeState.UNSUPPORTED, "unknown kind"),
    ({"uuid": b"../../etc", "label": b"\xff\n"}, VolumeState.OK, ""),
]


@pytest.mark.parametrize(("fields", "state", "text"), BINARY, ids=str)
def test_the_binary_part(tmp_path: Path, fields: dict[str, Any], state: VolumeState, text: str) -> None:
    image = bytearray(volume(metadata(), xts(KEY, CONTENT, 0), **{name: v for name, v in fields.items() if name != "size"}))
    if "size" in fields:
        image[8:16] = image[0x4008:0x4010] = struct.pack(">Q", fields["size"])
    (disk,) = found(tmp_path, bytes(image))
    assert disk.state is state and text in (disk.reason or "")
    if state is VolumeState.OK:
        assert (disk.id, disk.name) == ("luks:disk:disk", "luks-disk0")


def test_a_header_that_says_it_lies_elsewhere(tmp_path: Path) -> None:
    image = volume(metadata(), xts(KEY, CONTENT, 0))
    moved = image[:256] + struct.pack(">Q", 512) + image[264:]
    (inside,) = found(tmp_path, moved)
    assert inside.reason is not None and "says that it lies elsewhere (at byte 256" in inside.reason


def test_an_unknown_version_and_a_short_disk(tmp_path: Path) -> None:
    for image in (b"LUKS\xba\xbe\0\3".ljust(8192, b"\0"), b"LUKS\xba\xbe", b"LUKS"):
        (disk,) = found(tmp_path, image)
        assert (disk.state, disk.details) == (VolumeState.OK, {})
    for image in (b"LUKS\xba\xbe\0\2", b"LUKS\xba\xbe\0\1", volume(metadata())[:8000]):
        (disk,) = found(tmp_path, image)
        assert disk.state is VolumeState.DAMAGED


def test_rests_of_a_second_copy(tmp_path: Path) -> None:
    """Its magic alone, or a copy of another version, in front of nothing, makes no volume."""
    image = bytearray(volume(metadata()))
    image[:4096] = bytes(4096)
    image[0x4006] = 7
    (disk,) = found(tmp_path, bytes(image))
    assert (disk.state, disk.reason) == (VolumeState.OK, None)


def luks1(**fields: Any) -> bytes:
    values = {
        "magic": b"LUKS\xba\xbe",
        "version": 1,
        "cipher": b"aes",
        "mode": b"xts-plain64",
        "hash": b"sha256",
        "payload": 640,
        "key_size": 64,
        "digest": bytes(20),
        "salt": bytes(32),
        "iterations": 10,
        "uuid": b"4c554b53-1111-4000-8000-000000000001",
    } | fields
    slots = b"".join(struct.pack(">II32sII", 0x00AC71F3, *slot) for slot in fields.pop("slots", SLOTS1))
    values.pop("slots", None)
    return (struct.pack(">6sH32s32s32sII20s32sI40s", *values.values()) + slots).ljust(DATA, b"\0")


SLOTS1 = ((10, bytes(32), 8, 40),) * 8


@pytest.mark.parametrize(
    ("fields", "state", "text"),
    [
        ({}, VolumeState.ENCRYPTED, "wrong key (1 tried); wants"),
        ({"key_size": 1 << 31}, VolumeState.DAMAGED, "the key size is not possible (at byte 108"),
        ({"iterations": 0}, VolumeState.DAMAGED, "(at byte 164"),
        ({"iterations": (1 << 32) - 1}, VolumeState.UNSUPPORTED, "(at byte 164"),
        ({"cipher": b"\xff\xfe"}, VolumeState.UNSUPPORTED, "cipher that is not read"),
        (
            {"slots": ((1 << 31, bytes(32), 8, 40),) * 8},
            VolumeState.ENCRYPTED,
            "slot 0 cannot be tried: the iteration count is too high",
        ),
        ({"slots": ((10, bytes(32), 8, 1 << 31),) * 8}, VolumeState.ENCRYPTED, "stripes is not possible (at byte 252"),
        ({"slots": ((10, bytes(32), (1 << 32) - 1, 40),) * 8}, VolumeState.ENCRYPTED, "the header goes past the end"),
        ({"payload": (1 << 32) - 1}, VolumeState.ENCRYPTED, "wrong key"),
    ],
    ids=str,
)
def test_luks1(tmp_path: Path, fields: dict[str, Any], state: VolumeState, text: str) -> None:
    (disk,) = found(tmp_path, luks1(**fields))
    assert disk.state is state and disk.reason is not None and text in disk.reason


def test_no_derivation_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derivation, "pbkdf2", lambda *_: pytest.fail("derived"))
    recovery = Key(KeyKind.RECOVERY, Secret(b"1"))
    (disk,) = found(tmp_path, volume(metadata()), recovery)
    assert disk.state is VolumeState.ENCRYPTED


def test_time_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The volume stays locked; and what was tried is not tried again when the scheme is asked again."""
    clock = iter(range(0, 100_000, 100))
    monkeypatch.setattr(unlock.time, "monotonic", lambda: next(clock))
    fields = metadata()
    fields["keyslots"] |= {str(number): SLOT(fields) for number in range(1, 30)}
    DIGEST(fields)["keyslots"] = [str(number) for number in range(30)]
    path = tmp_path / "disk"
    path.write_bytes(volume(fields))
    scheme = with_keys(Keys((Key(KeyKind.PASSPHRASE, Secret(b"no")),)))
    container = Volume("disk:disk", "disk0", "disk", HostFile.open(str(path)))
    (locked,) = scheme.volumes([container])
    assert locked.reason is not None and "not all slots were tried: it took more than 180 seconds" in locked.reason
    monkeypatch.setattr(derivation, "pbkdf2", lambda *_: pytest.fail("derived again"))
    assert list(scheme.volumes([container, container])) == [locked, locked]


def test_a_bad_sector_costs_that_sector(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(volume(metadata(), xts(KEY, CONTENT, 0)))
    blocks = Fault(HostFile.open(str(path)), bad=[(DATA + 1024, 512)])
    (inside,) = find_volumes([blocks], keys=Keys((Key(KeyKind.PASSPHRASE, Secret(PASSPHRASE)),))).volumes
    assert read(inside.blocks, 0, 1024) == CONTENT[:1024]
    with pytest.raises(Exception, match="injected fault"):
        read(inside.blocks, 1024, 1)
    spoilt = Fault(HostFile.open(str(path)), bad=[(0, 512)])
    (disk,) = find_volumes([spoilt], keys=Keys((Key(KeyKind.PASSPHRASE, Secret(PASSPHRASE)),))).volumes
    assert disk.state is VolumeState.DAMAGED
