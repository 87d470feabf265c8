"""Saves and loads of a checkpoint with its optimizer, as the training of a release does them.

They follow save_checkpoint, generate_state_dict and load_checkpoint in
megatron/training/checkpointing.py of core_v0.9.0 to core_v0.16.1.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing import serialization
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelSaveStrategyWrapper,
)
from training_job import loading, saving
from training_job.release import RELEASE

from .training import OptimizerJob, Training

FLATTENED, GATHERED = "fully_sharded_model_space", "dp_zero_gather_scatter"
BY_BUCKET, BY_PARAMETER = "dp_reshardable", "fully_reshardable"
# Those whose TP and PP sizes a load may change.
_RESHARDABLE = {FLATTENED, BY_PARAMETER} if RELEASE >= (0, 15) else {FLATTENED}


def save(
    job: OptimizerJob, rank: int, training: Training, rerun: Any, path: str, iteration: int
) -> None:
    """Save a checkpoint with a rerun state in a root with a tracker file."""
    sharding_type = job.sharding_type or (BY_BUCKET if RELEASE >= (0, 15) else FLATTENED)
    content: dict[str, Any] = {}
    if job.use_distributed_optimizer:
        content["distrib_optim_sharding_type"] = sharding_type
    if RELEASE >= (0, 14):
        content |= {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}
    if sharding_type == BY_PARAMETER:
        content["distrib_optim_fully_reshardable_mem_efficient"] = False
    state = {**common_state(job, sharding_type), "iteration": iteration}
    state |= sharded(training, content, is_loading=False, optimizer=not job.no_save_optim)
    state["rng_state"] = rng_state(job, rank)
    if rerun:
        state["rerun_state_machine"] = rerun
    strategy = serialization.get_default_save_sharded_strategy("torch_dist", 1)
    if sharding_type != GATHERED:  # GATHERED is what --no-ckpt-fully-parallel-save leads to
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        strategy = FullyParallelSaveStrategyWrapper(strategy, group, False)
    if rank == 0:
        Path(path).mkdir(parents=True)
    torch.distributed.barrier()
    options = {"content_metadata": content} if RELEASE >= (0, 13) else {}
    dist_checkpointing.save(state, path, strategy, **options)
    torch.distributed.barrier()
    if rank == 0:
        tracker = Path(path).parent / "latest_checkpointed_iteration.txt"
        tracker.write_text(str(iteration))


def load(
    job: OptimizerJob, rank: int, training: Training, machine: Any, outcome: dict[str, Any]
) -> int:
    """Resume from a checkpoint, and return its iteration.

    Raises:
        RuntimeError: the optimizer cannot be loaded with other TP or PP sizes.
    """
    outcome["stage"] = "common state"
    common = serialization.load_common_state_dict(job.checkpoint)
    args = common["args"]

    outcome["stage"] = "template"
    content = common.get("content_metadata") if RELEASE >= (0, 13) else None
    if content is None and "optimizer" not in common:
        content = {}
    if content is None:
        content = {"distrib_optim_sharding_type": sharding_type_without_content(common)}
    sharding_type = content.get("distrib_optim_sharding_type", FLATTENED)
    sizes = args.tensor_model_parallel_size, args.pipeline_model_parallel_size
    loads = not (job.no_load_optim or getattr(args, "no_save_optim", False))
    if loads and sizes != job.model_parallel and sharding_type not in _RESHARDABLE:
        raise RuntimeError(
            f"(TP, PP) mismatch after resume ({job.model_parallel} vs {sizes} from checkpoint): "
            f"not supported for DistributedOptimizer with sharding type {sharding_type}."
        )
    template = sharded(training, content, is_loading=True, optimizer=loads)
    if sizes == job.model_parallel:
        template["rng_state"] = rng_state(job, rank)
    rerun = loading.rerun_template(job, machine, common)
    if rerun is not None:
        template[loading.RERUN] = rerun

    outcome["stage"] = "load"
    strategy = serialization.get_default_load_sharded_strategy(job.checkpoint)
    state = dist_checkpointing.load(template, job.checkpoint, strategy, strict=job.strictness)
    training.model.load_state_dict(state["model"])
    if not job.no_load_optim:
        # With fp32 weights the optimizer updates views of them, which autograd protects.
        with torch.no_grad():
            training.optimizer.load_state_dict(state["optimizer"])
        training.scheduler.load_state_dict(state["opt_param_scheduler"])
    elif job.bf16:
        training.optimizer.reload_model_params()
    if machine is not None:
        loading.restore(machine, state, requested=rerun is not None)
    return int(state["iteration"])


def sharding_type_without_content(common: dict[str, Any]) -> str:
    """Return the sharding type of a checkpoint that has no content_metadata for this release."""
    if RELEASE < (0, 13):
        state = common["optimizer"]
        for each in (state, *state.values()):
            if isinstance(each, dict) and "param_state_sharding_type" in each:
                if each["param_state_sharding_type"] == "fully_sharded_bucket_space":
                    return "fully_sharded_bucket_space"
                break
    return FLATTENED if getattr(common["args"], "ckpt_fully_parallel_save", False) else GATHERED


def sharded(
    training: Training, content: dict[str, Any], *, is_loading: bool, optimizer: bool
) -> dict[str, Any]:
    """Return the sharded state dict of the model and the optimizer, and the scheduler's.

    Args:
        optimizer: whether the job saves or loads the optimizer, and the scheduler with it.
    """
    if RELEASE >= (0, 13):
        state = {"model": training.model.sharded_state_dict(metadata=dict(content))}
        options: dict[str, Any] = {"metadata": dict(content)}
    else:
        state = {"model": training.model.sharded_state_dict()}
        distributed = optimizer and training.job.use_distributed_optimizer
        options = {"sharding_type": content["distrib_optim_sharding_type"]} if distributed else {}
    if not optimizer:
        return state
    state["optimizer"] = training.optimizer.sharded_state_dict(
        state, is_loading=is_loading, **options
    )
    state["opt_param_scheduler"] = training.scheduler.state_dict()
    return state


def rng_state(job: OptimizerJob, rank: int) -> ShardedObject:
    """Return the RNG states; with experts, 0.16 saves those of every data parallel rank."""
    entry = saving.rng_state(rank)
    if RELEASE != (0, 16) or job.expert_parallel == 1:
        return entry
    sizes = parallel_state.get_data_parallel_world_size(with_context_parallel=True)
    return replace(
        entry,
        global_shape=(*entry.global_shape, sizes),
        global_offset=(*entry.global_offset, entry.replica_id),
        replica_id=0,
    )


def common_state(job: OptimizerJob, sharding_type: str) -> dict[str, Any]:
    """Return the common state, with the args that describe the optimizer and the model."""
    common = saving.common_state(job, "validate_results")
    vars(common["args"]).update(
        use_distributed_optimizer=job.use_distributed_optimizer,
        ckpt_fully_parallel_save=sharding_type != GATHERED,
        ckpt_format="torch_dist",
        no_save_optim=job.no_save_optim or None,
        no_save_rng=None,
        overlap_grad_reduce=job.bucket_size is not None,
        ddp_bucket_size=job.bucket_size,
        expert_model_parallel_size=job.expert_parallel,
        num_layers=job.layers,
        hidden_size=job.hidden,
        num_attention_heads=4,
        num_experts=job.experts or None,
        swiglu=job.swiglu,
        untie_embeddings_and_output_weights=not job.tied_embedding,
        bf16=job.bf16,
        fp16=job.fp16,
        params_dtype=job.dtype,
        optimizer="adam",
        num_distributed_optimizer_instances=1,
    )
    if RELEASE >= (0, 15):
        common["args"].dist_ckpt_optim_fully_reshardable = sharding_type == BY_PARAMETER
    return {**common, "num_floating_point_operations_so_far": 0}
