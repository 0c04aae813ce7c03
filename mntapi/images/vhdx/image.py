"""Opening a VHDX: header, log, regions, metadata, parent, in the order the specification asks for."""

from __future__ import annotations

from dataclasses import dataclass

from mntapi.errors import Corrupt
from mntapi.images.blockmap import BlockMap
from mntapi.images.formats import Chain
from mntapi.images.parents import open_parent
from mntapi.images.vhdx.layout import VhdxLayout
from mntapi.images.vhdx.log import Entry, active_sequence
from mntapi.images.vhdx.metadata import Metadata, read_metadata
from mntapi.images.vhdx.replay import Replayed
from mntapi.images.vhdx.structures import BAT, METADATA, Header, Region, read_header, read_regions
from mntapi.types import Blocks, FileBlocks, Image, Link

FORMAT = "vhdx"
_LINKAGES = ("parent_linkage", "parent_linkage2")


@dataclass(frozen=True, slots=True)
class Structure:
    """What a VHDX says of itself. ``log`` has the entries that had to be replayed, oldest first; none on a clean file."""

    header: Header
    log: tuple[Entry, ...]
    block_table: Region
    metadata: Metadata

    @property
    def data_write_guid(self) -> str:
        """What a child of this disk names as its parent's identity."""
        return str(self.header.data_write_guid)


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """Open a fixed, dynamic or differencing VHDX, its log replayed in memory.

    Raises:
        Corrupt: a structure contradicts the format, or the parent is another disk (reason ``parent-mismatch``).
        NotFound: the parent is missing; the message names it.
        Unsupported: something is required that we do not know.
    """
    replayed, structure = read_structure(file)
    metadata = structure.metadata
    layout = VhdxLayout(replayed, file.path, structure.block_table, metadata)
    parent = _open_parent(file, metadata, chain)
    blocks = BlockMap(
        replayed,
        layout,
        size=metadata.disk_size,
        block_size=metadata.block_size,
        sector_size=metadata.sector_size,
        bitmap_unit=metadata.sector_size,
        parent=parent.blocks if parent else None,
    )
    linkage = _linkage(metadata.parent.get(_LINKAGES[0], "")) if metadata.parent is not None else None
    link = Link(file.path, FORMAT, cid=structure.data_write_guid, parent_cid=linkage)
    details = {"log": f"{len(structure.log)} entries replayed in memory"} if structure.log else {}
    return Image(file.path, FORMAT, blocks, (link, *(parent.chain if parent else ())), details)


def read_structure(file: FileBlocks) -> tuple[Blocks, Structure]:
    """The file with its log replayed (the file itself where there is nothing to replay), and what it says of itself.

    Raises: as ``open_image``, of this file alone.
    """
    header = read_header(file)
    log = active_sequence(file, header)
    replayed: Blocks = Replayed(file, log) if log else file
    regions = read_regions(replayed, file.path)
    metadata = read_metadata(replayed, file.path, regions[METADATA])
    return replayed, Structure(header, log, regions[BAT], metadata)


def _open_parent(file: FileBlocks, metadata: Metadata, chain: Chain) -> Image | None:
    if metadata.parent is None:
        return None
    names = metadata.parent
    identifiers = [_linkage(names[key]) for key in _LINKAGES if names.get(key)]
    if not identifiers:
        raise Corrupt("the parent locator has no parent_linkage", path=file.path, reason="metadata")
    image = open_parent(
        [names.get("relative_path", "")],
        [names.get("absolute_win32_path", ""), names.get("volume_path", "")],
        identifiers=identifiers,
        child=file,
        chain=chain,
        formats=(FORMAT,),
    )
    if image.blocks.sector_size == metadata.sector_size:
        return image
    image.blocks.close()
    raise Corrupt(
        f"the parent {image.path} has sectors of another size",
        path=file.path,
        expected=metadata.sector_size,
        found=image.blocks.sector_size,
        reason="parent-mismatch",
    )


def _linkage(text: str) -> str:
    """A GUID as Windows writes it, in the form of ``uuid.UUID``."""
    return text.strip("{}").lower()
