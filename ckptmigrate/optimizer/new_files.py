"""The data files of a converted optimizer, planned to the byte."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ckptmigrate.checkpoint.rows import Blob
from ckptmigrate.checkpoint.tensor_rows import NewChunk, NewTensor
from ckptmigrate.optimizer import tensors
from ckptmigrate.optimizer.tensors import Numbers, Spans
from ckptmigrate.pickles import torch_file
from ckptmigrate.pickles.torch_zip import STORAGES as STORAGE_NAMES
from ckptmigrate.pickles.torch_zip import Outlined, Stored
from ckptmigrate.pickles.tree import Object, PersistentId, symbol

# Larger chunks are split, because a `torch.save` zip of 4 GiB has other records.
LARGEST_CHUNK: Final = 2 * 1024**3
_AROUND: Final = 4096  # bytes of a zip besides the elements, at most
_CLASSES: Final = {dtype: path for path, (dtype, _) in tensors.STORAGES.items()}


@dataclass(frozen=True, slots=True)
class NewRange:
    """A chunk of a new tensor: its offsets and sizes per dimension, and its elements."""

    offsets: Numbers
    sizes: Numbers
    spans: Spans


@dataclass(frozen=True)
class NewState:
    """A state of a parameter as a tensor to write.

    Attributes:
        size: its global shape.
        original_shape: the shape of the parameter if the state is stored flattened, else None.
        ranges: its chunks.
    """

    size: Numbers
    original_shape: Numbers | None
    ranges: tuple[NewRange, ...]


@dataclass(frozen=True, slots=True)
class NewBlob:
    """A `torch.save` zip of a contiguous tensor to write; there may be 100,000 of them.

    Attributes:
        sizes: the shape of the tensor.
        spans: the bytes of its elements.
    """

    sizes: Numbers
    spans: Spans

    @property
    def outlined(self) -> Outlined:
        """Return its bytes without the elements, and with a checksum of 0."""
        return _outlined(self.spans[0].view.dtype, self.sizes)

    @property
    def length(self) -> int:
        """Return its size in bytes."""
        return _length(self.spans[0].view.dtype, self.sizes)

    @property
    def size(self) -> int:
        """Return the bytes of the elements."""
        return sum(span.size for span in self.spans)

    def around(self, checksum: int) -> tuple[bytes, bytes]:
        """Return the bytes before and after the elements.

        Args:
            checksum: the CRC-32 of the elements.
        """
        before, after, found = b"", b"", False
        outlined = self.outlined
        members = tuple(
            (name, replace(body, checksum=checksum) if isinstance(body, Stored) else body)
            for name, body in outlined.members
        )
        for _, part in replace(outlined, members=members).parts():
            if isinstance(part, Stored):
                found = True
            elif found:
                after += part
            else:
                before += part
        return before, after


def plan(
    states: Mapping[str, NewState], names: Iterator[str], part_size: int
) -> tuple[dict[str, NewTensor], dict[str, tuple[NewBlob, ...]]]:
    """Return the rows of new tensors, and the contents of the new data files by name.

    Args:
        states: the tensors by key.
        names: unused names for data files of rank 0.
        part_size: the largest size of a file in bytes, at least `target.SMALLEST_PART`. A chunk
            that does not fit is split.
    """
    files: dict[str, list[NewBlob]] = {}
    largest = min(LARGEST_CHUNK, part_size - _AROUND)
    name, end = "", part_size
    rows = {}
    for key, state in states.items():
        chunks = []
        for each in (part for whole in state.ranges for part in _split(whole, largest)):
            blob = NewBlob(each.sizes, each.spans)
            length = blob.length
            if end + length > part_size:
                name, end = next(names), 0
            chunks.append(NewChunk(each.offsets, each.sizes, Blob(name, end, length)))
            files.setdefault(name, []).append(blob)
            end += length
        dtype = state.ranges[0].spans[0].view.dtype
        rows[key] = NewTensor(state.size, dtype, state.original_shape, tuple(chunks))
    return rows, {name: tuple(blobs) for name, blobs in files.items()}


def _split(whole: NewRange, largest: int) -> Iterable[NewRange]:
    """Yield a chunk in parts of at most `largest` bytes, cut along its first long axis."""
    size = sum(span.size for span in whole.spans)
    if size <= largest:
        yield whole
        return
    axis = next(d for d, n in enumerate(whole.sizes) if n > 1)
    count = sum(span.count for span in whole.spans) // whole.sizes[axis]
    half = whole.sizes[axis] // 2
    for first, some in ((0, half), (half, whole.sizes[axis] - half)):
        offsets, sizes = list(whole.offsets), list(whole.sizes)
        offsets[axis] += first
        sizes[axis] = some
        spans = tensors.part_of(whole.spans, first * count, some * count)
        yield from _split(NewRange(tuple(offsets), tuple(sizes), spans), largest)


@functools.lru_cache  # many chunks have the same shape
def _outlined(dtype: str, sizes: Numbers) -> Outlined:
    """Return the bytes of a tensor in a file, without its elements."""
    count = math.prod(sizes)
    file = torch_file.new(_tree(dtype, sizes, count))
    members: list[tuple[str, bytes | Stored]] = []
    for name, content in torch_file.written(file).members:
        members.append((name, content))
        if name == "byteorder":
            members.append((f"{STORAGE_NAMES}0", Stored(count * tensors.ITEM_SIZES[dtype])))
    return Outlined(file.zipped.folder, tuple(members))


@functools.lru_cache
def _length(dtype: str, sizes: Numbers) -> int:
    return _outlined(dtype, sizes).length


def _tree(dtype: str, sizes: Numbers, count: int) -> Object:
    """Return the call that rebuilds a contiguous tensor, as `torch.save` pickles it."""
    module, _, name = _CLASSES[dtype].rpartition(".")
    handle = PersistentId(("storage", symbol(module, name), "0", "cpu", count))
    strides: list[int] = []
    step = 1
    for size in reversed(sizes):
        strides.insert(0, step)
        step *= size
    module, _, name = torch_file.TENSOR.rpartition(".")
    hooks = symbol("collections", "OrderedDict")()
    return symbol(module, name)(handle, 0, sizes, tuple(strides), False, hooks)
