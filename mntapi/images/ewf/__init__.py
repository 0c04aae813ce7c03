"""EWF, the Expert Witness format of EnCase, FTK Imager and ewfacquire: ``.E01 .E02 ...``, ``.e01``, and SMART's ``.s01``.

What it is not: a reader of logical evidence (L01), of version 2 (Ex01) or of AD encryption, each refused by name. Start
reading at ``sections.py`` (what is in a segment file), then here (how segments become tables), then ``chunks.py``.
Always true: each chunk's checksum is compared before a byte of it is handed out, and sectors that the imaging program could
not read raise, as they did on the medium. (libewf, which others build on, answers both with zeros.)

Source: see ``sections.py``.
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from mntapi.blocks import read, read_clipped
from mntapi.closing import closed_on_error
from mntapi.errors import Corrupt, Invalid, NotFound, Unsupported
from mntapi.images.ewf import sections
from mntapi.images.ewf.casedata import MAX_PACKED, parse_case
from mntapi.images.ewf.chunks import MAX_TABLE, Chunks, Table, merged_ranges
from mntapi.images.ewf.sections import Section, Volume
from mntapi.images.formats import Chain
from mntapi.images.spans import Spans
from mntapi.types import FileBlocks, Image, Link

FORMAT = "ewf"
MAX_SEGMENTS = 1000
"""Segment files; each is an open file, and a worker may have 1024."""
MAX_SECTIONS = 65536
"""Sections of a segment file; one of 2 GiB in the smallest tables that are in use has about 20."""
_EXTENSION = re.compile(r"(.*\.)([EeSs])01", re.DOTALL)


class EwfDisk(Spans):
    """The disk, with the hashes that the imaging program noted: ``{"md5": ..., "sha1": ...}``, in hexadecimal."""

    hashes: dict[str, str]


@dataclass(slots=True)
class _Found:
    """What the sections said so far."""

    volume: Volume | None = None
    tables: list[Table] = field(default_factory=list)
    bad: list[tuple[int, int]] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    case: dict[str, str] = field(default_factory=dict)
    sectors_end: int | None = None
    broken: Corrupt | None = None
    """What is wrong with the last table, until its copy turns up."""
    last: str = ""

    @property
    def chunk_count(self) -> int:
        return self.tables[-1].first + self.tables[-1].count if self.tables else 0


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """Open the image whose first segment ``file`` is.

    A set whose last segment is cut off opens; what is lost raises when it is read.

    Raises:
        NotFound: a segment is missing.
        Unsupported: it is not the first segment, or of a kind that is not read.
        Corrupt: a section is damaged.
    """
    _refuse(file)
    found = _Found()
    with ExitStack() as resources:
        files = [file]
        lost = _scan(file, found)
        while found.last == "next":
            segment = _open_segment(file, len(files) + 1, chain)
            resources.callback(segment.close)
            files.append(segment)
            lost = _scan(segment, found)
        if found.broken is not None:
            raise found.broken
        if found.volume is None:
            raise lost or Corrupt("has no volume section", path=file.path, offset=0, reason="volume")
        if lost is None and found.chunk_count < found.volume.chunk_count:
            raise _too_few(found.volume, found.chunk_count, files[-1])
        chunks = Chunks(found.volume, found.tables, list(merged_ranges(found.bad)), file.path, lost)
        owned = ExitStack()
        disk = EwfDisk(chunks, path=file.path, release=owned.close)
        disk.sector_size = found.volume.sector_size
        disk.hashes = found.hashes
        owned.callback(file.close)
        owned.callback(resources.pop_all().close)
    return Image(file.path, FORMAT, disk, tuple(Link(one.path, FORMAT) for one in files), found.case | disk.hashes)


def _refuse(file: FileBlocks) -> None:
    magic = read_clipped(file, 0, 8)
    if magic in sections.LOGICAL_SIGNATURES:
        raise Unsupported("is logical evidence (files), not a disk", path=file.path, reason="ewf-logical")
    if magic == sections.SECOND_SIGNATURE:
        raise Unsupported("is of EWF version 2 (Ex01)", path=file.path, hint="ewfexport can convert it", reason="ewf-2")
    number = sections.parse_segment_number(read_clipped(file, 0, sections.HEADER.size), file.path)
    if number != 1:
        raise Unsupported(
            f"is segment {number} of an image", path=file.path, hint="open the first segment (.E01)", reason="segment"
        )


def segment_suffix(number: int, first: str) -> str:
    """The extension of a segment: ``E01`` ... ``E99``, ``EAA`` ... ``EZZ``, ``FAA`` ... ``ZZZ``, in the case of ``first``.

    Raises:
        Invalid: there is no such segment.
    """
    if number < 100:
        return f"{first}{number:02d}"
    letters = string.ascii_uppercase if first.isupper() else string.ascii_lowercase
    rest, last = divmod(number - 100, 26)
    lead, middle = divmod(rest, 26)
    lead += letters.index(first)
    if lead >= 26:
        raise Invalid(f"an EWF image has no segment {number}")
    return letters[lead] + letters[middle] + letters[last]


def _open_segment(file: FileBlocks, number: int, chain: Chain) -> FileBlocks:
    match = _EXTENSION.fullmatch(os.path.basename(file.path))
    if match is None:
        raise Unsupported(
            "has more segments, and is not named like the first one", path=file.path, hint="rename it to .E01", reason="segment"
        )
    if number > MAX_SEGMENTS:
        raise Unsupported("has too many segments", path=file.path, expected=f"at most {MAX_SEGMENTS}", reason="segments")
    name = match[1] + segment_suffix(number, match[2])
    try:
        segment = chain.open_file(name, file)
    except NotFound as error:
        raise NotFound(f"its segment {name} is missing", path=file.path, reason="segment-missing") from error
    with closed_on_error(segment):
        found = sections.parse_segment_number(read_clipped(segment, 0, sections.HEADER.size), segment.path)
        if found != number:
            raise Corrupt("is another segment", path=segment.path, offset=9, expected=number, found=found, reason="segment")
    return segment


def _scan(file: FileBlocks, found: _Found) -> Corrupt | None:
    """Take in the sections of a segment file. Returns why it ends too early, or None.

    Raises:
        Corrupt: what the sections say is contradictory.
    """
    found.sectors_end = None
    found.last = ""
    walk = walk_sections(file)
    while True:
        try:
            section = next(walk, None)
        except Corrupt as error:
            return error
        if section is None:
            return None
        _take(file, section, found)


def walk_sections(file: FileBlocks) -> Iterator[Section]:
    """The sections of a segment file up to its last one. Raises Corrupt where one is damaged or cut off."""
    position = sections.HEADER.size
    for _ in range(MAX_SECTIONS):
        raw = read_clipped(file, position, sections.DESCRIPTOR_SIZE)
        section = sections.parse_section(raw, min(position, file.size), file.path)
        if section.end > file.size:
            raise Corrupt(
                f"the segment file is cut off in its section {section.kind!a}",
                path=file.path,
                offset=file.size,
                expected=f"{section.end} bytes",
                reason="truncated",
            )
        yield section
        if section.kind in ("next", "done"):
            return
        position = section.end
    raise Corrupt("has too many sections", path=file.path, expected=f"at most {MAX_SECTIONS}", reason="sections")


def _take(file: FileBlocks, section: Section, found: _Found) -> None:
    found.last = section.kind
    if section.kind in ("volume", "disk", "data"):
        _take_volume(file, section, found)
    elif section.kind == "sectors":
        found.sectors_end = section.end
    elif section.kind in ("table", "table2"):
        _take_any_table(file, section, found)
    elif section.kind == "error2":
        _take_errors(file, section, found)
    elif section.kind in ("hash", "digest"):
        raw = read(file, section.data, min(section.size, sections.DIGEST_SIZE))
        found.hashes |= sections.parse_hashes(section.kind, raw)
    elif section.kind == "header2" or (section.kind == "header" and not found.case):  # which says the same in fewer characters
        found.case = parse_case(section.kind, read(file, section.data, min(section.size, MAX_PACKED))) or found.case


def _take_volume(file: FileBlocks, section: Section, found: _Found) -> None:
    """``data`` repeats the volume in later segments, and tells that they belong together."""
    length = section.size if section.size == sections.SMART_VOLUME_SIZE else min(section.size, sections.VOLUME_SIZE)
    volume = sections.parse_volume(read(file, section.data, length), section.data, file.path)
    if found.volume is not None and found.volume != volume:
        raise Corrupt(
            "belongs to another image", path=file.path, offset=section.data, expected=found.volume, found=volume, reason="set"
        )
    found.volume = volume


def _take_any_table(file: FileBlocks, section: Section, found: _Found) -> None:
    """A table, or its copy. The copy stands in for a table whose header is damaged."""
    if section.kind == "table2" and found.broken is None:
        _take_copy(file, section, found)
        return
    try:
        _take_table(file, section, found)
    except Corrupt as error:
        if section.kind == "table2" or found.broken is not None:
            raise
        found.broken = error
    else:
        if section.kind == "table" and found.broken is not None:
            raise found.broken
        found.broken = None


def _take_table(file: FileBlocks, section: Section, found: _Found) -> None:
    entries = section.data + sections.TABLE_HEADER_SIZE
    header = _table_header(file, section)
    behind = entries + 4 * header.count
    # EnCase 1 and SMART have the chunks behind the entries, in this section; later ones in the section before
    data_end = section.end if found.sectors_end is None else found.sectors_end
    found.tables.append(
        Table(
            file=file,
            first=found.chunk_count,
            count=header.count,
            base=header.base,
            entries=entries,
            data_end=data_end,
            has_checksum=found.sectors_end is not None and behind + 4 <= section.end,
        )
    )


def _table_header(file: FileBlocks, section: Section) -> sections.TableHeader:
    room = section.size - sections.TABLE_HEADER_SIZE
    if room < 0:
        raise Corrupt("a table has no header", path=file.path, offset=section.data, found=section.size, reason="table")
    raw = read(file, section.data, sections.TABLE_HEADER_SIZE)
    return sections.parse_table_header(raw, min(room, MAX_TABLE), section.data, file.path)


def _take_copy(file: FileBlocks, section: Section, found: _Found) -> None:
    if not found.tables or found.tables[-1].file is not file:
        return
    table = found.tables[-1]
    header = _table_header(file, section)
    if (header.count, header.base) == (table.count, table.base) and table.has_checksum:
        copy = section.data + sections.TABLE_HEADER_SIZE
        if copy + 4 * header.count + 4 <= section.end:
            found.tables[-1] = replace(table, copy=copy)


def _take_errors(file: FileBlocks, section: Section, found: _Found) -> None:
    room = section.size - sections.ERRORS_HEADER_SIZE
    if room < 0 or found.volume is None:
        raise Corrupt("the list of errors is damaged", path=file.path, offset=section.data, reason="errors")
    raw = read(file, section.data, sections.ERRORS_HEADER_SIZE)
    count = sections.parse_errors_header(raw, min(room, MAX_TABLE), section.data, file.path)
    entries = read(file, section.data + sections.ERRORS_HEADER_SIZE, 8 * count)
    size = found.volume.sector_size
    found.bad += [(first * size, (first + length) * size) for first, length in sections.parse_errors(entries)]


def _too_few(volume: Volume, count: int, last: FileBlocks) -> Corrupt:
    return Corrupt("the tables have too few chunks", path=last.path, expected=volume.chunk_count, found=count, reason="table")
