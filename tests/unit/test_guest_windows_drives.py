"""Drive letters and mount points in folders, on volumes without a disk."""

import lzma
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from contract.guest_volumes import candidate, of_kind
from contract.windows_builder import (
    CD_ROM,
    TEN,
    guid_device,
    mbr_device,
    other_device,
    software_tree,
    system_tree,
    windows_files,
)
from mntapi.errors import ReadFailed
from mntapi.guests import windows
from mntapi.guests.types import MountKind, MountPoint
from mntapi.guests.windows import drives, folders
from mntapi.guests.windows.drives import parse_identity

SAMPLES = Path(__file__).parents[3] / "shared/images/regipy/regipy_tests/data"
GUIDS = [f"09931f21-7faf-44a9-81d8-00000000000{number}" for number in range(6)]
MIB = 1 << 20


def at(content, identifier, offset=None, *, fs_kind="ntfs", kind="partition", members=(), details=None):
    """A volume; ``content`` None: one with nothing in it."""
    made = candidate(
        of_kind({} if content is None else content, fs_kind),
        identifier,
        fs_kind=fs_kind,
        kind=kind,
        members=members,
        details=details,
    )
    return replace(made, volume=replace(made.volume, offset=offset))


def mounts_of(system, *others, software=None, own=None):
    """The mount points of a system on the volume ``own``, by path, and its reasons."""
    files = windows_files(system, software)
    own = own or at(None, f"gpt:{GUIDS[0]}")
    (guest,) = windows.find([replace(own, filesystem=lambda: of_kind(files, "ntfs")), *others])
    return {mount.path: mount for mount in guest.mounts}, guest


def volumes(mounts):
    return {path: mount.volume for path, mount in mounts.items()}


def test_letters_of_mbr_and_gpt_partitions():
    devices = {
        "C": mbr_device(0x5CBEA03E, MIB),
        "d": mbr_device(0x5CBEA03E, 100 * MIB),
        "E": guid_device(GUIDS[1]),
        "F": mbr_device(0x5CBEA03F, MIB),
        "G": guid_device(GUIDS[5]),
    }
    mounts, guest = mounts_of(
        system_tree(devices),
        at(None, "mbr:5cbea03e-02", 100 * MIB, fs_kind="vfat"),
        at(None, "mbr:5cbea03e-03", 200 * MIB),
        at(None, f"gpt:{GUIDS[1]}"),
        own=at(None, "mbr:5cbea03e-01", MIB),
    )
    assert volumes(mounts) == {
        "C:\\": "mbr:5cbea03e-01",
        "D:\\": "mbr:5cbea03e-02",
        "E:\\": f"gpt:{GUIDS[1]}",
        "F:\\": None,
        "G:\\": None,
    }
    assert mounts["D:\\"] == MountPoint(
        "D:\\",
        MountKind.VOLUME,
        "5cbea03e+104857600 \\\\?\\Volume{5cbea03e-0000-0000-0000-400600000000}",
        volume="mbr:5cbea03e-02",
        filesystem="vfat",
    )
    assert mounts["E:\\"].source == f"DMIO:ID:{GUIDS[1]} \\\\?\\Volume{{{GUIDS[1]}}}"
    assert (mounts["F:\\"].kind, mounts["F:\\"].reason) == (MountKind.MISSING, "no volume of the set")
    assert guest.os_folder == "C:\\Windows"


@pytest.mark.parametrize(
    ("name", "letter", "identifier", "offset"),
    [
        ("SYSTEM_2", "C", "mbr:273e4cfe-02", 368050176),
        ("SYSTEM_WIN_10_1709", "C", "mbr:df4546ae-02", 525336576),
        ("SYSTEM_WIN_10_1709", "E", "mbr:df4546ae-01", 1048576),
        ("SYSTEM_WIN_10_1709", "F", "mbr:002b1be5-01", 1048576),
    ],
)
def test_letters_of_real_systems(name, letter, identifier, offset):
    """Signatures and offsets as the samples' manifest has them."""
    if not SAMPLES.is_dir():
        pytest.skip("the sample hives are not here")
    system = lzma.decompress((SAMPLES / f"{name}.xz").read_bytes())
    mounts, guest = mounts_of(
        system, own=at(None, identifier, offset), software=software_tree(TEN | {"SystemRoot": f"{letter}:\\Windows"})
    )
    assert mounts[f"{letter}:\\"].volume == identifier
    assert mounts[f"{letter}:\\"].reason is None
    assert (mounts["D:\\"].kind, mounts["D:\\"].reason) == (MountKind.MISSING, "a CD or DVD drive, not a volume of the set")
    assert guest.os_folder == f"{letter}:\\Windows"
    assert guest.hostname
    assert guest.last_shutdown_ns


def test_the_name_a_real_system_made_of_a_place():
    """``Volume{629458e4-0000-0000-0000-010000000000}`` of ``SYSTEM_WIN_10_1709`` stands for signature 629458e4, byte 65536."""
    if not SAMPLES.is_dir():
        pytest.skip("the sample hives are not here")
    system = lzma.decompress((SAMPLES / "SYSTEM_WIN_10_1709.xz").read_bytes())
    raw = bytes.fromhex("e45894620000010000000000")
    assert raw in system
    assert parse_identity(raw).keys == ((0x629458E4, 65536),)
    link = {"Data": "//?/Volume{629458E4-0000-0000-0000-010000000000}/"}
    mounts, _ = mounts_of(
        system_tree({"D": guid_device(GUIDS[1])}), at(link, f"gpt:{GUIDS[1]}"), at(None, "mbr:629458e4-01", 65536)
    )
    assert mounts["D:\\Data"].volume == "mbr:629458e4-01"


def test_one_volume_with_two_letters_and_one_letter_twice():
    devices = {"C": guid_device(GUIDS[0]), "D": guid_device(GUIDS[0]), "\\dosdevices\\c:": guid_device(GUIDS[1])}
    mounts, guest = mounts_of(system_tree(devices), at(None, f"gpt:{GUIDS[1]}"))
    assert volumes(mounts) == {"C:\\": f"gpt:{GUIDS[0]}", "D:\\": f"gpt:{GUIDS[0]}"}
    assert guest.reasons == ("/Windows/System32/config/SYSTEM: MountedDevices has drive C: twice; the first counts",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CD_ROM, "a CD or DVD drive"),
        ("\\??\\FDC#GENERIC_FLOPPY_DRIVE#6&1234&0&0#{x}", "a floppy drive"),
        ("_??_USBSTOR#Disk&Ven_Generic&Prod_Flash_Disk&Rev_8.07#01234567&0#{x}", "a USB device"),
        ("\\??\\STORAGE#RemovableMedia#7&1&0&RM#{x}", "a removable medium"),
        ("\\??\\SCSI#Disk&Ven_X#{x}\x1b[31m", "a device"),
    ],
)
def test_devices_are_missing_with_their_text(text, reason):
    mounts, _ = mounts_of(system_tree({"E": other_device(text)}))
    shown = "".join(char for char in text if char >= " ")
    assert mounts["E:\\"] == MountPoint("E:\\", MountKind.MISSING, shown, reason=f"{reason}, not a volume of the set")


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"", "nothing"), (b"\0", "00"), (b"\x01\0\x02\0", "01 00 02 00"), (b"\x00\xd8x\0", "\udced\udca0\udc80x")],
)
def test_strange_devices(raw, text):
    assert parse_identity(raw).text == text


def test_other_values_are_left_out():
    devices = {"#{5aae7822-77cb-11e9-bcf1-784f439fa657}": b"1" * 12, "\\DosDevices\\C:\\x": b"1" * 12, "\\DosDevices\\CC:": b""}
    assert set(mounts_of(system_tree(devices))[0]) == {"C:\\"}


def test_values_that_are_damaged_or_too_many(monkeypatch):
    _, guest = mounts_of(system_tree({"E": b"x" * 70000}))
    assert any("too long" in reason for reason in guest.reasons)
    monkeypatch.setattr(drives, "MAX_DEVICES", 2)
    mounts, guest = mounts_of(system_tree({letter: other_device(letter) for letter in "EFG"}))
    assert set(mounts) == {"C:\\", "E:\\", "F:\\"}
    assert any("more than 2 entries" in reason for reason in guest.reasons)


DYNAMIC = "c9f4b6a8-0001-0002-0003-000000000004"


@pytest.mark.parametrize("big_endian", [False, True])
def test_dynamic_volumes(big_endian):
    device = guid_device(DYNAMIC, big_endian=big_endian)
    spanned = at(None, f"ldm:{DYNAMIC}", kind="ldm", members=("disk:1", "disk:2"), details={"drive": "X:"})
    mounts, _ = mounts_of(system_tree({"D": device}), spanned)
    assert volumes(mounts) == {"C:\\": f"gpt:{GUIDS[0]}", "D:\\": f"ldm:{DYNAMIC}"}


def test_a_simple_dynamic_volume_may_be_called_by_its_place():
    simple = at(None, f"ldm:{DYNAMIC}", 7 * MIB, kind="ldm", members=("disk:5cbea03e@copy.vmdk",))
    assert volumes(mounts_of(system_tree({"D": mbr_device(0x5CBEA03E, 7 * MIB)}), simple)[0])["D:\\"] == f"ldm:{DYNAMIC}"


def test_the_letter_that_dynamic_disks_suggest():
    hinted = at(None, f"ldm:{DYNAMIC}", kind="ldm", details={"drive": "e:"})
    mounts, _ = mounts_of(system_tree({"D": other_device(CD_ROM)}), hinted)
    assert (mounts["E:\\"].volume, mounts["E:\\"].reason) == (f"ldm:{DYNAMIC}", "so says the database of the dynamic disks")
    taken = at(None, f"ldm:{DYNAMIC}", kind="ldm", details={"drive": "D:"})
    nonsense = at(None, f"ldm:{GUIDS[3]}", kind="ldm", details={"drive": "/mnt"})
    assert set(mounts_of(system_tree({"D": other_device(CD_ROM)}), taken, nonsense)[0]) == {"C:\\", "D:\\"}


def test_bitlocker_has_the_letter_of_its_partition():
    inner = at(None, "bitlocker:1", kind="bitlocker", members=(f"gpt:{GUIDS[1]}",))
    assert volumes(mounts_of(system_tree({"D": guid_device(GUIDS[1])}), inner)[0])["D:\\"] == "bitlocker:1"
    on_mbr = at(None, "bitlocker:2", kind="bitlocker", members=("mbr:5cbea03e-02",))
    system = system_tree({"D": mbr_device(0x5CBEA03E, 5 * MIB)})
    assert volumes(mounts_of(system, on_mbr)[0])["D:\\"] is None
    below = at(None, "mbr:5cbea03e-02", 5 * MIB, members=("disk:5cbea03e",)).volume
    assert volumes(mounts_of(system, replace(on_mbr, below=(below,)))[0])["D:\\"] == "bitlocker:2"


def test_what_lies_on_several_volumes_has_the_letter_of_none():
    array = at(None, "md:1", kind="md", members=(f"gpt:{GUIDS[1]}", f"gpt:{GUIDS[2]}"))
    assert volumes(mounts_of(system_tree({"D": guid_device(GUIDS[1])}), array)[0])["D:\\"] is None


def test_snapshots_have_no_letters():
    shadow = at(None, f"gpt:{GUIDS[1]}", kind="vss")
    assert volumes(mounts_of(system_tree({"D": guid_device(GUIDS[1])}), shadow)[0])["D:\\"] is None


def test_copies_of_a_disk_are_told():
    copies = [at(None, f"gpt:{GUIDS[1]}"), at(None, f"gpt:{GUIDS[1]}@disk:x")]
    mounts, _ = mounts_of(system_tree({"D": guid_device(GUIDS[1])}), *copies)
    assert mounts["D:\\"].volume == f"gpt:{GUIDS[1]}"
    assert mounts["D:\\"].reason == f"volumes of the set with the same identity: gpt:{GUIDS[1]}, gpt:{GUIDS[1]}@disk:x"


class TestTheSystemsOwnLetter:
    def test_a_copied_disk(self):
        """Cloned, with a new signature, and not started since."""
        mounts, guest = mounts_of(system_tree({"C": mbr_device(1, MIB), "D": mbr_device(1, 2 * MIB)}))
        assert guest.os_folder == "C:\\Windows"
        assert mounts["C:\\"].volume == f"gpt:{GUIDS[0]}"
        assert mounts["C:\\"].reason.startswith(
            "so says SystemRoot; MountedDevices gives the letter to what is not in the set: 00000001+1048576"
        )
        assert mounts["D:\\"].kind is MountKind.MISSING

    def test_no_entry_at_all(self):
        mounts, guest = mounts_of(system_tree())
        assert mounts["C:\\"].reason == "so says SystemRoot; MountedDevices does not name this volume"
        assert (mounts["C:\\"].source, mounts["C:\\"].filesystem) == ("C:\\Windows", "ntfs")
        assert guest.os_folder == "C:\\Windows"

    def test_another_volume_has_the_letter(self):
        mounts, _ = mounts_of(system_tree({"C": guid_device(GUIDS[1])}), at(None, f"gpt:{GUIDS[1]}"))
        assert mounts["C:\\"].volume == f"gpt:{GUIDS[0]}"
        assert mounts["C:\\"].reason == f"so says SystemRoot; MountedDevices gives the letter to gpt:{GUIDS[1]}"

    def test_mounted_devices_says_otherwise(self):
        mounts, guest = mounts_of(system_tree({"D": guid_device(GUIDS[0])}))
        assert guest.os_folder == "D:\\Windows"
        assert set(mounts) == {"D:\\"}

    def test_neither_says_anything(self):
        mounts, guest = mounts_of(system_tree(), software=software_tree({"ProductName": "x"}))
        assert (guest.os_folder, mounts) == ("\\Windows", {})

    def test_a_system_on_another_letter(self):
        software = software_tree(TEN | {"SystemRoot": "E:\\Windows"})
        mounts, guest = mounts_of(system_tree({"C": guid_device(GUIDS[0]), "E": guid_device(GUIDS[0])}), software=software)
        assert guest.os_folder == "E:\\Windows"
        assert guest.users[1].home == "E:\\Users\\ann"
        assert set(mounts) == {"C:\\", "E:\\"}


def volume_link(number, form="//?/Volume{{{}}}/"):
    return form.format(GUIDS[number])


def test_volumes_in_folders():
    devices = {
        "C": guid_device(GUIDS[1]),
        "E": guid_device(GUIDS[2]),
        f"\\??\\Volume{{{GUIDS[5].upper()}}}": mbr_device(7, 64 * 1024),
    }
    c_drive = {
        "Data": volume_link(3),
        "Exchange": {"DB01": volume_link(5, "Volume{{{}}}/"), "deeper": {"too deep": volume_link(3)}},
        "Users": {"All Users": "C:/ProgramData"},
        "gone": volume_link(4, "\\??\\Volume{{{}}}\\"),
        "Windows": {"x": volume_link(3)},
    }
    others = [
        at(c_drive, f"gpt:{GUIDS[1]}"),
        at({"x": volume_link(3)}, f"gpt:{GUIDS[2]}", fs_kind="vfat"),
        at({"nested": volume_link(1)}, f"gpt:{GUIDS[3]}"),
        at(None, "mbr:00000007-01", 64 * 1024),
    ]
    mounts, guest = mounts_of(system_tree(devices), *others, software=software_tree(TEN | {"SystemRoot": "S:\\Windows"}))
    assert volumes(mounts) == {
        "C:\\": f"gpt:{GUIDS[1]}",
        "C:\\Data": f"gpt:{GUIDS[3]}",
        "C:\\Data\\nested": f"gpt:{GUIDS[1]}",
        "C:\\Exchange\\DB01": "mbr:00000007-01",
        "C:\\gone": None,
        "E:\\": f"gpt:{GUIDS[2]}",
        "S:\\": f"gpt:{GUIDS[0]}",
    }
    assert [mount.path for mount in guest.mounts] == sorted(mounts, key=str.lower)
    assert mounts["C:\\Data"].source == f"\\\\?\\Volume{{{GUIDS[3]}}}"
    assert mounts["C:\\Exchange\\DB01"].source == f"00000007+65536 \\\\?\\Volume{{{GUIDS[5]}}}"
    assert mounts["C:\\gone"].reason == "no volume of the set"


def test_the_name_of_a_volume_as_the_system_gave_it():
    devices = {"C": mbr_device(7, 512), f"\\??\\Volume{{{GUIDS[5]}}}": mbr_device(7, 512), "D": mbr_device(8, 512)}
    mounts, _ = mounts_of(system_tree(devices), own=at(None, "mbr:00000007-01", 512))
    assert mounts["C:\\"].source == f"00000007+512 \\\\?\\Volume{{{GUIDS[5]}}}"
    assert mounts["D:\\"].source == "00000008+512"
    far, _ = mounts_of(system_tree({"D": mbr_device(8, (1 << 64) - (1 << 16))}))
    assert far["D:\\"].kind is MountKind.MISSING


def test_so_many_names_and_volumes_and_no_more(monkeypatch):
    c_drive = {**{f"f{number:02}": b"" for number in range(20)}, "zz": volume_link(2)}
    others = [at(c_drive, f"gpt:{GUIDS[1]}"), at(None, f"gpt:{GUIDS[2]}")]
    system = system_tree({"D": guid_device(GUIDS[1])})
    assert "D:\\zz" in mounts_of(system, *others)[0]
    monkeypatch.setattr(folders, "MAX_VOLUMES", 0)
    assert "D:\\zz" not in mounts_of(system, *others)[0]
    monkeypatch.undo()
    monkeypatch.setattr(folders, "MAX_NAMES", 10)
    mounts, guest = mounts_of(system, *others)
    assert "D:\\zz" not in mounts
    assert "D:\\: mount points are looked for in the first 10 names only" in guest.reasons


def test_folders_that_cannot_be_read():
    others = [at({"a": volume_link(2), "<unreadable>": b""}, f"gpt:{GUIDS[1]}"), at(None, f"gpt:{GUIDS[2]}")]
    mounts, guest = mounts_of(system_tree({"D": guid_device(GUIDS[1])}), *others)
    assert mounts["D:\\a"].volume == f"gpt:{GUIDS[2]}"
    assert any(reason.startswith("D:\\: cannot be read") for reason in guest.reasons)

    def fails():
        raise ReadFailed("cannot be read")

    broken = replace(others[0], filesystem=fails)
    assert set(mounts_of(system_tree({"D": guid_device(GUIDS[1])}), broken)[0]) == {"C:\\", "D:\\"}


def test_signatures_are_little_endian():
    assert parse_identity(struct.pack("<4sQ", b"\x3e\xa0\xbe\x5c", 1)).text == "5cbea03e+1"
