"""Layout `always-sentinel`, release 0.18: a rerun state even if idle, with one shard per rank.

Source: core_v0.18.2 RerunStateMachine.state_dict (Megatron-LM pull request 4448), which
returns None only if reruns are disabled.
"""

from __future__ import annotations

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import MODE_DISABLED, Kind, RerunRecord, StoredRerun
from ckptmigrate.checkpoint.topology import Topology
from ckptmigrate.versions import grid_world
from ckptmigrate.versions.load_rules import Offer, Taking
from ckptmigrate.versions.rerun_facts import RerunFacts

ID = "always-sentinel"
COMMON_IN_FILE = True
KEEPS_FAULTS = True


def detect(facts: RerunFacts) -> str | None:
    """Match a common.pt with `rerun_state_machine`, or without it if args disables reruns."""
    if not (facts.common_in_file and grid_world.fits(facts)):
        return None
    if facts.fault:
        return "a rerun entry of a fault in common.pt, rerun shards in a (WORLD,) grid"
    if facts.entry is not None:
        return "an idle rerun entry in common.pt, rerun shards in a (WORLD,) grid"
    if facts.argument_mode == MODE_DISABLED and not facts.grid:
        return "no rerun entry in common.pt, as release 0.18 writes with reruns disabled"
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


def take(offer: Offer) -> Taking:
    """Return what a job does; the same as for none-emitting."""
    return grid_world.take(offer)
