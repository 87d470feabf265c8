"""Detection of repeated rows in a large pickle, which are then read by regular expressions.

The pickle of a table has the same opcodes for every row, with different arguments. Once a batch of
rows has been lexed opcode by opcode, each sequence that repeats becomes one regular expression, and
one match steps over each row of later batches. A match implies exactly the opcodes of the pattern:
only arguments differ, and those that affect the meaning (text lengths, memo indexes) are checked
separately. Rows that do not match are lexed, so nothing passes that `bounds.check` refuses.
"""

from __future__ import annotations

import itertools
import operator
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ckptmigrate.checkpoint.large.patterns import Pattern, Shape, kinds_of, learn
from ckptmigrate.checkpoint.large.tokens import tokens
from ckptmigrate.pickles.bounds import ENDS_A_ROW, PUTS, State

_WORTHWHILE: Final = 8  # minimum rows of a kind in a batch to learn from
_LARGE_BATCH: Final = 64  # items
_MOST_PATTERNS: Final = 64
_LONGEST: Final = 4096  # bytes of a row
_LOOKED_AT: Final = 2000  # maximum rows of a batch to learn from; a pickler's batch has 1,000 items
_PATIENCE: Final = 1_000_000  # allowed failed matches; each matched row adds _PATIENCE_PER_ROW
_PATIENCE_PER_ROW: Final = 16
_FLUSHED: Final = 4096  # rows that are checked together
_POP: Final = b"0"
_MEMOIZE: Final = 0x94
_GETS: Final = frozenset(b"hj")


_Row = list[tuple[int, int, int]]  # as from `tokens`


@dataclass(eq=False)
class Run:
    """Contiguous rows.

    Attributes:
        start: start of the first row.
        ends: end of each row.
        base: memo length before the first row.
        bases: memo length before each row.
        patterns: pattern number of each row.
        values: values of each row that its shape wants.
        memoized: number of items that the rows memoize.
    """

    start: int
    ends: array[int]
    base: int
    bases: array[int]
    patterns: bytes
    values: Sequence[Any]
    memoized: int

    def row(self, number: int) -> tuple[int, int]:
        """Return the start and end of a row."""
        return self.ends[number - 1] if number else self.start, self.ends[number]


@dataclass
class _Lesson:
    """Result of learning one sequence of opcodes."""

    literal: dict[int, bytes]  # index among the opcodes -> argument that every row has
    pattern: Pattern | None = None


@dataclass
class Rows:
    """Rows of one pickle, which the lexer steps over; see `bounds.Repeats`.

    Attributes:
        data: the pickle, without frames.
        cuts: start of each frame.
        shape: returns the meaning of a kind of row; None for a kind that is not usable.
        known: returns a function from memo index to item, for the pickle up to an offset.
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
    refused: int = -1  # offset of a match that is not a valid row
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
        """Return the pattern and match of a row that does not match the previous row's pattern."""
        for pattern in itertools.chain(before.followers, self.patterns):
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
        for pattern in taken:
            state.memo.extend(pattern.weights)
        run = self._run(start, base, taken, groups, ends, state.memo)
        good = len(run.ends)
        if good < len(taken):
            self.refused = run.ends[-1] if good else start
            del state.memo[base + run.memoized :]
        if not good:
            return 0
        self._keep(run)
        state.position = run.ends[-1]
        self.patience += _PATIENCE_PER_ROW * good
        count = good * taken[0].arity
        state.stack.extend([1] * count)
        state.starts.extend([~start] * count)
        return taken[good - 1].last

    def _keep(self, run: Run) -> None:
        self.runs.append(run)
        self.stepped += run.ends[-1] - run.start

    def _run(
        self,
        start: int,
        base: int,
        taken: list[Pattern],
        groups: list[tuple[bytes, ...]],
        ends: array[int],
        memo: array[int],
    ) -> Run:
        """Return the run of the leading rows that are valid.

        Args:
            start: start of the first row.
            base: memo length before the first row.
            taken, groups, ends: pattern, matched groups and end of each row.
            memo: as in `bounds.State`, including what these rows memoize.
        """
        bases = array("I", itertools.accumulate((len(p.weights) for p in taken), initial=base))
        mixed: list[Any] = [None] * len(taken)
        values: Sequence[Any] = mixed
        good = self._uncut(start, ends)
        if self.data[ends[-1] : ends[-1] + 1] == _POP:  # the pickle drops the last row
            good = min(good, len(taken) - 1)
        for chosen in dict.fromkeys(taken):
            rows = [n for n, each in enumerate(taken) if each is chosen]
            mine = groups if len(rows) == len(taken) else [groups[n] for n in rows]
            right = self._right(chosen, mine, [bases[n] for n in rows], memo)
            if right < len(rows):
                good = min(good, rows[right])
                mine = mine[:right]
            if len(rows) == len(taken):
                values = chosen.values(mine)
            else:
                for number, value in zip(rows, chosen.values(mine), strict=False):
                    mixed[number] = value
        memoized = bases[good] - base
        numbers = bytes(pattern.number for pattern in taken[:good])
        return Run(start, ends[:good], base, bases[:good], numbers, values[:good], memoized)

    @staticmethod
    def _right(
        pattern: Pattern, groups: list[tuple[bytes, ...]], bases: list[int], memo: array[int]
    ) -> int:
        """Return how many leading rows are valid."""
        right = len(groups)
        columns = list(zip(*groups, strict=True))
        for size, text in pattern.texts:
            recorded, found = b"".join(columns[size]), bytes(map(len, columns[text]))
            if recorded != found:
                right = min(right, next(n for n, c in enumerate(found) if c != recorded[n]))
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
        """Return how many leading rows have no frame start inside an opcode."""
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
        by_opcodes: dict[bytes, list[_Row]] = {}
        lexed = [list(tokens(self.data, *row)) for row in rows[:_LOOKED_AT]]
        for row in lexed:
            by_opcodes.setdefault(kinds_of(row), []).append(row)
        models = self._learn(by_opcodes, arity, state)
        if models and len(lexed) == len(starts) // arity:
            self._lift(lexed, models, state)

    def _learn(
        self, by_opcodes: dict[bytes, list[_Row]], arity: int, state: State
    ) -> dict[int, Pattern]:
        """Return a pattern per repeated sequence of opcodes, by the start of its sample row."""
        models: dict[int, Pattern] = {}
        repeated = {k: rows for k, rows in by_opcodes.items() if len(rows) >= _WORTHWHILE}
        known: Callable[[int], Any] | None = None
        for kinds, alike in repeated.items():
            if len(self.patterns) >= _MOST_PATTERNS:
                break
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
                # The items that all rows refer to are memoized before the end of the first row.
                known = self.known(self, max(rows[0][-1][2] for rows in repeated.values()))
            pattern = learn(self.data, kinds, alike[0], literal, self.shape, known, state.memo)
            if pattern is not None and pattern.arity != arity:
                pattern = None
            if pattern is not None:
                self.patterns.append(pattern)
                pattern.number = len(self.patterns) - 1
                self.likely = self.likely or pattern
                models[alike[0][0][0]] = pattern
            self.lessons[kinds] = _Lesson(literal, pattern)
        return models

    def _lift(self, lexed: list[_Row], models: Collection[int], state: State) -> None:
        """Record the rows of the batch that was learned from as runs.

        They have been lexed, and the memo contains their items. The sample rows of the patterns are
        excluded, because callers need one decoded row of each kind.
        """
        kinds = [kinds_of(row) for row in lexed]
        inside = bool(self.runs) and self.runs[-1].ends[-1] > lexed[0][0][0]
        if inside or any(put in opcodes for opcodes in set(kinds) for put in PUTS):
            return
        memoized = [opcodes.count(_MEMOIZE) for opcodes in kinds]
        before = len(state.memo) - sum(memoized)
        bases = list(itertools.accumulate(memoized, initial=before))
        # A later lexer steps over rows only after these opcodes.
        follows = [True, *(opcodes[-1] in ENDS_A_ROW for opcodes in kinds)]
        matched = [
            self._matched(row, opcodes) if follows[n] and row[0][0] not in models else None
            for n, (row, opcodes) in enumerate(zip(lexed, kinds, strict=True))
        ]
        first = 0
        for stop in (*(n for n, each in enumerate(matched) if each is None), len(matched)):
            part = [each for each in matched[first:stop] if each is not None]
            if part:
                run = self._run(
                    lexed[first][0][0],
                    bases[first],
                    [pattern for pattern, _ in part],
                    [found.groups() for _, found in part],
                    array("Q", [found.end() for _, found in part]),
                    state.memo,
                )
                if run.ends:
                    self._keep(run)
            first = stop + 1

    def _matched(self, row: _Row, opcodes: bytes) -> tuple[Pattern, re.Match[bytes]] | None:
        """Return the pattern and match of a lexed row if the match covers the whole row."""
        lesson = self.lessons.get(opcodes)
        if lesson is None or lesson.pattern is None:
            return None
        found = lesson.pattern.match(self.data, row[0][0])
        return (lesson.pattern, found) if found and found.end() == row[-1][2] else None

    def _literal(self, kinds: bytes, alike: list[_Row]) -> dict[int, bytes]:
        """Return the memo indexes that are the same in all rows."""
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
