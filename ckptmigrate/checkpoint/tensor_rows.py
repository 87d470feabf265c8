"""Replacement of tensors in every table of `.metadata`, with existing rows as templates."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ckptmigrate.checkpoint import metadata
from ckptmigrate.checkpoint.metadata import Metadata
from ckptmigrate.checkpoint.row_templates import Models
from ckptmigrate.checkpoint.rows import ENTRIES, FLATTENED, PLANS, STORED, Blob, is_tensor_entry
from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles.tree import Object, enum_member, symbol, symbol_of, with_state

Numbers = tuple[int, ...]
_SHARD = 2  # torch.distributed.checkpoint.planner.WriteItemType.SHARD


@dataclass(frozen=True, slots=True)
class NewChunk:
    """A chunk of a new tensor: its offsets and sizes per dimension, and the place of its bytes."""

    offsets: Numbers
    sizes: Numbers
    blob: Blob


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to add.

    Attributes:
        size: its global shape.
        dtype: without `torch.`.
        original_shape: the parameter's shape, if it is stored flattened with that shape recorded.
        chunks: at least one.
    """

    size: Numbers
    dtype: str
    original_shape: Numbers | None
    chunks: tuple[NewChunk, ...]


def replaced(
    found: Metadata, dropped: Collection[str], added: Mapping[str, NewTensor], *, flattened: bool
) -> Metadata:
    """Return a copy without some keys and with new tensors, which rank 0 writes.

    Args:
        dropped: keys of tensors and sharded objects.
        added: tensors by key.
        flattened: whether the readers of the copy need the table of original shapes.

    Raises:
        DamagedError: no tensor of the file can serve as a template.
    """
    whole = found.whole()
    templates = Templates(whole)
    kept = whole.without(dropped)
    attributes = dict(kept.attributes)
    attributes[ENTRIES] = {
        **kept.entries,
        **{key: templates.entry(tensor) for key, tensor in added.items()},
    }
    attributes[STORED] = {
        **kept.stored,
        **{
            templates.index(key, chunk.offsets): templates.storage(chunk.blob)
            for key, tensor in added.items()
            for chunk in tensor.chunks
        },
    }
    named = {key: (key,) for key in added}
    if attributes.get(FLATTENED):
        attributes[FLATTENED] = {**attributes[FLATTENED], **named}
    rows = _shape_rows(added)
    known = attributes.get(metadata.SHAPES)
    known = known if isinstance(known, dict) else {}
    if flattened:
        plain: dict[str, Any] = {
            key: {} for key, entry in kept.entries.items() if is_tensor_entry(entry)
        }
        known = {**plain, **known}
    if flattened or known:
        attributes[metadata.SHAPES] = {**known, **rows}
    if kept.plans is not None:
        items = [
            templates.item(key, tensor, chunk)
            for key, tensor in added.items()
            for chunk in tensor.chunks
        ]
        first, *others = kept.plans
        attributes[PLANS] = [_plan_with(first, items, named, rows), *others]
    return Metadata(with_state(kept.tree, attributes), kept.protocol)


def _shape_rows(added: Mapping[str, NewTensor]) -> dict[str, dict[str, Numbers]]:
    return {
        key: {metadata.ORIGINAL_SHAPE: tensor.original_shape} if tensor.original_shape else {}
        for key, tensor in added.items()
    }


def _plan_with(
    plan: Object, items: list[Object], named: Mapping[str, Any], rows: Mapping[str, Any]
) -> Object:
    attributes = dict(plan.attributes)
    attributes["items"] = [*attributes["items"], *items]
    for table, new in ((FLATTENED, named), (metadata.SHAPES, rows)):
        if attributes.get(table):
            attributes[table] = {**attributes[table], **new}
    return with_state(plan, attributes)


class Templates:
    """Rows of a tensor in each table, as templates for new ones."""

    def __init__(self, whole: Metadata) -> None:
        self._models = Models(whole.entries, whole.stored, whole.plans)
        try:
            key, self._entry = next(
                (key, entry) for key, entry in whole.entries.items() if is_tensor_entry(entry)
            )
            self._index = next(i for i in whole.stored if i.attributes["fqn"] == key)
            self._chunk = self._entry.attributes["chunks"][0]
            self._size = symbol_of(self._entry.attributes["size"])
            self._properties = self._entry.attributes["properties"]
            self._fields = tuple(self._properties.state[1:])
        except (StopIteration, LookupError, TypeError, AttributeError) as error:
            raise DamagedError("has no tensor that is described as torch does") from error
        self._item = _tensor_item(whole)
        self._dtypes: dict[str, Object] = {}

    def entry(self, tensor: NewTensor) -> Object:
        """Return the `TensorStorageMetadata` of a tensor."""
        chunks = [self._box(chunk) for chunk in tensor.chunks]
        return with_state(
            self._entry,
            {
                "properties": self._properties_of(tensor.dtype),
                "size": self._size(tensor.size),
                "chunks": chunks,
            },
        )

    def index(self, key: str, offsets: Numbers) -> Object:
        """Return the `MetadataIndex` of a chunk."""
        fields = dict.fromkeys(self._index.attributes)
        fields.update(fqn=key, offset=self._size(offsets), index=None)
        return with_state(self._index, fields)

    def storage(self, blob: Blob) -> Object:
        """Return the `_StorageInfo` of a chunk."""
        return self._models.new_storage(blob)

    def item(self, key: str, tensor: NewTensor, chunk: NewChunk) -> Object:
        """Return the `WriteItem` of a chunk."""
        if self._item is None:
            raise DamagedError("has save plans without a tensor")
        written = self._item.attributes["tensor_data"]
        fields = dict(self._item.attributes)
        fields["index"] = self.index(key, chunk.offsets)
        fields["type"] = enum_member(symbol_of(fields["type"]), _SHARD)
        fields["tensor_data"] = with_state(
            written,
            {
                "chunk": self._box(chunk),
                "properties": self._properties_of(tensor.dtype),
                "size": self._size(tensor.size),
            },
        )
        return with_state(self._item, fields)

    def _box(self, chunk: NewChunk) -> Object:
        offsets, sizes = self._size(chunk.offsets), self._size(chunk.sizes)
        return with_state(self._chunk, {"offsets": offsets, "sizes": sizes})

    def _properties_of(self, dtype: str) -> Object:
        if dtype not in self._dtypes:
            state = (symbol("torch", dtype), *self._fields)
            self._dtypes[dtype] = with_state(self._properties, state)
        return self._dtypes[dtype]


def _tensor_item(whole: Metadata) -> Object | None:
    items: Iterable[Object] = (i for plan in whole.plans or () for i in plan.attributes["items"])
    return next((i for i in items if isinstance(i.attributes.get("tensor_data"), Object)), None)
