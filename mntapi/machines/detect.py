"""Which machine file a file is, and reading it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import cast

from mntapi.blocks import read_clipped
from mntapi.errors import NotFound, Unsupported
from mntapi.machines.model import Machine
from mntapi.machines.settings import read_text
from mntapi.machines.vmsd import read_snapshots
from mntapi.types import FileBlocks, Opener

HEAD = 4096
"""Bytes of a file's start that tell what it is."""

Parser = Callable[[bytes, str], Machine]

_VMX = re.compile(rb"^[ \t]*(config\.version|virtualhw\.version)[ \t]*=", re.IGNORECASE | re.MULTILINE)
_ROOT = re.compile(rb"<(?:[\w.-]+:)?(Envelope|domain|domstatus|VirtualBox|configuration)[\s>]")
_VMX_PARSER, _OVF_PARSER, _LIBVIRT_PARSER, _VBOX_PARSER = (
    "vmx.parse_vmx",
    "ovf.parse_ovf",
    "libvirt.parse_domain",
    "vbox.parse_vbox",
)
"""Module and function, imported when a file is met that is one: reading XML is not what most sets need."""
_BY_ROOT = {
    b"Envelope": _OVF_PARSER,
    b"domain": _LIBVIRT_PARSER,
    b"domstatus": _LIBVIRT_PARSER,
    b"VirtualBox": _VBOX_PARSER,
}
_BY_SUFFIX = {".vmx": _VMX_PARSER, ".vmtx": _VMX_PARSER, ".ovf": _OVF_PARSER, ".vbox": _VBOX_PARSER}
_REFUSED = {".vmcx": "Hyper-V", ".vmsd": "VMware (snapshots)"}
_HINT = "name its disks instead"


def is_machine(head: bytes, name: str) -> bool:
    """Whether a file is a machine file, by its first ``HEAD`` bytes, or by its name where it is one of a kind we refuse."""
    return _suffix(name) in _REFUSED or _parser(head, name) is not None


def read_machine(file: FileBlocks, opener: Opener | None = None) -> Machine:
    """What a machine file says.

    Args:
        file: the machine file; it stays open.
        opener: to look for the snapshots of a ``.vmx`` in the ``.vmsd`` beside it; without it there are none.

    Raises:
        Unsupported: it is of a kind that is not read, or has disks that are no files.
        Corrupt: it is damaged, or none.
    """
    suffix = _suffix(file.path)
    parser = _parser(read_clipped(file, 0, HEAD), file.path)
    if suffix in _REFUSED or parser is None:
        kind = _REFUSED.get(suffix, "unknown")
        raise Unsupported(f"is a machine file of a kind that is not read: {kind}", path=file.path, hint=_HINT,
                          reason="machine-kind")  # fmt: skip
    machine = _load(parser)(read_text(file, file.path), file.path)
    if machine.kind != "vmx" or opener is None:
        return machine
    name = os.path.splitext(os.path.basename(file.path))[0] + ".vmsd"
    try:
        snapshots = opener.open(name, relative_to=file.path)
    except NotFound:
        return machine
    try:
        return replace(machine, snapshots=read_snapshots(snapshots))
    finally:
        snapshots.close()


def _load(parser: str) -> Parser:
    module, _, function = parser.partition(".")
    return cast(Parser, getattr(import_module(f"mntapi.machines.{module}"), function))


def _parser(head: bytes, name: str) -> str | None:
    plain = head.replace(b"\0", b"")  # UTF-16
    text_only = head.count(b"\0") * 2 <= len(head)
    if text_only and plain.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").startswith(b"<"):
        match = _ROOT.search(plain)
        return _BY_ROOT.get(match[1]) if match else None
    if text_only and b"\0" not in head and _VMX.search(head):
        return _VMX_PARSER
    return _BY_SUFFIX.get(_suffix(name)) if head and b"\0" not in head else None


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
