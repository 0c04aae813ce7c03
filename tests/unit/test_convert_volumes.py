"""Volumes that are not converted: of which nobody can say how large they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from contract.md_builder import member1
from mntapi.cli import convert
from mntapi.errors import Corrupt, ReadFailed

CONTENT = b"x" * 65536


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (member1(CONTENT, (0, 1), level=0, layout=2, chunk=1), "chunk size of the MD array makes no sense"),
        (member1(CONTENT, (0, 1), level=-1, chunk=8, size=0), "member 1 of the array is missing"),
        (member1(CONTENT, (0, 1), number=1, level=-1, chunk=8, size=0), "member 0 of the array is missing"),
        (member1(CONTENT, (0, 1), level=0, layout=2, chunk=8, features=4096, size=0), "a member of the RAID 0 is missing"),
    ],
    ids=["damaged", "linear-without-its-last", "linear-without-its-first", "raid0"],
)
def test_nothing_passes_for_a_whole_volume(member: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(member)
    out = tmp_path / "out"
    done = CliRunner().invoke(convert.command, [str(tmp_path / "disk"), str(out), "--format", "raw", "--volume", "md-made"])
    assert isinstance(done.exception, Corrupt | ReadFailed) and why in str(done.exception)
    assert not out.exists()
