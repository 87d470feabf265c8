"""The release and the machine of a training job, for loads and saves."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from enum import Enum
from signal import Signals
from typing import Any

# One thread per rank: ranks share few cores, and idle OpenMP threads do not survive a fork.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The ranks communicate only on this machine.
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
class TrainingJob:
    """A checkpoint, and the training job that resumes from it or saves it.

    Attributes:
        checkpoint: the directory of one iteration.
        tensor_parallel, pipeline_parallel, context_parallel, data_parallel: sizes in ranks.
        expert_parallel: a divisor of the data parallel size.
        save: the scenario to save (see saving.py); empty to resume.
        strictness: --dist-ckpt-strictness of the job; the default is that of Megatron.
        no_load_optim: whether the job runs with --no-load-optim.
        step: whether the job trains one more step after it resumed (see stepping.py).
        resolve_foreign_symbols: see `resolve_foreign_symbols`.
        stored_shapes: see `loading.whole_entries`.
    """

    checkpoint: str
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    context_parallel: int = 1
    data_parallel: int = 1
    expert_parallel: int = 1
    save: str = ""
    strictness: str = "assume_ok_unexpected"
    no_load_optim: bool = False
    step: bool = False
    resolve_foreign_symbols: bool = False
    stored_shapes: bool = False

    @property
    def model_parallel(self) -> tuple[int, int]:
        """Return the (TP, PP) sizes that every release compares before it loads the rerun state."""
        return self.tensor_parallel, self.pipeline_parallel

    @property
    def world_size(self) -> int:
        """Return the number of ranks."""
        sizes = (*self.model_parallel, self.context_parallel, self.data_parallel)
        return math.prod(sizes)


# -- replacements for what this machine lacks, and globals of other releases


def fit_in() -> None:
    """Replace what a job calls and a test machine lacks: a GPU, and numpy before 2."""
    on_host = torch.tensor

    def tensor(*args: Any, device: Any = None, **options: Any) -> torch.Tensor:
        return on_host(*args, **options)  # the rerun state machine reduces its flags on "cuda"

    torch.tensor = tensor
    torch.cuda.synchronize = lambda *_: None
    torch.cuda.current_device = lambda: "cpu"
    torch.cuda.get_rng_state = torch.get_rng_state
    torch.cuda.set_rng_state = torch.set_rng_state
    if RELEASE < (0, 13):
        filesystem_async._write_item = _write_item_of_its_day
    if not hasattr(np, "product"):
        np.product = np.prod  # called in mapping.py, only for flattened optimizer states


def _write_item_of_its_day(*args: Any) -> Any:
    """Call `_write_item` of torch with the arguments of releases before 0.13.

    Parameters that torch added later get values that keep the earlier behavior.
    """
    transforms = () if len(args) == 5 else (filesystem._StorageWriterTransforms(),)
    return filesystem._write_item(*transforms, *args, filesystem.SerializationFormat.TORCH_SAVE)


# Enums in args (in the common state) that later releases added. Members count from 1.
FOREIGN_ENUMS = {
    "AttnBackend": ("flash", "fused", "unfused", "local", "auto"),  # since 0.11
    "InferenceCudaGraphScope": ("none", "layer", "block"),  # since 0.18
}


def resolve_foreign_symbols() -> None:
    """Add globals that other releases pickle to this release and to its allow-list.

    A test uses it to examine the rerun state and the tensors of a checkpoint that such a global
    alone would prevent from loading. It adds only names that the release lacks, and does not
    change what the release does:

    - enums in args, to `megatron.core.transformer.enums`;
    - MCoreMetadata, the class of `.metadata` in 0.15 only, whose fields every release before 0.16
      knows;
    - these enums and `signal.Signals` (in args since 0.16), to the allow-list of torch, for
      releases that load the common state with weights_only.
    """
    for name, members in FOREIGN_ENUMS.items():
        if not hasattr(enums, name):
            setattr(enums, name, Enum(name, members, module=enums.__name__))
    if not hasattr(torch_strategies, "MCoreMetadata"):
        foreign = type("MCoreMetadata", (Metadata,), {"__module__": torch_strategies.__name__})
        torch_strategies.MCoreMetadata = foreign
    torch.serialization.add_safe_globals([Signals, *(getattr(enums, n) for n in FOREIGN_ENUMS)])


def start_ranks(job: TrainingJob, rank: int, store: str) -> None:
    """Connect to the other ranks, and create the model parallel groups."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=job.world_size
    )
    parallel_state.initialize_model_parallel(
        job.tensor_parallel,
        job.pipeline_parallel,
        context_parallel_size=job.context_parallel,
        expert_model_parallel_size=job.expert_parallel,
    )


def start_machine(mode: str = "validate_results") -> Any:
    """Return the global rerun state machine of a job with this --rerun-mode; None up to 0.9."""
    if rerun_state_machine is None:
        return None
    rerun_state_machine.initialize_rerun_state_machine(
        mode=rerun_state_machine.RerunMode(mode), state_save_func=dict, state_restore_func=bool
    )
    return rerun_state_machine.get_rerun_state_machine()
