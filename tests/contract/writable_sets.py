"""Sets to write to: the golden images of volume managers, and LUKS volumes that QEMU reads as well."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from hashlib import file_digest
from pathlib import Path

import pytest

from contract.luks_maker import PASSPHRASE, cryptsetup
from mntapi.units import KIB, MIB

GOLDEN = Path(__file__).parents[1] / "golden"
needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def unpack(source: Path, target: Path) -> Path:
    """Unpack, with holes where there are zeros."""
    with lzma.open(source) as packed, target.open("wb") as out:
        while chunk := packed.read(64 * KIB):
            if chunk.count(0) == len(chunk):
                out.seek(len(chunk), 1)
            else:
                out.write(chunk)
        out.truncate()
    return target


def golden(kind: str, names: str, folder: Path) -> list[Path]:
    return [unpack(path, folder / path.stem) for path in sorted((GOLDEN / kind).glob(names))]


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def luks1(path: Path, cipher: str, content: bytes) -> None:
    """A volume by cryptsetup, filled by QEMU."""
    path.write_bytes(bytes(2 * MIB + len(content)))
    arguments = ("-c", cipher, "-s", "512" if "xts" in cipher else "256", "--pbkdf-force-iterations", "1000")
    cryptsetup("luksFormat", "--type", "luks1", *arguments, "-d", "-", path)
    path.with_name("content").write_bytes(content)
    qemu_img("convert", "-n", "-f", "raw", path.with_name("content"), "--target-image-opts", of_qemu(path))


def qemu_img(command: str, *arguments: object) -> None:
    secret = f"secret,id=key,data={PASSPHRASE.decode()}"
    subprocess.run(["qemu-img", command, "--object", secret, *map(str, arguments)], check=True, capture_output=True)


def of_qemu(path: Path) -> str:
    return f"driver=luks,key-secret=key,file.filename={path}"
