"""The sharding types that can be read, one module each, and the names of those that cannot.

Every module has the same interface: TYPE is the name in `param_state_sharding_type`, COMPARES
whether reading compares the main parameters with the weights, and `read(source)` returns the
OptimizerRecord. `flattened` and `fully_reshardable` also have `write`.
"""

from __future__ import annotations

from typing import Final, Protocol

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.errors import DamagedError, RefusedError
from ckptmigrate.optimizer import dp_reshardable, dp_zero, flattened, fully_reshardable
from ckptmigrate.optimizer.record import OptimizerRecord
from ckptmigrate.optimizer.source import BUCKET_SPACE, CONTENT_TYPE, Source, argument


class ShardingType(Protocol):
    """The interface of a module that reads one sharding type."""

    TYPE: str
    COMPARES: bool

    def read(self, source: Source) -> OptimizerRecord: ...


TYPES: Final[tuple[ShardingType, ...]] = (
    flattened,
    fully_reshardable,
    dp_reshardable,
    dp_zero,
)


def recognise(source: Source) -> ShardingType:
    """Return the type of a distributed optimizer, after the checks that need no tensor.

    Raises:
        RefusedError: the optimizer is not distributed, or is of a kind that cannot be converted.
        DamagedError: the common state and the keys contradict each other.
    """
    _check_kind(source)
    (found,) = source.types
    known = next((each for each in TYPES if found == each.TYPE), None)
    if known is None:
        raise source.refusal(f"it has the sharding type {found}, which cannot be converted")
    named = (source.manifest.common.content or {}).get(CONTENT_TYPE, found)
    if named != found:
        raise source.error(f"content_metadata names the sharding type {named}, it has {found}")
    return known


def is_convertible(manifest: Manifest) -> bool:
    """Return whether the optimizer of a checkpoint is of a kind that can be converted."""
    try:
        recognise(Source(manifest))
    except (DamagedError, RefusedError):
        return False
    return True


def _check_kind(source: Source) -> None:
    if any(key.startswith("mimo.") for key in source.manifest.metadata.entries):
        raise source.refusal("it is that of a MIMO model, which cannot be converted")
    if not source.states or not source.keys:
        raise source.refusal("the checkpoint has none")
    if None in source.types:
        kind = "partly " if len(source.types) > 1 else ""
        raise source.refusal(
            f"it is {kind}not distributed (as without --use-distributed-optimizer, with Muon or "
            "another layer-wise optimizer)",
            fix="keep it: every release reads this form",
        )
    if len(source.types) > 1:
        raise source.refusal(f"it mixes sharding types: {', '.join(map(str, source.types))}")
    if source.types == {BUCKET_SPACE}:
        raise source.refusal(f"no release since 0.9 writes its sharding type, {BUCKET_SPACE}")
    instances = argument(source, "num_distributed_optimizer_instances")
    if instances > 1:
        raise source.refusal(f"it has {instances} distributed optimizer instances")
    for name, option in (
        ("use_precision_aware_optimizer", "--use-precision-aware-optimizer"),
        ("optimizer_cpu_offload", "--optimizer-cpu-offload"),
        ("fp8_param_gather", "--fp8-param-gather"),
        ("use_megatron_fsdp", "--use-megatron-fsdp"),
        ("use_custom_fsdp", "--use-custom-fsdp"),
    ):
        if source.manifest.common.argument(name):
            raise source.refusal(f"a job with {option} wrote it, which cannot be converted")
