"""Layout `split-rerun`, releases 0.12 and 0.13: mode in the common state, rest per (PP, TP) rank.

Source: core_v0.12.0 RerunStateMachine.state_dict.
"""

from __future__ import annotations

from typing import Any

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import (
    COMMON_ENTRY,
    IDLE,
    MODE_DISABLED,
    Kind,
    RerunRecord,
    StoredRerun,
    mode_member,
    state_member,
    unique_key,
)
from ckptmigrate.checkpoint.topology import Topology
from ckptmigrate.versions import grid_pp_tp
from ckptmigrate.versions.load_rules import (
    LoadOutcome,
    LoadRequest,
    context_of,
    missing_key,
    predict_restore,
    reruns_disabled,
)
from ckptmigrate.versions.rerun_facts import RerunFacts

ID = "split-rerun"
COMMON_IN_FILE = True
KEEPS_FAULTS = False

_EARLIER_FIELD = "last_loss"  # removed in 0.12 (core_v0.12.0)


def detect(facts: RerunFacts) -> str | None:
    """Match a `rerun_state_machine` that has only the mode."""
    if facts.common_in_file and facts.entry_fields == ("mode",) and len(facts.grid) != 1:
        shape = " x ".join(map(str, facts.grid)) or "none"
        return (
            "common.pt has a rerun_state_machine with the mode only, and one rerun shard per (PP, "
            f"TP) rank ({shape})"
        )
    return None


def read(manifest: Manifest) -> RerunRecord:
    """Read split-rerun into the record: mode from the common state, the rest from the shards."""
    entry = manifest.common.values[COMMON_ENTRY]
    if not manifest.rerun_keys:
        return RerunRecord(Kind.CORRUPT, entry=entry, missing=(unique_key((0, 0), (1, 1)),))
    return grid_pp_tp.read(manifest, lambda _: entry["mode"])


def write(record: RerunRecord, topology: Topology) -> StoredRerun:
    """Write the record as split-rerun: mode in the common state, the rest in the shards."""

    def payload_of(fields: dict[str, Any]) -> dict[str, Any]:
        return {
            "state": state_member(IDLE),
            "current_iteration": record.iteration,
            **{name: value for name, value in fields.items() if name != _EARLIER_FIELD},
            "large_value_counts": fields.get("large_value_counts", {}),
            "max_values": fields.get("max_values", {}),
        }

    return StoredRerun(
        {"mode": mode_member(record.mode or "")},
        grid_pp_tp.place(record, topology, payload_of),
    )


_FIELDS_READ = ("state", "current_iteration", "large_value_counts", "max_values")


def predict_load(request: LoadRequest) -> LoadOutcome:
    """Return what a job of 0.12 or 0.13 does.

    The job requests one shard per (PP, TP) rank if the common state has `rerun_state_machine`.
    """
    if request.facts.entry is None:
        return LoadOutcome(without=context_of(request))
    unused = reruns_disabled(request) or request.record.mode == MODE_DISABLED
    if not request.same_grid or request.finetune:
        if unused:
            return LoadOutcome(without=context_of(request))
        return LoadOutcome(
            False,
            "KeyError: 'sharded' (with exit status 0)",
            "rerun_state_machine is loaded without its rerun shards",
        )
    missing = missing_key(request, request.grid)
    if missing:
        return LoadOutcome(
            True,
            missing,
            "the common state contains rerun_state_machine, so the release requests one rerun "
            "shard per (PP, TP) rank, which the checkpoint does not have",
        )
    if unused:
        return LoadOutcome(True, without=context_of(request))
    return predict_restore(request, _FIELDS_READ)
