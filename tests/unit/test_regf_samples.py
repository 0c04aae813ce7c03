"""Hives of real systems (regipy's own samples) as regipy reads them. Whole, they were compared once by hand: 20,015 keys and
49,775 values of ``SYSTEM_2``, 43,211 and 90,283 of ``SYSTEM_WIN_10_1709``, which takes minutes."""

import lzma
from pathlib import Path

import pytest

from contract.memory_filesystem import Memory
from contract.regf_oracle import check_hive
from mntapi.guests.windows.regf import Hive

SAMPLES = Path(__file__).parents[3] / "shared/images/regipy/regipy_tests/data"

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


def test_the_samples_are_dirty_and_have_no_logs(samples):
    for name in {name for name, _ in CASES}:
        hive = Hive.open(Memory((samples / name).read_bytes()), path=name)
        assert "no transaction log" in (hive.doubt or "")
