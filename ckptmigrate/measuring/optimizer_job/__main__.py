"""Training jobs of one Megatron-Core release with its real distributed optimizer, on a CPU.

A program for a separate process, with the release and ckptmigrate/measuring on PYTHONPATH. stdin is
a JSON list of jobs (see training.OptimizerJob). A job with `save` starts with the values of the
formula and saves `checkpoint`; every other job resumes from `checkpoint`. For each job, the program
prints a JSON line as training_job does. The outcome of a rank:

    {"rank": 0, "stage": "done", "error": null, "elements": 18848, "unequal": [], "groups": ...}

`elements` counts the elements of the weights and of this rank's optimizer states, each compared
with the formula bit by bit; a job with `no_load_optim` has only main parameters. `unequal` lists
[parameter, state, count] of those that differ. `groups` has the param groups of each optimizer.
With `step`, `resumed` is as in stepping.resume.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
from training_job import saving, stepping
from training_job.__main__ import run
from training_job.release import RELEASE, start_machine, start_ranks
from training_job.saving import ITERATION

from . import checkpoints
from .formula import LOSS_SCALE, STATES, trained
from .stand_ins import fit_in
from .training import OptimizerJob, Training


def rank_main(job: OptimizerJob, rank: int, store: str, outcome: dict[str, Any]) -> None:
    """Run one rank of a job."""
    fit_in()
    start_ranks(job, rank, store)
    machine, iterator = start_machine(), None
    training = Training(job)
    iteration = ITERATION + job.steps
    if job.save:
        training.fill()
    else:
        iteration = checkpoints.load(job, rank, training, machine, outcome)
        outcome["iteration"] = iteration
        if job.step:
            outcome["stage"] = "step"
            outcome["resumed"] = stepping.resume(machine, rank)
    training.train(job.train)
    iteration += job.train
    compare(job, training, outcome)
    path = job.checkpoint if job.save else job.again
    if path:
        outcome["stage"] = "save"
        if machine is not None:
            machine.current_iteration = iteration
        if job.save == "fault":
            machine.current_iteration = iteration - 2  # `fail` runs two steps
            iterator = stepping.fail(machine, rank, failing=rank == job.world_size - 1)
        state = saving.rerun(machine, iterator)
        checkpoints.save(job, rank, training, state, path, iteration)
    outcome["stage"] = "done"


def compare(job: OptimizerJob, training: Training, outcome: dict[str, Any]) -> None:
    """Compare every weight and every optimizer state of this rank with the formula.

    Without a loaded optimizer, the main parameters are copies of the weights.
    """
    steps = job.steps + job.train
    outcome["elements"], outcome["unequal"] = 0, []

    def compare_one(key: str, state: str, held: torch.Tensor, expected: torch.Tensor) -> None:
        unequal = int((bits(held) != bits(expected.to(held.dtype))).sum())
        outcome["elements"] += held.numel()
        if unequal:
            outcome["unequal"].append([key, state, unequal])

    for key, param, index in training.weights():
        expected, *_ = trained(key, index, steps, decays=param.dim() > 1)
        compare_one(key, "weight", param, expected)
    for shard in training.shards():
        states = trained(shard.key, shard.index, steps, decays=shard.param.dim() > 1)
        all_held = shard.held() if not job.no_load_optim else [shard.main]
        if job.no_load_optim:
            states = [states[0].to(job.dtype)]
        for state, held, expected in zip(STATES, all_held, states, strict=False):
            compare_one(shard.key, state, held, expected)
    if training.job.fp16:
        scales = {each.grad_scaler.scale.item() for each in training.optimizers}
        outcome["unequal"] += [["loss scale", "scale", 1]] if scales != {LOSS_SCALE} else []
    outcome["groups"] = [
        [
            {name: value for name, value in group.items() if name != "params"}
            for group in each.optimizer.param_groups
        ]
        for each in training.optimizers
    ]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the elements as integers, which differ where any bit does."""
    sizes = {2: torch.int16, 4: torch.int32}
    return tensor.detach().reshape(-1).contiguous().view(sizes[tensor.element_size()])


def main() -> None:
    """Run the jobs of stdin."""
    if RELEASE < (0, 11):
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # see training_job
    for job in json.load(sys.stdin):
        print(json.dumps(run(OptimizerJob(**job), rank_main)), flush=True)


if __name__ == "__main__":
    main()
