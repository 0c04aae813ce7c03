"""The table of formats, chains, the opener's rule, and raw disks."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from contract.blocks_contract import check_blocks, check_closed
from mntapi.blocks import Fault, HostFile
from mntapi.errors import Corrupt, Denied, Invalid, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.images import formats
from mntapi.images.formats import FORMATS, MAX_LINKS, RAW, Chain, Format, detect, named, open_image
from mntapi.images.opener import DirectOpener
from mntapi.types import DiskSpec, FileBlocks, Image, Link, OpenOptions


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"MBR?" * 5000)
    return path


def test_raw_disk(raw: Path) -> None:
    image = open_image(DiskSpec(str(raw)), DirectOpener())
    assert (image.path, image.format, image.chain) == (str(raw), "raw", (Link(str(raw), "raw"),))
    check_blocks(image.blocks, b"MBR?" * 5000, ranges=50)
    check_closed(image.blocks)


def test_an_empty_file_is_no_disk(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(Corrupt) as caught:
        open_image(DiskSpec(str(tmp_path / "empty")), DirectOpener())
    assert caught.value.reason == "empty" and caught.value.path == str(tmp_path / "empty")


def test_a_format_can_be_forced(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"# Disk DescriptorFile\nRW 8 ZERO\n")
    assert open_image(DiskSpec(str(path)), DirectOpener()).blocks.size == 4096
    assert open_image(DiskSpec(str(path), format="raw"), DirectOpener()).blocks.size == path.stat().st_size
    with pytest.raises(Invalid, match="no disk format is called 'vmkd'") as caught:
        open_image(DiskSpec(str(path), format="vmkd"), DirectOpener())
    assert "vmdk" in str(caught.value.hint)


def test_every_row_can_be_loaded_and_found_by_its_name() -> None:
    for format_ in FORMATS:
        assert callable(format_.load().open_image)
        assert named(format_.name) is format_
    assert FORMATS[-1] is RAW


def test_formats_are_told_by_content(tmp_path: Path) -> None:
    for format_ in FORMATS:
        for offset, magic in format_.magics:
            path = tmp_path / "disk.wrong-name"
            content = bytearray(8192)
            content[offset if offset >= 0 else 8192 + offset :][: len(magic)] = magic
            start = offset if offset >= 0 else 8192 + offset
            content[start : start + len(magic)] = magic
            path.write_bytes(content)
            file = HostFile.open(str(path))
            assert detect(file) is format_, (format_.name, magic)
            file.close()


def test_magics_at_the_end_of_short_files() -> None:
    format_ = Format("x", "x", ((-512, b"cone"), (4000, b"deep")))
    assert format_.matches(b"", b"cone" + bytes(508))
    assert not format_.matches(b"cone", b"cone")
    assert not format_.matches(b"", b"")


def test_a_read_error_while_detecting_is_raised_not_taken_for_raw(raw: Path) -> None:
    with pytest.raises(ReadFailed):
        detect(Fault(HostFile.open(str(raw)), bad=[(100, 10)]))


class Parents:
    """A format for tests: its files name their parent in their first line."""

    def open_image(self, file: FileBlocks, chain: Chain) -> Image:
        name = Path(file.path).read_text().splitlines()[1]
        if name == "broken":
            raise Corrupt("is broken", offset=3)
        if name == "crash":
            raise RuntimeError("a defect")
        links = () if name == "-" else chain.open_parent(name, file, formats=("linked",)).chain
        return Image(file.path, "linked", file, (Link(file.path, "linked"), *links))


class LinkedFormat(Format):
    def load(self) -> Parents:
        return Parents()


@pytest.fixture
def linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(formats, "FORMATS", (LinkedFormat("linked", "", ((0, b"LINKED"),)), *FORMATS))

    def make(name: str, parent: str) -> Path:
        (tmp_path / name).write_text(f"LINKED\n{parent}\n")
        return tmp_path / name

    return make


def test_chain(linked) -> None:
    linked("base", "-")
    linked("middle", "base")
    image = open_image(DiskSpec(str(linked("child", "middle"))), DirectOpener())
    assert [os.path.basename(link.file) for link in image.chain] == ["child", "middle", "base"]


@pytest.mark.parametrize(
    ("parent", "kind", "reason"),
    [
        ("child", Corrupt, "chain-loop"),
        ("./child", Corrupt, "chain-loop"),
        ("alias", Corrupt, "chain-loop"),
        ("absent", NotFound, None),
        ("../outside", Denied, "outside"),
        ("raw", Unsupported, None),
        (".", Unsupported, None),
    ],
)
def test_parents_that_are_refused(parent: str, kind: type[MntapiError], reason: str | None, linked, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to("child")
    (tmp_path / "raw").write_bytes(b"x" * 512)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(kind) as caught:
        open_image(DiskSpec(str(linked("child", parent))), DirectOpener())
    assert caught.value.reason == reason and caught.value.path is not None
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_chain_that_is_too_long(linked, tmp_path: Path) -> None:
    linked("link0", "-")
    for number in range(1, MAX_LINKS + 1):
        linked(f"link{number}", f"link{number - 1}")
    assert len(open_image(DiskSpec(str(tmp_path / f"link{MAX_LINKS - 1}")), DirectOpener()).chain) == MAX_LINKS
    with pytest.raises(Corrupt) as caught:
        open_image(DiskSpec(str(tmp_path / f"link{MAX_LINKS}")), DirectOpener())
    assert caught.value.reason == "chain-too-long"


def test_errors_name_the_link_they_are_in(linked, tmp_path: Path) -> None:
    linked("base", "broken")
    with pytest.raises(Corrupt) as caught:
        open_image(DiskSpec(str(linked("child", "base"))), DirectOpener())
    assert (caught.value.path, caught.value.offset) == (str(tmp_path / "base"), 3)
    with pytest.raises(Corrupt) as caught:
        open_image(DiskSpec(str(tmp_path / "base")), DirectOpener())
    assert caught.value.path == str(tmp_path / "base")


@pytest.mark.parametrize("name", ["child", "base"])
def test_a_defect_of_ours_leaves_no_file_open(name: str, linked, tmp_path: Path) -> None:
    linked("base", "crash")
    linked("child", "base")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RuntimeError):
        open_image(DiskSpec(str(tmp_path / name)), DirectOpener())
    assert len(os.listdir("/proc/self/fd")) == before


def test_opener_keeps_to_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "vm"
    (inside / "sub").mkdir(parents=True)
    (tmp_path / "vm2").mkdir()
    (tmp_path / "vm2" / "file").write_text("outside")
    for name in ("disk", "sub/file", "name with ünicode"):
        (inside / name).write_text(name)
    (inside / "inner").symlink_to("sub/file")
    (inside / "outer").symlink_to("../vm2/file")
    disk, opener = str(inside / "disk"), DirectOpener()
    for name in ("sub/file", "name with ünicode", "inner", "./sub/../disk", str(inside / "sub/file")):
        opener.open(name, relative_to=disk).close()
    assert opener.resolve("inner", relative_to=disk) == str(inside / "sub/file")
    for name in ("../vm2/file", "outer", "/etc/passwd", str(tmp_path / "vm2/file"), "..", "sub/../../vm2/file"):
        with pytest.raises(Denied) as caught:
            opener.open(name, relative_to=disk)
        assert (caught.value.reason, caught.value.path) == ("outside", disk)
    DirectOpener(OpenOptions(allow_outside=True)).open("outer", relative_to=disk).close()


def test_opener_follows_the_link_the_user_named(tmp_path: Path) -> None:
    """Then the folder that counts is the one where the disk really is."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "disk").write_text("d")
    (tmp_path / "real" / "extent").write_text("e")
    (tmp_path / "alias").symlink_to("real/disk")
    opener = DirectOpener()
    file = opener.open(str(tmp_path / "alias"))
    assert file.path == str(tmp_path / "real" / "disk")
    opener.open("extent", relative_to=str(tmp_path / "alias")).close()
    file.close()


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_names_that_no_file_has(name: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="is not a file name"):
        DirectOpener().open(name, relative_to=str(tmp_path / "disk"))


def test_other_names_of_hostile_disks(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    (tmp_path / "self").symlink_to("self")
    os.mkfifo(tmp_path / "pipe")
    for name in ("x" * 5000, "self", "pipe", "disk/x", "\udcff", "a/" * 3000):
        with pytest.raises(MntapiError):
            DirectOpener().open(name, relative_to=str(tmp_path / "disk"))


def test_opening_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = threading.Event()

    def attempt() -> None:
        with pytest.raises(Unsupported):
            open_image(DiskSpec(str(tmp_path / "pipe")), DirectOpener())
        done.set()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    assert done.wait(10)


def test_a_file_that_is_swapped_for_a_link_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "disks").mkdir()
    (tmp_path / "disks/a.vmdk").symlink_to("../secret")
    monkeypatch.setattr(DirectOpener, "resolve", lambda self, name, *, relative_to=None: str(tmp_path / "disks/a.vmdk"))
    with pytest.raises(Denied):
        DirectOpener().open("a.vmdk", relative_to=str(tmp_path / "disks/b.vmdk"))
