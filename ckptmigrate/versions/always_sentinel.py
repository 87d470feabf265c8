"""Layout `always-sentinel`, release 0.18: the entry and the (WORLD,) grid are always there.

Source: core_v0.18.2 RerunStateMachine.state_dict (Megatron-LM pull request 4448), which
returns None only where reruns are disabled.
"""

from __future__ import annotations

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import MODE_DISABLED, Kind, RerunRecord, StoredRerun
from ckptmigrate.checkpoint.topology import Topology
from ckptmigrate.versions import grid_world
from ckptmigrate.versions.facts import RerunFacts
from ckptmigrate.versions.taking import Offer, Taking

ID = "always-sentinel"
COMMON_IN_FILE = True
KEEPS_FAULTS = True


def detect(facts: RerunFacts) -> str | None:
    """Common state in common.pt, and a rerun entry, or none and args with reruns disabled."""
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
    """- always-sentinel -> record."""
    return grid_world.read(manifest)


def write(record: RerunRecord, topology: Topology) -> StoredRerun:
    """- record -> always-sentinel: a fault as it is, nothing where disabled, else sentinels."""
    if record.kind is Kind.FAULT:
        return grid_world.keep(record)
    if record.kind is Kind.DISABLED:
        return StoredRerun()
    return grid_world.sentinel(record, topology)


def take(offer: Offer) -> Taking:
    """As none-emitting."""
    return grid_world.take(offer)
