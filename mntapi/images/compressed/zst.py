"""Zstandard. A file of several frames (pzstd, the seekable format) is read frame by frame; one frame, which is what the zstd
program writes, goes through ``store.py`` unless it is small. Needs the package ``zstandard``.

Source: RFC 8878, section 3.1; Zstandard Seekable Format 0.1.0 (zstd, contrib/seekable_format).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple, cast

from mntapi.blocks import read, read_clipped
from mntapi.errors import Corrupt, Unsupported
from mntapi.images.compressed.store import open_stored
from mntapi.images.compressed.stream import MAX_SPAN, OUTPUT, PARALLEL_SPAN, Cursor, Damaged, open_unpacked
from mntapi.images.formats import Chain
from mntapi.images.spans import Damage
from mntapi.types import FileBlocks, Image

try:  # here and not where it is used: a confined worker cannot import any more
    import zstandard
except ImportError:
    _IS_THERE = False
else:
    _IS_THERE = True

FORMAT = "zstd"
MAGIC = bytes.fromhex("28b52ffd")
MAX_FRAMES = 1 << 20
MAX_WINDOW = 1 << 27
"""Bytes of history that a frame may ask for, what ``zstd -d`` allows without being told."""

_SKIPPABLE = bytes.fromhex("2a4d18")
_SEEKABLE_MAGIC = bytes.fromhex("b1ea928f")
_HINT = "unpack it first, or pack it with xz --block-size=16MiB"


class Frame(NamedTuple):
    """A frame in the file: its first byte and its length. ``size`` is what it unpacks to, None if it does not tell."""

    offset: int
    packed: int
    size: int | None
    is_whole: bool = True


@dataclass(slots=True)
class Frames:
    """The frames of a file as a ``Source`` of spans."""

    file: FileBlocks
    size: int = 0
    largest: int = 0
    starts: array[int] = field(default_factory=lambda: array("Q"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    packed: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, frame: Frame, size: int) -> None:
        """Append a frame."""
        if not size:
            return
        self.starts.append(self.size)
        self.offsets.append(frame.offset)
        self.packed.append(frame.packed)
        self.size += size
        self.largest = max(self.largest, size, frame.packed - MAX_SPAN // 64)

    def is_zero(self, index: int) -> bool:
        return False

    def unpack(self, index: int) -> bytes:
        """The frame; its checksum, where it has one, is compared by libzstd."""
        offset = self.offsets[index]
        size = (self.starts[index + 1] if index + 1 < len(self.starts) else self.size) - self.starts[index]
        raw = read(self.file, offset, self.packed[index])
        try:
            with zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(raw) as reader:
                return reader.read(size + 1)
        except zstandard.ZstdError as error:
            raise Corrupt(f"a frame is damaged: {error}", path=self.file.path, offset=offset, reason="unpack") from error


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """Open the disk inside a zstd file.

    Raises:
        Unsupported: ``zstandard`` is not installed, the file needs a dictionary, or it is one frame that is too large.
        Corrupt: the first frame is damaged.
        MntapiError: what is inside cannot be opened.
    """
    if not _IS_THERE:
        raise Unsupported(
            "is packed with zstd, which needs the Python package zstandard",
            path=file.path,
            hint="pip install zstandard",
            reason="zstd-absent",
        )
    frames, damage = _frames(file)
    if frames is None or frames.largest > MAX_SPAN:
        return open_stored(file, chain, FORMAT, lambda: _stream(file), _HINT)
    return open_unpacked(frames, file, chain, FORMAT, damage=damage, serial=frames.largest > PARALLEL_SPAN)


def _frames(file: FileBlocks) -> tuple[Frames | None, Damage | None]:
    """The frames by the seek table or their headers, and where they end too early; None if some do not tell their size."""
    found = Frames(file)
    try:
        for count, frame in enumerate(seek_table(file) or walk(file)):
            if count >= MAX_FRAMES or (frame.is_whole and frame.size is None):
                return None, None
            if not frame.is_whole:
                return (found, _cut(file, frame.offset)) if found.size else (None, None)
            found.add(frame, frame.size or 0)
    except Damaged as end:
        return found, end.damage
    return found, None


def seek_table(file: FileBlocks) -> list[Frame] | None:
    """The frames by the table at the end; None if there is none, or it does not fit the file."""
    footer = read_clipped(file, max(0, file.size - 9), 9)
    if len(footer) < 9 or footer[5:] != _SEEKABLE_MAGIC or footer[4] & 0x7C:
        return None
    count, entry = int.from_bytes(footer[:4], "little"), 12 if footer[4] & 0x80 else 8
    table_at = file.size - 9 - count * entry - 8
    if count > MAX_FRAMES or table_at < 0:
        return None
    entries = read(file, table_at + 8, count * entry)
    frames, offset = [], 0
    for position in range(0, len(entries), entry):
        packed = int.from_bytes(entries[position : position + 4], "little")
        frames.append(Frame(offset, packed, int.from_bytes(entries[position + 4 : position + 8], "little")))
        offset += packed
    return frames if offset == table_at else None


def walk(file: FileBlocks) -> Iterator[Frame]:
    """The frames by the sizes of their blocks; skippable ones are left out. One that is cut off is the last.

    Raises:
        Damaged: there is something else. Its ``good`` is not told.
        Unsupported: a frame needs a dictionary.
    """
    position = 0
    while position < file.size:
        header = read_clipped(file, position, 18)
        if header[1:4] == _SKIPPABLE and header[0] & 0xF0 == 0x50 and len(header) >= 8:
            position += 8 + int.from_bytes(header[4:8], "little")
            if position > file.size:
                raise Damaged(0, _cut(file, file.size))
            continue
        if header[:4] != MAGIC[: len(header)]:
            raise Damaged(0, Damage("a frame is followed by something else", file.path, position, "trailing"))
        frame = _frame(file, position, header)
        yield frame
        position += frame.packed


def _frame(file: FileBlocks, offset: int, header: bytes) -> Frame:
    flags = header[4] if len(header) > 4 else 0
    is_single = bool(flags & 0x20)
    at = 5 if is_single else 6
    dictionary = (0, 1, 2, 4)[flags & 3]
    if any(header[at : at + dictionary]):
        raise Unsupported("needs a zstd dictionary", path=file.path, offset=offset, reason="zstd-dictionary")
    at += dictionary
    width = (1 if is_single else 0, 2, 4, 8)[flags >> 6]
    size = int.from_bytes(header[at : at + width], "little") + (256 if width == 2 else 0) if width else None
    end = _after_blocks(file, offset + at + width)
    end = None if end is None else end + (4 if flags & 4 else 0)
    if end is None or end > file.size:
        return Frame(offset, file.size - offset, size, is_whole=False)
    return Frame(offset, end - offset, size)


def _after_blocks(file: FileBlocks, position: int) -> int | None:
    """The first byte behind the last block of a frame, None if that is not in the file."""
    is_last = False
    while not is_last:
        raw = read_clipped(file, position, 3)
        if len(raw) < 3:
            return None
        block = int.from_bytes(raw, "little")
        is_last = bool(block & 1)
        is_repeated = block >> 1 & 3 == 1
        position += 3 + (1 if is_repeated else block >> 3)
    return position


def _cut(file: FileBlocks, offset: int) -> Damage:
    return Damage("the stream is cut off", file.path, offset, "truncated")


def _stream(file: FileBlocks) -> Iterator[bytes]:
    """All bytes. Raises Damaged where a frame is cut off, damaged, or followed by something else."""
    total = 0
    try:
        for frame in walk(file):
            for content in _contents(file, frame, total):
                total += len(content)
                yield content
            if not frame.is_whole:
                raise Damaged(total, _cut(file, file.size))
    except Damaged as end:
        raise Damaged(end.good if end.damage.reason == "unpack" else total, end.damage) from end


def _contents(file: FileBlocks, frame: Frame, good: int) -> Iterator[bytes]:
    cursor = Cursor(file, frame.offset, frame.offset + frame.packed)
    reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(cast(BinaryIO, cursor))
    try:
        while content := reader.read(OUTPUT):
            yield content
    except zstandard.ZstdError as error:
        damage = Damage(f"a frame is damaged: {error}", file.path, frame.offset, "unpack")
        raise Damaged(good, damage) from error
    except OSError as error:
        raise cursor.error or error from None
