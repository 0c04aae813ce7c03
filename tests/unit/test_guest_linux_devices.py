"""Which volume a guest means by a name; the names are those that udev gives."""

from __future__ import annotations

import pytest

from contract.guest_volumes import candidate, with_state
from mntapi.guests.linux.devices import Devices
from mntapi.guests.linux.fstab import CryptName
from mntapi.guests.types import Candidate
from mntapi.types import Usage, VolumeState

LUKS = "11112222-3333-4444-5555-666677778888"
ARRAY = "aaaaaaaa:bbbbbbbb:cccccccc:dddddddd"
ROOT = candidate(
    {}, "gpt:00000000-0000-4000-8000-0000000000a1", name="disk0p1", uuid="r-uuid", label="root", table_label="sys tem"
)
BOOT = candidate({}, "mbr:1234abcd-0a", name="disk1p10", disk=1, uuid="ABCD-EF01", label="BOOT")
WHOLE = candidate({}, "disk2", kind="disk", name="disk2", disk=2, uuid="w")
HOME = candidate({}, "lvm:AbCdEf-1111", kind="lvm", name="vg--x-home--data", disk=None, uuid="h")
CRYPT = candidate({}, f"luks:{LUKS}", kind="luks", name="luks-11112222", disk=None, uuid="c", members=["mbr:1234abcd-02"])
MD = candidate({}, f"md:{ARRAY}", kind="md", name="md-home", disk=None, uuid="m", details={"name": "host:home"})
MDPART = candidate({}, "mbr:99999999-01", name="md-storep1", disk=None, uuid="mp", members=["md:1:2:3:4"])
SNAPSHOT = candidate({}, "lvm:snap", kind="lvm", name="vg--x-old", disk=None, uuid="r-uuid", details={"segments": "snapshot"})
ALL = [ROOT, BOOT, WHOLE, HOME, CRYPT, MD, MDPART, SNAPSHOT]


def find(source: str, crypttab: tuple[CryptName, ...] = (), volumes: list[Candidate] = ALL, **arrays: str) -> str | None:
    named = {f"/dev/{name}": uuid for name, uuid in arrays.items()}
    match = Devices(volumes, ROOT, crypttab, named).find(source)
    assert match.candidate is not None or match.reason
    return match.candidate.volume.name if match.candidate else None


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("UUID=r-uuid", "disk0p1"),
        ('UUID="r-uuid"', "disk0p1"),
        ("UUID=abcd-ef01", "disk1p10"),
        ("UUID=", None),
        ("LABEL=BOOT", "disk1p10"),
        ("LABEL=boot", None),
        ("LABEL=", None),
        ("PARTUUID=00000000-0000-4000-8000-0000000000A1", "disk0p1"),
        ("PARTUUID=1234abcd-0a", "disk1p10"),
        ("PARTLABEL=sys tem", "disk0p1"),
        ("/dev/disk/by-uuid/r-uuid", "disk0p1"),
        ("/dev/disk/by-label/BOOT", "disk1p10"),
        ("/dev/disk/by-partlabel/sys\\x20tem", "disk0p1"),
        ("/dev/disk/by-partuuid/1234abcd-0a", "disk1p10"),
        ("/dev/mapper/vg--x-home--data", "vg--x-home--data"),
        ("/dev/vg-x/home-data", "vg--x-home--data"),
        ("/dev/vg-x/other", None),
        ("/dev/disk/by-id/dm-name-vg--x-home--data", "vg--x-home--data"),
        ("/dev/disk/by-id/dm-uuid-LVM-" + "0" * 32 + "AbCdEf1111", "vg--x-home--data"),
        ("/dev/disk/by-id/dm-uuid-CRYPT-LUKS2-" + LUKS.replace("-", "") + "-name", "luks-11112222"),
        (f"/dev/mapper/luks-{LUKS}", "luks-11112222"),
        ("/dev/mapper/unknown", None),
        ("/dev/md/home", "md-home"),
        ("/dev/md/host:home", "md-home"),
        (f"/dev/disk/by-id/md-uuid-{ARRAY}", "md-home"),
        ("/dev/disk/by-id/md-uuid-1:2:3:4-part1", "md-storep1"),
        ("/dev/disk/by-id/md-uuid-1:2:3:4-part2", None),
        ("/dev/disk/by-id/md-uuid-9:9", None),
        ("/dev/disk/by-id/md-name-host:home", "md-home"),
        ("/dev/md7", None),
        ("/dev/root", "disk0p1"),
        ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part10", "disk1p10"),
        ("/dev/disk/by-id/wwn-0x5000-part1", "disk0p1"),
        ("/dev/disk/by-id/wwn-0x5000", "disk2"),
        ("/dev/disk/by-id/wwn-0x5000-part7", None),
        ("ID=dm-name-vg--x-home--data", "vg--x-home--data"),
        ("/dev/cdrom", None),
        ("/dev/dm-3", None),
        ("LABEL=\x1b]0;x", None),
        ("/dev/" + "x/" * 500, None),
    ],
)
def test_names(source: str, name: str | None) -> None:
    assert find(source) == name


def test_arrays_by_mdadm_conf() -> None:
    assert find("/dev/md3", md3=ARRAY) == "md-home"
    assert find("/dev/md3p1", md3="00000001:00000002:00000003:00000004", volumes=[ROOT, MDPART]) is None
    assert find("/dev/md3p1", md3="1:2:3:4", volumes=[ROOT, MDPART]) == "md-storep1"
    assert find("/dev/md3p9", md3="1:2:3:4", volumes=[ROOT, MDPART]) is None


def test_the_only_array_is_taken_with_a_doubt() -> None:
    match = Devices([ROOT, MD], ROOT).find("/dev/md0")
    assert (match.candidate, match.reason) == (MD, "the only array of the set")


def test_crypttab() -> None:
    names = (
        CryptName("one", f"UUID={LUKS.upper()}"),
        CryptName("two", "PARTUUID=1234abcd-02"),
        CryptName("three", "/dev/sdb2"),
        CryptName("four", "/dev/mapper/one"),
        CryptName("gone", "UUID=00"),
        CryptName("loop", "/dev/mapper/loop"),
        CryptName("by", f"/dev/disk/by-uuid/{LUKS}"),
    )
    assert [find(f"/dev/mapper/{name}", names) for name in ("one", "two", "four", "by")] == ["luks-11112222"] * 4
    assert [find(f"/dev/mapper/{name}", names) for name in ("gone", "three")] == [None, "luks-11112222"]
    match = Devices(ALL, ROOT, names).find("/dev/mapper/three")
    assert match.reason == "three is /dev/sdb2, and this is the only encrypted volume"
    assert Devices([ROOT], ROOT, names).find("/dev/mapper/loop").candidate is None


def test_a_locked_volume_is_found_and_named() -> None:
    inside = candidate(None, "mbr:1-02", name="disk0p2", uuid=LUKS, fs_kind="crypto_LUKS", usage=Usage.CRYPTO)
    locked = with_state(inside, VolumeState.ENCRYPTED)
    devices = Devices([ROOT, locked], ROOT, (CryptName("x", f"UUID={LUKS}"), CryptName("y", "PARTUUID=1-02")))
    assert devices.find("/dev/mapper/x").candidate is locked
    assert devices.find("/dev/mapper/y").candidate is locked
    assert (
        devices.find("/dev/vg/home").reason
        == "no logical volume /dev/vg/home in the set; it may be in disk0p2, which is locked"
    )


def test_a_container_named_by_a_device() -> None:
    outer = candidate(None, "mbr:1-02", name="disk0p2", uuid="o", fs_kind="crypto_LUKS", usage=Usage.CRYPTO)
    inner = candidate({}, "luks:abc", kind="luks", disk=None, members=["mbr:1-02"])
    devices = Devices([ROOT, outer, inner], ROOT, (CryptName("x", "/dev/sda2"),))
    assert devices.find("/dev/mapper/x").candidate is inner


ORDER = [
    candidate({}, "mbr:1-01", disk=0),
    candidate({}, "mbr:1-02", disk=0),
    candidate({}, "mbr:2-01", disk=1),
    candidate({}, "mbr:3-01", disk=2),
]


@pytest.mark.parametrize(
    ("source", "identifier"),
    [
        ("/dev/sda1", "mbr:1-01"),
        ("/dev/sda2", "mbr:1-02"),
        ("/dev/vdb1", "mbr:2-01"),
        ("/dev/hdc1", "mbr:3-01"),
        ("/dev/xvdc1", "mbr:3-01"),
        ("/dev/nvme0n1p2", "mbr:1-02"),
        ("/dev/mmcblk1p1", "mbr:2-01"),
        ("/dev/cciss/c0d2p1", "mbr:3-01"),
        ("/dev/sdaa1", None),
        ("/dev/sdd1", None),
        ("/dev/sda9", None),
        ("/dev/sda", None),
    ],
)
def test_names_that_count_disks(source: str, identifier: str | None) -> None:
    match = Devices(ORDER, ORDER[0]).find(source)
    assert (match.candidate.volume.id if match.candidate else None) == identifier
    assert match.reason and (source in match.reason or identifier)
    assert identifier is None or "order" in (match.reason or "")


def test_one_disk_leaves_no_doubt() -> None:
    match = Devices(ORDER[:2], ORDER[0]).find("/dev/sda2")
    assert (match.candidate, match.reason) == (ORDER[1], None)


def test_the_root_tells_which_disk_is_counted_first() -> None:
    """The guest calls its root sda1, and it lies on the third disk given: then that is sda, and the others follow in order."""
    devices = Devices(ORDER, ORDER[3])
    devices.anchor("/dev/sda1")
    assert devices.find("/dev/sda1") == type(devices.find("/dev/sda1"))(ORDER[3], None)
    assert devices.find("/dev/sdb1").candidate is ORDER[0]
    assert "order" in (devices.find("/dev/sdb1").reason or "")
    assert devices.find("/dev/sdz1").candidate is None
    two = Devices([ORDER[0], ORDER[2]], ORDER[2])
    two.anchor("/dev/vda1")
    assert (two.find("/dev/vdb1").candidate, two.find("/dev/vdb1").reason) == (ORDER[0], None)
    two.anchor("UUID=x")


def test_copies_are_told_apart_by_the_disk_of_the_root() -> None:
    first = candidate({}, "mbr:1-05", disk=0, uuid="same")
    second = candidate({}, "mbr:2-05", disk=1, uuid="same")
    match = Devices([ROOT, first, second], ROOT).find("UUID=same")
    assert match.candidate is first
    assert match.reason == "disk0p5, disk1p5 all have UUID=same; taken is the one on the system's own disk"
    third = candidate({}, "mbr:2-06", disk=1, uuid="same")
    assert Devices([ROOT, second, third], ROOT).find("UUID=same").candidate is None
    assert Devices([first, second], second).find("UUID=same").candidate is second


def test_snapshots_are_never_meant() -> None:
    match = Devices(ALL, ROOT).find("UUID=r-uuid")
    assert (match.candidate, match.reason) == (ROOT, None)


def test_btrfs_over_several_volumes_is_one() -> None:
    halves = [candidate(None, f"mbr:{disk}-01", disk=disk, uuid="b", fs_kind="btrfs") for disk in (0, 1)]
    match = Devices([ROOT, *halves], ROOT).find("UUID=b")
    assert (match.candidate, match.reason) == (halves[0], None)


def test_two_logical_volumes_of_one_name_are_none() -> None:
    twins = [candidate({}, f"lvm:{n}", kind="lvm", name="vg-home", disk=None) for n in (1, 2)]
    assert Devices([ROOT, *twins], ROOT).find("/dev/vg/home").candidate is None
