"""Layout `sharded-rerun`, releases 0.10 and 0.11: the whole state in a (PP, TP) grid.

Source: core_v0.10.0 RerunStateMachine.state_dict. The common state says nothing.
"""

from __future__ import annotations

from typing import Any

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import IDLE, RerunRecord, StoredRerun, mode_member, state_member
from ckptmigrate.checkpoint.topology import Topology
from ckptmigrate.versions import grid_pp_tp
from ckptmigrate.versions.facts import RerunFacts
from ckptmigrate.versions.taking import (
    Offer,
    Taking,
    disabled,
    lost,
    missing_key,
    restored,
)

ID = "sharded-rerun"
COMMON_IN_FILE = True
KEEPS_FAULTS = False

# Payload fields that 0.12 brought (core_v0.12.0).
_LATER_FIELDS = ("large_value_counts", "max_values")


def detect(facts: RerunFacts) -> str | None:
    """A (PP, TP) grid, no rerun entry."""
    if facts.common_in_file and facts.entry is None and len(facts.grid) == 2:
        return f"rerun shards in a (PP, TP) grid of {_shape(facts)} and no rerun entry in common.pt"
    return None


def read(manifest: Manifest) -> RerunRecord:
    """- sharded-rerun -> record: mode, state and iteration come out of the payloads."""
    return grid_pp_tp.read(manifest, lambda payload: payload.get("mode"))


def write(record: RerunRecord, topology: Topology) -> StoredRerun:
    """- record -> sharded-rerun: mode, state and iteration go into the payloads."""

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


# What load_state_dict looks up, in order, and no other release writes all of.
_LOOKED_UP = ("mode", "state", "current_iteration", "last_loss")


def take(offer: Offer) -> Taking:
    """0.10 and 0.11 always ask for their grid, and need every field of it."""
    if not offer.same_grid or offer.finetune:
        return Taking(without=lost(offer))
    missing = missing_key(offer, offer.grid)
    if missing:
        if offer.lenient:
            return Taking(without=lost(offer))
        return Taking(True, missing, "it always asks for the (PP, TP) grid of rerun shards")
    if disabled(offer):
        return Taking(True, without=lost(offer))
    return restored(offer, _LOOKED_UP)
