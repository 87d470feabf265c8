"""Rows of the tables of `.metadata`: validation of inert values, and their contents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles.tree import Object, is_object, with_state

# Attributes of the pickled object that are tables with a row per key or per chunk.
ENTRIES: Final = "state_dict_metadata"
STORED: Final = "storage_data"
PLANS: Final = "all_local_plans"
FLATTENED: Final = "planner_data"  # also in each plan

_DCP: Final = "torch.distributed.checkpoint"
_TENSOR_ENTRY: Final = f"{_DCP}.metadata.TensorStorageMetadata"
_BYTES_ENTRY: Final = f"{_DCP}.metadata.BytesStorageMetadata"
_INDEX: Final = f"{_DCP}.metadata.MetadataIndex"
_STORAGE: Final = f"{_DCP}.filesystem._StorageInfo"


@dataclass(frozen=True, slots=True)
class Blob:
    """A byte range of a data file: `length` bytes from `offset`."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """One row of `storage_data`: a chunk of a tensor, or a whole sharded object.

    Attributes:
        key: the key it belongs to.
        offsets: start of the chunk in its tensor, per dimension; None for an object.
        blob: location of its bytes.
    """

    key: str
    offsets: tuple[int, ...] | None
    blob: Blob


# The key and the offsets of a storage_data row. The offsets are text because hashes of text are
# salted; a file can choose numbers that all have the same hash.
Piece = tuple[str, str]


def piece_of(key: str, offsets: tuple[int, ...] | None) -> Piece:
    """Return the unique identifier of a row of `storage_data`."""
    return key, "" if offsets is None else str(list(offsets))


def is_entry(entry: Any) -> bool:
    """Return whether an inert value is a valid value of `state_dict_metadata`: tensor or object."""
    return is_object(entry, _TENSOR_ENTRY, _BYTES_ENTRY)


def is_tensor_entry(entry: Any) -> bool:
    """Return whether an inert value is a `TensorStorageMetadata`."""
    return is_object(entry, _TENSOR_ENTRY)


def is_object_entry(entry: Any) -> bool:
    """Return whether an inert value is a `BytesStorageMetadata`: a sharded object."""
    return is_object(entry, _BYTES_ENTRY)


def is_stored(index: Any, storage: Any) -> bool:
    """Return whether inert values form a row of `storage_data`."""
    return is_object(index, _INDEX) and is_object(storage, _STORAGE)


def chunk_of(index: Any, storage: Any) -> Chunk:
    """Return a row of `storage_data`.

    Raises:
        DamagedError: the values do not form a valid row.
    """
    if not is_stored(index, storage):
        raise DamagedError("has a storage_data row that is not a byte range")
    key, offsets = index.attributes.get("fqn"), index.attributes.get("offset")
    where = storage.attributes
    file, offset, length = (where.get(n) for n in ("relative_path", "offset", "length"))
    if not (isinstance(key, str) and isinstance(file, str)):
        raise DamagedError("has a storage_data row without a key or a file")
    if not (type(offset) is int and type(length) is int and offset >= 0 <= length):
        raise DamagedError(f"has an invalid byte range for {key!r}")
    return Chunk(key, size_value(offsets), Blob(file, offset, length))


def relocated(storage: Any, blob: Blob) -> Object:
    """Return an inert `_StorageInfo` with another location; its other fields are kept."""
    place = {"relative_path": blob.file, "offset": blob.offset, "length": blob.length}
    return with_state(storage, {**storage.attributes, **place})


def size_value(value: Any) -> tuple[int, ...] | None:
    """Return the numbers of an inert `torch.Size`, which pickles as the class called with a tuple.

    Raises:
        DamagedError: the value is neither a torch.Size nor None.
    """
    if isinstance(value, Object) and len(value.args) == 1:
        sizes = value.args[0]
        if isinstance(sizes, tuple) and all(type(n) is int and n.bit_length() < 64 for n in sizes):
            return sizes
    if value is not None:
        raise DamagedError("has a storage_data offset that is not a torch.Size")
    return None


def item_key(item: Any) -> str:
    """Return the key that an inert `WriteItem` writes.

    Raises:
        DamagedError: the value is not a valid WriteItem.
    """
    index = item.attributes.get("index") if isinstance(item, Object) else None
    key = index.attributes.get("fqn") if isinstance(index, Object) else None
    if not isinstance(key, str) or not isinstance(item.attributes.get("type"), Object):
        raise DamagedError("has a save plan item without a key or a type")
    return key
