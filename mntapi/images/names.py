"""What a file's name promises. Formats are told by content; a name only shows that a signature is missing which should be
there.

A VMDK whose first sector was lost looks like a raw disk of zeros, and a dynamic VHD without its footers like one of garbage.
Who gets that instead of an error restores wrong bytes. (qemu-img takes both for raw disks without a word.) Names that raw disks
have, too, promise nothing: the flat extents of a VMDK, ``.hdd``. An image of macOS that can be written is a raw disk named
``.dmg``, and looks like a compressed one that was cut off: there the user has to say so.
"""

from __future__ import annotations

import os
import re

from mntapi.blocks import read_clipped
from mntapi.errors import Corrupt, Unsupported
from mntapi.remote import is_url
from mntapi.types import Blocks

PROMISED = {".vhd": "vhd", ".avhd": "vhd", ".vhdx": "vhdx", ".avhdx": "vhdx", ".vmdk": "vmdk", ".vdi": "vdi", ".qcow2": "qcow2"}
PROMISED |= {
    ".qed": "qed",
    ".e01": "ewf",
    ".ex01": "ewf",
    ".s01": "ewf",
    ".dmg": "dmg",
    ".ova": "ova",
    ".gz": "gzip",
    ".xz": "xz",
    ".zst": "zstd",
    ".vmx": "VMware machine",
    ".vbox": "VirtualBox machine",
    ".ovf": "OVF",
}
"""Suffix -> the format that a file of this name has."""
UNREAD = {".bz2": "bzip2", ".lz4": "lz4", ".lzo": "lzop", ".lzma": "lzma", ".zip": "zip", ".7z": "7z", ".rar": "rar"}
UNREAD |= {
    ".aff": "AFF",
    ".aff4": "AFF4",
    ".wim": "WIM",
    ".vma": "Proxmox VMA",
    ".vbk": "Veeam",
    ".vib": "Veeam",
    ".tib": "Acronis",
}
"""The same for formats that this version does not read."""
RAW_HINT = "if it is a raw disk all the same: --format raw (of convert: --source-format raw)"

_FLAT_VMDK = re.compile(r"-(flat|f\d+|pt|rdmp?)\.vmdk$", re.IGNORECASE)
_CHUNK = re.compile(r"\.[0-9]{9}$")


def is_chunk(path: str) -> bool:
    """Whether it is named like a part of a disk that an OVF has cut: ``disk.vmdk.000000000`` (DSP0243, section 7.1)."""
    return _CHUNK.search(path) is not None


def promised(path: str) -> str | None:
    """The format that the name of a file or of what a web server has stands for; None if it stands for none that is read."""
    return None if _FLAT_VMDK.search(_name(path)) else PROMISED.get(_suffix(path))


def check_name(file: Blocks, path: str, *, hint: str | None = RAW_HINT) -> None:
    """Raise for a file without any signature that has the name of another format than raw. An empty one is left to others.

    Raises:
        Corrupt: the signature that the name promises is not there (reason ``signature-missing``).
        Unsupported: the name is that of a format that is not read.
    """
    if file.size == 0:
        return
    format_ = promised(path)
    if format_ is not None:
        head = read_clipped(file, 0, 8)
        raise Corrupt(
            f"has the name of a {format_} file and not its signature",
            path=path,
            offset=0,
            found=head.hex(" ") if any(head) else "zeros",
            hint=hint,
            reason="signature-missing",
        )
    unread = UNREAD.get(_suffix(path))
    if unread is not None:
        raise Unsupported(f"has the name of a {unread} file, which is not read", path=path, hint=hint)


def _suffix(path: str) -> str:
    return os.path.splitext(_name(path))[1].lower()


def _name(path: str) -> str:
    """The last part of a path, or of the path of a URL; the export of an NBD server is a disk, whatever its name is."""
    if not is_url(path):
        return os.path.basename(path)
    return os.path.basename(path.partition("?")[0]) if path.lower().startswith("http") else ""
