"""Split disks with pieces that are missing, short, or too many; and the names of pieces."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.container_support import content, open_with, refused
from contract.memory_filesystem import Memory
from mntapi.errors import Corrupt, Denied, MntapiError, NotFound, Unsupported
from mntapi.images import split
from mntapi.images.formats import open_image
from mntapi.images.inside import Inside
from mntapi.types import DiskSpec


def pieces(folder: Path, *suffixes: str, size: int = 1000) -> Path:
    for number, suffix in enumerate(suffixes):
        (folder / f"disk.{suffix}").write_bytes(bytes([number + 1]) * size)
    return folder / f"disk.{suffixes[0]}"


@pytest.mark.parametrize(
    ("suffix", "following"),
    [
        ("00", ("01",)), ("09", ("10",)), ("099", ("100",)), ("999", ("1000",)), ("89", ("90", "9000")),
        ("9899", ("9900", "990000")), ("aa", ("ab",)), ("az", ("ba",)), ("yz", ("za", "zaaa")), ("aaz", ("aba",)),
    ],
)  # fmt: skip
def test_names_as_split_writes_them(suffix: str, following: tuple[str, ...]) -> None:
    """Oracle: GNU split, see ``test_containers.test_split_into_so_many_that_names_grow``."""
    assert split.following(suffix) == following


@pytest.mark.parametrize(
    ("name", "is_piece"), [("d.001", True), ("d.00", True), ("d.aa", True), ("d.E01", False), ("001", False)]
)
def test_claims(name: str, is_piece: bool) -> None:
    assert split.claims(f"/backup.001/{name}") is is_piece


def test_a_gap_is_an_error_and_never_a_shorter_disk(tmp_path: Path) -> None:
    first = pieces(tmp_path, "001", "002", "004")
    assert "disk.003" in str(refused("split", first, NotFound, "segment-missing"))


def test_a_wide_gap(tmp_path: Path) -> None:
    first = pieces(tmp_path, "aa", "ab", "af")
    assert "disk.ac is missing" in str(refused("split", first, NotFound, "segment-missing"))


@pytest.mark.parametrize(
    ("names", "opened", "hint"), [(("001", "002"), "002", "disk.001"), (("000", "001"), "001", "disk.000")]
)
def test_a_middle_piece_alone(names: tuple[str, ...], opened: str, hint: str, tmp_path: Path) -> None:
    pieces(tmp_path, *names)
    assert hint in str(refused("split", tmp_path / f"disk.{opened}", Unsupported, None).hint)


def test_a_middle_piece_without_its_first(tmp_path: Path) -> None:
    error = refused("split", pieces(tmp_path, "007"), NotFound, "segment-missing")
    assert "disk.001" in str(error) and "--format raw" in str(error.hint)


@pytest.mark.parametrize("name", ["disk.img", "disk.xyz", "disk.vmdk"])
def test_a_name_that_only_looks_like_a_piece(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x" * 600)
    image = open_with("split", tmp_path / name)
    assert image.format == "raw" and content(image) == b"x" * 600


def test_a_piece_alone_is_a_disk(tmp_path: Path) -> None:
    assert content(open_with("split", pieces(tmp_path, "001"))) == b"\1" * 1000


@pytest.mark.parametrize("lengths", [(1000, 999, 1000), (1000, 1001)])
def test_a_piece_of_another_length(lengths: tuple[int, ...], tmp_path: Path) -> None:
    for number, length in enumerate(lengths, 1):
        (tmp_path / f"disk.{number:03d}").write_bytes(b"x" * length)
    assert str(tmp_path / "disk.002") in str(refused("split", tmp_path / "disk.001", Corrupt, "segment-size"))


def test_a_shorter_last_piece_is_fine(tmp_path: Path) -> None:
    first = pieces(tmp_path, "001", "002")
    (tmp_path / "disk.003").write_bytes(b"\3")
    assert content(open_with("split", first)) == b"\1" * 1000 + b"\2" * 1000 + b"\3"


def test_too_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "MAX_SEGMENTS", 3)
    refused("split", pieces(tmp_path, "001", "002", "003", "004"), Unsupported, "segments")


def test_a_piece_that_is_a_link_to_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first = pieces(tmp_path / "a", "001")
    (tmp_path / "secret").write_bytes(b"s" * 1000)
    (tmp_path / "a" / "disk.002").symlink_to(tmp_path / "secret")
    with pytest.raises(Exception, match="outside"):
        open_with("split", first)


def test_empty_pieces(tmp_path: Path) -> None:
    refused("split", pieces(tmp_path, "001", "002", size=0), Corrupt, "empty")


@pytest.mark.parametrize("name", ["disk.img", "disk.raw", "disk.dd", "disk.bin"])
def test_a_neighbour_that_looks_like_a_first_piece(name: str, tmp_path: Path) -> None:
    """Letters are the name of a format unless the pieces before it are there, too."""
    (tmp_path / name).write_bytes(b"x" * 600)
    for suffix in ("aa", "aaa"):
        (tmp_path / f"disk.{suffix}").write_bytes(b"other")
    image = open_with("split", tmp_path / name)
    assert image.format == "raw" and content(image) == b"x" * 600


@pytest.mark.parametrize("suffixes", [("aa", "ab"), ("aaa", "aab"), ("aa", "ay", "az", "ba"), ("aaa", "aaz", "aba")])
def test_a_middle_piece_in_letters(suffixes: tuple[str, ...], tmp_path: Path) -> None:
    pieces(tmp_path, *suffixes)
    error = refused("split", tmp_path / f"disk.{suffixes[-1]}", Unsupported, None)
    assert f"open disk.{suffixes[0]} instead" in str(error.hint)


class Bucket:
    """The files of a web server as an opener; those that are not there are refused as ``absent`` says."""

    def __init__(self, files: dict[str, bytes], absent: MntapiError, denied: tuple[str, ...] = ()) -> None:
        self.files, self.absent, self.denied = files, absent, denied
        self.asked: list[str] = []

    def open(self, name: str, *, relative_to: str | None = None) -> Inside:
        self.asked.append(name)
        name = name.rpartition("/")[2]
        if name in self.denied:
            raise Denied("is forbidden", path=name)
        if name not in self.files:
            raise self.absent
        return Inside(Memory(self.files[name]), f"https://bucket.example/{name}", 0)


FORBIDDEN, ABSENT = Denied("the web server forbids it", found="status 403"), NotFound("no such file")


def opened_url(bucket: Bucket, name: str) -> tuple[str, bytes]:
    image = open_image(DiskSpec(f"https://bucket.example/{name}"), bucket)
    return image.format, content(image)


@pytest.mark.parametrize("name", ["disk.img", "disk.raw", "disk.dd"])
def test_a_server_is_not_asked_for_names_that_letters_make_up(name: str) -> None:
    bucket = Bucket({name: b"x" * 600}, FORBIDDEN)
    assert opened_url(bucket, name) == ("raw", b"x" * 600) and bucket.asked == [f"https://bucket.example/{name}"]


@pytest.mark.parametrize("absent", [FORBIDDEN, ABSENT])
def test_pieces_on_a_server_that_forbids_what_is_not_there(absent: MntapiError) -> None:
    bucket = Bucket({"disk.001": b"1" * 600, "disk.002": b"2" * 600}, absent)
    assert opened_url(bucket, "disk.001") == ("split", b"1" * 600 + b"2" * 600)


def test_a_piece_that_a_server_forbids_and_others_that_it_does_not_have() -> None:
    bucket = Bucket({"disk.001": b"1" * 600}, ABSENT, denied=("disk.002",))
    with pytest.raises(Denied):
        opened_url(bucket, "disk.001")


def test_a_middle_piece_on_a_server_that_forbids_what_is_not_there() -> None:
    with pytest.raises(NotFound, match=r"first piece disk\.001 is missing"):
        opened_url(Bucket({"disk.002": b"2" * 600}, FORBIDDEN), "disk.002")


def test_a_server_that_has_every_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Everything(dict[str, bytes]):
        def __contains__(self, name: object) -> bool:
            return True

        def __missing__(self, name: str) -> bytes:
            return b"x" * 600

    monkeypatch.setattr(split, "MAX_SEGMENTS", 3)
    assert opened_url(Bucket(Everything(), FORBIDDEN), "disk.raw") == ("raw", b"x" * 600)
    with pytest.raises(Unsupported) as caught:
        opened_url(Bucket(Everything(), FORBIDDEN), "disk.001")
    assert "--format raw" in str(caught.value.hint)


def test_a_piece_that_may_not_be_read(tmp_path: Path) -> None:
    """On this host what is forbidden is there: the disk would be shorter without it."""
    (tmp_path / "a").mkdir()
    first = pieces(tmp_path / "a", "001", "002")
    (tmp_path / "a" / "disk.003").symlink_to("/etc/hostname")
    refused("split", first, Denied, "outside")
