"""Stored tensors: the bytes of their elements in the data files, located without reading them.

A chunk of a tensor is a `torch.save` zip in a data file. Its tensor may be a view of a larger
storage, so the offset, the size and the strides in the pickle decide which bytes are its elements.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.checkpoint.rows import Blob
from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles import reader, torch_zip
from ckptmigrate.pickles.display import short_repr
from ckptmigrate.pickles.torch_file import TENSOR
from ckptmigrate.pickles.torch_zip import Fetch, Outlined, Stored
from ckptmigrate.pickles.tree import Global, Object, PersistentId, is_object
from ckptmigrate.storage.directories import Directory

Numbers = tuple[int, ...]

# Class of a storage -> dtype and bytes per element.
STORAGES: Final = {
    "torch.FloatStorage": ("float32", 4),
    "torch.BFloat16Storage": ("bfloat16", 2),
    "torch.HalfStorage": ("float16", 2),
    "torch.DoubleStorage": ("float64", 8),
    "torch.ByteStorage": ("uint8", 1),
    "torch.CharStorage": ("int8", 1),
    "torch.ShortStorage": ("int16", 2),
    "torch.IntStorage": ("int32", 4),
    "torch.LongStorage": ("int64", 8),
    "torch.BoolStorage": ("bool", 1),
}
ITEM_SIZES: Final = dict(STORAGES.values())  # dtype -> bytes per element
BLOCK: Final = 4 * 1024**2  # bytes read at once
_EDGE: Final = 16 * 1024  # bytes of a blob that are read first, at its start and at its end
_MOST_OUTLINE: Final = 64 * 1024**2  # bytes of a blob without its storages
_MOST_DIMENSIONS: Final = 64  # the limit of torch operations


@dataclass(frozen=True, slots=True)
class View:
    """A tensor in a data file.

    Attributes:
        file: the data file.
        start: byte offset of its storage in the file.
        storage: the storage: its size in bytes, and its checksum.
        dtype: the dtype without `torch.`.
        offset: first element in the storage.
        shape, strides: per dimension, in elements.
    """

    file: str
    start: int
    storage: Stored
    dtype: str
    offset: int
    shape: Numbers
    strides: Numbers

    @property
    def item_size(self) -> int:
        """Return the bytes per element."""
        return ITEM_SIZES[self.dtype]

    @property
    def count(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)

    @property
    def fills_storage(self) -> bool:
        """Return whether its elements, in row-major order, are the whole storage."""
        return self.count * self.item_size == self.storage.size and not self._rows[1]

    @property
    def _rows(self) -> tuple[int, list[tuple[int, int]]]:
        """Return the number of contiguous elements, and size and stride of the outer dimensions."""
        block = 1
        sides = [side for side in zip(self.shape, self.strides, strict=True) if side[0] != 1]
        while sides and sides[-1][1] == block:
            block *= sides.pop()[0]
        return block, sides

    def ranges(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """Yield the byte ranges (offset in the file, size) of `count` elements from `first`."""
        block, outer = self._rows
        end = first + count
        while first < end:
            row, inside = divmod(first, block)
            some = min(block - inside, end - first)
            at = self.offset + inside
            for size, stride in reversed(outer):
                row, index = divmod(row, size)
                at += index * stride
            yield self.start + at * self.item_size, some * self.item_size
            first += some


@dataclass(frozen=True, slots=True)
class Span:
    """`count` elements of a tensor from element `first`, in row-major order."""

    view: View
    first: int
    count: int

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return self.count * self.view.item_size

    def part(self, first: int, count: int) -> Span:
        """Return `count` of its elements from element `first`."""
        return Span(self.view, self.first + first, count)

    @property
    def checksum(self) -> int | None:
        """Return the CRC-32 of its bytes as stored in the file; None if the file has none."""
        whole = self.count == self.view.count and self.view.fills_storage
        return (self.view.storage.checksum or None) if whole else None


Spans = tuple[Span, ...]


def part_of(spans: Spans, first: int, count: int) -> Spans:
    """Return `count` elements from element `first` of spans that are end to end.

    Raises:
        DamagedError: the spans have fewer elements.
    """
    found = []
    for span in spans:
        if first < span.count and count:
            some = min(span.count - first, count)
            found.append(span.part(first, some))
            count -= some
        first = max(0, first - span.count)
    if count:
        raise DamagedError("has fewer elements than its shape")
    return tuple(found)


def blocks(directory: Directory, spans: Spans) -> Iterator[bytes]:
    """Yield the bytes of spans in blocks of at most BLOCK bytes.

    Raises:
        DamagedError: a data file is shorter than before.
    """
    for span in spans:
        left: list[bytes] = []
        size = 0
        for offset, length in span.view.ranges(span.first, span.count):
            for at in range(offset, offset + length, BLOCK):
                some = min(BLOCK, offset + length - at)
                if size + some > BLOCK:
                    yield b"".join(left)
                    left, size = [], 0
                left.append(read_range(directory, span.view.file, at, some))
                size += some
        yield b"".join(left)


def range_blocks(directory: Directory, blob: Blob) -> Iterator[bytes]:
    """Yield a byte range in blocks of at most BLOCK bytes; raises as `blocks`."""
    end = blob.offset + blob.length
    for at in range(blob.offset, end, BLOCK):
        yield read_range(directory, blob.file, at, min(BLOCK, end - at))


def read_range(directory: Directory, file: str, offset: int, size: int) -> bytes:
    """Return bytes of a data file.

    Raises:
        DamagedError: the file ends before.
    """
    content = directory.read_range(file, offset, size)
    if len(content) != size:
        raise DamagedError("is truncated", path=directory.path / file, fix="restore it from a copy")
    return content


def outline(directory: Directory, blob: Blob) -> tuple[Any, Outlined]:
    """Return the inert tree of a `torch.save` zip in a data file, and its outline.

    Raises:
        PickleError: `torch.save` does not write such a file, or its pickle is refused.
        DamagedError: the data file is truncated.
    """
    found = members_of(directory, blob)
    members = dict(found.members)
    if members.get("byteorder", b"little") != b"little":
        raise DamagedError("stores tensors in big-endian order")
    pickled = members[torch_zip.PICKLE]
    assert isinstance(pickled, bytes)  # only storages are not read
    return reader.load_with_symbols(pickled, storages=True)[0], found


def members_of(directory: Directory, blob: Blob) -> Outlined:
    """Return the outline of a `torch.save` zip in a data file.

    Raises:
        PickleError: `torch.save` does not write such a file.
        DamagedError: the data file is truncated.
    """
    return torch_zip.outline(_fetch(directory, blob), blob.length)


def _fetch(directory: Directory, blob: Blob) -> Fetch:
    """Return a function that reads bytes of a blob; it reads the start and the end only once."""
    head = read_range(directory, blob.file, blob.offset, min(blob.length, _EDGE))
    last = max(blob.length - _EDGE, len(head))
    tail = read_range(directory, blob.file, blob.offset + last, blob.length - last)

    def fetch(offset: int, size: int) -> bytes:
        if size > _MOST_OUTLINE:
            raise DamagedError(f"has {size} bytes that are not the elements of a tensor")
        if offset < 0 or offset + size > blob.length:
            return b""
        if offset + size <= len(head):
            return head[offset : offset + size]
        if offset >= last:
            return tail[offset - last : offset - last + size]
        return read_range(directory, blob.file, blob.offset + offset, size)

    return fetch


def view_of(tree: Any, found: Outlined, blob: Blob) -> View:
    """Return the tensor that an inert tree rebuilds.

    Args:
        tree: the call of `_rebuild_tensor_v2`.
        found: the outline of the zip that contains it.
        blob: the location of the zip.

    Raises:
        DamagedError: the tree is not a valid tensor in the zip.
    """
    if not is_object(tree, TENSOR) or len(tree.args) < 4:
        what = type(tree).path if isinstance(tree, Object) else type(tree).__name__
        raise DamagedError(f"contains {short_repr(what)}, not a tensor that torch.save writes")
    handle, offset, shape, strides = tree.args[:4]
    pid = handle.pid if isinstance(handle, PersistentId) else None
    if not (isinstance(pid, tuple) and len(pid) == 5 and isinstance(pid[1], Global)):
        raise DamagedError("contains a tensor without a storage")
    dtype, item_size = STORAGES.get(pid[1].path, (None, 0))
    if dtype is None:
        raise DamagedError(f"contains a tensor with a {short_repr(pid[1].path)}")
    stored = dict(found.members).get(f"{torch_zip.STORAGES}{pid[2]}")
    if not isinstance(stored, Stored) or stored.size != _number(pid[4]) * item_size:
        raise DamagedError("contains a tensor whose storage has another size")
    sizes, steps = _numbers(shape), _numbers(strides)
    last = _number(offset) + sum((n - 1) * s for n, s in zip(sizes, steps, strict=False))
    if len(sizes) != len(steps) or (all(sizes) and (last + 1) * item_size > stored.size):
        raise DamagedError("contains a tensor that is larger than its storage")
    return View(blob.file, blob.offset + stored.offset, stored, dtype, offset, sizes, steps)


def read_view(directory: Directory, blob: Blob) -> View:
    """Return the tensor of a chunk.

    Raises:
        DamagedError: the blob does not hold a tensor.
    """
    tree, found = outline(directory, blob)
    return view_of(tree, found, blob)


def _numbers(value: Any) -> Numbers:
    if not isinstance(value, tuple) or len(value) > _MOST_DIMENSIONS:
        raise DamagedError("contains a tensor without a shape")
    return tuple(map(_number, value))


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise DamagedError("contains a tensor with a size that is not a number")
    return value
