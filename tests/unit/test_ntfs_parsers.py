"""The parsers of NTFS, error by error. Sound input is tested against ntfs-3g in contract/test_ntfs.py."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.filesystems.ntfs import index, lznt1, reparse
from mntapi.filesystems.ntfs.attribute import Stream, join, parse_list, unpack_runs
from mntapi.filesystems.ntfs.boot import parse_boot
from mntapi.filesystems.ntfs.filesystem import open_filesystem
from mntapi.filesystems.ntfs.record import Attribute, Nonresident, apply_fixups, parse_record
from mntapi.filesystems.runs import Memory, RunList
from mntapi.types import FileKind, Signature, Usage


def boot(
    name: bytes = b"NTFS    ", sector: int = 512, cluster: int = 8, record_size: int = -10, index_size: int = 1, mft: int = 4
) -> bytes:
    raw = bytearray(512)
    struct.pack_into("<8sHB", raw, 3, name, sector, cluster)
    struct.pack_into("<2Q", raw, 40, 2048, mft)
    struct.pack_into("<b3xb", raw, 64, record_size, index_size)
    return bytes(raw)


def test_sizes_of_boot_sectors() -> None:
    parsed = parse_boot(boot())
    assert (parsed.cluster_size, parsed.record_size, parsed.index_size, parsed.mft_at) == (4096, 1024, 4096, 16384)
    assert parse_boot(boot(cluster=0xF5, index_size=-12)).cluster_size == 512 << 11  # 1 MiB, as Windows 10 writes it


@pytest.mark.parametrize(
    "changed",
    [
        {"name": b"MSDOS5.0"},
        {"sector": 500},
        {"cluster": 3},
        {"cluster": 0},
        {"cluster": 0xE1},
        {"record_size": -31},
        {"index_size": 3},
    ],
)
def test_boot_sectors_that_are_refused(changed: dict[str, int]) -> None:
    with pytest.raises(Corrupt) as raised:
        parse_boot(boot(**changed))
    assert raised.value.offset is not None


@pytest.mark.parametrize(("content", "message"), [(b"", "too small"), (boot(mft=1 << 40) + bytes(4096), "outside the volume")])
def test_volumes_that_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        open_filesystem(Memory(content), Signature("ntfs", Usage.FILESYSTEM))


def guarded(body: bytes, magic: bytes = b"FILE", size: int = 1024) -> bytes:
    """A record with fixups: number 0x0777 at the end of each sector."""
    raw = bytearray(body.ljust(size, b"\0"))
    raw[0:8] = magic + struct.pack("<2H", 48, size // 512 + 1)
    struct.pack_into("<H", raw, 48, 0x0777)
    for number in range(size // 512):
        at = (number + 1) * 512 - 2
        raw[50 + 2 * number : 52 + 2 * number] = raw[at : at + 2]
        struct.pack_into("<H", raw, at, 0x0777)
    return bytes(raw)


def test_fixups() -> None:
    raw = guarded(bytes(range(256)) * 4)
    assert apply_fixups(raw, b"FILE", 0)[64:] == (bytes(range(256)) * 4)[64:]
    with pytest.raises(Corrupt, match="no such record"):
        apply_fixups(raw, b"INDX", 0)
    with pytest.raises(Corrupt, match="not written whole") as raised:
        apply_fixups(raw[:1022] + b"xx", b"FILE", 1 << 20)
    assert raised.value.offset == (1 << 20) + 1022
    for at, value in ((4, 600), (4, 2), (6, 9)):
        with pytest.raises(Corrupt, match="fixups"):
            apply_fixups(raw[:at] + struct.pack("<H", value) + raw[at + 2 :], b"FILE", 0)


def resident(kind: int, value: bytes, name: str = "", **changed: int) -> bytes:
    named = name.encode("utf-16-le")
    start = 24 + -(-len(named) // 8) * 8
    length = start + -(-len(value) // 8) * 8
    raw = bytearray(struct.pack("<2I2B3HIH2x", kind, length, 0, len(name), 24, 0, 1, len(value), start) + named)
    raw = bytearray(bytes(raw).ljust(start, b"\0") + value).ljust(length, b"\0")
    for place, number in changed.items():
        struct.pack_into("<I", raw, int(place[1:]), number)
    return bytes(raw)


def file_record(*attributes: bytes, used: int | None = None) -> bytes:
    body = b"".join(attributes) + b"\xff\xff\xff\xff"
    head = struct.pack("<16x4H2IQ16x", 3, 1, 56, 1, (56 + len(body)) if used is None else used, 1024, 0)
    return (head + body).ljust(1024, b"\0")


def test_attributes_of_a_record() -> None:
    parsed = parse_record(file_record(resident(0x30, b"abc"), resident(0x80, b"d" * 9, "größe")), 0)
    assert [(item.type, item.name, item.value) for item in parsed.attributes] == [(0x30, "", b"abc"), (0x80, "größe", b"d" * 9)]
    assert (parsed.sequence, parsed.links) == (3, 1)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (file_record(resident(0x30, b"abc"), used=56 + 32), "have no end"),
        (file_record(resident(0x30, b""), used=56 + 24 + 8), "cut off"),
        (file_record(resident(0x30, b"abc", p4=4000)), "outside its record"),
        (file_record(resident(0x30, b"abc", p4=36)), "outside its record"),
        (file_record(resident(0x30, b"abc", p16=4000)), "resident attribute is cut off"),
        (file_record(resident(0x30, b"abc", p8=0x7F00)), "name of an attribute"),
        (file_record(resident(0x80, b"abc", p8=0x1)), "in clusters is cut off"),
        (file_record(resident(0x80, b"\xff" * 64, p8=0x1)), "impossible sizes"),
    ],
)
def test_records_that_are_refused(raw: bytes, message: str) -> None:
    if message == "cut off":
        raw = raw[: 56 + 24] + b"\x30\0\0\0\x18\0\0\0" + raw[88:]
    with pytest.raises(Corrupt, match=message):
        parse_record(raw, 0)


def piece(pairs: bytes, lowest: int = 0, size: int = 0, unit: int = 0, flags: int = 0) -> Attribute:
    return Attribute(0x80, "", flags, 0, b"", Nonresident(lowest, 0, unit, size, size, size, size, pairs))


def test_runs_over_several_records() -> None:
    """Relative, backward and sparse runs; the example is the one of the Linux-NTFS documentation."""
    first, second = piece(bytes.fromhex("21183456 211000e0 0110 00")), piece(b"\x11\x02\x05\0", 56)
    runs = unpack_runs([second, first], 4096, 1 << 40)
    clusters = [(count // 4096, source if source is None else source // 4096) for count, source in runs.pieces(0, runs.size)]
    assert clusters == [(24, 0x5634), (16, 0x5634 - 0x2000), (16, None), (2, 5)]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([piece(b"\x11\x01\x05\0", 1)], "piece of a stream is missing"),
        ([piece(b"\x11\x01\x05\0"), piece(b"\x11\x01\x05\0")], "piece of a stream is missing"),
        ([piece(b"\x11\x02\x7f\0")], "outside the volume"),
        ([piece(b"\x11\x02\x80\0")], "outside the volume"),
        ([piece(b"\x10\0")], "mapping pair"),
        ([piece(b"\x19" + b"\1" * 20)], "mapping pair"),
        ([piece(b"\x91" + b"\1" * 20)], "mapping pair"),
        ([piece(b"\x11\0\1")], "mapping pair"),
        ([piece(b"\x11\xff\1\0")], "mapping pair"),
        ([piece(b"\x21\1")], "mapping pair"),
    ],
)
def test_runs_that_are_refused(pieces: list[Attribute], message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        unpack_runs(pieces, 4096, 100 * 4096)


def test_streams() -> None:
    with pytest.raises(Corrupt, match="end before"):
        join([piece(b"\x11\x01\x05\0", size=5000)], 4096, 1 << 20)
    assert join([Attribute(0x80, "", 0, 0, b"abc", None)], 4096, 1 << 20).value == b"abc"
    assert list(parse_list(struct.pack("<IH2B2QH6x", 0x80, 32, 0, 0, 0, 7 | 3 << 48, 0) * 2)) == [7, 7]
    with pytest.raises(Corrupt, match="attribute list"):
        list(parse_list(bytes(32)))


def index_entry(name: bytes, flags: int = 0, size: int | None = None, key: int | None = None) -> bytes:
    body = struct.pack("<Q48xI4x2B", 5, 0, len(name) // 2, 1) + name
    length = -(-(16 + len(body)) // 8) * 8
    return (struct.pack("<Q3H2x", 30, length if size is None else size, len(body) if key is None else key, flags) + body).ljust(
        length, b"\0"
    )


def index_block(*entries: bytes, length: int | None = None) -> bytes:
    body = b"".join(entries)
    return bytes(16) + struct.pack("<2I8x", 16, 16 + len(body) if length is None else length) + body


LAST = struct.pack("<Q3H2x", 0, 16, 0, 2)


def test_index_entries() -> None:
    found = list(index.parse_entries(index_block(index_entry("ä".encode("utf-16-le")), LAST), 16, 0))
    assert [(entry.name, entry.reference, entry.namespace) for entry in found] == [("ä".encode(), 30, 1)]
    assert index.utf8(b"a\0\x00\xd8b\0") == b"a\xed\xa0\x80b"
    assert list(index.used_blocks(b"\x05\x80", 15)) == [0, 2]
    assert index.fold_case("straße É") == "STRAßE É"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (bytes(20), "index is cut off"),
        (index_block(index_entry(b"a\0")), "no last entry"),
        (index_block(index_entry(b"a\0", size=8), LAST), "does not fit"),
        (index_block(index_entry(b"a\0", size=1000), LAST), "does not fit"),
        (index_block(index_entry(b"a\0", size=84), LAST), "does not fit"),
        (index_block(index_entry(b"a\0", key=40), LAST), "file name is cut off"),
        (index_block(index_entry(b"a\0" * 9, key=70), LAST), "file name is cut off"),
    ],
)
def test_indexes_that_are_refused(raw: bytes, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        list(index.parse_entries(raw, 16, 0))


@pytest.mark.parametrize("root", [b"", bytes(16), struct.pack("<8xI4x", 3000)])
def test_index_roots_that_are_refused(root: bytes) -> None:
    with pytest.raises(Corrupt):
        index.block_size(root)


def names(substitute: str, printed: str) -> bytes:
    one, two = substitute.encode("utf-16-le"), printed.encode("utf-16-le")
    return struct.pack("<4H", 0, len(one), len(one), len(two)) + one + two


def point(tag: int, data: bytes) -> bytes:
    return struct.pack("<IH2x", tag, len(data)) + data


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        (point(reparse.MOUNT_POINT, names("\\??\\C:\\Users", "C:\\Users")), "C:/Users"),
        (point(reparse.MOUNT_POINT, names("\\??\\Volume{1-2}\\", "")), "Volume{1-2}/"),
        (point(reparse.LX_SYMLINK, b"\2\0\0\0/usr/bin"), "/usr/bin"),
    ],
)
def test_targets_of_links(raw: bytes, target: str) -> None:
    assert reparse.parse_reparse(raw).target == target


@pytest.mark.parametrize("tag", [0x9000001A, 0x9000101A, 0x9000F01A, 0x80000021])
def test_cloud_placeholders(tag: int) -> None:
    assert reparse.parse_reparse(point(tag, b"")).reason == "cloud-placeholder"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        point(reparse.MOUNT_POINT, b"1234"),
        point(reparse.SYMLINK, bytes(10)),
        point(reparse.MOUNT_POINT, names("ab", "abc")[:-2]),
    ],
)
def test_reparse_points_that_are_refused(raw: bytes) -> None:
    with pytest.raises(Corrupt):
        reparse.parse_reparse(raw)


def test_devices_in_extended_attributes() -> None:
    other = struct.pack("<I2BH", 20, 0, 6, 4) + b"$LXUID\0" + bytes(5)
    device = struct.pack("<I2BH", 0, 0, 6, 8) + b"$LXDEV\0" + struct.pack("<2I", 8, 1)
    parsed = reparse.parse_reparse(point(0x80000026, b""), other + device)
    assert (parsed.kind, parsed.rdev) == (FileKind.BLOCK_DEVICE, 0x801)
    assert reparse.parse_reparse(point(0x80000026, b""), other).rdev == 0
    assert reparse.parse_reparse(point(0x80000025, b""), struct.pack("<I2BH", 3, 0, 0, 0) + bytes(8)).rdev == 0


def test_ordinary_system_files_stay_files() -> None:
    for content in (b"", b"\1", b"IntxCHR\0short", b"IntxLNK\1odd"):
        assert reparse.parse_interix(content).kind is None


def compressed(content: bytes) -> bytes:
    """One chunk."""
    return struct.pack("<H", 0xB000 | len(content) - 1) + content


def test_smallest_chunks() -> None:
    """By hand, from [MS-XCA] 2.5: eight literals; one literal, and a reference that repeats it to the end of the chunk."""
    assert lznt1.decompress(compressed(b"\0abcdefgh"), 4096, 0) == b"abcdefgh" + bytes(4088)
    assert lznt1.decompress(compressed(b"\x02a\xfc\x0f"), 4096, 0) == b"a" * 4096


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (struct.pack("<H", 0xB0FF) + b"short", "cut off"),
        (compressed(b"\x01\x00\x00"), "impossible reference"),
        (compressed(b"\x02a\x00"), "impossible reference"),
        (compressed(b"\x02a\x00\x10"), "outside itself"),
        (compressed(b"\x02a\xff\x0f"), "outside itself"),
        (struct.pack("<H", 0x3FFF) + bytes(4096), "unit holds too much"),
    ],
)
def test_compressed_chunks_that_are_refused(stored: bytes, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        lznt1.decompress(stored, 2048 if "unit" in message else 4096, 0)


def test_compressed_streams_that_are_refused() -> None:
    runs = RunList()
    runs.add(65536, None)
    volume = Memory(bytes(65536))
    with pytest.raises(Unsupported):
        lznt1.Lznt1(volume, Stream("", 2, None, runs, 10, 10, 10, 4), 4096)
    with pytest.raises(Corrupt, match="compression unit"):
        lznt1.Lznt1(volume, Stream("", 1, None, runs, 10, 10, 10, 20), 4096)
    broken = RunList()
    for length, source in ((4096, None), (4096, 0), (57344, None)):
        broken.add(length, source)
    with pytest.raises(Corrupt, match="hole inside"):
        lznt1.Lznt1(volume, Stream("", 1, None, broken, 10, 10, 10, 4), 4096).readinto(0, memoryview(bytearray(1)))


PARSERS: dict[str, Callable[[bytes], object]] = {
    "boot": lambda raw: parse_boot(raw.ljust(512, b"\0")),
    "record": lambda raw: parse_record(raw.ljust(512, b"\0"), 0),
    "fixups": lambda raw: apply_fixups(b"FILE" + raw.ljust(508, b"\0"), b"FILE", 0),
    "runs": lambda raw: unpack_runs([piece(raw)], 4096, 1 << 40),
    "list": lambda raw: list(parse_list(raw)),
    "index": lambda raw: list(index.parse_entries(raw, 16, 0)),
    "name": index.is_link,
    "reparse": lambda raw: reparse.parse_reparse(raw, raw),
    "symlink": lambda raw: reparse.parse_reparse(point(reparse.SYMLINK, raw)),
    "interix": lambda raw: reparse.parse_interix(reparse.INTERIX_LINK + raw),
    "lznt1": lambda raw: lznt1.decompress(raw, 65536, 0),
}


@pytest.mark.parametrize("parser", PARSERS)
@given(raw=st.binary(max_size=300))
def test_any_bytes_give_a_value_or_an_error_of_ours(parser: str, raw: bytes) -> None:
    with contextlib.suppress(MntapiError):
        PARSERS[parser](raw)
