"""Keys: which are tried on which volume, and that a secret shows itself nowhere."""

from __future__ import annotations

from dataclasses import replace

from mntapi.keys import Key, KeyKind, Keys, Secret
from mntapi.types import OpenOptions


def test_a_volumes_own_keys_come_first() -> None:
    spare = Key(KeyKind.PASSPHRASE, Secret(b"spare"))
    own = Key(KeyKind.PASSPHRASE, Secret(b"own"), "disk0p2")
    other = Key(KeyKind.RECOVERY, Secret(b"other"), "disk0p3")
    keys = Keys((spare, other, own))
    assert list(keys.of("gpt:1", "disk0p2", None)) == [own, spare]
    assert list(keys.of()) == [spare]


def test_a_secret_is_not_shown_and_can_be_wiped() -> None:
    secret = Secret(b"hunter2")
    keys = Keys((Key(KeyKind.PASSPHRASE, secret, "disk0p2"),))
    options = replace(OpenOptions(), keys=keys)
    for shown in (repr(secret), str(secret), repr(keys), repr(options), f"{keys.keys[0]}"):
        assert "hunter2" not in shown
    assert secret.reveal() == b"hunter2"
    keys.wipe()
    assert secret.reveal() == b""
