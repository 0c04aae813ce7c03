"""``mntapi find --name`` and ``--iname``: where upper and lower case are one."""

from __future__ import annotations

import pytest

from mntapi.cli.find import _named
from mntapi.types import Entry, FileKind, Node

FOLDS, TELLS_APART = Node(1, FileKind.FILE, 0), Node(2, FileKind.FILE, 0)


@pytest.mark.parametrize(
    ("names", "inames", "name", "where"),
    [
        (["BUDGET*"], [], "budget.xlsx", {FOLDS}),
        (["budget*"], [], "BUDGET.XLSX", {FOLDS}),
        (["Über*"], [], "ÜBER", {FOLDS}),
        (["[A-C]x"], [], "bx", {FOLDS}),
        (["b*"], [], "b", {FOLDS, TELLS_APART}),
        ([], ["BUDGET*"], "budget.xlsx", {FOLDS, TELLS_APART}),
        (["none", "B"], ["*.c"], "b", {FOLDS}),
        (["a*"], ["*.c"], "b", set()),
    ],
)
def test_names(names: list[str], inames: list[str], name: str, where: set[Node]) -> None:
    test = _named(names, inames, lambda node: node is FOLDS)
    assert {node for node in (FOLDS, TELLS_APART) if test(Entry(name, node))} == where
