"""Regular expressions for the rows of a large table, and the values read from them."""

from __future__ import annotations

import io
import itertools
import re
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ckptmigrate.checkpoint.large.tokens import tokens
from ckptmigrate.pickles.reader import InertUnpickler

_HEAVIEST: Final = 0xFF  # maximum weight of a tuple in a row

_TEXT, _GET, _SHORT_GET = b"\x8cjh"
_NUMBERS: Final = frozenset(b"KMJ\x8a")
_NUMBER: Final = ord("K")  # represents every integer opcode
_MEMOIZE, _MARK = b"\x94("
_UPDATES: Final = frozenset(b"buesa")
# Integers in their shortest form, as picklers write them: equal bytes mean equal integers.
_ANY_NUMBER: Final = (
    rb"K.|M.[^\0]|J(?:..[^\0].|...[^\0])"
    rb"|\x8a(?:\x05(?:...[\x80-\xff]\0|....[\x01-\x7f])|\x06(?:....[\x80-\xff]\0|.....[\x01-\x7f])"
    rb"|\x07(?:.....[\x80-\xff]\0|......[\x01-\x7f]))"
)
# MEMOIZE follows a text and cannot be inside it, so the match finds the end without backtracking.
# In UTF-8, 0x94 can be part of a letter; such a row does not match and is lexed.
_ANY_TEXT: Final = rb"\x8c(.)([^\x94]{0,255})"
# Opcode -> number of items that it takes, and number that it leaves.
_PLAIN: Final = {
    **dict.fromkeys(b")]}N\x88\x89", (0, 1)),
    **dict.fromkeys(b"\x81Rba", (2, 1)),
    **dict.fromkeys(b"\x85", (1, 1)), **dict.fromkeys(b"\x86", (2, 1)),
    **dict.fromkeys(b"\x87", (3, 1)), **dict.fromkeys(b"s", (3, 1)),
}  # fmt: skip
_MARKED: Final = {ord("t"): 0, ord("u"): 1, ord("e"): 1}  # items taken from below the mark
_TUPLES: Final = frozenset(b"t\x85\x86\x87")
_OWN: Final = frozenset(b"]}\x81R")  # create a mutable object


@dataclass(frozen=True)
class Hole:
    """An argument that differs from row to row, in the inert tree of a pattern.

    Attributes:
        number: index among the holes.
        kind: TEXT, NUMBER or GET.
    """

    number: int
    kind: int

    @property
    def is_text(self) -> bool:
        """Return whether the argument is a text, literal or from the memo."""
        return self.kind in (_TEXT, _GET)

    @property
    def is_written(self) -> bool:
        """Return whether the argument is a literal text, which differs in every row."""
        return self.kind == _TEXT

    @property
    def is_number(self) -> bool:
        """Return whether the argument is an integer."""
        return self.kind == _NUMBER


@dataclass(frozen=True)
class Shape:
    """Meaning of a kind of row, derived from the inert tree of its pattern.

    Attributes:
        kind: name of the kind.
        wanted: what to read from each row: for a hole, its text, memo index (of a text from the
            memo) or number; for a tuple of holes, their bytes; else a constant of all rows.
    """

    kind: str
    wanted: tuple[Hole | tuple[Hole, ...] | str | None, ...]


@dataclass(eq=False)
class Pattern:
    """A row of known opcodes.

    Attributes:
        match: match method of its regular expression.
        shape: meaning of the row.
        arity: number of items that it pushes: 2 in a dict, 1 in a list.
        last: its last opcode.
        weights: weight of each item that it memoizes, as in `bounds.State`.
        texts: pairs of group numbers: the length of a text, and the text.
        gets: group number of a memo index, and how many items the row has memoized before it.
        columns: functions that read the wanted values from the groups.
        followers: patterns of rows that followed this one, the most recent first.
        text_memo: index among the items that the row memoizes -> index of the wanted value.
    """

    match: Callable[[bytes, int], re.Match[bytes] | None]
    shape: Shape
    arity: int
    last: int
    weights: array[int]
    texts: list[tuple[int, int]]
    gets: list[tuple[int, int]]
    columns: list[Callable[[Sequence[tuple[bytes, ...]]], Sequence[Any]]]
    text_memo: dict[int, int]
    followers: list[Pattern] = field(default_factory=list)
    number: int = 0

    def values(self, groups: Sequence[tuple[bytes, ...]]) -> Sequence[Any]:
        """Return the wanted values of some rows; tuples if there is more than one per row."""
        columns = [read(groups) for read in self.columns]
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))

    def content(self, data: bytes, start: int, base: int) -> tuple[Any, ...]:
        """Return a value that is equal for rows that are equal but for their literal texts.

        Args:
            data: the pickle.
            start: start offset of the row.
            base: memo length before the row.
        """
        found = self.match(data, start)
        assert found is not None
        groups: list[Any] = list(found.groups())
        for number in itertools.chain.from_iterable(self.texts):
            groups[number] = None
        for number, _ in self.gets:
            item = int.from_bytes(groups[number], "little") - base
            if item >= 0:  # an item of the row; a text is different in every row
                groups[number] = (base, item) if item in self.text_memo else item
        return (self.number, *groups)


def kinds_of(row: list[tuple[int, int, int]]) -> bytes:
    """Return the opcodes of a row, with one opcode for all that push an integer."""
    return bytes(_NUMBER if opcode in _NUMBERS else opcode for _, opcode, _ in row)


class _Template(InertUnpickler):
    """Unpickler of one row with holes for its arguments."""

    known: Callable[[int], Any]
    holes: list[Hole]

    def persistent_load(self, pid: Any) -> Any:
        return self.holes[~pid] if pid < 0 else self.known(pid)


def learn(
    data: bytes,
    kinds: bytes,
    row: list[tuple[int, int, int]],
    literal: dict[int, bytes],
    shape: Callable[[Any], Shape | None],
    known: Callable[[int], Any],
    memo: array[int],
) -> Pattern | None:
    """Return the pattern of a sequence of opcodes; None if the sequence is not usable.

    Args:
        data: the pickle.
        kinds: the opcodes, as in `kinds_of`.
        row: tokens of a sample row.
        literal: index among the opcodes -> the argument that all rows have.
        shape: returns the meaning of a row from its inert tree.
        known: returns the item at a memo index.
        memo: weight of each memoized item.
    """
    weights = _weights(kinds, literal)
    if weights is None:
        return None
    holes: list[Hole] = []
    text_memo: dict[int, int] = {}
    memoized, sample = 0, [b"\x80\x04"]
    for place, (at, op, end) in enumerate(row):
        kind = kinds[place]
        if place in literal:
            index = int.from_bytes(literal[place], "little")
            if index >= len(memo) or memo[index] > 1:
                return None
            sample.append(b"J" + index.to_bytes(4, "little", signed=True) + b"Q")
        elif kind in (_TEXT, _GET, _NUMBER):
            hole = Hole(len(holes), kind)
            if kind == _TEXT:
                if kinds[place + 1 : place + 2] != b"\x94":
                    return None
                text_memo[hole.number] = memoized
            holes.append(hole)
            sample.append(b"J" + (~hole.number).to_bytes(4, "little", signed=True) + b"Q")
        elif kind == _SHORT_GET:
            return None
        else:
            sample.append(data[at:end])
        memoized += op == _MEMOIZE
    arity = weights.pop()
    sample.append(b"\x86." if arity == 2 else b".")
    reader = _Template(io.BytesIO(b"".join(sample)), fix_imports=False)
    reader.named, reader.known, reader.holes = {}, known, holes
    try:
        found = shape(reader.load())
    except Exception:  # the C unpickler may raise any error: the row does not belong to a table
        return None
    if found is None or not text_memo.keys() <= {
        hole.number for hole in found.wanted if isinstance(hole, Hole)
    }:
        return None  # a text that is not read could be used as a key through the memo
    return _compiled(kinds, literal, holes, found, arity, weights, text_memo)


@dataclass(frozen=True)
class _Item:
    """An item of a row on the stack.

    Attributes:
        weight: as in `bounds.State`.
        is_own: whether the row created it and so may change it; an item from the memo is shared
            with other rows.
        is_hashable: whether it can be a key for all arguments; the C unpickler checks the parts
            that are the same in all rows.
    """

    weight: int = 1
    is_own: bool = False
    is_hashable: bool = True


def _weights(kinds: bytes, literal: Collection[int]) -> array[int] | None:
    """Return the weight of each item that a row memoizes, then the number of items that it leaves.

    Returns None if the row cannot belong to a table.

    Args:
        kinds: the opcodes of the row.
        literal: indexes of the opcodes whose argument is the same in all rows.
    """
    stack: list[_Item] = []
    marks: list[int] = []
    memo = array("H")
    before = _MEMOIZE
    for place, op in enumerate(kinds):
        if op == _MARK:
            marks.append(len(stack))
        elif op == _MEMOIZE:
            if not stack or before in _UPDATES or before in (_MEMOIZE, _MARK, _GET, _SHORT_GET):
                return None
            memo.append(stack[-1].weight)
        elif op in (_TEXT, _GET, _SHORT_GET, _NUMBER):
            stack.append(_Item(is_hashable=op in (_TEXT, _NUMBER) or place in literal))
        else:
            if op in _MARKED:
                if not marks:
                    return None
                bottom = marks.pop() - _MARKED[op]
            elif op in _PLAIN:
                bottom = len(stack) - _PLAIN[op][0]
            else:
                return None
            if bottom < (marks[-1] if marks else 0):
                return None
            made = _made(op, stack[bottom:])
            if made is None:
                return None
            stack[bottom:] = [made]
        before = op
    if (
        before not in b"b\x94"
        or marks
        or len(stack) not in (1, 2)
        or any(item.weight != 1 for item in stack)
    ):
        return None
    memo.append(len(stack))
    return memo


def _made(op: int, taken: list[_Item]) -> _Item | None:
    """Return the item that an opcode creates from its arguments; None if no table row does so."""
    if op in _TUPLES:
        weight = 1 + sum(item.weight for item in taken)
        if weight > _HEAVIEST:
            return None
        return _Item(weight, is_hashable=all(item.is_hashable for item in taken))
    if op not in _UPDATES:
        return _Item(is_own=op in _OWN)
    keys = taken[1::2] if op in b"us" else []
    if not taken[0].is_own or not all(key.is_hashable for key in keys):
        return None
    return taken[0]


def _compiled(
    kinds: bytes,
    literal: dict[int, bytes],
    holes: list[Hole],
    shape: Shape,
    arity: int,
    weights: array[int],
    text_memo: dict[int, int],
) -> Pattern:
    parts: list[bytes] = []
    texts, gets, group_of, groups, memoized = [], [], {}, 0, 0
    left = iter(holes)
    for place, kind in enumerate(kinds):
        if place in literal:
            parts.append(re.escape(bytes([kind]) + literal[place]))
        elif kind in (_TEXT, _GET, _NUMBER):
            hole = next(left)
            if kind == _TEXT:
                parts.append(_ANY_TEXT)
                texts.append((groups, groups + 1))
                group_of[hole], groups = groups + 1, groups + 2
            elif kind == _GET:
                parts.append(b"j(.{4})")
                gets.append((groups, memoized))
                group_of[hole], groups = groups, groups + 1
            else:
                parts.append(b"(" + _ANY_NUMBER + b")")
                group_of[hole], groups = groups, groups + 1
        else:
            parts.append(re.escape(bytes([kind])))
        memoized += kind == _MEMOIZE
    match = re.compile(b"".join(parts), re.DOTALL).match
    columns = [_column(each, group_of) for each in shape.wanted]
    memo = {
        text_memo[hole.number]: number
        for number, hole in enumerate(shape.wanted)
        if isinstance(hole, Hole) and hole.is_written
    }
    return Pattern(match, shape, arity, kinds[-1], weights, texts, gets, columns, memo)


def _column(
    wanted: Hole | tuple[Hole, ...] | str | None, group_of: dict[Hole, int]
) -> Callable[[Sequence[tuple[bytes, ...]]], Sequence[Any]]:
    if wanted is None or isinstance(wanted, str):
        return lambda rows: [wanted] * len(rows)
    if isinstance(wanted, tuple):
        places = [group_of[hole] for hole in wanted]
        return lambda rows: _alike([b"".join([row[g] for g in places]) for row in rows], bytes)
    group = group_of[wanted]
    if wanted.kind == _TEXT:
        return lambda rows: _alike([row[group] for row in rows], text)
    if wanted.kind == _GET:
        return lambda rows: array("I", b"".join([row[group] for row in rows]))
    return lambda rows: _alike([row[group] for row in rows], number)


def _alike(column: list[bytes], read: Callable[[bytes], Any]) -> list[Any]:
    """Convert each value; equal values share one object."""
    found = {each: read(each) for each in set(column)}
    return [found[each] for each in column]


def text(body: bytes) -> str:
    """Return the text of a text opcode's argument."""
    return body.decode("utf-8", "surrogatepass")


def numbers(found: bytes) -> Iterator[int]:
    """Yield the values of a sequence of integer opcodes."""
    for at, _, end in tokens(found, 0, len(found)):
        yield number(found[at:end])


def number(token: bytes) -> int:
    """Return the value of an integer opcode with its argument."""
    opcode = token[0]
    if opcode == _NUMBER:
        return token[1]
    signed = opcode != ord("M")
    return int.from_bytes(token[2:] if opcode == 0x8A else token[1:], "little", signed=signed)
