"""Layout `none-emitting`, releases 0.14 to 0.17: a rerun state only if there is a fault.

Source: core_v0.14.0 RerunStateMachine.state_dict, which returns None while NOT_RUNNING_YET.
"""

from __future__ import annotations

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import Kind, RerunRecord, StoredRerun
from ckptmigrate.checkpoint.topology import Topology
from ckptmigrate.versions import grid_world
from ckptmigrate.versions.load_rules import LoadOutcome, LoadRequest
from ckptmigrate.versions.rerun_facts import RerunFacts

ID = "none-emitting"
COMMON_IN_FILE = True
KEEPS_FAULTS = True


def detect(facts: RerunFacts) -> str | None:
    """Match a common.pt without `rerun_state_machine`, or with that of a fault."""
    if not (facts.common_in_file and grid_world.fits(facts)):
        return None
    if facts.fault:
        return "common.pt records a fault, which requires one rerun shard per rank"
    if facts.entry is None:
        return "common.pt has no rerun_state_machine, as 0.14 to 0.17 write it while idle"
    return None


def read(manifest: Manifest) -> RerunRecord:
    """Read none-emitting into the record."""
    return grid_world.read(manifest)


def write(record: RerunRecord, topology: Topology) -> StoredRerun:
    """Write the record as none-emitting: a fault unchanged, otherwise nothing."""
    return grid_world.keep(record) if record.kind is Kind.FAULT else StoredRerun()


def predict_load(request: LoadRequest) -> LoadOutcome:
    """Return what a job does: it requests the shards of a fault if its parallelism is the same."""
    return grid_world.predict_load(request)
