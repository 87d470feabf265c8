"""A summary of the optimizer of a checkpoint, from its metadata alone."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.optimizer import dp_zero, flattened, fully_reshardable
from ckptmigrate.optimizer.record import KEY, STATE_KEY
from ckptmigrate.optimizer.source import Source, argument

_BUCKET: Final = re.compile(r"(.+\.bucket_idx_\d+)\.\w+", re.ASCII)


@dataclass(frozen=True)
class OptimizerSummary:
    """The optimizer of a checkpoint.

    Attributes:
        type: its sharding type; None if it is not distributed.
        chained: the number of optimizers (MoE has one for the experts).
        dtypes: the dtypes of the states, without `torch.`.
        parameters: the number of parameters; None if the metadata has no names of them.
        buckets: the number of buckets of all ranks; None for a type without buckets.
        elements: the number of elements of all states; None if the metadata does not have it.
        size: the bytes of its keys in the data files.
        may_be_damaged: whether releases 0.15 to 0.19 damage it when a job with these arguments
            saves it; see `comparison`.
    """

    type: str | None
    chained: int
    dtypes: tuple[str, ...]
    parameters: int | None
    buckets: int | None
    elements: int | None
    size: int
    may_be_damaged: bool


def describe(manifest: Manifest) -> OptimizerSummary | None:
    """Return a summary of the optimizer, or None if the checkpoint has none.

    Raises:
        DamagedError: the metadata describes a tensor of the optimizer as no release does.
    """
    source = Source(manifest)
    if not source.states or not source.keys:
        return None
    types = source.types
    type_ = next(iter(types)) if len(types) == 1 else ", ".join(sorted(map(str, types)))
    tensors = [key for key in source.keys if not manifest.metadata.is_object_entry(key)]
    shapes = {key: source.shape(key) for key in tensors}
    in_model_space = type_ in (flattened.TYPE, fully_reshardable.TYPE)
    buckets = {match[1] for match in map(_BUCKET.fullmatch, tensors) if match}
    return OptimizerSummary(
        type_,
        len(source.states),
        tuple(sorted({(s.dtype or "").removeprefix("torch.") for s in shapes.values()})),
        len({_parameter(key) for key in tensors}) if in_model_space else None,
        len(buckets) or None,
        None if type_ == dp_zero.TYPE else sum(math.prod(s.size) for s in shapes.values()),
        sum(blob.length for key in source.keys for blob in source.blobs.get(key, {}).values()),
        type_ == fully_reshardable.TYPE and _has_several_buckets(source),
    )


def _parameter(key: str) -> str:
    match = KEY.fullmatch(key)
    state_key = match and STATE_KEY.fullmatch(match["rest"])
    return state_key["parameter"] if state_key else key


def _has_several_buckets(source: Source) -> bool:
    """Return whether a buffer has several buckets according to args.

    Source: core_v0.15.3, core_v0.19.0 megatron/core/distributed/param_and_grad_buffer.py: with
    overlapped gradient reduction, or a shared embedding on several pipeline stages.
    """
    given = source.manifest.common.argument
    staged = argument(source, "pipeline_model_parallel_size") > 1
    shared = given("untie_embeddings_and_output_weights") is False or given("mtp_num_layers")
    return bool(given("overlap_grad_reduce") or (staged and shared))
