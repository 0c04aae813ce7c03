"""LUKS volumes made by cryptsetup, in user space: it encrypts a file that is there without any device ("offline reencryption").

What was in the file before is then what a reader must find.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mntapi.blocks import HostFile
from mntapi.keys import Key, KeyKind, Keys, Secret
from mntapi.types import Volume
from mntapi.units import KIB, MIB
from mntapi.volumes.scan import Found, find_volumes

PASSPHRASE = b"correct horse"
SIZE = MIB + 12 * KIB
FAST = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
ARGON2 = ("--pbkdf-force-iterations", "4", "--pbkdf-memory", "32", "--pbkdf-parallel")

needs_cryptsetup = pytest.mark.skipif(shutil.which("cryptsetup") is None, reason="cryptsetup is not installed")


def pattern(size: int = SIZE) -> bytes:
    """Blocks of 512 bytes, each of which begins with its number."""
    return b"".join((b"%08x" % number).ljust(512, b".") for number in range(size // 512))


def cryptsetup(*arguments: object, key: bytes = PASSPHRASE) -> str:
    """Run it with the key on standard input; returns what it prints."""
    command = ["cryptsetup", "--batch-mode", *map(str, arguments)]
    done = subprocess.run(command, input=key, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def encrypted(
    path: Path, *options: str, kdf: tuple[str, ...] = FAST, resume: bool = True, content: bytes | None = None
) -> bytes:
    """Make a LUKS2 volume at ``path`` with 2 MiB of header; returns what is in it."""
    content = pattern() if content is None else content
    path.write_bytes(content + bytes(4 * MIB))
    small = ("--reduce-device-size", f"{4 * MIB}", "--luks2-keyslots-size", f"{MIB}")
    _reencrypt(path, *small, *options, kdf=kdf, resume=resume)
    with path.open("r+b") as file:
        file.truncate(2 * MIB + len(content))  # the rest is what it needed to make room for the header
    return content


def encrypted_apart(path: Path, header: Path, *options: str) -> bytes:
    """The same with the header in another file."""
    content = pattern()
    path.write_bytes(content)
    _reencrypt(path, "--header", str(header), *options, kdf=FAST, resume=True)
    return content


def _reencrypt(path: Path, *options: str, kdf: tuple[str, ...], resume: bool) -> None:
    init = () if resume else ("--init-only",)
    cryptsetup("reencrypt", "--encrypt", *init, "--type", "luks2", "--force-offline-reencrypt", *kdf, *options, "-d", "-", path)


def add_key(path: Path, key: bytes, *options: str, file: Path, kdf: tuple[str, ...] = FAST) -> None:
    """Another slot, for ``key``, which goes through ``file``."""
    file.write_bytes(key)
    cryptsetup("luksAddKey", *kdf, *options, "-d", "-", path, file)


def passphrase(content: bytes = PASSPHRASE, volume: str | None = None) -> Key:
    return Key(KeyKind.PASSPHRASE, Secret(content), volume)


def scanned(path: Path, *keys: Key, more: Keys | None = None) -> Found:
    """What is on the disk at ``path``; the file stays open while the test runs."""
    return find_volumes([HostFile.open(str(path))], keys=more or Keys(keys))


def opened(path: Path, *keys: Key) -> Volume:
    """The one volume, which must be the one inside."""
    (volume,) = scanned(path, *(keys or (passphrase(),))).volumes
    assert volume.kind == "luks", volume.reason
    return volume
