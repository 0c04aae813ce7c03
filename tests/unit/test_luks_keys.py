"""Which keys and headers are tried on a LUKS volume, what a person is told meanwhile, and what is said of those in vain.

Oracle: what was encrypted by hand (``contract/luks_builder.py``).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contract.luks_builder import KEY, KIB, PASSPHRASE, metadata, volume, xts
from mntapi.blocks import HostFile, read
from mntapi.cli.keys import gather
from mntapi.crypto import keyslot
from mntapi.crypto.keyslot import Kdf
from mntapi.errors import Corrupt, Denied, MntapiError, Unsupported
from mntapi.keys import Key, KeyKind, Keys, Secret
from mntapi.session.keys import KeyFolder, check_opened, in_vain, read_key_file
from mntapi.types import VolumeState
from mntapi.volumes.luks.places import has_structure, is_noise
from mntapi.volumes.luks.unlock import Attempt
from mntapi.volumes.scan import Found, find_volumes

UUID = "4c554b53-1111-4000-8000-000000000000"
OTHER = "11111111-1111-4000-8000-000000000000"
PARTUUID = "66666666-aaaa-4bbb-8ccc-000000000004"
TEXT = b"".join((b"%08x" % number).ljust(512, b"-") for number in range(256))


def key(content: bytes = PASSPHRASE, volume: str | None = None, kind: KeyKind = KeyKind.PASSPHRASE) -> Key:
    return Key(kind, Secret(content), volume)


def scanned(path: Path, keys: Keys, image: bytes | None = None) -> Found:
    if image is not None:
        path.write_bytes(image)
    return find_volumes([HostFile.open(str(path))], keys=keys)


def tried(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What each derivation from now on is asked for."""
    asked: list[bytes] = []
    derive = Kdf.derive
    monkeypatch.setattr(Kdf, "derive", lambda self, text, length: asked.append(bytes(text)) or derive(self, text, length))
    return asked


@pytest.mark.parametrize(
    ("content", "passphrases"),
    [
        (b"typed", [b"typed"]),
        (b"typed\n", [b"typed", b"typed\n"]),
        (b"typed\r\n", [b"typed", b"typed\r\n"]),
        (b"\xef\xbb\xbfp\xc3\xa4ss", [b"p\xc3\xa4ss", b"\xef\xbb\xbfp\xc3\xa4ss"]),
        (b"\xef\xbb\xbftyped\r\n", [b"typed", b"\xef\xbb\xbftyped\r\n"]),
        (b"\n", [b"", b"\n"]),
        (b"two\nlines\n", [b"two\nlines\n"]),
        (b"\0\x01binary\n", [b"\0\x01binary\n"]),
        (b"\x7f\n", [b"\x7f\n"]),
        (b"x" * 513 + b"\n", [b"x" * 513 + b"\n"]),
    ],
)
def test_what_a_key_file_stands_for(
    content: bytes, passphrases: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of text without its newline first; all else as it is. However many it stands for, it is one key."""
    asked = tried(monkeypatch)
    (locked,) = scanned(tmp_path / "disk", Keys((key(content),)), volume(metadata())).volumes
    assert asked == passphrases
    assert locked.reason is not None and locked.reason.startswith("luks2: wrong key (1 tried); ")


@pytest.mark.parametrize("name", [None, "disk0", "disk:disk", UUID.upper(), f"luks:{UUID}", "luks-4c554b53"])
def test_a_wrong_key_is_told_by_whatever_name(name: str | None, tmp_path: Path) -> None:
    keys = Keys((key(b"wrong", name), key(b"another", name)))
    (locked,) = scanned(tmp_path / "disk", keys, volume(metadata())).volumes
    keys.wipe()
    with pytest.raises(Denied, match=r"disk0 stays locked: luks2: wrong key \(2 tried\)") as caught:
        check_opened(keys, [locked])
    assert caught.value.reason == "key" and list(in_vain(keys)) == []


def test_a_key_for_any_volume_must_open_one(tmp_path: Path) -> None:
    """It need not open all; what was given for another volume is told."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(volume(metadata(), xts(KEY, TEXT, 0)))
    fields = metadata()
    fields["keyslots"]["0"]["kdf"]["iterations"] = 11  # nothing opens it
    second.write_bytes(volume(fields, uuid=OTHER.encode()))
    keys = Keys((key(), key(b"of nothing", "disk7")))
    found = find_volumes([HostFile.open(str(first)), HostFile.open(str(second))], keys=keys)
    assert [one.state for one in found.volumes] == [VolumeState.ENCRYPTED, VolumeState.OK]
    check_opened(keys, found.volumes)
    assert list(in_vain(keys)) == ["--key disk7: no volume has that name, id or UUID, or it needs no key"]
    assert keys.has_for("disk7") and not keys.has_for("disk1", None)
    only = Keys((key(),))
    found = scanned(second, only)
    with pytest.raises(Denied, match="disk0 stays locked"):
        check_opened(only, found.volumes)
    check_opened(Keys(), found.volumes)


def spoilt(edit: Callable[[dict[str, Any]], object]) -> bytes:
    fields = metadata()
    edit(fields)
    return volume(fields)


@pytest.mark.parametrize(
    ("edit", "kind", "text"),
    [
        (lambda fields: fields["segments"]["0"].update(encryption="aes-xts-benbi"), Unsupported, "cipher that is not read"),
        (lambda fields: fields["segments"]["0"].update(sector_size=3), Corrupt, "sector_size is not possible"),
        (lambda fields: fields["keyslots"]["0"]["af"].update(stripes=1 << 31), Corrupt, "stripes is not possible"),
        (lambda fields: fields.update(segments={}), Corrupt, "names no segment"),
        (lambda fields: fields["config"].update(requirements={"mandatory": ["new"]}), Unsupported, "requires new"),
    ],
)
def test_a_key_for_what_cannot_be_unlocked(
    edit: Callable[[dict[str, Any]], object], kind: type[MntapiError], text: str, tmp_path: Path
) -> None:
    keys = Keys((key(volume="disk0"),))
    found = scanned(tmp_path / "disk", keys, spoilt(edit))
    with pytest.raises(kind, match=f"disk0 stays locked: luks.*{text}"):
        check_opened(keys, found.volumes)
    assert list(in_vain(keys)) == []
    check_opened(Keys((key(),)), found.volumes)  # nobody said that it fits this one


def test_a_volume_inside_that_is_damaged_is_no_wrong_key(tmp_path: Path) -> None:
    keys = Keys((key(volume="luks-4c554b53"),))
    found = scanned(tmp_path / "disk", keys, volume(metadata(), xts(KEY, TEXT, 0)))
    (inside,) = found.volumes
    check_opened(keys, [replace(inside, state=VolumeState.DAMAGED, reason="a sector cannot be read")])


def test_work_that_takes_a_while_is_announced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str]] = []
    keys = Keys((key(b"wrong\n"), key()), wait=lambda *words: told.append(words))
    scanned(tmp_path / "disk", keys, volume(metadata()))
    assert told == []
    monkeypatch.setattr(keyslot, "_SLOW_ITERATIONS", 10)
    scanned(tmp_path / "disk", keys)
    assert told == [("disk0", "trying a key takes a while (slot 0: pbkdf2-sha256 x 10)")]
    assert Kdf("argon2id", b"", 4, memory=1 << 20).is_slow and not Kdf("argon2id", b"", 4, memory=1 << 18).is_slow


def detached() -> tuple[bytes, bytes]:
    """A header that was taken away from its volume, and the volume."""
    fields = metadata()
    fields["segments"]["0"]["offset"] = "0"
    return volume(fields), xts(KEY, TEXT, 0)


@pytest.fixture
def header(tmp_path: Path) -> Path:
    path = tmp_path / "header.img"
    path.write_bytes(detached()[0])
    return path


@pytest.mark.parametrize("name", [None, UUID.upper(), f"luks:{UUID}", "luks-4c554b53", PARTUUID, f"gpt:{PARTUUID}", "disk0p1"])
def test_a_header_by_whatever_name(name: str | None, header: Path, tmp_path: Path) -> None:
    """On a disk with a plain partition, an empty one, one of other noise, and its own."""
    from unit.test_scan import partitioned

    noise = xts(bytes(range(64, 128)), TEXT, 0)
    script = f"label: gpt\nstart=64, size=256, uuid={PARTUUID}\nstart=320, size=256\nstart=576, size=256\nstart=832, size=256"
    contents = {64 * 512: detached()[1], 320 * 512: noise, 576 * 512: TEXT}
    partitioned(tmp_path / "disk", script, contents)
    keys = Keys((key(), read_key_file(str(header), KeyKind.HEADER, name)))
    found = scanned(tmp_path / "disk", keys)
    (inside,) = [one for one in found.volumes if one.kind == "luks"]
    assert inside.members == (f"gpt:{PARTUUID}",) and read(inside.blocks, 0, len(TEXT)) == TEXT
    others = {one.name: (one.state, one.reason) for one in found.volumes if one is not inside}
    assert [others[name] for name in ("disk0p3", "disk0p4")] == [(VolumeState.OK, None)] * 2
    is_roaming = name is None or name.lower() in (UUID, f"luks:{UUID}", "luks-4c554b53")
    assert others["disk0p2"][0] is (VolumeState.ENCRYPTED if is_roaming else VolumeState.OK)
    assert ("does not fit: by it, all is noise" in (others["disk0p2"][1] or "")) is is_roaming
    check_opened(keys, found.volumes)


def test_a_header_that_is_named_is_taken_at_its_word(header: Path, tmp_path: Path) -> None:
    """Of a volume in which nothing was written yet."""
    keys = Keys((key(), read_key_file(str(header), KeyKind.HEADER, "disk0")))
    (inside,) = scanned(tmp_path / "disk", keys, bytes(128 * KIB)).volumes
    assert inside.kind == "luks"


@pytest.mark.parametrize(("name", "opens"), [(UUID, True), ("any", True), ("ANY", True), ("disk0", True), (OTHER, False)])
def test_a_header_in_the_folder_of_keys(name: str, opens: bool, header: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    header.rename(tmp_path / "keys" / f"{name}.header")
    (tmp_path / "keys" / "any.key").write_bytes(PASSPHRASE)
    keys = Keys(find=KeyFolder(str(tmp_path / "keys")).find)
    (found,) = scanned(tmp_path / "disk", keys, detached()[1]).volumes
    assert (found.kind == "luks") is opens


def test_files_in_that_folder_that_are_no_headers(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "disk0.header").write_bytes(b"hunter2")
    (tmp_path / "keys" / "gone.header").symlink_to("nowhere")
    keys = Keys(find=KeyFolder(str(tmp_path / "keys")).find)
    (found,) = scanned(tmp_path / "disk", keys, detached()[1]).volumes
    assert found.state is VolumeState.DAMAGED and "disk0.header: is no LUKS header" in (found.reason or "")


def test_a_header_that_nothing_could_have(header: Path, tmp_path: Path) -> None:
    keys = Keys((read_key_file(str(header), KeyKind.HEADER, None), read_key_file(str(header), KeyKind.HEADER, "disk7")))
    assert scanned(tmp_path / "disk", keys, TEXT).volumes[0].kind == "disk"
    assert [line.partition(":")[0] for line in in_vain(keys)] == [
        "no volume looks as if this LUKS header could be its own; if one is, name it",
        "--key disk7",
    ]


def test_noise() -> None:
    noise = xts(KEY, TEXT, 0)[:4096]
    assert is_noise(noise) and is_noise(bytes(512) + noise[512:]) and not has_structure(noise)
    for other in (
        b"",
        bytes(4096),
        TEXT[:4096],
        TEXT[:512] + noise[512:],
        noise[:3584] + TEXT[:512],
        noise[:510] + b"\x55\xaa",
    ):
        assert not is_noise(other)
    assert has_structure(noise + bytes(512)) and len(zlib.compress(noise[:512])) > 512


def test_a_person_who_answers_with_the_end_of_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or with nothing: the volume stays locked, and what follows begins on a line of its own."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    keys = gather((), "ls")
    answers = [EOFError(), "", "typed"]

    def answer(_prompt: str) -> str:
        said = answers.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    monkeypatch.setattr("getpass.getpass", answer)
    assert [len(list(keys.asked("disk0", "a key"))) for _ in range(3)] == [0, 0, 1]
    keys.announce("disk0", "takes a while")
    said = "disk0: a key\n"
    assert capsys.readouterr().err == f"{said}\n{said}{said}disk0: takes a while\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert gather((), "ls").wait is None and gather((), "ls").ask is None


def test_a_passphrase_that_was_wiped_is_not_tried() -> None:
    gone = key(b"gone")
    gone.secret.wipe()
    attempt = Attempt(None, None, 0, print)  # type: ignore[arg-type]
    assert attempt.master_key([gone]) is None and attempt.wrong == 0
