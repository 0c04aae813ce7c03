"""Which of the files that were opened a disk consists of, and which of several openings of one is still open."""

from __future__ import annotations

from pathlib import Path

from mntapi.images.opener import DirectOpener
from mntapi.session.witness import Named, Witness


def test_files_in_the_order_in_which_they_name_each_other() -> None:
    named: Named[int] = Named()
    for count, (path, named_by) in enumerate([("a", None), ("b", "a"), ("x", None), ("c", "a"), ("d", "b"), ("a", "d")]):
        named.add(path, count, named_by)
    assert [path for path, _ in named.below("a")] == ["a", "b", "d", "c"]
    assert dict(named.below("x")) == {"x": 2} and list(named.below("never opened")) == []
    assert named.get("a") == 5 and named.get("y") is None and 5 in named


def test_what_was_closed_is_not_looked_at(tmp_path: Path) -> None:
    """A format may open a file to see whether it is there, before or after it opens it to read."""
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(512))
    witness = Witness(DirectOpener())
    assert witness.get(str(path)) is None
    first, second, third = (witness.open(str(path)) for _ in range(3))
    third.close()
    assert witness.get(str(path)) is second
    second.close()
    assert [file for _, file in witness.below(str(path))] == [first]
    first.close()
    assert witness.get(str(path)) is None and list(witness.below(str(path))) == []
