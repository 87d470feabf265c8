"""Rows that a large pickle repeats, read at the speed of `re` once their opcodes are known.

The pickle of a table says the same opcodes for every row, with other arguments. Where a batch of
rows has been lexed opcode by opcode, each sequence that repeats becomes one regular expression, and
the rows of later batches are stepped over by a match each. A match stands for the very opcodes it
was made from: only arguments differ, and those that matter (text lengths, memo indexes) are
compared once more. Whatever does not match is lexed as ever, so that nothing is let through that
`limits.check` refuses.
"""

from __future__ import annotations

import itertools
import operator
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ckptmigrate.inert.limits import State
from ckptmigrate.inert.patterns import Pattern, Shape, kinds_of, learn
from ckptmigrate.inert.tokens import tokens

_WORTHWHILE: Final = 8  # rows of a kind in a batch, to learn from
_LARGE_BATCH: Final = 64  # items
_MOST_PATTERNS: Final = 64
_LONGEST: Final = 4096  # bytes of a row
_LOOKED_AT: Final = 2000  # rows of a batch, to learn from; picklers make batches of 1,000 items
_PATIENCE: Final = 1_000_000  # tries to match in vain, and so many more for each row that matched:
_PATIENCE_PER_ROW: Final = 16
_FLUSHED: Final = 4096  # rows that are looked at together
_POP: Final = b"0"
_GETS: Final = frozenset(b"hj")


@dataclass(eq=False)
class Run:
    """Rows that stand one after the other.

    Attributes:
        start: of the first.
        ends: of each.
        base: what was memoized before the first.
        bases: the same before each.
        patterns: the number of the pattern of each.
        values: of each, as its shape wants them.
    """

    start: int
    ends: array[int]
    base: int
    bases: array[int]
    patterns: bytes
    values: list[Any]
    memoized: int

    def row(self, number: int) -> tuple[int, int]:
        """Where a row starts and ends."""
        return self.ends[number - 1] if number else self.start, self.ends[number]


@dataclass
class _Lesson:
    """What is known of one sequence of opcodes."""

    literal: dict[int, bytes]  # place among the opcodes -> the argument that every row has
    pattern: Pattern | None = None


@dataclass
class Rows:
    """What steps over the rows of one pickle; see `limits.Repeats`.

    Attributes:
        data: the pickle, without frames.
        cuts: where its frames stood.
        shape: tells what a kind of row is; None for one that is of no use.
        known: gives what the pickle has memoized at an index, up to a place where it ends for now.
    """

    data: bytes
    cuts: list[int]
    shape: Callable[[Any], Shape | None]
    known: Callable[[Rows, int], Callable[[int], Any]]
    runs: list[Run] = field(default_factory=list)
    patterns: list[Pattern] = field(default_factory=list)
    lessons: dict[bytes, _Lesson] = field(default_factory=dict)
    spent: int = 0  # bytes unpickled to learn
    stepped: int = 0  # bytes stepped over
    refused: int = -1  # where the rows do not go on, though a match says so
    patience: int = _PATIENCE
    likely: Pattern | None = None

    # -- stepping

    def step(self, state: State) -> int:
        position = state.position
        if self.likely is None or position == self.refused or not state.marks or self.patience < 0:
            return 0
        odd = (len(state.stack) - state.marks[-1]) % 2
        taken: list[Pattern] = []
        groups: list[tuple[bytes, ...]] = []
        ends = array("Q")
        data, pattern = self.data, self.likely
        while len(taken) < _FLUSHED:
            found = pattern.match(data, position)
            if found is None:
                other = self._other(pattern, position)
                if other is None:
                    break
                pattern, found = other
            if not taken and (odd and pattern.arity == 2):
                return 0
            if taken and pattern.arity != taken[0].arity:
                break
            groups.append(found.groups())
            taken.append(pattern)
            position = found.end()
            ends.append(position)
        self.likely = pattern
        return self._flush(state, taken, groups, ends) if taken else 0

    def _other(self, before: Pattern, position: int) -> tuple[Pattern, re.Match[bytes]] | None:
        """What a row matches that does not match the pattern of the one before."""
        for pattern in (*before.followers, *self.patterns):
            found = pattern.match(self.data, position)
            if found is not None:
                followers = before.followers
                if pattern in followers:
                    followers.remove(pattern)
                followers.insert(0, pattern)
                return pattern, found
        self.patience -= len(before.followers) + len(self.patterns)
        return None

    def _flush(
        self, state: State, taken: list[Pattern], groups: list[tuple[bytes, ...]], ends: array[int]
    ) -> int:
        start, base = state.position, len(state.memo)
        bases = array("I", itertools.accumulate((len(p.weights) for p in taken), initial=base))
        for pattern in taken:
            state.memo.extend(pattern.weights)
        values: list[Any] = [None] * len(taken)
        good = self._uncut(start, ends)
        if self.data[ends[-1] : ends[-1] + 1] == _POP:  # the last one is dropped again
            good = min(good, len(taken) - 1)
        for chosen in dict.fromkeys(taken):
            rows = [n for n, each in enumerate(taken) if each is chosen]
            mine = groups if len(rows) == len(taken) else [groups[n] for n in rows]
            right = self._right(chosen, mine, [bases[n] for n in rows], state.memo)
            if right < len(rows):
                good = min(good, rows[right])
                mine = mine[:right]
            for number, value in zip(rows, chosen.values(mine), strict=False):
                values[number] = value
        if good < len(taken):
            self.refused = ends[good - 1] if good else start
            del taken[good:], values[good:], ends[good:], state.memo[bases[good] :]
        if not good:
            return 0
        memoized = bases[good] - base
        del bases[good:]
        numbers = bytes(pattern.number for pattern in taken)
        self.runs.append(Run(start, ends, base, bases, numbers, values, memoized))
        state.position = ends[-1]
        self.stepped += ends[-1] - start
        self.patience += _PATIENCE_PER_ROW * len(taken)
        count = len(taken) * taken[0].arity
        state.stack.extend([1] * count)
        state.starts.extend([~start] * count)
        return taken[-1].last

    @staticmethod
    def _right(
        pattern: Pattern, groups: list[tuple[bytes, ...]], bases: list[int], memo: array[int]
    ) -> int:
        """How many of the rows are what they seem to be, counted from the first."""
        right = len(groups)
        columns = list(zip(*groups, strict=True))
        for size, text in pattern.texts:
            told, found = b"".join(columns[size]), bytes(map(len, columns[text]))
            if told != found:
                right = min(right, next(n for n, c in enumerate(found) if c != told[n]))
            try:
                b"\n".join(columns[text]).decode("utf-8", "surrogatepass")
            except UnicodeDecodeError:
                right = min(right, next(n for n, c in enumerate(columns[text]) if not _is_text(c)))
        for group, before in pattern.gets:
            indexes = array("I", b"".join(columns[group]))
            if before:
                bases_here = [base + before for base in bases]
            else:
                bases_here = bases
            if any(map(operator.ge, indexes, bases_here)):
                right = min(right, next(n for n, i in enumerate(indexes) if i >= bases_here[n]))
                indexes = indexes[:right]
            if max(map(memo.__getitem__, indexes), default=1) > 1:
                right = min(right, next(n for n, i in enumerate(indexes) if memo[i] > 1))
        return right

    def _uncut(self, start: int, ends: array[int]) -> int:
        """How many of the rows have no cut inside of an opcode."""
        first = bisect_left(self.cuts, start)
        while first < len(self.cuts) and self.cuts[first] < ends[-1]:
            cut = self.cuts[first]
            number = bisect_left(ends, cut)
            begin = ends[number - 1] if number else start
            if cut not in (begin, ends[number]) and all(
                at != cut for at, _, _ in tokens(self.data, begin, ends[number])
            ):
                return number
            first += 1
        return len(ends)

    # -- learning

    def closed(self, state: State, bottom: int, opcode: int) -> None:
        if len(state.starts) - bottom < _LARGE_BATCH:
            return
        starts = state.starts[bottom:]
        arity = 2 if opcode == ord("u") else 1
        if len(starts) % arity or self.spent > len(self.data):
            return
        begins = [*starts[::arity], state.position]
        rows = [
            (begin, ~end if end < 0 else end)
            for begin, end in itertools.pairwise(begins)
            if begin >= 0 and (~end if end < 0 else end) - begin <= _LONGEST
        ]
        if len(rows) < _WORTHWHILE or len(self.patterns) >= _MOST_PATTERNS:
            return
        by_opcodes: dict[bytes, list[list[tuple[int, int, int]]]] = {}
        for row in rows[:_LOOKED_AT]:
            found = list(tokens(self.data, *row))
            kinds = kinds_of(found)
            by_opcodes.setdefault(kinds, []).append(found)
        known: Callable[[int], Any] | None = None
        for kinds, alike in by_opcodes.items():
            if len(alike) < _WORTHWHILE or len(self.patterns) >= _MOST_PATTERNS:
                continue
            literal = self._literal(kinds, alike)
            lesson = self.lessons.get(kinds)
            if lesson is not None:
                if lesson.pattern is None:
                    continue
                literal = {n: a for n, a in lesson.literal.items() if literal.get(n) == a}
                if literal == lesson.literal:
                    continue
            if known is None:
                self.spent += state.position - self.stepped
                known = self.known(self, state.position)
            pattern = learn(self.data, kinds, alike[0], literal, self.shape, known, state.memo)
            if pattern is not None and pattern.arity == arity:
                self.patterns.append(pattern)
                pattern.number = len(self.patterns) - 1
                self.likely = self.likely or pattern
            self.lessons[kinds] = _Lesson(literal, pattern)

    def _literal(self, kinds: bytes, alike: list[list[tuple[int, int, int]]]) -> dict[int, bytes]:
        """The memo indexes that are the same in all rows."""
        literal = {}
        for place, kind in enumerate(kinds):
            if kind in _GETS:
                arguments = {self.data[r[place][0] + 1 : r[place][2]] for r in alike}
                if len(arguments) == 1:
                    [literal[place]] = arguments
        return literal


def _is_text(body: bytes) -> bool:
    try:
        body.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True
