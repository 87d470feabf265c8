"""Existing rows of a `.metadata` as templates for new rows, with their classes and torch fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ckptmigrate.checkpoint.rows import Blob, is_object_entry
from ckptmigrate.pickles.tree import (
    Global,
    Object,
    enum_member,
    enum_value,
    new_object,
    symbol,
    symbol_of,
)

_DCP: Final = "torch.distributed.checkpoint"
_BYTE_IO: Final = 3  # torch.distributed.checkpoint.planner.WriteItemType.BYTE_IO


class Models:
    """Templates for new rows, from the rows of a file or, if it has none, the classes of torch."""

    def __init__(
        self, entries: Mapping[str, Any], stored: Mapping[Any, Any], plans: Sequence[Object] | None
    ) -> None:
        entry = next(filter(is_object_entry, entries.values()), None)
        index, storage = next(iter(stored.items()), (None, None))
        self._entry = _class_of(entry, f"{_DCP}.metadata", "BytesStorageMetadata")
        self._index = _class_of(index, f"{_DCP}.metadata", "MetadataIndex")
        self._storage = _class_of(storage, f"{_DCP}.filesystem", "_StorageInfo")
        self._item = self._find_item(plans or ())

    @staticmethod
    def _find_item(plans: Sequence[Object]) -> Object | None:
        items = (item for plan in plans for item in plan.attributes["items"])
        first = None
        for item in items:
            if enum_value(item.attributes.get("type")) == _BYTE_IO:
                found: Object = item
                return found
            first = first or item
        return first

    def new_entry(self) -> Object:
        """Return the `state_dict_metadata` value of a sharded object."""
        return new_object(self._entry)

    def new_index(self, key: str) -> Object:
        return new_object(self._index, {"fqn": key, "index": None})

    def new_storage(self, blob: Blob) -> Object:
        return new_object(
            self._storage,
            {"relative_path": blob.file, "offset": blob.offset, "length": blob.length},
        )

    def new_item(self, key: str) -> Object:
        model = self._item
        if model is None:
            planner = f"{_DCP}.planner"
            byte_io = enum_member(symbol(planner, "WriteItemType"), _BYTE_IO)
            fields: dict[str, Any] = {"type": byte_io, "tensor_data": None}
            return new_object(
                symbol(planner, "WriteItem"), {"index": self.new_index(key), **fields}
            )
        fields = dict.fromkeys(model.attributes)
        fields["index"] = self.new_index(key)
        fields["type"] = enum_member(symbol_of(model.attributes["type"]), _BYTE_IO)
        return new_object(symbol_of(model), fields)


def _class_of(model: Object | None, module: str, name: str) -> Global:
    return symbol(module, name) if model is None else symbol_of(model)
