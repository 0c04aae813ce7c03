"""BitLocker volumes read byte for byte as Windows shows them: against cryptsetup's test images and the SHA-256 of the decrypted
devices that come with them, against libbde and dislocker on small volumes made by ``bitlocker_builder``, and against the plain
bytes those were made of.

libbde is asked for whole aligned volumes only: at offsets that are no multiple of the sector it answers with wrong bytes.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import mntapi
from contract.bitlocker_builder import (
    CLEAR_ID,
    PASSWORD,
    PASSWORD_ID,
    RECOVERY,
    RECOVERY_ID,
    SIZE,
    STARTUP_ID,
    Eow,
    some_ntfs,
    startup_key_file,
)
from contract.bitlocker_builder import Volume as Made
from contract.blocks_contract import check_blocks
from mntapi.blocks import Fault, HostFile, read
from mntapi.errors import Invalid, ReadFailed
from mntapi.keys import Key, KeyKind, Keys, Secret
from mntapi.types import OpenOptions, Volume, VolumeState
from mntapi.volumes import bitlocker

SAMPLES = Path(__file__).parents[3] / "shared" / "images" / "cryptsetup" / "tests" / "bitlk-some.tar.xz"
PLAIN = some_ntfs(random.Random(7).randbytes(SIZE))
STARTUP = Keys((Key(KeyKind.STARTUP, Secret(startup_key_file())),))
EOW = Eow(
    0x8000,
    [(0x2000, 0x2E000, [True, False, True, False, False, True]), (0x30000, 0x40000, [True, True] + [False] * 3 + [True] * 3)],
)
METHODS = range(0x8000, 0x8006)


def keys(kind: KeyKind, secret: bytes) -> Keys:
    return Keys((Key(kind, Secret(secret)),))


@pytest.fixture
def unlocked(tmp_path: Path):
    """Writes a made volume to a file, and unlocks it."""
    opened: list[HostFile] = []

    def unlock(made: Made, given: Keys = STARTUP) -> Volume:
        path = tmp_path / "volume"
        path.write_bytes(made.image())
        opened.append(HostFile.open(str(path)))
        scheme = bitlocker.with_keys(given)
        container = Volume(id="disk:volume", name="disk0", kind="disk", blocks=opened[-1], disk=0, offset=0)
        assert scheme.claims(container)
        (volume,) = scheme.volumes([container])
        return volume

    yield unlock
    for each in opened:
        each.close()


def by_libbde(path: Path, startup_key: Path) -> bytes:
    pybde = pytest.importorskip("pybde", reason="libbde-python is not installed")
    volume = pybde.volume()
    volume.read_startup_key(str(startup_key))
    volume.open(str(path))
    volume.unlock()
    content: bytes = volume.read_buffer(SIZE)
    volume.close()
    return content


CASES = {
    **{f"{method:04x}": Made(PLAIN, method) for method in METHODS},
    "to-go": Made(PLAIN, to_go=True),
    "sectors-of-4096": Made(PLAIN, sector_size=4096),
    "cbc-sectors-of-4096": Made(PLAIN, 0x8003, sector_size=4096),
    "paused": Made(PLAIN, 0x8003, state=3, border=0x40000),
    "paused-in-front-of-the-header": Made(PLAIN, state=5, border=0x20000),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind(case: str, unlocked, tmp_path: Path) -> None:
    volume = unlocked(CASES[case])
    assert (volume.state, volume.reason, volume.kind) == (VolumeState.OK, None, "bitlocker")
    assert volume.id == "bitlocker:11111111-2222-3333-4444-555555555555"
    assert (volume.name, volume.members) == ("bitlocker-11111111", ("disk:volume",))
    check_blocks(volume.blocks, CASES[case].shown(), ranges=60)
    (tmp_path / "key.bek").write_bytes(startup_key_file())
    assert by_libbde(tmp_path / "volume", tmp_path / "key.bek") == CASES[case].shown()


@pytest.mark.parametrize("method", METHODS)
def test_closing_overwrites_the_key(unlocked, method: int) -> None:
    volume = unlocked(Made(PLAIN[: 1 << 16].ljust(SIZE, b"\0"), method, border=0x2A000, state=3))
    assert read(volume.blocks, 0, 512)
    volume.blocks.close()
    volume.blocks.close()
    with pytest.raises(Invalid, match="has been closed"):
        read(volume.blocks, 0, 512)


def test_vista(unlocked) -> None:
    """libbde agrees on all but the cluster of the MFT's mirror in the boot sector, which it leaves 0."""
    made = Made(PLAIN, 0x8000, version=1)
    check_blocks(unlocked(made).blocks, made.shown(), ranges=60)


@pytest.mark.skipif(shutil.which("dislocker-file") is None, reason="dislocker is not installed")
def test_a_clear_key_as_dislocker(unlocked, tmp_path: Path) -> None:
    """Protection suspended: the key lies beside the lock."""
    made = Made(PLAIN, protectors=(CLEAR_ID,))
    volume = unlocked(made, Keys())
    command = ["dislocker-file", "-q", "-c", "-V", str(tmp_path / "volume"), "--", str(tmp_path / "decrypted")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "decrypted").read_bytes() == read(volume.blocks, 0, volume.size) == made.shown()


def test_a_decrypted_volume(unlocked) -> None:
    """Everything is plain, and the first sectors are still elsewhere."""
    made = Made(PLAIN, protectors=(), state=1)
    volume = unlocked(made, Keys())
    assert (volume.state, volume.details["cipher"]) == (VolumeState.OK, "none")
    check_blocks(volume.blocks, made.shown(), ranges=60)


def test_encrypt_on_write(unlocked) -> None:
    made = Made(PLAIN, 0x8002, eow=EOW)
    volume = unlocked(made)
    assert volume.state is VolumeState.DIRTY
    assert volume.reason is not None and volume.reason.startswith("is being converted")
    check_blocks(volume.blocks, made.shown(), ranges=60)


@pytest.mark.parametrize(("is_encrypted", "flags", "state"), [(True, 0, VolumeState.OK), (True, 2, VolumeState.DIRTY)])
def test_encrypt_on_write_at_its_ends(unlocked, is_encrypted: bool, flags: int, state: VolumeState) -> None:
    regions = [(start, length, [is_encrypted] * len(chunks)) for start, length, chunks in EOW.regions]
    made = Made(PLAIN, 0x8002, eow=Eow(EOW.chunk, regions, flags=flags))
    volume = unlocked(made)
    assert volume.state is state
    check_blocks(volume.blocks, made.shown(), ranges=20)


def test_a_decrypted_volume_with_bitmaps(unlocked) -> None:
    regions = [(start, length, [False] * len(chunks)) for start, length, chunks in EOW.regions]
    made = Made(PLAIN, protectors=(), state=1, eow=Eow(EOW.chunk, regions, flags=2))
    volume = unlocked(made, Keys())
    assert volume.state is VolumeState.OK
    check_blocks(volume.blocks, made.shown(), ranges=20)


def test_a_region_whose_bitmap_is_lost(unlocked) -> None:
    """What lies in it is not known, the rest reads."""
    made = Made(PLAIN, 0x8002, eow=Eow(EOW.chunk, EOW.regions, broken_records=(1,)))
    volume = unlocked(made)
    assert volume.state is VolumeState.INCOMPLETE
    assert read(volume.blocks, 0x2000, 0x4000) == made.shown()[0x2000:0x6000]
    with pytest.raises(ReadFailed, match="not known whether this range is encrypted"):
        read(volume.blocks, 0x48000, 512)


def test_an_interrupted_conversion(unlocked) -> None:
    """The range at the border is in either form: reading it is an error, never a guess."""
    made = Made(PLAIN, state=2, border=0x40000, state_size=0x2000)
    volume = unlocked(made)
    assert (volume.state, volume.reason) == (
        VolumeState.INCOMPLETE,
        "its conversion was interrupted: it is not known whether 8192 bytes are encrypted",
    )
    assert read(volume.blocks, 0x2000, 0x3E000) == made.shown()[0x2000:0x40000]
    assert read(volume.blocks, 0x42000, 0xE000) == made.shown()[0x42000:0x50000]
    for offset in (0x40000, 0x41FFF):
        with pytest.raises(ReadFailed):
            read(volume.blocks, offset, 1)


def test_another_copy_of_the_metadata(unlocked) -> None:
    made = Made(PLAIN, broken_copies=(0, 1))
    volume = unlocked(made)
    assert read(volume.blocks, 0, volume.size) == made.shown()


@pytest.mark.parametrize(
    ("guid", "given"),
    [
        (PASSWORD_ID, keys(KeyKind.PASSPHRASE, PASSWORD.encode())),
        (RECOVERY_ID, keys(KeyKind.RECOVERY, RECOVERY.encode() + b"\n")),
        (RECOVERY_ID, keys(KeyKind.PASSPHRASE, RECOVERY.encode())),
    ],
)
def test_passwords(unlocked, guid, given: Keys) -> None:
    made = Made(PLAIN, 0x8002, protectors=(STARTUP_ID, guid))
    volume = unlocked(made, given)
    assert read(volume.blocks, 0, 8192) == PLAIN[:8192]


def test_read_errors_come_through(tmp_path: Path, unlocked) -> None:
    """A bad sector of the disk is an error for what lies on it, and for nothing else."""
    unlocked(Made(PLAIN))
    with closing(HostFile.open(str(tmp_path / "volume"))) as disk:
        bad = Fault(disk, bad=[(0x24000, 512)])
        (volume,) = bitlocker.with_keys(STARTUP).volumes([Volume(id="x", name="disk0", kind="disk", blocks=bad)])
        with pytest.raises(ReadFailed, match="injected fault") as caught:
            read(volume.blocks, 0x23000, 0x4000)
        assert caught.value.offset == 0x24000
        assert read(volume.blocks, 0x24200, 0x1000) == PLAIN[0x24200:0x25200]


# cryptsetup's images.


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not SAMPLES.is_file():
        pytest.skip("the shared images are not here")
    folder = tmp_path_factory.mktemp("bitlk")
    with tarfile.open(SAMPLES) as archive:
        for member in archive:
            source = archive.extractfile(member)
            assert source is not None
            with (folder / os.path.basename(member.name)).open("wb") as out:
                while piece := source.read(1 << 16):  # sparse: most of each image is zeros
                    out.seek(len(piece), os.SEEK_CUR) if piece.count(0) == len(piece) else out.write(piece)
                out.truncate(member.size)
    yield folder
    shutil.rmtree(folder)


SAMPLE_KEYS = {
    "bitlk-aes-cbc-128": "RP",
    "bitlk-aes-cbc-elephant-128": "PW",
    "bitlk-aes-xts-128": "RP",
    "bitlk-aes-xts-128-first-recovery": "PW",
    "bitlk-aes-xts-128-startup-key": "SK_VMK_GUID",
}
_KINDS = {"RP": KeyKind.RECOVERY, "PW": KeyKind.PASSPHRASE, "SK_VMK_GUID": KeyKind.STARTUP}


@pytest.mark.parametrize("sample", SAMPLE_KEYS)
def test_samples(samples: Path, sample: str) -> None:
    """images.conf has the keys, and the SHA-256 of the whole decrypted device. Through the public interface."""
    facts = configparser.ConfigParser()
    facts.read(samples / "images.conf")
    kind, wanted = _KINDS[SAMPLE_KEYS[sample]], facts[sample]
    secret = wanted[SAMPLE_KEYS[sample]].encode()
    if kind is KeyKind.STARTUP:
        secret = (samples / f"{secret.decode().upper()}.BEK").read_bytes()
    options = OpenOptions(keys=keys(kind, secret))
    with mntapi.open_disks(str(samples / f"{sample}.img"), options=options) as disks:
        (volume,) = disks.volumes
        assert volume.id == f"bitlocker:{wanted['GUID']}"
        assert volume.state is VolumeState.OK
        assert disks.content(volume).signature.kind == "ntfs"
        digest = hashlib.sha256()
        for at in range(0, volume.size, 1 << 20):
            digest.update(read(volume.blocks, at, min(1 << 20, volume.size - at)))
    assert digest.hexdigest() == wanted["SHA256SUM"]


def test_a_locked_sample(samples: Path) -> None:
    with mntapi.open_disks(str(samples / "bitlk-aes-xts-128.img")) as disks:
        (volume,) = disks.volumes
    assert (volume.kind, volume.state) == ("disk", VolumeState.ENCRYPTED)
    wants = "a password or the recovery password with id 64311DEA-4587-4029-924A-BA299647998E"
    assert volume.reason == f"bitlocker: wants {wants}"
    assert volume.details["cipher"] == "AES-XTS 128"
    assert volume.details["uuid"] == "8f595209-f5b9-49a0-85d4-cb8f80258c27"
