"""LZO1X, as far as it takes to unpack it: a stream of instructions that copy from the input or from what is unpacked already.

Source: Linux Documentation/staging/lzo.rst ("LZO stream format as understood by Linux's LZO decompressor"). Its run-length
variant, marked by a first byte of 17, is not used by btrfs.
"""

from __future__ import annotations

from mntapi.errors import Corrupt

END_DISTANCE = 16384
"""A copy from this far is none, but the end of the stream."""


def unpack(packed: bytes, limit: int) -> bytes:
    """What the stream unpacks to.

    Args:
        packed: one whole stream.
        limit: bytes; more than so many are damage.

    Raises:
        Corrupt: the stream ends too early, is longer than its end, reaches back before its start or unpacks to too much.
    """
    try:
        content, end = _run(packed, limit)
    except IndexError:
        raise _damaged("ends too early") from None
    if end != len(packed):
        raise _damaged(f"goes on behind its end, at byte {end} of {len(packed)}")
    return bytes(content)


def _run(packed: bytes, limit: int) -> tuple[bytearray, int]:
    """The content, and where the stream ended. Raises IndexError where it does not.

    ``literals`` is what the last instruction copied from the input, 0 to 3 bytes, or 4 for a run of more: the next instruction
    is read differently after each. Bytes that are missing are noticed when the next instruction is, for there must be one.
    """
    content = bytearray()
    at = literals = 0
    if packed[0] > 17:
        content += packed[1 : packed[0] - 16]
        literals, at = min(packed[0] - 17, 4), packed[0] - 16
    while len(content) <= limit:
        instruction = packed[at]
        at += 1
        if instruction >= 64:
            length, distance = (instruction >> 5) + 1, 1 + (instruction >> 2 & 7) + (packed[at] << 3)
            literals, at = instruction & 3, at + 1
        elif instruction >= 16:
            length, distance, literals, at = _far(packed, at, instruction)
            if instruction < 32 and distance == END_DISTANCE:
                return content, at
        elif literals:
            length, distance = (3, 2049) if literals == 4 else (2, 1)
            distance += (instruction >> 2) + (packed[at] << 2)
            literals, at = instruction & 3, at + 1
        else:
            length, at = _length(packed, at, instruction, 15)
            content += packed[at : at + length + 3]
            literals, at = 4, at + length + 3
            continue
        start = len(content) - distance
        if start < 0:
            raise _damaged("reaches back before its start")
        if length <= distance:
            content += content[start : start + length]
        else:  # what is appended is repeated
            length = min(length, limit + 1)
            content += (content[start:] * (length // distance + 1))[:length]
        content += packed[at : at + literals]
        at += literals
    raise _damaged(f"unpacks to more than {limit} bytes")


def _far(packed: bytes, at: int, instruction: int) -> tuple[int, int, int, int]:
    """Length, distance, literals and the byte behind an instruction that reaches up to 16 or 48 KiB back."""
    mask, base = (31, 1) if instruction >= 32 else (7, END_DISTANCE + ((instruction & 8) << 11))
    length, at = _length(packed, at, instruction & mask, mask)
    word = packed[at] | packed[at + 1] << 8
    return length + 2, base + (word >> 2), word & 3, at + 2


def _length(packed: bytes, at: int, start: int, most: int) -> tuple[int, int]:
    """A length that begins with ``start``; if that is 0, it is ``most`` and what follows in bytes. And the byte behind it."""
    if start:
        return start, at
    length = most
    while not packed[at]:
        length += 255
        at += 1
    return length + packed[at], at + 1


def _damaged(what: str) -> Corrupt:
    return Corrupt(f"an LZO stream {what}", reason="compression")
