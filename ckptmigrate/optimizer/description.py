"""A summary of the optimizer of a checkpoint, from its metadata alone."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.shapes import size_and_dtype
from ckptmigrate.optimizer import hashing
from ckptmigrate.optimizer.record import KEY
from ckptmigrate.optimizer.source import (
    DP_ZERO,
    FULLY_RESHARDABLE,
    Source,
    has_shared_embedding,
)
from ckptmigrate.optimizer.tensors import ITEM_SIZES

_BUCKET: Final = re.compile(r"(.+\.bucket_idx_\d+)\.\w+", re.ASCII)
_LAYER_WISE: Final = ("dist_muon", "muon")  # --optimizer


@dataclass(frozen=True)
class OptimizerSummary:
    """The optimizer of a checkpoint.

    Attributes:
        type: its sharding type; None if it is not distributed, or mixes sharding types.
        kind: its sharding type, or what it is instead, in words.
        chained: the number of optimizers (MoE has one for the experts).
        dtypes: the dtypes of the states, without `torch.`.
        parameters: the number of parameters; None if the metadata has no names of them.
        buckets: the number of buckets of all ranks; None if the metadata does not have it.
        elements: the number of elements of all states; None if the metadata does not have it.
        size: the bytes of its elements, and of its sharded objects in the data files.
    """

    type: str | None
    kind: str
    chained: int
    dtypes: tuple[str, ...]
    parameters: int | None
    buckets: int | None
    elements: int | None
    size: int


def describe(manifest: Manifest) -> OptimizerSummary | None:
    """Return a summary of the optimizer, or None if the checkpoint has none.

    Raises:
        DamagedError: the metadata describes a tensor of the optimizer as no release does.
    """
    source = Source(manifest)
    if not source.states or not source.keys:
        return None
    type_ = next(iter(source.types)) if len(source.types) == 1 else None
    tensors = [key for key in source.keys if not manifest.metadata.is_object_entry(key)]
    elements: dict[str, int] = defaultdict(int)  # by dtype
    for key in tensors:
        shape, dtype = size_and_dtype(manifest.metadata.entries[key])
        elements[(dtype or "").removeprefix("torch.")] += math.prod(shape)
    stored = sum(blob.length for key, blob in manifest.metadata.blobs.items() if KEY.fullmatch(key))
    states = (key.partition("optimizer.state.")[2] for key in tensors)
    names = {state.partition(".")[2] for state in states if state}
    buckets = {match[1] for match in map(_BUCKET.fullmatch, tensors) if match}
    return OptimizerSummary(
        type_,
        kind(source),
        len(source.states),
        tuple(sorted(elements)) or ((hashing.MAIN,) if type_ == DP_ZERO else ()),
        len(names) or None,
        len(buckets) or None,
        sum(elements.values()) if tensors else None,
        stored + sum(count * ITEM_SIZES.get(dtype, 1) for dtype, count in elements.items()),
    )


def kind(source: Source) -> str:
    """Return the sharding type, or a description of an optimizer without one or with several."""
    layer_wise = source.manifest.common.argument("optimizer") in _LAYER_WISE
    without = "layer-wise (Muon)" if layer_wise else "not distributed"
    kinds = sorted(each or without for each in source.types)
    if len(kinds) > 1:
        return f"a mixture of {' and '.join(kinds)}"
    return kinds[0] if kinds else "unknown"


def may_be_damaged(manifest: Manifest) -> bool:
    """Return whether releases 0.15 to 0.19 damage this optimizer when they save it.

    They do so only if a gradient buffer has several buckets; see `has_several_buckets`.
    """
    return FULLY_RESHARDABLE in Source(manifest).types


def has_several_buckets(manifest: Manifest) -> bool | None:
    """Return whether a buffer has several buckets according to args; None if there are no args.

    Source: core_v0.15.3, core_v0.19.0 megatron/core/distributed/param_and_grad_buffer.py: with
    overlapped gradient reduction, or a shared embedding on several pipeline stages.
    """
    if manifest.common.arguments is None:
        return None
    overlapped = bool(manifest.common.argument("overlap_grad_reduce"))
    return overlapped or has_shared_embedding(Source(manifest))
