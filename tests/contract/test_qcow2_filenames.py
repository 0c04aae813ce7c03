"""Names of backing files as QEMU writes them. Oracle: qemu-img, which follows them from the folder they are in."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from mntapi.blocks import read
from mntapi.errors import Corrupt, Denied, MntapiError, Unsupported
from mntapi.images.formats import open_image
from mntapi.images.opener import DirectOpener
from mntapi.images.qcow2.filenames import FileName, parse_file_name
from mntapi.types import DiskSpec, OpenOptions

needs_qemu = pytest.mark.skipif(
    not (shutil.which("qemu-img") and shutil.which("qemu-io")), reason="needs qemu-img and qemu-io (qemu-utils)"
)
SIZE = 1 << 20
SECRET = "correct horse"


def run(folder: Path, *command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True, cwd=folder)


def content_of(path: Path, **options: object) -> bytes:
    opened = OpenOptions(**options)  # type: ignore[arg-type]
    image = open_image(DiskSpec(str(path)), DirectOpener(opened), opened)
    try:
        return read(image.blocks, 0, image.blocks.size)
    finally:
        image.blocks.close()


def bases(folder: Path) -> None:
    for kind, pattern in (("qcow2", 65), ("raw", 66)):
        run(folder, "qemu-img", "create", "-q", "-f", kind, f"base.{kind}", SIZE)
        run(folder, "qemu-io", "-f", kind, "-c", f"write -P {pattern} 64k 64k", f"base.{kind}")


QCOW2 = {"driver": "qcow2", "file": {"driver": "file", "filename": "base.qcow2"}}
NAMES = [
    ("file:base.qcow2", "qcow2"),
    (QCOW2, "qcow2"),
    ({"driver": "qcow2", "file.driver": "file", "file.filename": "base.qcow2"}, "qcow2"),
    ({"file.filename": "base.qcow2"}, "qcow2"),
    ({"driver": "raw", "file.filename": "base.qcow2"}, "qcow2"),
    ({"driver": "qcow2", "file.filename": "base.raw"}, "raw"),
    ({"driver": "raw", "file": {"driver": "file", "filename": "base.raw"}}, "raw"),
    ({**QCOW2, "node-name": "x", "read-only": True, "cache": {"direct": False}, "l2-cache-size": 65536}, "qcow2"),
]


def spelt(name: object) -> str:
    return name if isinstance(name, str) else "json:" + json.dumps(name)


@needs_qemu
@pytest.mark.parametrize(("name", "format_"), NAMES)
def test_names_of_local_files(name: object, format_: str, tmp_path: Path) -> None:
    bases(tmp_path)
    run(tmp_path, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", format_, "-b", spelt(name), "top.qcow2", SIZE)
    run(tmp_path, "qemu-img", "convert", "-O", "raw", "top.qcow2", "oracle")
    oracle = (tmp_path / "oracle").read_bytes()
    assert set(oracle) == {0, 65 if format_ == "qcow2" else 66}
    assert content_of(tmp_path / "top.qcow2") == oracle


@needs_qemu
@pytest.mark.parametrize("name", [{"driver": "raw", "file.filename": "base.raw"}, QCOW2])
def test_the_format_in_the_name_counts_where_the_header_has_none(name: object, tmp_path: Path) -> None:
    """As in images from before formats were required; a raw one is not looked into."""
    bases(tmp_path)
    format_ = "raw" if "raw" in spelt(name) else "qcow2"
    run(tmp_path, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", format_, "-b", spelt(name), "top.qcow2", SIZE)
    raw = (tmp_path / "top.qcow2").read_bytes()
    at = raw.index(bytes.fromhex("e2792aca"))  # the extension becomes one that may be passed over
    (tmp_path / "top.qcow2").write_bytes(raw[:at] + bytes.fromhex("12345678") + raw[at + 4 :])
    if format_ == "raw":
        with (tmp_path / "base.raw").open("r+b") as file:
            file.write(b"QFI\xfb")
    run(tmp_path, "qemu-img", "convert", "-O", "raw", "top.qcow2", "oracle")
    assert content_of(tmp_path / "top.qcow2") == (tmp_path / "oracle").read_bytes()


@needs_qemu
def test_such_names_keep_the_rules_of_plain_ones(tmp_path: Path) -> None:
    bases(tmp_path)
    (tmp_path / "in").mkdir()
    outside = json.dumps({"driver": "raw", "file": {"driver": "file", "filename": str(tmp_path / "base.raw")}})
    top = tmp_path / "in" / "top.qcow2"
    run(tmp_path, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", f"json:{outside}", top, SIZE)
    with pytest.raises(Denied):
        content_of(top)
    assert content_of(top, allow_outside=True) == (tmp_path / "base.raw").read_bytes()
    loop = json.dumps({"driver": "qcow2", "file.filename": "top.qcow2"})
    run(tmp_path, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", f"json:{loop}", top, SIZE)
    with pytest.raises(Corrupt, match="loops"):
        content_of(top)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("raw:base.raw", "'raw' protocol"),
        ("rbd:pool/disk", "'rbd' protocol"),
        ('json:{"driver":"qcow2","file":{"driver":"nbd","host":"h"}}', "file.host"),
        ('json:{"driver":"qcow2","file":{"driver":"nbd","filename":"h"}}', "'nbd' driver"),
        ('json:{"driver":"raw","offset":512,"file.filename":"a"}', "offset"),
        ('json:{"driver":"qcow2","backing":{"driver":"raw","file.filename":"x"},"file.filename":"a"}', "backing.driver"),
        ('json:{"driver":"luks","key-secret":"s","file.filename":"a"}', "key-secret"),
        ('json:{"driver":"null-co"}', "'null-co' driver"),
        ('json:{"driver":"file","filename":"a"}', "filename"),
        ('json:{"driver":"qcow2","file":"node0"}', "found file"),
        ('json:{"driver":7,"file.filename":"a"}', "7 driver"),
        ('json:{"driver":"qcow2","file.filename":7}', "'qcow2' driver"),
    ],
)
def test_names_that_are_no_local_files(name: str, what: str) -> None:
    with pytest.raises(Unsupported) as caught:
        parse_file_name(name)
    assert what in str(caught.value) and caught.value.hint and caught.value.reason in ("backing-protocol", "backing-options")


@pytest.mark.parametrize("name", ["json:", "json:{", "json:[]", "json:7", "json:" + '{"a":' * 300, "json:" + "[" * 1000])
def test_options_that_cannot_be_read(name: str) -> None:
    with pytest.raises(Corrupt) as caught:
        parse_file_name(name)
    assert caught.value.reason == "backing-options"


@pytest.mark.parametrize("depth", [10, 300])
def test_options_nested_deeply(depth: int) -> None:
    with pytest.raises(MntapiError):
        parse_file_name("json:" + '{"a":' * depth + "1" + "}" * depth)


def test_a_path_is_never_taken_for_a_url() -> None:
    """Nor a URL for a path."""
    assert parse_file_name("file:nbd://host/x") == FileName("./nbd://host/x")
    assert parse_file_name('json:{"file.driver":"file","file.filename":"nbd://host/x"}') == FileName("./nbd://host/x")
    assert parse_file_name("nbd://host/x") == FileName("nbd://host/x")
    assert parse_file_name("./a:b") == FileName("./a:b")


@needs_qemu
def test_an_encrypted_backing_file_is_opened_with_the_same_passphrases(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    secret = ("--object", f"secret,id=s,data={SECRET}")
    words = "encrypt.format=aes,encrypt.key-secret=s"
    run(tmp_path, "qemu-img", "create", "-q", "-f", "qcow2", *secret, "-o", words, "base.qcow2", SIZE)
    spec = "driver=qcow2,encrypt.key-secret=s,file.filename=base.qcow2"
    run(tmp_path, "qemu-io", *secret, "-c", "write -P 67 64k 64k", "--image-opts", spec)
    run(tmp_path, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", "top.qcow2", SIZE)
    with pytest.raises(Unsupported) as caught:
        content_of(tmp_path / "top.qcow2")
    assert caught.value.reason == "encrypted" and caught.value.path == str(tmp_path / "base.qcow2")
    oracle = bytes(64 << 10) + b"C" * (64 << 10) + bytes(SIZE - (128 << 10))
    assert content_of(tmp_path / "top.qcow2", passphrases=(SECRET,)) == oracle


@needs_qemu
def test_a_snapshot_is_one_of_the_top_file(tmp_path: Path) -> None:
    """The backing file's own snapshot of that name is not meant: the top file builds on its current state."""
    bases(tmp_path)
    run(tmp_path, "qemu-img", "snapshot", "-c", "before", "base.qcow2")
    run(tmp_path, "qemu-io", "-f", "qcow2", "-c", "write -P 70 64k 64k", "base.qcow2")
    run(tmp_path, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", "top.qcow2", SIZE)
    with pytest.raises(MntapiError, match="before"):
        open_image(DiskSpec(str(tmp_path / "top.qcow2"), snapshot="before"), DirectOpener())
    run(tmp_path, "qemu-img", "snapshot", "-c", "before", "top.qcow2")
    image = open_image(DiskSpec(str(tmp_path / "top.qcow2"), snapshot="before"), DirectOpener())
    assert read(image.blocks, 64 << 10, 10) == b"F" * 10
    image.blocks.close()
