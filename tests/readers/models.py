"""Load the model of a checkpoint with one real Megatron-Core release, as one process on a CPU.

Runs in a process of its own with a release on PYTHONPATH, and reads jobs from stdin as JSON:

    {"checkpoint": DIR, "strictness": POLICY, "with_extra_state": [NAME, ...]}
        loads a GPT model of the release's own layers as load_checkpoint of training does. Modules
        of these names have an _extra_state, as those of Transformer Engine do.

Tells one line of JSON per job: {"error": text or null, "received": {module: value}}.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import torch
import torch.distributed
from megatron.core import dist_checkpointing, parallel_state
from optimizer_job import stand_ins
from optimizer_job.training import OptimizerJob, model
from torch.distributed.checkpoint.api import CheckpointException
from training_job.output import told_error
from training_job.release import RELEASE


def load(job: dict[str, Any]) -> dict[str, Any]:
    """Load the weights and the _extra_state of a model."""
    received: dict[str, str] = {}
    made = model(OptimizerJob(job["checkpoint"]))
    for name, module in made.named_modules():
        if name.rpartition(".")[2] in job["with_extra_state"]:
            module.__class__ = with_extra_state(type(module), name, received)
    metadata = {}
    if RELEASE >= (0, 16):
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        metadata = {"metadata": {"dp_cp_group": group}}
    template = {"model": made.sharded_state_dict(**metadata)}
    loaded = dist_checkpointing.load(template, job["checkpoint"], strict=job["strictness"])
    if isinstance(loaded, tuple):  # the policies that return the keys that differ
        loaded = loaded[0]
    made.load_state_dict(loaded["model"], strict=True)
    return {"error": None, "received": received}


def with_extra_state(kind: type, name: str, received: dict[str, str]) -> type:
    """Return the class of a module with an _extra_state, which notes what it is given."""

    def set_extra_state(self: Any, state: Any) -> None:
        received[name] = repr(state)

    return type(
        kind.__name__,
        (kind,),
        {"get_extra_state": lambda self: torch.empty(0), "set_extra_state": set_extra_state},
    )


def main() -> None:
    """Run the jobs on stdin."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Megatron prints
    if RELEASE < (0, 11):
        # Written for torch before 2.6, which loaded common.pt without weights_only.
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    stand_ins.fit_in()
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=0, world_size=1
        )
        parallel_state.initialize_model_parallel()
        for job in json.load(sys.stdin):
            try:
                outcome = load(job)
            except (Exception, CheckpointException) as error:
                outcome = {"error": told_error(error), "received": {}}
            print(json.dumps(outcome), file=told, flush=True)
    os._exit(0)  # all is told; at an orderly end threads of torch's sometimes abort the process


if __name__ == "__main__":
    main()
