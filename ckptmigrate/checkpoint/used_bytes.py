"""The bytes of data files that no key refers to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from ckptmigrate.checkpoint.rows import Chunk

_Span = tuple[int, int]  # first byte, byte after the last


def unused(chunks: Iterable[Chunk], sizes: Mapping[str, int]) -> dict[str, int]:
    """Return data file -> the number of its bytes that no key refers to, if there are any.

    Args:
        chunks: the rows of `storage_data`.
        sizes: data file -> its size in bytes.
    """
    spans: dict[str, list[_Span]] = defaultdict(list)
    for chunk in chunks:
        blob = chunk.blob
        spans[blob.file].append((blob.offset, blob.offset + blob.length))
    counts = {name: size - _covered(spans.get(name, ()), size) for name, size in sizes.items()}
    return {name: count for name, count in counts.items() if count}


def _covered(spans: Iterable[_Span], size: int) -> int:
    """Return how many of the first `size` bytes are in a span."""
    covered = end = 0
    for first, after in sorted(spans):
        first, after = max(first, end), min(after, size)
        covered += max(after - first, 0)
        end = max(end, after)
    return covered
