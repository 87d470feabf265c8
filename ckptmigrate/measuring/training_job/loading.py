"""Loads of a checkpoint as load_checkpoint does them, with their outcome."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import serialization
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from .output import held, told_entries
from .release import (
    RELEASE,
    TrainingJob,
    fit_in,
    resolve_foreign_symbols,
    start_machine,
    start_ranks,
)
from .stepping import resume

RERUN = "rerun_state_machine"
RERUN_KEYS = "rerun_state_machine_state/"


def take(job: TrainingJob, rank: int, store: str, outcome: dict[str, Any]) -> None:
    """Resume from a checkpoint as one rank, and fill its outcome.

    Follows load_checkpoint in megatron/training/checkpointing.py of core_v0.9.0, core_v0.10.0,
    core_v0.12.0 and core_v0.14.0, from its first call to dist_checkpointing on. There is no model
    and no optimizer: every tensor and object is requested whole, by its key.

    Args:
        store: a file where the ranks meet.
        outcome: filled after each step, so that it shows in which step a load fails.
    """
    fit_in()
    if job.resolve_foreign_symbols:
        resolve_foreign_symbols()
    start_ranks(job, rank, store)
    machine = start_machine()

    outcome["stage"] = "common state"
    common = dist_checkpointing.load_common_state_dict(job.checkpoint)
    outcome["iteration"] = common["iteration"]

    outcome["stage"] = "load"
    template: dict[str, Any] = {"entries": whole_entries(job, rank)}
    rerun_state = rerun_template(job, machine, common)
    outcome["requested"] = rerun_keys(rerun_state)
    if rerun_state is not None:
        template[RERUN] = rerun_state
    strategy = serialization.get_default_load_sharded_strategy(job.checkpoint)
    state_dict = dist_checkpointing.load(template, job.checkpoint, strategy, strict=job.strictness)
    outcome["tensors"], outcome["objects"] = told_entries(state_dict["entries"])

    outcome["stage"] = "rerun state"
    if machine is not None:
        restore(machine, state_dict, requested=rerun_state is not None)
        outcome["machine"] = held(machine)
        if job.step:
            outcome["stage"] = "step"
            outcome["resumed"] = resume(machine, rank)
    outcome["stage"] = "done"


def rerun_template(job: TrainingJob, machine: Any, common: dict[str, Any]) -> Any:
    """Return the rerun state that the job requests by the rule of this release; None for none."""
    if machine is None:
        return None
    args = common["args"]
    if (args.tensor_model_parallel_size, args.pipeline_model_parallel_size) != job.model_parallel:
        return None
    if RELEASE < (0, 12):
        return machine.state_dict(data_iterator=None, use_dist_ckpt=True)
    if RERUN not in common:
        return None
    if RELEASE < (0, 14):
        return machine.state_dict(data_iterator=None, ckpt_format="torch_dist")
    same_ranks = (args.world_size, args.data_parallel_size) == (job.world_size, job.data_parallel)
    if not (same_ranks and machine.validate_state_dict(common[RERUN])):
        return None
    return machine.state_dict(data_iterator=None, ckpt_format="torch_dist", force=True)


def restore(machine: Any, state_dict: dict[str, Any], *, requested: bool) -> None:
    """Load the rerun state into the machine; since 0.14 only if the job requested it."""
    if RERUN in state_dict and (requested or RELEASE < (0, 14)):
        machine.load_state_dict(state_dict[RERUN])


def rerun_keys(rerun_state: Any) -> list[str]:
    """Return the keys of the sharded objects in a rerun template."""
    parts = rerun_state.values() if isinstance(rerun_state, dict) else [rerun_state]
    return [part.unique_key for part in parts if isinstance(part, ShardedObject)]


def whole_entries(job: TrainingJob, rank: int) -> dict[str, Any]:
    """Return a template for every tensor and object of a checkpoint except the rerun shards.

    Every rank requests all of them. With these replica ids, rank 0 is the main replica of each, so
    that the integrity check of the load finds each shard accessed once, as in a real job.

    Flattened optimizer states are requested in the shape of the parameter, as a job requests them.
    With `stored_shapes` they are ordinary tensors with the stored shape.
    """
    entries = serialization.load_sharded_metadata(job.checkpoint)
    if job.stored_shapes:
        entries.update(stored_tensors(job.checkpoint))
    return {
        key: replace(entry, replica_id=rank)
        for key, entry in entries.items()
        if not key.startswith((RERUN_KEYS, *(["optimizer."] if job.no_load_optim else [])))
    }


def stored_tensors(checkpoint: str) -> dict[str, ShardedTensor]:
    """Return templates for the tensors of a checkpoint with the shapes of `.metadata`."""
    stored = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    return {
        key: ShardedTensor.from_rank_offsets(
            key, torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
        ).without_data()
        for key, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata)
    }
