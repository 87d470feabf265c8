"""A large pickle as a small inert tree in which repeated rows are not decoded.

Rows that `repeats` steps over do not go through the unpickler. Everything else does, with a `Run`
in place of each run of rows, so that the tree shows which table contains it. A single row is
unpickled on demand.
"""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ckptmigrate.checkpoint.large.patterns import Shape
from ckptmigrate.checkpoint.large.repeats import Rows, Run
from ckptmigrate.checkpoint.large.tokens import tokens, unframed
from ckptmigrate.errors import PickleError
from ckptmigrate.pickles import bounds
from ckptmigrate.pickles.reader import InertUnpickler, uncollected

_PROTOCOL_4: Final = b"\x80\x04"
# 5 is the default from Python 3.14; rows use none of the opcodes that it adds to 4
_PROTOCOLS: Final = (_PROTOCOL_4, b"\x80\x05")
_GETS: Final = frozenset(b"hj")
_ALIEN: Final = frozenset(b"qrQ")
_STOP: Final = b"."
_LARGEST_INDEX: Final = 2**31 - 1
_MOST_LOOKS: Final = 64  # maximum copies of a growing memo


class _Unpickler(InertUnpickler):
    """Unpickler that resolves runs and memoized items of rows from persistent ids."""

    resolve: Callable[[int], Any]

    def persistent_load(self, pid: Any) -> Any:
        return self.resolve(pid)


def _unpickler(pieces: list[bytes], resolve: Callable[[int], Any]) -> _Unpickler:
    made = _Unpickler(io.BytesIO(b"".join(pieces)), fix_imports=False)
    made.named, made.resolve = {}, resolve
    return made


@dataclass(eq=False)
class Skeleton:
    """A large pickle.

    Attributes:
        data: its bytes without frames; all offsets refer to them.
        cuts: start of each frame.
        rows: the rows that were stepped over.
        tree: the inert tree, with a `Run` in place of each run of rows.
        named: the globals that the pickle names outside these rows.
        memoized: number of items that the pickle memoizes.
    """

    data: bytes
    cuts: list[int]
    rows: Rows
    tree: Any = None
    named: tuple[str, ...] = ()
    memoized: int = 0
    _memo: dict[int, Any] = field(default_factory=dict)
    _unpickler: Any = None  # set while the small tree is built
    _looks: int = 0
    _bases: list[int] = field(default_factory=list)
    _removed: list[int] = field(default_factory=list)  # items of rows before each run
    _decoded: dict[int, tuple[Any, dict[int, Any]]] = field(default_factory=dict)

    # -- memoized items

    def known(self, index: int) -> Any:
        """Return the item at a memo index.

        Raises:
            PickleError: the index is undefined.
        """
        place = self._locate(index)
        if isinstance(place, int):
            return self._small(place)
        run, row = place
        written = self._written(run, row, index)
        return self._row(run, row)[1][index - run.bases[row]] if written is None else written

    def text(self, index: int) -> str:
        """Return the text at a memo index.

        Raises:
            PickleError: the index is undefined, or its item is not a text.
        """
        found = self.known(index)
        if not isinstance(found, str):
            raise PickleError(f"has no text at memo index {index}")
        return found

    def texts_beside(self, index: int) -> dict[int, str]:
        """Return the texts by memo index that are read from the run around an index, and its own.

        Raises:
            PickleError: the item at the index is not a text.
        """
        place = self._locate(index)
        found = {} if isinstance(place, int) else self.texts_of(place[0])
        return found if index in found else {**found, index: self.text(index)}

    def texts_of(self, run: Run) -> dict[int, str]:
        """Return the texts that are read from the rows of a run, by memo index."""
        memos = [pattern.text_memo for pattern in self.rows.patterns]
        return {
            base + place: value[which] if isinstance(value, tuple) else value
            for base, number, value in zip(run.bases, run.patterns, run.values, strict=True)
            for place, which in memos[number].items()
        }

    def _written(self, run: Run, row: int, index: int) -> str | None:
        """Return the text of a row at a memo index without decoding the row; None if not a text."""
        pattern = self.rows.patterns[run.patterns[row]]
        number = pattern.text_memo.get(index - run.bases[row])
        if number is None:
            return None
        value = run.values[row]
        text: str = value[number] if isinstance(value, tuple) else value
        return text

    def _small(self, index: int) -> Any:
        """Return an item from the memo of the small tree."""
        if index not in self._memo and self._unpickler is not None and self._looks < _MOST_LOOKS:
            self._looks += 1
            self._memo = self._unpickler.memo.copy()
        if index not in self._memo:
            raise PickleError("refers to a memo index that is not set")
        return self._memo[index]

    def _locate(self, index: int) -> int | tuple[Run, int]:
        """Return the index in the memo of the small tree, or the run and row of a memo index."""
        number = bisect_right(self._bases, index) - 1
        if number < 0:
            return index
        run = self.rows.runs[number]
        if index < run.base + run.memoized:
            return run, bisect_right(run.bases, index) - 1
        return index - self._removed[number] - run.memoized

    # -- rows

    def decode(self, run: Run, row: int) -> Any:
        """Return the inert tree of a row; a pair in a dict."""
        return self._row(run, row)[0]

    def content(self, run: Run, row: int) -> tuple[Any, ...]:
        """Return a value that is equal for rows that are equal but for their literal texts."""
        pattern = self.rows.patterns[run.patterns[row]]
        return pattern.content(self.data, run.row(row)[0], run.bases[row])

    def _row(self, run: Run, row: int) -> tuple[Any, dict[int, Any]]:
        # A row may refer to another row, and so on, thousands of rows deep.
        todo = [(run, row)]
        while todo:
            place = todo[-1]
            if place[0].row(place[1])[0] not in self._decoded:
                pieces, needed = self._pieces(*place)
                if needed:
                    todo += needed
                    continue
                unpickler = _unpickler(pieces, self.known)
                found = unpickler.load(), unpickler.memo.copy()
                self._decoded[place[0].row(place[1])[0]] = found
            todo.pop()
        return self._decoded[run.row(row)[0]]

    def _pieces(self, run: Run, row: int) -> tuple[list[bytes], list[tuple[Run, int]]]:
        """Return a row as a separate pickle, and the rows that must be decoded first."""
        pattern, base = self.rows.patterns[run.patterns[row]], run.bases[row]
        pieces, needed = [_PROTOCOL_4], []
        for at, opcode, after in tokens(self.data, *run.row(row)):
            if opcode not in _GETS:
                pieces.append(self.data[at:after])
                continue
            index = int.from_bytes(self.data[at + 1 : after], "little")
            if index >= base:
                pieces.append(_get(index - base))
                continue
            pieces.append(_resolved(index))
            place = self._locate(index)
            if not isinstance(place, int) and self._written(*place, index) is None:
                other, number = place
                if other.row(number)[0] not in self._decoded:
                    needed.append(place)
        pieces.append(b"\x86." if pattern.arity == 2 else _STOP)
        return pieces, needed

    # -- the small tree

    def load(self, end: int, *, partial: bool) -> None:
        """Unpickle everything up to an offset except the rows that were stepped over.

        Raises:
            PickleError: a frame starts inside an opcode.
            Exception: the C unpickler raises an error.
        """
        runs = [run for run in self.rows.runs if run.start < end]
        self._bases, self._removed = [run.base for run in runs], []
        removed = 0
        for run in runs:
            self._removed.append(removed)
            removed += run.memoized
        pieces, position = [self.data[:2]], 2
        self._cut = iter([*self.cuts, len(self.data) + 1])
        self._next_cut = next(self._cut)
        for number, run in enumerate(runs):
            pieces += self._kept(position, run.start)
            pattern = self.rows.patterns[run.patterns[0]]
            pieces.append(_resolved(~number) + (b"N" if pattern.arity == 2 else b""))
            position = run.ends[-1]
        pieces += self._kept(position, end)
        if partial:
            pieces.append(_STOP)
        self._unpickler = _unpickler(pieces, lambda pid: runs[~pid] if pid < 0 else self.known(pid))
        with uncollected():
            self.tree = self._unpickler.load()
        self.named, self._memo = tuple(self._unpickler.named), self._unpickler.memo.copy()
        self._unpickler = None

    def _kept(self, start: int, end: int) -> list[bytes]:
        """Return the bytes of a part without rows, with its memo indexes adjusted."""
        pieces, done, data = [], start, self.data
        while self._next_cut < start:
            self._next_cut = next(self._cut)  # inside a run, and checked there
        for at, opcode, after in tokens(data, start, end):
            if self._next_cut <= at:
                if self._next_cut < at:
                    raise PickleError("has a frame that starts inside an opcode")
                self._next_cut = next(self._cut)
            if opcode in _ALIEN:
                raise PickleError("sets memo indices itself, or refers to an external object")
            if opcode in _GETS:
                index = int.from_bytes(data[at + 1 : after], "little")
                if index < self._first_base:
                    continue
                place = self._locate(index)
                pieces.append(data[done:at])
                pieces.append(_get(place) if isinstance(place, int) else _resolved(index))
                done = after
        pieces.append(data[done:end])
        return pieces

    @property
    def _first_base(self) -> int:
        return self._bases[0] if self._bases else _LARGEST_INDEX


def read(data: bytes, shape: Callable[[Any], Shape | None]) -> Skeleton | None:
    """Read a large pickle; return None if it must be read as a whole (which may raise an error).

    Args:
        shape: returns the meaning of a kind of row; None for a kind to unpickle.
    """
    flat = unframed(data) if data[:2] in _PROTOCOLS else None
    if flat is None:
        return None
    bare, cuts = flat
    rows = Rows(bare, cuts, shape, _known_so_far)
    found = Skeleton(bare, cuts, rows)
    try:
        state = bounds.lex(bare, rows)
        found.memoized = len(state.memo)
        found.load(len(bare), partial=False)
    except Exception:  # the reader of the whole pickle reports it
        return None
    return found


def _known_so_far(rows: Rows, end: int) -> Callable[[int], Any]:
    """Return a function from memo index to item for a partly lexed pickle, up to an offset."""
    found = Skeleton(rows.data, [], rows)
    found.load(end, partial=True)
    return found.known


def _get(index: int) -> bytes:
    return b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)


def _resolved(index: int) -> bytes:
    if index > _LARGEST_INDEX:
        raise PickleError(f"has memo index {index}")
    return b"J" + struct.pack("<i", index) + b"Q"
