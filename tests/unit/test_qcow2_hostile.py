"""QCOW2 headers, tables and clusters that are wrong. The images are laid out by hand after QEMU's docs/interop/qcow2, so that
each field can be spoiled; one that is not spoiled is read by qemu-img too where there is one."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mntapi.blocks import Fault, read
from mntapi.errors import Corrupt, Denied, Invalid, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.images import formats
from mntapi.images.formats import Chain, Format
from mntapi.images.opener import DirectOpener
from mntapi.images.qcow2 import list_snapshots, open_image
from mntapi.images.qcow2.blocks import Qcow2Blocks
from mntapi.images.qcow2.compressed import ClusterCache
from mntapi.images.qcow2.header import MAX_L1_BYTES, parse_header
from mntapi.types import ExtentKind, FileBlocks, Image, OpenOptions

BITS = 12
CLUSTER = 1 << BITS
COPIED = 1 << 63
COMPRESSED = 1 << 62
SIZE = 16 * CLUSTER
L1, L2, DATA = 1 * CLUSTER, 2 * CLUSTER, 3 * CLUSTER


@pytest.fixture(autouse=True)
def qcow2_row(monkeypatch: pytest.MonkeyPatch) -> None:
    if "qcow2" not in {format_.name for format_ in formats.FORMATS}:
        row = Format("qcow2", "mntapi.images.qcow2", ((0, b"QFI\xfb"),))
        monkeypatch.setattr(formats, "FORMATS", (row, *formats.FORMATS))


def header(**changes: int | bytes) -> bytes:
    """A version 3 header; ``extensions`` and ``name`` (of the backing file) are bytes. QEMU wants a reference count table; for
    reading, any cluster will do."""
    fields: dict[str, int | bytes] = {
        "magic": b"QFI\xfb", "version": 3, "backing_offset": 0, "backing_length": 0, "bits": BITS, "size": SIZE, "crypt": 0,
        "l1_size": 1, "l1_offset": L1, "refcount_offset": L1, "refcount_clusters": 1, "snapshots": 0, "snapshots_offset": 0,
        "incompatible": 0, "compatible": 0, "autoclear": 0, "order": 4, "length": 112, "compression": 0, "extensions": b"",
        "name": b"",
    }  # fmt: skip
    fields |= changes
    name, extensions = fields.pop("name"), fields.pop("extensions")
    if name:
        fields |= {"backing_offset": 2048, "backing_length": len(name)} | changes
        fields.pop("name")
        fields.pop("extensions", None)
    head = struct.pack(">4sIQIIQIIQQIIQQQQIIB7x", *fields.values()) + extensions
    return (head.ljust(2048, b"\0") + name).ljust(CLUSTER, b"\0")


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)


def build(entries: list[int] | None = None, *, l1: int = L2 | COPIED, tail: bytes = b"", **changes: int | bytes) -> bytes:
    """A disk of 16 clusters: header, L1, L2, then three clusters of data with the bytes 1, 2, 3."""
    entries = [DATA | COPIED, DATA + CLUSTER | COPIED, 0, 1] if entries is None else entries
    tables = l1.to_bytes(8, "big").ljust(CLUSTER, b"\0") + b"".join(entry.to_bytes(8, "big") for entry in entries).ljust(
        CLUSTER, b"\0"
    )
    return header(**changes) + tables + b"".join(bytes([byte]) * CLUSTER for byte in (1, 2, 3)) + tail


WANT = b"\1" * CLUSTER + b"\2" * CLUSTER + bytes(14 * CLUSTER)


def open_path(path: Path, *, options: OpenOptions | None = None, snapshot: str | None = None) -> Image:
    opener = DirectOpener(options)
    file = opener.open(str(path))
    try:
        return open_image(file, Chain(opener, options or OpenOptions()), snapshot=snapshot)
    except BaseException:
        file.close()
        raise


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def to_disk(content: bytes, name: str = "a.qcow2") -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return to_disk


def refused(
    path: Path, error: type[MntapiError], text: str, *, offset: int | None = None, snapshot: str | None = None
) -> MntapiError:
    with pytest.raises(error, match=text) as caught:
        open_path(path, snapshot=snapshot)
    assert caught.value.path == str(path)
    if offset is not None:
        assert caught.value.offset == offset
    return caught.value


def unreadable(path: Path, offset: int, text: str, *, at: int | None = None, length: int = 10) -> None:
    """The image opens; reading there raises, and the other clusters are as they should be."""
    blocks = open_path(path).blocks
    with pytest.raises(Corrupt, match=text) as caught:
        read(blocks, offset, length)
    assert caught.value.path == str(path) and caught.value.offset is not None
    if at is not None:
        assert caught.value.offset == at
    assert [extent.kind for extent in blocks.extents(offset, length)] == [ExtentKind.DATA]
    blocks.close()


def test_the_image_itself(write: Callable[[bytes], Path]) -> None:
    path = write(build())
    blocks = open_path(path).blocks
    assert read(blocks, 0, SIZE) == WANT
    blocks.close()
    if shutil.which("qemu-img"):
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, path.with_suffix(".raw")], check=True)
        assert path.with_suffix(".raw").read_bytes() == WANT


@pytest.mark.parametrize(
    ("changes", "error", "text", "offset"),
    [
        ({"magic": b"QFI\xfa"}, Corrupt, "not a QCOW2", 0),
        ({"version": 1}, Unsupported, "version 1", 4),
        ({"version": 4}, Unsupported, "version 4", 4),
        ({"bits": 8}, Corrupt, "cluster size", 20),
        ({"bits": 22}, Corrupt, "cluster size", 20),
        ({"bits": 2**32 - 1}, Corrupt, "cluster size", 20),
        ({"length": 96}, Corrupt, "header length", 100),
        ({"length": 108}, Corrupt, "header length", 100),
        ({"length": 2**32 - 8}, Corrupt, "header length", 100),
        ({"crypt": 3}, Unsupported, "encryption method 3", 32),
        ({"incompatible": 1 << 5}, Unsupported, "bit 5", 72),
        ({"incompatible": 1 << 4}, Corrupt, "16 KiB", 20),
        ({"incompatible": 1 << 3}, Corrupt, "contradict", 104),
        ({"compression": 1}, Corrupt, "contradict", 104),
        ({"incompatible": 1 << 3, "compression": 2}, Unsupported, "compression type 2", 104),
        ({"l1_size": 0}, Corrupt, "too small", 36),
        ({"size": 2**63}, Corrupt, "too small", 36),
        ({"l1_size": MAX_L1_BYTES // 8 + 1}, Corrupt, "too large", 36),
        ({"l1_size": 2**32 - 1}, Corrupt, "too large", 36),
        ({"l1_offset": L1 + 512}, Corrupt, "boundary", 36),
        ({"backing_offset": 2048, "backing_length": 1024}, Corrupt, "too long", 16),
        ({"backing_offset": CLUSTER - 1, "backing_length": 2}, Corrupt, "first cluster", 8),
        ({"backing_offset": 2**64 - 1, "backing_length": 2}, Corrupt, "first cluster", 8),
        ({"backing_offset": 8, "backing_length": 2}, Corrupt, "first cluster", 8),
        ({"name": b"a\0b"}, Corrupt, "zero byte", 2048),
        ({"extensions": struct.pack(">II", 0x1234, 2**32 - 1)}, Corrupt, "0x00001234 is longer", None),
        ({"extensions": extension(0x44415441, b"x" * 1025)}, Corrupt, "data file is too long", None),
        ({"extensions": extension(0x0537BE77, b"x" * 8)}, Corrupt, "encryption pointer", None),
        ({"incompatible": 1 << 2}, NotFound, "does not name it", None),
        ({"incompatible": 1 << 2, "extensions": extension(0x44415441, b"a.qcow2")}, Corrupt, "itself as its data", None),
        ({"name": b"nbd://host/disk"}, Denied, "nbd://host/disk", None),
        ({"name": b'json:{"driver":"raw"}'}, Unsupported, "json", None),
        ({"name": b"x", "extensions": extension(0xE2792ACA, b"luks")}, Unsupported, "format that is not read", None),
        ({"name": b"a.qcow2", "extensions": extension(0xE2792ACA, b"raw")}, Corrupt, "loops", None),
        ({"name": b"a.qcow2", "extensions": extension(0xE2792ACA, b"qcow2")}, Corrupt, "loops", None),
        ({"name": b"./../x/a.qcow2"}, Denied, "outside", None),
    ],
    ids=str,
)  # fmt: skip
def test_headers(
    write: Callable[[bytes], Path], changes: dict[str, int | bytes], error: type[MntapiError], text: str, offset: int | None
) -> None:
    refused(write(build(**changes)), error, text, offset=offset)


def test_unknown_features_have_the_names_the_image_gives(write: Callable[[bytes], Path]) -> None:
    names = b"".join(
        struct.pack(">BB46s", kind, bit, name) for kind, bit, name in [(0, 9, b"time travel"), (1, 9, b"no"), (0, 1, b"x")]
    )
    path = write(
        build(incompatible=1 << 9 | 1 << 40 | 1, extensions=extension(1, b"abc") + extension(0x6803F857, names + b"cut"))
    )
    assert refused(path, Unsupported, "time travel, bit 40").reason == "qcow2-feature"


def test_short_headers(write: Callable[[bytes], Path]) -> None:
    refused(write(build()[:71]), Corrupt, "too short for a QCOW2 header", offset=0)
    refused(write(build()[:103]), Corrupt, "version 3 header", offset=0)


def test_dirty_and_corrupt_are_read_and_noted(write: Callable[[bytes], Path]) -> None:
    path = write(build(incompatible=3))
    assert read(open_path(path).blocks, 0, SIZE) == WANT
    notes = parse_header(path.read_bytes()[:CLUSTER]).notes
    assert len(notes) == 2 and "corrupt" in notes[0]
    assert parse_header(build()).notes == ()


def test_a_chain_that_loops_over_two_files(write: Callable[..., Path], tmp_path: Path) -> None:
    write(build(name=b"b.qcow2"))
    write(build(name=b"a.qcow2"), "b.qcow2")
    with pytest.raises(Corrupt, match="loops") as caught:
        open_path(tmp_path / "a.qcow2")
    assert caught.value.reason == "chain-loop"


def test_backing_by_file_protocol_and_shorter(write: Callable[..., Path]) -> None:
    write(b"\7" * 5000, "base")
    path = write(build([0, DATA | COPIED], name=b"file:base", extensions=extension(0xE2792ACA, b"raw")))
    image = open_path(path)
    assert read(image.blocks, 0, SIZE) == b"\7" * CLUSTER + b"\1" * CLUSTER + bytes(14 * CLUSTER)
    assert [link.format for link in image.chain] == ["qcow2", "raw"]
    image.blocks.close()
    empty = write(build(backing_offset=2048))
    assert len(open_path(empty).chain) == 1


def test_a_missing_backing_file_is_named(write: Callable[..., Path]) -> None:
    with pytest.raises(NotFound) as caught:
        open_path(write(build(name=b"absent.raw", extensions=extension(0xE2792ACA, b"raw"))))
    assert caught.value.path is not None and caught.value.path.endswith("/absent.raw")


@pytest.mark.parametrize(
    ("entry", "text", "at"),
    [
        (DATA + 512, "cluster boundary", L2),
        (DATA | 1 << 58, "reserved bits", L2),
        (DATA | 2, "reserved bits", L2),
        (COPIED, "no offset", L2),
        (1 << 40, "past the end", 1 << 40),
        (DATA + 3 * CLUSTER, "past the end", DATA + 3 * CLUSTER),
        (COMPRESSED | COPIED | DATA, "compressed cluster where none", L2),
        (COMPRESSED | DATA, "cannot be inflated", DATA),
        (COMPRESSED | 1 << 40, "past the end", 1 << 40),
    ],
    ids=str,
)  # fmt: skip
def test_l2_entries(write: Callable[[bytes], Path], entry: int, text: str, at: int) -> None:
    path = write(build([entry, DATA + CLUSTER | COPIED]))
    unreadable(path, 0, text, at=at)
    blocks = open_path(path).blocks
    assert read(blocks, CLUSTER, 2 * CLUSTER) == b"\2" * CLUSTER + bytes(CLUSTER)
    with pytest.raises(Corrupt):
        read(blocks, CLUSTER - 1, 2)
    blocks.close()


def test_a_zero_cluster_in_version_2(write: Callable[[bytes], Path]) -> None:
    unreadable(write(build(version=2, extensions=b"")), 3 * CLUSTER, "version 2", at=L2 + 24)


@pytest.mark.parametrize(
    ("l1", "text", "at"),
    [
        (L2 | 1, "L1 entry", L1),
        (L2 | 1 << 56, "L1 entry", L1),
        (L2 + 512, "L1 entry", L1),
        (COPIED, "L1 entry", L1),
        (1 << 40, "past the end", 1 << 40),
    ],
    ids=str,
)
def test_l1_entries(write: Callable[[bytes], Path], l1: int, text: str, at: int) -> None:
    unreadable(write(build(l1=l1)), 5, text, at=at)


def test_an_l1_table_outside_the_file(write: Callable[[bytes], Path]) -> None:
    unreadable(write(build(l1_offset=1 << 40)), 0, "L1 table goes past", at=1 << 40)


def test_a_data_file_whose_clusters_are_elsewhere(write: Callable[..., Path]) -> None:
    write(b"\5" * SIZE, "data")
    changes = {"incompatible": 1 << 2, "extensions": extension(0x44415441, b"data")}
    path = write(build([COPIED, CLUSTER | COPIED, CLUSTER, COMPRESSED | 5], **changes))
    assert read(open_path(path).blocks, 0, 2 * CLUSTER) == b"\5" * 2 * CLUSTER
    unreadable(path, 2 * CLUSTER, "own offset", at=L2 + 16)
    unreadable(path, 3 * CLUSTER, "compressed cluster where none", at=L2 + 24)


def extended(entry: int, bitmap: int) -> bytes:
    """A disk with 16 KiB clusters and extended entries, made from the 4 KiB one."""
    size = 1 << 14
    tables = [
        header(incompatible=16, bits=14, l1_offset=size),
        (2 * size).to_bytes(8, "big"),
        struct.pack(">QQ", entry, bitmap),
    ]
    return b"".join(part.ljust(size, b"\0") for part in tables) + b"".join(bytes([n]) * 512 for n in range(1, 33))


def test_subclusters(write: Callable[[bytes], Path]) -> None:
    blocks = open_path(write(extended(3 << 14 | COPIED, 0b101 | 0b10 << 32))).blocks
    assert read(blocks, 0, 2048) == b"\1" * 512 + bytes(512) + b"\3" * 512 + bytes(512)
    assert read(blocks, 700, 10) == bytes(10)
    blocks.close()
    unreadable(write(extended(3 << 14, 1 | 1 << 32)), 0, "bitmap", at=2 << 14)
    unreadable(write(extended(0, 1)), 0, "bitmap", at=2 << 14)


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def descriptor(offset: int, length: int) -> int:
    sectors = (offset % 512 + length + 511) // 512 - 1
    return COMPRESSED | sectors << (62 - (BITS - 8)) | offset


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
@pytest.mark.parametrize(
    ("size", "text"), [(CLUSTER, None), (CLUSTER - 1, "4095"), (CLUSTER + 1, "more than"), (64 << 20, "more than")]
)
def test_compressed_clusters_of_the_wrong_size(write: Callable[[bytes], Path], kind: str, size: int, text: str | None) -> None:
    changes = {}
    packed = deflated(bytes(size))
    if kind == "zstd":
        zstandard = pytest.importorskip("zstandard")
        packed = zstandard.ZstdCompressor().compress(bytes(size))
        changes = {"incompatible": 1 << 3, "compression": 1}
    packed = packed[: 2 * CLUSTER - 512]
    at = DATA + 3 * CLUSTER + 77
    path = write(build([descriptor(at, len(packed))], tail=bytes(77) + packed + (b"next" if text is None else b""), **changes))
    if text is None:
        assert read(open_path(path).blocks, 0, CLUSTER) == bytes(CLUSTER)
    else:
        unreadable(path, 0, "does not hold a cluster|cannot be inflated", at=at)


def test_zstd_garbage_and_zstd_absent(write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(build([descriptor(DATA, 700)], incompatible=1 << 3, compression=1))
    pytest.importorskip("zstandard")
    unreadable(path, 0, "cannot be inflated", at=DATA)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(Unsupported, match="zstandard") as caught:
        read(open_path(path).blocks, 0, 1)
    assert caught.value.hint is not None


def entry(
    l1_offset: int = L1, l1_size: int = 1, ident: bytes = b"1", name: bytes = b"one", size: int = SIZE, extra: int = 16
) -> bytes:
    fixed = struct.pack(">QIHHIIQII", l1_offset, l1_size, len(ident), len(name), 1_700_000_000, 5, 0, 0, extra)
    body = fixed + struct.pack(">QQ", 0, size)[:extra] + ident + name
    return body + bytes(-len(body) % 8)


TAIL = DATA + 3 * CLUSTER


def test_snapshot_tables(write: Callable[[bytes], Path]) -> None:
    def spoilt(table: bytes, count: int = 1, offset: int = TAIL) -> Path:
        return write(build(tail=table, snapshots=count, snapshots_offset=offset))

    good = spoilt(entry() + entry(ident=b"2", name=b"two", extra=0) + entry(ident=b"3", name=b"two"), 3)
    file = DirectOpener().open(str(good))
    assert [(item.id, item.name, item.size, item.time_ns) for item in list_snapshots(file)] == [
        (ident, name, SIZE, 1_700_000_000_000_000_005) for ident, name in [("1", "one"), ("2", "two"), ("3", "two")]
    ]
    file.close()
    assert read(open_path(good, snapshot="one").blocks, 0, SIZE) == WANT
    assert "1 (one)" in str(refused(good, NotFound, "no snapshot", snapshot="x").hint)
    refused(good, Invalid, "several", snapshot="two")
    refused(write(build()), NotFound, "no snapshot", snapshot="x")
    for words, text in [
        ((entry(), 2), "past the end of the file"),
        ((entry()[:58],), "past its end"),
        ((entry()[:36] + struct.pack(">I", 1025) + entry()[40:],), "extra data"),
        ((entry(), 65537), "too many"),
        ((entry(), 1, TAIL + 8), "boundary"),
        ((entry(), 1, 1 << 60), "past the end"),
        ((entry(size=1 << 60),), "too small"),
        ((entry(l1_size=2**32 - 1),), "too large"),
        ((entry(l1_offset=5),), "boundary"),
    ]:
        refused(spoilt(*words), Corrupt, text, snapshot="one")


def survive(path: Path, want: bytes | None = None) -> None:
    """Whatever the bytes are: errors of ours, or bytes; where ``want`` is given, those bytes."""
    try:
        blocks = open_path(path).blocks
    except MntapiError as error:
        assert error.path is not None
        return
    size = min(blocks.size, 1 << 20)
    for start in range(0, size, CLUSTER // 2):
        length = min(CLUSTER // 2, size - start)
        try:
            got = read(blocks, start, length)
        except MntapiError as error:
            assert error.path is not None and error.offset is not None
        else:
            assert len(got) == length and (want is None or got == want[start : start + length])
    for number, extent in enumerate(blocks.extents(0, size)):
        assert extent.length > 0 and number < 1 << 16
    blocks.close()


def test_truncated_at_every_step(write: Callable[[bytes], Path]) -> None:
    packed = deflated(b"\4" * CLUSTER)
    content = build([DATA | COPIED, DATA + CLUSTER | COPIED, 0, 1, descriptor(TAIL, len(packed))], tail=packed)
    want = WANT[: 4 * CLUSTER] + b"\4" * CLUSTER + bytes(11 * CLUSTER)
    for length in range(0, len(content), 64):
        survive(write(content[:length]), want)
    survive(write(content), want)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.data(),
    kind=st.sampled_from(["plain", "extended", "backed", "compressed"]),
    count=st.integers(1, 4),
)
def test_mutations(tmp_path: Path, data: st.DataObject, kind: str, count: int) -> None:
    content = bytearray(
        {
            "plain": build(),
            "extended": extended(3 << 14 | COPIED, 0b101 | 0b10 << 32),
            "backed": build([0, DATA], name=b"base.raw", extensions=extension(0xE2792ACA, b"raw")),
            "compressed": build([descriptor(TAIL, 100)], tail=deflated(b"\4" * CLUSTER)),
        }[kind]
    )
    (tmp_path / "base.raw").write_bytes(b"\7" * 5000)
    places = [*range(160), *range(L1, L1 + 16), *range(L2, L2 + 32), 1 << 14, (1 << 14) + 7, *range(2 << 14, (2 << 14) + 16)]
    for _ in range(count):
        at = data.draw(st.sampled_from([place for place in places if place < len(content)]))
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.qcow2"
    path.write_bytes(content)
    survive(path)


def test_every_table_is_the_same_table(write: Callable[[bytes], Path]) -> None:
    """2^60 bytes that all map to one L2 table: extents come lazily, reads cost one window."""
    bits = 21
    size = 1 << 58
    l1_size = size >> (bits + bits - 3)
    head = header(bits=bits, size=size, l1_size=l1_size, l1_offset=1 << bits).ljust(1 << bits, b"\0")
    l1 = (3 << bits).to_bytes(8, "big") * l1_size
    content = head + l1.ljust(2 << bits, b"\0") + (4 << bits | COPIED).to_bytes(8, "big") * (1 << bits - 3)
    path = write(content)
    with path.open("r+b") as out:
        out.truncate(5 << bits)
    blocks = open_path(path).blocks
    rng = random.Random(1)
    for _ in range(50):
        assert read(blocks, rng.randrange(size - 10), 10) == bytes(10)
    assert sum(extent.length for extent in blocks.extents(0, size)) == size
    blocks.close()


def test_a_shared_table_is_read_and_a_scan_of_it_ends(write: Callable[[bytes], Path]) -> None:
    """Small clusters: a read spans more L1 entries than the file has clusters, and all of them name one table."""
    bits, count = 9, 1 << 9
    head = header(bits=bits, size=count << bits + 6, l1_size=count, l1_offset=512)[:512]
    path = write(head + (512 + 8 * count).to_bytes(8, "big") * count + (512 * 65 | COPIED).to_bytes(8, "big") * 64)
    with path.open("r+b") as out:
        out.truncate(512 * 66)
    blocks = open_path(path).blocks
    assert read(blocks, 0, blocks.size) == (path.read_bytes()[512 * 65 :]) * (blocks.size // 512)
    assert sum(extent.length for extent in blocks.extents(0, blocks.size)) == blocks.size
    blocks.close()


def test_inflated_clusters_that_are_kept_are_bounded() -> None:
    cache = ClusterCache(capacity=300)
    for descriptor_ in range(5):
        cache.put("file", descriptor_, bytes(100))
        assert cache.get("file", 0) is not None
    assert [cache.get("file", descriptor_) is None for descriptor_ in range(5)] == [False, True, True, False, False]
    assert cache.get("other", 0) is None


def test_windows_that_are_kept_are_bounded(write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mntapi.images.qcow2.blocks.MAX_RUNS", 12)
    size = 40 << BITS + 8
    blocks = open_path(write(build(size=size, l1_size=40))).blocks
    for _ in range(2):
        assert read(blocks, 0, size)[: 4 * CLUSTER] == WANT[: 4 * CLUSTER]
    assert isinstance(blocks, Qcow2Blocks) and len(blocks._windows) <= 3
    blocks.close()


class Flaky(Fault):
    """A file with bad sectors that can be healed."""

    def __init__(self, inner: FileBlocks, bad: list[tuple[int, int]]) -> None:
        super().__init__(inner, bad=bad)
        self.path = inner.path

    def heal(self) -> None:
        self._bad = ()


@pytest.mark.parametrize("place", [L1, L2, DATA])
def test_an_unreadable_sector_under_any_table(write: Callable[[bytes], Path], place: int) -> None:
    """The error is the storage's; nothing of it is remembered, so that a second try may succeed."""
    opener = DirectOpener()
    file = Flaky(opener.open(str(write(build()))), [(place, 8)])
    blocks = open_image(file, Chain(opener, OpenOptions())).blocks
    for _ in range(2):
        with pytest.raises(ReadFailed) as caught:
            read(blocks, 0, 10)
        assert caught.value.offset == place
    file.heal()
    assert read(blocks, 0, SIZE) == WANT
    blocks.close()
