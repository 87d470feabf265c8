"""A large `.metadata` (hundreds of megabytes), read without an inert tree of the whole file.

`BulkMetadata` has the interface and behavior of `Metadata`. For most rows it stores only the key
and, for a byte range, the numbers. A row becomes an inert tree on demand. An edit is recorded and
written by `splicing`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final
from weakref import WeakValueDictionary

from ckptmigrate.checkpoint import large_edits, metadata
from ckptmigrate.checkpoint.large_tables import Row, Tables, shape, sizes_of
from ckptmigrate.checkpoint.metadata import Metadata
from ckptmigrate.checkpoint.rows import Blob, Chunk, Piece, piece_of
from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles.large import skeleton
from ckptmigrate.pickles.large.repeats import Run
from ckptmigrate.pickles.large.skeleton import Skeleton
from ckptmigrate.pickles.large.tokens import framed
from ckptmigrate.pickles.reader import uncollected
from ckptmigrate.pickles.tree import Object, is_object, with_state


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
class BulkMetadata(Metadata):
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

    def plan_keys(self, rank: int, among: Collection[str] | None = None) -> list[str]:
        added = [key for key, (writer, _) in self.edit.added.items() if writer == rank]
        found = self.tables.plan_keys(rank, among)
        return [key for key in found if key not in self.edit.dropped] + [
            key for key in added if among is None or key in among
        ]

    def changed_from(self, other: Metadata) -> Collection[str] | None:
        if not isinstance(other, BulkMetadata):
            return None
        if other.tables is self.tables:
            return self.edit.keys | other.edit.keys
        for before, after in ((other, self), (self, other)):
            edit = before.edit_to(after)
            if edit is not None:
                return edit.keys
        return None

    def edit_to(self, after: BulkMetadata) -> Edit | None:
        """Return the edit that turns this file into another, byte for byte, or None."""
        if self.edit != Edit() or after.edit != Edit():
            return None
        old, new = self.tables.entries.keys(), after.tables.entries.keys()
        added = [key for key in after.entries if key not in old]
        ranks = {
            key: rank
            for rank in range(len(after.plans or ()))
            for key in after.plan_keys(rank, added)
        }
        moved = {
            key: blob
            for key, blob in after.blobs.items()
            if key in self.blobs and self.blobs[key] != blob
        }
        if not all(key in after.blobs for key in added):
            return None
        edit = Edit(
            dropped=frozenset(old - new),
            added={key: (ranks.get(key, 0), after.blobs[key]) for key in added},
            moved=moved,
            class_path=None if self.class_path == after.class_path else after.class_path,
        )
        found = after.tables.skeleton
        led = large_edits.splice(replace(self, edit=edit))
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
    def _written(self) -> tuple[bytes, BulkMetadata | None]:
        """Return the bytes and their content, cached so that they are not read again."""
        with uncollected():
            content, seen = large_edits.dump(self, _view)
        if seen is not None:  # so that the same bytes on disk are not read again
            _READ[hashlib.sha256(content).digest()] = seen
        return content, seen

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
        return self._edited(
            dropped=edit.dropped | (gone & self.tables.entries.keys()),
            added={key: new for key, new in edit.added.items() if key not in gone},
            moved={key: blob for key, blob in edit.moved.items() if key not in gone},
        )

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


# Metadata by the SHA-256 hash of its bytes, as long as it is in use.
_READ: Final[WeakValueDictionary[bytes, BulkMetadata]] = WeakValueDictionary()


def load(data: bytes) -> BulkMetadata | None:
    """Read the bytes of a large `.metadata`; return None if they must be read as a whole."""
    digest = hashlib.sha256(data).digest()
    known = _READ.get(digest)
    if known is None:
        with uncollected():
            known = _load(data)
        if known is not None:
            _READ[digest] = known
    return known


def _load(data: bytes) -> BulkMetadata | None:
    found = skeleton.read(data, shape)
    return None if found is None else _view(found)


def _view(found: Skeleton) -> BulkMetadata | None:
    """Return the metadata of a pickle; None if it must be read as a whole."""
    if not is_object(found.tree, *metadata.CLASSES):
        return None
    protocol = found.data[1]
    small = Metadata(_without_rows(found.tree), protocol, found.named)
    try:
        metadata.check_tables(small)
        tables = Tables(found, small)
    except DamagedError:
        return None  # the reader of the whole file reports it
    return BulkMetadata(found.tree, protocol, found.named, tables=tables)


def _without_rows(tree: Object) -> Object:
    """Return a tree of `skeleton` without the `Run`s in the three large tables."""
    attributes = dict(tree.attributes)
    for name in (metadata.ENTRIES, metadata.STORED):
        if isinstance(attributes.get(name), dict):
            attributes[name] = {k: v for k, v in attributes[name].items() if not isinstance(k, Run)}
    plans = attributes.get(metadata.PLANS)
    if isinstance(plans, list):
        attributes[metadata.PLANS] = [_plan_without_rows(plan) for plan in plans]
    return with_state(tree, attributes)


def _plan_without_rows(plan: Any) -> Any:
    items = plan.attributes.get("items") if isinstance(plan, Object) else None
    if not isinstance(items, list):
        return plan
    kept = [item for item in items if not isinstance(item, Run)]
    return with_state(plan, {**plan.attributes, "items": kept})
