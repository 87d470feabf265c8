"""Insertions into a large pickle that do not change its memo or any other byte."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.pickles import serializer

POP: Final = b"0"
_PROTOCOL: Final = 4


def items(pairs: list[tuple[Any, ...]], many: bytes) -> bytes:
    """Return a batch of items for a dict (`u`, pairs) or a list (`e`); memoize nothing."""
    parts = (serializer.fragment(part, _PROTOCOL) for pair in pairs for part in pair)
    return b"(" + b"".join(parts) + many if pairs else b""


@dataclass(frozen=True)
class Spliced:
    """A pickle with inserted bytes.

    Attributes:
        data: the new pickle, without frames.
        cuts: start of each frame.
        places: offsets of the insertions in the old pickle, in order.
        shifts: by index n, how far the bytes after the first n insertions have moved.
    """

    data: bytes
    cuts: list[int]
    places: list[int]
    shifts: list[int]

    def shift(self, place: int) -> int:
        """Return how far the part at an offset of the old pickle has moved."""
        return self.shifts[bisect_right(self.places, place)]


def spliced(data: bytes, cuts: list[int], inserted: list[tuple[int, bytes]]) -> Spliced:
    """Insert bytes into a pickle.

    Args:
        data: the pickle without frames.
        cuts: start of each frame.
        inserted: (offset, bytes); those at the same offset are inserted in the given order.
    """
    ordered = sorted((each for each in inserted if each[1]), key=lambda each: each[0])
    pieces: list[bytes | memoryview] = []
    done, places, shifts, view = 0, [], [0], memoryview(data)
    for place, content in ordered:
        pieces += [view[done:place], content]
        done = place
        places.append(place)
        shifts.append(shifts[-1] + len(content))
    pieces.append(view[done:])
    # A frame starts after the bytes that are inserted at its start.
    moved = [cut + shifts[bisect_right(places, cut)] for cut in cuts]
    return Spliced(b"".join(pieces), [cuts[0], *moved[1:]], places, shifts)
