"""Training steps with the real rerun state machine: one that fails, and one that resumes it."""

from __future__ import annotations

import math
from typing import Any

import torch

from .release import rerun_state_machine

MESSAGE = "loss is NaN"


def fail(machine: Any, rank: int, *, failing: bool) -> Any:
    """Run two steps; the second finds a NaN loss, and finds it again in its rerun.

    The machine then requests a checkpoint, to rerun the step from it on another GPU.

    Args:
        failing: whether the loss of this rank is NaN.

    Returns:
        The data iterator, which the checkpoint saves.
    """
    microbatches = [{"tokens": torch.arange(rank, rank + 8)} for _ in range(2)]
    iterator = rerun_state_machine.RerunDataIterator(iter(microbatches))
    train(machine, iterator, loss=1.0)
    assert machine.should_checkpoint_and_exit()[:2] == (False, False)
    train(machine, iterator, loss=math.nan if failing else 1.0)
    save, stop, _ = machine.should_checkpoint_and_exit()
    assert (save, stop) == (True, True)
    return iterator


def resume(machine: Any, rank: int) -> list[Any]:
    """Run one more step after a resume, in which the rank that failed has the same result.

    If the machine finds its call again, the result is confirmed on another GPU and training
    continues. If it never finds the call, its state does not change and the job exits.

    Returns:
        Value of the state after the step, and whether the job has to exit.
    """
    iterator = rerun_state_machine.RerunDataIterator(iter([{"tokens": torch.arange(8)}] * 2))
    failing = machine.failed_validation_call is not None
    torch.cuda.current_device = lambda: "another"
    train(machine, iterator, loss=math.nan if failing else 1.0, fatal=False)
    _, stop, _ = machine.should_checkpoint_and_exit()
    return [machine.state.value, stop]


def train(machine: Any, iterator: Any, loss: float, *, fatal: bool = True) -> None:
    """Run a step: forward and backward as often as the machine requests, with one validation each.

    Args:
        fatal: whether a result that is rejected and then confirmed ends the job.

    Up to 0.13 the machine identifies a call by file and line, here those of this function.
    """
    while machine.should_run_forward_backward(iterator):
        next(iterator)
        machine.validate_result(
            torch.tensor(loss),
            lambda result: bool(torch.isnan(result)),
            MESSAGE,
            comparison_func=_differ,
            fatal=fatal,
        )


def _differ(first: Any, second: Any) -> float:
    """Return 0 if two results are equal (NaN equals NaN), else infinity."""
    return 0.0 if str(float(first)) == str(float(second)) else math.inf
