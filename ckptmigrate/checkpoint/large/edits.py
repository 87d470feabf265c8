"""Edits of a large `.metadata`, which are insertions into its bytes.

A dropped row is popped from the stack (POP) right after it was pushed. A moved byte range is popped
and another is pushed. New rows are in a separate batch that memoizes nothing. Therefore all memo
indexes stay valid, and all bytes except the insertions are unchanged. `reread` explains why
unchanged rows need not be decoded again to read the result back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from ckptmigrate.checkpoint.large import reread
from ckptmigrate.checkpoint.large.outline import Outline
from ckptmigrate.checkpoint.large.repeats import Run
from ckptmigrate.checkpoint.large.skeleton import Skeleton
from ckptmigrate.checkpoint.large.splice import POP, Spliced, items, spliced
from ckptmigrate.checkpoint.large.tables import Tables
from ckptmigrate.checkpoint.rows import ENTRIES, FLATTENED, PLANS, STORED, Blob, item_key
from ckptmigrate.errors import PickleError


@dataclass(frozen=True)
class Edit:
    """Differences between an edited `.metadata` and the file that was read.

    Attributes:
        dropped: keys removed from every table.
        added: key -> (rank whose save plan writes it, location of its bytes).
        moved: key -> new location of its bytes.
        class_path: the new pickled class, or None if unchanged.
    """

    dropped: frozenset[str] = frozenset()
    added: Mapping[str, tuple[int, Blob]] = field(default_factory=dict)
    moved: Mapping[str, Blob] = field(default_factory=dict)
    class_path: str | None = None

    @property
    def keys(self) -> frozenset[str]:
        """Return every key whose rows differ."""
        return frozenset((*self.dropped, *self.added, *self.moved))


def splice(tables: Tables, edit: Edit) -> Spliced | None:
    """Return the bytes of the file with all changes inserted; None if that is not possible."""
    found = tables.skeleton
    try:
        return spliced(found.data, found.cuts, list(_Insertions(tables, edit)))
    except Exception:  # the file is not structured as picklers write it
        return None


def read_back(tables: Tables, written: Spliced) -> Skeleton | None:
    """Read an edited file; return None if it does not contain the unchanged rows of the old one."""
    try:
        return reread.read(tables.skeleton, written)
    except Exception:  # the C unpickler may raise any error
        return None


class _Insertions:
    """The bytes to insert, with their offsets."""

    def __init__(self, tables: Tables, edit: Edit) -> None:
        self._tables, self._edit = tables, edit
        self._found, self._models = tables.skeleton, tables.models
        self._outline = Outline(self._found)
        self._root = self._outline.values(self._outline.root)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        if self._edit.class_path is not None:
            yield self._class(self._edit.class_path)
        tree, added = self._found.tree.attributes, self._edit.added
        models = self._models
        yield from self._table(
            self._root[ENTRIES],
            tree[ENTRIES],
            [(key, models.new_entry()) for key in added],
        )
        yield from self._flattened(self._root, tree.get(FLATTENED), list(added))
        yield from self._storage(tree[STORED])
        if tree.get(PLANS) is not None:
            yield from self._plans(tree[PLANS])

    def _class(self, path: str) -> tuple[int, bytes]:
        """Return the insertion that replaces the class at the start and keeps the memo length."""
        data = self._found.data
        at = 2
        for _ in range(2):  # the module and the name, each memoized
            if data[at] != 0x8C or data[at + 2 + data[at + 1]] != 0x94:
                raise PickleError("does not start with a class")
            at += 3 + data[at + 1]
        if data[at : at + 2] != b"\x93\x94":
            raise PickleError("does not start with a class")
        module, _, name = path.rpartition(".")
        named = items([(module, name)], b"")[1:]
        return at, POP * 2 + named

    def _table(
        self, place: tuple[int, int], table: dict[Any, Any], new: list[tuple[Any, Any]]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield the insertions for a dict whose keys are text."""
        start, end = self._own(place, b"}")
        for key, after in self._outline.walk(start, 2, table):
            if isinstance(key, Run):
                for row in self._rows(key, self._edit.dropped):
                    yield key.ends[row], POP * 2
            elif key in self._edit.dropped:
                yield after, POP * 2
        yield end, items(new, b"u")

    def _flattened(
        self, within: dict[str, tuple[int, int]], table: Any, added: list[str]
    ) -> Iterator[tuple[int, bytes]]:
        if not table or not (added or any(key in table for key in self._edit.dropped)):
            return
        yield from self._table(within[FLATTENED], table, [(key, (key,)) for key in added])

    def _storage(self, table: dict[Any, Any]) -> Iterator[tuple[int, bytes]]:
        edit = self._edit
        start, end = self._own(self._root[STORED], b"}")
        for index, after in self._outline.walk(start, 2, table):
            if isinstance(index, Run):
                for row in self._rows(index, edit.dropped):
                    yield index.ends[row], POP * 2
                for row in self._rows(index, edit.moved.keys()):
                    yield index.ends[row], self._elsewhere(self._tables.keys_of(index)[row])
                continue
            key = index.attributes["fqn"]
            if key in edit.dropped:
                yield after, POP * 2
            elif key in edit.moved:
                yield after, self._elsewhere(key)
        models = self._models
        rows = [(models.new_index(k), models.new_storage(b)) for k, (_, b) in edit.added.items()]
        yield end, items(rows, b"u")

    def _elsewhere(self, key: str) -> bytes:
        return POP + items([(self._models.new_storage(self._edit.moved[key]),)], b"")[1:]

    def _plans(self, plans: list[Any]) -> Iterator[tuple[int, bytes]]:
        start, _ = self._own(self._root[PLANS], b"]")
        by_rank: dict[int, list[str]] = {}
        for key, (rank, _) in self._edit.added.items():
            by_rank.setdefault(rank, []).append(key)
        states = self._outline.states(self._outline.items(start))
        for rank, (plan, state) in enumerate(zip(plans, states, strict=True)):
            values = self._outline.values(state)
            added = by_rank.get(rank, [])
            begin, end = values["items"]
            found = [
                where
                for item, after in self._outline.walk(begin, 1, plan.attributes["items"])
                for where in self._dropped_items(item, after)
            ]
            if found or added:
                self._own((begin, end), b"]")
            yield from found
            yield end, items([(self._models.new_item(key),) for key in added], b"e")
            yield from self._flattened(values, plan.attributes.get(FLATTENED), added)

    def _dropped_items(self, item: Any, after: int) -> Iterator[tuple[int, bytes]]:
        if isinstance(item, Run):
            for row in self._rows(item, self._edit.dropped):
                yield item.ends[row], POP
        elif item_key(item) in self._edit.dropped:
            yield after, POP

    def _own(self, place: tuple[int, int], opcode: bytes) -> tuple[int, int]:
        """Return the place of a container; raise if it is created elsewhere and shared.

        Raises:
            PickleError: the container is created elsewhere.
        """
        if self._found.data[place[0]] != opcode[0]:
            raise PickleError("has a table that is defined elsewhere")
        return place

    def _rows(self, run: Run, keys: Set[str]) -> Iterator[int]:
        """Yield the rows of a run that have one of the keys."""
        found = self._tables.keys_of(run)
        if not keys.isdisjoint(found):
            yield from (row for row, key in enumerate(found) if key in keys)
