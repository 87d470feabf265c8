"""Writer of an edited large `.metadata` by insertions into its bytes, or as a whole if needed.

A dropped row is popped from the stack (POP) right after it was pushed. A moved byte range is popped
and another is pushed. New rows are in a separate batch that memoizes nothing. Therefore all memo
indexes stay valid, and all bytes except the insertions are unchanged. The result is read back
(`inert.again` explains why unchanged rows need not be decoded again) and must match the edit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Set
from typing import TYPE_CHECKING, Any, Final

from ckptmigrate.checkpoint import metadata
from ckptmigrate.checkpoint.large_tables import Row, sizes_of
from ckptmigrate.checkpoint.rows import item_key
from ckptmigrate.errors import PickleError
from ckptmigrate.pickles.equality import equal
from ckptmigrate.pickles.large import reread
from ckptmigrate.pickles.large.outline import Outline
from ckptmigrate.pickles.large.repeats import Run
from ckptmigrate.pickles.large.skeleton import Skeleton
from ckptmigrate.pickles.large.splice import POP, Spliced, items, spliced
from ckptmigrate.pickles.large.tokens import framed

if TYPE_CHECKING:
    from ckptmigrate.checkpoint.large_metadata import BulkMetadata

_TABLES: Final = (metadata.ENTRIES, metadata.STORED, metadata.PLANS)  # compared row by row


def dump(
    edited: BulkMetadata, view: Callable[[Skeleton], BulkMetadata | None]
) -> tuple[bytes, BulkMetadata | None]:
    """Return the bytes of the file and the metadata read back; None if it was written as a whole.

    Args:
        edited: the metadata to write.
        view: returns the metadata of a skeleton; None if it must be read as a whole.
    """
    written = splice(edited)
    found = None if written is None else _again(edited, written)
    seen = None if found is None else view(found)
    if written is not None and seen is not None and _says(seen, edited):
        return framed(written.data, written.cuts), seen
    return edited.whole().dump(), None


def _again(edited: BulkMetadata, written: Spliced) -> Skeleton | None:
    try:
        return reread.read(edited.tables.skeleton, written)
    except Exception:  # the C unpickler may raise any error
        return None


def splice(edited: BulkMetadata) -> Spliced | None:
    """Return the bytes of the file with all changes inserted; None if that is not possible."""
    found = edited.tables.skeleton
    try:
        return spliced(found.data, found.cuts, list(_Insertions(edited)))
    except Exception:  # the file is not structured as picklers write it
        return None


class _Insertions:
    """The bytes to insert, with their offsets."""

    def __init__(self, edited: BulkMetadata) -> None:
        self._edited, self._edit = edited, edited.edit
        self._found = edited.tables.skeleton
        self._outline = Outline(self._found)
        self._tables = edited.tables
        self._models = edited.tables.models
        self._root = self._outline.values(self._outline.root)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        if self._edit.class_path is not None:
            yield self._class(self._edit.class_path)
        tree, added = self._found.tree.attributes, self._edit.added
        models = self._models
        yield from self._table(
            self._root[metadata.ENTRIES],
            tree[metadata.ENTRIES],
            [(key, models.new_entry()) for key in added],
        )
        yield from self._flattened(self._root, tree.get(metadata.FLATTENED), list(added))
        yield from self._storage(tree[metadata.STORED])
        if tree.get(metadata.PLANS) is not None:
            yield from self._plans(tree[metadata.PLANS])

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
        yield from self._table(within[metadata.FLATTENED], table, [(key, (key,)) for key in added])

    def _storage(self, table: dict[Any, Any]) -> Iterator[tuple[int, bytes]]:
        edit = self._edit
        start, end = self._own(self._root[metadata.STORED], b"}")
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
        start, _ = self._own(self._root[metadata.PLANS], b"]")
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
            yield from self._flattened(values, plan.attributes.get(metadata.FLATTENED), added)

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


def _says(written: BulkMetadata, edited: BulkMetadata) -> bool:
    """Return whether the file that was read back matches the edit."""
    edit = edited.edit
    wanted = edited.tables.small.without(edit.dropped).with_blobs(edit.added).attributes
    found = written.tables.small.attributes
    plans, wanted_plans = written.plans or [], wanted.get(metadata.PLANS) or []
    return (
        written.class_path == edited.class_path
        and list(found) == list(wanted)
        and all(equal(found[name], wanted[name]) for name in found if name not in _TABLES)
        and len(plans) == len(wanted_plans)
        and all(_same_plan(*pair) for pair in zip(plans, wanted_plans, strict=True))
        and list(written.entries) == list(edited.entries)
        and written.count_objects() == edited.count_objects()
        and all(written.is_object_entry(key) for key in edit.added)
        and all(itertools.starmap(_same_row, itertools.zip_longest(written.rows(), edited.rows())))
        and all(written.plan_keys(n) == edited.plan_keys(n) for n in range(len(plans)))
    )


def _same_plan(a: Any, b: Any) -> bool:
    """Return whether two plans are equal except for their items."""
    one, two = ({k: v for k, v in p.attributes.items() if k != "items"} for p in (a, b))
    return type(a).path == type(b).path and equal(one, two)


def _same_row(a: Row | None, b: Row | None) -> bool:
    if a == b:
        return True
    if a is None or b is None or a[0] != b[0] or a[2:] != b[2:]:
        return False
    return sizes_of(a[1]) == sizes_of(b[1])
