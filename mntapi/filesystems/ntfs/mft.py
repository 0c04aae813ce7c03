"""The master file table: file records by number, and the streams in them."""

from __future__ import annotations

from collections.abc import Sequence

from mntapi.blocks import Cache, read
from mntapi.errors import Corrupt, NotFound
from mntapi.filesystems.ntfs.attribute import ATTRIBUTE_LIST, DATA, MAX_LIST, Stream, join, parse_list, unpack_runs
from mntapi.filesystems.ntfs.boot import Boot
from mntapi.filesystems.ntfs.record import IN_USE, Attribute, Record, apply_fixups, parse_record
from mntapi.filesystems.runs import Memory, RunBlocks
from mntapi.types import Blocks

MAX_RECORDS = 1 << 12
"""Records that one file may take up; a list of 256 KiB cannot name more that hold anything."""
NUMBER = (1 << 48) - 1
"""A file reference is a record number, with the record's sequence number in the upper 16 bits."""


class File:
    """A file's records, read: what every question about it starts from."""

    def __init__(self, number: int, attributes: Sequence[Attribute]) -> None:
        self.number = number
        self.attributes = attributes
        self._pieces: dict[tuple[int, str], list[Attribute]] = {}
        for item in attributes:
            self._pieces.setdefault((item.type, item.name), []).append(item)

    def pieces(self, kind: int, name: str = "") -> Sequence[Attribute]:
        """All attributes of that type and name; more than one are pieces of one stream."""
        return self._pieces.get((kind, name), ())


class Mft:
    """File records of a volume. Thread-safe; borrows the volume.

    Raises (from every method):
        Corrupt: with the byte on the volume, or in ``$MFT``.
        MntapiError: what reading the volume raises.
    """

    def __init__(self, volume: Blocks, boot: Boot) -> None:
        self._volume = volume
        self._boot = boot
        self._last: tuple[int, File] | None = None
        if boot.mft_at + boot.record_size > volume.size:
            raise Corrupt("$MFT lies outside the volume", offset=48, expected=f"at most {volume.size}", found=boot.mft_at)
        self._table = self._read_table(self._parse(read(volume, boot.mft_at, boot.record_size), boot.mft_at))

    def _read_table(self, first: Record) -> Cache:
        """``$MFT`` itself, whose later pieces are named by records in its earlier ones."""
        pieces = [item for item in first.attributes if item.type == DATA and not item.name]
        if not pieces or pieces[0].runs is None:
            raise Corrupt("$MFT has no data", offset=self._boot.mft_at)
        size = pieces[0].runs.size
        self._table = self._map_table(pieces, size)
        for number in self._continued(first.attributes, 0):
            pieces += [item for item in self._record(number).attributes if item.type == DATA and not item.name]
            self._table = self._map_table(pieces, size)
        return self._table

    def _map_table(self, pieces: list[Attribute], size: int) -> Cache:
        runs = unpack_runs(pieces, self._boot.cluster_size, self._volume.size)
        return Cache(RunBlocks(self._volume, runs, min(runs.size, size)))

    @property
    def count(self) -> int:
        """Records in the table, used or not."""
        return self._table.size // self._boot.record_size

    def file(self, reference: int) -> File:
        """The file of that record number; the upper 16 bits, if any is set, must be its sequence number.

        The last one is kept: whoever asks for a file's node asks for its attributes, contents or target next.
        """
        last = self._last
        if last is not None and last[0] == reference:
            return last[1]
        file = self._read_file(reference)
        self._last = reference, file
        return file

    def _read_file(self, reference: int) -> File:
        number, sequence = reference & NUMBER, reference >> 48
        record = self._record(number)
        at = number * self._boot.record_size
        if not record.flags & IN_USE or record.base:
            raise Corrupt(f"record {number} of $MFT is not in use as a file", offset=at)
        if sequence and sequence != record.sequence:
            raise Corrupt(
                f"record {number} of $MFT is by now another file's", offset=at, expected=sequence, found=record.sequence
            )
        attributes = record.attributes
        for other in self._continued(record.attributes, number):
            attributes += self._extension(other, number)
        return File(number, attributes)

    def _extension(self, number: int, base: int) -> tuple[Attribute, ...]:
        record = self._record(number)
        if not record.flags & IN_USE or record.base & NUMBER != base:
            at = number * self._boot.record_size
            raise Corrupt(
                f"record {number} of $MFT does not continue {base}", offset=at, expected=base, found=record.base & NUMBER
            )
        return record.attributes

    def _continued(self, attributes: tuple[Attribute, ...], number: int) -> list[int]:
        """The other records that this one's attribute list names, each once, in its order."""
        pieces = [item for item in attributes if item.type == ATTRIBUTE_LIST]
        if not pieces:
            return []
        stream = self._join(pieces)
        if stream.size > MAX_LIST:
            raise Corrupt("an attribute list is too long", expected=f"at most {MAX_LIST} bytes", found=stream.size)
        content = self.content(stream)
        others = [other for other in dict.fromkeys(parse_list(read(content, 0, content.size))) if other != number]
        if len(others) > MAX_RECORDS:
            raise Corrupt("a file in too many records", expected=f"at most {MAX_RECORDS}", found=len(others))
        return others

    def _record(self, number: int) -> Record:
        size = self._boot.record_size
        if not 0 <= number < self.count:
            raise NotFound(f"there is no record {number} in $MFT", expected=f"less than {self.count}")
        return self._parse(self._table.read(number * size, size), number * size)

    def _parse(self, raw: bytes, at: int) -> Record:
        return parse_record(apply_fixups(raw, b"FILE", at), at)

    def stream(self, file: File, kind: int, name: str = "") -> Stream | None:
        """The stream of that type and name, None where the file has none such."""
        pieces = file.pieces(kind, name)
        return self._join(pieces) if pieces else None

    def _join(self, pieces: Sequence[Attribute]) -> Stream:
        return join(pieces, self._boot.cluster_size, self._volume.size)

    def content(self, stream: Stream) -> Blocks:
        """The bytes of a stream that is neither compressed nor encrypted."""
        if stream.runs is None:
            return Memory(stream.value or b"", self._volume.sector_size)
        return RunBlocks(self._volume, stream.runs, stream.size, stream.initialised)

    def close(self) -> None:
        """Forget what was cached."""
        self._last = None
        self._table.close()
