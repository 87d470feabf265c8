"""Opcodes of a pickle that has passed `bounds.lex`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from ckptmigrate.pickles.bounds import ARGUMENT, NEWLINES

_FRAME: Final = 0x95
_HEADER: Final = 2  # PROTO with its argument
_FRAME_SIZE: Final = 9  # FRAME with its argument


def tokens(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, opcode, end) of each opcode from `start`, an opcode boundary, to `end`."""
    position = start
    while position < end:
        at, opcode = position, data[position]
        width = ARGUMENT[opcode]
        assert width is not None  # limits.lex allows no other opcode
        position += 1
        if width >= 0:
            position += width
        elif width == NEWLINES:
            position = data.index(b"\n", data.index(b"\n", position) + 1) + 1
        else:
            position += int.from_bytes(data[position : position - width], "little") - width
        yield at, opcode, position


def unframed(data: bytes) -> tuple[bytes, list[int]] | None:
    """Return a pickle without its FRAME opcodes, and their offsets in the result.

    Return None if the frames are not contiguous to the end; they are unless a part has 64 kB or
    more. The caller must check that each frame starts between two opcodes.
    """
    view = memoryview(data)  # slices of a memoryview are not copies
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
    """Return a pickle with a FRAME at each cut, the first after PROTO; inverts `unframed`."""
    view = memoryview(data)
    pieces: list[bytes | memoryview] = [view[:_HEADER]]
    for start, end in zip(cuts, [*cuts[1:], len(data)], strict=True):
        pieces += [struct.pack("<BQ", _FRAME, end - start), view[start:end]]
    return b"".join(pieces)
