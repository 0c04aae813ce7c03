"""What a group of a thousand volumes costs, in steps of the interpreter and reads of the disk rather than in time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mntapi.blocks import HostFile
from mntapi.volumes.lvm import members
from mntapi.volumes.scan import Found, find_volumes
from unit.lvm_builder import AREA_AT, DATA_AT, EXTENT, SECTOR, area, group_text, label, linear, volume

AREA = 512 * 1024
CALLS = 1200
"""Of functions, ours and the interpreter's, for each volume: it takes some 860."""
READS = 24
"""For each volume: each scheme looks at some places of it, together 19."""


class Counted:
    """A disk that counts what is read of it."""

    def __init__(self, inner: HostFile) -> None:
        self._inner = inner
        self.size = inner.size
        self.sector_size = inner.sector_size
        self.reads = 0

    def readinto(self, offset: int, buffer: memoryview) -> None:
        self.reads += 1
        self._inner.readinto(offset, buffer)

    def extents(self, offset: int, length: int):
        return self._inner.extents(offset, length)

    def close(self) -> None:
        """Nothing to release."""


@pytest.fixture
def disk(tmp_path: Path):
    opened = []

    def make(count: int) -> Counted:
        more = 'creation_time = 1700000000 creation_host = "host.example.org"'
        logical = [volume(f"lv{number}", linear(0, 1, "pv0", number), more=more) for number in range(count)]
        text = group_text("".join(logical), extents=count).encode()
        size = DATA_AT + count * EXTENT
        with (tmp_path / f"{count}").open("wb") as file:
            file.truncate(size)
            file.seek(SECTOR)
            file.write(label("one", size, areas=((AREA_AT, AREA),)))
            file.seek(AREA_AT)
            file.write(area(text, size=AREA))
        opened.append(HostFile.open(str(tmp_path / f"{count}")))
        return Counted(opened[-1])

    yield make
    for file in opened:
        file.close()


def calls(disk: Counted) -> tuple[int, Found]:
    """How many functions a scan calls, and what it finds."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        found = find_volumes([disk])
    finally:
        sys.setprofile(None)
    return count, found


def test_a_thousand_volumes(disk, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[object] = []
    real = members.parse_group
    monkeypatch.setattr(members, "parse_group", lambda source: parsed.append(source) or real(source))
    find_volumes([disk(1)])  # imports
    parsed.clear()
    few, many = disk(500), disk(1000)
    calls_of_few, _ = calls(few)
    calls_of_many, found = calls(many)
    assert len(parsed) == 2, "each text is understood once"
    assert len(found.volumes) == 1000
    assert {one.details["vg"] for one in found.volumes} == {"vg"} and all(one.offset is not None for one in found.volumes)
    assert calls_of_many < 1000 * CALLS and many.reads < 1000 * READS
    assert calls_of_many < 2.1 * calls_of_few and many.reads < 2.1 * few.reads, "it grows with their number, and no faster"
