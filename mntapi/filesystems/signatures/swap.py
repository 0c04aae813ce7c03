"""Linux swap, and the images of a suspended system in its place. Source: Linux include/linux/swap.h; mkswap(8)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source

_HEADER_AT = 1024


@dataclass(frozen=True, slots=True)
class SwapHeader:
    """``union swap_header``, its ``info`` part."""

    version: int
    last_page: int
    uuid: bytes
    label: bytes
    padding: bytes


_HEADER = struct.Struct("<II4x16s16s128x8s")


def _header(source: Source, base: int) -> SwapHeader:
    return SwapHeader(*_HEADER.unpack(source.read(base + _HEADER_AT, _HEADER.size)))


def _named(header: SwapHeader) -> Found:
    """Label and UUID; garbage behind them means that an old mkswap wrote neither."""
    return Found() if any(header.padding) else Found(values.text(header.label), values.uuid(header.uuid))


def version1(source: Source, base: int) -> Found | None:
    """``SWAPSPACE2``: version 1 in either byte order, and at least one page."""
    header = _header(source, base)
    return _named(header) if header.version in (1, 1 << 24) and header.last_page else None


def version0(source: Source, base: int) -> Found | None:
    """``SWAP-SPACE``: Linux 2.0 and before, nothing but a bitmap."""
    return Found()


def suspended(source: Source, base: int) -> Found | None:
    """Swap space holding the memory of a hibernated Linux; label and UUID are the swap's."""
    return _named(_header(source, base))
