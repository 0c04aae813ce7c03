"""LUKS volumes. Oracle: what was in a file before cryptsetup encrypted it; and for what cryptsetup's samples and a virtual
machine made (``scripts/images/luks.sh``), what dm-crypt reads."""

from __future__ import annotations

import hashlib
import json
import lzma
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import mntapi
from contract import luks_builder
from contract.blocks_contract import check_blocks, check_closed
from contract.luks_maker import (
    ARGON2,
    PASSPHRASE,
    SIZE,
    add_key,
    cryptsetup,
    encrypted,
    encrypted_apart,
    needs_cryptsetup,
    opened,
    passphrase,
    scanned,
)
from mntapi.blocks import HostFile, read
from mntapi.crypto import gcrypt
from mntapi.keys import Key, KeyKind, Keys, Secret
from mntapi.session.keys import KeyFolder
from mntapi.types import OpenOptions, Volume, VolumeState
from mntapi.units import MIB
from mntapi.volumes.scan import find_volumes

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "../shared/images/cryptsetup/tests"
GOLDEN = ROOT / "tests/golden/luks"

needs_libgcrypt = pytest.mark.skipif(gcrypt.library() is None, reason="libgcrypt is not installed")


@pytest.fixture(params=["libgcrypt", "cryptography"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """With libgcrypt where the host has it, and without."""
    if request.param == "cryptography":
        monkeypatch.setattr(gcrypt, "library", lambda: None)
    elif gcrypt.library() is None:
        pytest.skip("libgcrypt is not installed")
    yield request.param


CIPHERS = [
    ("aes-xts-plain64", 512, 512),
    ("aes-xts-plain64", 256, 4096),
    ("aes-xts-plain", 512, 2048),
    ("aes-xts-plain", 256, 512),
    ("aes-xts-essiv:sha256", 512, 1024),
    ("aes-cbc-essiv:sha256", 256, 512),
    ("aes-cbc-essiv:sha256", 256, 4096),
    ("aes-cbc-plain64", 128, 512),
    ("aes-cbc-plain", 192, 4096),
    ("aes-cbc-plain64be", 256, 1024),
    ("aes-cbc-null", 128, 512),
]


@needs_cryptsetup
@pytest.mark.parametrize(("cipher", "bits", "sector_size"), CIPHERS)
def test_ciphers(tmp_path: Path, engine: str, cipher: str, bits: int, sector_size: int) -> None:
    path, header = tmp_path / "disk", tmp_path / "header"
    want = encrypted_apart(path, header, "-c", cipher, "-s", str(bits), "--sector-size", str(sector_size))
    volume = opened(path, Key(KeyKind.HEADER, Secret(header.read_bytes()), "disk0"), passphrase())
    check_blocks(volume.blocks, want, ranges=60)
    assert volume.details["cipher"] == cipher and volume.details["sector_size"] == str(sector_size)
    check_closed(volume.blocks)


@needs_cryptsetup
def test_a_volume_with_its_header(tmp_path: Path) -> None:
    want = encrypted(tmp_path / "disk", "-c", "aes-xts-plain64", "-s", "256", "--label", "accounts")
    uuid = cryptsetup("luksUUID", tmp_path / "disk").strip()
    options = OpenOptions(keys=Keys((passphrase(volume=uuid.upper()),)))
    with mntapi.open_disks(str(tmp_path / "disk"), options=options) as disk_set:
        (volume,), (container,) = disk_set.volumes, disk_set.containers
        check_blocks(volume.blocks, want, ranges=100)
    assert (volume.id, volume.name, volume.kind) == (f"luks:{uuid}", f"luks-{uuid[:8]}", "luks")
    assert (volume.disk, volume.offset, volume.members, volume.state, volume.reason) == (
        None,
        None,
        ("disk:disk",),
        VolumeState.OK,
        None,
    )
    assert container.details == volume.details and container.state is VolumeState.OK
    assert volume.details == {
        "version": "LUKS2",
        "uuid": uuid,
        "label": "accounts",
        "cipher": "aes-xts-plain64",
        "key_size": "256 bits",
        "sector_size": "512",
        "slots": "0 pbkdf2-sha256 x 1000",
    }
    check_closed(volume.blocks)


@needs_cryptsetup
@pytest.mark.parametrize("cipher", ["aes-xts-plain64", "aes-cbc-essiv:sha256"])
def test_luks1(tmp_path: Path, cipher: str) -> None:
    path = tmp_path / "disk"
    want = encrypted(path, "-c", cipher, "-s", "256")
    cryptsetup("convert", "--type", "luks1", path)
    add_key(path, b"another\n", "-S", "5", file=tmp_path / "key")
    for key in (PASSPHRASE, b"another\n", b"another\n\n"[:-1]):
        check_blocks(opened(path, passphrase(key)).blocks, want, ranges=30)
    assert opened(path).details["slots"] == "0 pbkdf2-sha256 x 1000, 5 pbkdf2-sha256 x 1000"


@needs_cryptsetup
def test_several_slots(tmp_path: Path) -> None:
    """Each key opens its own; the order is that of the priorities; a slot of another key opens nothing."""
    path, file = tmp_path / "disk", tmp_path / "key"
    want = encrypted(path, "-c", "aes-xts-plain64", "-s", "256", kdf=("--pbkdf", "argon2id", *ARGON2, "1"))
    add_key(path, b"\0\n\xff" * 900, file=file, kdf=("--pbkdf", "argon2i", *ARGON2, "4"))
    add_key(path, b"typed", file=file)
    add_key(path, b"of nothing", "--unbound", "-s", "256", file=file)
    cryptsetup("config", "--priority", "prefer", "-S", "2", path)
    cryptsetup("config", "--priority", "ignore", "-S", "0", path)
    cryptsetup("token", "add", "--key-description", "somewhere", path)
    for key in (PASSPHRASE, b"\0\n\xff" * 900, b"typed", b"typed\n", b"typed\r\n"):
        assert read(opened(path, passphrase(key)).blocks, 0, SIZE) == want[:SIZE]
    (locked,) = scanned(path).volumes
    slots = "2 pbkdf2-sha256 x 1000 (preferred), 1 argon2i 32.0 KiB x 4, 0 argon2id 32.0 KiB x 4 (ignored by default)"
    assert (locked.details["slots"], locked.details["tokens"]) == (slots, "luks2-keyring")
    (wrong,) = scanned(path, passphrase(b"of nothing"), passphrase(b"x")).volumes
    assert wrong.state is VolumeState.ENCRYPTED and wrong.reason is not None
    assert wrong.reason.startswith("luks2: wrong key (2 tried); wants a passphrase or key file; slot 2 pbkdf2-sha256 x 1000, ")


@needs_cryptsetup
def test_a_locked_volume(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    encrypted(path, "-c", "aes-xts-plain64", "-s", "256")
    for keys in ((), (passphrase(volume="disk7"),), (Key(KeyKind.RECOVERY, Secret(PASSPHRASE)),)):
        with mntapi.open_disks(str(path), options=OpenOptions(keys=Keys(keys))) as disk_set:
            (volume,) = disk_set.volumes
            content = disk_set.content(volume)
        assert (volume.id, content.state) == ("disk:disk", VolumeState.ENCRYPTED)
        assert content.reason == "luks2: wants a passphrase or key file; slot 0 pbkdf2-sha256 x 1000"
        assert content.signature is not None and content.signature.kind == "crypto_LUKS"


@needs_cryptsetup
def test_a_person_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    encrypted(path, "-c", "aes-xts-plain64", "-s", "256")
    asked: list[tuple[str, str]] = []
    answers = [[passphrase(b"no")], [passphrase()]]

    def ask(volume: str, wants: str) -> list[Key]:
        asked.append((volume, wants))
        return answers.pop(0) if answers else []

    (volume,) = scanned(path, more=Keys(ask=ask)).volumes
    assert volume.kind == "luks"
    wants = "luks2: wants a passphrase or key file; slot 0 pbkdf2-sha256 x 1000"
    assert asked == [("disk0", wants), ("disk0", f"wrong key; {wants}")]
    asked.clear()
    (volume,) = scanned(path, more=Keys(ask=ask)).volumes
    assert (volume.state, len(asked)) == (VolumeState.ENCRYPTED, 1)
    answers = [[passphrase(b"no")] for _ in range(9)]
    told: list[tuple[str, str]] = []
    (volume,) = scanned(path, more=Keys(ask=ask, tell=lambda *words: told.append(words))).volumes
    assert len(asked) == 4 and volume.reason is not None and "wrong key (3 tried)" in volume.reason
    assert told == [("disk0", "wrong key; it stays locked")]


@needs_cryptsetup
def test_a_key_that_is_kept_and_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    encrypted(path, "-c", "aes-xts-plain64", "-s", "256")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "disk0.key").mkdir()
    (volume,) = scanned(path, more=Keys(find=KeyFolder(str(tmp_path / "keys")).find)).volumes
    assert volume.state is VolumeState.ENCRYPTED and volume.reason is not None
    assert volume.reason.startswith("luks2: ") and "disk0.key: is a folder, not a key file" in volume.reason


@needs_cryptsetup
def test_the_newest_copy_of_the_header(tmp_path: Path) -> None:
    """The first copy is an old one, then spoilt, then wiped: the second has the new slot."""
    path = tmp_path / "disk"
    want = encrypted(path, "-c", "aes-xts-plain64", "-s", "256", "--luks2-metadata-size", "32k")
    old = path.read_bytes()[: 32 * 1024]
    add_key(path, b"new", file=tmp_path / "key")
    spoilt = bytes(600) + b"!" + bytes(30)
    for head in (old, old[:5000] + b"#" + old[5001:], spoilt.ljust(4096, b"\0"), bytes(4096)):
        with path.open("r+b") as file:
            file.write(head)
        if head.startswith(b"\0" * 600 + b"!"):
            assert scanned(path, passphrase(b"new")).volumes[0].kind == "disk"  # it may be something else by now
            continue
        volume = opened(path, passphrase(b"new"))
        assert read(volume.blocks, 0, SIZE) == want[:SIZE]
        assert (volume.reason is None) is (head is old)
    assert volume.reason is not None and volume.reason.startswith("a copy of the header is spoilt, the other was taken: ")


@needs_cryptsetup
def test_the_second_copy_is_spoilt(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    encrypted(path, "-c", "aes-xts-plain64", "-s", "256")
    with path.open("r+b") as file:
        file.seek(0x4000 + 460)
        file.write(b"\xff")
    volume = opened(path)
    assert volume.state is VolumeState.OK and volume.reason is not None and "checksum" in volume.reason


@needs_cryptsetup
def test_reencryption_in_progress(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    encrypted(path, "-c", "aes-xts-plain64", "-s", "256", resume=False)
    (volume,) = scanned(path, passphrase()).volumes
    assert volume.state is VolumeState.UNSUPPORTED and volume.kind == "disk"
    assert volume.reason is not None and "reencryption is in progress (online-reencrypt" in volume.reason


@needs_cryptsetup
def test_a_volume_that_was_cut_off(tmp_path: Path) -> None:
    """A copy that is 100 bytes short: whole sectors are shown."""
    path = tmp_path / "disk"
    want = encrypted(path, "-c", "aes-xts-plain64", "-s", "256", "--sector-size", "4096")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)
    volume = opened(path)
    assert (volume.state, volume.size) == (VolumeState.INCOMPLETE, len(want) - 4096)
    assert volume.reason == f"{4096 - 100} of its {len(want) - 100} bytes are missing"
    check_blocks(volume.blocks, want[:-4096], ranges=20)


@needs_cryptsetup
def test_a_file_system_inside_a_partition(tmp_path: Path) -> None:
    """Through the public interface: a partition of a disk, encrypted, named by its partition."""
    from unit.test_scan import partitioned

    encrypted(tmp_path / "volume", "-c", "aes-xts-plain64", "-s", "512")
    content = (tmp_path / "volume").read_bytes()
    partitioned(tmp_path / "disk", "label: gpt\nstart=2048, size=12000", {MIB: content}, size=10 * MIB)
    with mntapi.open_disks(str(tmp_path / "disk"), options=OpenOptions(keys=Keys((passphrase(volume="disk0p1"),)))) as found:
        (volume,) = found.volumes
        assert (volume.kind, [container.name for container in found.containers]) == ("luks", ["disk0", "disk0p1"])
        assert read(volume.blocks, 512, 8) == b"00000001"


def test_a_partition_table_inside(tmp_path: Path) -> None:
    """Encrypted by hand: cryptsetup would not encrypt a disk with a table."""
    from unit.test_scan import partitioned

    partitioned(tmp_path / "inner", "label: gpt\nstart=64, size=8", {64 * 512: b"guest"}, size=256 * 1024)
    content = luks_builder.xts(luks_builder.KEY, (tmp_path / "inner").read_bytes(), 0)
    (tmp_path / "disk").write_bytes(luks_builder.volume(luks_builder.metadata(), content))
    (volume,) = scanned(tmp_path / "disk", passphrase(luks_builder.PASSPHRASE)).volumes
    assert (volume.kind, volume.name) == ("partition", "luks-4c554b53p1")
    assert volume.members == ("luks:4c554b53-1111-4000-8000-000000000000",)
    assert read(volume.blocks, 0, 5) == b"guest"


@needs_cryptsetup
def test_lvm_inside(tmp_path: Path) -> None:
    """A physical volume that lvm made, encrypted as it is. Oracle: the SHA-256 that the kernel read off its logical volume."""
    golden = ROOT / "tests/golden/lvm"
    if not (golden / "facts.json").exists():
        pytest.skip("there are no golden images of LVM")
    (tmp_path / "lvm").write_bytes(lzma.decompress((golden / "disk3.img.xz").read_bytes()))
    (physical,) = [one for one in scanned(tmp_path / "lvm").containers if one.details.get("vg") == "twin"]
    content = read(physical.blocks, 0, physical.size)
    encrypted(tmp_path / "disk", "-c", "aes-xts-plain64", "-s", "512", "--sector-size", "4096", content=content)
    found = scanned(tmp_path / "disk", passphrase())
    (volume,) = found.volumes
    assert [container.kind for container in found.containers] == ["disk", "luks"]
    assert (volume.name, volume.members) == ("twin-data", (found.containers[1].id,))
    facts = json.loads((golden / "facts.json").read_text())["volumes"]["twin/data"]
    assert hashlib.sha256(read(volume.blocks, 0, volume.size)).hexdigest() == facts["sha256"]


SAMPLE_NAMES = [
    "aes-cbc-essiv-sha256-sha1",
    "aes-xts-plain64-sha1",
    "aes-xts-plain64-sha256",
    "aes-xts-plain64-whirlpool",
    "aes-xts-essiv-wp256-whirlpool",
    "serpent-xts-plain64-sha1",
    "serpent-xts-plain64-sha256",
    "serpent-xts-plain64-whirlpool",
    "twofish-xts-plain64-sha1",
    "twofish-xts-plain64-sha256",
    "twofish-xts-plain64-whirlpool",
]


def sample(name: str, folder: Path) -> tuple[Path, Key]:
    archive = SAMPLES / "luks1-images.tar.xz"
    if not archive.exists():
        pytest.skip("cryptsetup's samples are not here")
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.endswith((f"luks1_{name}.img", "keyfile1")):
                member.name = Path(member.name).name
                tar.extract(member, folder, filter="data")
    return folder / f"luks1_{name}.img", passphrase((folder / "keyfile1").read_bytes())


@needs_libgcrypt
@pytest.mark.parametrize("name", SAMPLE_NAMES)
def test_samples_of_cryptsetup(name: str, tmp_path: Path) -> None:
    """Upstream's test wants this UUID of a file system in each."""
    path, key = sample(name, tmp_path)
    with mntapi.open_disks(str(path), options=OpenOptions(keys=Keys((key,)))) as disk_set:
        (volume,) = disk_set.volumes
        signature = disk_set.content(volume).signature
        assert signature is not None and (signature.kind, signature.uuid) == ("vfat", "DEAD-BABE")
        root = disk_set.filesystem(volume).root
        assert list(disk_set.filesystem(volume).scan(root)) is not None


def test_a_cipher_that_nobody_has(tmp_path: Path) -> None:
    path, key = sample("aes-lrw-plain64-sha1", tmp_path)
    (volume,) = scanned(path, key).volumes
    assert volume.state is VolumeState.UNSUPPORTED and volume.details["cipher"] == "aes-lrw-plain64"
    assert volume.reason == "luks1: is encrypted with a cipher that is not read (found 'aes-lrw-plain64')"


def test_a_cipher_that_needs_libgcrypt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcrypt, "library", lambda: None)
    path, key = sample("serpent-xts-plain64-sha1", tmp_path)
    (volume,) = scanned(path, key).volumes
    assert volume.reason is not None
    assert volume.reason.startswith("luks1: slot 0 cannot be tried: needs the library libgcrypt; wants a passphrase")
    path, key = sample("aes-xts-plain64-whirlpool", tmp_path)
    (volume,) = scanned(path, key).volumes
    assert volume.reason is not None and "cannot be tried: uses a hash that is not read (found 'whirlpool')" in volume.reason


def golden() -> dict[str, tuple[int, str]]:
    """Name, size and SHA-256 of each volume, as dm-crypt read them."""
    rows = [line.split() for line in (GOLDEN / "sums").read_text().splitlines()]
    return {partition.removeprefix("/dev/sda"): (int(size), digest) for _, partition, size, digest in rows}


@needs_libgcrypt
def test_what_dm_crypt_wrote(tmp_path: Path) -> None:
    """Twofish, Camellia, Serpent, AES and no cipher at all; integrity tags are named."""
    path = tmp_path / "disk"
    path.write_bytes(lzma.decompress((GOLDEN / "disk.img.xz").read_bytes()))
    found = find_volumes([HostFile.open(str(path))], keys=Keys((passphrase(),)))
    by_partition = {_partition_of(volume): volume for volume in found.volumes}
    for number, (size, digest) in golden().items():
        volume = by_partition[number]
        assert volume.size == size
        assert hashlib.sha256(read(volume.blocks, 0, size)).hexdigest() == digest, number
        check_blocks(volume.blocks, read(volume.blocks, 0, size), ranges=50)
    assert len(golden()) == 5
    named = by_partition["6"]
    assert named.state is VolumeState.UNSUPPORTED
    assert named.reason == "luks2: has integrity tags (hmac(sha256)), which are not read"


def _partition_of(volume: Volume) -> str:
    return volume.id[-1] if volume.kind == "luks" else volume.name[-1]
