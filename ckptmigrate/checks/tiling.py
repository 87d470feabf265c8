"""Checks of tensor chunks: they tile the global shape, without overlaps and gaps.

The check does not compare pairs of chunks. It counts the corners of all chunks, each with a sign:
plus for an even, minus for an odd number of upper sides. Corners where chunks meet cancel out. The
remaining corners are those of the whole tensor if and only if the chunks tile the tensor (the mixed
derivative of the sum of the chunks' indicator functions is that of the tensor's own).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.checkpoint.rows import is_entry, is_tensor_entry, size_value
from ckptmigrate.checks.findings import Finding, counted, number
from ckptmigrate.checks.material import Material
from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles.tree import Object, is_object

_CHUNK: Final = "torch.distributed.checkpoint.metadata.ChunkStorageMetadata"
_MOST_DIMENSIONS: Final = 64  # the limit of torch operations
_LARGEST_SIZE: Final = 2**63 - 1  # sizes are int64
_MOST_CORNERS: Final = 10_000_000  # about ten seconds per tensor; above, only volumes are compared

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
    return TensorDescription(
        _sizes(fields.get("size")), tuple(boxes), _dtype(fields.get("properties"))
    )


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


def check(material: Material) -> Iterator[Finding]:
    """Yield findings about chunks that do not tile their tensor or that are not stored."""
    stored: dict[str, list[Numbers | None]] = {}
    for chunk in material.chunks:
        stored.setdefault(chunk.key, []).append(chunk.offsets)
    malformed: list[str] = []
    outside: list[str] = []
    loose: list[str] = []
    unmatched: list[str] = []
    skipped: list[str] = []
    for key, entry in material.entries.items():
        if not is_tensor_entry(entry):
            if is_entry(entry) and any(stored.get(key, ())):
                unmatched.append(f"{key}: a sharded object, stored as a tensor")
            continue
        try:
            shape = shape_of(entry)
        except DamagedError as error:
            malformed.append(f"{key}: {error.reason}")
            continue
        if not all(_inside(box, shape.size) for box in shape.chunks):
            outside.append(key)
            continue
        wrong = _not_tiled(shape)
        if wrong:
            loose.append(f"{key}: {wrong}")
        elif too_many_corners(shape):
            skipped.append(key)
        if key in stored and _in_order(stored[key]) != _in_order(at for at, _ in shape.chunks):
            unmatched.append(f"{key}: {len(stored[key])} stored, {len(shape.chunks)} described")
    for code, found, one, many, rest in (
        ("entry-malformed", malformed, "tensor is", "tensors are", "not described as by torch"),
        ("chunk-outside", outside, "tensor has", "tensors have", "a chunk outside its shape"),
        ("chunks-do-not-tile", loose, "tensor is", "tensors are", "not tiled by its chunks"),
        ("chunks-not-compared", skipped, "tensor is", "tensors are", "of too many dimensions"),
        ("table-mismatch", unmatched, "key has", "keys have",
         "different chunks in storage_data and in state_dict_metadata"),
    ):  # fmt: skip
        if found:
            yield material.finding(code, f"{counted(len(found), one, many)} {rest}", *found)


def _in_order(offsets: Iterable[Numbers | None]) -> list[Numbers | None]:
    return sorted(offsets, key=lambda at: (at is not None, at or ()))


def _inside(box: Box, size: Numbers) -> bool:
    offsets, sizes = box
    if not len(offsets) == len(sizes) == len(size):
        return False
    return all(at + n <= whole for at, n, whole in zip(offsets, sizes, size, strict=True))


def _not_tiled(shape: TensorDescription) -> str | None:
    """Return why the chunks do not tile the shape; None if they do.

    All chunks have to be inside the shape.
    """
    volume = math.prod(shape.size)
    held = sum(math.prod(sizes) for _, sizes in shape.chunks)
    many = counted(len(shape.chunks), "chunk")
    if held != volume:
        return f"{many} have {number(held)} elements, and the tensor has {number(volume)}"
    boxes = [box for box in shape.chunks if math.prod(box[1])]
    if volume and not too_many_corners(shape) and not _corners_cancel(boxes, shape.size):
        return f"{many} have as many elements as the tensor, but overlap and leave gaps"
    return None


def _corners_cancel(boxes: Sequence[Box], size: Numbers) -> bool:
    """Return whether the signed corners of the boxes are those of the tensor (see the module)."""
    cut = _cut_dimensions(boxes, size)
    left: Counter[bytes] = Counter()
    for offsets, sizes in boxes:
        left.update(_corners([(offsets[d], offsets[d] + sizes[d]) for d in cut], 1))
    left.update(_corners([(0, size[d]) for d in cut], -1))
    return not any(left.values())


def _cut_dimensions(boxes: Sequence[Box], size: Numbers) -> list[int]:
    """Return the dimensions in which a chunk is smaller than the tensor; others add no corners."""
    return [d for d, n in enumerate(size) if any(box[1][d] != n for box in boxes)]


def too_many_corners(shape: TensorDescription) -> bool:
    """Return whether there are too many corners to count; no real tensor reaches the limit."""
    return len(shape.chunks) << len(_cut_dimensions(shape.chunks, shape.size)) > _MOST_CORNERS


def _corners(sides: Sequence[tuple[int, int]], sign: int) -> dict[bytes, int]:
    """Return the corners of a box, as bytes.

    The hash of bytes is salted. With numbers, a checkpoint could be made with hash collisions.
    """
    corners: dict[bytes, int] = {b"": sign}
    for low, high in sides:
        corners = {
            corner + at.to_bytes(8, "big"): value * turn
            for corner, value in corners.items()
            for at, turn in ((low, 1), (high, -1))
        }
    return corners
