"""Split disks with pieces that are missing, short, or too many; and the names of pieces."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.container_support import content, open_with, refused
from mntapi.errors import Corrupt, NotFound, Unsupported
from mntapi.images import split


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
