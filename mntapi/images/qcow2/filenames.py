"""The names that QEMU writes for files below an image: a path, ``file:PATH``, a URL, or ``json:`` with a tree of options.

A relative path in ``json:`` counts from the folder of the image, as in all other names; QEMU, which has no image yet when it
reads the options, takes it from the folder it happens to run in.

Source: QEMU, block.c ``bdrv_fill_options``, ``parse_json_filename``; docs/system/qemu-block-drivers; and qemu-io 7.2, which for
a format in the header passes over the one in the name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mntapi.errors import Corrupt, Unsupported
from mntapi.remote import is_url

_PROTOCOL = re.compile(r"([^/:]*):")
_LOCAL_DRIVERS = ("file", "host_device")
_PATH, _PATH_DRIVER, _FORMAT = "file.filename", "file.driver", "driver"
_HARMLESS = {
    *("node-name", "read-only", "auto-read-only", "force-share", "detect-zeroes", "discard", "aio", "locking", "drop-cache"),
    *("cache.direct", "cache.no-flush", "cache.writeback", "cache-size", "l2-cache-size", "l2-cache-entry-size"),
    *("refcount-cache-size", "cache-clean-interval", "lazy-refcounts", "overlap-check"),
    *("pass-discard-request", "pass-discard-snapshot", "pass-discard-other"),
}
"""Options that decide how QEMU works and not what it reads."""
_HINT = "qemu-img rebase -u -b FILE -F FORMAT names the file instead"


@dataclass(frozen=True, slots=True)
class FileName:
    """A path or URL for the opener, and the format if the name says it, in QEMU's words."""

    path: str
    format: str | None = None


def parse_file_name(name: str) -> FileName:
    """What a name in an image stands for.

    Raises:
        Corrupt: options that cannot be read.
        Unsupported: it is no local file and no URL, or has options that change what is read; by name.
    """
    if name.startswith("json:"):
        return _parse_options(name)
    return FileName(_parse_plain(name))


def _parse_plain(name: str) -> str:
    """The path in ``PROTOCOL:...`` up to the first slash, else a path. A URL stays one."""
    protocol = _PROTOCOL.match(name)
    if protocol is None or is_url(name):
        return name
    if protocol[1] == "file":
        return _local(name[protocol.end() :])
    raise _no_file(name, f"{protocol[1]!a} protocol")


def _no_file(name: str, found: str) -> Unsupported:
    return Unsupported(f"names {name!a}, which is not a file", found=found, hint=_HINT, reason="backing-protocol")


def _local(path: str) -> str:
    """The path so that nothing takes it for a URL."""
    return f"./{path}" if ":" in path.split("/", 1)[0] else path


def _parse_options(name: str) -> FileName:
    try:
        options = dict(_flat(json.loads(name.removeprefix("json:"))))
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"names {name!a}, whose options cannot be read", found=str(error), reason="backing-options") from error
    for option in options:
        if option not in (_PATH, _PATH_DRIVER, _FORMAT) and option.removeprefix("file.") not in _HARMLESS:
            raise Unsupported(
                f"names {name!a}, with an option that is not known", found=option, hint=_HINT, reason="backing-options"
            )
    driver, path, format_ = (options.get(option) for option in (_PATH_DRIVER, _PATH, _FORMAT))
    if driver is not None and driver not in _LOCAL_DRIVERS:
        raise _no_file(name, f"{driver!a} driver")
    if not isinstance(path, str) or not isinstance(format_, str | None):
        raise _no_file(name, f"{format_!a} driver")
    return FileName(_local(path), format_)


def _flat(options: object) -> Iterator[tuple[str, object]]:
    """The options with the names that QEMU knows them by where they are not nested: ``file.filename``."""
    if not isinstance(options, dict):
        raise ValueError("no tree of options")
    for name, value in options.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", each) for inner, each in _flat(value))
        else:
            yield name, value
