"""What a training job does with the rerun state of a checkpoint: the rules, release by release.

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
from ckptmigrate.versions.facts import RerunFacts

# Strictness modes that drop what is missing from the request instead of failing
# (core_v0.9.0 to core_v0.19.0 megatron/core/dist_checkpointing/validation.py StrictHandling).
LENIENT: Final = ("log_all", "return_all", "log_unexpected", "return_unexpected", "ignore_all")

# How torch's load planner says that it finds no object, followed by the key.
MISSING: Final = "RuntimeError: Missing key in checkpoint state_dict: "
WITHOUT_CONTEXT: Final = "the fault context"


@dataclass(frozen=True)
class Offer:
    """A checkpoint in front of a job.

    Attributes:
        facts: its rerun facts.
        record: its rerun state.
        fields: the fields of a payload, by name; empty where there is no payload.
        grid: (PP, TP) of the job.
        world: WORLD of the job.
        same_grid: whether TP and PP are those of the checkpoint.
        same_job: whether WORLD and DP are, too.
        mode: the job's RerunMode value.
        finetune: whether it starts from iteration 0: with --finetune, or out of `release`.
        lenient: whether it drops missing keys from its request.
        same_release: whether the job's own minor release wrote the checkpoint, for certain.
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
class Taking:
    """What comes of it.

    Attributes:
        requested: whether the job asks for the rerun shards.
        error: the error that ends the job, or None.
        why: the reason in words, where there is an error.
        without: what the job resumes without, though the checkpoint has it.
        warning: what will go wrong later, or None.
    """

    requested: bool = False
    error: str | None = None
    why: str = ""
    without: tuple[str, ...] = ()
    warning: str | None = None


def lost(offer: Offer) -> tuple[str, ...]:
    """What a job that ignores the rerun state resumes without."""
    return (WITHOUT_CONTEXT,) if offer.record.kind is Kind.FAULT else ()


def missing_key(offer: Offer, grid: tuple[int, ...]) -> str | None:
    """The error where the checkpoint lacks shards of the grid that the job asks for."""
    if offer.facts.grid == grid and len(offer.facts.present) == grid_size(grid):
        return None
    present = offer.facts.present if offer.facts.grid == grid else frozenset()
    key = next(unique_key(p, grid) for p in positions(grid) if p not in present)
    return f"{MISSING}{key}."


def restored(offer: Offer, looked_up: Iterable[str]) -> Taking:
    """What comes of load_state_dict through 0.13, given the fields that it looks up, in order."""
    missing = next((name for name in looked_up if name not in offer.fields), None)
    if missing is not None:
        return Taking(
            True,
            f"Unable to restore RerunMachine from checkpoint: '{missing}'",
            "the rerun payload is that of another release",
        )
    return stuck(offer) or Taking(True, warning=_foreign_context(offer))


# What the first step of a job raises in a state that no release resumes from (run with 0.14.0 and
# 0.16.1; `should_run_forward_backward` of core_v0.10.0 to core_v0.19.0 is the same there).
_AT_THE_FIRST_STEP: Final = {
    "INITIAL_RUN": "UnboundLocalError: cannot access local variable 'losses_reduced'",
    "RERUNNING_IN_PLACE": "TypeError: 'NoneType' object is not subscriptable",
    "RERUNNING_FROM_CHECKPOINT": "UnboundLocalError: cannot access local variable 'losses_reduced'",
    "RERUNNING_AGAIN_FROM_CHECKPOINT": "RuntimeError: Should not be here",
}


def stuck(offer: Offer) -> Taking | None:
    """How a job ends that takes over a fault in a state that no release resumes from."""
    if not offer.record.stuck:
        return None
    state = STATES[offer.record.state or 0]
    why = f"it loads a fault in state {state}, and fails at the first step: no release resumes"
    return Taking(True, _AT_THE_FIRST_STEP[state], f"{why} from it")


def disabled(offer: Offer) -> bool:
    """Whether the job itself runs without reruns, and so leaves its machine alone."""
    return offer.mode == MODE_DISABLED


def _foreign_context(offer: Offer) -> str | None:
    """What comes of a fault context up to 0.13 in another release than the one that wrote it:
    the line numbers of the callers move with every minor release."""
    if offer.record.kind is not Kind.FAULT or offer.same_release:
        return None
    return (
        "the fault context names its call by the line numbers of the release that wrote it, which "
        "is not certainly this one: elsewhere it never matches, and every later resume exits"
    )
