"""The optimizer state of a checkpoint, and the reasons why a reader cannot load it.

A metadata edit cannot convert the optimizer, because the arrangement of its elements differs:
`ckptmigrate.optimizer` writes new data files. The exception is the table of the shapes of flattened
states, which is metadata only: `shapes` computes it if it is missing.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.metadata import CHAINED, ORIGINAL_SHAPE, SHAPES
from ckptmigrate.checkpoint.shapes import global_size, is_flattened, numbers
from ckptmigrate.optimizer.source import FLATTENED, OPTIMIZER
from ckptmigrate.pickles.tree import Object
from ckptmigrate.releases.facts import ShardingRow
from ckptmigrate.releases.readers import Reader

FLAG: Final = "--no-load-optim"
Sizes = tuple[int, int]
_IN_CONTENT: Final = "sharding-type-in-content"

# `optimizer.state.exp_avg.<parameter>`, for each of several optimizers under a prefix.
_STATE: Final = re.compile(
    r"(?P<prefix>(?:chained_\d+\.)?)optimizer\.state\.[^.]+\.(?P<parameter>.+)", re.ASCII
)


@dataclass(frozen=True)
class Problem:
    """A reason why a reader cannot load the optimizer.

    Attributes:
        error: the error that the reader raises.
        why: the reason.
        metadata_only: whether an edit of `.metadata` removes it.
        before_load: whether the job raises it before it reads `.metadata`.
    """

    error: str
    why: str
    metadata_only: bool = False
    before_load: bool = False


def flag(manifest: Manifest) -> str:
    """Return the option with which a job does not load the optimizer of a checkpoint.

    Source: Megatron-Bridge src/megatron/bridge/training/checkpointing.py
    _load_checkpoint_from_path; its checkpoints have no args.
    """
    if manifest.common.arguments is not None:
        return FLAG
    return f"{FLAG} (Megatron-Bridge: checkpoint.load_optim=False)"


def saved(manifest: Manifest) -> bool:
    """Return whether the checkpoint was saved with its optimizer: without --no-save-optim."""
    if manifest.common.arguments is None:
        return OPTIMIZER in manifest.common.values
    return not manifest.common.argument("no_save_optim")


def unsaved(manifest: Manifest) -> Problem | None:
    """Return the problem of a job of any release if the optimizer was not saved, or None.

    Source: load_checkpoint of megatron/training/checkpointing.py, core_v0.9.0 to core_v0.19.0.
    """
    if manifest.common.arguments is None or saved(manifest) or manifest.is_release:
        return None
    return Problem("KeyError: 'optimizer'", "the checkpoint was saved with --no-save-optim")


def problems(
    manifest: Manifest, reader: Reader, resized: tuple[Sizes, Sizes] | None = None
) -> list[Problem]:
    """Return the reasons why a reader cannot load the optimizer, in the order of their errors.

    Args:
        resized: the (TP, PP) sizes of the job and of the checkpoint if they differ.

    A `release` checkpoint has none, because no job loads its optimizer (load_checkpoint of
    megatron/training/checkpointing.py, core_v0.9.0 to core_v0.19.0).
    """
    if manifest.is_release:
        return []
    type_ = sharding_type(manifest)
    found = [*_of_sizes(type_, reader, resized), *_of_sharding(type_, reader)]
    # A job builds the sharded state dict before it reads a tensor, so its error is the only one.
    return found or [
        *_of_shapes(manifest, reader),
        *_of_chain(manifest, reader),
        *_of_dimension(manifest, type_, reader),
    ]


def shapes(manifest: Manifest) -> dict[str, dict[str, tuple[int, ...]]]:
    """Compute `mcore_data` from the shapes of the parameters: a row per tensor, as Megatron saves.

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
        shape = () if parameter is None else global_size(parameter)
        rows[key] = (
            {ORIGINAL_SHAPE: shape} if is_flattened(shape, global_size(entries[key])) else {}
        )
    return rows


def sharding_type(manifest: Manifest) -> str | None:
    """Return the sharding type of the distributed optimizer, or None if it is unknown.

    A save with --no-save-optim names one in content_metadata, too (core_v0.13.0, core_v0.16.0
    megatron/training/checkpointing.py save_checkpoint).
    """
    if not saved(manifest):
        return None
    for state in (manifest.common.content, *_optimizers(manifest)):
        for key in ("distrib_optim_sharding_type", "param_state_sharding_type"):
            found = (state or {}).get(key)
            if isinstance(found, str):
                return found
    return FLATTENED if _flattened(manifest) or manifest.metadata.shapes_lost else None


def _optimizers(manifest: Manifest) -> list[dict[Any, Any]]:
    """Return the states of the optimizers in the common state, one for each of several (MoE)."""
    states = manifest.common.values.get(OPTIMIZER)
    if not isinstance(states, dict):
        return []
    several = [state for state in states.values() if isinstance(state, dict)]
    return [states, *several] if _is_chain(states) else [states]


def _is_chain(states: dict[Any, Any]) -> bool:
    """Return whether there are several optimizers, which the common state has under 0, 1, ..."""
    return len(states) > 1 and {*states} == {*range(len(states))}


def _row(found: str, reader: Reader) -> ShardingRow | None:
    return next((row for row in reader.compat.optimizer_sharding if row.type == found), None)


def _of_sizes(
    found: str | None, reader: Reader, resized: tuple[Sizes, Sizes] | None
) -> list[Problem]:
    """Return the problem of a job with other TP or PP sizes than the checkpoint."""
    row = None if found is None else _row(found, reader)
    if resized is None or row is None or not row.resized_error:
        return []
    if not reader.is_in(row.releases) and reader.unread_forms(_IN_CONTENT):
        return []  # it takes the optimizer for a flattened one
    error = row.resized_error.format(job=resized[0], saved=resized[1], type=found)
    why = f"an optimizer of sharding type {found} needs the TP and PP sizes of the checkpoint"
    return [Problem(error, why, before_load=True)]


def _of_sharding(found: str | None, reader: Reader) -> list[Problem]:
    if found is None:
        return []
    row = _row(found, reader)
    if row is not None and reader.is_in(row.releases):
        return []
    if found != FLATTENED:
        taken_for_flattened = _of_form(reader, _IN_CONTENT)
        if taken_for_flattened:
            return taken_for_flattened
    error = row.error if row else f"NotImplementedError: Unknown sharding_type: {found}"
    why = f"the distributed optimizer of the release does not support the sharding type {found}"
    return [Problem(error, why, before_load=True)]


def _of_form(reader: Reader, form: str, **values: object) -> list[Problem]:
    """Return the problem with a form of compat_matrix.yaml; empty if the reader can read it."""
    return [Problem(row.error.format(**values), row.why) for row in reader.unread_forms(form)]


def _of_shapes(manifest: Manifest, reader: Reader) -> list[Problem]:
    """Return the problem with flattened states that lack the table of their shapes."""
    if not manifest.metadata.shapes_lost:
        return []
    found = _of_form(reader, "flattened-shapes-lost")
    return [Problem(each.error, each.why, metadata_only=True) for each in found]


def _of_chain(manifest: Manifest, reader: Reader) -> list[Problem]:
    """Return the problem with several optimizers (MoE) whose keys lack the `chained_N.` prefix.

    Releases up to 0.13 write the prefix. If the keys have it, every reader requests it, because
    `content_metadata`, which makes a reader omit it, is saved together with the keys.
    """
    if len(_optimizers(manifest)) < 2:
        return []
    keys = manifest.metadata.entries
    if any(CHAINED.match(key) for key in keys):
        return []
    first = next((key for key in keys if key.startswith("optimizer.")), None)
    if first is None:
        return []
    flattened = _flattened(manifest)
    if flattened:
        first = next((key for key, shape in flattened.items() if len(shape) > 1), first)
    form = "chained-without-prefix-flattened" if flattened else "chained-without-prefix"
    return _of_form(reader, form, key=f"chained_0.{first}")


def _of_dimension(manifest: Manifest, found: str | None, reader: Reader) -> list[Problem]:
    """Return the problem with flattened states of one-dimensional parameters.

    Releases store these states in one of two forms.
    """
    if found != FLATTENED:
        return []
    flattened, entries = _flattened(manifest), manifest.metadata.entries
    # Filter by key first: in a large file, each entry that is accessed is unpickled on demand.
    for key in entries:
        if len(flattened.get(key, ())) == 1:
            stored = global_size(entries[key])
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
    """Compare the chunks of a state with the chunks of its parameter.

    Returns:
        (size of the parameter's shard, size of a chunk of it), in elements, if the state has
        smaller chunks than model parallelism gives its parameter; None if it has not, or if the
        parameter is not in the checkpoint.
    """
    match = _STATE.fullmatch(key)
    parameter = entries.get(match["parameter"]) if match else None
    if parameter is None or len(global_size(entries[key])) != 1:
        return None
    whole = sorted(_pieces(parameter))
    for piece in _pieces(entries[key]):
        after = bisect_right(whole, piece)
        if not after or whole[after - 1] != piece:
            shard = next((size for offset, size in reversed(whole) if offset <= piece[0]), None)
            return None if shard is None else (shard, piece[1])
    return None


def _pieces(entry: Any) -> Iterator[tuple[int, int]]:
    """Yield (offset, size), in elements, of each chunk of a one-dimensional tensor."""
    chunks = entry.attributes.get("chunks") if isinstance(entry, Object) else None
    for chunk in chunks if isinstance(chunks, list) else ():
        if isinstance(chunk, Object):
            offsets, sizes = (numbers(chunk.attributes.get(name)) for name in ("offsets", "sizes"))
            if len(offsets) == len(sizes) == 1:
                yield offsets[0], sizes[0]


def _flattened(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Return the keys that are stored flattened: key -> shape of the parameter."""
    data = manifest.metadata.attributes.get(SHAPES)
    if not isinstance(data, dict):
        return {}
    return {
        k: numbers(v[ORIGINAL_SHAPE])
        for k, v in data.items()
        if isinstance(v, dict) and ORIGINAL_SHAPE in v
    }
