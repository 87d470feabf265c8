"""Saves of a checkpoint as save_checkpoint does them, with a small synthetic model."""

from __future__ import annotations

import argparse
import math
import signal
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
from megatron.core.transformer import enums

from .release import RELEASE, TrainingJob, fit_in, rerun_state_machine, start_machine, start_ranks
from .stepping import fail

ITERATION = 5


def save(job: TrainingJob, rank: int, store: str, outcome: dict[str, Any]) -> None:
    """Save a checkpoint as one rank, in a new root with a tracker file.

    Follows save_checkpoint and generate_state_dict in megatron/training/checkpointing.py of
    core_v0.9.0, core_v0.10.0, core_v0.12.0 and core_v0.14.0. The scenarios: `idle`; `disabled`,
    with reruns disabled; `fault`, after a step whose result the last rank rejected twice.

    Args:
        store: a file where the ranks meet.
        outcome: filled after each step, so that it shows in which step a save fails.
    """
    fit_in()
    start_ranks(job, rank, store)
    mode = "disabled" if job.save == "disabled" else "validate_results"
    machine, iterator = start_machine(mode), None
    if machine is not None:
        machine.current_iteration = ITERATION
    if job.save == "fault":
        machine.current_iteration = ITERATION - 2  # `fail` runs two steps
        iterator = fail(machine, rank, failing=rank == job.world_size - 1)

    outcome["stage"] = "save"
    state_dict = {**common_state(job, mode), **model(), "rng_state": rng_state(rank)}
    rerun_state = rerun(machine, iterator)
    if rerun_state:
        state_dict["rerun_state_machine"] = rerun_state
    if rank == 0:
        Path(job.checkpoint).mkdir(parents=True)
    torch.distributed.barrier()
    options = {}
    if RELEASE >= (0, 13):
        flags = {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}
        options["content_metadata"] = flags if RELEASE >= (0, 14) else {}
    dist_checkpointing.save(state_dict, job.checkpoint, **options)
    torch.distributed.barrier()
    if rank == 0:
        tracker = Path(job.checkpoint).parent / "latest_checkpointed_iteration.txt"
        tracker.write_text(str(ITERATION))
    outcome["stage"] = "done"


def rerun(machine: Any, iterator: Any) -> Any:
    """Return the rerun state as this release saves it; None for none."""
    if machine is None:
        return None
    if RELEASE < (0, 12):
        return machine.state_dict(iterator, use_dist_ckpt=True)
    return machine.state_dict(iterator, ckpt_format="torch_dist")


def common_state(job: TrainingJob, mode: str) -> dict[str, Any]:
    """Return the common state: the arguments that a load reads, and the globals in them."""
    args = argparse.Namespace(
        tensor_model_parallel_size=job.tensor_parallel,
        pipeline_model_parallel_size=job.pipeline_parallel,
        context_parallel_size=job.context_parallel,
        data_parallel_size=job.data_parallel,
        world_size=job.world_size,
        use_tp_pp_dp_mapping=False,
        params_dtype=torch.float32,
    )
    if rerun_state_machine is not None:
        args.rerun_mode = mode
    if RELEASE >= (0, 11):
        args.attention_backend = enums.AttnBackend.auto
    if RELEASE >= (0, 16):
        args.exit_signal = signal.Signals.SIGTERM
    return {"args": args, "checkpoint_version": 3.0, "iteration": ITERATION}


def rng_state(rank: int) -> ShardedObject:
    """Return the RNG states, one per (PP, TP) rank, saved by data parallel rank 0."""
    return ShardedObject(
        "rng_state",
        [{"torch_rng_state": torch.arange(rank, rank + 4)}],
        (
            parallel_state.get_pipeline_model_parallel_world_size(),
            parallel_state.get_tensor_model_parallel_world_size(),
        ),
        (
            parallel_state.get_pipeline_model_parallel_rank(),
            parallel_state.get_tensor_model_parallel_rank(),
        ),
        replica_id=parallel_state.get_data_parallel_rank(with_context_parallel=True),
    )


def model() -> dict[str, ShardedTensor]:
    """Return a layer per pipeline stage, split over the tensor parallel ranks, with Adam state."""
    pipeline = parallel_state.get_pipeline_model_parallel_rank()
    tensor = parallel_state.get_tensor_model_parallel_rank()
    parts = parallel_state.get_tensor_model_parallel_world_size()
    replica = parallel_state.get_data_parallel_rank(with_context_parallel=True)
    tensors = {}
    for number, what in enumerate(("", "optimizer.state.exp_avg.")):
        key = f"{what}decoder.layers.{pipeline}.mlp.linear_fc1.weight"
        whole = values(8 * parts * 4, seed=1 + 10 * number + pipeline).view(8 * parts, 4)
        tensors[key] = ShardedTensor.from_rank_offsets(
            key, whole.chunk(parts)[tensor].clone(), (0, tensor, parts), replica_id=(0, 0, replica)
        )
        key = f"{what}decoder.final_layernorm.weight"
        tensors[key] = ShardedTensor.from_rank_offsets(
            key, values(5, seed=100 + number), replica_id=(pipeline, tensor, replica)
        )
    return tensors


def values(count: int, seed: int) -> torch.Tensor:
    """Return `count` different numbers, one of which is NaN."""
    found = torch.sin(torch.arange(count, dtype=torch.float32) * seed)
    found[seed % count] = math.nan
    return found
