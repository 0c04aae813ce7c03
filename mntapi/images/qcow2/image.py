"""Opening: the header, the files it names, and one ``Blocks`` over all of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack

from mntapi.blocks import read_clipped
from mntapi.errors import Corrupt, MntapiError, NotFound, Unsupported
from mntapi.images import formats
from mntapi.images.formats import RAW, Chain
from mntapi.images.qcow2.blocks import WINDOW_CLUSTERS_BITS, Qcow2Blocks
from mntapi.images.qcow2.compressed import ClusterCache, CompressedClusters
from mntapi.images.qcow2.crypto import decrypting
from mntapi.images.qcow2.entries import Layout
from mntapi.images.qcow2.filenames import FileName, parse_file_name
from mntapi.images.qcow2.header import V2_LENGTH, CryptMethod, Header, first_cluster_size, parse_header
from mntapi.images.qcow2.mapping import Below, Foreign, Mapping, Nothing, Source, Stores
from mntapi.images.qcow2.snapshots import Snapshot, read_snapshots, select
from mntapi.types import FileBlocks, Image, Link

QEMU_NAMES = {"vpc": "vhd", "file": "raw", "host_device": "raw"}
"""Formats that QEMU calls differently in the header extension."""


def open_image(file: FileBlocks, chain: Chain, *, snapshot: str | None = None, passphrases: Sequence[bytes] = ()) -> Image:
    """The disk in ``file`` with its backing files and its data file.

    Args:
        file: the QCOW2 file.
        chain: how the files it names are opened.
        snapshot: ID or name of an internal snapshot to show instead of the current state.
        passphrases: tried one after the other where the clusters are encrypted.

    Raises:
        Corrupt: the header contradicts the format, or the chain loops.
        Unsupported: a feature that is not known, by name; a backing file that is not a file; encryption without its passphrase.
        NotFound: no such snapshot; a named file is missing.
        MntapiError: a named file cannot be opened.

    Source: QEMU, docs/interop/qcow2.
    """
    header = read_header(file)
    snapshot = chain.snapshot if snapshot is None else snapshot
    passphrases = passphrases or [os.fsencode(one) for one in chain.options.passphrases]
    chosen = select(file, header, snapshot) if snapshot is not None else None
    with ExitStack() as stack:
        data_file = _open_data_file(file, header, chain, stack)
        data = _data_source(file, data_file, header, passphrases)
        backing = _open_backing(file, header, chain)
        if backing is not None:
            stack.callback(backing.blocks.close)
        blocks = _assemble(file, header, chosen, (data, data_file.size), backing)
        stack.callback(file.close)
        blocks.own(stack.pop_all())
    links = backing.chain if backing else ()
    details = {"notes": "; ".join(header.notes)} if header.notes else {}
    return Image(path=file.path, format="qcow2", blocks=blocks, chain=(Link(file.path, "qcow2"), *links), details=details)


def read_header(file: FileBlocks) -> Header:
    """The checked header of a file. Raises Corrupt or Unsupported, with the file named."""
    try:
        return parse_header(read_clipped(file, 0, first_cluster_size(read_clipped(file, 0, V2_LENGTH))))
    except MntapiError as error:
        raise error.located(path=file.path) from None


def list_snapshots(file: FileBlocks) -> tuple[Snapshot, ...]:
    """The internal snapshots of a QCOW2 file, oldest first as its table has them. Raises Corrupt or Unsupported."""
    return tuple(read_snapshots(file, read_header(file)))


def _assemble(
    file: FileBlocks, header: Header, snapshot: Snapshot | None, data: tuple[Source, int], backing: Image | None
) -> Qcow2Blocks:
    window_bits, cache = header.cluster_bits + WINDOW_CLUSTERS_BITS, ClusterCache()
    below: Below = Nothing()
    if backing is not None and isinstance(backing.blocks, Qcow2Blocks):
        # With smaller clusters below, a window of ours would be thousands of times as many runs.
        window_bits, cache = min(window_bits, backing.blocks.window_bits), backing.blocks.cache
        below = backing.blocks
    elif backing is not None:
        below = Foreign(backing.blocks)
    size = snapshot.size if snapshot else header.size
    mapping = Mapping(
        file,
        Layout(header.cluster_bits, header.version, header.extended_l2, header.has_data_file),
        l1_offset=snapshot.l1_offset if snapshot else header.l1_offset,
        l1_size=snapshot.l1_size if snapshot else header.l1_size,
        size=size,
        stores=Stores(
            data=data[0],
            data_size=data[1],
            compressed=CompressedClusters(file, header.cluster_bits, header.compression, cache),
            guest_keyed=header.crypt_method is CryptMethod.AES,
        ),
        below=below,
    )
    return Qcow2Blocks(mapping, path=file.path, size=size, window_bits=window_bits, cache=cache)


def _open_data_file(file: FileBlocks, header: Header, chain: Chain, stack: ExitStack) -> FileBlocks:
    """The file that holds the guest's clusters; ``file`` itself but for an external data file."""
    if not header.has_data_file:
        return file
    name = header.extensions.data_file
    if not name:
        raise NotFound(
            "keeps its data in another file and does not name it",
            path=file.path,
            hint="name it with qemu-img amend -o data_file=FILE",
            reason="data-file",
        )
    data_file = chain.open_file(_named(name, file).path, file)
    stack.callback(data_file.close)
    if data_file.path == file.path:
        raise Corrupt("names itself as its data file", path=file.path, reason="chain-loop")
    return data_file


def _data_source(file: FileBlocks, data_file: FileBlocks, header: Header, passphrases: Sequence[bytes]) -> Source:
    if header.crypt_method is CryptMethod.NONE:
        return data_file
    return decrypting(file, data_file, header, passphrases)


def _open_backing(file: FileBlocks, header: Header, chain: Chain) -> Image | None:
    """The image below. Without a format in the header it is detected as QEMU does: raw is what matches nothing."""
    name = header.backing_name
    if name is None:
        return None
    known = [format_.name for format_ in formats.FORMATS]
    named = _named(name, file)
    asked = header.extensions.backing_format or named.format
    wanted = QEMU_NAMES.get(asked, asked) if asked else None
    if wanted is not None and wanted not in known:
        raise Unsupported(
            f"its backing file {name!a} is of a format that is not read", path=file.path, found=asked, reason="backing-format"
        )
    if wanted == RAW.name:
        return chain.open_raw_parent(named.path, file)
    return chain.open_parent(named.path, file, formats=[wanted] if wanted else known)


def _named(name: str, file: FileBlocks) -> FileName:
    try:
        return parse_file_name(name)
    except MntapiError as error:
        raise error.located(path=file.path) from error.__cause__
