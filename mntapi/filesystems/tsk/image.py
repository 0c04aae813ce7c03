"""The one place that calls pytsk3: ``Blocks`` in, its objects out, its errors and the storage's turned into ours.

pytsk3 releases the interpreter's lock inside its calls and shares caches between them, so a lock of ours goes around each.
The Sleuth Kit goes on after some failed reads with whatever is in its buffer (tsk/img/img_io.c rounds a length up and then
loses the error), which is why a read that failed below fails the whole call, whatever it returned.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytsk3

from mntapi.blocks import Cache, check_range, read, whole
from mntapi.errors import Corrupt, Invalid, MntapiError, Unsupported
from mntapi.types import Blocks, Extent, ExtentKind

T = TypeVar("T")
MAX_CALL = 1 << 20
"""Bytes asked for in one call, so that other threads get their turn."""
_TSK_ERRORS = (OSError, RuntimeError, SystemError)
"""What pytsk3 was seen to raise; which one says nothing about the cause."""


class _Image(pytsk3.Img_Info):  # type: ignore[misc]  # pytsk3 has no types
    """The volume as pytsk3 wants it. Keeps the last error of the storage until it was made good or told."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self.error: MntapiError | None = None
        self._failed = (0, 0)
        super().__init__(url="", type=pytsk3.TSK_IMG_TYPE_EXTERNAL)

    def read(self, offset: int, length: int) -> bytes:
        """Called from C, which asks for 64 KiB to fill its cache, and after an error again for just what it needs.

        An error is told as no bytes: an exception would be raised out of the call even where the second try succeeded.
        """
        end = min(offset + length, self._blocks.size)
        try:
            content = read(self._blocks, offset, max(0, end - offset))
        except MntapiError as error:
            self.error, self._failed = error, (offset, end)
            return b""
        if self.error and self._failed[0] <= offset and end <= self._failed[1]:
            self.error = None
        return content

    def get_size(self) -> int:
        """Called from C."""
        return self._blocks.size

    def close(self) -> None:
        """Called from C; the volume belongs to somebody else."""


class Session:
    """A file system open in The Sleuth Kit. Thread-safe; borrows the volume.

    Raises (from every method):
        Corrupt: The Sleuth Kit says so, or something it says so for.
        Invalid: it is closed.
        MntapiError: what reading the volume raised, with its byte.
    """

    def __init__(self, volume: Blocks, kind: int) -> None:
        self._lock = threading.RLock()
        self._cache = Cache(volume)
        self._image: _Image | None = _Image(self._cache)
        self._fs: Any = self.call(pytsk3.FS_Info, self._image, 0, kind)

    @property
    def fs(self) -> Any:
        """The pytsk3 ``FS_Info``. Raises Invalid once closed."""
        if self._fs is None:
            raise Invalid("the file system is closed")
        return self._fs

    def call(self, function: Callable[..., T], *args: Any, **named: Any) -> T:
        """Call into pytsk3. ``StopIteration`` passes through if no read failed."""
        with self._lock:
            image = self._image
            if image is None:
                raise Invalid("the file system is closed")
            image.error = None
            try:
                result = function(*args, **named)
            except _TSK_ERRORS as error:
                raise image.error or _translate(error) from None
            except StopIteration:
                if image.error:
                    raise image.error from None
                raise
            if image.error:
                raise image.error
            return result

    def file(self, inode: int) -> Any:
        """The pytsk3 ``File`` of that number."""
        return self.call(self.fs.open_meta, inode=inode)

    def close(self) -> None:
        """Forget what was cached, and let go of the C library's objects: they have no other end, and hold megabytes each."""
        with self._lock:
            self._fs = self._image = None
        self._cache.close()

    def attributes(self, file: Any) -> list[Any]:
        """Its attributes (forks, streams, extents), loaded now."""
        return self.call(list, file)


def _translate(error: BaseException) -> MntapiError:
    text = str(error).split(") ", 1)[-1].replace("\n", " ")
    if "nsupported" in text or "not supported" in text:
        return Unsupported(text, reason="tsk-unsupported")
    return Corrupt(text, reason="tsk")


class TskBlocks:
    """An attribute's bytes, decoded by The Sleuth Kit: compressed files. One call at a time, so not the fast way.

    Args:
        session: where ``file`` is open.
        file: the pytsk3 ``File``.
        attribute: one of its attributes.
        size: bytes it must have.
    """

    def __init__(self, session: Session, file: Any, attribute: Any, size: int, sector_size: int) -> None:
        self._session = session
        self._file = file
        self._type = attribute.info.type
        self._id = attribute.info.id
        self.size = size
        self.sector_size = sector_size
        if attribute.info.size < size:
            raise Corrupt("an attribute is shorter than its file", expected=size, found=attribute.info.size)

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        for done in range(0, len(buffer), MAX_CALL):
            part = buffer[done : done + MAX_CALL]
            content = self._session.call(self._file.read_random, offset + done, len(part), self._type, self._id)
            if len(content) != len(part):
                raise Corrupt("a compressed file ends too early", expected=len(part), found=len(content), reason="tsk")
            part[:] = content

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return whole(offset, length, ExtentKind.DATA)

    def close(self) -> None:
        """Nothing to release."""
