"""What a Windows says of itself, release by release, on volumes without a disk."""

import struct

import pytest

from contract.guest_volumes import candidate, of_kind
from contract.hive_builder import Builder, build_hive, changed_pages, log_entry, new_log, with_sequences
from contract.memory_filesystem import MemoryFileSystem
from contract.windows_builder import (
    SHUTDOWN_NS,
    SID,
    TEN,
    mbr_device,
    sam_tree,
    software_tree,
    system_tree,
    windows_files,
)
from mntapi.errors import ReadFailed
from mntapi.guests import windows
from mntapi.guests.files import MAX_NAMES
from mntapi.guests.finder import find_guests
from mntapi.guests.types import Application, Family, User
from mntapi.guests.windows import accounts, registry, systems

PARTITION = "gpt:09931f21-7faf-44a9-81d8-1e73c14b9eaf"


def volume(files, identifier=PARTITION, fs_kind="ntfs", **options):
    fs = of_kind(files, fs_kind) if isinstance(files, dict) else files
    return candidate(fs, identifier, fs_kind=fs_kind, **options)


def guests(files, **options):
    return list(windows.find([volume(files, **options)]))


def only(files, **options):
    (found,) = guests(files, **options)
    return found


def test_all_that_a_windows_10_says():
    found = only(windows_files(system_tree()))
    assert (found.family, found.vendor, found.volume, found.os_folder) == (
        Family.WINDOWS,
        "Microsoft",
        PARTITION,
        "C:\\Windows",
    )
    assert (found.product, found.edition) == ("Windows 10 Pro", "Professional")
    assert (found.major, found.minor, found.build, found.architecture) == (10, 0, "19045.3693", "x86_64")
    assert (found.hostname, found.timezone) == ("anns-pc", "W. Europe Standard Time")
    assert found.machine_id == "01234567-89ab-cdef-0123-456789abcdef"
    assert (found.installed_ns, found.last_shutdown_ns) == (1_600_000_000 * 10**9, SHUTDOWN_NS)
    assert found.details == {
        "release": "22H2",
        "installation-type": "Client",
        "product-type": "workstation",
        "domain": "example.org",
        "computer-name": "ANNS-PC",
        "control-set": "ControlSet001",
    }
    assert found.reasons == ()
    assert [guest.os_folder for guest in find_guests([volume(windows_files(system_tree()))])] == ["C:\\Windows"]


NT5 = {"CurrentVersion": "5.1", "CurrentBuildNumber": "2600", "CurrentBuild": "1.511.1 () (Obsolete data - do not use)"}

RELEASES = [
    (TEN | {"CurrentBuildNumber": "22631", "DisplayVersion": "23H2"}, "Windows 11 Pro", "Professional", (10, 0, "22631.3693")),
    (TEN | {"CurrentBuildNumber": "21999"}, "Windows 10 Pro", "Professional", (10, 0, "21999.3693")),
    (
        TEN | {"ProductName": "Windows Server 2025 Standard", "EditionID": "ServerStandard", "CurrentBuildNumber": "26100"},
        "Windows Server 2025 Standard",
        "ServerStandard",
        (10, 0, "26100.3693"),
    ),
    (
        {"ProductName": "Windows 8.1 Pro", "EditionID": "Professional", "CurrentVersion": "6.3", "CurrentBuildNumber": "9600"},
        "Windows 8.1 Pro",
        "Professional",
        (6, 3, "9600"),
    ),
    (
        {
            "ProductName": "Windows Vista (TM) Ultimate",
            "EditionID": "Ultimate",
            "CurrentVersion": "6.0",
            "CurrentBuild": "6002",
        },
        "Windows Vista (TM) Ultimate",
        "Ultimate",
        (6, 0, "6002"),
    ),
    (NT5 | {"ProductName": "Microsoft Windows XP"}, "Microsoft Windows XP", "Professional", (5, 1, "2600")),
    ({"ProductName": "Windows", "CurrentVersion": "of no kind"}, "Windows", None, (None, None, None)),
    ({}, None, None, (None, None, None)),
]


@pytest.mark.parametrize(("version", "product", "edition", "numbers"), RELEASES)
def test_releases(version, product, edition, numbers):
    found = only(windows_files(system_tree(), software_tree(version)))
    assert (found.product, found.edition) == (product, edition)
    assert (found.major, found.minor, found.build) == numbers


@pytest.mark.parametrize(
    ("kind", "suites", "edition", "told"),
    [
        ("WinNT", ["Personal"], "Home", "workstation"),
        ("WinNT", [], "Professional", "workstation"),
        ("ServerNT", [], "Standard", "server"),
        ("ServerNT", ["Terminal Server", "Enterprise"], "Enterprise", "server"),
        ("LanmanNT", ["DataCenter"], "Datacenter", "domain controller"),
        ("ServerNT", ["Blade"], "Web", "server"),
        ("ServerNT", ["Small Business(Restricted)"], "Small Business", "server"),
    ],
)
def test_editions_before_vista(kind, suites, edition, told):
    system = system_tree(control={"ProductOptions": {"ProductType": kind, "ProductSuite": suites}})
    found = only(windows_files(system, software_tree(NT5)))
    assert (found.edition, found.details["product-type"]) == (edition, told)


@pytest.mark.parametrize(("told", "name"), [("ARM64", "aarch64"), ("x86", "x86"), ("IA64", "ia64"), ("mips", "mips")])
def test_architectures(told, name):
    system = system_tree(control={"Session Manager": {"Environment": {"PROCESSOR_ARCHITECTURE": told}}})
    assert only(windows_files(system)).architecture == name


def test_the_time_of_installation_to_100_ns():
    version = TEN | {"InstallTime": 132_500_000_000_000_001}
    found = only(windows_files(system_tree(), software_tree(version)))
    assert found.installed_ns == (132_500_000_000_000_001 - 116_444_736_000_000_000) * 100


def test_what_is_not_recorded_is_none():
    found = only(windows_files({"x": {}}, {"y": {}}, sam={"z": {}}))
    assert (found.product, found.build, found.hostname, found.timezone, found.machine_id) == (None,) * 5
    assert (found.installed_ns, found.last_shutdown_ns, found.last_boot_ns, found.architecture) == (None,) * 4
    assert (found.os_folder, found.mounts, found.users) == ("\\Windows", (), ())
    assert found.reasons == (
        "/Windows/System32/config/SYSTEM: does not say which control set is the current one; the first is taken",
    )


@pytest.mark.parametrize("raw", [bytes(8), struct.pack("<Q", 1), b"\xff" * 8, bytes(4)])
def test_impossible_times_are_none(raw):
    assert only(windows_files(system_tree(control={"Windows": {"ShutdownTime": raw}}))).last_shutdown_ns is None


def test_the_current_control_set_counts():
    tree = {**system_tree(current=3), "ControlSet001": system_tree()["ControlSet001"]}
    tree["ControlSet003"]["Control"]["ComputerName"] = {}
    tree["ControlSet003"]["Services"]["Tcpip"] = {"Parameters": {"Hostname": "third"}}
    found = only(windows_files(tree))
    assert (found.hostname, found.details["control-set"]) == ("third", "ControlSet003")


def test_the_time_zone_of_windows_xp():
    for names, zone in (({"StandardName": "GMT Standard Time"}, "GMT Standard Time"), ({"StandardName": "@x"}, None)):
        assert only(windows_files(system_tree(control={"TimeZoneInformation": names}))).timezone == zone


def test_users_by_name_and_number():
    assert only(windows_files(system_tree())).users == (
        User("Administrator", f"{SID}-500"),
        User("ann", f"{SID}-1001", "C:\\Users\\ann"),
        User("bob.EXAMPLE", "S-1-5-21-9-8-7-1104", "C:\\Users\\bob.EXAMPLE"),
    )


def test_users_without_a_machine_sid():
    sam = sam_tree({"x\x1b[31m": 1005})
    sam["SAM"]["Domains"]["Account"]["V"] = b"short"
    found = only(windows_files(system_tree(), sam=sam)).users
    assert found[0] == User("x[31m", "1005")
    assert [user.uid for user in found[1:]] == [f"{SID}-1001", "S-1-5-21-9-8-7-1104"]


def test_so_many_users_and_no_more(monkeypatch):
    monkeypatch.setattr(accounts, "MAX_USERS", 2)
    found = only(windows_files(system_tree(), sam=sam_tree(dict.fromkeys("abc", 1000))))
    assert [user.name for user in found.users][:2] == ["a", "b"]
    assert any("more than 2 entries" in reason for reason in found.reasons)


def test_programs_and_services_on_request():
    uninstall = {
        "{guid}": {"DisplayName": "Editor", "DisplayVersion": "1.2", "Publisher": "Ann", "InstallLocation": "C:\\Editor"},
        "hidden": {"NoModify": 1},
    }
    wide = software_tree(Windows={"CurrentVersion": {"Uninstall": uninstall}})
    narrow = {"Microsoft": {"Windows": {"CurrentVersion": {"Uninstall": {"old": {"DisplayName": "Old \x07program"}}}}}}
    found = only(windows_files(system_tree(), {**wide, "WOW6432Node": narrow}))
    assert found.applications() == [
        Application("Editor", "1.2", "Ann", path="C:\\Editor"),
        Application("Old program"),
        Application("Spooler", kind="service", path="spoolsv.exe"),
        Application("Web Server", kind="service", path='"C:\\web\\httpd.exe" -k'),
    ]


PENDING = [
    ({}, {}, None),
    ({"Component Based Servicing": {"RebootPending": {}}}, {}, "component-based servicing"),
    ({"WindowsUpdate": {"Auto Update": {"RebootRequired": {}}}}, {}, "windows update"),
    ({}, {"PendingFileRenameOperations": ["\\??\\C:\\x", ""]}, "file renames"),
    ({}, {"PendingFileRenameOperations2": ["\\??\\C:\\x"]}, "file renames"),
    ({}, {"PendingFileRenameOperations": []}, None),
]


@pytest.mark.parametrize(("keys", "values", "told"), PENDING)
def test_a_restart_is_pending(keys, values, told):
    system = system_tree(control={"Session Manager": values})
    found = only(windows_files(system, software_tree(Windows={"CurrentVersion": keys})))
    assert found.details.get("pending-reboot") == told


@pytest.mark.parametrize(
    ("content", "is_fast", "told"),
    [
        (b"HIBR", 0, "yes"),
        (b"hibr", 0, "yes"),
        (b"HIBR", 1, "yes, or shut down with fast startup"),
        (b"RSTR", 0, "yes"),
        (b"WAKE", 1, None),
        (bytes(4), 0, None),
        (b"", 0, None),
        ({}, 0, None),
    ],
)
def test_hibernation(content, is_fast, told):
    system = system_tree(control={"Session Manager": {"Power": {"HiberbootEnabled": is_fast}}})
    whole = content + bytes(5000) if content else content
    found = only({**windows_files(system), "HIBERFIL.SYS": whole})
    assert found.details.get("hibernated") == told


class Unreadable:
    size = 4096
    sector_size = 512

    def readinto(self, offset, buffer):
        raise ReadFailed("cannot be read: injected fault", offset=offset)

    def extents(self, offset, length):
        return iter(())

    def close(self):
        pass


def test_a_hibernation_file_that_cannot_be_read():
    found = only({**windows_files(system_tree()), "hiberfil.sys": Unreadable()})
    assert found.reasons == ("/hiberfil.sys: cannot be read: injected fault (at byte 0)",)


def test_several_systems_on_one_volume():
    files = {
        **windows_files(system_tree(), folder="WINDOWS"),
        **windows_files(
            system_tree(), software_tree(NT5 | {"ProductName": "Windows 2000", "SystemRoot": "C:\\WINNT"}), folder="winnt"
        ),
        **windows_files(system_tree(), software_tree(TEN | {"SystemRoot": "C:\\WinDev"}), folder="windev"),
        **windows_files(system_tree(), folder="Copy of Windows"),
        **windows_files(system_tree(), software_tree(TEN | {"SystemRoot": "C:\\Windows.old"}), folder="Windows.old"),
        "Users": {"ann": {}},
        "a file": b"",
    }
    found = guests(files)
    assert [guest.os_folder for guest in found] == ["C:\\WINDOWS", "C:\\winnt", "C:\\windev"]
    assert found[1].product == "Windows 2000"


def test_names_in_any_case():
    files = {"wINDOWS": {"SYSTEM32": {"Config": windows_files(system_tree())["Windows"]["System32"]["config"]}}}
    files["wINDOWS"]["SYSTEM32"]["Config"] = {
        name.lower(): hive for name, hive in files["wINDOWS"]["SYSTEM32"]["Config"].items()
    }
    assert only(files).hostname == "anns-pc"


def test_no_systems():
    for files in ({}, {"Windows": b"file"}, {"Windows": {"System32": {}}}, {"Windows": "/elsewhere"}):
        assert guests(files) == []
    assert guests(windows_files(system_tree()), fs_kind="ext4") == []
    assert guests(None) == []
    assert list(windows.find([volume(windows_files(system_tree()), kind="vss")])) == []


def test_a_top_folder_that_cannot_be_read():
    assert guests({"<unreadable>": b"", **windows_files(system_tree())}) == []


def test_a_folder_that_cannot_be_read_on_the_way():
    assert guests({"other": {"System32": {"<unreadable>": b""}}}) == []
    (found,) = guests({"Windows": {"System32": {"<unreadable>": b""}}})
    assert all("injected fault" in reason for reason in found.reasons)


def test_a_top_folder_with_too_many_names():
    many = {f"f{number}": b"" for number in range(MAX_NAMES)}
    assert only({**windows_files(system_tree(), folder="windows"), **many}).hostname == "anns-pc"
    assert guests({**windows_files(system_tree(), folder="elsewhere"), **many}) == []


def test_so_many_folders_are_looked_into_and_no_more(monkeypatch):
    monkeypatch.setattr(systems, "MAX_FOLDERS", 1)
    other = windows_files(system_tree(), software_tree(TEN | {"SystemRoot": "C:\\Other"}), folder="Other")
    assert guests({"first": {}, **other}) == []
    assert len(guests({**other, "second": {}})) == 1


def test_hives_that_are_missing_or_damaged():
    files = windows_files(system_tree())
    config = files["Windows"]["System32"]["config"]
    config["SAM"] = b"no hive"
    del config["SOFTWARE"]
    found = only(files)
    assert found.hostname == "anns-pc"
    assert "/Windows/System32/config/SOFTWARE: is missing" in found.reasons
    assert any(reason.startswith("/Windows/System32/config/SAM: no registry hive (at byte 0") for reason in found.reasons)
    config["SYSTEM"] = ReadFailed("cannot be read: injected fault")
    files = of_kind({"Windows": {"System32": {"config": {"SYSTEM": Unreadable(), "SOFTWARE": Unreadable()}}}}, "ntfs")
    found = only(files)
    assert len(found.reasons) == 3


def test_a_damaged_value_is_a_reason_and_the_rest_is_told():
    tree = software_tree(TEN | {"UBR": "no number", "EditionID": 5})
    found = only(windows_files(system_tree(), tree))
    assert (found.product, found.build, found.edition) == ("Windows 10 Pro", "19045", None)
    assert len(found.reasons) == 2
    assert all(reason.startswith("/Windows/System32/config/SOFTWARE: value '") for reason in found.reasons)


def test_a_damaged_list_of_keys_is_a_reason():
    builder = Builder()
    raw = bytearray(builder.hive(sam_tree()))
    struct.pack_into("<I", raw, 4096 + 4 + builder.subkey_lists["SAM\\Domains\\Account\\Users\\Names"] + 12, 0xFFFFFFF0)
    found = only(windows_files(system_tree(), sam=bytes(raw)))
    assert [user.name for user in found.users][:1] == ["Administrator"]
    assert any("a cell lies outside the hive" in reason for reason in found.reasons)


def test_values_are_one_line_without_control_characters():
    tree = software_tree(TEN | {"ProductName": "\x1b]0;x\x07Windows\n" + "y" * 1000})
    found = only(windows_files(system_tree(), tree))
    assert found.product == "]0;xWindows"
    long = only(windows_files(system_tree(), software_tree(TEN | {"ProductName": "y" * 30000})))
    assert long.product == "y" * 256


def test_a_dirty_registry_is_replayed_or_doubted():
    before = with_sequences(build_hive(system_tree(), pages=20), 6, 5)
    after_tree = system_tree()
    after_tree["ControlSet001"]["Services"]["Tcpip"]["Parameters"]["Hostname"] = "renamed"
    after = build_hive(after_tree, pages=20)
    log = new_log(before, [log_entry(5, len(after) - 4096, changed_pages(before, after))], 5)
    files = windows_files(before)
    found = only(files)
    assert found.hostname == "anns-pc"
    assert any("no transaction log tells the rest" in reason for reason in found.reasons)
    files["Windows"]["System32"]["config"] |= {"SYSTEM.LOG1": b"", "SYSTEM.LOG2": log}
    found = only(files)
    assert (found.hostname, found.details["registry-logs"], found.reasons) == ("renamed", "SYSTEM: 1 replayed", ())
    files["Windows"]["System32"]["config"]["SYSTEM.LOG1"] = Unreadable()
    assert only(files).hostname == "renamed"


def test_logs_that_are_no_files_are_told():
    files = windows_files(system_tree())
    files["Windows"]["System32"]["config"]["SYSTEM.LOG1"] = "SYSTEM.LOG1"
    assert any("too many symbolic links" in reason for reason in only(files).reasons)


def test_a_file_system_that_does_not_open_is_skipped():
    assert list(windows.find([candidate(None, PARTITION, fs_kind="ntfs"), volume(windows_files(system_tree()), "x")]))


def test_times_of_windows():
    assert registry.unix_ns(None) is None
    assert registry.unix_ns(116_444_736_000_000_001) == 100
    assert isinstance(of_kind({}, "ntfs"), MemoryFileSystem)
    assert mbr_device(1, 2) == struct.pack("<IQ", 1, 2)
