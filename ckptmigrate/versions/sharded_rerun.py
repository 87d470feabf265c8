"""Layout `sharded-rerun`, releases 0.10 and 0.11: the whole state in shards per (PP, TP) rank.

The common state has no `rerun_state_machine`. Source: core_v0.10.0 RerunStateMachine.state_dict.
"""

from __future__ import annotations

from typing import Any

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import IDLE, RerunRecord, StoredRerun, mode_member, state_member
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

ID = "sharded-rerun"
COMMON_IN_FILE = True
KEEPS_FAULTS = False

# Shard fields since 0.12 (core_v0.12.0).
_LATER_FIELDS = ("large_value_counts", "max_values")


def detect(facts: RerunFacts) -> str | None:
    """Match one rerun shard per (PP, TP) rank, and no `rerun_state_machine`."""
    if facts.common_in_file and facts.entry is None and len(facts.grid) == 2:
        return (
            f"one rerun shard per (PP, TP) rank ({_shape(facts)}), and common.pt has no "
            "rerun_state_machine"
        )
    return None


def read(manifest: Manifest) -> RerunRecord:
    """Read sharded-rerun into the record: mode, state and iteration are in the shards."""
    return grid_pp_tp.read(manifest, lambda payload: payload.get("mode"))


def write(record: RerunRecord, topology: Topology) -> StoredRerun:
    """Write the record as sharded-rerun, with mode, state and iteration in the shards."""

    def payload_of(fields: dict[str, Any]) -> dict[str, Any]:
        return {
            "mode": mode_member(record.mode or ""),
            "state": state_member(IDLE),
            "current_iteration": record.iteration,
            **{name: value for name, value in fields.items() if name not in _LATER_FIELDS},
            "last_loss": fields.get("last_loss"),
        }

    return StoredRerun(None, grid_pp_tp.place(record, topology, payload_of))


def _shape(facts: RerunFacts) -> str:
    return " x ".join(map(str, facts.grid))


# The fields that load_state_dict reads, in order; no other release writes all of them.
_FIELDS_READ = ("mode", "state", "current_iteration", "last_loss")


def predict_load(request: LoadRequest) -> LoadOutcome:
    """Return what a job of 0.10 or 0.11 does: it always requests the shards, with all fields."""
    if not request.same_grid or request.finetune:
        return LoadOutcome(without=context_of(request))
    missing = missing_key(request, request.grid)
    if missing:
        if request.lenient:
            return LoadOutcome(without=context_of(request))
        return LoadOutcome(
            True, missing, "the release always requests one rerun shard per (PP, TP) rank"
        )
    if reruns_disabled(request):
        return LoadOutcome(True, without=context_of(request))
    return predict_restore(request, _FIELDS_READ)
