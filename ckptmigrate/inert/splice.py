"""Insertions into a large pickle that leave the memo as it is, so that all else stays."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.inert import writer

POP: Final = b"0"
_PROTOCOL: Final = 4


def items(pairs: list[tuple[Any, ...]], many: bytes) -> bytes:
    """A batch of items for a dict (`u`, pairs) or a list (`e`), nothing of it memoized."""
    parts = (writer.fragment(part, _PROTOCOL) for pair in pairs for part in pair)
    return b"(" + b"".join(parts) + many if pairs else b""


@dataclass(frozen=True)
class Spliced:
    """A pickle with bytes put in.

    Attributes:
        data: the new one, without frames.
        cuts: where they start.
        places: where something was put in, in the old one; in order.
        shifts: by how much what stands behind so many of the places has moved.
    """

    data: bytes
    cuts: list[int]
    places: list[int]
    shifts: list[int]

    def shift(self, place: int) -> int:
        """How far what began at a place of the old pickle has moved."""
        return self.shifts[bisect_right(self.places, place)]


def spliced(data: bytes, cuts: list[int], inserted: list[tuple[int, bytes]]) -> Spliced:
    """A pickle with bytes put in.

    Args:
        data: the pickle without frames.
        cuts: where they start.
        inserted: (place, bytes); at one place in the order given.
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
    # A frame starts after what is put in at its start.
    moved = [cut + shifts[bisect_right(places, cut)] for cut in cuts]
    return Spliced(b"".join(pieces), [cuts[0], *moved[1:]], places, shifts)
