"""Checkpoints with any number of keys, made with torch's own classes from a real sample.

The sample provides the common state, the rerun and RNG shards and the format of a save plan. Each
new key is a tensor of one chunk, as a save of many ranks writes it: `state_dict_metadata` and the
save plans share the chunk and the key, and `storage_data` has its own copies. Data files are
sparse, with holes that use no disk space.
"""

from __future__ import annotations

import gc
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SAMPLE = HERE.parent / "tests" / "samples" / "0.18.2-idle-tp2"
ROW_BYTES = 8192  # of data files per new key
_NAMES = (
    "decoder.mlp.linear_fc1.weight",
    "decoder.mlp.linear_fc2.weight",
    "optimizer.state.exp_avg.mlp.linear_fc1",
    "optimizer.state.exp_avg.mlp.linear_fc2",
    "decoder.mlp.layer_norm_weight",
)


def checkpoint(
    root: Path, entries: int, *, plans: bool, row_bytes: int = ROW_BYTES, sample: Path = SAMPLE
) -> Path:
    """Create a root with one checkpoint that has `entries` more keys than its sample.

    Args:
        root: must not exist.
        plans: whether `.metadata` keeps `all_local_plans`.
        row_bytes: bytes of data files per new key.

    Returns:
        The checkpoint directory.
    """
    shutil.copytree(sample, root)
    [path] = root.glob("iter_*")
    gc.disable()  # millions of objects without garbage
    try:
        content = _metadata((path / ".metadata").read_bytes(), entries, plans, row_bytes)
    finally:
        gc.enable()
    (path / ".metadata").write_bytes(content)
    for rank in (0, 1):
        with open(path / f"__{rank}_9.distcp", "xb") as payload:
            payload.truncate(max(1, entries * row_bytes))
    return path


def _metadata(content: bytes, entries: int, plans: bool, row_bytes: int) -> bytes:
    """Return the `.metadata` of the sample with more keys."""
    metadata = pickle.loads(content)
    if not plans:
        del metadata.all_local_plans
    local = metadata.all_local_plans if plans else ()
    for number, (entry, item, index, place) in enumerate(_rows(entries, row_bytes)):
        metadata.state_dict_metadata[item.index.fqn] = entry
        metadata.storage_data[index] = place
        if local:
            local[number % len(local)].items.append(item)
    return pickle.dumps(metadata, protocol=4)


def _rows(entries: int, row_bytes: int) -> Iterator[tuple[Any, ...]]:
    import torch
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import (
        ChunkStorageMetadata,
        MetadataIndex,
        TensorProperties,
        TensorStorageMetadata,
    )
    from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

    for number in range(entries):
        key = f"{_NAMES[number % len(_NAMES)]}.{number}"
        sizes = (4096, number % 500 + 1) if number % 5 < 4 else (4096,)
        size, zeros = torch.Size(sizes), [0] * len(sizes)
        chunk = ChunkStorageMetadata(offsets=torch.Size(zeros), sizes=size)
        properties = TensorProperties(dtype=torch.bfloat16)
        item = WriteItem(
            index=MetadataIndex(key, torch.Size(zeros)),
            type=WriteItemType.SHARD,
            tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=size),
        )
        entry = TensorStorageMetadata(properties=properties, size=size, chunks=[chunk])
        # A separate string object: the rank that wrote the bytes reports them in another message.
        index = MetadataIndex(key.encode().decode(), torch.Size(zeros))
        place = _StorageInfo(f"__{number % 2}_9.distcp", number * row_bytes, row_bytes)
        yield entry, item, index, place


if __name__ == "__main__":
    place, count, size, *words = sys.argv[1:]
    checkpoint(Path(place), int(count), plans=words == ["plans"], row_bytes=int(size))
