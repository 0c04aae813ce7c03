"""A hive and a log with one byte changed: an error of ours or an answer, never another exception, and an end."""

import random
from contextlib import suppress

from contract.hive_builder import BINS, build_hive, changed_pages, log_entry, new_log, old_log, with_sequences
from contract.memory_filesystem import Memory
from mntapi.errors import MntapiError
from mntapi.guests.windows.regf import Hive

TREE = {
    "a": {"text": "value", "number": 5, "multi": ["x", "y"], "big": bytes(40000)},
    "b": {f"k{number}": {"v": number} for number in range(12)},
}
ROUNDS = 2000
STEPS = 2000


def _walk(hive):
    """As much as a walk that trusts nothing reads: every key at most once, and a limited number of them."""
    todo, seen = [hive.root], set()
    while todo and len(seen) < STEPS:
        key = todo.pop()
        if key.offset in seen:
            continue
        seen.add(key.offset)
        with suppress(MntapiError):
            for value in key.values():
                for reading in (value.data, value.text, value.texts, value.number):
                    with suppress(MntapiError):
                        reading()
        with suppress(MntapiError):
            todo.extend(key.subkeys())
        with suppress(MntapiError):
            key.subkey("k7")


def _changed(raw, place, value):
    return raw[:place] + bytes([raw[place] ^ value]) + raw[place + 1 :]


def _survives(primary, logs):
    with suppress(MntapiError):
        _walk(Hive.open(Memory(primary), [Memory(log) for log in logs], path="SYSTEM"))


def test_one_byte_of_a_hive():
    chance = random.Random(1)
    raw = build_hive(TREE, per_leaf=5)
    used = [place for place in range(BINS, len(raw)) if raw[place]] + list(range(512))
    for _ in range(ROUNDS):
        _survives(_changed(raw, chance.choice(used), chance.randrange(1, 256)), [])


def test_one_byte_of_a_log():
    chance = random.Random(2)
    before = with_sequences(build_hive(TREE, pages=20), 9, 8)
    after = build_hive({**TREE, "c": {"new": 1}}, pages=20)
    entry = log_entry(8, len(after) - BINS, changed_pages(before, after)[:2])
    for log in (new_log(before, [entry], 8), old_log(before, after)):
        for _ in range(ROUNDS // 10):
            _survives(before, [_changed(log, chance.randrange(len(log)), chance.randrange(1, 256))])
