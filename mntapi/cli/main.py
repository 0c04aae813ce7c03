"""The command ``mntapi``: the table of verbs, the exit codes, and the one place where errors become text."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module

import click

from mntapi import errors
from mntapi.cli.output import complain

VERBS = {
    "info": "mntapi.cli.info",
    "ls": "mntapi.cli.ls",
    "cat": "mntapi.cli.cat",
    "cp": "mntapi.cli.cp",
    "find": "mntapi.cli.find",
    "versions": "mntapi.cli.versions",
    "map": "mntapi.cli.map",
    "convert": "mntapi.cli.convert",
    "check": "mntapi.cli.check",
    "mount": "mntapi.cli.mount",
    "umount": "mntapi.cli.umount",
    "ps": "mntapi.cli.ps",
    "overlay": "mntapi.cli.overlay",
    "clean": "mntapi.cli.clean",
    "doctor": "mntapi.cli.doctor",
}
"""Verb -> module, imported on use so that each starts as fast as it can."""

_CHANGING = frozenset({"cp", "convert", "mount", "overlay"})
"""Verbs that make something."""

OK, FAILED, USAGE, PARTIAL, NOT_FOUND, BUSY, DENIED, UNSUPPORTED, CORRUPT, AWAY = range(10)
INTERRUPTED = 130
EXIT_CODES = (
    (OK, "fine"),
    (FAILED, "failed: the system or a program we need did not work"),
    (USAGE, "usage: the command line makes no sense"),
    (PARTIAL, "some files failed; each is named on standard error"),
    (NOT_FOUND, "not found: a disk, parent, volume, path or mount"),
    (BUSY, "in use, or used up"),
    (DENIED, "permission denied, by the system or by a safety rule"),
    (UNSUPPORTED, "understood, and not read by this version"),
    (CORRUPT, "damaged: bytes that contradict their format, or cannot be read"),
    (AWAY, "no server: it cannot be reached, is too busy, or refuses to serve; another time it may"),
    (INTERRUPTED, "interrupted (Ctrl-C); what was begun has been undone"),
)
_EXIT_BY_ERROR = (
    (errors.NotFound, NOT_FOUND),
    (errors.Busy, BUSY),
    (errors.Denied, DENIED),
    (errors.Unsupported, UNSUPPORTED),
    (errors.Corrupt, CORRUPT),
    (errors.ReadFailed, CORRUPT),
    (errors.Invalid, USAGE),
)


_HINTS = {
    FAILED: "mntapi doctor says what this host has and lacks",
    USAGE: "mntapi {verb} --help",
    NOT_FOUND: "mntapi info shows disks and volumes, mntapi ls what is in a folder",
    BUSY: "mntapi ps shows what is mounted",
    DENIED: "run as root, or as the owner of the files",
    UNSUPPORTED: "mntapi info shows what of a disk can be read",
    CORRUPT: "mntapi check shows what else is wrong with a disk; another backup may have it whole",
    AWAY: "is the server running, and may this host speak to it? The disk itself may be whole",
}
"""What to do next, where the error itself does not say."""
_HINTS_BY_REASON = {
    "wrong-key": "mntapi info shows which kinds of key open a volume",
    "original": "name a file that is not there yet",
}
_HINTS_BY_ERRNO = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room there, or name another place") | {
    errno.EFBIG: "the file system there, or ulimit -f, has no files of that size: name another place",
    errno.EROFS: "it is mounted read-only: name another place",
}
_REFUSED_TO_ROOT = "even root may not: the file system may be read-only, or a security module forbids it"


class _Verbs(click.Group):
    """A group whose verbs are imported when called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(VERBS[cmd_name]).command
        return command


def _epilog() -> str:
    return "\b\nExit codes:\n" + "\n".join(f"{code:>5}  {text}" for code, text in EXIT_CODES)


def _version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"mntapi {version('mntapi')}")
        ctx.exit()


@click.group(cls=_Verbs, epilog=_epilog(), context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
def cli() -> None:
    """Open the virtual disks of a machine, find their volumes, read files out of them, mount them.

    SET is a disk; more disks of the same machine follow as -d DISK. Originals are only ever read.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # being told to end is an interrupt: what was begun is undone
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, signal.default_int_handler)
    try:
        result = cli.main(args=None if arguments is None else list(arguments), prog_name="mntapi", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as request:
        return request.exit_code
    except (KeyboardInterrupt, click.Abort):
        complain("error: interrupted")
        if _verb() in _CHANGING:
            complain("hint: what was begun has been undone")
        return INTERRUPTED
    except click.ClickException as error:
        return _usage(error)
    except errors.MntapiError as error:
        return report(error)
    except BrokenPipeError:
        _drop_output()
        return FAILED
    except OSError as error:
        _drop_output()
        return report(_not_written(error))
    except Exception as error:  # noqa: BLE001 (boundary: a defect of ours must still be one line)
        return _defect(error)
    return result if isinstance(result, int) else OK


def report(error: errors.MntapiError) -> int:
    """Print an error and its hint; returns the exit code it stands for."""
    code = _code_of(error)
    complain(f"error: {error}")
    complain(f"hint: {error.hint or _hint(error, code)}")
    return code


def _hint(error: errors.MntapiError, code: int) -> str:
    """By what is known best: our rule, the system's word, the kind of error."""
    known = _HINTS_BY_REASON.get(error.reason or "") or _HINTS_BY_ERRNO.get(error.errno)
    if known is None and code == DENIED and error.reason is None and os.geteuid() == 0:
        return _REFUSED_TO_ROOT
    return known or _HINTS[code].format(verb=_verb())


def _not_written(error: OSError) -> errors.Failed:
    failed = errors.Failed(f"cannot be written: {error.strerror}", path=error.filename or "standard output")
    failed.errno = error.errno or failed.errno
    return failed


def _verb() -> str:
    return next((word for word in sys.argv[1:] if word in VERBS), "")


def _code_of(error: errors.MntapiError) -> int:
    if isinstance(error, errors.ReadFailed) and error.reason in errors.AWAY:
        return AWAY
    return next((code for kind, code in _EXIT_BY_ERROR if isinstance(error, kind)), FAILED)


def _usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.ctx.get_help(), err=True)
        return USAGE
    complain(f"error: {' '.join(error.format_message().split())}")  # click breaks lines by itself
    context = error.ctx if isinstance(error, click.UsageError) else None
    complain(f"hint: {context.command_path if context else 'mntapi'} --help")
    return USAGE


def _drop_output() -> None:
    """Nobody takes our output, as when ``head`` has seen enough: what is left of it is not tried again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _defect(error: Exception) -> int:
    if os.environ.get("MNTAPI_DEBUG"):
        raise error
    complain(f"error: unexpected {type(error).__name__}: {error}")
    complain("hint: this is a defect of mntapi; repeat with MNTAPI_DEBUG=1 for its place, and please report it")
    return FAILED
