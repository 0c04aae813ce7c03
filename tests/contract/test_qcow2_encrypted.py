"""Encrypted QCOW2 images. Oracle: qemu-img convert with the same passphrase."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from contract.blocks_contract import check_blocks, check_closed
from mntapi.crypto import gcrypt
from mntapi.errors import Corrupt, Denied, MntapiError, Unsupported
from mntapi.images.formats import Chain
from mntapi.images.opener import DirectOpener
from mntapi.images.qcow2 import open_image
from mntapi.types import Image, OpenOptions

pytest.importorskip("cryptography")
pytestmark = pytest.mark.skipif(
    not (shutil.which("qemu-img") and shutil.which("qemu-io")), reason="needs qemu-img and qemu-io (qemu-utils)"
)
SIZE = 1_500_160
SECRET = "correct horse"


def open_path(path: Path, *passphrases: bytes) -> Image:
    opener = DirectOpener()
    file = opener.open(str(path))
    try:
        return open_image(file, Chain(opener, OpenOptions()), passphrases=passphrases)
    except BaseException:
        file.close()
        raise


def encrypted(tmp_path: Path, *options: str, kind: str = "luks") -> tuple[Path, bytes]:
    """An image with some patterns, and its disk as qemu-img reads it."""
    path, out = tmp_path / f"{kind}.qcow2", tmp_path / "oracle.raw"
    secret = ["--object", f"secret,id=s,data={SECRET}"]
    words = ",".join((f"encrypt.format={kind}", "encrypt.key-secret=s", *options))
    for _ in range(30):  # qemu-img cannot always measure the processor time that a short iter-time needs
        command = ["qemu-img", "create", "-q", "-f", "qcow2", *secret, "-o", words, path, str(SIZE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "accurate CPU usage" not in done.stderr:
            break
    else:
        pytest.skip("qemu-img cannot measure processor time on this machine")
    assert done.returncode == 0, done.stderr
    spec = f"driver=qcow2,encrypt.key-secret=s,file.filename={path}"
    patterns = ["write -P 1 0 100k", "write -P 2 300k 1k", "write -z 64k 64k", "write -P 3 1000k 400k", "write -P 4 200k 1k"]
    commands = [word for pattern in patterns for word in ("-c", pattern)]
    subprocess.run(["qemu-io", *secret, *commands, "--image-opts", spec], check=True, capture_output=True)
    subprocess.run(["qemu-img", "convert", *secret, "--image-opts", "-O", "raw", spec, out], check=True)
    return path, out.read_bytes()


@pytest.fixture(scope="module")
def luks(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return encrypted(tmp_path_factory.mktemp("luks"), "encrypt.iter-time=10")[0].read_bytes()


needs_libgcrypt = pytest.mark.skipif(gcrypt.library() is None, reason="needs libgcrypt")
LUKS = [
    (),
    ("encrypt.cipher-alg=aes-128", "cluster_size=512"),
    ("encrypt.cipher-mode=cbc", "encrypt.ivgen-alg=plain64", "encrypt.hash-alg=sha1"),
    ("encrypt.cipher-mode=cbc", "encrypt.ivgen-alg=essiv", "encrypt.ivgen-hash-alg=sha256", "encrypt.hash-alg=sha512"),
    ("extended_l2=on",),
    pytest.param(("encrypt.cipher-alg=twofish-256",), marks=needs_libgcrypt),
    pytest.param(
        ("encrypt.cipher-alg=serpent-128", "encrypt.cipher-mode=cbc", "encrypt.ivgen-alg=plain"), marks=needs_libgcrypt
    ),
]


@pytest.mark.parametrize("options", LUKS, ids=str)
def test_luks(tmp_path: Path, options: tuple[str, ...]) -> None:
    path, want = encrypted(tmp_path, "encrypt.iter-time=10", *options)
    image = open_path(path, b"wrong", SECRET.encode())
    check_blocks(image.blocks, want, ranges=100)
    check_closed(image.blocks)
    with pytest.raises(Denied):
        open_path(path, b"wrong")
    with pytest.raises(Unsupported, match="LUKS") as caught:
        open_path(path)
    assert caught.value.reason == "encrypted" and caught.value.hint


def test_luks_with_a_data_file(tmp_path: Path) -> None:
    path, want = encrypted(tmp_path, "encrypt.iter-time=10", f"data_file={tmp_path}/data")
    check_blocks(open_path(path, SECRET.encode()).blocks, want, ranges=100)


@pytest.mark.parametrize("options", [("cluster_size=512",), ("compat=0.10",), ()], ids=str)
def test_old_aes(tmp_path: Path, options: tuple[str, ...]) -> None:
    path, want = encrypted(tmp_path, *options, kind="aes")
    check_blocks(open_path(path, SECRET.encode()).blocks, want, ranges=100)


def test_other_ciphers_are_named(tmp_path: Path) -> None:
    path, _ = encrypted(tmp_path, "encrypt.iter-time=10", "encrypt.cipher-mode=ecb")
    with pytest.raises(Unsupported, match="aes-ecb-plain64"):
        open_path(path, b"x")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = encrypted(tmp_path, kind="aes")
    monkeypatch.setattr(gcrypt, "library", lambda: None)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
    with pytest.raises(Unsupported, match="package cryptography"):
        open_path(path, b"x")


@pytest.mark.parametrize(
    ("offset", "content", "error", "text"),
    [
        (0, b"NOTLUKS", Corrupt, "not LUKS"),
        (6, struct.pack(">H", 2), Unsupported, "version 2"),
        (72, b"md5\0", Unsupported, "md5"),
        (108, struct.pack(">I", 2**31), Corrupt, "key size"),
        (108, struct.pack(">I", 16), Corrupt, "does not fit"),
        (164, struct.pack(">I", 2**32 - 1), Unsupported, "iteration"),
        (208 + 4, struct.pack(">I", 0), Corrupt, "iteration"),
        (208 + 40, struct.pack(">I", 2**32 - 1), Corrupt, "outside"),
        (208 + 44, struct.pack(">I", 2**32 - 1), Corrupt, "stripes"),
    ],
    ids=str,
)
def test_spoilt_headers(luks: bytes, tmp_path: Path, offset: int, content: bytes, error: type[MntapiError], text: str) -> None:
    path, raw = tmp_path / "a.qcow2", bytearray(luks)
    start = raw.index(b"LUKS\xba\xbe")
    raw[start + offset : start + offset + len(content)] = content
    path.write_bytes(raw)
    with pytest.raises(error, match=text) as caught:
        open_path(path, SECRET.encode())
    assert caught.value.path == str(path)


def test_no_header_and_a_short_one(luks: bytes, tmp_path: Path) -> None:
    path, raw = tmp_path / "a.qcow2", luks
    at = raw.index(struct.pack(">I", 0x0537BE77))
    path.write_bytes(raw[:at] + b"none" + raw[at + 4 :])
    with pytest.raises(Corrupt, match="does not say where"):
        open_path(path, b"x")
    path.write_bytes(raw[: at + 16] + (100).to_bytes(8, "big") + raw[at + 24 :])
    with pytest.raises(Corrupt, match="too short for a LUKS"):
        open_path(path, b"x")
