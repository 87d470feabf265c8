"""Reader of a large pickle with insertions that does not decode unchanged rows again.

A pickle is a program for a machine whose state is a stack, its marks and a memo. The effect of a
row depends only on its own bytes and on the memo items that it refers to: `repeats` steps over a
row only if it takes nothing from the stack below its start, leaves one or two items, memoizes a
known number of items, and changes no item from the memo. Therefore a row has the same meaning as
before if its bytes are the same, the memo has the same length at its start, and the memoized items
are the same. Hence:

- Everything except such rows is lexed and unpickled by the C unpickler again, including the
  insertions and the row before each of them. Dropped, moved and added rows are always decoded.
- Each row that is stepped over is compared byte for byte with the old row, and the memo must have
  the same length at its start. Insertions memoize nothing, because otherwise the later memo indexes
  would differ. The final memo length is compared, too.
- The rows have the same boundaries between the same marks, because the lexer itself steps over them
  and refuses an opcode that takes only a part of a row.

The result is a `Skeleton` like any other. The caller must compare its tables with the expected
ones; what a row refers to is resolved in the new memo for that.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import replace

from ckptmigrate.checkpoint.large.patterns import Pattern
from ckptmigrate.checkpoint.large.repeats import Run
from ckptmigrate.checkpoint.large.skeleton import Skeleton
from ckptmigrate.checkpoint.large.splice import Spliced
from ckptmigrate.errors import PickleError
from ckptmigrate.pickles import bounds
from ckptmigrate.pickles.bounds import State


class KnownRows:
    """Rows found by an earlier read, which the lexer steps over; see `bounds.Repeats`."""

    def __init__(self, runs: list[Run], patterns: list[Pattern]) -> None:
        self._runs = {run.start: run for run in runs}
        self._patterns = patterns
        self.stepped = 0  # number of runs

    def step(self, state: State) -> int:
        run = self._runs.get(state.position)
        if run is None:
            return 0
        if not state.marks or len(state.memo) != run.base:
            raise PickleError(f"has rows of another form at byte {state.position}")
        pattern = self._patterns[run.patterns[-1]]
        self.stepped += 1
        state.position = run.ends[-1]
        state.memo.extend(array("H", [1]) * run.memoized)
        count = len(run.ends) * pattern.arity
        state.stack.extend([1] * count)
        state.starts.extend([~run.start] * count)
        return pattern.last

    def closed(self, state: State, bottom: int, opcode: int) -> None:
        """Do nothing: the rows are known."""


def read(before: Skeleton, made: Spliced) -> Skeleton:
    """Return the skeleton of a pickle that was made by insertions.

    Args:
        before: skeleton of the pickle before the insertions.
        made: the pickle after the insertions.

    Raises:
        PickleError: the unchanged rows or the memo differ from the old pickle.
        Exception: the C unpickler raises an error.
    """
    runs = [part for run in before.rows.runs for part in _parts(run, made, before.data)]
    rows = replace(before.rows, data=made.data, cuts=made.cuts, runs=runs)
    found = Skeleton(made.data, made.cuts, rows)
    known = KnownRows(runs, rows.patterns)
    found.memoized = len(bounds.lex(made.data, known).memo)
    if known.stepped != len(runs):
        raise PickleError("has rows at other offsets")
    if found.memoized != before.memoized:
        raise PickleError("memoizes more objects than before")
    found.load(len(made.data), partial=False)
    return found


def _parts(run: Run, made: Spliced, old: bytes) -> Iterator[Run]:
    """Yield the unchanged parts of a run; a row before an insertion is not part of any."""
    first = 0
    stop = bisect_right(made.places, run.ends[-1])
    places = made.places[bisect_right(made.places, run.start) : stop]
    numbers = [bisect_left(run.ends, place) for place in dict.fromkeys(places)]
    for number in (*numbers, len(run.ends)):
        if number > first:
            yield _moved(run, first, number, made, old)
        first = number + 1


def _moved(run: Run, first: int, last: int, made: Spliced, old: bytes) -> Run:
    """Return the run of some rows at their new positions."""
    start, end = run.row(first)[0], run.ends[last - 1]
    shift = made.shift(start)
    if made.data[start + shift : end + shift] != old[start:end]:
        raise PickleError(f"has rows of another form at byte {start + shift}")
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
