"""VMware's disks (VMDK): every kind of extent of hosted and ESX products, streams, and delta chains of any depth.

What it is not: a writer; a reader of encrypted disks, of change tracking files (``-ctk.vmdk``, ignored) or of a seSparse
journal that was not replayed, each refused by name. Start reading at ``runs.py`` (the one noun), then ``disk.py`` (how a
read goes), ``grains.py`` (sparse extents), ``extents.py`` (which line of a descriptor becomes what).
Always true: nothing is read before it is asked for but headers and descriptors; memory does not grow with the disk; a
grain that cannot be had raises when it is read, and the rest of the disk stays readable.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from typing import cast

from mntapi.blocks import read, read_clipped
from mntapi.errors import Corrupt, Unsupported
from mntapi.images.formats import Chain
from mntapi.images.vmdk import headers
from mntapi.images.vmdk.chain import open_parent
from mntapi.images.vmdk.descriptor import MAX_DESCRIPTOR, Descriptor, parse
from mntapi.images.vmdk.disk import Disk
from mntapi.images.vmdk.extents import clipped, hosted, open_extents
from mntapi.images.vmdk.runs import Layer, Over
from mntapi.types import FileBlocks, Image, Link

__all__ = ["open_image"]


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """Open the disk whose descriptor is, or is in, ``file``, with its parents.

    Raises:
        NotFound: an extent or a parent is missing.
        Corrupt, Unsupported, Denied: with file and, where there is one, byte offset.

    Source: Virtual Disk Format 5.0 (VMware technical note).
    """
    with ExitStack() as resources:
        descriptor, layer = _open_link(file, chain, resources)
        link = Link(file.path, "vmdk", descriptor.cid, descriptor.parent_cid if descriptor.has_parent else None)
        links: tuple[Link, ...] = (link,)
        if descriptor.has_parent:
            parent = open_parent(descriptor, file, chain)
            resources.callback(parent.blocks.close)
            links += parent.chain
            layer = Over(layer, _layer_of(parent))
        owned = resources.pop_all()
    owned.callback(file.close)
    return Image(path=file.path, format="vmdk", blocks=Disk(layer, file.path, owned), chain=links, details=_details(descriptor))


def _layer_of(parent: Image) -> Layer:
    """The parent's own layer, so that a read goes straight to the link that has the bytes. (It was opened here, too.)"""
    return cast(Disk, parent.blocks).layer


def _open_link(file: FileBlocks, chain: Chain, resources: ExitStack) -> tuple[Descriptor, Layer]:
    """One file of the chain: its descriptor and its extents, without the parent."""
    magic = read_clipped(file, 0, 8)
    if magic.startswith(headers.HOSTED_MAGIC):
        return _open_embedded(file, chain, resources)
    if magic.startswith(headers.COWD_MAGIC) or magic == headers.SESPARSE_MAGIC:
        raise _extent_alone(file.path)
    if magic.startswith(headers.CTK_MAGIC):
        raise Unsupported("is a change tracking file, not a disk", path=file.path, reason="change-tracking")
    descriptor = parse(read_clipped(file, 0, MAX_DESCRIPTOR + 1), file.path)
    return descriptor, open_extents(descriptor, file, chain, resources)


def _open_embedded(file: FileBlocks, chain: Chain, resources: ExitStack) -> tuple[Descriptor, Layer]:
    """A sparse extent with its descriptor inside. The file's own name in it may be an old one, and is not followed."""
    header = headers.parse_hosted(read_clipped(file, 0, headers.HOSTED_SIZE), file.path)
    raw = _embedded(file, header)
    if not raw:
        raise _extent_alone(file.path)
    descriptor = parse(raw, file.path)
    if header.size == 0:
        return descriptor, open_extents(descriptor, file, chain, resources)
    extent = hosted(file, header)
    size = sum(line.size for line in descriptor.extents)
    if not extent.size - extent.unit < size <= extent.size:
        raise Corrupt("descriptor and header disagree", path=file.path, offset=12, expected=f"{size} bytes", found=extent.size)
    return descriptor, clipped(extent, size, file.path)


def _embedded(file: FileBlocks, header: headers.HostedHeader) -> bytes:
    """The descriptor's bytes without padding; none, or an empty one, in an extent that another file describes."""
    if not header.descriptor:
        return b""
    if header.descriptor_size > MAX_DESCRIPTOR:
        raise Corrupt(
            "the descriptor is too long",
            path=file.path,
            offset=36,
            expected=f"at most {MAX_DESCRIPTOR} bytes",
            found=header.descriptor_size,
        )
    if header.descriptor + header.descriptor_size > file.size:
        raise Corrupt(
            "the descriptor lies outside the file",
            path=file.path,
            offset=header.descriptor,
            expected=f"{header.descriptor_size} bytes",
            found=f"a file of {file.size} bytes",
            reason="truncated",
        )
    return read(file, header.descriptor, header.descriptor_size).rstrip(b"\0")


def _extent_alone(path: str) -> Unsupported:
    """What such an extent builds on is only in its descriptor: opened alone, a snapshot's holes would read as zeros."""
    name = re.sub(r"(-delta|-sesparse|-s\d+)(?=\.vmdk$)", "", os.path.basename(path))
    hint = f"open {name} instead" if name != os.path.basename(path) else "open the descriptor that names it"
    return Unsupported("is one extent of a disk, without a descriptor", path=path, hint=hint, reason="extent-alone")


def _details(descriptor: Descriptor) -> dict[str, str]:
    """The kind of disk, and its disk database (``ddb.uuid``, adapter, geometry, long content ID)."""
    database = {name: value for name, value in descriptor.settings.items() if name.startswith("ddb.")}
    return {"createType": descriptor.create_type, **database}
