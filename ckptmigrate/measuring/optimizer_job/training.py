"""A GPT model, tiny by default, with the distributed optimizer of a release."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.transformer import TransformerConfig
from training_job import release

from .formula import LR, STATES, STEP, WEIGHT_DECAY, values


@dataclass(frozen=True)
class OptimizerJob(release.TrainingJob):
    """A training job with a distributed optimizer.

    Attributes:
        steps: how many steps the optimizer of the checkpoint was trained from the formula on.
        train: how many steps the job trains after it started or resumed.
        again: the directory of the iteration that it saves after these steps; empty for none.
        bucket_size: --ddp-bucket-size with --overlap-grad-reduce; None without both.
        sharding_type: that of a save, by default the default of the release.
        use_distributed_optimizer: whether data parallel ranks share the optimizer.
        bf16, swiglu, tied_embedding: the options of the model.
        experts: the number of experts; 0 for a dense model.
        no_save_optim: whether the job runs with --no-save-optim.
        layers, hidden: the number of layers, and the hidden size of the model.
    """

    steps: int = 0
    train: int = 0
    again: str = ""
    bucket_size: int | None = None
    sharding_type: str = ""
    use_distributed_optimizer: bool = True
    bf16: bool = False
    swiglu: bool = False
    tied_embedding: bool = False
    experts: int = 0
    no_save_optim: bool = False
    layers: int = 2
    hidden: int = 16

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the weights."""
        return torch.bfloat16 if self.bf16 else torch.float32


@dataclass(frozen=True)
class OptimizerShard:
    """The elements of one parameter whose optimizer states are on this rank.

    Attributes:
        key: the stored name of the parameter.
        param: the parameter.
        index: their indices in the global tensor.
        main: the fp32 elements that the optimizer updates.
        states: their exp_avg and exp_avg_sq, by name.
    """

    key: str
    param: torch.nn.Parameter
    index: torch.Tensor
    main: torch.Tensor
    states: dict[str, torch.Tensor]

    def held(self) -> list[torch.Tensor]:
        """Return the states in the order of STATES."""
        return [self.main, *(self.states[name] for name in STATES[1:])]


class Training:
    """The model, the optimizer and the scheduler of one rank."""

    def __init__(self, job: OptimizerJob) -> None:
        self.model = model(job)
        self.job, distributed = job, job.use_distributed_optimizer
        settings = {"bf16": job.bf16, "params_dtype": job.dtype}
        config = OptimizerConfig(
            optimizer="adam", lr=LR, min_lr=LR / 10, weight_decay=WEIGHT_DECAY, clip_grad=0.0,
            use_distributed_optimizer=distributed, **settings,
        )  # fmt: skip
        overlapping = DistributedDataParallelConfig(
            use_distributed_optimizer=distributed,
            grad_reduce_in_fp32=job.bf16,
            overlap_grad_reduce=job.bucket_size is not None,
            bucket_size=job.bucket_size,
        )
        parallel = DistributedDataParallel(self.model.config, overlapping, self.model)
        self.optimizer = get_megatron_optimizer(config, [parallel])
        self.scheduler = OptimizerParamScheduler(
            self.optimizer, init_lr=0.0, max_lr=LR, min_lr=LR / 10, lr_warmup_steps=0,
            lr_decay_steps=1000, lr_decay_style="constant", start_wd=WEIGHT_DECAY,
            end_wd=WEIGHT_DECAY, wd_incr_steps=1000, wd_incr_style="constant",
        )  # fmt: skip

    @property
    def optimizers(self) -> list[Any]:
        """Return the distributed optimizers; a model with experts has two."""
        return list(getattr(self.optimizer, "chained_optimizers", [self.optimizer]))

    def fill(self) -> None:
        """Set every weight and every optimizer state to its value of the formula."""
        for key, param, index in self.weights():
            param.data.copy_(values(key, "param", index).view_as(param))
        for each in self.optimizers:
            for group in each.optimizer.param_groups:
                group["step"] = STEP
                for param in group["params"]:
                    states = {name: torch.empty_like(param) for name in STATES[1:]}
                    each.optimizer.state[param] = states
        for shard in self.shards():
            for held, state in zip(shard.held(), STATES, strict=True):
                held.data.copy_(values(shard.key, state, shard.index).view_as(held))

    def train(self, steps: int) -> None:
        """Train some steps with gradients that are those of the formula on every rank."""
        for _ in range(steps):
            for key, param, index in self.weights():
                param.main_grad.copy_(values(key, "grad", index).view_as(param))
            self.optimizer.step()
            self.scheduler.step(1)

    def weights(self) -> Iterator[tuple[str, torch.nn.Parameter, torch.Tensor]]:
        """Yield the stored name, the parameter and the global indices of each weight."""
        params = {id(param): param for param in self.model.parameters()}
        for entry in self.model.sharded_state_dict().values():
            if id(getattr(entry, "data", None)) in params:
                yield entry.key, entry.data, global_index(entry)

    def shards(self) -> Iterator[OptimizerShard]:
        """Yield what this rank has of the optimizer states."""
        for key, param, index in self.weights():
            for each in self.optimizers:
                if not self.job.use_distributed_optimizer:
                    yield OptimizerShard(key, param, index, param, each.optimizer.state[param])
                elif param in each.model_param_group_index_map:
                    number, position = each.model_param_group_index_map[param]
                    main = each.optimizer.param_groups[number]["params"][position]
                    part = each._get_model_param_range_map(param)["param"]
                    states = each.optimizer.state[main]
                    yield OptimizerShard(key, param, index[part.start : part.end], main, states)


def model(job: OptimizerJob) -> GPTModel:
    """Return the model of this rank; its weights are not initialized.

    Its attention, which is not used, does not support context parallelism, and no weight depends on
    that.
    """
    config = TransformerConfig(
        num_layers=job.layers,
        hidden_size=job.hidden,
        num_attention_heads=4,
        ffn_hidden_size=4 * job.hidden,
        num_moe_experts=job.experts or None,
        add_bias_linear=not (job.swiglu or job.experts),
        gated_linear_unit=job.swiglu,
        activation_func=torch.nn.functional.silu if job.swiglu else torch.nn.functional.gelu,
        bf16=job.bf16,
        params_dtype=job.dtype,
        pipeline_dtype=job.dtype,
        tensor_model_parallel_size=job.tensor_parallel,
        pipeline_model_parallel_size=job.pipeline_parallel,
        expert_model_parallel_size=job.expert_parallel,
        use_cpu_initialization=True,
        perform_initialization=False,
    )
    made = GPTModel(
        config,
        get_gpt_layer_local_spec(num_experts=job.experts or None, moe_grouped_gemm=False),
        vocab_size=32,
        max_sequence_length=8,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=job.tied_embedding,
        position_embedding_type="none",
    )
    return made.to(job.dtype)


def global_index(entry: ShardedTensor | ShardedTensorFactory) -> torch.Tensor:
    """Return the global row-major index of each element of a local parameter, flattened.

    A factory splits the parameter (SwiGLU: into its two halves); each part has its own offset.
    """
    positions = torch.arange(entry.data.numel()).view(entry.data.shape)
    if isinstance(entry, ShardedTensorFactory):
        parts = list(replace(entry, data=positions).build())
    else:
        parts = [replace(entry, data=positions, dtype=positions.dtype)]
    found = torch.full((positions.numel(),), -1)
    for part in parts:
        sizes = [1] * (len(part.global_shape) - part.data.dim()) + [*part.data.shape]
        index = torch.zeros(sizes, dtype=torch.int64)
        for axis, size in enumerate(sizes):
            along = part.global_offset[axis] + torch.arange(size)
            shape = [size if other == axis else 1 for other in range(len(sizes))]
            index = index * part.global_shape[axis] + along.view(shape)
        found[part.data.reshape(-1)] = index.reshape(-1)
    assert (found >= 0).all(), entry.key
    return found
