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

from ckptmigrate.checkpoint.material import Material
from ckptmigrate.checkpoint.rows import is_entry, is_tensor_entry
from ckptmigrate.checkpoint.shapes import Box, Numbers, TensorDescription, shape_of
from ckptmigrate.checks.findings import Finding, finding
from ckptmigrate.errors import DamagedError
from ckptmigrate.text.printable import counted, number

_MOST_CORNERS: Final = 10_000_000  # about ten seconds per tensor; above, only volumes are compared


@dataclass(frozen=True)
class _Described:
    """What an entry says of its chunks.

    Attributes:
        entry: the entry.
        code: the code of what is wrong with it, or None.
        wrong: what is wrong, after the key.
        offsets: the offsets of its chunks, in order; None if they are not compared.
    """

    entry: Any
    code: str | None
    wrong: str = ""
    offsets: list[Numbers | None] | None = None


_WRONG: Final = (
    ("entry-malformed", "tensor is", "tensors are", "not described as by torch"),
    ("chunk-outside", "tensor has", "tensors have", "a chunk outside its shape"),
    ("chunks-do-not-tile", "tensor is", "tensors are", "not tiled by its chunks"),
    ("chunks-not-compared", "tensor is", "tensors are", "of too many dimensions"),
    ("table-mismatch", "key has", "keys have",
     "different chunks in storage_data and in state_dict_metadata"),
)  # fmt: skip


def check(material: Material) -> Iterator[Finding]:
    """Yield findings about chunks that do not tile their tensor or that are not stored."""
    stored: dict[str, list[Numbers | None]] = {}
    for chunk in material.chunks:
        stored.setdefault(chunk.key, []).append(chunk.offsets)
    found: dict[str, list[str]] = {code: [] for code, *_ in _WRONG}
    # By identity: in a large file, equal rows share their value.
    described: dict[int, _Described] = {}
    for key, entry in material.entries.items():
        if not is_tensor_entry(entry):
            if is_entry(entry) and any(stored.get(key, ())):
                what = f"{key}: a sharded object, stored as a tensor"
                found["table-mismatch"].append(what)
            continue
        if id(entry) not in described:
            described[id(entry)] = _describe(entry)
        each = described[id(entry)]
        if each.code is not None:
            found[each.code].append(f"{key}{each.wrong}")
        if each.offsets is not None and _differ(stored.get(key, each.offsets), each.offsets):
            what = f"{key}: {len(stored[key])} stored, {len(each.offsets)} described"
            found["table-mismatch"].append(what)
    for code, one, many, rest in _WRONG:
        if found[code]:
            what = f"{counted(len(found[code]), one, many)} {rest}"
            yield finding(material, code, what, *found[code])


def _differ(stored: list[Numbers | None], described: list[Numbers | None]) -> bool:
    """Return whether the offsets differ in any order; those that are described are in order."""
    return stored != described and _in_order(stored) != described


def _describe(entry: Any) -> _Described:
    try:
        shape = shape_of(entry)
    except DamagedError as error:
        return _Described(entry, "entry-malformed", f": {error.reason}")
    if not all(_inside(box, shape.size) for box in shape.chunks):
        return _Described(entry, "chunk-outside")
    offsets = _in_order(at for at, _ in shape.chunks)
    wrong = _not_tiled(shape)
    if wrong:
        return _Described(entry, "chunks-do-not-tile", f": {wrong}", offsets)
    code = "chunks-not-compared" if too_many_corners(shape) else None
    return _Described(entry, code, offsets=offsets)


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
