"""Opening a VHD: which footer to believe, how large the disk is, and what it builds on."""

from __future__ import annotations

from mntapi.blocks import read, read_clipped
from mntapi.errors import Corrupt
from mntapi.images.blockmap import BlockMap, Window
from mntapi.images.formats import Chain
from mntapi.images.parents import open_parent
from mntapi.images.vhd.layout import DynamicLayout
from mntapi.images.vhd.structures import (
    FOOTER_SIZE,
    HEADER_SIZE,
    MAX_LOCATOR,
    OLD_FOOTER_SIZE,
    DiskType,
    Footer,
    Header,
    Locator,
    parse_footer,
    parse_header,
)
from mntapi.types import Blocks, FileBlocks, Image, Link

FORMAT = "vhd"


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """Open a fixed, dynamic or differencing VHD.

    A parent is known by its unique ID. The parent's time stamp in the child is not compared: Windows writes 0 there, and
    others the time the parent's file was changed, which no copy of the file keeps.

    Raises:
        Corrupt: a structure contradicts the format, or the parent is another disk (reason ``parent-mismatch``).
        NotFound: the parent is missing; the message names it.
        Unsupported: a version or kind of disk that the specification does not have.
    """
    footer = read_footer(file)
    if footer.kind is DiskType.FIXED:
        blocks: Blocks = Window(file, 0, footer.disk_size)
        return Image(file.path, FORMAT, blocks, (Link(file.path, FORMAT, cid=str(footer.unique_id)),))
    return _open_dynamic(file, footer, chain)


def read_footer(file: FileBlocks) -> Footer:
    """The footer at the end of the file; the copy at the start (of all but fixed disks) where that one is damaged.

    Raises:
        Corrupt: neither can be used.
    """
    try:
        return _footer_at_end(file)
    except Corrupt as error:
        head = read_clipped(file, 0, FOOTER_SIZE)
        if not head.startswith(b"conectix"):
            raise
        footer = parse_footer(head, path=file.path, offset=0)
        if footer.kind is DiskType.FIXED:
            raise error from None  # a fixed disk has no copy: these bytes are the guest's
        return footer


def _footer_at_end(file: FileBlocks) -> Footer:
    for size in (FOOTER_SIZE, OLD_FOOTER_SIZE):
        content = read_clipped(file, max(0, file.size - size), size)
        if content.startswith(b"conectix"):
            return parse_footer(content, path=file.path, offset=file.size - size)
    raise Corrupt(
        "has no VHD footer at its end",
        path=file.path,
        offset=max(0, file.size - FOOTER_SIZE),
        expected=b"conectix",
        hint="the file is cut off, or something was appended to it",
        reason="footer",
    )


def _open_dynamic(file: FileBlocks, footer: Footer, chain: Chain) -> Image:
    header = _read_header(file, footer)
    size = footer.disk_size
    parent = _open_parent(file, header, chain) if footer.kind is DiskType.DIFFERENCING else None
    blocks = BlockMap(
        file,
        DynamicLayout(file, header, size),
        size=size,
        block_size=header.block_size,
        parent=parent.blocks if parent else None,
    )
    link = Link(
        file.path, FORMAT, cid=str(footer.unique_id), parent_cid=str(header.parent_id) if header.parent_id.int else None
    )
    return Image(file.path, FORMAT, blocks, (link, *(parent.chain if parent else ())))


def _read_header(file: FileBlocks, footer: Footer) -> Header:
    at = footer.header_offset
    if at + HEADER_SIZE > file.size:
        raise Corrupt("the dynamic disk header is outside the file", path=file.path, offset=at, reason="header")
    header = parse_header(read(file, at, HEADER_SIZE), path=file.path, offset=at)
    needed = -(-footer.disk_size // header.block_size)
    if header.table_count < needed:
        raise Corrupt(
            "the block table is too short for the disk",
            path=file.path,
            offset=at + 28,
            expected=f"at least {needed} entries",
            found=header.table_count,
            reason="block-table",
        )
    if header.table_offset + header.table_count * 4 > file.size:
        raise Corrupt(
            "the block table is outside the file",
            path=file.path,
            offset=at + 16,
            expected=f"at most {file.size} bytes",
            found=f"{header.table_count} entries at {header.table_offset}",
            reason="block-table",
        )
    return header


def _open_parent(file: FileBlocks, header: Header, chain: Chain) -> Image:
    return open_parent(
        [_locator_name(file, locator) for locator in header.locators if locator.is_relative],
        [*(_locator_name(file, locator) for locator in header.locators if locator.is_absolute), header.parent_name],
        identifiers=[str(header.parent_id)],
        child=file,
        chain=chain,
        formats=(FORMAT,),
    )


def _locator_name(file: FileBlocks, locator: Locator) -> str:
    if locator.length > MAX_LOCATOR or locator.offset + locator.length > file.size:
        raise Corrupt(
            "a parent locator is outside the file or too long",
            path=file.path,
            offset=locator.offset,
            expected=f"at most {MAX_LOCATOR} bytes before {file.size}",
            found=locator.length,
            reason="parent-locator",
        )
    return locator.name(read(file, locator.offset, locator.length))
