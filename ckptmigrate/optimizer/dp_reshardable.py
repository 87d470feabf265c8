"""Type `dp_reshardable`: a key per bucket and state, cut at parameters and data parallel ranks.

Source: core_v0.15.3, core_v0.19.0 megatron/core/optimizer/distrib_optimizer.py
sharded_param_state_dp_reshardable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from ckptmigrate.optimizer import naming
from ckptmigrate.optimizer.buffers import (
    Buffer,
    GroupKeys,
    data_parallel,
    dtype_of,
)
from ckptmigrate.optimizer.record import KEY, PARAM, STATES, OptimizerRecord
from ckptmigrate.optimizer.source import DP_RESHARDABLE, Source
from ckptmigrate.optimizer.tensors import Numbers, Spans

TYPE = DP_RESHARDABLE
COMPARES = True
_BUCKET: Final = re.compile(
    r"distributed\.dp_group_idx_\d{1,9}\.gbuf_idx_(?P<buffer>\d{1,9})"
    r"\.dtype_\(torch\.(?P<param>\w+), torch\.(?P<grad>\w+)\)"
    r"\.bucket_idx_(?P<bucket>\d{1,9})\.(?P<state>\w+)",
    re.ASCII,
)
# Buffer, dtype of parameters and of gradients, bucket.
_Place = tuple[int, str, str, int]


def read(source: Source) -> OptimizerRecord:
    """Read the optimizer.

    Raises:
        DamagedError: a bucket is incomplete, or its elements match no weight.
        RefusedError: the names of parameters cannot be found with certainty.
    """
    return naming.read(source, _buffers)


def _buffers(source: Source, chained: int, group: int, keys: GroupKeys) -> Iterator[Buffer]:
    found: dict[_Place, dict[str, str]] = {}
    for key in keys.tensors:
        match = KEY.fullmatch(key)
        bucket = _BUCKET.fullmatch(match["rest"]) if match else None
        if bucket is None:
            raise source.error(f"{key} is not a key that its releases write")
        if bucket["state"] not in STATES:
            raise source.error(f"{key} is the state {bucket['state']}, which is unknown")
        place = (int(bucket["buffer"]), bucket["param"], bucket["grad"], int(bucket["bucket"]))
        found.setdefault(place, {})[bucket["state"]] = key
    unpadded = _numbers(source, keys, "per_bucket_numel_unpadded")
    padded = _numbers(source, keys, "per_bucket_numel")
    if not found.keys() == unpadded.keys() == padded.keys():
        raise source.error(
            f"dp_group_idx_{group} has {len(found)} buckets, and its per_bucket_numel "
            f"{len(padded)} and per_bucket_numel_unpadded {len(unpadded)}, or others"
        )
    states = {frozenset(by_state) for by_state in found.values()}
    if len(states) > 1 or not all(PARAM in each for each in states):
        raise source.error(f"the buckets of dp_group_idx_{group} have different states")
    for place, by_state in sorted(found.items()):
        yield _buffer(source, (chained, group), place, by_state, (unpadded[place], padded[place]))


def _buffer(
    source: Source,
    group: tuple[int, int],
    place: _Place,
    keys: dict[str, str],
    sizes: tuple[int, int],
) -> Buffer:
    count, padded = sizes
    spans: dict[str, Spans] = {}
    borders: set[frozenset[int]] = set()
    for state, key in keys.items():
        shape = source.shape(key)
        if shape.size != (count,):
            raise source.error(
                f"{key} has the shape {shape.size}, and per_bucket_numel_unpadded says {count}"
            )
        end = 0
        pieces = []
        for (first,), (some,) in sorted(shape.chunks):
            if first != end:
                raise source.error(f"{key} has a hole or an overlap at element {end}")
            pieces.append(source.span(key, source.blobs[key][(first,)], (some,)))
            end += some
        if end != count:
            raise source.error(f"{key} has {end} of {count} elements")
        spans[state] = tuple(pieces)
        starts: Numbers = tuple(first for (first,), _ in shape.chunks)
        borders.add(frozenset((*starts, count)))
    if len(borders) > 1:
        raise source.error(f"the states of {keys[PARAM]} are cut in different ways")
    (cuts,) = borders
    ranks = data_parallel(source, group[0])
    local = padded // ranks
    cuts_of_ranks = frozenset(range(0, count, local)) if local else frozenset()
    if padded % ranks or padded < count or not cuts_of_ranks <= cuts:
        raise source.error(
            f"{keys[PARAM]} is not cut at every {padded} / {ranks} elements, as {ranks} data "
            "parallel ranks cut it"
        )
    return Buffer(
        keys[PARAM].removesuffix(f".{PARAM}"), *group, place[1], count, spans, cuts, cuts_of_ranks
    )


def _numbers(source: Source, keys: GroupKeys, name: str) -> dict[_Place, int]:
    """Return the number of elements of each bucket, as a sharded object states it."""
    if name not in keys.objects:
        raise source.error(f"it has no {name}")
    found: dict[_Place, int] = {}
    try:
        buffers: Any = source.read_object(keys.objects[name])
        for index, by_dtype in enumerate(buffers):
            for (param, grad), sizes in by_dtype.items():
                for bucket, size in enumerate(sizes):
                    if type(size) is not int or not 0 < size < 2**63:
                        raise ValueError(size)
                    found[index, dtype_of(param), dtype_of(grad), bucket] = size
    except (TypeError, ValueError, AttributeError) as error:
        raise source.error(f"{keys.objects[name]} is not a list of numbers by dtype") from error
    return found
