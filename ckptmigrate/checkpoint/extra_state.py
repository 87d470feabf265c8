"""The `_extra_state` of modules: sharded objects that Transformer Engine saves for FP8.

A module has one object per layer, `decoder.layers.mlp.linear_fc1._extra_state/shard_0_2`. Offset
and global shape are those of the axes in front of the weight: layers, and experts (core_v0.9.0 to
core_v0.19.0 megatron/core/transformer/utils.py make_sharded_object_for_checkpoint).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ckptmigrate.checkpoint.manifest import PAYLOAD, Manifest
from ckptmigrate.checkpoint.metadata import Metadata
from ckptmigrate.checkpoint.rerun import unique_key
from ckptmigrate.checkpoint.shapes import global_size
from ckptmigrate.errors import DamagedError, PickleError
from ckptmigrate.pickles import reader, torch_file
from ckptmigrate.pickles.torch_file import TENSOR, TorchFile
from ckptmigrate.pickles.tree import Object, PersistentId, is_object, symbol

SUFFIX: Final = "_extra_state"
_OBJECT: Final = re.compile(rf"(.+)\.{SUFFIX}/shard_[\d.]+_[\d.]+", re.ASCII)
# Halves of a gated layer have keys of their own with singleton_local_shards.
_WEIGHT: Final = re.compile(
    r"(?!optimizer\.|chained_)(?:.*\.)?(\w+\.(\w+))\.weight(?:_[wv])?", re.ASCII
)
_LARGEST_EMPTY: Final = 64 * 1024  # bytes; releases write an object without state in 2 KiB
_OF_STREAM: Final = 3  # values in the state of a pickled io.BytesIO: bytes, position, attributes


class Content(str, Enum):
    """The content of an object.

    none: None, as the layers of Megatron-Core write it. empty-tensor: a tensor without elements.
    no-state: another form of no state, such as the pickle of None. state: state of FP8, or unknown.
    """

    NONE = "none"
    EMPTY = "empty-tensor"
    NO_STATE = "no-state"
    STATE = "state"


@dataclass(frozen=True)
class Layers:
    """The layers that have a module.

    Attributes:
        grid: the global shape of the object of the module.
        ranks: offset of each layer -> the rank that writes its weight.
    """

    grid: tuple[int, ...]
    ranks: Mapping[tuple[int, ...], int]

    def keys(self, module: str) -> dict[str, int]:
        """Return the keys of the objects of a module, each with the rank that writes the weight."""
        name = f"{module}.{SUFFIX}"
        return {unique_key(place, self.grid, name): rank for place, rank in self.ranks.items()}


def stored(found: Metadata) -> dict[str, str]:
    """Return the keys of the objects in a checkpoint, each with its module."""
    matches = ((key, _OBJECT.fullmatch(key)) for key in found.entries if SUFFIX in key)
    return {key: m[1] for key, m in matches if m and key in found.blobs}


def is_of_module(name: str, module: str) -> bool:
    """Return whether the name of a module, of one or two parts, is the end of its path."""
    return module == name or module.endswith(f".{name}")


def layers(found: Metadata, axes: Mapping[str, int]) -> dict[str, Layers]:
    """Return the layers of every module that has a weight, by the path of the module.

    Args:
        axes: name of a module, of one or two parts -> dimensions of its weight in one layer.
    """
    modules: dict[str, tuple[str, tuple[int, ...]]] = {}
    for key, entry in found.entries.items():
        match = _WEIGHT.fullmatch(key) if ".weight" in key else None
        if match is None:
            continue
        own = axes.get(match[2], axes.get(match[1]))
        size = global_size(entry)
        if own is not None and len(size) >= own:
            modules[key] = (key.rpartition(".weight")[0], size[: len(size) - own])
    ranks: dict[str, dict[tuple[int, ...], int]] = {}
    for chunk in found.chunks if modules else ():
        if chunk.key not in modules or chunk.offsets is None:
            continue
        module, grid = modules[chunk.key]
        place = chunk.offsets[: len(grid)]
        if all(0 <= at < size for at, size in zip(place, grid, strict=True)):
            rank = PAYLOAD.fullmatch(chunk.blob.file)
            ranks.setdefault(module, {}).setdefault(place or (0,), int(rank[1]) if rank else 0)
    grids = dict(modules.values())
    return {
        module: Layers(grid or (1,), dict(sorted(ranks[module].items())))
        for module, grid in grids.items()
        if module in ranks
    }


def content_of(found: Manifest, key: str) -> Content:
    """Return the content of an object; STATE if it cannot be read or is not known."""
    if found.metadata.blobs[key].length > _LARGEST_EMPTY:
        return Content.STATE
    try:
        return _content(found.read_blob(key))
    except DamagedError:
        return Content.STATE


def has_state(found: Manifest, keys: Iterable[str]) -> bool:
    """Return whether an object may have a state, and not only say that there is none."""
    return any(content_of(found, key) is Content.STATE for key in keys)


def new_object(content: Content) -> bytes:
    """Return the bytes of an object with NONE or EMPTY, as `torch.save` writes the list of it."""
    if content is Content.NONE:
        return torch_file.dump(torch_file.new([None]))
    module, _, name = TENSOR.rpartition(".")
    storage = PersistentId(("storage", symbol("torch", "ByteStorage"), "0", "cpu", 0))
    hooks = symbol("collections", "OrderedDict")()
    tensor = symbol(module, name)(storage, 0, (0,), (1,), False, hooks)
    return torch_file.dump(torch_file.new([tensor], (b"",)))


def _content(file: TorchFile) -> Content:
    """Return the content of an object, which is a list of one value."""
    value = file.tree[0] if isinstance(file.tree, list) and len(file.tree) == 1 else file.tree
    if value is None:
        return Content.NONE
    data = _tensor_bytes(file, value)
    if data == b"":
        return Content.EMPTY
    try:
        if data is None:
            stream = _stream_bytes(value)
            nothing = stream is not None and torch_file.load(stream).tree is None
        else:
            # Transformer Engine pickles None, or since 2.0 an empty dict for a norm.
            nothing = reader.load(data) in (None, {})
    except DamagedError:
        return Content.STATE
    return Content.NO_STATE if nothing else Content.STATE


def _tensor_bytes(file: TorchFile, value: Any) -> bytes | None:
    """Return the bytes of a tensor that is the only one of a file; None for any other value."""
    if not is_object(value, TENSOR) or len(file.storages) > 1:
        return None
    return file.storages[0][1] if file.storages else None


def _stream_bytes(value: Any) -> bytes | None:
    """Return the bytes of a pickled io.BytesIO; None for any other value."""
    if not is_object(value, "_io.BytesIO"):
        return None
    state = value.state
    data = state[0] if isinstance(state, tuple) and len(state) == _OF_STREAM else None
    if is_object(data, "_codecs.encode"):  # bytes in a pickle of protocol 2
        assert isinstance(data, Object)
        text = data.args[0] if data.args else None
        try:
            return text.encode("latin-1") if isinstance(text, str) else None
        except UnicodeError as error:
            raise PickleError("has bytes that are not latin-1") from error
    return data if isinstance(data, bytes) else None
