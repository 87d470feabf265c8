"""Write an edited large `.metadata` by inserting into its bytes; whole, where that does not do.

A dropped row is taken from the stack again (POP) right after it was put there; a moved byte range
is popped and followed by another; new rows come in a batch of their own, of which nothing is
memoized. So all memo indexes stay right, and all bytes but the inserted ones stay as they are. The
result is read again (`inert.again` tells why the rows that stayed need no second look), and has to
say what the edit says.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Set
from typing import TYPE_CHECKING, Any, Final

from ckptmigrate.checkpoint import metadata
from ckptmigrate.checkpoint.rows import item_key
from ckptmigrate.checkpoint.tables import Row, sizes_of
from ckptmigrate.errors import PickleError
from ckptmigrate.inert import again
from ckptmigrate.inert.equality import equal
from ckptmigrate.inert.outline import Outline
from ckptmigrate.inert.repeats import Run
from ckptmigrate.inert.skeleton import Skeleton
from ckptmigrate.inert.splice import POP, Spliced, items, spliced
from ckptmigrate.inert.tokens import framed

if TYPE_CHECKING:
    from ckptmigrate.checkpoint.bulk import BulkMetadata

_TABLES: Final = (metadata.ENTRIES, metadata.STORED, metadata.PLANS)  # looked at by row


def dump(
    edited: BulkMetadata, view: Callable[[Skeleton], BulkMetadata | None]
) -> tuple[bytes, BulkMetadata | None]:
    """The bytes of the file, and what was read of them; None where it was written whole.

    Args:
        view: what there is to see in what was written.
    """
    written = splice(edited)
    found = None if written is None else _again(edited, written)
    seen = None if found is None else view(found)
    if written is not None and seen is not None and _says(seen, edited):
        return framed(written.data, written.cuts), seen
    return edited.whole().dump(), None


def _again(edited: BulkMetadata, written: Spliced) -> Skeleton | None:
    try:
        return again.read(edited.tables.skeleton, written)
    except Exception:  # the C machine raises nearly anything
        return None


def splice(edited: BulkMetadata) -> Spliced | None:
    """The bytes of the file with all that differs put in; None where that cannot be done."""
    found = edited.tables.skeleton
    try:
        return spliced(found.data, found.cuts, list(_Insertions(edited)))
    except Exception:  # not laid out as picklers do it, in one of many ways
        return None


class _Insertions:
    """What to insert where."""

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
        """Another class, in the place of the one at the start: what is memoized stays in number."""
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
        """Rows of a dict whose keys are text."""
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
        """A container that is made where it stands, and not shared with another place."""
        if self._found.data[place[0]] != opcode[0]:
            raise PickleError("has a table that is made elsewhere")
        return place

    def _rows(self, run: Run, keys: Set[str]) -> Iterator[int]:
        """The rows with one of the keys."""
        found = self._tables.keys_of(run)
        if not keys.isdisjoint(found):
            yield from (row for row, key in enumerate(found) if key in keys)


def _says(written: BulkMetadata, edited: BulkMetadata) -> bool:
    """Whether a file that was read again says what an edit says."""
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
    """Whether two plans are the same but for their items."""
    one, two = ({k: v for k, v in p.attributes.items() if k != "items"} for p in (a, b))
    return type(a).path == type(b).path and equal(one, two)


def _same_row(a: Row | None, b: Row | None) -> bool:
    if a == b:
        return True
    if a is None or b is None or a[0] != b[0] or a[2:] != b[2:]:
        return False
    return sizes_of(a[1]) == sizes_of(b[1])
