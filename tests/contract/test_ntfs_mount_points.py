"""The index of reparse points: those that ntfs-3g made, however deep; and a Windows with volumes mounted there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import mntapi
from contract.hive_builder import build_hive
from contract.mounting import mounted_ntfs, need, need_root, run
from contract.windows_builder import guid_device, sam_tree, software_tree, system_tree
from contract.windows_disks import C_DRIVE, DATA, TWO_PARTITIONS, disk, link
from mntapi.blocks import Fault, HostFile
from mntapi.errors import Corrupt, MntapiError, NotFound, Unsupported
from mntapi.filesystems.ntfs import filesystem as ntfs
from mntapi.filesystems.ntfs.filesystem import NtfsFileSystem, open_filesystem
from mntapi.types import FileKind, Signature, Usage
from mntapi.units import MIB

pytestmark = pytest.mark.root
NTFS = Signature("ntfs", Usage.FILESYSTEM)
VOLUME = f"\\??\\Volume{{{DATA}}}\\"
DEEP = "srv/data/a b/ä/mount"
JUNCTIONS = {f"junctions/link {number:03}": f"\\??\\C:\\folder {number}" for number in range(300)}
LINKS = {DEEP: VOLUME, "Data": VOLUME, "Users/ann/Documents": "\\??\\D:\\ann", "$RECYCLE.BIN/x": VOLUME, **JUNCTIONS}


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Windows, on a volume with so many links that their index has blocks."""
    need_root()
    need("mkntfs", "ntfs-3g", "sfdisk", "dd")
    path = tmp_path_factory.mktemp("points") / "c"
    path.write_bytes(b"")
    run("truncate", "-s", "64M", path)
    run("mkntfs", "-qFQ", path)
    system = system_tree({"C": guid_device(C_DRIVE)})
    with mounted_ntfs(path, "rw") as top:
        config = top / "Windows/System32/config"
        config.mkdir(parents=True)
        for name, tree in {"SYSTEM": system, "SOFTWARE": software_tree(), "SAM": sam_tree()}.items():
            (config / name).write_bytes(build_hive(tree))
        for name, target in LINKS.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            link(top / name, target)
        link(top / "removed", VOLUME)
        (top / "removed").rmdir()
        (top / "symbolic").symlink_to("Data")
    return path


@contextmanager
def opened(path: Path, *bad: tuple[int, int]) -> Iterator[NtfsFileSystem]:
    with closing(HostFile.open(str(path))) as file:
        yield open_filesystem(Fault(file, bad=bad), NTFS)


def test_every_folder_that_stands_for_another(volume: Path) -> None:
    with opened(volume) as fs:
        found = dict(fs.mount_points())
        assert set(found) == set(LINKS)
        assert {node.kind for node in found.values()} == {FileKind.SYMLINK}
        node = fs.root
        for name in DEEP.split("/"):
            node = fs.lookup(node, name)
        assert found[DEEP] == node
        assert fs.readlink(node).strip("/?") == f"Volume{{{DATA}}}"


def test_volumes_are_found_however_deep_they_are_mounted(volume: Path, tmp_path: Path) -> None:
    second = tmp_path / "data"
    second.write_bytes(b"")
    run("truncate", "-s", "8M", second)
    run("mkntfs", "-qFQ", second)
    path = disk(tmp_path / "disk", TWO_PARTITIONS, [(volume, MIB), (second, 65 * MIB)])
    with mntapi.open_disks(str(path)) as disk_set:
        (guest,) = disk_set.guests
        assert {mount.path: mount.volume for mount in guest.mounts} == {
            "C:\\": f"gpt:{C_DRIVE}",
            "C:\\Data": f"gpt:{DATA}",
            "C:\\srv\\data\\a b\\ä\\mount": f"gpt:{DATA}",
        }
        assert guest.reasons == ()


def test_without_the_index_folders_are_looked_through(volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = disk(tmp_path / "disk", TWO_PARTITIONS, [(volume, MIB)])
    for name, value, reason in (("REPARSE_INDEX", "$X", ["an index root"]), ("EXTEND", 5, [])):
        monkeypatch.setattr(ntfs, name, value)
        with mntapi.open_disks(str(path)) as disk_set:
            (guest,) = disk_set.guests
            assert {mount.path for mount in guest.mounts} == {"C:\\", "C:\\Data"}
            assert [one for one in guest.reasons if "$Reparse" not in one] == []
            assert all(any(what in one for one in guest.reasons) for what in reason)
        monkeypatch.undo()


def test_errors(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(volume) as fs:
        for name, value, error, what in (
            ("MAX_POINTS", 100, Unsupported, "too many reparse points"),
            ("MAX_DEPTH", 2, Corrupt, "is too deep"),
            ("EXTEND", 5, NotFound, "Reparse"),
        ):
            monkeypatch.setattr(ntfs, name, value)
            with pytest.raises(error, match=what):
                list(fs.mount_points())
            monkeypatch.undo()
        monkeypatch.setattr(ntfs.index, "is_link", lambda value: False)
        with pytest.raises(Corrupt, match="is in no folder"):
            list(fs.mount_points())


def test_damage_is_an_error_and_no_hang(volume: Path) -> None:
    """A bad sector at the start of any block of the index is told, and the others' entries come first."""
    raw = volume.read_bytes()
    blocks = [at for at in range(0, len(raw), 4096) if raw[at : at + 4] == b"INDX"]
    told = 0
    with opened(volume) as whole:
        wanted = {path for path, _ in whole.mount_points()}
    for at in blocks:
        with opened(volume, (at, 512)) as fs:
            found = []
            try:
                found += [path for path, _ in fs.mount_points()]
            except MntapiError:
                told += 1
            assert set(found) in (set(), wanted)
    assert told >= 2
