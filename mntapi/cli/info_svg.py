"""The disks of a set as a picture (SVG): each a bar to scale, partitions where they are, below them what lies on them.

What a colour means stands below, and in each box too if it is not the usual. Boxes too narrow for their names are named below
their tree; each tells all there is to it where the mouse points at it, and to screen readers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from xml.sax.saxutils import escape as escape_xml

from mntapi.cli.output import escape
from mntapi.session.diskset import DiskSet
from mntapi.session.stack import Branch, Stack
from mntapi.types import Volume, VolumeState
from mntapi.units import format_size

WIDTH, MARGIN, ROW, GAP = 1200, 24, 44, 28
"""Pixels: of the picture, around it, of a bar's height, between two trees."""
COLUMNS = 3
"""Narrow trees beside each other, with their names at their right."""
MIN_BOX = 2.0
MAX_BOXES = 2000
"""Boxes drawn; what is left out is said."""
_LETTER = 7.2
"""Pixels of a character."""
_CELL = (WIDTH - 2 * MARGIN) / COLUMNS
_NAME_ROOM = 200
"""Pixels that a name beside a box has at least."""
_MIN_NAME = 8
"""Characters of a longer name that are worth showing."""
_LINE = 18
_MAX_LISTED = 12
"""Boxes named below a tree."""
_CONTAINER = "container"
_FILLS = {
    _CONTAINER: ("#dce6f2", "something lies on it"),
    VolumeState.OK: ("#cfe8d5", "ok"),
    VolumeState.DIRTY: ("#fff0c2", "dirty: newest changes may be missing"),
    VolumeState.DEGRADED: ("#e3e79b", "degraded: redundancy is lost, all is readable"),
    VolumeState.DAMAGED: ("#f6c4c0", "damaged"),
    VolumeState.INCOMPLETE: ("#fbd9b5", "incomplete: a part is missing"),
    VolumeState.ENCRYPTED: ("#d9d2ee", "encrypted"),
    VolumeState.UNSUPPORTED: ("#dddddd", "not read by this version"),
    VolumeState.UNKNOWN: ("#f4f4f4", "unknown"),
}
_QUIET = (_CONTAINER, VolumeState.OK, VolumeState.UNKNOWN)
"""What a box need not say in words."""


def draw(disk_set: DiskSet) -> str:
    """The picture as the text of an SVG file, without its last newline."""
    canvas = _Canvas(disk_set)
    canvas.trees(Stack(disk_set.volumes, disk_set.containers).trees())
    return canvas.finish()


class _Box(NamedTuple):
    """A rectangle in pixels, its top left corner first; ``beside``: pixels at its right that are free for its name."""

    left: float
    top: float
    width: float
    beside: float = 0.0


class _Canvas:
    """Boxes and texts, collected from the top down."""

    def __init__(self, disk_set: DiskSet) -> None:
        self._set = disk_set
        volumes = (*disk_set.containers, *disk_set.volumes)
        self._largest = max([volume.size for volume in volumes], default=1) or 1
        self._names = {volume.id: volume.name for volume in volumes}
        self._parts: list[str] = []
        self._unnamed: list[tuple[str, str]] = []
        self._meanings: Counter[str] = Counter()
        self._top = float(MARGIN)

    def trees(self, trees: Iterable[Branch]) -> None:
        """Each from its bottom volume on; narrow ones beside each other."""
        column, lowest = 0, self._top
        for tree in trees:
            width = max(MIN_BOX, (WIDTH - 2 * MARGIN) * tree.volume.size / self._largest)
            is_narrow = width + _NAME_ROOM <= _CELL
            if column and (column == COLUMNS or not is_narrow):
                column, self._top = 0, lowest + GAP
            left = MARGIN + column * _CELL
            depth = self._branch(tree, _Box(left, self._top, width, _CELL - width - 16 if is_narrow else 0.0))
            lowest = max(lowest, self._list_unnamed(left, self._top + depth * ROW, 1 if is_narrow else COLUMNS))
            column = column + 1 if is_narrow else 0
            if not column:
                self._top = lowest + GAP
        self._top = lowest + GAP

    def _branch(self, branch: Branch, box: _Box) -> int:
        """A box with what lies on it below it; returns how many rows that takes."""
        if self._meanings.total() >= MAX_BOXES:
            return 1
        self._box(branch, box)
        depth = 0
        for inner, left, width in _places(branch, box.left, box.width):
            depth = max(depth, self._branch(inner, _Box(left, box.top + ROW, width)))
        return depth + 1

    def _box(self, branch: Branch, box: _Box) -> None:
        volume = branch.volume
        content = self._set.content(volume) if branch.is_leaf else None
        state = content.state if content else volume.state
        meaning = _CONTAINER if not branch.is_leaf and state is VolumeState.OK else state
        self._meanings[meaning] += 1
        signature = content.signature if content else None
        label = f" “{signature.label}”" if signature and signature.label else ""
        holds = f"{signature.kind if signature else volume.kind}{label} · {format_size(volume.size)}"
        holds += "" if meaning in _QUIET else f" · {state.value}"
        second = holds + self._lies_on(volume)
        reason = content.reason if content else volume.reason
        self._parts.append(
            f"<g><title>{_safe(': '.join(filter(None, (volume.name, second, reason))))}</title>"
            f'<rect x="{box.left:.2f}" y="{box.top:.1f}" width="{max(MIN_BOX, box.width):.2f}" height="{ROW - 4}"'
            f' fill="{_FILLS[meaning][0]}"/>'
        )
        is_beside = box.beside > box.width and max(len(volume.name), len(second)) > (box.width - 8) / _LETTER
        left, room = (box.left + box.width + 8, box.beside) if is_beside else (box.left + 4, box.width - 8)
        if room / _LETTER >= min(len(volume.name), _MIN_NAME):
            self._text(left, box.top + 16, volume.name, room)
            self._text(left, box.top + 32, second, room)
        else:
            self._unnamed.append((_FILLS[meaning][0], f"{volume.name}  {holds}"))
        self._parts.append("</g>")

    def _list_unnamed(self, left: float, top: float, columns: int) -> float:
        """The names of boxes too narrow for them; returns the lowest pixel that they take."""
        listed, more = self._unnamed[:_MAX_LISTED], len(self._unnamed) - _MAX_LISTED
        if more > 0:
            listed[-1] = ("white", f"and {more + 1} more")
        self._unnamed.clear()
        for place, (fill, text) in enumerate(listed):
            row, column = divmod(place, columns)
            self._entry(left + column * _CELL, top + row * _LINE, fill, text)
        return top - (-len(listed) // columns) * _LINE

    def _entry(self, left: float, top: float, fill: str, text: str) -> None:
        """A sample of a colour and what it is."""
        self._parts.append(f'<rect x="{left:.2f}" y="{top:.1f}" width="16" height="12" fill="{fill}"/>')
        self._text(left + 24, top + 11, text, _CELL - 32)

    def _text(self, left: float, base: float, text: str, width: float) -> None:
        """As much of it as goes into ``width`` pixels."""
        room = max(1, int(width / _LETTER))
        shown = text if len(text) <= room else text[: room - 1] + "…"
        self._parts.append(f'<text x="{left:.2f}" y="{base:.1f}">{_safe(shown)}</text>')

    def _lies_on(self, volume: Volume) -> str:
        """For what lies on several volumes: where."""
        if len(volume.members) < 2:
            return ""
        return " on " + ", ".join(self._names.get(member, member) for member in volume.members)

    def finish(self) -> str:
        """The whole document."""
        if self._meanings.total() >= MAX_BOXES:
            self._text(MARGIN, self._top, f"only {MAX_BOXES} volumes are drawn", WIDTH)
            self._top += GAP
        self._legend()
        size = f'width="{WIDTH}" height="{self._top:.0f}"'
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {self._top:.0f}" role="img" '
            'aria-labelledby="title desc">\n'
            f'<title id="title">{_safe(self._title())}</title>\n'
            f'<desc id="desc">{_safe(self._description())}</desc>\n'
            "<style>text{font:12px monospace;fill:#222} rect{stroke:#666;stroke-width:1}</style>\n"
            f'<rect {size} style="stroke:none" fill="white"/>'
        )
        return "\n".join((head, *self._parts, "</svg>"))

    def _legend(self) -> None:
        """What the colours mean that were used."""
        used = [fill for meaning, fill in _FILLS.items() if self._meanings[meaning]]
        for place, (fill, words) in enumerate(used):
            row, column = divmod(place, COLUMNS)
            self._entry(MARGIN + column * _CELL, self._top + row * _LINE, fill, words)
        self._top += -(-len(used) // COLUMNS) * _LINE + MARGIN

    def _title(self) -> str:
        return f"{_counted(len(self._set.disks), 'disk')} with {_counted(len(self._set.volumes), 'volume')}"

    def _description(self) -> str:
        states = Counter(self._set.content(volume).state.value for volume in self._set.volumes)
        told = ", ".join(f"{count} {state}" for state, count in states.items())
        return f"Each bar is a disk, or a volume on several, to scale; below it is what lies on it. Volumes: {told or 'none'}."


def _places(branch: Branch, left: float, width: float) -> Iterator[tuple[Branch, float, float]]:
    """Where each box above goes: partitions where they are on the disk, all else side by side, by size."""
    size = branch.volume.size or 1
    if all(_is_placed(inner, branch) for inner in branch.branches):
        start = branch.volume.offset or 0
        for inner in branch.branches:
            yield inner, left + width * ((inner.volume.offset or 0) - start) / size, width * inner.volume.size / size
        return
    total = max(size, sum(inner.volume.size for inner in branch.branches)) or 1
    for inner in branch.branches:
        share = width * inner.volume.size / total
        yield inner, left, share
        left += share


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _is_placed(inner: Branch, outer: Branch) -> bool:
    there, base = inner.volume.offset, outer.volume.offset
    return there is not None and base is not None and base <= there and inner.volume.disk == outer.volume.disk


def _safe(text: str) -> str:
    return escape_xml(escape(text))
