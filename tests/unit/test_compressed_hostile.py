"""Compressed disks that are cut off, damaged, bombs, or too large to be read in place; and the folder indexes are kept in."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from contract.container_support import cache_folder, content, make_content, open_with, refused, table
from mntapi.blocks import Fault, HostFile, read
from mntapi.errors import Corrupt, Denied, Invalid, MntapiError, ReadFailed, Unsupported
from mntapi.images import spans
from mntapi.images.compressed import cache, gz, store, xz, zst
from mntapi.images.formats import Chain
from mntapi.images.opener import DirectOpener
from mntapi.types import Image, OpenOptions
from mntapi.units import KIB, MIB

__all__ = ["table"]
pytestmark = pytest.mark.usefixtures("cache_folder")
_keep = cache_folder
SIZE = 600 * KIB
CONTENT = make_content(2 * MIB)[:SIZE]


def pack_gzip(data: bytes) -> bytes:
    return gzip.compress(data, 1)


def pack_xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


def pack_zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def blocks_of_xz(*options: str, data: bytes = CONTENT) -> bytes:
    return subprocess.run(["xz", "-0", *options], input=data, capture_output=True, check=True).stdout


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": pack_gzip, "xz": pack_xz, "zst": pack_zstd}


def written(folder: Path, module: str, raw: bytes) -> Path:
    path = folder / f"disk.raw.{module}"
    path.write_bytes(raw)
    return path


def check_readable_up_to_the_cut(image: Image, path: Path, at_least: int) -> None:
    """What is there is right, and what is not there raises at the place where the file ends."""
    size = image.blocks.size
    good = next((at for at in range(0, size, 512) if not _is_right(image, at, min(512, size - at))), size)
    assert good >= at_least - 1024 and good < size
    with pytest.raises(Corrupt) as caught:
        image.blocks.readinto(size - 1, memoryview(bytearray(1)))
    assert caught.value.reason == "truncated" and caught.value.path == str(path)
    assert caught.value.offset is not None and caught.value.offset <= path.stat().st_size
    with pytest.raises(Corrupt):
        content(image)


def _is_right(image: Image, offset: int, length: int) -> bool:
    try:
        assert read(image.blocks, offset, length) == CONTENT[offset : offset + length]
    except Corrupt:
        return False
    return True


# --- cut off ---


@pytest.mark.parametrize("module", PACKERS)
def test_cut_off(module: str, tmp_path: Path) -> None:
    whole = PACKERS[module](CONTENT)
    for end in (len(whole) - 1, len(whole) * 3 // 4, len(whole) // 2):
        path = written(tmp_path, module, whole[:end])
        check_readable_up_to_the_cut(open_with(f"compressed.{module}", path), path, SIZE // 4)


@pytest.mark.parametrize("module", PACKERS)
def test_cut_off_at_the_start(module: str, tmp_path: Path) -> None:
    whole = PACKERS[module](CONTENT)
    for end in range(3, 40, 3):
        path = written(tmp_path, module, whole[:end])
        try:
            check_readable_up_to_the_cut(open_with(f"compressed.{module}", path), path, 0)
        except Corrupt as error:
            assert error.reason in ("truncated", "unpack")


@pytest.mark.parametrize("spacing", [100 * KIB, MIB])
def test_gzip_by_points_cut_off(spacing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_points(monkeypatch, span=64 * KIB, spacing=spacing)
    whole = pack_gzip(CONTENT)
    for end in (len(whole) - 1, len(whole) * 2 // 3, len(whole) // 3):
        path = written(tmp_path, "gz", whole[:end])
        check_readable_up_to_the_cut(open_with("compressed.gz", path), path, SIZE // 6)
    assert not cache.folder() or not os.path.exists(cache.folder()), "an index of a damaged file is not kept"


def test_xz_blocks_cut_off(tmp_path: Path) -> None:
    """Several threads write the sizes into the blocks' headers, so that the blocks can be found without the index."""
    whole = blocks_of_xz("-T2", "--block-size=100KiB")
    path = written(tmp_path, "xz", whole[: len(whole) * 3 // 4])
    image = open_with("compressed.xz", path)
    assert (image.blocks.size - 512) % (100 * KIB) == 0
    check_readable_up_to_the_cut(image, path, SIZE // 4)


def test_xz_blocks_without_sizes_cut_off(tmp_path: Path) -> None:
    whole = blocks_of_xz("-T1", "--block-size=100KiB")
    path = written(tmp_path, "xz", whole[: len(whole) * 3 // 4])
    check_readable_up_to_the_cut(open_with("compressed.xz", path), path, SIZE // 4)


def test_zstd_frames_cut_off(tmp_path: Path) -> None:
    frames = [pack_zstd(CONTENT[at : at + 100 * KIB]) for at in range(0, SIZE, 100 * KIB)]
    path = written(tmp_path, "zst", b"".join(frames)[:-10])
    image = open_with("compressed.zst", path)
    assert image.blocks.size == 500 * KIB + 512
    check_readable_up_to_the_cut(image, path, 500 * KIB)


# --- damaged ---


@pytest.mark.parametrize("module", PACKERS)
def test_a_flipped_bit_is_never_a_wrong_byte(module: str, tmp_path: Path) -> None:
    whole = PACKERS[module](CONTENT)
    for at in range(7, len(whole), len(whole) // 23):
        raw = bytearray(whole)
        raw[at] ^= 0x10
        path = written(tmp_path, module, bytes(raw))
        try:
            assert content(open_with(f"compressed.{module}", path)) == CONTENT
        except MntapiError as error:
            assert error.path and error.path.startswith(str(tmp_path))


def test_damage_in_one_xz_block_leaves_the_others(tmp_path: Path) -> None:
    raw = bytearray(blocks_of_xz("--block-size=100KiB"))
    raw[len(raw) // 2] ^= 1
    image = open_with("compressed.xz", written(tmp_path, "xz", bytes(raw)))
    bad = [at for at in range(0, SIZE, 100 * KIB) if not _is_right(image, at, 100 * KIB)]
    assert len(bad) == 1
    with pytest.raises(Corrupt) as caught:
        read(image.blocks, bad[0], 1)
    assert caught.value.reason == "unpack" and caught.value.offset
    image.blocks.close()


def test_damage_in_one_zstd_frame_leaves_the_others(tmp_path: Path) -> None:
    frames = [bytearray(pack_zstd(CONTENT[at : at + 100 * KIB])) for at in range(0, SIZE, 100 * KIB)]
    frames[3][-2] ^= 1  # its checksum
    image = open_with("compressed.zst", written(tmp_path, "zst", b"".join(frames)))
    assert [at for at in range(0, SIZE, 100 * KIB) if not _is_right(image, at, 100 * KIB)] == [300 * KIB]
    image.blocks.close()


def test_damage_in_a_later_gzip_member_leaves_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = pack_gzip(CONTENT[: 256 * KIB]), bytearray(pack_gzip(CONTENT[256 * KIB :]))
    second[-6] ^= 1  # its checksum: nothing tells which byte is wrong
    path = written(tmp_path, "gz", first + second)
    for points in (False, True):
        if points:
            by_points(monkeypatch, span=100 * KIB, spacing=MIB)
        image = open_with("compressed.gz", path)
        assert image.blocks.size == 256 * KIB + 512
        assert read(image.blocks, 0, 256 * KIB) == CONTENT[: 256 * KIB]
        with pytest.raises(Corrupt, match="damaged") as caught:
            read(image.blocks, 256 * KIB, 1)
        assert caught.value.offset == len(first)
        image.blocks.close()


@pytest.mark.parametrize("module", PACKERS)
def test_something_else_behind_the_stream(module: str, tmp_path: Path) -> None:
    path = written(tmp_path, module, PACKERS[module](CONTENT) + b"and so on")
    image = open_with(f"compressed.{module}", path)
    assert read(image.blocks, 0, SIZE) == CONTENT
    with pytest.raises(Corrupt) as caught:
        content(image)
    assert caught.value.reason == "trailing" and caught.value.offset == path.stat().st_size - 9


@pytest.mark.parametrize("module", ["gz", "xz"])
def test_padding_behind_the_stream(module: str, tmp_path: Path) -> None:
    path = written(tmp_path, module, PACKERS[module](CONTENT) + bytes(200_000))
    assert content(open_with(f"compressed.{module}", path)) == CONTENT


def test_more_padding_than_anybody_writes(tmp_path: Path) -> None:
    path = written(tmp_path, "gz", PACKERS["gz"](CONTENT) + bytes(2 * MIB))
    with pytest.raises(Corrupt) as caught:
        content(open_with("compressed.gz", path))
    assert caught.value.reason == "trailing"


@pytest.mark.parametrize("module", PACKERS)
def test_an_unreadable_sector_below(module: str, tmp_path: Path) -> None:
    path = written(tmp_path, module, PACKERS[module](CONTENT))
    file = Fault(HostFile.open(str(path)), bad=[(path.stat().st_size // 2, 1)])
    file.path = str(path)  # type: ignore[attr-defined]
    with pytest.raises(ReadFailed):
        content({"gz": gz, "xz": xz, "zst": zst}[module].open_image(file, chain()))
    file.close()


def chain() -> Chain:
    return Chain(DirectOpener(), OpenOptions())


# --- xz: indexes that lie ---


def with_index(records: list[tuple[int, int]], blocks: bytes, check: int = 1) -> bytes:
    """A stream of ``blocks`` with an index of our own."""
    raw = b"\0" + integer(len(records)) + b"".join(integer(a) + integer(b) for a, b in records)
    raw += bytes(-len(raw) % 4)
    raw += zlib.crc32(raw).to_bytes(4, "little")
    tail = (len(raw) // 4 - 1).to_bytes(4, "little") + bytes((0, check))
    return xz._header(check) + blocks + raw + zlib.crc32(tail).to_bytes(4, "little") + tail + b"YZ"


def integer(value: int) -> bytes:
    raw = bytearray()
    while value >= 0x80:
        raw.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*raw, value))


def test_our_index_is_one() -> None:
    """Oracle: what liblzma writes."""
    whole = lzma.compress(CONTENT[:1000], check=lzma.CHECK_CRC32)
    unpadded, block = real_block()
    assert with_index([(unpadded, 1000)], block) == whole


def index_of(whole: bytes) -> bytes:
    size = (int.from_bytes(whole[-8:-4], "little") + 1) * 4
    return whole[-12 - size : -12]


def real_block() -> tuple[int, bytes]:
    whole = lzma.compress(CONTENT[:1000], check=lzma.CHECK_CRC32)
    unpadded = xz._records(None, 0, index_of(whole))[0][0]  # type: ignore[arg-type]
    return unpadded, whole[12 : 12 + xz._padded(unpadded)]


@pytest.mark.parametrize("claimed", [999, 1001, 60 * MIB])
def test_an_index_that_lies_about_a_size(claimed: int, tmp_path: Path) -> None:
    unpadded, block = real_block()
    path = written(tmp_path, "xz", with_index([(unpadded, claimed)], block))
    with pytest.raises(Corrupt) as caught:
        content(open_with("compressed.xz", path))
    assert caught.value.reason == "unpack"


@pytest.mark.parametrize(
    "records",
    [[(8, 1000)], [(1 << 62, 1)], [(1 << 40, 1 << 40)] * 3, [(60, 1)] * 9],
)
def test_an_index_that_does_not_fit(records: list[tuple[int, int]], tmp_path: Path) -> None:
    _, block = real_block()
    refused("compressed.xz", written(tmp_path, "xz", with_index(records, block)), Corrupt, "xz-index")


def test_an_index_that_claims_more_than_any_disk(tmp_path: Path) -> None:
    unpadded, block = real_block()
    refused("compressed.xz", written(tmp_path, "xz", with_index([(unpadded, 1 << 60)], block)), Corrupt, "xz-index")


def test_damaged_indexes(tmp_path: Path) -> None:
    whole = bytearray(blocks_of_xz("--block-size=100KiB"))
    for at in (len(whole) - 30, len(whole) - 5, len(whole) - 12, len(whole) - 6):
        raw = bytearray(whole)
        raw[at] ^= 0x40
        refused("compressed.xz", written(tmp_path, "xz", bytes(raw)), Corrupt, "xz-index")
    refused("compressed.xz", written(tmp_path, "xz", xz._header(4) + whole[-12:]), Corrupt, "xz-index")
    refused("compressed.xz", written(tmp_path, "xz", b"garbage!" + whole), Corrupt, "xz-index")


def test_records_that_end_too_early(tmp_path: Path) -> None:
    unpadded, block = real_block()
    raw = b"\0\x03" + integer(unpadded) + integer(1000) + b"\x80"
    for body in (raw, b"\0" + b"\xff" * 11):
        body += bytes(-len(body) % 4 and 0)
        body = body.ljust((len(body) + 3) // 4 * 4, b"\x80")
        index = body + zlib.crc32(body).to_bytes(4, "little")
        tail = (len(index) // 4 - 1).to_bytes(4, "little") + bytes((0, 1))
        stream = xz._header(1) + block + index + zlib.crc32(tail).to_bytes(4, "little") + tail + b"YZ"
        refused("compressed.xz", written(tmp_path, "xz", stream), Corrupt, "xz-index")


def test_too_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xz, "MAX_BLOCKS", 3)
    whole = blocks_of_xz("--block-size=100KiB")
    refused("compressed.xz", written(tmp_path, "xz", whole), Corrupt, "xz-index")
    refused("compressed.xz", written(tmp_path, "xz", blocks_of_xz("--block-size=300KiB") * 2), Corrupt, "xz-index")


# --- zstd ---


def seekable(parts: list[bytes], *, lie: int = 0) -> bytes:
    frames = [pack_zstd(part) for part in parts]
    entries = b"".join(
        len(frame).to_bytes(4, "little") + (len(part) + lie).to_bytes(4, "little")
        for frame, part in zip(frames, parts, strict=True)
    )
    body = entries + len(frames).to_bytes(4, "little") + b"\0" + bytes.fromhex("b1ea928f")
    return b"".join(frames) + bytes.fromhex("5e2a4d18") + len(body).to_bytes(4, "little") + body


def test_seek_table(tmp_path: Path) -> None:
    parts = [CONTENT[at : at + 100 * KIB] for at in range(0, SIZE, 100 * KIB)]
    raw = seekable(parts)
    assert subprocess.run(["zstd", "-dcq"], input=raw, capture_output=True, check=True).stdout == CONTENT
    path = written(tmp_path, "zst", raw)
    file = HostFile.open(str(path))
    assert [frame.size for frame in zst.seek_table(file) or []] == [len(part) for part in parts]
    file.close()
    assert content(open_with("compressed.zst", path)) == CONTENT


def test_a_seek_table_that_lies(tmp_path: Path) -> None:
    path = written(tmp_path, "zst", seekable([CONTENT], lie=1))
    with pytest.raises(Corrupt) as caught:
        content(open_with("compressed.zst", path))
    assert caught.value.reason == "unpack"
    raw = bytearray(seekable([CONTENT[:1000], CONTENT[1000:]]))
    raw[-25] ^= 1  # the length of the first frame: the table does not fit the file, and is not believed
    assert content(open_with("compressed.zst", written(tmp_path, "zst", bytes(raw)))) == CONTENT


def test_a_dictionary(tmp_path: Path) -> None:
    dictionary = zstandard.ZstdCompressionDict(bytes(range(256)) * 20, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    raw = bytearray(zstandard.ZstdCompressor(dict_data=dictionary).compress(CONTENT[:1000]))
    raw[4] |= 1
    refused(
        "compressed.zst", written(tmp_path, "zst", bytes(raw[:6]) + b"\x07" + bytes(raw[6:])), Unsupported, "zstd-dictionary"
    )


def test_more_frames_than_there_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zst, "MAX_FRAMES", 2)
    frames = b"".join(pack_zstd(CONTENT[at : at + 200 * KIB]) for at in range(0, SIZE, 200 * KIB))
    assert content(open_with("compressed.zst", written(tmp_path, "zst", frames))) == CONTENT  # then from the start


def test_a_skippable_frame_past_the_end(tmp_path: Path) -> None:
    raw = pack_zstd(CONTENT) + bytes.fromhex("502a4d18") + (1 << 30).to_bytes(4, "little")
    path = written(tmp_path, "zst", raw)
    check_readable_up_to_the_cut(open_with("compressed.zst", path), path, SIZE)


def test_a_window_that_is_too_large(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    raw = packer.compress(CONTENT) + packer.flush()
    refused("compressed.zst", written(tmp_path, "zst", raw), Corrupt, "unpack")


def test_zstandard_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zst, "_IS_THERE", False)
    error = refused("compressed.zst", written(tmp_path, "zst", pack_zstd(CONTENT)), Unsupported, "zstd-absent")
    assert error.hint == "pip install zstandard"


# --- bombs, and what is too large ---


@pytest.mark.parametrize("module", PACKERS)
def test_a_bomb_ends_at_the_limit(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_UNPACKED", 8 * MIB)
    monkeypatch.setattr("mntapi.images.compressed.xz.MAX_SPAN", MIB)
    monkeypatch.setattr("mntapi.images.compressed.zst.MAX_SPAN", MIB)
    path = written(tmp_path, module, PACKERS[module](bytes(20 * MIB)))
    error = refused(f"compressed.{module}", path, Unsupported, "solid")
    assert error.hint


def test_too_much_content_for_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_PACKED", 100 * KIB)
    refused("compressed.gz", written(tmp_path, "gz", pack_gzip(CONTENT)), Unsupported, "solid")


def test_a_gzip_bomb_by_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_points(monkeypatch, span=MIB, spacing=MIB)
    monkeypatch.setattr(gz, "MAX_UNPACKED", 8 * MIB)
    refused("compressed.gz", written(tmp_path, "gz", pack_gzip(bytes(20 * MIB))), Unsupported, "bomb")


def test_points_are_set_further_apart_when_there_would_be_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_points(monkeypatch, span=64 * KIB, spacing=64 * KIB)
    monkeypatch.setattr(gz, "MAX_POINTS", 4)
    image = open_with("compressed.gz", written(tmp_path, "gz", pack_gzip(CONTENT)))
    assert image.blocks.blocks._source._spacing >= SIZE // 4  # type: ignore[attr-defined]
    assert content(image) == CONTENT


def test_memory_of_a_bomb(tmp_path: Path) -> None:
    """256 MiB of zeros in 260 KB: neither the stream nor the disk is ever in memory whole."""
    path = written(tmp_path, "gz", pack_gzip(bytes(MIB)) * 256)
    script = (
        "import re, sys\n"
        "from contract.container_support import open_with\n"
        "from pathlib import Path\n"
        "image = open_with('compressed.gz', Path(sys.argv[1]))\n"
        "assert image.blocks.size == 256 << 20\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"  # ru_maxrss is the parent's at first
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) < 128 * 1024


def test_containers_inside_one_another_end(tmp_path: Path, table: None) -> None:
    raw = CONTENT[:5000]
    for level in range(4):
        raw = pack_gzip(raw)
        path = written(tmp_path, f"{level}.gz", raw)
        if level < 3:
            assert content(open_with("compressed.gz", path)) == CONTENT[:5000]
    refused("compressed.gz", path, Unsupported, "nesting")


def test_nothing_inside(tmp_path: Path) -> None:
    for module, pack in PACKERS.items():
        refused(f"compressed.{module}", written(tmp_path, module, pack(b"")), Corrupt, "empty")


# --- large gzip files ---


def by_points(monkeypatch: pytest.MonkeyPatch, *, span: int, spacing: int) -> None:
    pytest.importorskip("indexed_gzip")
    monkeypatch.setattr(gz, "SMALL", 0)
    monkeypatch.setattr(gz, "SPAN", span)
    monkeypatch.setattr(gz, "MIN_SPACING", spacing)


def test_a_file_that_changes_after_its_points_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_points(monkeypatch, span=64 * KIB, spacing=64 * KIB)
    path = written(tmp_path, "gz", pack_gzip(CONTENT))
    image = open_with("compressed.gz", path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 60_000] = bytes(60_000)
    with path.open("r+b") as file:
        file.write(raw)
    for at in range(0, SIZE, 64 * KIB):
        _is_right(image, at, min(64 * KIB, SIZE - at))  # right, or raised; never wrong
    with pytest.raises(Corrupt):
        content(image)


def test_an_unreadable_sector_while_points_are_made_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_points(monkeypatch, span=64 * KIB, spacing=64 * KIB)
    path = written(tmp_path, "gz", pack_gzip(CONTENT))
    file = Fault(HostFile.open(str(path)))
    file.path = str(path)  # type: ignore[attr-defined]
    image = gz.open_image(file, chain())  # type: ignore[arg-type]
    assert read(image.blocks, 0, 10) == CONTENT[:10]
    file._bad = ((path.stat().st_size // 2, 1),)
    with pytest.raises(ReadFailed, match="injected"):
        content(image)


def test_a_large_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_points(monkeypatch, span=64 * KIB, spacing=MIB)
    monkeypatch.setattr(gz, "MAX_HELD", 0)
    whole = pack_gzip(CONTENT)
    error = refused("compressed.gz", written(tmp_path, "gz", whole[:-1]), Unsupported, "unpack")
    assert error.hint


def test_the_package_cannot_read_what_zlib_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_points(monkeypatch, span=64 * KIB, spacing=MIB)
    monkeypatch.setattr(gz.Points, "_read", lambda self, index: b"wrong")
    refused("compressed.gz", written(tmp_path, "gz", pack_gzip(CONTENT)), Unsupported, "indexed-gzip")


def test_an_unreadable_sector_while_points_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_points(monkeypatch, span=64 * KIB, spacing=MIB)
    path = written(tmp_path, "gz", pack_gzip(CONTENT))
    for error in (ReadFailed("injected"), Corrupt("the file became shorter while it was open")):
        file = HostFile.open(str(path))
        points = gz.Points(file, gz._library, MIB)  # type: ignore[arg-type]

        def fail(offset: int, buffer: memoryview, error: MntapiError = error) -> None:
            raise error

        monkeypatch.setattr(file, "readinto", fail)
        with pytest.raises(type(error), match=error.what):
            points.take(CONTENT[: 64 * KIB])
        file.close()


def test_indexed_gzip_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gz, "SMALL", 0)
    monkeypatch.setattr(gz, "_library", None)
    path = written(tmp_path, "gz", pack_gzip(CONTENT))
    assert content(open_with("compressed.gz", path)) == CONTENT
    monkeypatch.setattr(store, "MAX_PACKED", 100 * KIB)
    path.write_bytes(pack_gzip(CONTENT) + bytes(1))
    error = refused("compressed.gz", path, Unsupported, "solid")
    assert "indexed-gzip" in str(error.hint)


# --- where indexes are kept ---


def kept_files() -> list[Path]:
    return sorted(Path(cache.folder()).iterdir()) if os.path.exists(cache.folder()) else []


@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize("damage", ["none", "flip", "cut", "empty", "other", "long", "inner"])
def test_a_kept_index_is_used_or_made_again(points: bool, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if points:
        by_points(monkeypatch, span=64 * KIB, spacing=64 * KIB)
    path = written(tmp_path, "gz", pack_gzip(CONTENT))
    assert content(open_with("compressed.gz", path)) == CONTENT
    (kept,) = kept_files()
    assert kept.stat().st_mode & 0o777 == 0o600 and kept.parent.stat().st_mode & 0o777 == 0o700
    raw = kept.read_bytes()
    flipped = bytearray(raw)
    flipped[len(raw) // 2] ^= 1
    if damage == "inner":  # whole, and not what it should be
        cache.save(kept.name, b"\xff" * 40)
    else:
        kept.write_bytes(
            {
                "none": raw,
                "flip": bytes(flipped),
                "cut": raw[:-9],
                "empty": b"",
                "other": raw[:8] + raw[9:],
                "long": raw + b"x",
            }[damage]
        )
    passes = []
    monkeypatch.setattr(gz, "_stream", lambda file, real=gz._stream: passes.append(file) or real(file))
    assert content(open_with("compressed.gz", path)) == CONTENT
    assert len(passes) == (0 if damage == "none" else 1)
    assert [one.name for one in kept_files()] == [kept.name]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        store._HEADER.pack(1, 2),
        store._HEADER.pack(1, 1),
        store._HEADER.pack(1, 1) + (9).to_bytes(4, "little"),
        store._HEADER.pack(1 << 60, 4),
    ],
)
def test_what_is_no_store(raw: bytes) -> None:
    assert store.Store.load(raw) is None


def test_points_of_another_version(tmp_path: Path) -> None:
    library = pytest.importorskip("indexed_gzip")
    path = written(tmp_path, "gz", pack_gzip(CONTENT))
    file = HostFile.open(str(path))
    assert gz.Points.load(file, library, gz._HEADER.pack(0, MIB, 0) + b"garbage") is None
    assert gz.Points.load(file, library, gz._HEADER.pack(1, MIB, 0)) is None
    assert gz.Points.load(file, library, b"") is None
    file.close()


def test_a_file_that_was_written_again_has_another_index(tmp_path: Path) -> None:
    path = written(tmp_path, "gz", pack_gzip(CONTENT))
    assert content(open_with("compressed.gz", path)) == CONTENT
    path.write_bytes(pack_gzip(CONTENT[::-1]))
    os.utime(path, ns=(1, 1))
    assert content(open_with("compressed.gz", path)) == CONTENT[::-1]
    assert len(kept_files()) == 2


def test_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert not cache.save("x", b"y")
    assert content(open_with("compressed.gz", written(tmp_path, "gz", pack_gzip(CONTENT)))) == CONTENT


def test_a_write_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    assert not cache.save("x", b"y")
    assert kept_files() == []


def test_an_index_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_SIZE", 10)
    assert not cache.save("x", bytes(11))
    assert kept_files() == []


def test_the_oldest_indexes_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_FOLDER", 5000)
    for number in range(6):
        assert cache.save(f"index{number}", bytes(1000))
        os.utime(os.path.join(cache.folder(), f"index{number}"), ns=(number, number))
    assert [one.name for one in kept_files()] == ["index2", "index3", "index4", "index5"]


def test_an_opener_that_denies_the_folder(tmp_path: Path) -> None:
    class Closed:
        def open(self, name: str, *, relative_to: str | None = None) -> HostFile:
            raise Denied("no")

    assert cache.load("x", Closed()) is None


def test_home_without_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/x")
    assert cache.folder() == "/home/x/.cache/mntapi"


def test_an_index_that_cannot_be_read(tmp_path: Path) -> None:
    class Broken:
        def open(self, name: str, *, relative_to: str | None = None) -> Fault:
            return Fault(HostFile.open(name), bad=[(60, 1)])

    assert cache.save("x", bytes(100))
    assert cache.load("x", DirectOpener()) == bytes(100)
    assert cache.load("x", Broken()) is None  # type: ignore[arg-type]


def test_spans_that_are_closed(tmp_path: Path) -> None:
    image = open_with("compressed.gz", written(tmp_path, "gz", pack_gzip(CONTENT)))
    image.blocks.close()
    with pytest.raises(Invalid, match="closed"):
        image.blocks.readinto(0, memoryview(bytearray(1)))
    assert spans.CAPACITY <= 64 * MIB
