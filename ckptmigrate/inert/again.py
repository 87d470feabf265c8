"""A large pickle with insertions, read again without a look at the rows that stayed.

A pickle is a program of a machine whose state is a stack, its marks and a memo. What a row does
depends on its own bytes, on what it refers to in the memo, and on nothing else: `repeats` has
stepped over it only because it takes nothing from below where it began, leaves one item or two,
memoizes a known number of things, and changes nothing that the memo gave it. So a row whose bytes
are those of the pickle that was read, and which begins with as many things memoized as there, means
the same again, provided that what is memoized is the same. Hence:

- All that is not such a row is lexed anew and goes through the C unpickler anew, insertions and the
  rows right before them included: what is dropped, moved or added is decoded, never believed.
- Each row that is stepped over is compared byte for byte with the row that it was, and has to begin
  with as many things memoized. Nothing that is inserted memoizes anything, or the numbers would
  differ from there on; that the memo ends as long as it was is compared, too.
- The rows end where they ended between the same marks, since the lexer steps over them itself, and
  refuses whoever takes one apart.

What comes of it is a `Skeleton` like any other. Whether the tables in it say what was wanted is for
the caller to compare; whatever a row refers to is resolved in the new memo for that.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import replace

from ckptmigrate.errors import PickleError
from ckptmigrate.inert import limits
from ckptmigrate.inert.limits import State
from ckptmigrate.inert.patterns import Pattern
from ckptmigrate.inert.repeats import Run
from ckptmigrate.inert.skeleton import Skeleton
from ckptmigrate.inert.splice import Spliced


class KnownRows:
    """Steps over rows that were found before; see `limits.Repeats`."""

    def __init__(self, runs: list[Run], patterns: list[Pattern]) -> None:
        self._runs = {run.start: run for run in runs}
        self._patterns = patterns
        self.stepped = 0  # runs

    def step(self, state: State) -> int:
        run = self._runs.get(state.position)
        if run is None:
            return 0
        if not state.marks or len(state.memo) != run.base:
            raise PickleError(f"has other rows at byte {state.position}")
        pattern = self._patterns[run.patterns[-1]]
        self.stepped += 1
        state.position = run.ends[-1]
        state.memo.extend(array("H", [1]) * run.memoized)
        count = len(run.ends) * pattern.arity
        state.stack.extend([1] * count)
        state.starts.extend([~run.start] * count)
        return pattern.last

    def closed(self, state: State, bottom: int, opcode: int) -> None:
        """Nothing to learn from it."""


def read(before: Skeleton, made: Spliced) -> Skeleton:
    """The skeleton of a pickle that was made by insertions.

    Args:
        before: what they were made into.

    Raises:
        PickleError: it is not what it should be.
        Exception: whatever the C machine raises.
    """
    runs = [part for run in before.rows.runs for part in _parts(run, made, before.data)]
    rows = replace(before.rows, data=made.data, cuts=made.cuts, runs=runs)
    found = Skeleton(made.data, made.cuts, rows)
    known = KnownRows(runs, rows.patterns)
    found.memoized = len(limits.lex(made.data, known).memo)
    if known.stepped != len(runs):
        raise PickleError("has rows that are not where they were")
    if found.memoized != before.memoized:
        raise PickleError("memoizes more than before")
    found.load(len(made.data), partial=False)
    return found


def _parts(run: Run, made: Spliced, old: bytes) -> Iterator[Run]:
    """What is left of a run, where rows with something inserted behind them are no part of it."""
    first = 0
    stop = bisect_right(made.places, run.ends[-1])
    places = made.places[bisect_right(made.places, run.start) : stop]
    numbers = [bisect_left(run.ends, place) for place in dict.fromkeys(places)]
    for number in (*numbers, len(run.ends)):
        if number > first:
            yield _moved(run, first, number, made, old)
        first = number + 1


def _moved(run: Run, first: int, last: int, made: Spliced, old: bytes) -> Run:
    """Some rows of a run, where they are now."""
    start, end = run.row(first)[0], run.ends[last - 1]
    shift = made.shift(start)
    if made.data[start + shift : end + shift] != old[start:end]:
        raise PickleError(f"has other rows at byte {start + shift}")
    base = run.bases[first]
    following = run.bases[last] if last < len(run.bases) else run.base + run.memoized
    return Run(
        start=start + shift,
        ends=array("Q", [each + shift for each in run.ends[first:last]]),
        base=base,
        bases=run.bases[first:last],
        patterns=run.patterns[first:last],
        values=run.values[first:last],
        memoized=following - base,
    )
