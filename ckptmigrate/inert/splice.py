"""Insertions into a large pickle that leave the memo as it is, so that all else stays."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, Final

from ckptmigrate.inert import writer
from ckptmigrate.inert.tokens import framed

POP: Final = b"0"
_PROTOCOL: Final = 4


def items(pairs: list[tuple[Any, ...]], many: bytes) -> bytes:
    """A batch of items for a dict (`u`, pairs) or a list (`e`), nothing of it memoized."""
    parts = (writer.fragment(part, _PROTOCOL) for pair in pairs for part in pair)
    return b"(" + b"".join(parts) + many if pairs else b""


def spliced(data: bytes, cuts: list[int], inserted: list[tuple[int, bytes]]) -> bytes:
    """A pickle with bytes put in, in frames.

    Args:
        data: the pickle without frames.
        cuts: where they start.
        inserted: (place, bytes); at one place in the order given.
    """
    ordered = sorted(inserted, key=lambda each: each[0])
    pieces, done, places, shifts, shift = [], 0, [], [0], 0
    for place, content in ordered:
        pieces += [data[done:place], content]
        done, shift = place, shift + len(content)
        places.append(place)
        shifts.append(shift)
    pieces.append(data[done:])
    # A frame starts after what is put in at its start.
    moved = [cut + shifts[bisect_right(places, cut)] for cut in cuts]
    return framed(b"".join(pieces), [cuts[0], *moved[1:]])
