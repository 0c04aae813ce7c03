"""XFS images whose log is full of changes: work by the kernel, from a seed, that ends without an unmount.

python xfs_crashes.py TOP SEED STEPS        # the work alone, on a folder: for the scripts that make golden images
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

_CLONE = 0x40049409
"""``FICLONE``."""
_CLONE_RANGE = struct.Struct("=qQQQ")
_CLONE_RANGE_COMMAND = 0x4020940D
_PUNCH, _COLLAPSE, _INSERT, _ZERO = 0x03, 0x08, 0x20, 0x10
_SIZES = (0, 10, 700, 5000, 70_000, 300_000)


class Work:
    """Random changes below ``top``, all from one seed."""

    def __init__(self, top: Path, seed: int) -> None:
        self.top = top
        self._dice = random.Random(seed)
        self._folders = [top]
        self._count = 0

    def do(self, steps: int) -> None:
        """So many changes. What a file system cannot do, or what is in its way, is left out."""
        deeds: list[Callable[[], None]] = [
            self._write, self._write, self._write, self._folder, self._many, self._rename, self._rename, self._unlink,
            self._unlink, self._truncate, self._attribute, self._attribute, self._punch, self._clone, self._clone_range,
            self._symlink, self._link, self._touch, self._touch, self._fragment, self._sync, self._list_acl,
        ]  # fmt: skip
        for step in range(steps):
            with contextlib.suppress(OSError):
                (self._remove_folder if step % 40 == 39 else self._dice.choice(deeds))()

    def _name(self) -> Path:
        self._count += 1
        return self._dice.choice(self._folders) / ("n" * self._dice.choice((1, 1, 1, 30, 200)) + str(self._count))

    def _some(self) -> Path:
        """A file that there is; OSError if none."""
        folder = self._dice.choice(self._folders)
        files = sorted(entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False))
        if not files:
            raise FileNotFoundError(folder)
        return folder / self._dice.choice(files)

    def _bytes(self) -> bytes:
        return self._dice.randbytes(16) * (self._dice.choice(_SIZES) // 16)

    def _write(self) -> None:
        with self._name().open("wb") as file:
            file.write(self._bytes())
            if self._dice.random() < 0.5:
                file.flush()
                os.fsync(file.fileno())

    def _folder(self) -> None:
        name = self._name()
        name.mkdir()
        self._folders.append(name)

    def _many(self) -> None:
        """Names, so that a folder grows through its forms; then some of them go."""
        folder = self._name()
        folder.mkdir()
        self._folders.append(folder)
        count = self._dice.choice((5, 60, 300, 900))
        (folder / "0").touch()
        for index in range(1, count):
            if index % 7:
                os.link(folder / "0", folder / f"{'entry' * self._dice.choice((1, 5))}{index}")
            else:
                (folder / f"{index}").touch()
        for name in sorted(os.listdir(folder))[:: self._dice.choice((2, 3, 1000))]:
            (folder / name).unlink()

    def _remove_folder(self) -> None:
        folder = self._dice.choice(self._folders[1:] or [self.top / "none"])
        shutil.rmtree(folder)
        self._folders = [name for name in self._folders if name != folder and folder not in name.parents]

    def _rename(self) -> None:
        os.rename(self._some(), self._dice.choice([self._name, self._some])())

    def _unlink(self) -> None:
        self._some().unlink()

    def _truncate(self) -> None:
        os.truncate(self._some(), self._dice.choice((0, 3, 4096, 100_000, 1_000_000)))

    def _attribute(self) -> None:
        name = f"user.{self._dice.choice('abcdefgh') * self._dice.choice((1, 20, 100))}"
        path = self._some()
        if self._dice.random() < 0.3:
            os.removexattr(path, self._dice.choice(os.listxattr(path) or [name]))
        else:
            os.setxattr(path, name, self._dice.randbytes(self._dice.choice((0, 5, 60, 700, 3000, 9000))))

    def _list_acl(self) -> None:
        entries = [(1, 6, 0xFFFFFFFF), (2, 4, 1000 + self._dice.randrange(9)), (4, 4, 0xFFFFFFFF)]
        entries += [(0x10, 6, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF)]
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<2HI", *entry) for entry in entries)
        os.setxattr(self._some(), "system.posix_acl_access", acl)

    def _punch(self) -> None:
        import ctypes

        with self._some().open("r+b") as file:
            mode = self._dice.choice((_PUNCH, _COLLAPSE, _INSERT, _ZERO, 0, 1))
            at, length = 4096 * self._dice.randrange(20), 4096 * self._dice.randrange(1, 20)
            libc = ctypes.CDLL(None, use_errno=True)
            libc.fallocate64(file.fileno(), mode, ctypes.c_int64(at), ctypes.c_int64(length))

    def _clone(self) -> None:
        with self._some().open("rb") as source, self._name().open("wb") as target:
            fcntl.ioctl(target.fileno(), _CLONE, source.fileno())

    def _clone_range(self) -> None:
        with self._some().open("rb") as source, self._some().open("r+b") as target:
            at = 4096 * self._dice.randrange(10)
            where = _CLONE_RANGE.pack(source.fileno(), at, 4096 * self._dice.randrange(1, 9), 4096 * self._dice.randrange(30))
            fcntl.ioctl(target.fileno(), _CLONE_RANGE_COMMAND, where)

    def _symlink(self) -> None:
        os.symlink("t/" * self._dice.choice((1, 20, 150, 450)) + str(self._count), self._name())

    def _link(self) -> None:
        os.link(self._some(), self._name())

    def _touch(self) -> None:
        path = self._some()
        os.utime(path, ns=(self._dice.randrange(1 << 61), self._dice.randrange(1 << 61)))
        os.chown(path, self._dice.randrange(2000), self._dice.randrange(2000))
        os.chmod(path, self._dice.randrange(0o10000))

    def _fragment(self) -> None:
        """So many extents that they need a tree; later fewer."""
        with self._name().open("wb") as file:
            for index in range(self._dice.choice((20, 60, 400))):
                file.seek(index * 8192)
                file.write(b"%04d" % index)
                if index % 2 == 0:
                    os.ftruncate(file.fileno(), index * 8192 + 4096)
            if self._dice.random() < 0.7:
                os.fsync(file.fileno())

    def _sync(self) -> None:
        """What changed so far, into the log; from there it is brought to its place later."""
        os.utime(self.top, ns=(self._count, self._count))
        top = os.open(self.top, os.O_RDONLY)
        os.fsync(top)
        os.close(top)


if __name__ == "__main__":
    Work(Path(sys.argv[1]), int(sys.argv[2])).do(int(sys.argv[3]))
