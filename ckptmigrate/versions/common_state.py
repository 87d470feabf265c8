"""Layout `common-state`, releases from 0.19: `always-sentinel` without common.pt.

The common state is a sharded object; the rerun state is the same as in always-sentinel.

Source: save and load_common_state_dict of megatron/core/dist_checkpointing/serialization.py,
core_v0.19.0.
"""

from __future__ import annotations

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import RerunRecord, StoredRerun
from ckptmigrate.checkpoint.topology import Topology
from ckptmigrate.versions import always_sentinel, grid_world
from ckptmigrate.versions.load_rules import LoadOutcome, LoadRequest
from ckptmigrate.versions.rerun_facts import RerunFacts

ID = "common-state"
COMMON_IN_FILE = False
KEEPS_FAULTS = True


def detect(facts: RerunFacts) -> str | None:
    """Match a common state that is a sharded object."""
    if not facts.common_in_file and grid_world.fits(facts):
        return "the common state is the sharded object common_state, and there is no common.pt"
    return None


def read(manifest: Manifest) -> RerunRecord:
    """Read common-state into the record."""
    return grid_world.read(manifest)


def write(record: RerunRecord, topology: Topology) -> StoredRerun:
    """Write the record as common-state; the rerun state is the same as in always-sentinel."""
    return always_sentinel.write(record, topology)


def predict_load(request: LoadRequest) -> LoadOutcome:
    """Return what a job does; the same as for none-emitting."""
    return grid_world.predict_load(request)
