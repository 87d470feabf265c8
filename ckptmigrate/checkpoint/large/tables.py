"""The tables of a large `.metadata`: their rows, and the values that are read from each row.

These are the key of a `state_dict_metadata` row, the key and byte range of a `storage_data` row,
and the key of a plan item. `shape` decides which rows `repeats` may step over.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ckptmigrate.checkpoint.large import patterns
from ckptmigrate.checkpoint.large.patterns import Hole, Shape
from ckptmigrate.checkpoint.large.repeats import Run
from ckptmigrate.checkpoint.large.skeleton import Skeleton
from ckptmigrate.checkpoint.metadata import Metadata
from ckptmigrate.checkpoint.row_templates import Models
from ckptmigrate.checkpoint.rows import (
    ENTRIES,
    PLANS,
    STORED,
    Blob,
    Piece,
    chunk_of,
    is_entry,
    is_object_entry,
    is_stored,
    is_tensor_entry,
    item_key,
    piece_of,
)
from ckptmigrate.errors import DamagedError, PickleError
from ckptmigrate.pickles.tree import Object

# A row of storage_data: key, offsets (None for an object), file, offset, length. The offsets of
# rows that were stepped over are the opcodes that push them, always in shortest form.
Row = tuple[str, bytes | tuple[int, ...] | None, str, int, int]

TENSOR, OBJECT, CHUNK, ITEM = "tensor", "object", "chunk", "item"


def shape(tree: Any) -> Shape | None:
    """Return the meaning of a row of a large table, from the inert tree of its pattern."""
    if isinstance(tree, tuple):
        key, value = tree
        if isinstance(key, Hole):
            if key.is_written and is_entry(value):
                return Shape(TENSOR if is_tensor_entry(value) else OBJECT, (key,))
            return None
        return _shape_of_stored(key, value)
    fields = _fields(tree)
    key = _fields(fields.get("index")).get("fqn")
    if isinstance(key, Hole) and key.is_text and isinstance(fields.get("type"), Object):
        return Shape(ITEM, (key,))
    return None


def _fields(value: Any) -> Mapping[str, Any]:
    """Return the attributes of an object if their names are the same in every row."""
    found = value.attributes if isinstance(value, Object) else {}
    return found if all(isinstance(name, str) for name in found) else {}


def _shape_of_stored(index: Any, where: Any) -> Shape | None:
    if not is_stored(index, where):
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
    return Shape(CHUNK, (key, offsets, file, *numbers))


class _Texts(dict[int, str]):
    """Cache of memo index -> text, filled by run on demand."""

    def __init__(self, found: Skeleton) -> None:
        self._found = found

    def __missing__(self, index: int) -> str:
        self.update(self._found.texts_beside(index))
        return self[index]


class Tables:
    """The tables of a `.metadata` as read.

    Attributes:
        skeleton: the pickle.
        small: the metadata without the rows that were stepped over.
        models: templates for new rows.
        entries: key -> inert value, or row number.
        ends: data file -> end of the last byte range in it.
        objects: location of the bytes of each sharded object.
        plan_items: for each rank, the items, inert or runs.
    """

    def __init__(self, found: Skeleton, small: Metadata) -> None:
        self.skeleton, self.small = found, small
        self.entries: dict[str, Any] = {}
        self._runs: list[Run] = []
        self._firsts: list[int] = []
        self._keys: dict[int, Sequence[str]] = {}  # by start of the run
        self._values: dict[tuple[Any, ...], Any] = {}  # the inert value of equal rows
        tree = found.tree.attributes
        self._add_entries(tree[ENTRIES])
        texts = _Texts(found)
        self.ends: dict[str, int] = {}
        self.objects: dict[str, Blob] = {}
        self._add_keys(tree[STORED], CHUNK, texts)
        self._check_storage()
        plans = tree.get(PLANS)
        self.plan_items: list[list[Any]] = [plan.attributes["items"] for plan in plans or ()]
        for items in self.plan_items:
            self._add_keys(items, ITEM, texts)
        if len(self._keys) != len(found.rows.runs):
            raise PickleError("has rows in a table of an unknown kind")
        self.models = Models(small.entries, small.stored, small.plans)

    def _add_entries(self, table: dict[Any, Any]) -> None:
        count = 0
        for key, entry in table.items():
            if not isinstance(key, Run):
                if not isinstance(key, str):
                    raise DamagedError("has a key that is not text")
                self.entries[key] = entry
                count += 1
                continue
            self._expect(key, TENSOR, OBJECT)
            first = self._firsts[-1] + len(self._runs[-1].ends) if self._runs else 0
            self._runs.append(key)
            self._firsts.append(first)
            self._keys[key.start] = key.values
            self.entries.update(zip(key.values, range(first, first + len(key.ends)), strict=True))
            count += len(key.ends)
        if count != len(self.entries):
            raise PickleError("has a key twice")

    def _expect(self, run: Run, *kinds: str) -> None:
        if run.start in self._keys:
            raise PickleError("has a row twice")
        if any(self.skeleton.rows.patterns[n].shape.kind not in kinds for n in set(run.patterns)):
            raise PickleError("has a row of another table")

    def _add_keys(self, table: Iterable[Any], kind: str, texts: _Texts) -> None:
        """Read the keys of the rows of a table that were stepped over."""
        for run in table:
            if isinstance(run, Run):
                self._expect(run, kind)
                keys = [row[0] for row in run.values] if kind == CHUNK else run.values
                self._keys[run.start] = [k if isinstance(k, str) else texts[k] for k in keys]
            elif kind == ITEM:
                item_key(run)

    def keys_of(self, run: Run) -> Sequence[str]:
        """Return the key of each row of a run."""
        return self._keys[run.start]

    def place(self, number: int) -> tuple[Run, int]:
        """Return the run and the row in it for a row number."""
        at = bisect_right(self._firsts, number) - 1
        return self._runs[at], number - self._firsts[at]

    def is_object(self, key: str) -> bool:
        """Return whether a key is a sharded object."""
        found = self.entries[key]
        if isinstance(found, int):
            run, row = self.place(found)
            return self.skeleton.rows.patterns[run.patterns[row]].shape.kind == OBJECT
        return is_object_entry(found)

    def entry(self, key: str) -> Any:
        """Return the inert value of a key; keys with equal rows share it."""
        found = self.entries[key]
        if not isinstance(found, int):
            return found
        run, row = self.place(found)
        content = self.skeleton.content(run, row)
        if content not in self._values:
            self._values[content] = self.skeleton.decode(run, row)[1]
        return self._values[content]

    def count_objects(self) -> int:
        """Return the number of keys that are sharded objects."""
        kinds = [pattern.shape.kind == OBJECT for pattern in self.skeleton.rows.patterns]
        fast = sum(
            run.patterns.count(n) for run in self._runs for n in range(len(kinds)) if kinds[n]
        )
        return fast + sum(
            self.is_object(key) for key, found in self.entries.items() if not isinstance(found, int)
        )

    # -- storage_data

    def rows(self) -> Iterator[Row]:
        """Yield every row of `storage_data`."""
        files: dict[int, str] = {}
        for index, where in self.skeleton.tree.attributes[STORED].items():
            if not isinstance(index, Run):
                chunk = chunk_of(index, where)
                blob = chunk.blob
                yield chunk.key, chunk.offsets, blob.file, blob.offset, blob.length
                continue
            for key, row in zip(self._keys[index.start], index.values, strict=True):
                _, offsets, file, offset, length = row
                if not isinstance(file, str):
                    if file not in files:
                        files[file] = self.skeleton.text(file)
                    file = files[file]
                yield key, offsets, file, offset, length

    def _check_storage(self) -> None:
        seen: set[str] = set()
        again: set[str] = set()
        for key, offsets, file, offset, length in self.rows():
            if key not in self.entries:
                raise DamagedError(f"stores {key!r}, which is not in state_dict_metadata")
            if offset < 0 or length < 0:
                raise DamagedError(f"has an invalid byte range for {key!r}")
            if key in seen:
                again.add(key)
            seen.add(key)
            end = offset + length
            if end > self.ends.get(file, -1):
                self.ends[file] = end
            if offsets is None:
                self.objects[key] = Blob(file, offset, length)
        if again:
            pieces: set[Piece] = set()
            for key, offsets, *_ in self.rows():
                if key in again:
                    piece = piece_of(key, sizes_of(offsets))
                    if piece in pieces:
                        raise DamagedError(f"stores a chunk of {key!r} twice")
                    pieces.add(piece)

    # -- plans

    def plan_keys(self, rank: int) -> list[str]:
        """Return the keys that the save plan of a rank writes."""
        keys: list[str] = []
        for item in self.plan_items[rank]:
            keys += self.keys_of(item) if isinstance(item, Run) else [item_key(item)]
        return keys


def sizes_of(offsets: bytes | tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return the numbers of the offsets in a `Row`."""
    return _numbers(offsets) if isinstance(offsets, bytes) else offsets


@lru_cache(1024)  # most rows have equal offsets
def _numbers(offsets: bytes) -> tuple[int, ...]:
    return tuple(patterns.numbers(offsets))
