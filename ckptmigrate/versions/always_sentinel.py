"""Layout `always-sentinel`, release 0.18: a rerun state even if idle, with one shard per rank.

Source: core_v0.18.2 RerunStateMachine.state_dict (Megatron-LM pull request 4448), which
returns None only if reruns are disabled.
"""

from __future__ import annotations

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import MODE_DISABLED, Kind, RerunRecord, StoredRerun
from ckptmigrate.checkpoint.topology import Topology
from ckptmigrate.versions import grid_world
from ckptmigrate.versions.load_rules import LoadOutcome, LoadRequest
from ckptmigrate.versions.rerun_facts import RerunFacts

ID = "always-sentinel"
COMMON_IN_FILE = True
KEEPS_FAULTS = True


def detect(facts: RerunFacts) -> str | None:
    """Match a common.pt with `rerun_state_machine`, or without it if args disables reruns."""
    if not (facts.common_in_file and grid_world.fits(facts)):
        return None
    if facts.fault:
        return "common.pt records a fault, which requires one rerun shard per rank"
    if facts.entry is not None:
        return "common.pt has an idle rerun_state_machine, with one rerun shard per rank"
    if facts.argument_mode == MODE_DISABLED and not facts.grid:
        return "common.pt has no rerun_state_machine, as 0.18 writes it with reruns disabled"
    return None


def read(manifest: Manifest) -> RerunRecord:
    """Read always-sentinel into the record."""
    return grid_world.read(manifest)


def write(record: RerunRecord, topology: Topology) -> StoredRerun:
    """Write the record as always-sentinel.

    A fault is unchanged, disabled reruns give no rerun state, and an idle state gets idle shards.
    """
    if record.kind is Kind.FAULT:
        return grid_world.keep(record)
    if record.kind is Kind.DISABLED:
        return StoredRerun()
    return grid_world.sentinel(record, topology)


def predict_load(request: LoadRequest) -> LoadOutcome:
    """Return what a job does; the same as for none-emitting."""
    return grid_world.predict_load(request)
