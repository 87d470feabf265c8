"""The optimizer of a checkpoint as torch reads it, and as tests/optimizer/README.md defines it."""

from __future__ import annotations

import io
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.metadata import Metadata

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.optimizer.performing import pieces
from ckptmigrate.optimizer.resharding import Conversion
from ckptmigrate.storage.progress import Progress

Array = Any
SAMPLES = Path(__file__).parent / "optimizer"
OFFSET = {"param": 0.5, "exp_avg": 0.5, "exp_avg_sq": 0.0}
SCALE = {"param": 0.25, "exp_avg": 1.0, "exp_avg_sq": 1.0}


def expected(name: str, state: str, shape: tuple[int, ...]) -> Array:
    """Return every element of a state of a parameter, by the formula of the samples."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64)
    seed = np.uint64(zlib.crc32(f"module.{name}|{state}".encode()))
    mixed = index * np.uint64(2654435761) + seed * np.uint64(40503) + (index ^ seed) * np.uint64(97)
    value = (mixed % np.uint64(2**23)).astype(np.float64) / 2**23
    return ((value - OFFSET[state]) * SCALE[state]).astype(np.float32).reshape(shape)


def perform(made: Conversion, folder: Path, progress: Progress | None = None) -> None:
    """Write the new data files of a conversion."""
    for name in made.files:
        with (folder / name).open("xb") as file:
            for piece in pieces(made, name):
                file.write(piece)
                if progress is not None:
                    progress(len(piece))


def placed(made: Conversion) -> Manifest:
    """Return the result of a conversion with its common state written where it was."""
    found = made.manifest
    return found if found.common.in_file else found.with_common_in_entry()


class _Unpickler(pickle.Unpickler):
    """The pickle of torch, with empty classes for those of Megatron."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("megatron."):
            base = (Metadata,) if "Metadata" in name else ()
            return type(name, base, {})
        return super().find_class(module, name)


def metadata(checkpoint: Path) -> Any:
    """Return `.metadata` as torch unpickles it."""
    return _Unpickler(io.BytesIO((checkpoint / ".metadata").read_bytes())).load()


def chunks(checkpoint: Path, found: Any) -> dict[str, dict[tuple[int, ...], torch.Tensor]]:
    """Return the chunks of each tensor, as torch loads them from the data files."""
    tensors: dict[str, dict[tuple[int, ...], torch.Tensor]] = {}
    for index, where in found.storage_data.items():
        if index.offset is not None:
            with (checkpoint / where.relative_path).open("rb") as file:
                file.seek(where.offset)
                blob = io.BytesIO(file.read(where.length))
            loaded = torch.load(blob, weights_only=True)
            tensors.setdefault(index.fqn, {})[tuple(index.offset)] = loaded
    return tensors


def states(checkpoint: Path) -> dict[tuple[str, str], Array]:
    """Return (parameter, state) -> its elements, of an optimizer in a model space."""
    found = metadata(checkpoint)
    result = {}
    for key, parts in chunks(checkpoint, found).items():
        _, inside, rest = key.partition("optimizer.state.")
        if not inside:
            continue
        stored, _, name = rest.partition(".")
        shape = tuple(found.state_dict_metadata[name].size)
        size = tuple(found.state_dict_metadata[key].size)
        whole = np.full(size, np.nan, np.float32)
        for offsets, tensor in parts.items():
            box = tuple(slice(a, a + n) for a, n in zip(offsets, tensor.shape, strict=True))
            assert np.isnan(whole[box]).all(), "two chunks overlap"
            whole[box] = tensor.numpy()
        assert not np.isnan(whole).any(), "chunks leave a gap"
        result[name, stored.removeprefix("fp32_")] = unflattened(whole, shape)
    return result


def unflattened(whole: Array, shape: tuple[int, ...]) -> Array:
    """Return the elements of a tensor that is stored as (cells per dimension..., elements)."""
    if whole.shape == shape:
        return whole
    grid = whole.shape[:-1]
    sizes = tuple(n // cells for n, cells in zip(shape, grid, strict=True))
    result = np.empty(shape, np.float32)
    for index in np.ndindex(*grid):
        box = tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, sizes, strict=True))
        result[box] = whole[index].reshape(sizes)
    return result


def common(checkpoint: Path) -> dict[str, Any]:
    """Return the common state as torch loads it, with `args` left out of what it must import."""
    found = metadata(checkpoint)
    if (checkpoint / "common.pt").is_file():
        data = (checkpoint / "common.pt").read_bytes()
    else:
        [where] = [w for i, w in found.storage_data.items() if i.fqn == "common_state/shard_0_1"]
        with (checkpoint / where.relative_path).open("rb") as file:
            file.seek(where.offset)
            data = file.read(where.length)
    loaded = torch.load(io.BytesIO(data), weights_only=False, pickle_module=_WithoutMegatron)
    result: dict[str, Any] = loaded[0] if isinstance(loaded, list) else loaded
    return result


class _AnyClass:
    """An object of a class of Megatron."""

    def __init__(self, *args: Any) -> None:
        self.args = args


class _WithoutMegatron:
    """`pickle` as torch.load uses it, with stand-ins for the classes of Megatron."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return _AnyClass if module.startswith("megatron.") else super().find_class(module, name)

    load = staticmethod(pickle.load)
