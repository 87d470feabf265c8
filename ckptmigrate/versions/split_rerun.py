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
from ckptmigrate.versions.load_rules import Offer, Taking, disabled, lost, missing_key, restored
from ckptmigrate.versions.rerun_facts import RerunFacts

ID = "split-rerun"
COMMON_IN_FILE = True
KEEPS_FAULTS = False

_EARLIER_FIELD = "last_loss"  # removed in 0.12 (core_v0.12.0)


def detect(facts: RerunFacts) -> str | None:
    """Match a `rerun_state_machine` that has only the mode."""
    if facts.common_in_file and facts.entry_fields == ("mode",) and len(facts.grid) != 1:
        shape = " x ".join(map(str, facts.grid)) or "no shard at all"
        return f"a rerun entry with the mode alone, rerun shards in a (PP, TP) grid of {shape}"
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


_LOOKED_UP = ("state", "current_iteration", "large_value_counts", "max_values")


def take(offer: Offer) -> Taking:
    """Return what a job of 0.12 or 0.13 does.

    The job requests one shard per (PP, TP) rank if the common state has `rerun_state_machine`.
    """
    if offer.facts.entry is None:
        return Taking(without=lost(offer))
    unused = disabled(offer) or offer.record.mode == MODE_DISABLED
    if not offer.same_grid or offer.finetune:
        if unused:
            return Taking(without=lost(offer))
        return Taking(
            False,
            "KeyError: 'sharded' (with exit status 0)",
            "the rerun entry is taken up without the shards that belong to it",
        )
    missing = missing_key(offer, offer.grid)
    if missing:
        return Taking(
            True,
            missing,
            "it asks for a (PP, TP) grid of rerun shards where the common state has a rerun entry",
        )
    if unused:
        return Taking(True, without=lost(offer))
    return restored(offer, _LOOKED_UP)
