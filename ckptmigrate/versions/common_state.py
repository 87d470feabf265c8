"""Layout `common-state`, from release 0.19 on: `always-sentinel` without common.pt.

Source: save and load_common_state_dict of megatron/core/dist_checkpointing/serialization.py,
core_v0.19.0; the rerun state is that of always-sentinel.
"""

from __future__ import annotations

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import RerunRecord, StoredRerun
from ckptmigrate.checkpoint.topology import Topology
from ckptmigrate.versions import always_sentinel, grid_world
from ckptmigrate.versions.facts import RerunFacts
from ckptmigrate.versions.taking import Offer, Taking

ID = "common-state"
COMMON_IN_FILE = False
KEEPS_FAULTS = True


def detect(facts: RerunFacts) -> str | None:
    """The common state in a sharded object."""
    if not facts.common_in_file and grid_world.fits(facts):
        return "the common state in the sharded object common_state, no common.pt"
    return None


def read(manifest: Manifest) -> RerunRecord:
    """- common-state -> record."""
    return grid_world.read(manifest)


def write(record: RerunRecord, topology: Topology) -> StoredRerun:
    """- record -> common-state: as always-sentinel."""
    return always_sentinel.write(record, topology)


def take(offer: Offer) -> Taking:
    """As none-emitting."""
    return grid_world.take(offer)
