"""The progress bar of the verbs that copy: on a terminal, on standard error, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mntapi.cli.output import escape


@contextmanager
def progress_bar(quiet: bool, total: int | None = None) -> Iterator[Callable[[str, int], None]]:
    """Shows bytes, speed and the current file; with ``total`` (bytes, where known) also a bar and the time that is left.

    Yields a function to be told the file and how many more bytes of it are done.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda path, count: None
        return
    from rich import progress as rich
    from rich.console import Console
    from rich.text import Text

    amount: list[rich.ProgressColumn] = [rich.DownloadColumn(binary_units=True), rich.TransferSpeedColumn()]
    known: list[rich.ProgressColumn] = [] if total is None else [rich.BarColumn(), rich.TimeRemainingColumn()]
    columns = (rich.SpinnerColumn(), *known, *amount, rich.TextColumn("{task.description}"))
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)

        def advance(path: str, count: int) -> None:
            bar.update(task, advance=count, description=Text(escape(path)).markup)

        yield advance
