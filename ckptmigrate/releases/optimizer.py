"""The optimizer state of a checkpoint, and what keeps a reader from it.

Its tensors are a matter of bytes and of keys that only the model's own grouping of parameters
explains, so a job resumes with `--no-load-optim`. One thing is metadata alone: the table of the
shapes of flattened states, which `shapes` computes where it was lost.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.inert.tree import Object
from ckptmigrate.releases.readers import Reader

FLAG: Final = "--no-load-optim"
FLATTENED: Final = "fully_sharded_model_space"
# The attribute of `.metadata` with a row per tensor, and what the row of a flattened state holds.
SHAPES: Final = "mcore_data"
_SHAPE: Final = "nd_reformulated_orig_global_shape"

_CHAINED: Final = re.compile(r"chained_\d+\.", re.ASCII)
# `optimizer.state.exp_avg.<parameter>`, for each of several optimizers under a prefix.
_STATE: Final = re.compile(
    r"(?P<prefix>(?:chained_\d+\.)?)optimizer\.state\.[^.]+\.(?P<parameter>.+)", re.ASCII
)


@dataclass(frozen=True)
class Problem:
    """What a reader meets when it loads the optimizer.

    Attributes:
        error: the error that it raises.
        why: the reason.
        metadata_only: whether an edit of `.metadata` removes it.
    """

    error: str
    why: str
    metadata_only: bool = False


def saved(manifest: Manifest) -> bool:
    """Whether the job that saved it was not told --no-save-optim."""
    return not manifest.common.argument("no_save_optim")


def unsaved(manifest: Manifest) -> Problem | None:
    """How a job of any release ends that looks for an optimizer that was not saved.

    Source: load_checkpoint of megatron/training/checkpointing.py, core_v0.9.0 to core_v0.19.0.
    """
    if saved(manifest) or manifest.is_release:
        return None
    return Problem("KeyError: 'optimizer'", "the checkpoint was saved with --no-save-optim")


def problems(manifest: Manifest, reader: Reader) -> list[Problem]:
    """What keeps a reader from the optimizer of a checkpoint, in the order in which it shows.

    Nothing of `release`, out of which no job loads an optimizer (load_checkpoint of
    megatron/training/checkpointing.py, core_v0.9.0 to core_v0.19.0).
    """
    if manifest.is_release:
        return []
    found = _of_sharding(manifest, reader)
    # The template is built, and fails, before any tensor is looked at.
    return found or [
        *_of_shapes(manifest, reader),
        *_of_chain(manifest, reader),
        *_of_dimension(manifest, reader),
    ]


def shapes_lost(manifest: Manifest) -> bool:
    """Whether there are flattened states, and `.metadata` has no table of their shapes.

    torch 2.9 to 2.12 drop the attribute when Megatron-Core up to 0.14 saves (pytorch #178001).
    All states of an optimizer are of one form, so the first one of each is looked at.
    """
    if manifest.metadata.attributes.get(SHAPES):
        return False
    entries, seen = manifest.metadata.entries, set()
    for key in entries:
        match = _STATE.fullmatch(key)
        if match is None or match["prefix"] in seen or match["parameter"] not in entries:
            continue
        shape = _size(entries[match["parameter"]])
        if len(shape) > 1:  # those of one dimension are stored plain through 0.10
            seen.add(match["prefix"])
            if _is_flattened(shape, _size(entries[key])):
                return True
    return False


def shapes(manifest: Manifest) -> dict[str, dict[str, tuple[int, ...]]]:
    """Compute `mcore_data` from the shapes of the parameters: a row per tensor, as it was saved.

    Source: core_v0.9.0, core_v0.14.0 megatron/core/dist_checkpointing/strategies/torch.py
    MCoreSavePlanner.create_local_plan.
    """
    entries = manifest.metadata.entries
    rows: dict[str, dict[str, tuple[int, ...]]] = {}
    for key in entries:
        if manifest.metadata.is_object_entry(key):
            continue
        match = _STATE.fullmatch(key)
        parameter = entries.get(match["parameter"]) if match else None
        shape = () if parameter is None else _size(parameter)
        rows[key] = {_SHAPE: shape} if _is_flattened(shape, _size(entries[key])) else {}
    return rows


def _is_flattened(shape: tuple[int, ...], stored: tuple[int, ...]) -> bool:
    """Whether a state is stored as (grid..., elements of a cell of a parameter's shape)."""
    grid = stored[:-1]
    if not shape or len(grid) != len(shape) or not all(grid):
        return False
    return all(size % cells == 0 for size, cells in zip(shape, grid, strict=True)) and (
        stored[-1] == math.prod(size // cells for size, cells in zip(shape, grid, strict=True))
    )


def sharding_type(manifest: Manifest) -> str | None:
    """The sharding type of the distributed optimizer; None where there is none to tell."""
    named_type = (manifest.common.content or {}).get("distrib_optim_sharding_type")
    if isinstance(named_type, str):
        return named_type
    return FLATTENED if _flattened(manifest) or shapes_lost(manifest) else None


def _of_sharding(manifest: Manifest, reader: Reader) -> list[Problem]:
    found = sharding_type(manifest)
    if found is None:
        return []
    row = next((row for row in reader.compat.optimizer_sharding if row.type == found), None)
    if row is not None and reader.is_in(row.releases):
        return []
    error = row.error if row else f"NotImplementedError: Unknown sharding_type: {found}"
    why = (
        f"its distributed optimizer does not know the sharding type {found}, and no metadata "
        "edit can re-lay the bytes"
    )
    return [Problem(error, why)]


def _of_form(reader: Reader, form: str, **values: object) -> list[Problem]:
    """The problem of a form of compat_matrix.yaml; none where the reader reads it."""
    return [Problem(row.error.format(**values), row.why) for row in reader.unread_forms(form)]


def _of_shapes(manifest: Manifest, reader: Reader) -> list[Problem]:
    """Flattened states without the table of their shapes."""
    if not shapes_lost(manifest):
        return []
    found = _of_form(reader, "flattened-shapes-lost")
    return [Problem(each.error, each.why, metadata_only=True) for each in found]


def _of_chain(manifest: Manifest, reader: Reader) -> list[Problem]:
    """Several optimizers (MoE) whose keys lack the prefix that tells them apart through 0.13.

    Where they have it every reader asks for it: content_metadata, which makes a reader leave it
    out, is written together with the keys.
    """
    states = manifest.common.values.get("optimizer")
    # The common part of several optimizers stands under 0, 1, ...; that of one does not.
    if not isinstance(states, dict) or len(states) < 2 or {*states} != {*range(len(states))}:
        return []
    keys = manifest.metadata.entries
    if any(_CHAINED.match(key) for key in keys):
        return []
    first = next((key for key in keys if key.startswith("optimizer.")), None)
    if first is None:
        return []
    flattened = _flattened(manifest)
    if flattened:
        first = next((key for key, shape in flattened.items() if len(shape) > 1), first)
    form = "chained-without-prefix-flattened" if flattened else "chained-without-prefix"
    return _of_form(reader, form, key=f"chained_0.{first}")


def _of_dimension(manifest: Manifest, reader: Reader) -> list[Problem]:
    """Flattened states of parameters of one dimension, which two ways of storing exist of."""
    if sharding_type(manifest) != FLATTENED:
        return []
    flattened, entries = _flattened(manifest), manifest.metadata.entries
    # By key: of a large file, each entry that is looked at is unpickled for it.
    for key in entries:
        if len(flattened.get(key, ())) == 1:
            stored = _size(entries[key])
            return _of_form(
                reader, "flattened-1d-reshaped", key=key, stored=list(stored), shape=flattened[key]
            )
    for key in entries:
        cut = None if key in flattened else _cut(key, entries)
        if cut is not None:
            shape, size = cut
            return _of_form(reader, "flattened-1d-cut", shape=shape, size=size)
    return []


def _cut(key: str, entries: Mapping[str, Any]) -> tuple[int, int] | None:
    """(size of the parameter's shard, size of a piece of it) where a state is cut finer than its
    parameter is among model parallel ranks; None where it is not, or no parameter tells."""
    match = _STATE.fullmatch(key)
    parameter = entries.get(match["parameter"]) if match else None
    if parameter is None or len(_size(entries[key])) != 1:
        return None
    whole = sorted(_pieces(parameter))
    for piece in _pieces(entries[key]):
        after = bisect_right(whole, piece)
        if not after or whole[after - 1] != piece:
            shard = next((size for offset, size in reversed(whole) if offset <= piece[0]), None)
            return None if shard is None else (shard, piece[1])
    return None


def _pieces(entry: Any) -> Iterator[tuple[int, int]]:
    """(offset, size) of each piece of a tensor of one dimension."""
    chunks = entry.attributes.get("chunks") if isinstance(entry, Object) else None
    for chunk in chunks if isinstance(chunks, list) else ():
        if isinstance(chunk, Object):
            offsets, sizes = (_numbers(chunk.attributes.get(name)) for name in ("offsets", "sizes"))
            if len(offsets) == len(sizes) == 1:
                yield offsets[0], sizes[0]


def _size(entry: Any) -> tuple[int, ...]:
    return _numbers(entry.attributes.get("size")) if isinstance(entry, Object) else ()


def _flattened(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """The entries stored as flattened ranges: key -> the shape of the parameter."""
    data = manifest.metadata.attributes.get(SHAPES)
    if not isinstance(data, dict):
        return {}
    return {k: _numbers(v[_SHAPE]) for k, v in data.items() if isinstance(v, dict) and _SHAPE in v}


def _numbers(value: Any) -> tuple[int, ...]:
    """The numbers of a shape, which is a tuple or an inert torch.Size; () for anything else."""
    if isinstance(value, Object) and len(value.args) == 1:
        value = value.args[0]
    if isinstance(value, tuple) and all(type(number) is int for number in value):
        return value
    return ()
