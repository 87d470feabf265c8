"""Rules for what a job does with the rerun state of a checkpoint, per release.

Sources: load_checkpoint of megatron/training/checkpointing.py and RerunStateMachine.load_state_dict
at core_v0.9.0 to core_v0.19.0; the errors are those of samples/raw_matrix.json.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ckptmigrate.checkpoint.rerun import (
    MODE_DISABLED,
    STATES,
    Kind,
    RerunRecord,
    grid_size,
    positions,
    unique_key,
)
from ckptmigrate.versions.rerun_facts import RerunFacts

# Strictness modes that drop missing keys from the request instead of failing
# (core_v0.9.0 to core_v0.19.0 megatron/core/dist_checkpointing/validation.py StrictHandling).
LENIENT: Final = ("log_all", "return_all", "log_unexpected", "return_unexpected", "ignore_all")

# The error of torch's load planner for a missing object; the key follows.
MISSING: Final = "RuntimeError: Missing key in checkpoint state_dict: "
WITHOUT_CONTEXT: Final = "the fault context"


@dataclass(frozen=True)
class LoadRequest:
    """The facts of a checkpoint and of a job that loads it.

    Attributes:
        facts: the rerun facts of the checkpoint.
        record: the rerun state of the checkpoint.
        fields: the field names of the rerun state; empty if the checkpoint has none.
        grid: (PP, TP) of the job, in ranks.
        world: world size of the job, in ranks.
        same_grid: whether TP and PP of the job equal those of the checkpoint.
        same_job: whether TP, PP, world size and DP all equal those of the checkpoint.
        mode: the job's RerunMode value.
        finetune: whether the job starts from iteration 0 (--finetune, or a `release` checkpoint).
        lenient: whether the job drops missing keys from its request.
        same_release: whether the job's own minor release is the only possible writer.
    """

    facts: RerunFacts
    record: RerunRecord
    fields: frozenset[str]
    grid: tuple[int, int]
    world: int
    same_grid: bool
    same_job: bool
    mode: str
    finetune: bool
    lenient: bool
    same_release: bool


@dataclass(frozen=True)
class LoadOutcome:
    """The outcome of loading the rerun state.

    Attributes:
        requested: whether the job requests the rerun shards.
        error: the error that ends the job, or None.
        why: the reason for the error; empty if there is none.
        without: data of the checkpoint that the job resumes without.
        warning: what fails later, or None.
    """

    requested: bool = False
    error: str | None = None
    why: str = ""
    without: tuple[str, ...] = ()
    warning: str | None = None


def context_of(request: LoadRequest) -> tuple[str, ...]:
    """Return what a job that ignores the rerun state resumes without."""
    return (WITHOUT_CONTEXT,) if request.record.kind is Kind.FAULT else ()


def missing_key(request: LoadRequest, grid: tuple[int, ...]) -> str | None:
    """Return the error for the first requested rerun shard that is missing, or None."""
    if request.facts.grid == grid and len(request.facts.present) == grid_size(grid):
        return None
    present = request.facts.present if request.facts.grid == grid else frozenset()
    key = next(unique_key(p, grid) for p in positions(grid) if p not in present)
    return f"{MISSING}{key}."


def predict_restore(request: LoadRequest, fields_read: Iterable[str]) -> LoadOutcome:
    """Return the outcome of load_state_dict up to 0.13.

    Args:
        fields_read: the fields that load_state_dict reads, in order.
    """
    missing = next((name for name in fields_read if name not in request.fields), None)
    if missing is not None:
        return LoadOutcome(
            True,
            f"Unable to restore RerunMachine from checkpoint: '{missing}'",
            "the rerun shards have the fields of another release",
        )
    return predict_unresumable(request) or LoadOutcome(True, warning=_context_warning(request))


# What the first step of a job raises in a state that no release resumes from (measured with 0.14.0
# and 0.16.1; `should_run_forward_backward` has the same code for it in core_v0.10.0 to
# core_v0.19.0).
_AT_THE_FIRST_STEP: Final = {
    "INITIAL_RUN": "UnboundLocalError: cannot access local variable 'losses_reduced'",
    "RERUNNING_IN_PLACE": "TypeError: 'NoneType' object is not subscriptable",
    "RERUNNING_FROM_CHECKPOINT": "UnboundLocalError: cannot access local variable 'losses_reduced'",
    "RERUNNING_AGAIN_FROM_CHECKPOINT": "RuntimeError: Should not be here",
}


def predict_unresumable(request: LoadRequest) -> LoadOutcome | None:
    """Return the outcome for a fault in a state that no release resumes from; None for others."""
    if not request.record.is_unresumable:
        return None
    state = STATES[request.record.state or 0]
    why = (
        f"the release loads a fault in state {state} and fails at the first step: no release can "
        "resume"
    )
    return LoadOutcome(True, _AT_THE_FIRST_STEP[state], f"{why} from it")


def reruns_disabled(request: LoadRequest) -> bool:
    """Return whether the job runs with reruns disabled, so that it does not load a rerun state."""
    return request.mode == MODE_DISABLED


def _context_warning(request: LoadRequest) -> str | None:
    """Return the warning for a fault context up to 0.13 in a release that may not have written it.

    The context names callers by line number, and line numbers change in every minor release.
    """
    if request.record.kind is not Kind.FAULT or request.same_release:
        return None
    return (
        "the fault context identifies the failing call by its source line: unless this release "
        "wrote the checkpoint, the call never matches, and every later resume exits"
    )
