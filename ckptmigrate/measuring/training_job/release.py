"""What a training job needs of its release and of this machine, for loads and saves alike."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from enum import Enum
from signal import Signals
from typing import Any

# One thread per rank: the ranks share few cores, and idle OpenMP threads do not survive a fork.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ranks talk to each other on this machine only.
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import numpy as np
import torch
import torch.distributed
from megatron.core import package_info, parallel_state
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies import torch as torch_strategies
from megatron.core.transformer import enums
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.metadata import Metadata

RELEASE: tuple[int, int] = package_info.VERSION[:2]
if RELEASE >= (0, 10):
    from megatron.core import rerun_state_machine
else:
    rerun_state_machine = None


@dataclass(frozen=True)
class Job:
    """A checkpoint, and the training job that resumes from it or writes it.

    Attributes:
        checkpoint: the directory of one iteration.
        tensor_parallel: and the other three: the sizes of the job, in ranks.
        save: the scenario to save it in (see saving.py); empty to resume from it.
        strictness: its --dist-ckpt-strictness; here, Megatron's default.
        no_load_optim: whether it runs with --no-load-optim.
        step: whether it trains one more step once it has resumed (see stepping.py).
        resolve_foreign_symbols: see `resolve_foreign_symbols`.
        stored_shapes: see `loading.whole_entries`.
    """

    checkpoint: str
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    context_parallel: int = 1
    data_parallel: int = 1
    save: str = ""
    strictness: str = "assume_ok_unexpected"
    no_load_optim: bool = False
    step: bool = False
    resolve_foreign_symbols: bool = False
    stored_shapes: bool = False

    @property
    def model_parallel(self) -> tuple[int, int]:
        """What 'the same parallelism' means to every release."""
        return self.tensor_parallel, self.pipeline_parallel

    @property
    def world_size(self) -> int:
        """How many ranks it has."""
        sizes = (*self.model_parallel, self.context_parallel, self.data_parallel)
        return math.prod(sizes)


# -- what stands between a release and this machine, and symbols of other releases


def fit_in() -> None:
    """Stand in for what a job calls on its way and a test machine lacks: a GPU, numpy < 2."""
    on_host = torch.tensor

    def tensor(*args: Any, device: Any = None, **options: Any) -> torch.Tensor:
        return on_host(*args, **options)  # the rerun machine reduces its flags on "cuda"

    torch.tensor = tensor
    torch.cuda.synchronize = lambda *_: None
    torch.cuda.current_device = lambda: "cpu"
    torch.cuda.get_rng_state = torch.get_rng_state
    torch.cuda.set_rng_state = torch.set_rng_state
    if RELEASE < (0, 13):
        filesystem_async._write_item = _write_item_of_its_day
    if not hasattr(np, "product"):
        np.product = np.prod  # mapping.py; only flattened optimizer states get there


def _write_item_of_its_day(*args: Any) -> Any:
    """`_write_item` of torch as releases before 0.13 call it: what came later is as it was."""
    transforms = () if len(args) == 5 else (filesystem._StorageWriterTransforms(),)
    return filesystem._write_item(*transforms, *args, filesystem.SerializationFormat.TORCH_SAVE)


# Enums that later releases put into args, which lie in the common state. Members count from 1.
FOREIGN_ENUMS = {
    "AttnBackend": ("flash", "fused", "unfused", "local", "auto"),  # since 0.11
    "InferenceCudaGraphScope": ("none", "layer", "block"),  # since 0.18
}


def resolve_foreign_symbols() -> None:
    """Let this release name and allow what other releases pickle beside the rerun state.

    A test asks for it where such a symbol alone would end the load, so that the rerun state
    and the tensors can be looked at. It adds names where the release has none, and nothing to
    what the release does:

    - enums in args, to `megatron.core.transformer.enums`;
    - MCoreMetadata, the class of `.metadata` in 0.15 alone: what the fields of it mean is
      known to every release before 0.16;
    - those enums and `signal.Signals` (in args since 0.16), to the allow-list of torch, for
      releases that load the common state with weights_only.
    """
    for name, members in FOREIGN_ENUMS.items():
        if not hasattr(enums, name):
            setattr(enums, name, Enum(name, members, module=enums.__name__))
    if not hasattr(torch_strategies, "MCoreMetadata"):
        foreign = type("MCoreMetadata", (Metadata,), {"__module__": torch_strategies.__name__})
        torch_strategies.MCoreMetadata = foreign
    torch.serialization.add_safe_globals([Signals, *(getattr(enums, n) for n in FOREIGN_ENUMS)])


def start_ranks(job: Job, rank: int, store: str) -> None:
    """Join the other ranks, and form the model parallel groups."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=job.world_size
    )
    parallel_state.initialize_model_parallel(
        job.tensor_parallel, job.pipeline_parallel, context_parallel_size=job.context_parallel
    )


def start_machine(mode: str = "validate_results") -> Any:
    """The global machine of a job with this --rerun-mode; None up to 0.9."""
    if rerun_state_machine is None:
        return None
    rerun_state_machine.initialize_rerun_state_machine(
        mode=rerun_state_machine.RerunMode(mode), state_save_func=dict, state_restore_func=bool
    )
    return rerun_state_machine.get_rerun_state_machine()
