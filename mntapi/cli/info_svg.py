"""The disks of a set as a picture (SVG): each a bar to scale, partitions where they are, below them what lies on them."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape as escape_xml

from mntapi.cli.output import escape
from mntapi.session.diskset import DiskSet
from mntapi.session.stack import Branch, Stack
from mntapi.types import Volume, VolumeState
from mntapi.units import format_size

WIDTH, MARGIN, ROW, GAP = 1200, 24, 44, 28
"""Pixels: of the picture, around it, of a bar's height, between two trees."""
MIN_BOX = 2.0
MAX_BOXES = 2000
"""Boxes drawn; what is left out is said."""
_LETTER = 7.2
"""Pixels of a character."""
_FILLS = {
    VolumeState.OK: "#cfe8d5",
    VolumeState.DIRTY: "#fff0c2",
    VolumeState.DAMAGED: "#f6c4c0",
    VolumeState.INCOMPLETE: "#fbd9b5",
    VolumeState.ENCRYPTED: "#d9d2ee",
    VolumeState.UNSUPPORTED: "#e3e3e3",
    VolumeState.UNKNOWN: "#f2f2f2",
}
_CONTAINER = "#dce6f2"


def draw(disk_set: DiskSet) -> str:
    """The picture as the text of an SVG file, without its last newline."""
    canvas = _Canvas(disk_set)
    stack = Stack(disk_set.volumes, disk_set.containers)
    top = float(MARGIN)
    for tree in stack.trees():
        top = canvas.tree(tree, top) + GAP
    return canvas.finish(top)


class _Canvas:
    """Boxes and texts, collected."""

    def __init__(self, disk_set: DiskSet) -> None:
        self._set = disk_set
        self._largest = max([volume.size for volume in (*disk_set.containers, *disk_set.volumes)], default=1) or 1
        self._names = {volume.id: volume.name for volume in (*disk_set.containers, *disk_set.volumes)}
        self._parts: list[str] = []
        self._boxes = 0

    def tree(self, tree: Branch, top: float) -> float:
        """A tree from its bottom volume on; returns the lowest pixel it takes."""
        width = max(MIN_BOX, (WIDTH - 2 * MARGIN) * tree.volume.size / self._largest)
        depth = self._branch(tree, MARGIN, width, top)
        return top + depth * ROW

    def _branch(self, branch: Branch, left: float, width: float, top: float) -> int:
        """A box with what lies on it below it; returns how many rows that takes."""
        if self._boxes >= MAX_BOXES:
            return 1
        self._boxes += 1
        self._box(branch, left, width, top)
        depth = 0
        for inner, start, span in _places(branch, left, width):
            depth = max(depth, self._branch(inner, start, span, top + ROW))
        return depth + 1

    def _box(self, branch: Branch, left: float, width: float, top: float) -> None:
        volume = branch.volume
        content = self._set.content(volume) if branch.is_leaf else None
        state = content.state if content else volume.state
        signature = content.signature if content else None
        fill = _CONTAINER if not branch.is_leaf and state is VolumeState.OK else _FILLS[state]
        holds = signature.kind if signature else volume.kind
        label = f" “{signature.label}”" if signature and signature.label else ""
        title = f"{volume.name}: {holds}{label}, {format_size(volume.size)}, {state.value}"
        reason = content.reason if content else volume.reason
        self._parts.append(
            f"<g><title>{_safe(title + (f': {reason}' if reason else ''))}</title>"
            f'<rect x="{left:.2f}" y="{top:.1f}" width="{max(MIN_BOX, width):.2f}" height="{ROW - 4}" fill="{fill}"/>'
        )
        is_beside = left == MARGIN and len(volume.name) > width / _LETTER  # a narrow one at the bottom has the row to itself
        place, room = (left + width + 8, 120) if is_beside else (left + 4, int((width - 8) / _LETTER))
        for line, text in enumerate((volume.name, f"{holds}{label} · {format_size(volume.size)}{self._lies_on(volume)}")):
            if room >= 3:
                shown = text if len(text) <= room else text[: room - 1] + "…"
                self._parts.append(f'<text x="{place:.2f}" y="{top + 16 + 16 * line:.1f}">{_safe(shown)}</text>')
        self._parts.append("</g>")

    def _lies_on(self, volume: Volume) -> str:
        """For what lies on several volumes: where."""
        if len(volume.members) < 2:
            return ""
        return " on " + ", ".join(self._names.get(member, member) for member in volume.members)

    def finish(self, height: float) -> str:
        """The whole document."""
        if self._boxes >= MAX_BOXES:
            self._parts.append(f'<text x="{MARGIN}" y="{height:.1f}">only {MAX_BOXES} volumes are drawn</text>')
            height += GAP
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
            f'viewBox="0 0 {WIDTH} {height:.0f}">\n'
            "<style>text{font:12px monospace;fill:#222} rect{stroke:#666;stroke-width:1}</style>\n"
            f'<rect width="{WIDTH}" height="{height:.0f}" style="stroke:none" fill="white"/>'
        )
        return "\n".join((head, *self._parts, "</svg>"))


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


def _is_placed(inner: Branch, outer: Branch) -> bool:
    there, base = inner.volume.offset, outer.volume.offset
    return there is not None and base is not None and base <= there and inner.volume.disk == outer.volume.disk


def _safe(text: str) -> str:
    return escape_xml(escape(text))
