"""Layout `pre-rerun`, releases up to 0.9: no rerun state anywhere."""

from __future__ import annotations

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import RerunRecord, StoredRerun
from ckptmigrate.checkpoint.topology import Topology
from ckptmigrate.versions import grid_world
from ckptmigrate.versions.facts import RerunFacts
from ckptmigrate.versions.taking import Offer, Taking, lost

ID = "pre-rerun"
COMMON_IN_FILE = True
KEEPS_FAULTS = False


def detect(facts: RerunFacts) -> str | None:
    """Common state in common.pt, no rerun entry, no shard."""
    if facts.common_in_file and facts.entry is None and not facts.grid:
        return "no rerun entry in common.pt and no rerun shard"
    return None


def read(manifest: Manifest) -> RerunRecord:
    """- pre-rerun -> record: nothing but, in args, perhaps a mode."""
    return grid_world.read(manifest)


def write(record: RerunRecord, topology: Topology) -> StoredRerun:
    """- record -> pre-rerun: no entry, no shard."""
    return StoredRerun()


def take(offer: Offer) -> Taking:
    """Up to 0.9 no job asks for rerun state."""
    return Taking(without=lost(offer))
