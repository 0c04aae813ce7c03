"""What an EWF image says of its case. Oracle: ewfinfo, of libewf."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest

from contract.container_support import IMAGES, content, open_with
from contract.ewf_builder import Segment, volume
from contract.make_disk import need, run
from mntapi.images.ewf.casedata import MAX_UNPACKED, MAX_VALUE, parse_case

LABELS = {
    "Case number": "case number", "Description": "description", "Examiner name": "examiner", "Notes": "notes",
    "Evidence number": "evidence number", "Operating system used": "operating system", "Software version used": "software",
}  # fmt: skip


def details(path: Path) -> dict[str, str]:
    opened = open_with("ewf", path)
    opened.blocks.close()
    return dict(opened.details)


def told_by_ewfinfo(path: Path) -> dict[str, str]:
    lines = [line.split(":", 1) for line in run("ewfinfo", path).splitlines() if ":" in line]
    told = {name.strip(): value.strip() for name, value in lines}
    return {ours: told[theirs] for theirs, ours in LABELS.items() if told.get(theirs, "N/A") != "N/A"}


@pytest.mark.parametrize("format_", ["encase2", "encase5", "encase6", "ftk", "linen6"])
def test_all_that_ewfinfo_tells(format_: str, tmp_path: Path) -> None:
    need("ewfacquire", "ewfinfo")
    (tmp_path / "disk.raw").write_bytes(random.Random(1).randbytes(65536))
    said = ["-C", "Case 7/b", "-D", "a disk", "-E", "ev-1", "-e", "J. Doe", "-N", "some notes"]
    run("ewfacquire", "-u", "-f", format_, "-t", tmp_path / "image", *said, tmp_path / "disk.raw")
    ours = details(tmp_path / "image.E01")
    theirs = told_by_ewfinfo(tmp_path / "image.E01")
    assert theirs["case number"] == "Case 7/b" and theirs.items() <= ours.items()
    assert len(ours["md5"]) == 32 and ours["acquired"].startswith("20")


def test_a_sample_of_dfvfs() -> None:
    need("ewfinfo")
    path = IMAGES / "dfvfs" / "test_data" / "ext2.E01"
    if not path.exists():
        pytest.skip("no samples here")
    assert told_by_ewfinfo(path).items() <= details(path).items()


def packed(kind: str, *lines: str, order: str = "utf-16-le") -> bytes:
    text = "\n".join(lines)
    return zlib.compress(("\ufeff" + text).encode(order) if kind == "header2" else text.encode("latin-1"))


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
def test_two_bytes_a_character(order: str) -> None:
    raw = packed("header2", "3", "main", "a\tc\tm", "Füße\t\t1626967998", "", order=order)
    assert parse_case("header2", raw) == {"description": "Füße", "acquired": "2021-07-22 15:33:18 UTC"}


def test_the_clock_of_a_host_and_its_character_set() -> None:
    raw = packed("header", "1", "main", "c\te\tm\tu", "7\tMüller\t2002 3 4 10 19 5\t0", "")
    assert parse_case("header", raw) == {
        "case number": "7",
        "examiner": "M\udcfcller",
        "acquired": "2002-03-04 10:19:05",
        "system date": "1970-01-01 00:00:00 UTC",
    }


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no zlib",
        packed("header", "1", "main", "c"),
        packed("header", "1", "other", "c", "7"),
        packed("header", "1", "main", "c\tc", ""),
        packed("header", "1", "main", "", "7"),
    ],
)
def test_what_is_damaged_is_left_out(raw: bytes) -> None:
    assert parse_case("header", raw) == {}


def test_what_is_cut_off_tells_what_is_left() -> None:
    raw = zlib.compress(b"1\nmain\nc\tt\n7\t" + random.Random(2).randbytes(4000).hex().encode())[:1500]
    assert parse_case("header", raw)["case number"] == "7"


def test_dates_that_are_none() -> None:
    for text in ("99999999999999999999", "yesterday", "2002 3 4"):
        assert parse_case("header", packed("header", "1", "main", "m", text)) == {"acquired": text}


def test_a_bomb() -> None:
    raw = zlib.compress(b"1\nmain\nc\n" + b"7" * (4 * MAX_UNPACKED))
    assert parse_case("header", raw) == {"case number": "7" * MAX_VALUE}


def test_an_image_with_a_damaged_header_opens(tmp_path: Path) -> None:
    segment = Segment()
    segment.section("header2", b"garbage")
    segment.section("header", packed("header", "1", "main", "c", "7"))
    segment.section("volume", volume(65536))
    segment.chunks(b"x" * 65536)
    segment.section("done")
    opened = open_with("ewf", segment.write(tmp_path / "a.E01"))
    assert opened.details == {"case number": "7"} and content(opened) == b"x" * 65536
