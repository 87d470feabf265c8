"""The buffers of the two types that store states as one range per bucket, without names.

A buffer holds the parameters of one model parallel rank in the reverse order of registration. Each
parameter starts at a multiple of 64 elements. Source: core_v0.9.0, core_v0.15.3, core_v0.19.0
megatron/core/distributed/param_and_grad_buffer.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.checkpoint.rows import Blob
from ckptmigrate.optimizer.record import KEY, Chained
from ckptmigrate.optimizer.source import OPTIMIZER, Source, argument
from ckptmigrate.optimizer.tensors import Spans
from ckptmigrate.pickles.tree import Global

_OBJECT: Final = re.compile(
    r"distributed\.dp_group_idx_(?P<group>\d{1,9})\.(?P<name>\w+)/shard_0_1", re.ASCII
)
_OBJECTS: Final = (
    OPTIMIZER, "grad_scaler", "param_state", "per_bucket_numel", "per_bucket_numel_unpadded",
)  # fmt: skip


@dataclass(frozen=True)
class Buffer:
    """A bucket, or several buckets end to end, of one model parallel rank.

    Attributes:
        name: its key, for messages.
        chained: which of the chained optimizers it belongs to.
        group: the model parallel rank.
        dtype: the dtype of its parameters without `torch.`.
        count: the number of elements.
        states: state -> the elements of the whole buffer.
        borders: the starts of the stored pieces and the end; None if parameters and buckets have
            no stored borders.
        rank_borders: the borders that data parallel ranks make, which may be inside a parameter.
        padding: the most elements of padding after a bucket, without the alignment of parameters.
    """

    name: str
    chained: int
    group: int
    dtype: str
    count: int
    states: Mapping[str, Spans]
    borders: frozenset[int] | None = None
    rank_borders: frozenset[int] = frozenset()
    padding: int = 0


@dataclass(frozen=True)
class GroupKeys:
    """The keys of one model parallel rank.

    Attributes:
        objects: name -> key of its sharded objects.
        tensors: its other keys.
    """

    objects: dict[str, str]
    tensors: list[str]


def groups_of(source: Source) -> dict[tuple[int, int], GroupKeys]:
    """Return the keys of each chained optimizer and model parallel rank, in order.

    Raises:
        DamagedError: a key is unknown, or a model parallel rank is missing.
    """
    found: dict[tuple[int, int], GroupKeys] = {}
    for key in source.keys:
        match = KEY.fullmatch(key)
        rest = match["rest"] if match else ""
        group = re.match(r"distributed\.dp_group_idx_(\d{1,9})\.", rest, re.ASCII)
        if match is None or group is None:
            raise source.error(f"{key} is not a key that its releases write")
        place = (int(match["chain"] or 0), int(group[1]))
        keys = found.setdefault(place, GroupKeys({}, []))
        named = _OBJECT.fullmatch(rest)
        if named and named["name"] in _OBJECTS:
            keys.objects[named["name"]] = key
        else:
            keys.tensors.append(key)
    for chained in range(len(source.states)):
        ranks = sorted(group for number, group in found if number == chained)
        if not ranks or ranks != list(range(len(ranks))):
            raise source.error(f"it has the model parallel ranks {ranks}, so some are missing")
    if {chained for chained, _ in found} != set(range(len(source.states))):
        raise source.error("the keys and the common state have another number of optimizers")
    return dict(sorted(found.items()))


def chained_of(source: Source, groups: Mapping[tuple[int, int], GroupKeys]) -> tuple[Chained, ...]:
    """Return the settings of each optimizer, from the sharded objects of every rank.

    Raises:
        DamagedError: an object is missing, or the ranks have different steps.
    """
    found: dict[int, Chained] = {}
    for (chained, _), keys in groups.items():
        state: dict[str, Any] = {
            name: source.read_settings(keys.objects[name])
            for name in (OPTIMIZER, "grad_scaler")
            if name in keys.objects
        }
        own = source.chained(state)
        first = found.setdefault(chained, own)
        known = [_identity(group) for group in first.groups]
        added = tuple(group for group in own.groups if _identity(group) not in known)
        found[chained] = Chained((*first.groups, *added), first.grad_scaler)
        steps = {str(group["step"]) for group in found[chained].groups if "step" in group}
        if len(steps) > 1:
            raise source.error(f"its param_groups have different steps: {', '.join(sorted(steps))}")
    return tuple(found.values())


def _identity(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what distinguishes a param_group from the others."""
    names = ("wd_mult", "lr_mult", "is_expert_parallel", "is_decoupled_lr", "default_config")
    return tuple(group.get(name) for name in (*names, "max_lr", "min_lr", "weight_decay"))


def dtype_of(value: Any) -> str:
    """Return a pickled dtype without `torch.`; empty for another value."""
    path = value.path if isinstance(value, Global) else value
    return path.removeprefix("torch.") if isinstance(path, str) else ""


def blob_of(source: Source, key: str) -> Blob:
    """Return the place of a sharded object.

    Raises:
        DamagedError: it has no bytes.
    """
    blob = source.manifest.metadata.blobs.get(key)
    if blob is None:
        raise source.error(f"{key} has no bytes in storage_data")
    return blob


def data_parallel(source: Source, chained: int) -> int:
    """Return the number of ranks that share a buffer, according to args."""
    if chained and source.is_chained:
        world = argument(source, "world_size")
        pipeline = argument(source, "pipeline_model_parallel_size")
        tensor = argument(source, "tensor_model_parallel_size")
        expert_tensor = argument(source, "expert_tensor_parallel_size", tensor)
        return world // (expert_tensor * argument(source, "expert_model_parallel_size") * pipeline)
    return argument(source, "data_parallel_size") * argument(source, "context_parallel_size")
