"""The opcodes of a pickle that `limits.lex` has let through, one by one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from ckptmigrate.inert.limits import ARGUMENT, NEWLINES

_FRAME: Final = 0x95
_HEADER: Final = 2  # PROTO and its argument
_FRAME_SIZE: Final = 9  # FRAME and its argument


def tokens(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(place, opcode, end) of each opcode from `start`, where one begins, to `end`."""
    position = start
    while position < end:
        at, opcode = position, data[position]
        width = ARGUMENT[opcode]
        assert width is not None  # limits.lex lets no other through
        position += 1
        if width >= 0:
            position += width
        elif width == NEWLINES:
            position = data.index(b"\n", data.index(b"\n", position) + 1) + 1
        else:
            position += int.from_bytes(data[position : position - width], "little") - width
        yield at, opcode, position


def unframed(data: bytes) -> tuple[bytes, list[int]] | None:
    """A pickle without its FRAME opcodes, and where they stood in what is left.

    None where frames do not follow one another to the end, as they do in whatever has no part of
    64 kB or more. That each stood between two opcodes is for the caller to see.
    """
    view = memoryview(data)  # whose slices are no copies
    pieces, cuts, position, length = [view[:_HEADER]], [], _HEADER, _HEADER
    while position < len(data):
        if data[position] != _FRAME or position + _FRAME_SIZE > len(data):
            return None
        [size] = struct.unpack_from("<Q", data, position + 1)
        position += _FRAME_SIZE
        if not size or position + size > len(data):
            return None
        cuts.append(length)
        pieces.append(view[position : position + size])
        position += size
        length += size
    return b"".join(pieces), cuts


def framed(data: bytes, cuts: list[int]) -> bytes:
    """The opposite: a pickle with a FRAME at each of the cuts, the first of them after PROTO."""
    view = memoryview(data)
    pieces: list[bytes | memoryview] = [view[:_HEADER]]
    for start, end in zip(cuts, [*cuts[1:], len(data)], strict=True):
        pieces += [struct.pack("<BQ", _FRAME, end - start), view[start:end]]
    return b"".join(pieces)
