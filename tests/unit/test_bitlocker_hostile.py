"""BitLocker metadata that lie, and keys that do not fit: a state with a reason, in bounded time, and no key in any message."""

from __future__ import annotations

import random
import struct
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import pytest

from contract.bitlocker_builder import (
    CLEAR_ID,
    COPIES,
    PASSWORD_ID,
    RECOVERY,
    RECOVERY_ID,
    SIZE,
    STARTUP_ID,
    STARTUP_KEY,
    TPM_ID,
    Eow,
    some_ntfs,
    startup_key_file,
)
from contract.bitlocker_builder import Volume as Made
from mntapi.blocks import Fault, HostFile, read
from mntapi.errors import Corrupt, Denied, MntapiError, ReadFailed, Unsupported
from mntapi.keys import Key, KeyKind, Keys, Secret
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.volumes import bitlocker
from mntapi.volumes.bitlocker import encryptonwrite, layout, protectors
from mntapi.volumes.bitlocker import scheme as scheme_module
from mntapi.volumes.bitlocker.boot import is_bitlocker, parse_boot
from mntapi.volumes.bitlocker.ciphers import cipher
from mntapi.volumes.bitlocker.metadata import parse_metadata, parse_startup_key, sealed_entry

PLAIN = some_ntfs(random.Random(7).randbytes(SIZE))
STARTUP = Key(KeyKind.STARTUP, Secret(startup_key_file()))
EOW = Eow(0x8000, [(0x2000, 0x2E000, [True] * 6), (0x30000, 0x40000, [True, False] * 4)])


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes bytes to a file, and gives what the scheme says of it. Stretching is cut short: no test here wants the key."""
    monkeypatch.setattr(protectors, "_ROUNDS", 1)
    opened: list[HostFile] = []

    def volume(image: bytes | bytearray, *keys: Key, ask=None, tell=None, bad: tuple[int, int] | None = None) -> Volume:
        path = tmp_path / f"volume{len(opened)}"
        path.write_bytes(image)
        opened.append(HostFile.open(str(path)))
        blocks: Blocks = Fault(opened[-1], bad=[bad]) if bad else opened[-1]
        container = Volume(id="disk", name="disk0", kind="disk", blocks=blocks)
        (found,) = bitlocker.with_keys(Keys(keys, ask=ask, tell=tell)).volumes([container])
        return found

    yield volume
    for each in opened:
        each.close()


def changed(image: bytes, *changes: tuple[int, bytes]) -> bytearray:
    content = bytearray(image)
    for at, data in changes:
        content[at : at + len(data)] = data
    return content


def resealed(block: bytes, *changes: tuple[int, bytes]) -> bytes:
    """A metadata block with bytes changed and its CRC made right again."""
    content = changed(block, *changes)
    size = struct.unpack_from("<H", content, 8)[0] * (16 if content[10] == 2 else 1)
    struct.pack_into("<I", content, size + 4, zlib.crc32(content[:size]))
    return bytes(content)


BLOCK = Made(PLAIN).image()[COPIES[0] : COPIES[0] + 65536]
IMAGE = Made(PLAIN).image()


def test_what_is_not_bitlocker() -> None:
    assert not is_bitlocker(b"")
    assert not is_bitlocker(IMAGE[:511])
    assert not is_bitlocker(PLAIN[:512])
    assert is_bitlocker(IMAGE[:512])


@pytest.mark.parametrize("change", [(11, b"\0\0"), (11, b"\1\2"), (13, b"\0"), (13, b"\3")])
def test_a_boot_sector_of_no_geometry(look, change: tuple[int, bytes]) -> None:
    with pytest.raises(Corrupt, match="no such"):
        parse_boot(bytes(changed(IMAGE[:512], change)))
    volume = look(changed(IMAGE, change), STARTUP)
    assert (volume.id, volume.state) == ("disk", VolumeState.DAMAGED)


@pytest.mark.parametrize(
    ("block", "said", "error"),
    [
        (b"", "no metadata block", Corrupt),
        (b"-FVE-FS-", "no metadata block", Corrupt),
        (bytes(65536), "no metadata block", Corrupt),
        (bytes(changed(BLOCK, (10, b"\3"))), "metadata of version 3", Unsupported),
        (bytes(changed(BLOCK, (8, b"\0\0"))), "metadata of impossible size", Corrupt),
        (bytes(changed(BLOCK, (8, b"\xff\xff"))), "metadata of impossible size", Corrupt),
        (BLOCK[:300], "metadata of impossible size", Corrupt),
        (bytes(changed(BLOCK, (16, b"x"))), "CRC of the metadata is wrong", Corrupt),
        (resealed(BLOCK, (64, b"\xff\xff\xff\xff")), "a data set of impossible size", Corrupt),
        (resealed(BLOCK, (72, b"\0\0\0\0")), "a data set of impossible size", Corrupt),
        (resealed(BLOCK, (76, b"\0\0\0\0")), "a data set of impossible size", Corrupt),
        (resealed(BLOCK, (112, b"\0\0")), "an entry of impossible size", Corrupt),
        (resealed(BLOCK, (112, b"\xff\xff")), "an entry of impossible size", Corrupt),
        (
            resealed(Made(PLAIN, description="x").image()[COPIES[0] :][:65536], (114, b"\2\0\x08\0")),
            "a protector cut off",
            Corrupt,
        ),
    ],
)
def test_damaged_metadata(block: bytes, said: str, error: type[MntapiError]) -> None:
    with pytest.raises(error, match=said) as caught:
        parse_metadata(block, COPIES[0])
    assert caught.value.offset is not None and caught.value.offset >= COPIES[0]


def test_no_copy_of_the_metadata_is_whole(look) -> None:
    volume = look(Made(PLAIN, broken_copies=(0, 1, 2)).image(), STARTUP)
    assert (volume.id, volume.state) == ("disk", VolumeState.DAMAGED)
    assert volume.reason is not None and "CRC of the metadata is wrong (at byte 65536" in volume.reason


def test_an_unreadable_copy_of_the_metadata(look) -> None:
    assert look(IMAGE, STARTUP, bad=(COPIES[0], 512)).state is VolumeState.OK


def test_volumes_cut_off_anywhere(look) -> None:
    for length in (512, 513, COPIES[0] + 64, COPIES[0] + 1000, COPIES[1], SIZE - 512, SIZE - 1):
        volume = look(IMAGE[:length], STARTUP)
        if volume.state is VolumeState.INCOMPLETE:
            assert volume.reason is not None and "past the end of its disk" in volume.reason
            assert read(volume.blocks, 8192, 512) == PLAIN[8192:8704]
        else:
            assert (volume.id, volume.state) == ("disk", VolumeState.DAMAGED)


# Locked, and keys that do not fit.


def test_locked(look) -> None:
    volume = look(Made(PLAIN, protectors=(PASSWORD_ID, RECOVERY_ID, STARTUP_ID, TPM_ID)).image())
    assert (volume.id, volume.kind, volume.state) == ("disk", "disk", VolumeState.ENCRYPTED)
    assert volume.reason == (
        "bitlocker: wants a password or the recovery password with id AAAAAAAA-0000-0000-0000-000000000002"
        " or the startup key file AAAAAAAA-0000-0000-0000-000000000003.BEK or the TPM of its machine"
    )
    assert volume.details == {
        "uuid": "11111111-2222-3333-4444-555555555555",
        "cipher": "AES-XTS 128",
        "protectors": volume.reason.removeprefix("bitlocker: wants ").replace(" or ", "; "),
        "encrypted": "448 KiB of 448 KiB",
        "description": "HOST C: 1/1/2026",
    }


MISTYPED = RECOVERY[:-1] + "4"


@pytest.mark.parametrize(
    ("kind", "secret", "said"),
    [
        (KeyKind.PASSPHRASE, b"sesame", "wrong key; wants"),
        (KeyKind.PASSPHRASE, b"\xff", "wrong key: a BitLocker password is text, and this is not UTF-8; wants"),
        (KeyKind.RECOVERY, RECOVERY.replace("000011", "000022").encode(), "wrong key; wants"),
        (KeyKind.RECOVERY, MISTYPED.encode(), "wrong key: group 8 of the recovery password is mistyped; wants"),
        (KeyKind.RECOVERY, b"999999" * 8, "wrong key: group 1 of the recovery password is mistyped; wants"),
        (KeyKind.RECOVERY, b"1-2-3", "wrong key: a recovery password has 48 digits in 8 groups; wants"),
        (KeyKind.STARTUP, startup_key_file(key=bytes(32)), "wrong key; wants"),
        (
            KeyKind.STARTUP,
            startup_key_file(TPM_ID),
            "wrong key: the startup key file is AAAAAAAA-0000-0000-0000-000000000005.BEK",
        ),
        (KeyKind.HEADER, b"no kind of BitLocker's", "wants a password"),
    ],
)
def test_keys_that_do_not_fit(look, kind: KeyKind, secret: bytes, said: str) -> None:
    volume = look(Made(PLAIN, protectors=(PASSWORD_ID, RECOVERY_ID, STARTUP_ID)).image(), Key(kind, Secret(secret)))
    assert volume.state is VolumeState.ENCRYPTED
    assert volume.reason is not None and volume.reason.startswith(f"bitlocker: {said}")
    assert secret.decode("latin-1") not in volume.reason


def test_a_broken_startup_key_file(look) -> None:
    for content in (b"", bytes(200), startup_key_file()[:60], startup_key_file()[:100]):
        with pytest.raises(Corrupt):
            parse_startup_key(content)
        volume = look(IMAGE, Key(KeyKind.STARTUP, Secret(content)))
        assert (volume.id, volume.state) == ("disk", VolumeState.DAMAGED)


def test_a_key_for_another_volume_is_not_tried(look) -> None:
    other = Key(KeyKind.STARTUP, Secret(startup_key_file()), "disk7")
    assert look(IMAGE, other).state is VolumeState.ENCRYPTED
    for own in ("disk", "disk0", "11111111-2222-3333-4444-555555555555"):
        assert look(IMAGE, Key(KeyKind.STARTUP, Secret(startup_key_file()), own)).state is VolumeState.OK


def test_the_user_is_asked(look) -> None:
    """Until a key fits, three times at most; what is wanted, and what was wrong, is told. Answers are wiped when tried."""
    asked: list[tuple[str, str]] = []
    told: list[tuple[str, str]] = []
    given: list[Key] = []
    answers: list[bytes | None] = [bytes(32), STARTUP_KEY]

    def ask(name: str, wants: str) -> Iterable[Key]:
        asked.append((name, wants))
        key = answers.pop(0)
        given[:] = [Key(KeyKind.STARTUP, Secret(startup_key_file(key=key)))] if key else []
        return given

    assert look(IMAGE, ask=ask).state is VolumeState.OK
    assert all(key.secret.is_wiped for key in given)
    file = "the startup key file AAAAAAAA-0000-0000-0000-000000000003.BEK"
    assert asked == [("disk0", f"wants {file}"), ("disk0", f"wrong key; wants {file}")]
    answers[:] = [None]
    assert look(IMAGE, ask=ask).reason == f"bitlocker: wants {file}"
    answers[:] = [bytes(32)] * 9
    volume = look(IMAGE, ask=ask, tell=lambda *words: told.append(words))
    assert volume.reason == f"bitlocker: wrong key; wants {file}"
    assert len(answers) == 6 and all(key.secret.is_wiped for key in given)
    assert told == [("disk0", "wrong key; it stays locked")]


def test_a_key_is_derived_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheme is asked again in each round of a scan."""
    (tmp_path / "volume").write_bytes(IMAGE)
    (tmp_path / "locked").write_bytes(Made(PLAIN, protectors=(TPM_ID,)).image())
    disks = [HostFile.open(str(tmp_path / name)) for name in ("volume", "locked")]
    calls: list[UUID] = []
    real = scheme_module.unlock
    monkeypatch.setattr(
        scheme_module, "unlock", lambda metadata, keys: calls.append(metadata.identifier) or real(metadata, keys)
    )
    scheme = bitlocker.with_keys(Keys((STARTUP,)))
    containers = [Volume(id=f"disk{index}", name="disk0", kind="disk", blocks=disk) for index, disk in enumerate(disks)]
    for _ in range(3):
        states = [volume.state for volume in scheme.volumes(containers)]
        assert states == [VolumeState.OK, VolumeState.ENCRYPTED]
    assert len(calls) == 2
    for disk in disks:
        disk.close()


def test_protectors_without_number(look) -> None:
    """Each costs a second of stretching: no more than a few are tried."""
    many = Made(PLAIN, protectors=(PASSWORD_ID,) * 100)
    begin = time.process_time()
    metadata = parse_metadata(many.image()[COPIES[0] :][:65536], 0)
    assert len(metadata.protectors) == 100
    keys = [Key(KeyKind.PASSPHRASE, Secret(b"wrong"))]
    tried = list(protectors._all_openers(metadata, keys))
    assert len(tried) == protectors.MAX_TRIED
    assert time.process_time() - begin < 5


def test_only_a_tpm(look) -> None:
    volume = look(Made(PLAIN, protectors=(TPM_ID,)).image(), STARTUP)
    assert volume.reason == "bitlocker: wants the TPM of its machine"
    assert look(Made(PLAIN, protectors=()).image()).reason == "bitlocker: wants a key that is not there"


def test_an_unknown_protector() -> None:
    metadata = parse_metadata(BLOCK, 0)
    at = BLOCK.index(STARTUP_ID.bytes_le) + 26
    strange = parse_metadata(resealed(BLOCK, (at, b"\x34\x12")), 0).protectors[0]
    assert protectors.describe(strange) == "something unknown (protector 0x1234)"
    assert protectors.describe(metadata.protectors[0]).endswith(".BEK")


def test_seals_that_hold_something_else(look) -> None:
    """The master key is there, and what it opens is missing, damaged or no key."""
    at = BLOCK.rindex(struct.pack("<4H", 80, 3, 5, 1))
    gone = resealed(BLOCK, (at + 2, b"\x63"))
    flipped = resealed(BLOCK, (at + 40, bytes([BLOCK[at + 40] ^ 1])))
    for block, said in ((gone, "is not there or cut off"), (flipped, "does not open the key of the data")):
        image = changed(IMAGE, *((copy, block) for copy in COPIES))
        volume = look(image, STARTUP)
        assert volume.state is VolumeState.DAMAGED
        assert volume.reason is not None and said in volume.reason
    for content in (b"", struct.pack("<4H", 8, 0, 2, 1)):
        with pytest.raises(Corrupt, match="a sealed key that is none"):
            sealed_entry(content)


def test_a_clear_key_that_is_damaged(look) -> None:
    """The other ways in still open it."""
    image = Made(PLAIN, protectors=(CLEAR_ID, STARTUP_ID)).image()
    block = image[COPIES[0] : COPIES[0] + 65536]
    at = block.index(bytes(range(32, 64)))
    image = changed(image, *((copy, resealed(block, (at, b"\0"))) for copy in COPIES))
    assert look(image).state is VolumeState.ENCRYPTED
    assert look(image, STARTUP).state is VolumeState.OK


@pytest.mark.parametrize(("method", "size"), [(0, 64), (0x8006, 64), (0x8004, 16), (0x8001, 32)])
def test_a_method_that_is_none(method: int, size: int) -> None:
    with pytest.raises(Unsupported, match="encryption method"):
        cipher(method, bytes(size), 512)


def test_secrets_stay_secret() -> None:
    assert STARTUP_KEY.hex() not in repr(STARTUP)
    with pytest.raises(Denied) as caught:
        protectors.unlock(parse_metadata(BLOCK, 0), [Key(KeyKind.STARTUP, Secret(startup_key_file(key=b"s" * 32)))])
    assert "sss" not in str(caught.value)


# Borders and bitmaps.


@pytest.mark.parametrize("change", [(16, b"\1"), (24, b"\1")])
def test_a_border_inside_a_sector(look, change: tuple[int, bytes]) -> None:
    block = resealed(BLOCK, (12, b"\2"), (24, b"\0\2"), change)
    volume = look(changed(IMAGE, *((copy, block) for copy in COPIES)), STARTUP)
    assert volume.state is VolumeState.DAMAGED
    assert volume.reason is not None and "inside a sector" in volume.reason


def test_offsets_outside_the_volume(look) -> None:
    """Areas that lie past its end hide nothing; the first sectors, moved there, cannot be read."""
    far = struct.pack("<Q", 1 << 62)
    block = resealed(BLOCK, (40, far), (48, far), (56, far))
    volume = look(changed(IMAGE, *((copy, block) for copy in COPIES)), STARTUP)
    with pytest.raises(ReadFailed, match="past the end of the volume"):
        read(volume.blocks, 0, 512)
    assert read(volume.blocks, 8192, 512) == PLAIN[8192:8704]


def test_the_end_of_the_disk_inside_the_moved_sectors(look) -> None:
    volume = look(IMAGE[:0x29000], STARTUP)
    assert volume.state is VolumeState.INCOMPLETE
    assert read(volume.blocks, 0, 0x1000) == PLAIN[:0x1000]
    with pytest.raises(ReadFailed, match="past the end of the volume"):
        read(volume.blocks, 0x1000, 1)


EOW_IMAGE = Made(PLAIN, eow=EOW).image()
HEADER, BITMAP = EOW.headers[0], EOW.bitmaps


def fixed(image: bytes, at: int, size: int, field: int, *changes: tuple[int, bytes]) -> bytearray:
    """Bytes changed at offsets from ``at``, and the CRC of ``size`` bytes there made right again."""
    content = changed(image, *((at + offset, data) for offset, data in changes))
    content[at + field : at + field + 4] = bytes(4)
    content[at + field : at + field + 4] = struct.pack("<I", zlib.crc32(content[at : at + size]))
    return content


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (changed(EOW_IMAGE, *((at, b"x") for at in EOW.headers)), "no encrypt-on-write header"),
        (changed(EOW_IMAGE, *((at + 8, b"\0") for at in EOW.headers)), "header of impossible sizes"),
        (changed(EOW_IMAGE, *((at + 20, b"\1") for at in EOW.headers)), "header of impossible sizes"),
        (changed(EOW_IMAGE, *((at + 28, b"\1") for at in EOW.headers)), "CRC of an encrypt-on-write structure is wrong"),
        (changed(EOW_IMAGE, (BITMAP, b"x")), "no encrypt-on-write bitmap"),
        (changed(EOW_IMAGE, (BITMAP + 12, b"\xff\xff\xff")), "bitmap of impossible size"),
        (changed(EOW_IMAGE, (BITMAP + 44, b"\xff\xff")), "bitmap is cut off"),
        (changed(EOW_IMAGE, (BITMAP + 100, b"x")), "CRC of an encrypt-on-write structure is wrong"),
        (fixed(EOW_IMAGE, BITMAP + 0x1000, 512, 56, (20, b"\0\x20\0")), "regions overlap"),
        (fixed(EOW_IMAGE, BITMAP, 512, 56, (20, b"\1")), "regions overlap"),
    ],
)
def test_damaged_bitmaps(look, image: bytearray, said: str) -> None:
    volume = look(image, STARTUP)
    assert (volume.id, volume.state) == ("disk", VolumeState.DAMAGED)
    assert volume.reason is not None and said in volume.reason


def test_the_second_header(look) -> None:
    assert look(changed(EOW_IMAGE, (HEADER, b"x")), STARTUP).state is VolumeState.DIRTY


def test_an_older_record(look) -> None:
    """The newer one was being written: the older one, which says the opposite here, counts."""
    volume = look(changed(EOW_IMAGE, (BITMAP + 512 + 40, b"\xff")), STARTUP)
    assert read(volume.blocks, 0x2000, 512) == EOW_IMAGE[0x2000:0x2200], "as stored"
    for change in ((512, b"x"), (512 + 12, b"\xff\xff\xff"), (512 + 16, b"\xff\xff\xff")):
        assert (
            read(look(changed(EOW_IMAGE, (BITMAP + change[0], change[1])), STARTUP).blocks, 0x2000, 9)
            == EOW_IMAGE[0x2000:0x2009]
        )


def test_a_gap_between_regions(look) -> None:
    made = Made(PLAIN, eow=Eow(0x8000, [(0x4000, 0x2C000, [True] * 6), (0x30000, 0x30000, [True] * 6)]))
    volume = look(made.image(), STARTUP)
    assert read(volume.blocks, 0x4000, 512) == PLAIN[0x4000:0x4200]
    for offset in (0x2000, 0x3FFF, SIZE - 1):
        with pytest.raises(ReadFailed, match="not known"):
            read(volume.blocks, offset, 1)


def test_more_bitmaps_than_are_read(look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_MAX_BITMAPS", 2000)
    volume = look(EOW_IMAGE, STARTUP)
    assert volume.reason is not None and "more than 2000 bytes of bitmaps" in volume.reason


def test_more_changes_than_are_read(look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryptonwrite, "MAX_RUNS", 8)
    volume = look(EOW_IMAGE, STARTUP)
    assert volume.reason is not None and "too many changes" in volume.reason
    monkeypatch.setattr(encryptonwrite, "MAX_RUNS", 3)
    volume = look(EOW_IMAGE, STARTUP)
    assert volume.reason is not None and "changes more than 3 times" in volume.reason


def test_every_byte_of_the_boot_sector_and_the_metadata(look) -> None:
    """Flipped one by one: a state, and never a crash. With the CRC made right again as well."""
    rng = random.Random(5)
    size = struct.unpack_from("<H", BLOCK, 8)[0] * 16
    for _ in range(150):
        at = rng.randrange(size)
        block = resealed(BLOCK, (at, bytes([BLOCK[at] ^ 1 << rng.randrange(8)]))) if at not in (8, 9, 10) else BLOCK
        volume = look(changed(IMAGE, *((copy, block) for copy in COPIES)), STARTUP)
        assert volume.state in VolumeState
    for at in range(512):
        look(changed(IMAGE[:0x20000], (at, bytes([IMAGE[at] ^ 0x55]))))
