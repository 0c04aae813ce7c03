"""XML from elsewhere: no document type, so no entities and nothing external; bounded in size, depth and count.

A namespace is left out of every name: ``ovf:href`` is ``href``.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from mntapi.errors import Corrupt, Unsupported

MAX_DEPTH = 64
MAX_ELEMENTS = 100_000


def parse_xml(raw: bytes, path: str, *, max_depth: int = MAX_DEPTH) -> Element:
    """The root element.

    Args:
        max_depth: elements that may be inside each other.

    Raises:
        Unsupported: it has a document type.
        Corrupt: it is damaged, or has too many elements.
    """
    builder = TreeBuilder()
    depth = count = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, count
        depth += 1
        count += 1
        if depth > max_depth or count > MAX_ELEMENTS:
            raise Corrupt("the XML has too many elements", path=path, offset=parser.CurrentByteIndex, reason="xml")
        builder.start(_local(name), {_local(key): value for key, value in attributes.items()})

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(_local(name))

    def doctype(*_: object) -> None:
        raise Unsupported("the XML has a document type", path=path, offset=parser.CurrentByteIndex, reason="xml-doctype")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(raw, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise Corrupt(f"the XML is damaged: {error}", path=path, offset=parser.ErrorByteIndex, reason="xml") from error
    return builder.close()


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def children(element: Element, name: str) -> Iterator[Element]:
    """The direct children of that name."""
    return (child for child in element if child.tag == name)


def text(element: Element, name: str) -> str | None:
    """The text of the first child of that name, without white space around it; None if there is none."""
    child = next(children(element, name), None)
    return None if child is None else (child.text or "").strip()
