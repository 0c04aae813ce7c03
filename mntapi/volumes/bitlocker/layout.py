"""What Windows shows at each byte of a BitLocker volume: decrypted, as stored, zeros, or from somewhere else.

* The first sectors were moved to another place; what lies there now is the boot sector of BitLocker. Vista moved none: it left
  the first 8 KiB in the clear, with two fields of the boot sector changed.
* Where the metadata, the moved sectors and the encrypt-on-write structures lie, zeros are shown.
* A volume that is being converted is encrypted up to a border (until Windows 8), or in the chunks its bitmaps name.

Source: libyal, BitLocker Drive Encryption (BDE) format, "Virtual sector(s)"; the sizes of the areas, the border, the bitmaps:
observed, and equal to the decrypted devices whose SHA-256 cryptsetup's test images come with.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mntapi.blocks import Missing, Slice, Zero, read_clipped
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.types import Blocks
from mntapi.units import align_down, align_up
from mntapi.volumes.bitlocker import encryptonwrite
from mntapi.volumes.bitlocker.blocks import Decrypted, SectorCipher, Unlocked, VistaBootSector
from mntapi.volumes.bitlocker.boot import Boot
from mntapi.volumes.bitlocker.metadata import MAX_BLOCK, Metadata, State

_VISTA_CLEAR = 8192
_VISTA_BLOCK = 16384
_MAX_BITMAPS = 16 << 20
"""Bytes of bitmaps that are read for one volume."""


class Form(enum.Enum):
    """How a range of the container holds its bytes."""

    PLAIN = "plain"
    ENCRYPTED = "encrypted"
    UNKNOWN = "unknown"


_UNKNOWN = "bitlocker: it is not known whether this range is encrypted, its conversion was interrupted"
_PAST_THE_END = "bitlocker: this range was moved to a place past the end of the volume"

Area = tuple[int, int]
"""Start and end in bytes."""
Run = tuple[int, int, Form]


@dataclass(frozen=True, slots=True)
class Layout:
    """The forms of the whole container, and the areas that are shown as zeros."""

    size: int
    runs: tuple[Run, ...]
    hidden: tuple[Area, ...]
    is_converting: bool = False

    def total(self, form: Form) -> int:
        """Bytes in this form."""
        return sum(min(end, self.size) - min(start, self.size) for start, end, each in self.runs if each is form)


def plan(boot: Boot, metadata: Metadata, container: Blocks) -> Layout:
    """The layout of a volume. Reads the encrypt-on-write structures if there are any.

    Raises:
        Corrupt: the metadata contradict the size of the volume, or no copy of a structure is whole.
        Unsupported: more bitmaps, or more changes between the forms, than this reads.
        MntapiError: a structure cannot be read.
    """
    size = align_down(container.size, boot.sector_size)
    block = align_up(_VISTA_BLOCK, boot.cluster_size) if metadata.version == 1 else MAX_BLOCK
    hidden = [(copy, copy + block) for copy in metadata.copies]
    if metadata.version != 1:
        hidden.append((metadata.last, metadata.last + metadata.relocated_sectors * boot.sector_size))
    if boot.encrypt_on_write:
        return _encrypt_on_write(boot, container, size, hidden)
    return Layout(size, tuple(_border(metadata, boot.sector_size, size)), tuple(hidden))


def _border(metadata: Metadata, sector_size: int, size: int) -> Iterator[Run]:
    """Encrypted up to the border, plain behind it, and not known where a conversion was interrupted."""
    if metadata.state == State.DECRYPTED:
        yield 0, size, Form.PLAIN
        return
    border = metadata.state_offset or size
    doubtful = metadata.state_size if metadata.state == State.CONVERTING else 0
    if border % sector_size or doubtful % sector_size:
        raise Corrupt(
            "bitlocker: the border of the conversion is inside a sector", found=(border, doubtful), reason="fve-border"
        )
    yield 0, border, Form.ENCRYPTED
    yield border, border + doubtful, Form.UNKNOWN
    yield border + doubtful, max(size, border + doubtful), Form.PLAIN


def _encrypt_on_write(boot: Boot, container: Blocks, size: int, hidden: list[Area]) -> Layout:
    header = _first_whole(
        boot.encrypt_on_write,
        lambda at: encryptonwrite.parse_header(read_clipped(container, at, encryptonwrite.MAX_HEADER), at),
    )
    runs: list[Run] = []
    is_touched = False
    hidden.extend((at, at + align_up(header.size, boot.sector_size)) for at in boot.encrypt_on_write)
    for at, parsed in _bitmaps(container, header):
        if parsed.start % boot.sector_size or (runs and parsed.start < runs[-1][1]):
            raise Corrupt("bitlocker: encrypt-on-write regions overlap", offset=at, found=parsed.start, reason="fve-eow")
        hidden += [(at, at + parsed.size), (parsed.log, parsed.log + header.log_size)]
        is_touched = is_touched or parsed.is_touched
        runs.extend((start, end, _FORMS[state]) for start, end, state in encryptonwrite.runs(parsed, header.chunk_size))
        if len(runs) > encryptonwrite.MAX_RUNS:
            raise Unsupported("bitlocker: too many changes between encrypted and plain", offset=at, reason="fve-eow")
    forms = {form for _, _, form in runs} - {Form.UNKNOWN}
    is_converting = len(forms) > 1 or (is_touched and forms != {Form.PLAIN})
    return Layout(size, tuple(runs), tuple(hidden), is_converting=is_converting)


_FORMS = {True: Form.ENCRYPTED, False: Form.PLAIN, None: Form.UNKNOWN}


def _bitmaps(container: Blocks, header: encryptonwrite.Header) -> Iterator[tuple[int, encryptonwrite.Bitmap]]:
    total = 0
    for at in header.bitmaps:
        size = encryptonwrite.bitmap_size(read_clipped(container, at, encryptonwrite.BITMAP_HEADER), at)
        total += size
        if total > _MAX_BITMAPS:
            raise Unsupported(f"bitlocker: more than {_MAX_BITMAPS} bytes of bitmaps", offset=at, reason="fve-eow")
        yield at, encryptonwrite.parse_bitmap(read_clipped(container, at, size), at)


def _first_whole(places: Sequence[int], parse: Callable[[int], encryptonwrite.Header]) -> encryptonwrite.Header:
    """What the first place gives that gives anything; else the error of the first."""
    errors: list[MntapiError] = []
    for at in places:
        try:
            return parse(at)
        except MntapiError as error:
            errors.append(error)
    raise errors[0]


def assemble(layout: Layout, container: Blocks, metadata: Metadata, boot: Boot, cipher: SectorCipher | None) -> Blocks:
    """The volume as Windows shows it. ``cipher`` is None for one that is not encrypted."""
    decrypted = None if cipher is None else Decrypted(container, cipher, layout.size, boot.sector_size)
    stored = _Stored(layout, container, decrypted)
    parts: list[Blocks] = []
    if metadata.version == 1:
        done = min(_VISTA_CLEAR, layout.size)
        parts += [VistaBootSector(container, boot, metadata.last), Slice(container, boot.sector_size, done - boot.sector_size)]
    else:
        done = metadata.relocated_sectors * boot.sector_size
        parts += stored.parts(metadata.last, metadata.last + done)
    for start, end in sorted(layout.hidden):
        start, end = max(start, done), min(end, layout.size)
        if start < end:
            parts += [*stored.parts(done, start), Zero(end - start, boot.sector_size)]
            done = end
    return Unlocked([*parts, *stored.parts(done, layout.size)], cipher)


class _Stored:
    """The container's bytes in the clear, at the places where they are stored."""

    def __init__(self, layout: Layout, container: Blocks, decrypted: Blocks | None) -> None:
        self._size = layout.size
        self._runs = layout.runs
        self._starts = [start for start, _, _ in layout.runs]
        self._sources = {Form.PLAIN: container, Form.ENCRYPTED: decrypted}

    def parts(self, start: int, end: int) -> Iterator[Blocks]:
        """What is stored from ``start`` to ``end``."""
        while start < end:
            stop, form = self._run(start)
            stop = min(stop, end)
            source = self._sources.get(form)
            if start >= self._size:
                yield Missing(stop - start, _PAST_THE_END)
            elif source is None:
                yield Missing(stop - start, _UNKNOWN)
            else:
                yield Slice(source, start, stop - start)
            start = stop

    def _run(self, at: int) -> tuple[int, Form]:
        """Up to where the bytes have the form they have at ``at``, and that form."""
        if at >= self._size:
            return 1 << 64, Form.UNKNOWN
        following = bisect_right(self._starts, at)
        until = min(self._starts[following] if following < len(self._runs) else self._size, self._size)
        if following:
            _, end, form = self._runs[following - 1]
            if at < end:
                return min(end, until), form
        return until, Form.UNKNOWN
