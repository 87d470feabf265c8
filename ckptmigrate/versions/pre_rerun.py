"""Layout `pre-rerun`, releases up to 0.9: no rerun state."""

from __future__ import annotations

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import RerunRecord, StoredRerun
from ckptmigrate.checkpoint.topology import Topology
from ckptmigrate.versions import grid_world
from ckptmigrate.versions.load_rules import LoadOutcome, LoadRequest, context_of
from ckptmigrate.versions.rerun_facts import RerunFacts

ID = "pre-rerun"
COMMON_IN_FILE = True
KEEPS_FAULTS = False


def detect(facts: RerunFacts) -> str | None:
    """Match a common.pt without `rerun_state_machine`, and no rerun shard."""
    if facts.common_in_file and facts.entry is None and not facts.grid:
        return "common.pt has no rerun_state_machine, and there are no rerun shards"
    return None


def read(manifest: Manifest) -> RerunRecord:
    """Read pre-rerun into the record: the mode, if args has one."""
    return grid_world.read(manifest)


def write(record: RerunRecord, topology: Topology) -> StoredRerun:
    """Write the record as pre-rerun: no `rerun_state_machine`, no shard."""
    return StoredRerun()


def predict_load(request: LoadRequest) -> LoadOutcome:
    """Return what a job up to 0.9 does: it requests no rerun state."""
    return LoadOutcome(without=context_of(request))
