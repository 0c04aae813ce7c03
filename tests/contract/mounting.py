"""Mounts for tests, made by the kernel or by ntfs-3g: the oracles. Nothing is left behind, whatever happens in between."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def need(*tools: str) -> None:
    """Skip the test, with a reason, where a tool is absent."""
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if absent:
        pytest.skip("not installed: " + ", ".join(absent))


def need_root() -> None:
    """Skip the test where mounting is not possible."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("needs root and loop devices")


def run(*command: str | Path, stdin: str | None = None) -> str:
    """Run a tool; its output, or an error with what it said."""
    done = subprocess.run([str(part) for part in command], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@contextmanager
def mounted(image: Path, options: str = "ro", *, kind: str | None = None) -> Iterator[Path]:
    """The image mounted on a folder beside it, by the kernel over a loop device."""
    with _folder(image) as top:
        run("mount", "-o", f"loop,{options}", *(["-t", kind] if kind else []), image, top)
        try:
            yield top
        finally:
            run("umount", top)


@contextmanager
def mounted_ntfs(image: Path, options: str = "ro") -> Iterator[Path]:
    """The image mounted by ntfs-3g."""
    with _folder(image) as top:
        run("ntfs-3g", "-o", options, image, top)
        try:
            yield top
        finally:
            run("umount", top)
            _wait_for_daemon(image)


def _wait_for_daemon(image: Path) -> None:
    """ntfs-3g writes and lets go of the image after umount(8) came back; it holds a lock until then."""
    import fcntl

    with image.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)


@contextmanager
def _folder(image: Path) -> Iterator[Path]:
    top = image.with_name(image.name + ".mnt")
    top.mkdir()
    try:
        yield top
    finally:
        top.rmdir()
