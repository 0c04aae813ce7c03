"""What only the whole XFS file system can find wrong: the root, links, files without extents."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from contract.xfs_builder import (
    BLOCK,
    COUNT,
    core,
    metadata_of,
    record,
    superblock,
    volume_of,
)
from mntapi.blocks import read
from mntapi.errors import Corrupt
from mntapi.filesystems.runs import Memory
from mntapi.filesystems.xfs.described import Metadata, checksum_of
from mntapi.filesystems.xfs.extents import Extents
from mntapi.filesystems.xfs.filesystem import XfsFileSystem
from mntapi.filesystems.xfs.inode import Inode, parse_inode
from mntapi.types import FileKind, Node


class TestFileSystem:
    """A volume of version 4 that holds nothing but some inodes, from block 50 on."""

    def opened(self, *inodes: bytes, **changes: object) -> XfsFileSystem:
        folder = core(0o040755, 1, size=6, data=struct.pack(">2BI", 0, 0, 100))
        image = volume_of({50: b"".join([folder, *inodes])})
        return XfsFileSystem(Memory(image), superblock(root=100, **changes), "xfs")

    def link(self, form: int, size: int, **more: object) -> Inode:
        return core(0o120777, form, size=size, **more)

    def test_the_root_must_be_a_folder(self) -> None:
        with pytest.raises(Corrupt, match="no folder"):
            XfsFileSystem(Memory(volume_of({50: core(0o100644, 2)})), superblock(root=100), "xfs")
        fs = self.opened(core(0, 2), core(0o100644, 2, links=0))
        for number in (101, 102):
            with pytest.raises(Corrupt, match="not in use") as raised:
                fs.node(number)
            assert raised.value.offset == 25600 + 256 * (number - 100)

    @pytest.mark.parametrize(
        ("form", "size", "more", "message"),
        [
            (1, 0, {}, "impossible length"),
            (1, 1025, {}, "impossible length"),
            (1, 157, {}, "into its inode"),
            (2, 10, {}, "a hole in metadata"),
            (0, 10, {}, "should have extents"),
        ],
    )
    def test_links(self, form: int, size: int, more: dict[str, object], message: str) -> None:
        fs = self.opened(self.link(form, size, **more))
        with pytest.raises(Corrupt, match=message):
            fs.readlink(Node(101, FileKind.SYMLINK, size))

    def test_parts_of_links(self) -> None:
        """Of version 5, in two extents; the header tells which part each is."""
        fs = self.opened()
        fs._sb = replace(fs._sb, version=5)
        fs._metadata = Metadata(fs._cache, fs._sb)

        def part(block: int, offset: int, length: int, magic: bytes = b"XSLM") -> bytes:
            raw = struct.pack(">4s2I4x16sQQ", magic, offset, length, fs._sb.uuid, 101, block).ljust(BLOCK, b"t")
            return raw[:12] + struct.pack("<I", checksum_of(raw, 12)) + raw[16:]

        for blocks, size, message in (
            ({60: part(60, 0, 456), 70: part(70, 456, 44)}, 500, None),
            ({60: part(60, 0, 456), 70: part(70, 400, 44)}, 500, "no part"),
            ({60: part(60, 0, 457), 70: part(70, 457, 43)}, 500, "no part"),
            ({60: part(60, 0, 0), 70: part(70, 0, 44)}, 44, "no part"),
            ({60: part(60, 0, 456, b"XSLN"), 70: part(70, 456, 44)}, 500, "no part"),
            ({60: part(60, 0, 456), 70: part(70, 456, 44)}, 501, "ends too early"),
        ):
            fs._metadata = metadata_of(volume_of(blocks), fs._sb)
            fs._extents = Extents(fs._metadata, fs._sb)
            inode = parse_inode(core(0o120777, 2, size=size, extents=2, data=record(0, 60, 1) + record(1, 70, 1)), 101, 0, None)
            if message is None:
                assert fs._remote_target(inode) == b"t" * 500
                continue
            with pytest.raises(Corrupt, match=message):
                fs._remote_target(inode)

    def test_a_file_without_extents(self) -> None:
        fs = self.opened(core(0o100644, 1, size=10), core(0o100644, 2, size=1 << 62))
        with pytest.raises(Corrupt, match="should have extents"):
            fs.open(fs.node(101))
        assert read(fs.open(fs.node(102)), (1 << 62) - 5, 5) == bytes(5)

    def test_free_space_is_not_more_than_all(self) -> None:
        assert self.opened(log_blocks=COUNT + 1).capacity().total == 0
