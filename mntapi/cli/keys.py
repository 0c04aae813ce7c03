"""``--key``, the folder MNTAPI_KEYS, and asking at the terminal: how keys get into the command."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence

import click

from mntapi.cli.output import complain, escape
from mntapi.kernel.arguments import hide_argument
from mntapi.keys import Key, KeyKind, Keys, Secret
from mntapi.session.keys import ENVIRONMENT, KeyFolder, read_key_file, typed_keys, usable_memory

HELP = f"""\
A key to an encrypted volume: VOLUME:FILE (a file with the passphrase, or a key file), VOLUME:recovery=NUMBERS or
VOLUME:recovery-file=FILE (BitLocker), VOLUME:startup=FILE (.BEK), VOLUME:header=FILE (a LUKS header stored elsewhere).
VOLUME is the name, id, UUID or PARTUUID, or * for all; of a header also its own UUID. Other keys are looked for in the folder
${ENVIRONMENT}, in files named after the volume: UUID.key, UUID.recovery, UUID.header, any.key; *.bek."""

_WORD = re.compile(r"(?P<volume>.+?):(?P<word>file|recovery|recovery-file|startup|header)=(?P<value>.*)", re.DOTALL)
_KINDS = {
    "file": KeyKind.PASSPHRASE,
    "recovery-file": KeyKind.RECOVERY,
    "startup": KeyKind.STARTUP,
    "header": KeyKind.HEADER,
}
_ASKS_NOT = frozenset({"info", "check"})
"""Verbs that look at a volume from outside."""


def parse_key(text: str) -> Key:
    """The key that an argument of ``--key`` stands for. One that is itself a secret is hidden from other users at once.

    Raises:
        click.BadParameter: it is none; the message does not repeat it.
        NotFound, Denied, Corrupt: its file cannot be read.
    """
    match = _WORD.fullmatch(text)
    if match is None:
        volume, colon, path = text.rpartition(":")
        if not (volume and colon and path):
            raise click.BadParameter("is not VOLUME:FILE", param_hint="--key")
        return read_key_file(path, KeyKind.PASSPHRASE, _volume(volume))
    volume, word, value = match["volume"], match["word"], match["value"]
    if word != "recovery":
        return read_key_file(value, _KINDS[word], _volume(volume))
    if not value.strip():
        raise click.BadParameter("names no recovery password", param_hint="--key")
    if not hide_argument(value):
        complain("note: the recovery password can be seen in the list of processes; use recovery-file=FILE")
    return Key(KeyKind.RECOVERY, Secret(value.strip().encode("utf-8", "surrogateescape")), _volume(volume))


def _volume(text: str) -> str | None:
    return None if text == "*" else text


def gather(arguments: Sequence[str], verb: str | None) -> Keys:
    """The keys of the command line, and where this verb gets more. Raises as ``parse_key``."""
    folder = os.environ.get(ENVIRONMENT)
    is_watched = sys.stderr is not None and sys.stderr.isatty()
    may_ask = verb not in _ASKS_NOT and is_watched and sys.stdin is not None and sys.stdin.isatty()
    return Keys(
        tuple(map(parse_key, arguments)),
        ask=_ask if may_ask else None,
        tell=_tell if may_ask else None,
        wait=_tell if is_watched else None,
        find=KeyFolder(folder).find if folder else None,
        memory=usable_memory(),
    )


def _ask(volume: str, wants: str) -> Iterable[Key]:
    """Ask at the terminal, without echo. Nothing typed: the volume stays locked."""
    import getpass

    complain(f"{volume}: {wants}")
    try:
        text = getpass.getpass(f"Key for {escape(volume)} (nothing: leave it locked): ")
    except EOFError:
        complain("")  # the prompt is a line of its own
        return []
    return typed_keys(os.fsencode(text))


def _tell(volume: str, why: str) -> None:
    """Say that it stays locked: what follows works without it; or that trying a key takes a while."""
    complain(f"{volume}: {why}")
