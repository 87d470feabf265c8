"""A large `.metadata` (hundreds of megabytes), read without an inert tree of the whole file.

`LargeMetadata` has the interface and behavior of `Metadata`. For most rows it stores only the key
and, for a byte range, the numbers. A row becomes an inert tree on demand. An edit is recorded and
written by `edits`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final
from weakref import WeakValueDictionary

from ckptmigrate.checkpoint import metadata, table_reader
from ckptmigrate.checkpoint.damage import Damage, raise_first
from ckptmigrate.checkpoint.large import edits, skeleton
from ckptmigrate.checkpoint.large.edits import Edit
from ckptmigrate.checkpoint.large.repeats import Run
from ckptmigrate.checkpoint.large.skeleton import Skeleton
from ckptmigrate.checkpoint.large.tables import Row, Tables, shape, sizes_of
from ckptmigrate.checkpoint.large.tokens import framed
from ckptmigrate.checkpoint.metadata import SHAPES, Metadata
from ckptmigrate.checkpoint.rows import ENTRIES, PLANS, STORED, Blob, Chunk, Piece, piece_of
from ckptmigrate.checkpoint.table_reader import Planned
from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles.equality import equal
from ckptmigrate.pickles.reader import uncollected
from ckptmigrate.pickles.tree import Object, is_object, with_state


class _Entries(Mapping[str, Any]):
    def __init__(self, tables: Tables, edit: Edit) -> None:
        self._tables, self._edit = tables, edit

    def __contains__(self, key: object) -> bool:
        edit = self._edit
        return (key in self._tables.entries and key not in edit.dropped) or key in edit.added

    def __iter__(self) -> Iterator[str]:
        edit = self._edit
        kept = itertools.filterfalse(edit.dropped.__contains__, self._tables.entries)
        return itertools.chain(kept, edit.added)

    def __len__(self) -> int:
        return len(self._tables.entries) - len(self._edit.dropped) + len(self._edit.added)

    def __getitem__(self, key: str) -> Any:
        if key in self._edit.added:
            return self._tables.models.new_entry()
        if key in self._edit.dropped:
            raise KeyError(key)
        return self._tables.entry(key)


@dataclass(frozen=True)
class LargeMetadata(Metadata):
    """A view of one large `.metadata` and of an edit to it.

    Attributes:
        tree: the inert tree, with a `Run` in place of rows in the large tables.
        tables: the tables that were read.
        edit: the differences from these tables.
    """

    tables: Tables = field(kw_only=True)
    edit: Edit = field(default_factory=Edit, kw_only=True)

    @property
    def class_path(self) -> str:
        return self.edit.class_path or type(self.tree).path

    @cached_property
    def entries(self) -> Mapping[str, Any]:
        return _Entries(self.tables, self.edit)

    def count_objects(self) -> int:
        gone = sum(key in self.tables.objects for key in self.edit.dropped)
        return self.tables.count_objects() - gone + len(self.edit.added)

    def is_object_entry(self, key: str) -> bool:
        return key in self.edit.added or self.tables.is_object(key)

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        return tuple(
            Chunk(key, sizes_of(offsets), Blob(file, offset, length))
            for key, offsets, file, offset, length in self.rows()
        )

    def rows(self) -> Iterator[Row]:
        """Yield every row of `storage_data`; offsets of rows that were read are not decoded."""
        edit = self.edit
        for row in self.tables.rows():
            if row[0] in edit.moved:
                blob = edit.moved[row[0]]
                yield row[0], row[1], blob.file, blob.offset, blob.length
            elif row[0] not in edit.dropped:
                yield row
        for key, (_, blob) in edit.added.items():
            yield key, None, blob.file, blob.offset, blob.length

    @cached_property
    def blobs(self) -> Mapping[str, Blob]:
        edit = self.edit
        kept = {k: b for k, b in self.tables.objects.items() if k not in edit.dropped}
        return {**kept, **edit.moved, **{key: blob for key, (_, blob) in edit.added.items()}}

    @cached_property
    def ends(self) -> Mapping[str, int]:
        if self.edit == Edit():
            return self.tables.ends
        ends: dict[str, int] = {}
        for _, _, file, offset, length in self.rows():
            ends[file] = max(offset + length, ends.get(file, 0))
        return ends

    @cached_property
    def planned(self) -> Planned | None:
        if self.plans is None:
            return None
        return tuple(map(self._plan, range(len(self.plans))))

    def _plan(self, rank: int) -> tuple[str, ...]:
        found, dropped = self.tables.plan_keys(rank), self.edit.dropped
        kept = itertools.filterfalse(dropped.__contains__, found) if dropped else found
        added = (key for key, (writer, _) in self.edit.added.items() if writer == rank)
        return (*kept, *added)

    @property
    def damage(self) -> tuple[Damage, ...]:
        """The damage that other commands accept; for any other, the file is read as a whole."""
        return tuple(table_reader.unknown(self.tables.small.entries))

    def changed_from(self, other: Metadata) -> Collection[str] | None:
        if not isinstance(other, LargeMetadata):
            return None
        if other.tables is self.tables:
            return self.edit.keys | other.edit.keys
        for before, after in ((other, self), (self, other)):
            edit = before.edit_to(after)
            if edit is not None:
                return edit.keys
        return None

    def edit_to(self, after: LargeMetadata) -> Edit | None:
        """Return the edit that turns this file into another, byte for byte, or None."""
        if self.edit != Edit() or after.edit != Edit():
            return None
        old, new = self.tables.entries.keys(), after.tables.entries.keys()
        added = dict.fromkeys(key for key in after.entries if key not in old)
        for rank, keys in enumerate(after.planned or ()):
            added |= dict.fromkeys(filter(added.__contains__, keys), rank)
        moved = {
            key: blob
            for key, blob in after.blobs.items()
            if key in self.blobs and self.blobs[key] != blob
        }
        if not all(key in after.blobs for key in added):
            return None
        edit = Edit(
            dropped=frozenset(old - new),
            added={key: (rank or 0, after.blobs[key]) for key, rank in added.items()},
            moved=moved,
            class_path=None if self.class_path == after.class_path else after.class_path,
        )
        found = after.tables.skeleton
        led = edits.splice(self.tables, edit)
        same = led is not None and (led.data, led.cuts) == (found.data, found.cuts)
        return edit if same else None

    def chunks_of(self, keys: Collection[str]) -> Mapping[Piece, Blob]:
        return {
            piece_of(key, sizes_of(offsets)): Blob(file, offset, length)
            for key, offsets, file, offset, length in self.rows()
            if key in keys
        }

    def dump(self) -> bytes:
        return self._written[0]

    def written(self) -> Metadata:
        if self.edit == Edit():
            return self
        return self._written[1] or self

    @cached_property
    def _written(self) -> tuple[bytes, LargeMetadata | None]:
        """Return the bytes and their content, cached so that they are not read again."""
        with uncollected():
            content, seen = self._dump()
        if seen is not None:  # so that the same bytes on disk are not read again
            _READ[hashlib.sha256(content).digest()] = seen
        return content, seen

    def _dump(self) -> tuple[bytes, LargeMetadata | None]:
        """Return the bytes and the metadata read back; None if it was written as a whole."""
        written = edits.splice(self.tables, self.edit)
        found = None if written is None else edits.read_back(self.tables, written)
        seen = None if found is None else _view(found)
        if written is not None and seen is not None and _matches(seen, self):
            return framed(written.data, written.cuts), seen
        return self.whole().dump(), None

    def whole(self) -> Metadata:
        edit, found = self.edit, self.tables.skeleton
        edited = metadata.parse(framed(found.data, found.cuts))
        edited = edited.without(edit.dropped).relocated(edit.moved).with_blobs(edit.added)
        return edited if edit.class_path is None else edited.with_class(edit.class_path)

    # -- edits

    def without(self, keys: Collection[str]) -> Metadata:
        if not keys:
            return self
        edit, gone = self.edit, frozenset(keys)
        if any(key in table for table in self._shape_tables() for key in gone):
            return self.whole().without(gone)
        return self._edited(
            dropped=edit.dropped | (gone & self.tables.entries.keys()),
            added={key: new for key, new in edit.added.items() if key not in gone},
            moved={key: blob for key, blob in edit.moved.items() if key not in gone},
        )

    def _shape_tables(self) -> Iterator[Mapping[str, Any]]:
        """Yield `mcore_data` of the file and of each plan."""
        for each in (self, *(self.plans or ())):
            table = each.attributes.get(SHAPES)
            if isinstance(table, dict):
                yield table

    def with_blobs(self, added: Mapping[str, tuple[int, Blob]]) -> Metadata:
        if not added:
            return self
        if added.keys() & self.tables.entries.keys():
            return self.whole().with_blobs(added)
        return self._edited(added={**self.edit.added, **added})

    def relocated(self, moved: Mapping[str, Blob]) -> Metadata:
        if not moved:
            return self
        if self.edit.added.keys() & moved.keys():
            return self.whole().relocated(moved)
        return self._edited(moved={**self.edit.moved, **moved})

    def with_class(self, path: str) -> Metadata:
        return self._edited(class_path=path)

    def _edited(self, **changes: Any) -> Metadata:
        return replace(self, edit=replace(self.edit, **changes))


_LARGE: Final = (ENTRIES, STORED, PLANS)  # tables that are compared row by row
# Metadata by the SHA-256 hash of its bytes, as long as it is in use.
_READ: Final[WeakValueDictionary[bytes, LargeMetadata]] = WeakValueDictionary()


def load(data: bytes) -> LargeMetadata | None:
    """Read the bytes of a large `.metadata`; return None if they must be read as a whole."""
    digest = hashlib.sha256(data).digest()
    known = _READ.get(digest)
    if known is None:
        with uncollected():
            known = _load(data)
        if known is not None:
            _READ[digest] = known
    return known


def _load(data: bytes) -> LargeMetadata | None:
    found = skeleton.read(data, shape)
    return None if found is None else _view(found)


def _view(found: Skeleton) -> LargeMetadata | None:
    """Return the metadata of a pickle; None if it must be read as a whole."""
    if not is_object(found.tree, *metadata.CLASSES):
        return None
    protocol = found.data[1]
    small = Metadata(_without_rows(found.tree), protocol, found.named)
    try:
        raise_first(small.damage_of_rows)
        tables = Tables(found, small)
    except DamagedError:
        return None  # the reader of the whole file reports it
    return LargeMetadata(found.tree, protocol, found.named, tables=tables)


def _without_rows(tree: Object) -> Object:
    """Return a tree of `skeleton` without the `Run`s in the three large tables."""
    attributes = dict(tree.attributes)
    for name in (ENTRIES, STORED):
        if isinstance(attributes.get(name), dict):
            attributes[name] = {k: v for k, v in attributes[name].items() if not isinstance(k, Run)}
    plans = attributes.get(PLANS)
    if isinstance(plans, list):
        attributes[PLANS] = [_plan_without_rows(plan) for plan in plans]
    return with_state(tree, attributes)


def _plan_without_rows(plan: Any) -> Any:
    items = plan.attributes.get("items") if isinstance(plan, Object) else None
    if not isinstance(items, list):
        return plan
    kept = [item for item in items if not isinstance(item, Run)]
    return with_state(plan, {**plan.attributes, "items": kept})


def _matches(written: LargeMetadata, edited: LargeMetadata) -> bool:
    """Return whether the file that was read back matches the edit."""
    edit = edited.edit
    expected = edited.tables.small.without(edit.dropped).with_blobs(edit.added).attributes
    found = written.tables.small.attributes
    plans, expected_plans = written.plans or [], expected.get(PLANS) or []
    return (
        written.class_path == edited.class_path
        and list(found) == list(expected)
        and all(equal(found[name], expected[name]) for name in found if name not in _LARGE)
        and len(plans) == len(expected_plans)
        and all(_same_plan(*pair) for pair in zip(plans, expected_plans, strict=True))
        and list(written.entries) == list(edited.entries)
        and written.count_objects() == edited.count_objects()
        and all(written.is_object_entry(key) for key in edit.added)
        and all(itertools.starmap(_same_row, itertools.zip_longest(written.rows(), edited.rows())))
        and written.planned == edited.planned
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
