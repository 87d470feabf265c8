"""The `.metadata` file: the keys of a checkpoint and the locations of their bytes.

A `Metadata` is a view of the inert tree and never changes it: `without`, `with_blobs` and
`relocated` return another one that shares every unchanged part, so that unedited parts are written
as they were read.

A key is in up to five tables, which an edit keeps consistent: `state_dict_metadata`,
`storage_data`, the items of `all_local_plans`, `mcore_data` if it is a tensor, and, if torch
flattened the state dict (releases up to 0.10, sample 0.10.0-idle-w1), `planner_data`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from ckptmigrate.checkpoint import table_reader
from ckptmigrate.checkpoint.damage import Damage, raise_first
from ckptmigrate.checkpoint.row_templates import Models
from ckptmigrate.checkpoint.rows import (
    ENTRIES,
    FLATTENED,
    PLANS,
    STORED,
    Blob,
    Chunk,
    Piece,
    chunk_of,
    is_object_entry,
    item_key,
    piece_of,
    relocated,
)
from ckptmigrate.checkpoint.shapes import global_size, is_flattened
from ckptmigrate.checkpoint.table_reader import Planned
from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles import reader, serializer
from ckptmigrate.pickles.tree import (
    Global,
    Object,
    is_object,
    new_object,
    rebuilt,
    symbol,
    symbols,
    with_state,
)

FILE: Final = ".metadata"
TORCH_CLASS: Final = "torch.distributed.checkpoint.metadata.Metadata"
MCORE_CLASS: Final = "megatron.core.dist_checkpointing.strategies.torch.MCoreMetadata"
CLASSES: Final = (TORCH_CLASS, MCORE_CLASS)
# A row per tensor, with the field ORIGINAL_SHAPE if an optimizer state is stored flattened; also in
# each plan.
SHAPES: Final = "mcore_data"
ORIGINAL_SHAPE: Final = "nd_reformulated_orig_global_shape"
CHAINED: Final = re.compile(r"chained_\d+\.", re.ASCII)  # a prefix of the keys of one of several


@dataclass(frozen=True)
class Metadata:
    """A view of one `.metadata`.

    Attributes:
        tree: the inert tree of the pickle.
        protocol: the pickle protocol of the file.
        named: the globals that the pickle named when it was read.
    """

    tree: Object
    protocol: int
    named: tuple[str, ...] = ()

    @property
    def class_path(self) -> str:
        """Return the pickled class, TORCH_CLASS or (0.15) MCORE_CLASS."""
        return type(self.tree).path

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Return the attributes of the pickled object, by name."""
        return self.tree.attributes

    @cached_property
    def symbols(self) -> tuple[Global, ...]:
        """Return every global of the tree, in the order of its pickle."""
        return tuple(symbols(self.tree))

    @property
    def entries(self) -> Mapping[str, Any]:
        """Return key -> inert `TensorStorageMetadata` or `BytesStorageMetadata`."""
        return self._entries[0]

    @cached_property
    def shapes_lost(self) -> bool:
        """Return whether there are flattened states and `.metadata` has no table of their shapes.

        torch 2.9 to 2.12 drop the attribute when Megatron-Core up to 0.14 saves (pytorch #178001).
        All states of an optimizer have one form, so the first state of each optimizer decides.
        """
        if self.attributes.get(SHAPES):
            return False
        entries, seen = self.entries, set()
        for key in entries:  # without regular expressions, because there may be a million keys
            prefix, is_state, state = key.partition("optimizer.state.")
            if not is_state or prefix in seen or (prefix and not CHAINED.fullmatch(prefix)):
                continue
            parameter = state.partition(".")[2]
            shape = global_size(entries[parameter]) if parameter in entries else ()
            if len(shape) > 1:  # releases up to 0.10 do not flatten states of one dimension
                seen.add(prefix)
                if is_flattened(shape, global_size(entries[key])):
                    return True
        return False

    @cached_property
    def _entries(self) -> tuple[Mapping[str, Any], list[Damage]]:
        return table_reader.entries(self.attributes.get(ENTRIES))

    @property
    def stored(self) -> Mapping[Any, Any]:
        """Return `storage_data`, a row per byte range: `MetadataIndex` -> `_StorageInfo`, inert."""
        rows: Mapping[Any, Any] = self.attributes[STORED]
        return rows

    def is_object_entry(self, key: str) -> bool:
        """Return whether the key is a sharded object rather than a tensor."""
        return is_object_entry(self.entries[key])

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """Return every row of `storage_data`, in file order."""
        return self._chunks[0]

    @cached_property
    def _chunks(self) -> tuple[tuple[Chunk, ...], list[Damage]]:
        return table_reader.chunks(self.attributes.get(STORED))

    @property
    def planned(self) -> Planned | None:
        """Return per rank the keys in its save plan; None if there are no plans."""
        return self._planned[0]

    @cached_property
    def _planned(self) -> tuple[Planned | None, list[Damage]]:
        return table_reader.planned(self.attributes)

    @property
    def damage(self) -> tuple[Damage, ...]:
        """Return the damage of the tables; other properties leave out the damaged rows."""
        return (*self.damage_of_rows, *table_reader.without_entry(self.chunks, self.entries))

    @property
    def damage_of_rows(self) -> tuple[Damage, ...]:
        """Return the damage of each table without a comparison of tables."""
        return (*self._entries[1], *self._chunks[1], *self._planned[1])

    @cached_property
    def blobs(self) -> Mapping[str, Blob]:
        """Return the location of the bytes of each sharded object, by key."""
        return {c.key: c.blob for c in self.chunks if c.offsets is None}

    @cached_property
    def ends(self) -> Mapping[str, int]:
        """Return every data file that has keys, with the end of its last byte range."""
        ends: dict[str, int] = {}
        for chunk in self.chunks:
            end = chunk.blob.offset + chunk.blob.length
            ends[chunk.blob.file] = max(end, ends.get(chunk.blob.file, 0))
        return ends

    def count_objects(self) -> int:
        """Return the number of keys that are sharded objects."""
        return sum(map(self.is_object_entry, self.entries))

    @property
    def plans(self) -> list[Object] | None:
        """Return `all_local_plans`, one per rank; None for releases up to 0.10 (not stored)."""
        plans = self.attributes.get(PLANS)
        return plans if isinstance(plans, list) else None

    def whole(self) -> Metadata:
        """Return the same metadata as one inert tree."""
        return self

    def changed_from(self, other: Metadata) -> Collection[str] | None:
        """Return the keys whose rows may differ from `other`; None if any row may."""
        return None

    def chunks_of(self, keys: Collection[str]) -> Mapping[Piece, Blob]:
        """Return the rows of `storage_data` of some keys, with the location of their bytes."""
        return {piece_of(c.key, c.offsets): c.blob for c in self.chunks if c.key in keys}

    def dump(self) -> bytes:
        """Return the bytes of the file."""
        return serializer.dump(self.tree, self.protocol)

    def written(self) -> Metadata:
        """Return the metadata read back from the bytes if they were validated, else self."""
        return self

    # -- edits; each returns another Metadata

    def without(self, keys: Collection[str]) -> Metadata:
        """Return a copy without some keys, removed from every table."""
        if not keys:
            return self
        attributes = dict(self.attributes)
        attributes[ENTRIES] = _without(self.entries, keys)
        attributes[STORED] = {
            index: where
            for index, where in self.stored.items()
            if index.attributes["fqn"] not in keys
        }
        attributes |= _tables_without(attributes, keys)
        if self.plans is not None:
            attributes[PLANS] = [_plan_without(plan, keys) for plan in self.plans]
        return self._with(attributes)

    def with_blobs(self, added: Mapping[str, tuple[int, Blob]]) -> Metadata:
        """Return a copy with sharded objects: key -> (rank whose save plan writes it, location).

        New rows copy the classes and fields of existing rows, so that the file looks as the torch
        of its writer would have written it.
        """
        if not added:
            return self
        attributes = dict(self.attributes)
        entries, storage = dict(self.entries), dict(self.stored)
        planner_data = attributes.get(FLATTENED)
        flattened = dict(planner_data) if planner_data else planner_data
        items: dict[int, list[tuple[str, Object]]] = {}
        models = Models(self.entries, self.stored, self.plans)
        for key, (rank, blob) in added.items():
            entries[key] = models.new_entry()
            storage[models.new_index(key)] = models.new_storage(blob)
            if flattened:
                flattened[key] = (key,)
            items.setdefault(rank, []).append((key, models.new_item(key)))
        attributes[ENTRIES] = entries
        attributes[STORED] = storage
        if FLATTENED in attributes:
            attributes[FLATTENED] = flattened
        if self.plans is not None:
            attributes[PLANS] = [
                _plan_with(plan, items[rank]) if rank in items else plan
                for rank, plan in enumerate(self.plans)
            ]
        return self._with(attributes)

    def relocated(self, moved: Mapping[str, Blob]) -> Metadata:
        """Return a copy with new locations for some sharded objects; the order is kept."""
        if not moved:
            return self
        attributes = dict(self.attributes)
        models = Models(self.entries, self.stored, self.plans)
        attributes[STORED] = {
            index: models.new_storage(moved[index.attributes["fqn"]])
            if index.attributes["fqn"] in moved
            else where
            for index, where in self.stored.items()
        }
        return self._with(attributes)

    def moved(self, places: Mapping[Blob, Blob]) -> Metadata:
        """Return a copy with new locations for some byte ranges; the order is kept."""
        if not places:
            return self
        whole = self.whole()
        stored = {
            index: relocated(where, places[blob]) if blob in places else where
            for index, where in whole.stored.items()
            for blob in [chunk_of(index, where).blob]
        }
        return whole.with_attribute(STORED, stored)

    def with_class(self, path: str) -> Metadata:
        """Return a copy that is pickled as another class."""
        module, _, name = path.rpartition(".")
        made = new_object(symbol(module, name), *(self.tree.state,))
        return Metadata(made, self.protocol)

    def with_attribute(self, name: str, value: Any) -> Metadata:
        """Return a copy with another attribute; a new one is last."""
        whole = self.whole()
        return whole._with({**whole.attributes, name: value})

    def with_symbols(self, replacement: Callable[[Any], Any]) -> Metadata:
        """Return a copy with some globals replaced, see `tree.rebuilt`; self if nothing changes."""
        if all(replacement(each) is each for each in self.symbols):
            return self
        return Metadata(rebuilt(self.whole().tree, replacement), self.protocol)

    def _with(self, attributes: dict[str, Any]) -> Metadata:
        return Metadata(with_state(self.tree, attributes), self.protocol)


def load(data: bytes) -> Metadata:
    """Read a `.metadata` of any size as a whole inert tree; raises as `metadata_file.read`."""
    metadata = parse(data)
    raise_first(metadata.damage)
    return metadata


def parse(data: bytes) -> Metadata:
    """Read a `.metadata` without its tables.

    Raises:
        PickleError: no checkpoint writer wrote such a pickle.
        DamagedError: the pickle is not checkpoint metadata.
    """
    tree, named = reader.load_with_symbols(data)
    if not is_object(tree, *CLASSES):
        found = type(tree).path if isinstance(tree, Object) else type(tree).__name__
        raise DamagedError(f"contains {found}, not checkpoint metadata")
    return Metadata(tree, serializer.protocol_of(data), named)


def _without(table: Any, keys: Collection[str]) -> Any:
    if not isinstance(table, dict) or not any(key in table for key in keys):
        return table
    return {key: value for key, value in table.items() if key not in keys}


def _tables_without(attributes: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return the tables without some keys that both `.metadata` and each plan may have."""
    return {
        name: _without(attributes[name], keys) for name in (FLATTENED, SHAPES) if name in attributes
    }


def _plan_without(plan: Object, keys: Collection[str]) -> Object:
    before = plan.attributes
    kept = [item for item in before["items"] if item_key(item) not in keys]
    tables = _tables_without(before, keys)
    if len(kept) == len(before["items"]) and all(
        table is before[name] for name, table in tables.items()
    ):
        return plan
    return with_state(plan, {**before, "items": kept, **tables})


def _plan_with(plan: Object, added: list[tuple[str, Object]]) -> Object:
    attributes = dict(plan.attributes)
    attributes["items"] = [*attributes["items"], *(item for _, item in added)]
    if attributes.get(FLATTENED):
        attributes[FLATTENED] = {
            **attributes[FLATTENED],
            **{key: (key,) for key, _ in added},
        }
    return with_state(plan, attributes)
