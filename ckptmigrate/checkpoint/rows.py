"""A row of each table of `.metadata`: what an inert value has to be, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.errors import DamagedError
from ckptmigrate.inert.tree import Object, is_object

_DCP: Final = "torch.distributed.checkpoint"
_TENSOR_ENTRY: Final = f"{_DCP}.metadata.TensorStorageMetadata"
_BYTES_ENTRY: Final = f"{_DCP}.metadata.BytesStorageMetadata"
_INDEX: Final = f"{_DCP}.metadata.MetadataIndex"
_STORAGE: Final = f"{_DCP}.filesystem._StorageInfo"


@dataclass(frozen=True)
class Blob:
    """A byte range of a payload file: `length` bytes from `offset` on."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class Chunk:
    """One row of `storage_data`: a piece of a tensor, or a whole sharded object.

    Attributes:
        key: the entry it belongs to.
        offsets: where the piece starts in its tensor, per dimension; None for an object.
        blob: where its bytes are.
    """

    key: str
    offsets: tuple[int, ...] | None
    blob: Blob


# The key and the offsets of a row of storage_data. The offsets are text because the hash of text is
# salted; a file can choose numbers that all have one hash.
Piece = tuple[str, str]


def piece_of(key: str, offsets: tuple[int, ...] | None) -> Piece:
    """What tells a row of `storage_data` from the others."""
    return key, "" if offsets is None else str(list(offsets))


def is_entry(entry: Any) -> bool:
    """Whether an inert value is what `state_dict_metadata` holds: a tensor or an object."""
    return is_object(entry, _TENSOR_ENTRY, _BYTES_ENTRY)


def is_tensor_entry(entry: Any) -> bool:
    """Whether an inert value is a `TensorStorageMetadata`."""
    return is_object(entry, _TENSOR_ENTRY)


def is_object_entry(entry: Any) -> bool:
    """Whether an inert value is a `BytesStorageMetadata`: a sharded object, which is a blob."""
    return is_object(entry, _BYTES_ENTRY)


def is_stored(index: Any, storage: Any) -> bool:
    """Whether inert values are what a row of `storage_data` is made of."""
    return is_object(index, _INDEX) and is_object(storage, _STORAGE)


def chunk_of(index: Any, storage: Any) -> Chunk:
    """A row of `storage_data`.

    Raises:
        DamagedError: it is none.
    """
    if not is_stored(index, storage):
        raise DamagedError("has a storage_data row that is no byte range")
    key, offsets = index.attributes.get("fqn"), index.attributes.get("offset")
    where = storage.attributes
    file, offset, length = (where.get(n) for n in ("relative_path", "offset", "length"))
    if not (isinstance(key, str) and isinstance(file, str)):
        raise DamagedError("has a storage_data row without a key or a file")
    if not (type(offset) is int and type(length) is int and offset >= 0 <= length):
        raise DamagedError(f"has an impossible byte range for {key!r}")
    return Chunk(key, size_value(offsets), Blob(file, offset, length))


def size_value(value: Any) -> tuple[int, ...] | None:
    """The numbers of an inert `torch.Size`, which pickles as the class called with a tuple.

    Raises:
        DamagedError: it is neither that nor None.
    """
    if isinstance(value, Object) and len(value.args) == 1:
        sizes = value.args[0]
        if isinstance(sizes, tuple) and all(type(n) is int and n.bit_length() < 64 for n in sizes):
            return sizes
    if value is not None:
        raise DamagedError("has a storage_data offset that is no torch.Size")
    return None


def item_key(item: Any) -> str:
    """The key that an inert `WriteItem` writes.

    Raises:
        DamagedError: it is none.
    """
    index = item.attributes.get("index") if isinstance(item, Object) else None
    key = index.attributes.get("fqn") if isinstance(index, Object) else None
    if not isinstance(key, str) or not isinstance(item.attributes.get("type"), Object):
        raise DamagedError("has a plan item without a key or a type")
    return key
