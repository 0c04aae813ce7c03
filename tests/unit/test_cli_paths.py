"""Paths on the command line are not looked at by click: its own types stat them, which hangs where a server is dead."""

from __future__ import annotations

from importlib import import_module

import click

from mntapi.cli.main import VERBS


def commands(command: click.Command) -> list[click.Command]:
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return [command, *(each for one in inner for each in commands(one))]


def test_no_verb_lets_click_look_at_a_path() -> None:
    found = []
    for verb in VERBS:
        for command in commands(import_module(f"mntapi.cli.{verb}").command):
            found += [f"{verb} {one.name}" for one in command.params if isinstance(one.type, click.Path)]
    assert found == []
