"""What is said of volumes that no key opened."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from mntapi.blocks import Zero
from mntapi.cli.selection import tell_ciphertext, tell_locked
from mntapi.session.diskset import DiskSet
from mntapi.types import Volume, VolumeState
from mntapi.volumes.scan import Found

EIGHT = ", ".join(f"disk0p{number}" for number in range(1, 9))


def volumes(states: list[VolumeState]) -> list[Volume]:
    return [
        Volume(id=f"gpt:{number}", name=f"disk0p{number}", kind="partition", blocks=Zero(512), state=state)
        for number, state in enumerate(states, 1)
    ]


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([VolumeState.OK, VolumeState.INCOMPLETE], ""),
        (
            [VolumeState.OK, VolumeState.ENCRYPTED],
            "note: disk0p2 is encrypted and locked: --key disk0p2:FILE opens it\n",
        ),
        (
            [VolumeState.ENCRYPTED] * 2,
            "note: disk0p1, disk0p2 are encrypted and locked: --key VOLUME:FILE opens one\n",
        ),
        (
            [VolumeState.ENCRYPTED] * 10,
            f"note: {EIGHT} and 2 more are encrypted and locked: --key VOLUME:FILE opens one\n",
        ),
    ],
)
def test_locked_volumes_are_named(states: list[VolumeState], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with DiskSet([], Found(volumes(states), []), ExitStack()) as disk_set:
        tell_locked(disk_set)
    assert capsys.readouterr() == ("", said)


def test_a_copy_of_ciphertext_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for volume in volumes([VolumeState.OK, VolumeState.ENCRYPTED]):
        tell_ciphertext(volume)
    said = "note: disk0p2 is locked: what is written is the encrypted volume, ciphertext that needs its key\n"
    assert capsys.readouterr() == ("", said)
