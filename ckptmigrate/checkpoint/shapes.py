"""The shape of a tensor and of its chunks, as `state_dict_metadata` describes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.checkpoint.rows import size_value
from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles.tree import Object, is_object

_CHUNK: Final = "torch.distributed.checkpoint.metadata.ChunkStorageMetadata"
_MOST_DIMENSIONS: Final = 64  # the limit of torch operations
_LARGEST_SIZE: Final = 2**63 - 1  # sizes are int64

Numbers = tuple[int, ...]
Box = tuple[Numbers, Numbers]  # offsets, sizes


@dataclass(frozen=True)
class TensorDescription:
    """A tensor as `state_dict_metadata` describes it.

    Attributes:
        size: its global shape.
        chunks: offsets and sizes of its chunks.
        dtype: the name of its dtype, for example `torch.float32`, or None.
    """

    size: Numbers
    chunks: tuple[Box, ...]
    dtype: str | None


def shape_of(entry: Any) -> TensorDescription:
    """Return the shape of an inert `TensorStorageMetadata`.

    Raises:
        DamagedError: the object has no valid list of chunks or no valid size.
    """
    fields = entry.attributes
    chunks = fields.get("chunks")
    if not isinstance(chunks, list) or not all(is_object(chunk, _CHUNK) for chunk in chunks):
        raise DamagedError("has no list of chunks")
    boxes = []
    for chunk in chunks:
        box = (_sizes(chunk.attributes.get("offsets")), _sizes(chunk.attributes.get("sizes")))
        boxes.append(box)
    size, dtype = size_and_dtype(entry)
    return TensorDescription(size, tuple(boxes), dtype)


def size_and_dtype(entry: Any) -> tuple[Numbers, str | None]:
    """Return the global shape and the dtype of an inert `TensorStorageMetadata`.

    Raises:
        DamagedError: it has no valid size.
    """
    fields = entry.attributes
    return _sizes(fields.get("size")), _dtype(fields.get("properties"))


def _sizes(value: Any) -> Numbers:
    sizes = size_value(value)
    if sizes is None or len(sizes) > _MOST_DIMENSIONS:
        raise DamagedError("has an invalid size")
    if not all(0 <= size <= _LARGEST_SIZE for size in sizes):
        raise DamagedError("has an invalid size")
    return sizes


def _dtype(properties: Any) -> str | None:
    """Return the dtype of a TensorProperties, which pickles as a tuple (torch 2.5 and 2.13).

    The dtype is the first item of that tuple.
    """
    state = properties.state if isinstance(properties, Object) else None
    first = state[0] if isinstance(state, tuple) and state else None
    path = getattr(first, "path", None)
    return path if isinstance(path, str) else None


def is_flattened(shape: Numbers, stored: Numbers) -> bool:
    """Return whether a state is stored flattened.

    Args:
        shape: the parameter's global shape.
        stored: the state's global shape; flattened, it is (chunks per dimension..., elements of a
            chunk).
    """
    grid = stored[:-1]
    if not shape or len(grid) != len(shape) or not all(grid):
        return False
    return all(size % cells == 0 for size, cells in zip(shape, grid, strict=True)) and (
        stored[-1] == math.prod(size // cells for size, cells in zip(shape, grid, strict=True))
    )


def global_size(entry: Any) -> Numbers:
    """Return the global shape of an inert `TensorStorageMetadata`; () for anything else."""
    return numbers(entry.attributes.get("size")) if isinstance(entry, Object) else ()


def numbers(value: Any) -> Numbers:
    """Return the numbers of a tuple or an inert torch.Size; () for anything else."""
    if isinstance(value, Object) and len(value.args) == 1:
        value = value.args[0]
    if isinstance(value, tuple) and all(type(number) is int for number in value):
        return value
    return ()
