"""Type `dp_zero_gather_scatter`: a sharded object per model parallel rank, with all its states.

The buckets of a buffer are end to end, without padding at their ends, and without borders. Source:
core_v0.9.0, core_v0.14.0 megatron/core/optimizer/distrib_optimizer.py
get_parameter_state_dp_zero, sharded_param_state_dp_zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from ckptmigrate.errors import DamagedError
from ckptmigrate.optimizer import naming, tensors
from ckptmigrate.optimizer.buffers import (
    Buffer,
    GroupKeys,
    blob_of,
    data_parallel,
    dtype_of,
)
from ckptmigrate.optimizer.record import PARAM, STATES, OptimizerRecord
from ckptmigrate.optimizer.source import DP_ZERO, Source, has_shared_embedding
from ckptmigrate.optimizer.tensors import Span

TYPE = DP_ZERO
COMPARES = True
_PARAM_STATE: Final = "param_state"
_COALESCED: Final = "buckets_coalesced"
_COUNT: Final = "numel_unpadded"


def read(source: Source) -> OptimizerRecord:
    """Read the optimizer; raises as `dp_reshardable.read`."""
    return naming.read(source, _buffers)


def _buffers(source: Source, chained: int, group: int, keys: GroupKeys) -> Iterator[Buffer]:
    key = keys.objects.get(_PARAM_STATE)
    if key is None or keys.tensors:
        raise source.error(f"dp_group_idx_{group} has no {_PARAM_STATE}, or other keys with it")
    blob = blob_of(source, key)
    try:
        tree, outlined = tensors.outline(source.manifest.directory, blob)
    except DamagedError as error:
        raise source.error(f"{key} {error.reason}") from error
    content = tree[0] if isinstance(tree, list) and len(tree) == 1 else None
    if not isinstance(content, dict) or content.get(_COALESCED) is not True:
        raise source.error(f"{key} is not the coalesced state of a rank")
    padding = _padding(source, chained)
    for index, by_dtype in content.items():
        if index == _COALESCED:
            continue
        if type(index) is not int or not isinstance(by_dtype, dict):
            raise source.error(f"{key} is not the coalesced state of a rank")
        for dtypes, states in by_dtype.items():
            if not (isinstance(dtypes, tuple) and len(dtypes) == 2 and isinstance(states, dict)):
                raise source.error(f"{key} has no states by dtype")
            unknown = [str(name) for name in states if name not in (*STATES, _COUNT)]
            if unknown or PARAM not in states:
                raise source.error(f"{key} has unknown states: {', '.join(unknown) or 'no param'}")
            try:
                views = {
                    name: tensors.view_of(states[name], outlined, blob)
                    for name in STATES
                    if name in states
                }
            except DamagedError as error:
                raise source.error(f"{key} {error.reason}") from error
            count = views[PARAM].count
            if states.get(_COUNT) != count or any(v.shape != (count,) for v in views.values()):
                raise source.error(f"{key} has tensors that do not have {_COUNT} elements")
            spans = {name: (Span(view, 0, view.count),) for name, view in views.items()}
            name, dtype = f"{key} gbuf_idx_{index}", dtype_of(dtypes[0])
            yield Buffer(name, chained, group, dtype, count, spans, padding=padding)


def _padding(source: Source, chained: int) -> int:
    """Return the most elements of padding that a bucket is stored with, which is mostly none.

    Up to 0.12, the bucket before a shared embedding may be stored with its padding
    (core_v0.9.0, core_v0.12.0 megatron/core/distributed/param_and_grad_buffer.py).
    """
    given = source.manifest.common.argument
    if source.manifest.common.content is not None or not has_shared_embedding(source):
        return 0
    wide = 2**16 if given("ddp_pad_buckets_for_high_nccl_busbw") else 1
    return math.lcm(data_parallel(source, chained), 128, wide)
