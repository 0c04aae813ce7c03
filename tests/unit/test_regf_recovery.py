"""Transaction logs: applied in memory as regipy applies them to a file; damaged ones as far as they are sound."""

import struct

import pytest

from contract.hive_builder import (
    BINS,
    build_hive,
    changed_pages,
    log_entry,
    new_log,
    old_log,
    with_sequences,
)
from contract.memory_filesystem import Memory
from contract.regf_oracle import check_hive
from mntapi.blocks import Fault, read
from mntapi.errors import Corrupt, MntapiError
from mntapi.guests.windows.regf import Hive, log, recovery
from mntapi.guests.windows.regf.recovery import recover

PAGES = 12


def state(number, **options):
    """The hive after change ``number``: values of the same length, spread over the pages."""
    keys = {f"key {key}": {"state": f"{number:06}", "data": bytes([key]) * 3000} for key in range(8)}
    return build_hive({"Last": {"n": number}, **keys}, pages=PAGES, **options)


BEFORE = with_sequences(state(0), 12, 11)
FIRST, SECOND, THIRD = state(1), state(2), state(3)
BINS_SIZE = len(BEFORE) - BINS


def entry(sequence, before, after):
    return log_entry(sequence, len(after) - BINS, changed_pages(before, after))


ENTRIES = {11: entry(11, BEFORE, FIRST), 12: entry(12, FIRST, SECOND), 13: entry(13, SECOND, THIRD)}


def logs_of(*groups, clustering=1):
    return [new_log(BEFORE, [ENTRIES[number] for number in group], group[0], clustering=clustering) for group in groups]


def opened(primary, logs):
    return Hive.open(Memory(primary), [Memory(one) for one in logs], path="SYSTEM")


def last(hive):
    return hive.key("Last").value("n").number()


def content(primary, logs):
    found = recover(Memory(primary), [Memory(one) for one in logs]).content
    return read(found, BINS, found.size - BINS)


@pytest.mark.parametrize("groups", [[(11, 12, 13)], [(11,), (12, 13)], [(13,), (11, 12)], [(12, 13), (11,)]])
def test_entries_apply_in_order_whichever_log_has_them(groups):
    hive = opened(BEFORE, logs_of(*groups))
    assert (last(hive), hive.applied, hive.doubt) == (3, 3, None)
    assert content(BEFORE, logs_of(*groups)) == THIRD[BINS:]


def test_the_same_as_regipy_makes_of_it(tmp_path):
    recovery_of_regipy = pytest.importorskip("regipy.recovery")
    (tmp_path / "hive").write_bytes(BEFORE)
    for number, one in enumerate(logs_of((13,), (11, 12)), 1):
        (tmp_path / f"log{number}").write_bytes(one)
    made, count = recovery_of_regipy.apply_transaction_logs(
        str(tmp_path / "hive"), str(tmp_path / "log1"), str(tmp_path / "log2"), str(tmp_path / "restored")
    )
    assert count == sum(len(changed_pages(*pair)) for pair in ((BEFORE, FIRST), (FIRST, SECOND), (SECOND, THIRD)))
    assert content(BEFORE, logs_of((13,), (11, 12))) == (tmp_path / "restored").read_bytes()[BINS:]
    assert check_hive(opened(BEFORE, logs_of((13,), (11, 12))), tmp_path / "restored") == (10, 17)
    assert made == str(tmp_path / "restored")


def test_an_old_log_as_regipy_applies_it(tmp_path):
    recovery_of_regipy = pytest.importorskip("regipy.recovery")
    (tmp_path / "hive").write_bytes(BEFORE)
    (tmp_path / "log").write_bytes(old_log(BEFORE, THIRD))
    recovery_of_regipy.apply_transaction_logs(str(tmp_path / "hive"), str(tmp_path / "log"), None, str(tmp_path / "restored"))
    hive = opened(BEFORE, [old_log(BEFORE, THIRD)])
    assert (last(hive), hive.applied, hive.doubt) == (3, 1, None)
    assert content(BEFORE, [old_log(BEFORE, THIRD)]) == THIRD[BINS:] == (tmp_path / "restored").read_bytes()[BINS:]


def test_a_clean_hive_ignores_its_logs():
    clean = with_sequences(BEFORE, 11, 11)
    hive = opened(clean, logs_of((11, 12, 13)))
    assert (last(hive), hive.applied, hive.doubt) == (0, 0, None)


def test_sectors_of_4096_bytes():
    assert last(opened(BEFORE, logs_of((11, 12), clustering=8))) == 2


def test_old_entries_in_front_are_skipped():
    assert last(opened(with_sequences(FIRST, 13, 12), logs_of((11, 12, 13)))) == 3


def test_a_gap_ends_the_log():
    hive = opened(BEFORE, logs_of((11, 13)))
    assert (last(hive), hive.applied) == (1, 1)


def test_a_hive_that_grew():
    grown = build_hive({"Last": {"n": 4}, "more": {"x": b"x" * 16000}}, pages=PAGES + 8)
    hive = opened(BEFORE, [new_log(BEFORE, [entry(11, BEFORE, grown)], 11)])
    assert last(hive) == 4
    assert hive.key("more").value("x").data() == b"x" * 16000
    lacking = log_entry(11, len(grown) - BINS + 65536, changed_pages(BEFORE, grown))
    found = recover(Memory(BEFORE), [Memory(new_log(BEFORE, [lacking], 11))])
    with pytest.raises(Corrupt, match="cut off"):
        read(found.content, found.content.size - 512, 512)


def test_without_a_log_it_is_read_as_it_is_and_doubted():
    for logs in ([], [b""], [bytes(1024)], logs_of((13,)), [old_log(BEFORE, THIRD, written=1)]):
        hive = opened(BEFORE, logs)
        assert last(hive) == 0
        assert "no transaction log tells the rest" in hive.doubt


def test_logs_that_cannot_be_used_are_told():
    damaged = bytearray(logs_of((11,))[0])
    damaged[100] ^= 1
    hive = opened(BEFORE, [bytes(damaged), b"no log at all".ljust(600)])
    assert "checksum of the hive's base block" in hive.doubt
    assert "no registry hive" in hive.doubt
    only_base = logs_of((11,))[0][:512]
    assert opened(BEFORE, [only_base]).applied == 0


def test_a_log_that_cannot_be_read_is_told():
    one = logs_of((11, 12))[0]
    at = 512 + len(ENTRIES[11]) + 600
    hive = Hive.open(Memory(BEFORE), [Fault(Memory(one), bad=[(at, 512)])])
    assert last(hive) == 1
    assert "the log ends at entry 12" in hive.doubt


@pytest.mark.parametrize(
    ("at", "what"),
    [
        (40, "checksum of a log entry"),
        (600, "checksum of a log entry"),
        (-1, "checksum of a log entry"),
        (20, None),
        (32, None),
    ],
)
def test_a_damaged_entry_ends_the_log(at, what):
    second = bytearray(ENTRIES[12])
    second[at] ^= 1
    hive = opened(BEFORE, [new_log(BEFORE, [ENTRIES[11], bytes(second), ENTRIES[13]], 11)])
    assert (last(hive), hive.applied) == (1, 1)
    assert what is None or what in hive.doubt


@pytest.mark.parametrize(
    ("pages", "text"),
    [
        ([(BINS_SIZE, bytes(4096))], "outside the hive"),
        ([(0xFFFFF000, bytes(4096))], "outside the hive"),
        ([(5, bytes(512))], "outside the hive"),
        ([(0, b"")], "outside the hive"),
        ([(0, bytes(100))], "outside the hive"),
    ],
)
def test_pages_outside_the_hive(pages, text):
    hive = opened(BEFORE, [new_log(BEFORE, [log_entry(11, BINS_SIZE, pages)], 11)])
    assert last(hive) == 0
    assert text in hive.doubt


def test_pages_outside_their_entry():
    one = bytearray(log_entry(11, BINS_SIZE, [(0, bytes(512))]))
    struct.pack_into("<I", one, 44, 4096)
    one[24:40] = struct.pack("<Q", log.marvin32(bytes(one[40:]))) + bytes(8)
    one[32:40] = struct.pack("<Q", log.marvin32(bytes(one[:32])))
    hive = opened(BEFORE, [new_log(BEFORE, [bytes(one)], 11)])
    assert "outside the entry" in hive.doubt


@pytest.mark.parametrize(("offset", "value"), [(4, 0), (4, 512 + 8), (4, 1 << 31), (16, 0), (16, 5), (20, 1 << 30)])
def test_headers_that_make_no_sense(offset, value):
    one = bytearray(ENTRIES[11])
    struct.pack_into("<I", one, offset, value)
    one[32:40] = struct.pack("<Q", log.marvin32(bytes(one[:32])))
    assert opened(BEFORE, [new_log(BEFORE, [bytes(one)], 11)]).applied == 0


def test_more_than_is_replayed_is_told(monkeypatch):
    monkeypatch.setattr(recovery, "MAX_REPLAY", len(ENTRIES[11]) + len(ENTRIES[12]))
    hive = opened(BEFORE, logs_of((11, 12, 13)))
    assert (last(hive), hive.applied) == (2, 2)
    assert "entries from 13 on are not applied" in hive.doubt


def test_a_log_has_only_so_many_entries(monkeypatch):
    monkeypatch.setattr(log, "MAX_ENTRIES", 2)
    assert opened(BEFORE, logs_of((11, 12, 13))).applied == 2


def test_an_old_log_that_is_cut_off_or_too_long(monkeypatch):
    one = old_log(BEFORE, THIRD)
    hive = opened(BEFORE, [one[:-512]])
    assert last(hive) == 0
    assert "transaction log is cut off" in hive.doubt
    monkeypatch.setattr(log, "MAX_REPLAY", 1024)
    assert "transaction log is too long" in opened(BEFORE, [one]).doubt


def test_an_old_log_that_was_not_completed_is_not_used():
    assert opened(BEFORE, [old_log(BEFORE, THIRD, sequences=(9, 8))]).applied == 0


@pytest.mark.parametrize("groups", [[(11, 12, 13)], [(13,), (11, 12)], [(12, 13), (11,)]])
def test_a_base_block_that_is_damaged_comes_from_a_log(groups):
    torn = b"\xff" * 512 + BEFORE[512:]
    hive = opened(torn, logs_of(*groups))
    assert (last(hive), hive.applied) == (3, 3)


def test_a_base_block_that_is_damaged_comes_from_an_old_log():
    stamp = struct.unpack_from("<Q", BEFORE, BINS + 20)[0]
    hive = opened(bytes(512) + BEFORE[512:], [old_log(BEFORE, THIRD, written=stamp)])
    assert (last(hive), hive.applied) == (3, 1)


def test_a_base_block_that_is_damaged_with_no_log_for_it():
    for logs in ([], [b"regf"], [old_log(BEFORE, THIRD, written=5)]):
        with pytest.raises(MntapiError, match="no registry hive"):
            opened(bytes(512) + BEFORE[512:], logs)


def test_reads_across_replaced_sectors():
    found = recover(Memory(BEFORE), [Memory(old_log(BEFORE, THIRD))]).content
    for offset in range(BINS, BINS + 20000, 777):
        for length in (1, 511, 512, 513, 5000):
            assert read(found, offset, length) == THIRD[offset : offset + length]
    extents = list(found.extents(0, found.size))
    assert [extent.length for extent in extents] == [found.size]
    found.close()
