"""Load of every tensor with torch; no other module of ckptmigrate imports torch.

No pickle runs with arbitrary classes: the inert `.metadata` gives the byte ranges of the chunks,
and `torch.load(weights_only=True)` loads each. Sharded objects are only read as inert trees
(`objects`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from ckptmigrate.checkpoint.material import Material
from ckptmigrate.checkpoint.rows import Chunk, Piece, is_tensor_entry, piece_of
from ckptmigrate.checkpoint.shapes import shape_of
from ckptmigrate.checks.findings import Finding, finding
from ckptmigrate.errors import DamagedError, RefusedError
from ckptmigrate.storage.limits import LARGEST_PART
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import install
from ckptmigrate.text.printable import counted


def require_torch() -> Any:
    """Return the torch module.

    Raises:
        RefusedError: torch is not installed; names the command that installs it.
    """
    try:
        import torch
    except ImportError as error:
        raise RefusedError(
            "--load requires torch, which is not installed",
            fix=f"omit --load, or run `{install('torch')}`",
        ) from error
    return torch


def check(material: Material, progress: Progress | None = None) -> Iterator[Finding]:
    """Yield findings about chunks that do not load with the dtype and shape in `.metadata`.

    Args:
        progress: called with the number of bytes of data files read since the last call.

    Raises:
        RefusedError: torch is not installed.
    """
    torch = require_torch()
    sizes = material.directory.files()
    unreadable: list[str] = []
    other: list[str] = []
    large: list[str] = []
    for chunk, dtype, shape in _wanted(material):
        blob = chunk.blob
        if blob.offset + blob.length > sizes.get(blob.file, 0):
            continue  # payload.ranges reports it
        if blob.length > LARGEST_PART:
            large.append(chunk.key)
            continue
        name = f"{chunk.key} at {list(chunk.offsets or ())}"
        try:
            content = material.directory.read_range(blob.file, blob.offset, blob.length)
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many exception types on invalid bytes
            reason = str(error).strip().splitlines() or [""]
            unreadable.append(f"{name}: {type(error).__name__}: {reason[0]}")
            continue
        if progress is not None:
            progress(blob.length)
        if not isinstance(found, torch.Tensor):
            other.append(f"{name}: a {type(found).__name__}, not a tensor")
        elif (str(found.dtype), tuple(found.shape)) != (dtype, shape):
            recorded = f"{found.dtype} {list(found.shape)}"
            other.append(f"{name}: {recorded}, and .metadata records {dtype} {list(shape)}")
    if unreadable:
        many = counted(len(unreadable), "chunk does", "chunks do")
        yield finding(material, "tensor-unreadable", f"{many} not load", *unreadable)
    if large:
        many = counted(len(large), "chunk has", "chunks have")
        yield finding(material, "blob-not-read", f"{many} more than {LARGEST_PART} bytes", *large)
    if other:
        many = counted(len(other), "chunk is", "chunks are")
        yield finding(material, "tensor-mismatch", f"{many} not as .metadata records", *other)


def _wanted(material: Material) -> Iterator[tuple[Chunk, str | None, tuple[int, ...]]]:
    """Yield every chunk of a tensor with its expected dtype and shape, file by file."""
    described: dict[str, tuple[str | None, dict[Piece, tuple[int, ...]]]] = {}
    for key, entry in material.entries.items():
        if is_tensor_entry(entry):
            try:
                shape = shape_of(entry)
            except DamagedError:
                continue  # tiling.check reports it
            sizes = {piece_of(key, offsets): size for offsets, size in shape.chunks}
            described[key] = (shape.dtype, sizes)
    for chunk in sorted(material.chunks, key=lambda c: (c.blob.file, c.blob.offset)):
        dtype, sizes = described.get(chunk.key, (None, {}))
        size = sizes.get(piece_of(chunk.key, chunk.offsets))
        if size is not None:
            yield chunk, dtype, size
