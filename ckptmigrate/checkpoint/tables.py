"""The tables of a large `.metadata`: which rows they have, and what is read of each.

Of an entry that is its key; of a row of `storage_data` the key and the byte range; of a plan item
the key. `shape` says which rows `inert.repeats` may step over for it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ckptmigrate.checkpoint import metadata
from ckptmigrate.checkpoint.metadata import Blob, Metadata
from ckptmigrate.checkpoint.modelling import Models
from ckptmigrate.errors import DamagedError, PickleError
from ckptmigrate.inert import patterns
from ckptmigrate.inert.patterns import Hole, Shape
from ckptmigrate.inert.repeats import Run
from ckptmigrate.inert.skeleton import Skeleton
from ckptmigrate.inert.tree import Object

# A row of storage_data: key, offsets (None for an object), file, offset, length. The offsets of
# rows that were stepped over are the opcodes that push them, always the shortest.
Row = tuple[str, bytes | tuple[int, ...] | None, str, int, int]

TENSOR, OBJECT, STORED, ITEM = "tensor", "object", "stored", "item"
_ENTRIES, _STORAGE, _PLANS = "state_dict_metadata", "storage_data", "all_local_plans"


def shape(tree: Any) -> Shape | None:
    """What a row of one of the large tables is, from the inert tree of its pattern."""
    if isinstance(tree, tuple):
        key, value = tree
        if isinstance(key, Hole):
            if key.is_written and metadata.is_entry(value):
                return Shape(TENSOR if metadata.is_tensor_entry(value) else OBJECT, (key,))
            return None
        return _shape_of_stored(key, value)
    fields = _fields(tree)
    key = _fields(fields.get("index")).get("fqn")
    if isinstance(key, Hole) and key.is_text and isinstance(fields.get("type"), Object):
        return Shape(ITEM, (key,))
    return None


def _fields(value: Any) -> Mapping[str, Any]:
    """The attributes of an object, if they have the same names in every row."""
    found = value.attributes if isinstance(value, Object) else {}
    return found if all(isinstance(name, str) for name in found) else {}


def _shape_of_stored(index: Any, where: Any) -> Shape | None:
    if not metadata.is_stored(index, where):
        return None
    named, place = _fields(index), _fields(where)
    key, offsets = named.get("fqn"), named.get("offset")
    file, *numbers = (place.get(name) for name in ("relative_path", "offset", "length"))
    if offsets is not None:
        args = offsets.args if isinstance(offsets, Object) else ()
        if len(args) != 1 or not isinstance(args[0], tuple):
            return None
        offsets = args[0]
    if not (
        isinstance(key, Hole)
        and key.is_text
        and (isinstance(file, str) or (isinstance(file, Hole) and file.is_text))
        and all(isinstance(n, Hole) and n.is_number for n in numbers)
        and (offsets is None or all(isinstance(n, Hole) and n.is_number for n in offsets))
    ):
        return None
    return Shape(STORED, (key, offsets, file, *numbers))


class Tables:
    """What a `.metadata` holds, as it was read.

    Attributes:
        skeleton: the pickle.
        small: the same without the rows that were stepped over.
        models: rows to model new ones on.
        entries: key -> the inert entry, or the number of its row.
        ends: payload file -> the end of the last byte range in it.
        objects: where the bytes of each sharded object are.
        plan_items: for each rank the items, inert or runs.
    """

    def __init__(self, found: Skeleton, small: Metadata) -> None:
        self.skeleton, self.small = found, small
        self.entries: dict[str, Any] = {}
        self._runs: list[Run] = []
        self._seen: set[int] = set()  # where runs start
        self._firsts: list[int] = []
        tree = found.tree.attributes
        self._add_entries(tree[_ENTRIES])
        self.ends: dict[str, int] = {}
        self.objects: dict[str, Blob] = {}
        self._check_storage(tree[_STORAGE])
        plans = tree.get(_PLANS)
        self.plan_items: list[list[Any]] = [plan.attributes["items"] for plan in plans or ()]
        self._check_plans()
        if len(self._seen) != len(found.rows.runs):
            raise PickleError("has rows in a table of no known kind")
        self.models = Models(small)

    def indexes(self, keys: Collection[str]) -> set[int]:
        """The memo indexes at which a key is found."""
        wanted, found = frozenset(keys), self.skeleton
        indexes = {n for n, value in found.memoized_texts() if value in wanted}
        for run in found.rows.runs:
            memos = [pattern.text_memo for pattern in found.rows.patterns]
            if not any(memos[number] for number in set(run.patterns)):
                continue
            for row, (number, value) in enumerate(zip(run.patterns, run.values, strict=True)):
                for place, which in memos[number].items():
                    if (value[which] if isinstance(value, tuple) else value) in wanted:
                        indexes.add(run.bases[row] + place)
        return indexes

    def _add_entries(self, table: dict[Any, Any]) -> None:
        count = 0
        for key, entry in table.items():
            if not isinstance(key, Run):
                if not isinstance(key, str):
                    raise DamagedError("has an entry whose key is no text")
                self.entries[key] = entry
                count += 1
                continue
            self._expect(key, TENSOR, OBJECT)
            first = self._firsts[-1] + len(self._runs[-1].ends) if self._runs else 0
            self._runs.append(key)
            self._firsts.append(first)
            self.entries.update(zip(key.values, range(first, first + len(key.ends)), strict=True))
            count += len(key.ends)
        if count != len(self.entries):
            raise PickleError("an entry is there twice")

    def _expect(self, run: Run, *kinds: str) -> None:
        if run.start in self._seen:
            raise PickleError("a row is there twice")
        self._seen.add(run.start)
        if any(self.skeleton.rows.patterns[n].shape.kind not in kinds for n in set(run.patterns)):
            raise PickleError("a row is of another table")

    def place(self, number: int) -> tuple[Run, int]:
        """The run and the row in it of an entry that is no inert tree yet."""
        at = bisect_right(self._firsts, number) - 1
        return self._runs[at], number - self._firsts[at]

    def is_object(self, key: str) -> bool:
        """Whether an entry is a sharded object."""
        found = self.entries[key]
        if isinstance(found, int):
            run, row = self.place(found)
            return self.skeleton.rows.patterns[run.patterns[row]].shape.kind == OBJECT
        return not metadata.is_tensor_entry(found) and metadata.is_entry(found)

    def entry(self, key: str) -> Any:
        """The inert tree of an entry."""
        found = self.entries[key]
        return self.skeleton.decode(*self.place(found))[1] if isinstance(found, int) else found

    def count_objects(self) -> int:
        """How many entries are sharded objects."""
        kinds = [pattern.shape.kind == OBJECT for pattern in self.skeleton.rows.patterns]
        fast = sum(
            run.patterns.count(n) for run in self._runs for n in range(len(kinds)) if kinds[n]
        )
        return fast + sum(
            self.is_object(key) for key, found in self.entries.items() if not isinstance(found, int)
        )

    # -- storage_data

    def rows(self) -> Iterator[Row]:
        """Every row of `storage_data`."""
        text = self.skeleton.text
        files: dict[int, str] = {}
        for index, where in self.skeleton.tree.attributes[_STORAGE].items():
            if not isinstance(index, Run):
                chunk = metadata.chunk_of(index, where)
                blob = chunk.blob
                yield chunk.key, chunk.offsets, blob.file, blob.offset, blob.length
                continue
            for key, offsets, file, offset, length in index.values:
                if not isinstance(key, str):
                    key = text(key)
                if not isinstance(file, str):
                    name = files.get(file)
                    file = name if name is not None else files.setdefault(file, text(file))
                yield key, offsets, file, offset, length

    def _check_storage(self, table: dict[Any, Any]) -> None:
        for index in table:
            if isinstance(index, Run):
                self._expect(index, STORED)
        seen: set[str] = set()
        again: set[str] = set()
        for key, offsets, file, offset, length in self.rows():
            if key not in self.entries:
                raise DamagedError(f"stores {key!r}, which is no entry")
            if offset < 0 or length < 0:
                raise DamagedError(f"has an impossible byte range for {key!r}")
            if key in seen:
                again.add(key)
            seen.add(key)
            end = offset + length
            if end > self.ends.get(file, -1):
                self.ends[file] = end
            if offsets is None:
                self.objects[key] = Blob(file, offset, length)
        if again:
            pieces: set[tuple[str, Any]] = set()
            for key, offsets, *_ in self.rows():
                if key in again:
                    piece = key, sizes_of(offsets)
                    if piece in pieces:
                        raise DamagedError(f"stores a piece of {key!r} twice")
                    pieces.add(piece)

    # -- plans

    def _check_plans(self) -> None:
        state = self.skeleton
        for items in self.plan_items:
            for item in items:
                if isinstance(item, Run):
                    self._expect(item, ITEM)
                    for key in item.values:
                        if not isinstance(key, str):
                            state.text(key)
                else:
                    metadata.item_key(item)

    def plan_keys(self, rank: int, among: Collection[str] | None = None) -> list[str]:
        """The keys that the plan of a rank writes, or those of them that are asked for."""
        text, keys = self.skeleton.text, []
        wanted = None if among is None else {*among, *self.indexes(among)}
        for item in self.plan_items[rank]:
            values = item.values if isinstance(item, Run) else [metadata.item_key(item)]
            if wanted is not None:
                values = [value for value in values if value in wanted]
            keys += [value if isinstance(value, str) else text(value) for value in values]
        return keys


def sizes_of(offsets: bytes | tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The numbers of the offsets in a `Row`."""
    if not isinstance(offsets, bytes):
        return offsets
    return tuple(patterns.numbers(offsets))
