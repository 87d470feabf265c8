"""Ask one real Megatron-Core release for parts of a checkpoint, as one process.

Runs in a process of its own with a release on PYTHONPATH, and reads jobs from stdin as JSON:

    {"checkpoint": DIR, "objects": [[key, global shape, offset], ...]}
        asks for sharded objects, and tells the digest of each as torch saves it;
    {"checkpoint": DIR, "chained": {"parameters": {key: shape}, "flattened": bool}}
        asks for the states of two optimizers in one, by the rule of this release: its own
        ChainedOptimizer makes the template out of what each of the two would ask for;
    {"checkpoint": DIR, "flattened": {"key": KEY, "shape": shape, "range": [start, stop]}}
        asks for a flattened range of one optimizer state;
    {"checkpoint": DIR, "tensors": {key: shape}}
        asks for whole tensors.

Tells one line of JSON per job: {"digests": [...]}, {"keys": [...]} or {"error": text}.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tempfile
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import torch
import torch.distributed
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
from megatron.core.optimizer.optimizer import ChainedOptimizer
from torch.distributed.checkpoint.api import CheckpointException
from training_job.output import told_error
from training_job.release import RELEASE, fit_in


def objects(job: dict[str, Any]) -> dict[str, Any]:
    """Load sharded objects of a checkpoint."""
    template = {
        str(number): ShardedObject(key, None, tuple(shape), tuple(offset), replica_id=0)
        for number, (key, shape, offset) in enumerate(job["objects"])
    }
    loaded = dist_checkpointing.load(template, job["checkpoint"], validate_access_integrity=False)
    return {"digests": [digest(loaded[number]) for number in template]}


def digest(value: Any) -> str:
    """What torch saves of a value tells its content."""
    saved = io.BytesIO()
    torch.save([value], saved)
    return hashlib.sha256(saved.getvalue()).hexdigest()


def strict(job: dict[str, Any]) -> dict[str, Any]:
    """Load whole tensors with a policy: {"checkpoint": DIR, "strict": [POLICY, {key: shape}]}."""
    policy, shapes = job["strict"]
    template = {
        key: ShardedTensor.from_rank_offsets(key, torch.empty(shape))
        for key, shape in shapes.items()
    }
    dist_checkpointing.load(
        template, job["checkpoint"], validate_access_integrity=False, strict=policy
    )
    return {"keys": [*template]}


class Part:
    """One of the optimizers in a chain: the states of its own parameters."""

    is_stub_optimizer = False
    optimizer = SimpleNamespace(param_groups=[])
    config = None

    def __init__(self, parameters: dict[str, list[int]], *, flattened: bool) -> None:
        self.parameters = parameters
        self.flattened = flattened

    def sharded_state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        """What it would ask for, before the chain puts a prefix to it."""
        return {key: self.template(key, shape) for key, shape in self.parameters.items()}

    def template(self, key: str, shape: list[int]) -> ShardedTensor:
        if not self.flattened:
            return ShardedTensor.from_rank_offsets(key, torch.empty(shape))
        size = int(torch.Size(shape).numel())
        return ShardedTensor.from_rank_offsets_flat(
            key, torch.empty(size), tuple(shape), flattened_range=slice(0, size)
        )


def chained(job: dict[str, Any]) -> dict[str, Any]:
    """Load the states of a chain of two optimizers, which have every other parameter each."""
    asked = job["chained"]
    rows = list(asked["parameters"].items())
    chain = ChainedOptimizer(
        [Part(dict(rows[start::2]), flattened=asked["flattened"]) for start in (0, 1)]
    )
    common = dist_checkpointing.load_common_state_dict(job["checkpoint"])
    # From 0.13 on training passes what the checkpoint says of its content.
    metadata = {"metadata": common.get("content_metadata")} if RELEASE >= (0, 13) else {}
    template = {"optimizer": chain.sharded_state_dict({}, True, **metadata)}
    keys = [entry.key for part in template["optimizer"].values() for entry in part.values()]
    dist_checkpointing.load(template, job["checkpoint"], validate_access_integrity=False)
    return {"keys": keys}


def flattened(job: dict[str, Any]) -> dict[str, Any]:
    """Load a part of one flattened optimizer state."""
    asked = job["flattened"]
    part = slice(*asked["range"])
    data = torch.empty(part.stop - part.start)
    template = ShardedTensor.from_rank_offsets_flat(
        asked["key"], data, tuple(asked["shape"]), flattened_range=part
    )
    dist_checkpointing.load({"0": template}, job["checkpoint"], validate_access_integrity=False)
    return {"keys": [asked["key"]]}


def tensors(job: dict[str, Any]) -> dict[str, Any]:
    """Load whole tensors by their keys."""
    template = {
        key: ShardedTensor.from_rank_offsets(key, torch.empty(shape))
        for key, shape in job["tensors"].items()
    }
    dist_checkpointing.load(template, job["checkpoint"], validate_access_integrity=False)
    return {"keys": [*template]}


KINDS = {
    "objects": objects,
    "chained": chained,
    "flattened": flattened,
    "tensors": tensors,
    "strict": strict,
}


def main() -> None:
    """Run the jobs on stdin."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Megatron prints
    if RELEASE < (0, 11):
        # Written for torch before 2.6, which loaded common.pt without weights_only.
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    fit_in()
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=0, world_size=1
        )
        for job in json.load(sys.stdin):
            try:
                [kind] = job.keys() & KINDS.keys()
                outcome = KINDS[kind](job)
            except (Exception, CheckpointException) as error:
                outcome = {"error": told_error(error)}
            print(json.dumps(outcome), file=told, flush=True)
    os._exit(0)  # all is told; at an orderly end threads of torch's sometimes abort the process


if __name__ == "__main__":
    main()
