"""Reading and writing of the rerun state for the layouts with one rerun shard per rank."""

from __future__ import annotations

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import (
    IDLE,
    MODE_DISABLED,
    Kind,
    RerunRecord,
    Shard,
    StoredRerun,
    idle_shard,
    iteration_value,
    mode_member,
    mode_value,
    parse_unique_key,
    state_member,
    state_value,
    unique_key,
)
from ckptmigrate.checkpoint.topology import Topology, derive
from ckptmigrate.errors import RefusedError
from ckptmigrate.versions.load_rules import (
    LoadOutcome,
    LoadRequest,
    context_of,
    missing_key,
    predict_unresumable,
    reruns_disabled,
)
from ckptmigrate.versions.rerun_facts import RerunFacts, gather, read_payload


def fits(facts: RerunFacts) -> bool:
    """Return whether the rerun shards, if any, are stored one per rank."""
    return len(facts.grid) <= 1 and facts.entry_fields != ("mode",)


def read(manifest: Manifest) -> RerunRecord:
    """Read `rerun_state_machine` of the common state and the rerun shards, or their absence.

    Raises:
        DamagedError: a shard cannot be read, or no release writes a value of
            `rerun_state_machine`.
    """
    facts = gather(manifest)
    if facts.entry is None:
        if facts.argument_mode is None:
            return RerunRecord(Kind.ABSENT)
        disabled = facts.argument_mode == MODE_DISABLED
        return RerunRecord(Kind.DISABLED if disabled else Kind.IDLE, facts.argument_mode)
    state = state_value(facts.entry["state"])
    grid = facts.grid
    if facts.fault and not grid:
        grid = _promised_grid(manifest)
    missing = facts.missing(grid)
    mode = mode_value(facts.entry["mode"])
    iteration = iteration_value(facts.entry["current_iteration"])
    if missing and facts.fault:
        return RerunRecord(Kind.CORRUPT, mode, state, iteration, facts.entry, grid, missing=missing)
    shards: dict[tuple[int, ...], Shard] = {}
    for key in manifest.rerun_keys:
        position = parse_unique_key(key)
        payload, file = read_payload(manifest, key)
        assert position is not None  # gather() refuses other keys
        shards[position[0]] = Shard(payload, payload, file)
    kind = Kind.IDLE if state == IDLE else Kind.FAULT
    return RerunRecord(kind, mode, state, iteration, facts.entry, grid, shards, missing)


def _promised_grid(manifest: Manifest) -> tuple[int, ...]:
    """Return the global shape of the shards that a fault requires, to name the missing ones."""
    try:
        topology = derive(manifest)
    except RefusedError:
        return (1,)
    return (topology.world or topology.hint or 1,)


def keep(record: RerunRecord) -> StoredRerun:
    """Return the stored form of a rerun state, unchanged, one shard per rank."""
    return StoredRerun(
        record.entry,
        {
            unique_key(position, record.grid): (position[0], shard.fields, shard.file)
            for position, shard in record.shards.items()
        },
    )


def sentinel(record: RerunRecord, topology: Topology) -> StoredRerun:
    """Return an idle `rerun_state_machine` and one shard per rank, with new idle shards if missing.

    Raises:
        RefusedError: the world size is required and unknown.
    """
    there = len(record.grid) == 1 and bool(record.shards)
    if there and not record.missing:
        return keep(record)
    world = record.grid[0] if there else topology.require_world()
    fresh = idle_shard()
    entry = {
        "mode": mode_member(record.mode or ""),
        "state": state_member(IDLE),
        "current_iteration": record.iteration,
    }
    shards = {}
    for rank in range(world):
        shard = record.shards.get((rank,), fresh)
        shards[unique_key((rank,), (world,))] = (rank, shard.fields, shard.file)
    return StoredRerun(record.entry if there else entry, shards)


def predict_load(request: LoadRequest) -> LoadOutcome:
    """Return what a job of 0.14 or later does: it ignores an idle state and requests a fault."""
    if not request.facts.fault or not request.same_job or request.finetune:
        return LoadOutcome(without=context_of(request))
    missing = missing_key(request, (request.world,))
    if missing:
        return LoadOutcome(
            True, missing, "the common state records a fault, and its rerun shards are missing"
        )
    if reruns_disabled(request):
        return LoadOutcome(True, without=context_of(request))
    return predict_unresumable(request) or LoadOutcome(True)
