"""Numbers and layouts against the kernel's own header, and what is agreed in INIT."""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from mntapi.errors import Unsupported
from mntapi.types import Capacity, FileKind, Node
from mntapi_fuse import protocol
from mntapi_fuse.operations import Attributes, DirEntry
from mntapi_fuse.protocol import Feature, Opcode

HEADER = Path("/usr/include/linux/fuse.h")
NODE = Node(5, FileKind.FILE, 10, mtime_ns=1_500_000_007)
LAYOUTS = {
    "fuse_in_header": protocol.HEADER, "fuse_out_header": protocol.REPLY, "fuse_init_out": protocol.INIT_OUT,
    "fuse_read_in": protocol.READ_IN, "fuse_open_in": protocol.OPEN_IN, "fuse_open_out": protocol.OPEN_OUT,
    "fuse_release_in": protocol.RELEASE_IN, "fuse_lseek_in": protocol.LSEEK_IN, "fuse_lseek_out": protocol.LSEEK_OUT,
    "fuse_getxattr_in": protocol.GETXATTR_IN, "fuse_getxattr_out": protocol.GETXATTR_OUT, "fuse_kstatfs": protocol.KSTATFS,
    "fuse_attr_out": protocol.ATTR_OUT, "fuse_entry_out": protocol.ENTRY_OUT, "fuse_dirent": protocol.DIRENT,
    "fuse_direntplus": protocol.DIRENTPLUS, "fuse_write_in": protocol.WRITE_IN, "fuse_write_out": protocol.WRITE_OUT,
    "fuse_fallocate_in": protocol.FALLOCATE_IN, "fuse_setattr_in": protocol.SETATTR_IN,
}  # fmt: skip


@pytest.fixture(scope="module")
def header() -> str:
    if not HEADER.exists():
        pytest.skip("needs linux-libc-dev")
    return HEADER.read_text()


def test_opcodes_are_the_header_s(header: str) -> None:
    theirs = {name: int(value) for name, value in re.findall(r"^\tFUSE_([A-Z0-9_]+)\s*= (\d+),", header, re.M)}
    for opcode in Opcode:
        if opcode is not Opcode.STATX:  # newer than some headers
            assert theirs[opcode.name] == opcode


def test_features_are_the_header_s(header: str) -> None:
    theirs = dict(re.findall(r"^#define FUSE_([A-Z_]+)\s+\(1(?:ULL)? << (\d+)\)", header, re.M))
    for feature in Feature:
        if (
            feature not in (Feature.HAS_RESEND, Feature.DIRECT_IO_ALLOW_MMAP) or feature.name in theirs
        ):  # newer than some headers
            assert 1 << int(theirs[str(feature.name)]) == feature


def test_layouts_are_as_long_as_the_compiler_s(header: str, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    lines = "".join(f'printf("%zu\\n", sizeof(struct {name}));' for name in LAYOUTS)
    source = tmp_path / "sizes.c"
    source.write_text(f"#include <stdio.h>\n#include <linux/fuse.h>\nint main(void) {{{lines} return 0;}}")
    subprocess.run(["cc", "-o", tmp_path / "sizes", source], check=True)
    theirs = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True).stdout.split()
    assert {name: layout.size for name, layout in LAYOUTS.items()} == dict(zip(LAYOUTS, map(int, theirs), strict=True))


def test_statx_is_as_long_as_linux_says() -> None:
    assert protocol.STATX_OUT.size == 32 + 256  # struct statx is 256 bytes, whatever it holds


def reply() -> memoryview:
    return memoryview(bytearray(b"\xee" * 4096))


def test_init_agrees_to_what_both_can() -> None:
    everything = (1 << 64) - 1
    offered = protocol.parse_init(struct.pack("=IIIII44x", 7, 45, 131072, everything & 0xFFFFFFFF, everything >> 32))
    buffer = reply()
    size = protocol.pack_init(offered, buffer)
    fields = protocol.INIT_OUT.unpack_from(buffer)
    assert (size, fields[:3], fields[6:9]) == (64, (7, 40, 131072), (4096, 1, 256))
    agreed = Feature(fields[3] | fields[10] << 32)
    assert agreed == protocol.WANTED and Feature.HAS_RESEND in agreed and Feature.INIT_EXT in agreed


def test_init_of_an_old_kernel_has_no_second_flags() -> None:
    offered = protocol.parse_init(struct.pack("=IIII", 7, 31, 131072, Feature.ASYNC_READ))
    buffer = reply()
    protocol.pack_init(offered, buffer)
    assert protocol.INIT_OUT.unpack_from(buffer)[3] == Feature.ASYNC_READ
    assert protocol.INIT_OUT.unpack_from(buffer)[10] == 0


@pytest.mark.parametrize("version", [(7, 30), (8, 0), (6, 99)])
def test_other_protocols_are_refused(version: tuple[int, int]) -> None:
    with pytest.raises(Unsupported) as raised:
        protocol.pack_init(protocol.Init(*version, 0, Feature(0)), reply())
    assert raised.value.found == f"{version[0]}.{version[1]}"


def test_attributes_keep_nanoseconds_before_1970() -> None:
    buffer = reply()
    protocol.pack_attributes(Attributes(9, NODE._replace(mtime_ns=-1)), buffer)
    fields = protocol.ATTR_OUT.unpack_from(buffer)
    assert fields[0] == protocol.FOR_EVER_S and fields[2] == 5
    assert (fields[6], fields[9]) == ((1 << 64) - 1, 999_999_999)


def test_what_a_damaged_disk_says_is_cut_to_what_the_kernel_takes() -> None:
    node = Node(1 << 70, FileKind.FILE, 1 << 65, 0o177777, -1, 1 << 40, links=1 << 40, allocated=1 << 80, mtime_ns=1 << 90)
    for pack in (protocol.pack_attributes, protocol.pack_entry):
        assert pack(Attributes(9, node), reply()) > 0
    buffer = reply()
    protocol.pack_attributes(Attributes(9, node), buffer)
    fields = protocol.ATTR_OUT.unpack_from(buffer)
    assert fields[3] == (1 << 63) - 1 and stat.S_ISREG(fields[11]) and stat.S_IMODE(fields[11]) == 0o7777


@pytest.mark.parametrize(("major", "minor"), [(1, 3), (8, 300), (259, 70000)])
def test_device_numbers_are_the_kernel_s_short_form(major: int, minor: int) -> None:
    buffer = reply()
    node = Node(5, FileKind.BLOCK_DEVICE, 0, rdev=os.makedev(major, minor))
    protocol.pack_attributes(Attributes(5, node), buffer)
    packed = protocol.ATTR_OUT.unpack_from(buffer)[15]
    assert packed == minor & 0xFF | major << 8 | (minor & ~0xFF) << 12  # new_encode_dev, linux/kdev_t.h


def test_an_absent_name_is_node_zero_for_ever() -> None:
    buffer = reply()
    assert protocol.pack_no_entry(buffer) == protocol.ENTRY_OUT.size
    assert protocol.ENTRY_OUT.unpack_from(buffer)[:3] == (0, 0, protocol.FOR_EVER_S)


def test_statx_tells_birth_only_where_it_is_known() -> None:
    for birth, bit in ((None, 0), (3_000_000_004, 0x800)):
        buffer = reply()
        protocol.pack_statx(Attributes(5, NODE._replace(birthtime_ns=birth)), buffer)
        fields = protocol.STATX_OUT.unpack_from(buffer)
        assert fields[2] & 0x800 == bit and fields[2] & 0x7FF == 0x7FF
        assert fields[15:17] == ((3, 4) if birth else (0, 0))


def test_capacity_counts_in_blocks() -> None:
    buffer = reply()
    protocol.pack_capacity(Capacity(10_000, 5000, 1000, 7, 3, 765), buffer)
    assert protocol.KSTATFS.unpack_from(buffer) == (10, 5, 5, 7, 3, 1000, 765, 1000)
    protocol.pack_capacity(Capacity(10_000, block_size=0), buffer)
    assert protocol.KSTATFS.unpack_from(buffer)[5] == 1


@pytest.mark.parametrize(
    ("pack", "layout"), [(protocol.pack_dirent, protocol.DIRENT), (protocol.pack_direntplus, protocol.DIRENTPLUS)]
)
@pytest.mark.parametrize("length", [1, 7, 8, 9, 1024])
def test_entries_are_padded_and_never_cross_the_limit(pack: object, layout: struct.Struct, length: int) -> None:
    assert callable(pack)
    entry = DirEntry(b"n" * length, Attributes(77, NODE))
    buffer = reply()
    size = layout.size + (length + 7) // 8 * 8
    assert pack(entry, 3, buffer, 8, 8 + size - 1) == 8 and buffer[8:9] == b"\xee"
    assert pack(entry, 3, buffer, 8, 8 + size) == 8 + size and buffer[8 + size : 9 + size] == b"\xee"
    assert bytes(buffer[8 + layout.size : 8 + size]) == entry.name.ljust(size - layout.size, b"\0")
    assert layout.unpack_from(buffer, 8)[-4:] == (5, 3, length, stat.S_IFREG >> 12)
