"""The data losses of migrations, each of which needs `--allow-loss NAME`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FAULT_CONTEXT: Final = "fault-context"
FOREIGN_SYMBOLS: Final = "foreign-symbols"
OPTIMIZER_STATE: Final = "optimizer-state"
RNG_STATE: Final = "rng-state"
INTEGRITY: Final = "integrity"
REPLICA_DIFFERENCE: Final = "replica-difference"
EXTRA_STATE: Final = "extra-state"


@dataclass(frozen=True)
class Loss:
    """A data loss that a user can allow.

    Attributes:
        loss: its name, for --allow-loss.
        meaning: its effect on the job.
        why: the reason why the data cannot be kept.
        since: the releases that it affects.
        source: the tag, file or sample of this fact.
    """

    loss: str
    meaning: str
    why: str
    since: str
    source: str


_LOSSES: Final = (
    Loss(
        FAULT_CONTEXT,
        "the recorded fault, such as a NaN loss, is dropped, and the job resumes as idle",
        "releases up to 0.13 identify the failing call by its source line, and lines differ "
        "between releases. In another release the call never matches, and every later resume "
        "exits.",
        "0.10 to 0.13, to or from any other layout; universal, from any layout; "
        "RERUNNING_IN_PLACE, in every release",
        "core_v0.13.1, core_v0.14.0 megatron/core/rerun_state_machine.py Caller",
    ),
    Loss(
        FOREIGN_SYMBOLS,
        "objects of other frameworks in the common state are replaced by their names",
        "a release cannot read the common state if it cannot import a global in it, or does not "
        "allow it",
        "every release",
        "core_v0.14.0 to core_v0.19.0 megatron/core/safe_globals.py SAFE_GLOBALS",
    ),
    Loss(
        OPTIMIZER_STATE,
        "the job cannot load the optimizer and must run with --no-load-optim",
        "the release does not support the sharding of the optimizer, and --optimizer convert was "
        "not requested or cannot convert it; or the optimizer was dropped on request",
        "across 0.10 and 0.11, 0.13 and 0.14, 0.14 and 0.15, 0.15 and 0.16",
        "optimizer_sharding and forms of compat_matrix.yaml, each with its source; "
        "sample 0.17.1-idle-dopt",
    ),
    Loss(
        RNG_STATE,
        "all data parallel and context parallel ranks resume with the RNG state of the first of "
        "them",
        "the checkpoint has an RNG state for every rank, in a (PP, TP, DP x CP) grid; the release "
        "loads one per (PP, TP) rank",
        "0.16 and Megatron-Bridge with expert parallelism, and Megatron-LM main "
        "since late August 2026",
        "core_v0.16.0, core_v0.16.1 megatron/training/checkpointing.py get_rng_state; Megatron-LM "
        "pull request 6858",
    ),
    Loss(
        INTEGRITY,
        "files whose hash differs from integrity.json are used",
        "the files were damaged or changed after the save, and the result records the hashes of "
        "their current bytes",
        ">=0.17.1",
        "core_v0.17.1 to core_v0.19.0 megatron/core/dist_checkpointing/validation.py "
        "verify_integrity_manifest",
    ),
    Loss(
        REPLICA_DIFFERENCE,
        "of parameters whose copies on several ranks differ, the optimizer states of the first "
        "copy are kept",
        "dp_reshardable and dp_zero_gather_scatter store the states of every copy of a replicated "
        "parameter, and the types that --optimizer convert writes store one",
        "0.9 to 0.19, dp_reshardable and dp_zero_gather_scatter",
        "core_v0.9.0, core_v0.15.3 megatron/core/optimizer/distrib_optimizer.py "
        "sharded_param_state_dp_zero; core_v0.15.3, core_v0.16.1 "
        "megatron/core/optimizer/distrib_optimizer.py sharded_param_state_dp_reshardable",
    ),
    Loss(
        EXTRA_STATE,
        "the FP8 state of Transformer Engine is dropped",
        "--extra-state drop was requested, and an object that it drops holds a state, or cannot be "
        "read. A job with FP8 then starts with new scaling factors.",
        "every release",
        "TransformerEngine v0.1 to v2.18 (get_extra_state of pytorch/module/base)",
    ),
)
LOSSES: Final = {row.loss: row for row in _LOSSES}
