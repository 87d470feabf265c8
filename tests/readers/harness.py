"""Take checkpoints as a training job of one Megatron-Core release does, and say what it holds.

A script for a process of its own, with the release on PYTHONPATH. It knows nothing of
ckptmigrate:

    PYTHONPATH=.readers/0.12.3 python tests/readers/harness.py < jobs.json

stdin is a JSON list of jobs (see Job). Each gives one JSON line on stdout, in order:

    {"checkpoint": ..., "reader": "0.12.3", "ranks": [{"rank": 0, "error": null, ...}, ...]}

What a rank tells is what `take` puts into its outcome. Every job gets fresh processes, one per
rank, as a real job does; they are forked, so that torch is imported once for all of them.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from signal import Signals
from typing import Any

# One thread per rank: the ranks share few cores, and idle OpenMP threads do not survive a fork.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ranks talk to each other on this machine only.
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import numpy as np
import torch
import torch.distributed
from megatron.core import dist_checkpointing, package_info, parallel_state
from megatron.core.dist_checkpointing import serialization
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
from megatron.core.dist_checkpointing.strategies import torch as torch_strategies
from megatron.core.transformer import enums
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

RELEASE: tuple[int, int] = package_info.VERSION[:2]
if RELEASE >= (0, 10):
    from megatron.core import rerun_state_machine
else:
    rerun_state_machine = None

RERUN = "rerun_state_machine"
RERUN_KEYS = "rerun_state_machine_state/"
SECONDS_PER_JOB = 120

# What a machine holds of a rerun, by the names of its attributes; no release has all of them.
# The error injector is an object of its own and is told by its state dict.
MACHINE_FIELDS = (
    "mode",
    "state",
    "current_iteration",
    "rerun_requested",
    "checkpoint_requested",
    "restart_again_requested",
    "continue_requested",
    "failed_validation_call",
    "initial_result",
    "suspicious_node",
    "suspicious_device",
    "data_iterator_checkpoints",
    "last_loss",
    "large_value_counts",
    "max_values",
)


@dataclass(frozen=True)
class Job:
    """A checkpoint, and the training job that resumes from it.

    Attributes:
        checkpoint: the directory of one iteration.
        tensor_parallel: and the other three: the sizes of the job, in ranks.
        strictness: its --dist-ckpt-strictness; here, Megatron's default.
        resolve_foreign_symbols: see `resolve_foreign_symbols`.
        stored_shapes: see `whole_entries`.
    """

    checkpoint: str
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    context_parallel: int = 1
    data_parallel: int = 1
    strictness: str = "assume_ok_unexpected"
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
    """Stand in for what a load calls on its way and a test machine lacks: a GPU, numpy < 2."""
    torch.cuda.synchronize = lambda *_: None
    torch.cuda.current_device = lambda: "cpu"
    if not hasattr(np, "product"):
        np.product = np.prod  # mapping.py; only flattened optimizer states get there


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


# -- what load_checkpoint does


def take(job: Job, rank: int, store: str, outcome: dict[str, Any]) -> None:
    """Resume from a checkpoint as one rank, and write down what came of it.

    Follows load_checkpoint in megatron/training/checkpointing.py of core_v0.9.0, core_v0.10.0,
    core_v0.12.0 and core_v0.14.0, from its first call to dist_checkpointing on. The model and
    the optimizer are left out: every tensor and object is asked for whole, by its key.

    Args:
        store: a file for the ranks to meet at.
        outcome: filled step by step, so that it tells how far an error let the load get.
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
    outcome["stage"] = "done"


def start_ranks(job: Job, rank: int, store: str) -> None:
    """Join the other ranks, and form the model parallel groups."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=job.world_size
    )
    parallel_state.initialize_model_parallel(
        job.tensor_parallel, job.pipeline_parallel, context_parallel_size=job.context_parallel
    )


def start_machine() -> Any:
    """The global machine of a job with --rerun-mode validate_results; None up to 0.9."""
    if rerun_state_machine is None:
        return None
    mode = rerun_state_machine.RerunMode.VALIDATE_RESULTS
    rerun_state_machine.initialize_rerun_state_machine(mode=mode)
    return rerun_state_machine.get_rerun_state_machine()


def rerun_template(job: Job, machine: Any, common: dict[str, Any]) -> Any:
    """What the job asks for of the rerun state, by the rule of this release; None for nothing."""
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
    """Put the loaded rerun state into the machine; 0.14 only does where it asked for one."""
    if RERUN in state_dict and (requested or RELEASE < (0, 14)):
        machine.load_state_dict(state_dict[RERUN])


def rerun_keys(rerun_state: Any) -> list[str]:
    """The keys of the sharded objects in a rerun template."""
    parts = rerun_state.values() if isinstance(rerun_state, dict) else [rerun_state]
    return [part.unique_key for part in parts if isinstance(part, ShardedObject)]


def whole_entries(job: Job, rank: int) -> dict[str, Any]:
    """A template for every tensor and object of a checkpoint but the rerun shards.

    Every rank asks for all of them. The replica ids make rank 0 the main one of each, so that
    the integrity check of a load, which a job makes too, finds each shard accessed once.

    Flattened optimizer states are asked for as a job does, in the shape of the parameter. With
    `stored_shapes` they are ordinary tensors instead, of the shape they are stored in.
    """
    entries = serialization.load_sharded_metadata(job.checkpoint)
    if job.stored_shapes:
        entries.update(stored_tensors(job.checkpoint))
    return {
        key: replace(entry, replica_id=rank)
        for key, entry in entries.items()
        if not key.startswith(RERUN_KEYS)
    }


def stored_tensors(checkpoint: str) -> dict[str, ShardedTensor]:
    """Templates for the tensors of a checkpoint in the shapes that `.metadata` has."""
    stored = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    return {
        key: ShardedTensor.from_rank_offsets(
            key, torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
        ).without_data()
        for key, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata)
    }


# -- telling values as JSON


def held(machine: Any) -> dict[str, Any]:
    """What a machine holds, under the names that checkpoints use."""
    fields = {name: getattr(machine, name) for name in MACHINE_FIELDS if hasattr(machine, name)}
    fields["error_injector_checkpoint"] = machine.error_injector.state_dict()
    told: dict[str, Any] = plain(fields)
    return told


def plain(value: Any) -> Any:
    """A value as JSON has it, comparable by content.

    Raises:
        TypeError: there is no rule for it; a text that hides a difference would be worse.
    """
    if isinstance(value, torch.Tensor):
        return ["tensor", str(value.dtype), value.tolist()]
    if isinstance(value, Enum):  # before str: some enums are strings too
        return [type(value).__name__, value.value]
    if isinstance(value, float) and value != value:
        return "nan"
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} among the loaded values")


def told_entries(entries: dict[str, Any]) -> tuple[dict[str, list[str]], list[str]]:
    """[dtype, digest of the bits] by tensor key, and the keys of the objects."""
    tensors, objects = {}, []
    for key, value in entries.items():
        if isinstance(value, torch.Tensor) and "/shard_" not in key:
            bits = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            tensors[key] = [str(value.dtype), hashlib.sha256(bits).hexdigest()]
        else:
            objects.append(key)
    return tensors, sorted(objects)


def told_error(error: BaseException) -> str:
    """What went wrong; of what torch gathers from all ranks, the first failure itself."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return f"{type(error).__name__}: {error}"


# -- processes


def rank_main(job: Job, rank: int, folder: Path) -> None:
    """The process of one rank: take the checkpoint, leave the outcome in a file."""
    os.dup2(2, 1)  # stdout is for the JSON lines of the parent alone, and Megatron prints
    outcome: dict[str, Any] = {"rank": rank, "stage": "start", "error": None}
    try:
        take(job, rank, str(folder / "store"), outcome)
    except (Exception, CheckpointException) as error:  # the latter is a bare BaseException
        outcome["error"] = told_error(error)
    told = folder / f"rank{rank}.tmp"
    told.write_text(json.dumps(outcome))
    told.rename(folder / f"rank{rank}.json")


def run(job: Job) -> dict[str, Any]:
    """Run a job to its end, or to its time limit."""
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ranks = [
            fork.Process(target=rank_main, args=(job, rank, place), daemon=True)
            for rank in range(job.world_size)
        ]
        for process in ranks:
            process.start()
        limit = time.monotonic() + SECONDS_PER_JOB
        for process in ranks:
            process.join(max(0.0, limit - time.monotonic()))
        for process in ranks:
            process.kill()
            process.join()
        return {
            "checkpoint": job.checkpoint,
            "reader": package_info.__version__,
            "ranks": [outcome_of(place, rank, ranks[rank]) for rank in range(job.world_size)],
        }


def outcome_of(folder: Path, rank: int, process: Any) -> dict[str, Any]:
    """What a rank left, or how it ended where it left nothing."""
    told = folder / f"rank{rank}.json"
    if told.exists():
        outcome: dict[str, Any] = json.loads(told.read_text())
        return outcome
    ending = f"ended with {process.exitcode} and told nothing (limit {SECONDS_PER_JOB} s)"
    return {"rank": rank, "stage": "unknown", "error": ending}


def main() -> None:
    """Run the jobs on stdin."""
    if RELEASE < (0, 11):
        # Written for torch before 2.6, which loaded common.pt without weights_only.
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    for job in json.load(sys.stdin):
        print(json.dumps(run(Job(**job))), flush=True)


if __name__ == "__main__":
    main()
