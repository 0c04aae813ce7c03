"""fstab, crypttab and mount units against findmnt and systemd's own generator; and what becomes of their entries."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from contract.guest_volumes import candidate, with_state
from contract.memory_filesystem import MemoryFileSystem
from mntapi.guests.files import GuestFiles
from mntapi.guests.linux import fstab, units
from mntapi.guests.linux.devices import Devices
from mntapi.guests.linux.fstab import CryptName, Mounting, parse_crypttab, parse_fstab, split_options, unescape
from mntapi.guests.linux.mounts import by_place, mount_point, mount_points, normal, subvolume_of
from mntapi.guests.linux.units import find_units, parse_unit, path_of
from mntapi.guests.types import MountKind, MountPoint
from mntapi.types import VolumeState

FSTAB = """\
# a comment
  # another
UUID=1 /a\\040b ext4 defaults,x=\\054y 0 1
/dev/sda2 /three ext4
/dev/sda3\t/four xfs rw 1 2 # what follows is left out
LABEL=my\\040disk /q2 ext4 rw
/dev/sda5 /oct\\999\\1\\12 ext4 rw
\t tab /lead ext4 rw
/dev/sda7 none swap sw
UUID=ABCD-1234 ../rel/../x/ vfat rw
/dev/sda8 /hash\\043 ext4 rw,context="system_u:object_r:x:s0:c1,c2",noatime
/dev/sda9 /nl\\012x ext4 rw
/dev/sda10 /cr ext4 rw\r
caf\u00e9 /caf\\303\\251 ext4 rw

"""


def test_fstab_is_read_as_libmount_reads_it(tmp_path: Path) -> None:
    if shutil.which("findmnt") is None:
        pytest.skip("needs findmnt")
    path = tmp_path / "fstab"
    path.write_bytes(FSTAB.encode())
    done = subprocess.run(
        ["findmnt", "--tab-file", path, "--list", "-J", "-o", "SOURCE,TARGET,FSTYPE,OPTIONS"],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    )
    told = json.loads(done.stdout)["filesystems"]
    found = parse_fstab(FSTAB).entries
    assert [(one.source, one.target, one.type) for one in found] == [
        (one["source"], one["target"], one["fstype"]) for one in told
    ]
    assert [",".join(one.options) for one in found if one.target != "/a b"] == [
        one["options"] or "" for one in told if one["target"] != "/a b"
    ]


def test_lines_without_a_type_are_reasons() -> None:
    table = parse_fstab("one\n/dev/sda1 /two\n/dev/sda2 /x ext4 rw a b\n/dev/sda3 /y ext4 rw # comment\n")
    assert [one.target for one in table.entries] == ["/x", "/y"]
    assert table.reasons == ("/etc/fstab, line 1: has no type of file system", "/etc/fstab, line 2: has no type of file system")


def test_a_table_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fstab, "MAX_LINES", 3)
    table = parse_fstab("".join(f"UUID={number} /{number} ext4\n" for number in range(9)))
    assert len(table.entries) == 3
    assert table.reasons == ("/etc/fstab, line 4: more than 3 entries; the rest is not looked at",)
    assert len(parse_crypttab("a b\n" * 9)) == 3


def test_escapes_stand_for_bytes() -> None:
    assert unescape("a\\011b\\134\\777") == "a\tb\\\udcff"
    assert unescape("\\303\\251\\377") == "é\udcff"


def test_commas_in_quotes_separate_nothing() -> None:
    assert split_options('a,,b="c,d",e="f') == ("a", 'b="c,d"', 'e="f')


def test_crypttab() -> None:
    told = parse_crypttab("# x\nroot UUID=1 none luks\nonly\ndata\\040x /dev/sdb1\n")
    assert told == (CryptName("root", "UUID=1"), CryptName("data x", "/dev/sdb1"))


def test_option_values() -> None:
    entry = Mounting("x", "/x", "btrfs", ("subvol=@a", "rw", "subvol=@b"), "")
    assert (entry.option("subvol"), entry.option("rw"), entry.is_bind) == ("@b", None, False)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [("/a//b/./c/", "/a/b/c"), ("/../../x", "/x"), ("../rel/../x/", "/x"), ("/", "/"), ("", "/"), ("/a/../..", "/")],
)
def test_paths_never_lead_above_the_root(path: str, wanted: str) -> None:
    assert normal(path) == wanted


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("subvol=@home",), "@home"),
        (("subvol=/@/.snapshots/1/snapshot",), "@/.snapshots/1/snapshot"),
        (("subvol=/",), "/"),
        (("subvolid=256",), "id:256"),
        (("subvolid=256", "subvol=../../@"), "@"),
        (("subvolid=x",), None),
        (("rw",), None),
    ],
)
def test_subvolumes(options: tuple[str, ...], wanted: str | None) -> None:
    assert subvolume_of(options) == wanted


ROOT = candidate({}, "mbr:aa-01", uuid="root")
DATA = candidate({}, "mbr:aa-02", uuid="data")
XFS = candidate(None, "mbr:aa-03", uuid="xfs", fs_kind="xfs")
LOCKED = with_state(candidate(None, "mbr:aa-05", uuid="lo", fs_kind="crypto_LUKS"), VolumeState.ENCRYPTED, "wants a passphrase")
SET = Devices([ROOT, DATA, XFS, LOCKED], ROOT)


def one(line: str) -> MountPoint:
    return mount_point(parse_fstab(line).entries[0], SET)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("UUID=data /d ext4 defaults", MountKind.VOLUME),
        ("/srv /b none bind", MountKind.BIND),
        ("/srv /b none rw,rbind", MountKind.BIND),
        ("nas:/x /n nfs4", MountKind.NETWORK),
        ("//nas/x /n cifs", MountKind.NETWORK),
        ("sshfs#u@h:/ /n fuse", MountKind.NETWORK),
        ("proc /proc proc", MountKind.VIRTUAL),
        ("tmpfs /tmp tmpfs", MountKind.VIRTUAL),
        ("overlay /o overlay lowerdir=/a", MountKind.VIRTUAL),
        ("mergerfs#/a /o fuse.mergerfs", MountKind.VIRTUAL),
        ("UUID=none /m ext4", MountKind.MISSING),
        ("/images/a.img /i ext4 loop", MountKind.MISSING),
        ("tank/home /z zfs", MountKind.MISSING),
        ("UUID=lo /l auto", MountKind.MISSING),
    ],
)
def test_kinds_of_mount_points(line: str, kind: MountKind) -> None:
    found = one(line)
    assert found.kind is kind
    assert (found.volume is not None) == (kind is MountKind.VOLUME)
    assert found.reason is not None or kind in (MountKind.VOLUME, MountKind.BIND)


def test_what_is_doubtful_is_said() -> None:
    assert one("UUID=data /d ext4 noauto").reason == "noauto: not mounted at start"
    assert one("UUID=xfs /x xfs").reason == "no reader for xfs in this version"
    assert one("UUID=lo /l ext4").reason == "disk0p5 is locked: wants a passphrase"
    assert one("UUID=data /d ext4 X-mount.subdir=../a").folder == "/a"
    assert one("/srv/../x /b none bind").folder == "/x"


def test_entries_that_cannot_be_mounted_are_reasons() -> None:
    lines = "UUID=data / ext4\nUUID=data /a ext4\nUUID=xfs /a/ xfs\nUUID=data rel ext4\nUUID=data /n\\000 ext4\nx none swap\n"
    reasons: list[str] = []
    found = mount_points(parse_fstab(lines).entries, SET, reasons)
    assert [(mount.path, mount.volume) for mount in found] == [("/a", "mbr:aa-02")]
    assert reasons == [
        "/etc/fstab, line 3: /a is mounted already, from UUID=data",
        "/etc/fstab, line 4: 'rel' is no place for a mount",
        "/etc/fstab, line 5: '/n\\x00' is no place for a mount",
    ]


def test_each_comes_after_what_it_lies_in() -> None:
    paths = ["/var/log", "/var-x", "/", "/var", "/a"]
    sorted_paths = [mount.path for mount in by_place(MountPoint(path, MountKind.VIRTUAL, "") for path in paths)]
    assert sorted_paths == ["/", "/a", "/var", "/var/log", "/var-x"]


UNIT = b"""\
[Unit]
Description=Data
What=/wrong

[Mount]
# a comment
; What=/wrong too
What="/dev/disk/by-uuid/data"
Where=/srv/my-data
Type=ext4
Options=noatime,\\
nofail,x=100%%

[Install]
WantedBy=multi-user.target
"""


def test_mount_units() -> None:
    found = parse_unit(UNIT.decode(), "here")
    assert found == Mounting("/dev/disk/by-uuid/data", "/srv/my-data", "ext4", ("noatime", "nofail", "x=100%"), "here")
    assert parse_unit("[Mount]\nWhat=x\nWhere=relative\n", "") is None
    assert parse_unit("[Mount]\nWhere=/x\n", "") is None


@pytest.mark.parametrize("path", ["/", "/srv", "/srv/my-data", "/a b/c_d", "/caf\u00e9", "/.hidden/x"])
def test_unit_names_stand_for_paths(path: str) -> None:
    if shutil.which("systemd-escape") is None:
        pytest.skip("needs systemd-escape")
    name = subprocess.run(["systemd-escape", "--path", path], capture_output=True, check=True, text=True).stdout.strip()
    assert path_of(name) == path


def test_units_that_are_wanted_and_masked() -> None:
    files = GuestFiles(
        MemoryFileSystem(
            {
                "etc": {
                    "systemd": {
                        "system": {
                            "srv-my\\x2ddata.mount": UNIT,
                            "idle.mount": b"[Mount]\nWhat=/dev/sdz\nWhere=/idle\n",
                            "home.mount": "/dev/null",
                            "multi-user.target.wants": {
                                "srv-my\\x2ddata.mount": "../srv-my\\x2ddata.mount",
                                "home.mount": b"",
                                "ssh.service": "x",
                            },
                        }
                    }
                },
                "usr": {
                    "lib": {
                        "systemd": {
                            "system": {
                                "tmp.mount": b"[Mount]\nWhat=tmpfs\nWhere=/tmp\nType=tmpfs\n",
                                "local-fs.target.requires": {"tmp.automount": b"", "gone.mount": b""},
                            }
                        }
                    }
                },
            }
        )
    )
    found = find_units(files)
    assert [mounting.target for mounting in found.own] == ["/srv/my-data"]
    assert [mounting.target for mounting in found.vendor] == ["/tmp"]
    assert found.masked == {"/home"}


def test_too_many_units_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "MAX_UNITS", 2)
    wanted = {f"{name}.mount": b"" for name in "ab"}
    folder = {f"{name}.mount": f"[Mount]\nWhat=x\nWhere=/{name}\n".encode() for name in "abc"}
    tree = {"etc": {"systemd": {"system": {**folder, "x.wants": wanted, "y.wants": {"c.mount": b""}}}}}
    assert [mounting.target for mounting in find_units(GuestFiles(MemoryFileSystem(tree))).own] == ["/a", "/b"]


def test_systemd_makes_the_same_of_an_fstab(tmp_path: Path) -> None:
    """Its generator writes a unit for each line; read back, they say what we read from fstab itself."""
    generator = Path("/lib/systemd/system-generators/systemd-fstab-generator")
    if not generator.exists():
        pytest.skip("needs systemd-fstab-generator")
    table = tmp_path / "fstab"
    table.write_text(
        "/dev/sda1 /srv/a\\040b ext4 noatime,nofail 0 2\nUUID=ABCD-1234 /boot/efi vfat umask=0077 0 1\n"
        "LABEL=x\\040y /data xfs defaults 0 0\nnas:/x /nfs nfs4 _netdev 0 0\n"
        "/srv /bound none bind 0 0\n/dev/sda2 none swap sw 0 0\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    environment = {"SYSTEMD_FSTAB": str(table), "SYSTEMD_PROC_CMDLINE": "root=/dev/sda9", "PATH": "/usr/bin:/bin"}
    subprocess.run([generator, out, out, out], check=True, capture_output=True, env=environment)
    told = {}
    for unit in out.glob("*.mount"):
        mounting = parse_unit(unit.read_text(), unit.name)
        assert mounting is not None and path_of(unit.stem) == mounting.target
        told[mounting.target] = mounting
    ours = [entry for entry in parse_fstab(table.read_text()).entries if entry.type != "swap"]
    assert {entry.target for entry in ours} <= set(told)
    for entry in ours:
        assert told[entry.target].type == entry.type
        if entry.type in ("nfs4", "none") or entry.source.startswith("/dev/"):
            assert told[entry.target].source == entry.source
