"""Positions of the parts of a large pickle, used to edit it without rewriting it."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Iterator
from typing import Any

from ckptmigrate.checkpoint.large.repeats import Run
from ckptmigrate.checkpoint.large.reread import KnownRows
from ckptmigrate.checkpoint.large.skeleton import Skeleton
from ckptmigrate.errors import PickleError
from ckptmigrate.pickles import bounds
from ckptmigrate.pickles.bounds import State


class Outline(KnownRows):
    """The items of every dict and list that `skeleton` did not step over; see `bounds.Repeats`.

    A dict or list is identified by its start offset.
    """

    def __init__(self, found: Skeleton) -> None:
        super().__init__(found.rows.runs, found.rows.patterns)
        self._found = found
        # Container -> its batches: the start of each item, and the end of the batch.
        self._batches: dict[int, list[tuple[list[int], int]]] = {}
        self.root = 0  # state of the pickled object: the last dict
        bounds.lex(found.data, self)

    def closed(self, state: State, bottom: int, opcode: int) -> None:
        self.root = state.starts[bottom - 1]
        self._batches.setdefault(self.root, []).append((state.starts[bottom:], state.position))

    def values(self, start: int) -> dict[str, tuple[int, int]]:
        """Return text key -> start and end of its value in a dict."""
        found = {}
        for starts, close in self._batches.get(start, ()):
            ends = [*starts[2::2], close]
            for key, value, end in zip(starts[::2], starts[1::2], ends, strict=True):
                found[self._text(key, value)] = (value, end)
        return found

    def items(self, start: int) -> list[tuple[int, int]]:
        """Return the start and end of each item of a list without skipped rows."""
        return [
            (begin, end)
            for starts, close in self._batches.get(start, ())
            for begin, end in zip(starts, [*starts[1:], close], strict=True)
        ]

    def states(self, objects: list[tuple[int, int]]) -> list[int]:
        """Return the start of the state of each object, which is its first dict.

        Raises:
            PickleError: an object has no state.
        """
        places = sorted(self._batches)
        found = [places[bisect(places, start) : bisect(places, end)][:1] for start, end in objects]
        if not all(found):
            raise PickleError("has an object without a state")
        return [place for [place] in found]

    def walk(self, start: int, arity: int, members: Iterable[Any]) -> Iterator[tuple[Any, int]]:
        """Yield the members of a container, a run of rows as one member, each with its end offset.

        Args:
            start: start offset of the container.
            arity: items per member: 2 in a dict, 1 in a list.
            members: the members in the inert tree, in order.

        Raises:
            PickleError: the members differ from those in the pickle.
        """
        yield from zip(members, self._ends(start, arity, members), strict=True)

    def _ends(self, start: int, arity: int, members: Iterable[Any]) -> list[int]:
        ends: list[int] = []
        runs: list[tuple[int, Run]] = []
        for starts, close in self._batches.get(start, ()):
            heads = [*starts[::arity], close]
            number = 0
            while number < len(heads) - 1:
                head = heads[number]
                if head < 0:
                    run = self._runs[~head]
                    number += len(run.ends)
                    runs.append((len(ends), run))
                    ends.append(run.ends[-1])
                else:
                    number += 1
                    following = heads[number]
                    ends.append(~following if following < 0 else following)
        placed = [(n, member) for n, member in enumerate(members) if isinstance(member, Run)]
        if placed != runs:
            raise PickleError("has a table of another structure than its first rows")
        return ends

    def _text(self, start: int, end: int) -> str:
        """Return the text that the opcode at an offset pushes."""
        data = self._found.data
        if data[start] == 0x8C:
            return data[start + 2 : start + 2 + data[start + 1]].decode("utf-8", "surrogatepass")
        if data[start] in b"hj":
            width = 1 if data[start] == ord("h") else 4
            return self._found.text(int.from_bytes(data[start + 1 : start + 1 + width], "little"))
        raise PickleError("has an attribute whose name is not a short text")
