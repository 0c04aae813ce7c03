"""Hives of real systems: parts of them as regipy reads them, all of them as hivex and dissect.regf do."""

import hashlib
import lzma
import shutil
import subprocess

import pytest

from contract.hive_builder import BINS, changed_pages, log_entry, new_log, old_log, with_sequences
from contract.hive_listing import IMAGES, Listing, listing_of, sample_hives
from contract.memory_filesystem import Memory
from contract.mounting import need
from contract.regf_oracle import check_hive
from mntapi.blocks import read
from mntapi.guests.windows.regf import Hive
from mntapi.guests.windows.regf.recovery import recover

SAMPLES = IMAGES / "regipy/regipy_tests/data"

LISTINGS = {
    "b9e8845e957aeb7919a89bb75b3fcde4c353e5a3335081a4825d676e55e58fb4": Listing(
        20015, 49779, "122b489ba87e80fb9019a5ed18f357165925142e143c1e99c215257e5b20d892"
    ),
    "327b5f8ef6aac317d5ab35ddec2aa3fb4fba008559768353347a5ca4d660f058": Listing(
        43211, 90307, "43a191287e7e42924262c79c26320a3c938f7cbd407864ea84fb534b31a4b770"
    ),
    "bf50b7616c960f03a7c429e2972d480fffe717d71b5562b29801e4be0df0b55b": Listing(
        33317, 74454, "afd8264fad1edc1c63115a4458f5bc998a4d2e62c951340b8bec0ee11d0e2805"
    ),
}
"""By the SHA-256 of the hive (``SYSTEM_2``, ``SYSTEM_WIN_10_1709``, and dissect.regf's sample ``SYSTEM``): what both
hivex 1.3.23 and dissect.regf 3.14 read in it, as scripts/images/hives.py prints it."""

CASES = [
    ("SYSTEM_2", "MountedDevices"),
    ("SYSTEM_2", "Select"),
    ("SYSTEM_2", "ControlSet001\\Services\\Tcpip"),
    ("SYSTEM_2", "ControlSet001\\Control\\Session Manager"),
    ("SYSTEM_2", "ControlSet001\\Control\\Nls"),
    ("SYSTEM_WIN_10_1709", "MountedDevices"),
    ("SYSTEM_WIN_10_1709", "ControlSet001\\Control\\Session Manager"),
    ("SYSTEM_WIN_10_1709", "ControlSet001\\Services\\SharedAccess"),
    ("SYSTEM_WIN_10_1709", "WPA"),
]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    pytest.importorskip("regipy")
    if not SAMPLES.is_dir():
        pytest.skip("the sample hives are not here")
    folder = tmp_path_factory.mktemp("hives")
    for name in {name for name, _ in CASES}:
        (folder / name).write_bytes(lzma.decompress((SAMPLES / f"{name}.xz").read_bytes()))
    return folder


@pytest.mark.parametrize(("name", "start"), CASES)
def test_every_value_as_regipy_reads_it(samples, name, start):
    hive = Hive.open(Memory((samples / name).read_bytes()), path=name)
    keys, values = check_hive(hive, samples / name, start)
    assert keys
    assert values


def test_whole_hives_as_hivex_and_dissect_read_them():
    found = 0
    for path, raw in sample_hives():
        wanted = LISTINGS.get(hashlib.sha256(raw).hexdigest())
        if wanted is not None:
            found += 1
            assert listing_of(Hive.open(Memory(raw), path=path, limit=1 << 40)) == wanted, path
    if not found:
        pytest.skip("the sample hives are not here")


CHANGES = """cd \\ControlSet001\\Services
add mntapi
cd mntapi
setval 3
DisplayName
string:A service
Type
dword:16
Long
hex:3:00,01,02
cd \\Select
setval 1
Current
dword:2
"""


@pytest.fixture(scope="module")
def changed(samples, tmp_path_factory):
    """A hive of a real system before and after hivex changed it, as if that had not been completed."""
    need("hivexsh")
    folder = tmp_path_factory.mktemp("changed")
    shutil.copy(samples / "SYSTEM_2", folder / "before")
    orders = f"{CHANGES}commit {folder / 'after'}\n"
    subprocess.run(["hivexsh", "-w", folder / "before"], input=orders, text=True, check=True, capture_output=True)
    return with_sequences((folder / "before").read_bytes(), 12, 11), (folder / "after").read_bytes()


@pytest.mark.parametrize("kind", ["new", "old"])
def test_what_hivex_changed_is_replayed_from_a_log(changed, tmp_path, kind):
    """The log is made of the pages that hivex changed; regipy applies it to a file, we in memory.

    An old log only we: regipy takes the first changed sector to be at byte 1024 of it, which holds for hives below 2 MiB.
    """
    regipy_recovery = pytest.importorskip("regipy.recovery")
    before, after = changed
    size = int.from_bytes(after[40:44], "little")
    pages = [page for page in changed_pages(before, after) if page[0] < size]
    assert 3 < len(pages) < 100
    log = new_log(before, [log_entry(11, size, pages)], 11) if kind == "new" else old_log(before, after[: BINS + size])
    hive = Hive.open(Memory(before), [Memory(log)], path="SYSTEM", limit=1 << 40)
    assert hive.key("ControlSet001\\Services\\mntapi").value("DisplayName").text() == "A service"
    assert (hive.key("Select").value("Current").number(), hive.applied, hive.doubt) == (2, 1, None)
    recovered = recover(Memory(before), [Memory(log)]).content
    assert read(recovered, BINS, size) == after[BINS : BINS + size]
    assert listing_of(hive) == listing_of(Hive.open(Memory(after), path="after", limit=1 << 40))
    if kind == "old":
        return
    for name, content in {"hive": before, "log": log}.items():
        (tmp_path / name).write_bytes(content)
    names = [str(tmp_path / name) for name in ("hive", "log", "restored")]
    regipy_recovery.apply_transaction_logs(names[0], names[1], None, names[2])
    assert (tmp_path / "restored").read_bytes()[BINS : BINS + size] == after[BINS : BINS + size]


def test_the_samples_are_dirty_and_have_no_logs(samples):
    for name in {name for name, _ in CASES}:
        hive = Hive.open(Memory((samples / name).read_bytes()), path=name)
        assert "no transaction log" in (hive.doubt or "")
